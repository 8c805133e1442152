// disk_linux_test.go owns what a full disk, a read-only one, or a store that is changed beneath it does to the
// program: the daemon, and the commands that write files.

package process

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e"
	"github.com/SmartMeshFoundation/matrix-regservice/e2e/daemon"
	"github.com/SmartMeshFoundation/matrix-regservice/e2e/disk"
	"github.com/SmartMeshFoundation/matrix-regservice/e2e/standin"
)

// The disk of the running daemon is full: a new node gets 503 and no account, a registered one gets 409, /readyz says so, and a
// restart answers the same. When there is room again, the daemon works without another restart.
func TestDiskFull(t *testing.T) {
	dir, backend := disk.Mount(t, 1<<20), standin.New(t)
	d := daemon.Start(t, program(t), dir, backend.URL+standin.SharedSecretPath)
	known := daemon.NewNode(t)
	if got := d.MustSend(known); got.Status != 200 {
		t.Fatalf("before: got %d %s", got.Status, got.Body)
	}
	empty := disk.Fill(t, dir, 0)

	var refused e2e.Registration
	for tries := 0; ; tries++ { // pages that are free within the file last for some
		proof := daemon.NewNode(t)
		got := d.MustSend(proof)
		if got.Status == 200 && tries < 500 {
			continue
		}
		if got.Status != 503 || got.Errcode != "M_UNKNOWN" || strings.Contains(got.Body, "space") {
			t.Fatalf("full: got %d %s", got.Status, got.Body)
		}
		refused = proof
		break
	}
	port := regexp.MustCompile(`:([0-9]+)/`)
	check := func(d *daemon.Process) {
		t.Helper()
		out, err := runProgram(t, t.TempDir(), "--matrixdomain", standin.ServerName, "--matrixurl", backend.URL+standin.SharedSecretPath, "--datapath", dir, "--port", port.FindStringSubmatch(d.URL)[1], "check", "--public-url", "http://127.0.0.1:1")
		if err == nil || !strings.Contains(out, "problem  service readiness: it can register no node now: the store cannot be written (") || !strings.Contains(out, "\n        df -h "+dir+"\n") {
			t.Errorf("full: check: %v %s", err, out)
		}
		if got := d.MustSend(refused); got.Status != 503 {
			t.Errorf("full: got %d %s", got.Status, got.Body)
		}
		if got := d.MustSend(known); got.Status != 409 {
			t.Errorf("full, known: got %d %s", got.Status, got.Body)
		}
		if got := d.Readiness(503); got != 503 {
			t.Errorf("full: /readyz answers %d", got)
		}
		elsewhere := t.TempDir() // the daemon makes its copy beside the store
		if out, err := runProgram(t, elsewhere, "--datapath", dir, "backup", "copy.db"); err == nil || !strings.Contains(out, syscall.ENOSPC.Error()) || strings.Count(out, "\n") != 1 || tree(t, elsewhere) != "" {
			t.Errorf("full: backup: %v %s", err, out)
		}
		daemon.Eventually(t, "the log says why", func() bool { return strings.Contains(d.Log(), syscall.ENOSPC.Error()) })
	}
	check(d)
	d.Kill()
	d = daemon.Start(t, program(t), dir, backend.URL+standin.SharedSecretPath)
	daemon.Eventually(t, "the start says that nobody can register", func() bool {
		return strings.Contains(d.Log(), "The store cannot be written: no node can register")
	})
	check(d)

	empty()
	if got := d.MustSend(refused); got.Status != 200 {
		t.Errorf("room again: got %d %s", got.Status, got.Body)
	}
	if got := d.Readiness(200); got != 200 {
		t.Errorf("room again: /readyz answers %d\n%s", got, d.Log())
	}
	if code := d.Stop(); code != 0 {
		t.Errorf("exit %d\n%s", code, d.Log())
	}
	checkWhole(t, dir)
}

