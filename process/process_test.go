// Package process runs the program as a process of its own before a stand-in of the homeserver: with few files, on a full disk, with
// hostile clients, under load. It knows nothing of the program's code.
//
// process_test.go owns the built program, and the stores that it serves here.
package process

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e"
	"github.com/SmartMeshFoundation/matrix-regservice/e2e/daemon"
	"github.com/SmartMeshFoundation/matrix-regservice/e2e/standin"
)

const storeFile = "register.db"

// built is where the programs are.
var built string

func TestMain(m *testing.M) {
	os.Setenv("MATRIX_REGSERVICE_ENVIRONMENT", os.DevNull) // not this machine's, where the package is installed
	flag.Set("test.parallel", "4")                         // whatever the processors: those that run beside others mostly wait; -parallel says otherwise
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "matrix-regservice-process-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	built = dir
	return m.Run()
}

var (
	plain  = sync.OnceValues(func() (*e2e.Program, error) { return e2e.Build(context.Background(), filepath.Join(built, "plain")) })
	asThis = sync.OnceValues(func() (*e2e.Program, error) {
		if isRaced() {
			return e2e.Build(context.Background(), filepath.Join(built, "raced"), "-race")
		}
		return plain()
	})
)

// isRaced reports whether this test binary has the race detector.
func isRaced() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// plainProgram is the path of the program as it is built for operators, whose memory and speed are what they have.
func plainProgram(t testing.TB) string { return path(t, plain) }

// program is the path of the program, built with the race detector where this test is.
func program(t testing.TB) string { return path(t, asThis) }

func path(t testing.TB, build func() (*e2e.Program, error)) string {
	t.Helper()
	p, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return p.Path()
}

// runProgram runs a command in the directory and returns what it printed.
func runProgram(t testing.TB, dir string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.Command(program(t), args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// checkWhole reads the store of a daemon that has ended from end to end, and returns how many records it has.
func checkWhole(t testing.TB, dir string) (registered, pending int) {
	t.Helper()
	out, err := runProgram(t, t.TempDir(), "--datapath", dir, "backup", "copy.db")
	if _, scanErr := fmt.Sscanf(out, "wrote copy.db: %d registered, %d pending", &registered, &pending); err != nil || scanErr != nil {
		t.Fatalf("%v, %v: %s", err, scanErr, out)
	}
	return registered, pending
}

// makeStore makes a store with so many records in the directory, one in ten pending.
func makeStore(t testing.TB, dir string, count int) {
	t.Helper()
	backend := standin.New(t)
	d := daemon.Start(t, plainProgram(t), dir, backend.URL+standin.SharedSecretPath)
	register := func(count, want int) {
		var all sync.WaitGroup
		nodes := make(chan e2e.Registration)
		for range 16 {
			all.Go(func() {
				for node := range nodes {
					if got, err := d.Send(node); err != nil || got.Status != want {
						t.Errorf("got %d %s, %v, want %d", got.Status, got.Body, err, want)
					}
				}
			})
		}
		for range count {
			nodes <- daemon.NewNode(t)
		}
		close(nodes)
		all.Wait()
	}
	register(count-count/10, 200)
	backend.Fail(standin.Register, standin.Breaks)
	register(count/10, 502)
	if code := d.Stop(); code != 0 {
		t.Fatalf("exit %d: %s", code, d.Log())
	}
	if registered, pending := checkWhole(t, dir); registered != count-count/10 || pending != count/10 {
		t.Fatalf("the store has %d registered, %d pending", registered, pending)
	}
}

// copyStore copies the file of a store into a directory.
func copyStore(t testing.TB, from, dir string) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(from, storeFile))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, storeFile), content, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// writeTemp writes a file of that content, and returns its path.
func writeTemp(t testing.TB, content string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Where few files may be open fewer connections are held, so that one can give way to a node's and the homeserver can be
// asked. Without it the first to fill them shuts every node out, for as long as he likes.
func TestFewFiles(t *testing.T) {
	few := filepath.Join(t.TempDir(), "few")
	if err := os.WriteFile(few, []byte("#!/bin/sh\nulimit -n 300\nexec "+program(t)+" \"$@\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	d := daemon.Start(t, few, t.TempDir(), standin.New(t).URL+standin.SharedSecretPath)
	host := strings.TrimSuffix(strings.TrimPrefix(d.URL, "http://"), daemon.RegisterPath)
	for range 400 {
		conn, err := net.DialTimeout("tcp", host, daemon.Patience)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		io.WriteString(conn, "POST "+daemon.RegisterPath+" HTTP/1.1\r\nHost: x\r\n")
	}
	if got := d.MustSend(daemon.NewNode(t)); got.Status != 200 {
		t.Errorf("got %d %s", got.Status, got.Body)
	}
	daemon.Eventually(t, "the log has Holding fewer connections", func() bool { return strings.Contains(d.Log(), "Holding fewer connections") })
	if said := d.Log(); strings.Contains(said, "too many open files") {
		t.Errorf("the log: %s", said)
	}
}
