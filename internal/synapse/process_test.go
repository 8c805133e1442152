// process_test.go owns the tests of finding the Synapse process that listens.

package synapse

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
)

// As a process with a user's number in this variable the test binary listens as that user, and says where, until its input ends.
const listenHere = "SYNAPSE_TEST_LISTEN"

func TestMain(m *testing.M) {
	if os.Getenv(listenHere) == "" {
		os.Exit(m.Run())
	}
	uid, err := strconv.Atoi(os.Getenv(listenHere))
	if err == nil && uid != os.Getuid() {
		err = errors.Join(syscall.Setgroups([]int{uid + 1}), syscall.Setgid(uid), syscall.Setuid(uid))
	}
	l, listenErr := net.Listen("tcp", "127.0.0.1:0")
	if err := errors.Join(err, listenErr); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(l.Addr().(*net.TCPAddr).Port)
	io.Copy(io.Discard, os.Stdin)
}

// start starts a process that listens, under this command line and in this directory, and returns its port and its id.
func start(t *testing.T, dir string, uid int, args ...string) (port, pid int) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Args, cmd.Dir, cmd.Env = args, dir, append(os.Environ(), listenHere+"="+strconv.Itoa(uid))
	if _, err := cmd.StdinPipe(); err != nil { // which ends with this process, if that is killed
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	port, err = strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	return port, cmd.Process.Pid
}

var needRoot = need.Missing{What: "root, to be another user", Cure: "run the tests as root"}

func needProc(t *testing.T) {
	t.Helper()
	if _, err := os.Stat("/proc/net/tcp"); err != nil {
		need.Skip(t, need.Missing{What: "/proc", Cure: "run the tests on Linux"})
	}
}