// On a full disk nothing is half written: a first start leaves no store behind that the next would refuse, and the
// commands that write files leave none.
func TestDiskFullNothingHalfWritten(t *testing.T) {
	dir := disk.Mount(t, 1<<20)
	backup := filepath.Join(t.TempDir(), storeFile)
	stored := t.TempDir()
	makeStore(t, stored, 100)
	if out, err := runProgram(t, stored, "--datapath", stored, "backup", backup); err != nil {
		t.Fatal(out)
	}
	store := filepath.Join(dir, "data")
	if err := os.Mkdir(store, 0o700); err != nil {
		t.Fatal(err)
	}
	copyStore(t, stored, store)
	for name, args := range map[string][]string{
		"backup":    {"backup", filepath.Join(dir, "copy.db")},
		"restore":   {"restore", backup, "--force"},
		"genconfig": {"genconfig", "--matrixdomain", standin.ServerName, "--matrixurl", "http://127.0.0.1:8007" + standin.CreateUserPath},
	} {
		t.Run(name, func(t *testing.T) {
			free := int64(4096) // a page: a part could be written
			if name == "genconfig" {
				free = 0 // its files have less than a page
			}
			defer disk.Fill(t, dir, free)()
			before := tree(t, dir)
			out, err := runProgram(t, dir, append([]string{"--datapath", store}, args...)...)
			if err == nil || !strings.Contains(out, syscall.ENOSPC.Error()) || strings.Count(out, "\n") != 1 {
				t.Errorf("got %v: %q, want one line with %q", err, out, syscall.ENOSPC.Error())
			}
			if after := tree(t, dir); after != before {
				t.Errorf("got %s\nwant as before: %s", after, before)
			}
		})
	}
	if registered, _ := checkWhole(t, store); registered != 90 {
		t.Errorf("the store has %d registered", registered)
	}
}

// tree is what is in the directory: names, sizes and times.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		stat, err := entry.Info()
		if err == nil {
			fmt.Fprintln(&all, path, stat.Size(), stat.ModTime())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// A read-only disk is said at the start, in one line, and a start after it is writable again succeeds.
func TestDiskReadOnly(t *testing.T) {
	dir := disk.Mount(t, 1<<20)
	remount := func(flags uintptr) {
		t.Helper()
		if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT|flags, "size=1048576"); err != nil {
			t.Fatal(err)
		}
	}
	for _, made := range []bool{false, true} {
		if made {
			makeStore(t, dir, 10)
		}
		before := tree(t, dir)
		remount(syscall.MS_RDONLY)
		d := daemon.Launch(t, program(t), dir, "http://127.0.0.1:8007"+standin.SharedSecretPath)
		select {
		case <-d.Done:
		case <-time.After(daemon.Patience):
			t.Fatal("it runs")
		}
		if out := d.Log(); d.Cmd.ProcessState.ExitCode() != 1 || !strings.Contains(out, "open the store "+filepath.Join(dir, storeFile)) || !strings.Contains(out, syscall.EROFS.Error()) || strings.Count(out, "\n") != 1 {
			t.Errorf("made %v: exit %d: %s", made, d.Cmd.ProcessState.ExitCode(), out)
		}
		remount(0)
		if after := tree(t, dir); after != before {
			t.Errorf("made %v: got %s, want as before: %s", made, after, before)
		}
		d = daemon.Start(t, program(t), dir, standin.New(t).URL+standin.SharedSecretPath)
		if code := d.Stop(); code != 0 {
			t.Errorf("made %v: exit %d: %s", made, code, d.Log())
		}
		os.Remove(filepath.Join(dir, storeFile))
	}
}