// Of a process that listens is told which settings it has, in its own directory.
func TestListening(t *testing.T) {
	needProc(t)
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	text := ""
	for _, name := range []string{"homeserver.yaml", "conf.d/a.yaml"} {
		plant(t, filepath.Join(dir, name), &text)
	}
	homeserver, confD := filepath.Join(dir, "homeserver.yaml"), filepath.Join(dir, "conf.d")
	for _, test := range []struct {
		name    string
		args    []string
		dir     string
		want    []string
		isError bool
	}{
		{"Debian's unit", []string{"/usr/bin/python3", "-m", "synapse.app.homeserver", "--config-path=" + homeserver, "--config-path=" + confD + "/"}, "/", []string{homeserver, confD + "/"}, false},
		{"synctl", []string{"python", "-m", "synapse.app.homeserver", "-D", "-c", "homeserver.yaml"}, dir, []string{homeserver}, false},
		{"a script", []string{"python3.11", "-u", "/opt/bin/synapse_homeserver", "-c" + homeserver}, dir, []string{homeserver}, false},
		{"short", []string{"python3", "-m", "synapse.app.homeserver", "--config-p", "homeserver.yaml", "-c=conf.d"}, dir, []string{homeserver, confD}, false},
		{"a relative path, in a directory that is not told", []string{"python3", "-m", "synapse.app.homeserver", "-c", "homeserver.yaml"}, "/", []string{"homeserver.yaml"}, true},
		{"settings that are not here", []string{"python3", "-m", "synapse.app.homeserver", "-c", "/data/nowhere/homeserver.yaml"}, dir, []string{"/data/nowhere/homeserver.yaml"}, true},
		{"no settings", []string{"python3", "-m", "http.server"}, dir, nil, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			port, pid := start(t, test.dir, os.Getuid(), test.args...)
			got, err := Listening(port)
			if !slices.Equal(got.Configs, test.want) || (err != nil) != test.isError || got.PID != pid || got.User.UID != os.Getuid() || !got.User.IsKnown() {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}

// What does not listen there is not taken for what does, and no other program is taken for Synapse.
func TestNotListening(t *testing.T) {
	needProc(t)
	dir := t.TempDir()
	port, _ := start(t, dir, os.Getuid(), "nginx", "-c", "homeserver.yaml")
	if got, err := Listening(port); !errors.Is(err, ErrNoProcess) {
		t.Errorf("another program: got %+v, %v", got, err)
	}
	start(t, dir, os.Getuid(), "python3", "-m", "synapse.app.homeserver", "-c", "homeserver.yaml")
	if got, err := Listening(port); !errors.Is(err, ErrNoProcess) {
		t.Errorf("another port: got %+v, %v", got, err)
	}
}

// Whose a process is, is told to everybody; which of its user's it is, to its user and root.
func TestListeningOfAnother(t *testing.T) {
	needProc(t)
	if os.Getuid() != 0 {
		need.Skip(t, needRoot)
	}
	const its = 54321
	text := ""
	dir := openDir(t)
	plant(t, filepath.Join(dir, "homeserver.yaml"), &text)
	port, pid := start(t, "/", its, "python3", "-m", "synapse.app.homeserver", "-c", filepath.Join(dir, "homeserver.yaml"))
	got, err := Listening(port)
	if err != nil || got.PID != pid || got.User.UID != its || !slices.Contains(got.User.GIDs, its) || !slices.Contains(got.User.GIDs, its+1) {
		t.Errorf("root: got %+v, %v", got, err)
	}
	asAnother(t, func() {
		if got, err := Listening(port); err != nil || got.PID != pid || got.User.UID != its {
			t.Errorf("another user: got %+v, %v", got, err)
		}
	})
	second, _ := start(t, "/", its, "python3", "-m", "synapse.app.homeserver", "-c", "/elsewhere/homeserver.yaml")
	if got, err := Listening(second); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("root, of two: got %+v, %v", got, err)
	}
	asAnother(t, func() {
		if got, err := Listening(port); !errors.Is(err, ErrHidden) || got.User.UID != its {
			t.Errorf("another user, of two: got %+v, %v", got, err)
		}
	})
}

// What is connected to the port, or listens at another, does not listen there.
func TestListeners(t *testing.T) {
	proc := t.TempDir()
	table := "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n" +
		"   0: 0100007F:1F47 00000000:0000 0A 00000000:00000000 00:00000000 00000000   101        0 1001 1 0 100 0 0 10 0\n" +
		"   1: 0100007F:1F47 0100007F:8B22 01 00000000:00000000 00:00000000 00000000   102        0 1002 1 0 20 4 30 10 -1\n" +
		"   2: 0100007F:1F48 00000000:0000 0A 00000000:00000000 00:00000000 00000000   103        0 1003 1 0 100 0 0 10 0\n"
	plant(t, filepath.Join(proc, "net/tcp"), &table)
	six := "  sl  local_address remote_address st tx_queue rx_queue tr tm->when retrnsmt uid timeout inode\n" +
		"   0: 00000000000000000000000001000000:1F47 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000   104        0 1004 1 0 100 0 0 10 0\n"
	plant(t, filepath.Join(proc, "net/tcp6"), &six)
	if got, want := listeners(proc, 8007), []socket{{"socket:[1001]", 101}, {"socket:[1004]", 104}}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// In a container a file of the same name is another.
func TestInContainer(t *testing.T) {
	dir, path := t.TempDir(), filepath.Join(t.TempDir(), "homeserver.yaml")
	text := ""
	plant(t, path, &text)
	p := Process{Dir: "/somewhere"}
	if err := p.isHere(dir, path); err != nil { // what the process sees may not be looked at
		t.Errorf("not seen: got %v", err)
	}
	plant(t, filepath.Join(dir, "root", path), &text)
	if err := p.isHere(dir, path); err == nil || !strings.Contains(err.Error(), "in a container") {
		t.Errorf("another file: got %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "root", path)); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(path, filepath.Join(dir, "root", path)); err != nil {
		t.Fatal(err)
	}
	if err := p.isHere(dir, path); err != nil {
		t.Errorf("the same file: got %v", err)
	}
}