// A file that is cut, moved away or replaced under the running daemon: 503 for everybody at once and nobody waits, /readyz
// says it, nothing is written, and SIGTERM ends it. What was moved may be put back.
func TestStoreFileChangedUnderDaemon(t *testing.T) {
	filled, other := t.TempDir(), t.TempDir()
	makeStore(t, filled, 300)
	makeStore(t, other, 5)
	away := func(path string) string { return path + ".away" }
	back := func(t *testing.T, path string) {
		if err := os.Rename(away(path), path); err != nil {
			t.Fatal(err)
		}
	}
	cut := func(size int64) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			if err := os.Truncate(path, size); err != nil {
				t.Fatal(err)
			}
		}
	}
	tests := []struct {
		name   string
		change func(t *testing.T, path string)
		mend   func(t *testing.T, path string) // nil where the operator has to restore a backup
		want   string
	}{
		{"cut to nothing", cut(0), nil, "the file is damaged"},
		{"cut to a page", cut(4096), nil, "the file is damaged"},
		{"cut to the meta pages", cut(8192), nil, "the file is damaged"},
		{"cut in the middle", cut(24 << 10), nil, "the file is damaged"},
		{"moved away", func(t *testing.T, path string) { os.Rename(path, away(path)) }, back, "moved or removed under the running service"},
		{"replaced", func(t *testing.T, path string) {
			os.Rename(path, away(path))
			copyStore(t, other, filepath.Dir(path))
		}, back, "moved or removed under the running service"},
		{"replaced by text", func(t *testing.T, path string) {
			os.Rename(path, away(path))
			os.WriteFile(path, []byte("diary"), 0o600)
		}, back, "moved or removed under the running service"},
	}
	t.Parallel()
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			backend, dir := standin.New(t), t.TempDir()
			copyStore(t, filled, dir)
			path := filepath.Join(dir, storeFile)
			backup := filepath.Join(t.TempDir(), "backup.db")
			backend.Fail(standin.Profile, standin.Says(502, "<html>")) // so that nothing pending is reconciled, which would write
			d := daemon.Start(t, program(t), dir, backend.URL+standin.SharedSecretPath)
			known := daemon.NewNode(t)
			if got := d.MustSend(known); got.Status != 200 {
				t.Fatalf("before: got %d %s", got.Status, got.Body)
			}
			if out, err := runProgram(t, dir, "--datapath", dir, "backup", backup); err != nil {
				t.Fatal(out)
			}
			test.change(t, path)
			changed, _ := os.ReadFile(path)
			backend.Asked()

			stranger := daemon.NewNode(t)
			for _, proof := range []e2e.Registration{known, stranger} {
				quickest := daemon.Patience
				for range 3 {
					start := time.Now()
					if got := d.MustSend(proof); got.Status != 503 || got.Errcode != "M_UNKNOWN" {
						t.Errorf("got %d %s", got.Status, got.Body)
					}
					quickest = min(quickest, time.Since(start))
				}
				if quickest > 10*time.Second { // a busy machine has its moment in one of three, what waits in each
					t.Errorf("each answer took more than %v", quickest)
				}
			}
			if got := d.Readiness(503); got != 503 {
				t.Errorf("/readyz answers %d", got)
			}
			daemon.Eventually(t, "the log has "+test.want, func() bool { return strings.Contains(d.Log(), test.want) })
			if asked := backend.Asked(); strings.Contains(asked, standin.Register) {
				t.Errorf("asked: %s", asked)
			}
			if after, _ := os.ReadFile(path); string(after) != string(changed) {
				t.Error("the file was written")
			}
			if test.mend != nil {
				test.mend(t, path)
				if got := d.MustSend(stranger); got.Status != 200 {
					t.Errorf("put back: got %d %s", got.Status, got.Body)
				}
				if got := d.Readiness(200); got != 200 {
					t.Errorf("put back: /readyz answers %d", got)
				}
			}
			if code := d.Stop(); code < 0 {
				t.Errorf("it does not end: %s", d.Log())
			}
			if test.mend == nil {
				if out, err := runProgram(t, dir, "--datapath", dir, "restore", backup, "--force"); err != nil {
					t.Fatal(out)
				}
			}
			d = daemon.Start(t, program(t), dir, backend.URL+standin.SharedSecretPath)
			backend.Fail(standin.Profile, nil)
			if got := d.MustSend(known); got.Status != 409 {
				t.Errorf("afterwards: got %d %s", got.Status, got.Body)
			}
			d.Stop()
			checkWhole(t, dir)
		})
	}
}
