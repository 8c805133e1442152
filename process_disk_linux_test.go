// process_disk_linux_test.go owns what a full disk, a read-only one, or a store that is changed beneath it does to the
// program: the daemon, and the commands that write files.

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
)

// mountSmall mounts a file system of so many bytes, in memory.
func mountSmall(t *testing.T, size int) (dir string) {
	t.Helper()
	dir = t.TempDir()
	err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=700", size))
	if errors.Is(err, syscall.EPERM) {
		err = need.Missing{What: "root, to mount a small file system", Cure: "run the tests as root"}
	}
	need.All(t, err)
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fillDisk takes what is free of the file system but for so many bytes, until the function it returns is called.
func fillDisk(t *testing.T, dir string, but int64) (empty func()) {
	t.Helper()
	path := filepath.Join(dir, "filler")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var size int64
	for block := make([]byte, 4096); ; size += int64(len(block)) {
		if _, err := f.Write(block); errors.Is(err, syscall.ENOSPC) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(max(0, size-but)); err != nil {
		t.Fatal(err)
	}
	return func() { os.Remove(path) }
}

// A full disk, for the running daemon: whoever is new gets 503 and no account, whoever is known is told so, /readyz says
// it, a restart serves the same, and when there is room again all is well without another.
func TestDiskFull(t *testing.T) {
	dir, backend := mountSmall(t, 1<<20), newStandIn(t)
	d := startDaemon(t, programName, dir, backend.URL+homeserver.SharedSecretPath)
	known, _ := newProof(t)
	if got := d.mustSend(known); got.status != 200 {
		t.Fatalf("before: got %d %s", got.status, got.body)
	}
	empty := fillDisk(t, dir, 0)

	var refused registration
	for tries := 0; ; tries++ { // pages that are free within the file last for some
		proof, _ := newProof(t)
		got := d.mustSend(proof)
		if got.status == 200 && tries < 500 {
			continue
		}
		if got.status != 503 || got.Errcode != "M_UNKNOWN" || strings.Contains(got.body, "space") {
			t.Fatalf("full: got %d %s", got.status, got.body)
		}
		refused = proof
		break
	}
	check := func(d *daemonProcess) {
		t.Helper()
		if got := d.mustSend(refused); got.status != 503 {
			t.Errorf("full: got %d %s", got.status, got.body)
		}
		if got := d.mustSend(known); got.status != 409 {
			t.Errorf("full, known: got %d %s", got.status, got.body)
		}
		if got := d.readiness(503); got != 503 {
			t.Errorf("full: /readyz answers %d", got)
		}
		elsewhere := t.TempDir() // the daemon makes its copy beside the store
		if out, err := runProgram(t, elsewhere, "--datapath", dir, "backup", "copy.db"); err == nil || !strings.Contains(out, syscall.ENOSPC.Error()) || strings.Count(out, "\n") != 1 || tree(t, elsewhere) != "" {
			t.Errorf("full: backup: %v %s", err, out)
		}
		if !strings.Contains(d.log(), syscall.ENOSPC.Error()) {
			t.Errorf("the log does not say why:\n%s", d.log())
		}
	}
	check(d)
	d.kill()
	d = startDaemon(t, programName, dir, backend.URL+homeserver.SharedSecretPath)
	check(d)

	empty()
	if got := d.mustSend(refused); got.status != 200 {
		t.Errorf("room again: got %d %s", got.status, got.body)
	}
	if got := d.readiness(200); got != 200 {
		t.Errorf("room again: /readyz answers %d\n%s", got, d.log())
	}
	if code := d.stop(); code != 0 {
		t.Errorf("exit %d\n%s", code, d.log())
	}
	checkWhole(t, filepath.Join(dir, storeFile))
}

// On a full disk nothing is half written: a first start leaves no store behind that the next would refuse, and the
// commands that write files leave none.
func TestDiskFullNothingHalfWritten(t *testing.T) {
	dir := mountSmall(t, 1<<20)
	backup := makeCopy(t, 500)
	t.Run("a new store", func(t *testing.T) {
		for free := range 10 {
			sub := filepath.Join(dir, "store")
			os.Mkdir(sub, 0o700)
			empty := fillDisk(t, dir, int64(free)*4096)
			s, err := openBoltStore(sub)
			if err == nil {
				s.Close()
			} else {
				if !errors.Is(err, syscall.ENOSPC) || strings.Contains(err.Error(), ".register") {
					t.Errorf("%d pages free: got %v", free, err)
				}
				if left, _ := os.ReadDir(sub); len(left) > 0 {
					t.Errorf("%d pages free: left behind: %v", free, left)
				}
			}
			if free == 0 && err == nil {
				t.Error("a store was made where there is no room")
			}
			empty()
			if s, err = openBoltStore(sub); err != nil {
				t.Fatalf("%d pages free, room again: %v", free, err)
			}
			s.Close()
			os.RemoveAll(sub)
		}
	})

	store := filepath.Join(dir, "data")
	s, err := openBoltStore(store)
	if err != nil {
		t.Fatal(err)
	}
	fillStore(t, s, 100)
	s.Close()
	for name, args := range map[string][]string{
		"backup":    {"backup", filepath.Join(dir, "copy.db")},
		"restore":   {"restore", backup, "--force"},
		"genconfig": {"genconfig", "--matrixdomain", testServerName, "--matrixurl", "http://127.0.0.1:8007" + homeserver.CreateUserPath},
	} {
		t.Run(name, func(t *testing.T) {
			free := int64(4096) // a page: a part could be written
			if name == "genconfig" {
				free = 0 // its files have less than a page
			}
			defer fillDisk(t, dir, free)()
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
	if counts := checkWhole(t, filepath.Join(store, storeFile)); counts[stateRegistered] != 90 {
		t.Errorf("the store has %v", counts)
	}
}

// runProgram runs a command in the directory and returns what it printed.
func runProgram(t *testing.T, dir string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.Command(programForTest(t), args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	return string(out), err
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
	dir := mountSmall(t, 1<<20)
	remount := func(flags uintptr) {
		t.Helper()
		if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT|flags, "size=1048576"); err != nil {
			t.Fatal(err)
		}
	}
	for _, made := range []bool{false, true} {
		if made {
			s, err := openBoltStore(dir)
			if err != nil {
				t.Fatal(err)
			}
			fillStore(t, s, 10)
			s.Close()
		}
		before := tree(t, dir)
		remount(syscall.MS_RDONLY)
		d := launchDaemon(t, programName, dir, "http://127.0.0.1:8007"+homeserver.SharedSecretPath)
		select {
		case <-d.done:
		case <-time.After(patience):
			t.Fatal("it runs")
		}
		if out := d.log(); d.cmd.ProcessState.ExitCode() != 1 || !strings.Contains(out, "open the store "+filepath.Join(dir, storeFile)) || !strings.Contains(out, syscall.EROFS.Error()) || strings.Count(out, "\n") != 1 {
			t.Errorf("made %v: exit %d: %s", made, d.cmd.ProcessState.ExitCode(), out)
		}
		remount(0)
		if after := tree(t, dir); after != before {
			t.Errorf("made %v: got %s, want as before: %s", made, after, before)
		}
		d = startDaemon(t, programName, dir, newStandIn(t).URL+homeserver.SharedSecretPath)
		if code := d.stop(); code != 0 {
			t.Errorf("made %v: exit %d: %s", made, code, d.log())
		}
		os.Remove(filepath.Join(dir, storeFile))
	}
}

// A file that is cut, moved away or replaced under the running daemon: 503 for everybody at once and nobody waits, /readyz
// says it, nothing is written, and SIGTERM ends it. What was moved may be put back.
func TestStoreFileChangedUnderDaemon(t *testing.T) {
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
			if err := copyTo(makeCopy(t, 5), path); err != nil {
				t.Fatal(err)
			}
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
			backend, dir := newStandIn(t), filepath.Dir(makeCopy(t, 300))
			path := filepath.Join(dir, storeFile)
			backup := filepath.Join(t.TempDir(), "backup.db")
			backend.fail(callProfile, says(502, "<html>")) // so that nothing pending is settled, which would write
			d := startDaemon(t, programName, dir, backend.URL+homeserver.SharedSecretPath)
			known, _ := newProof(t)
			if got := d.mustSend(known); got.status != 200 {
				t.Fatalf("before: got %d %s", got.status, got.body)
			}
			if out, err := runProgram(t, dir, "--datapath", dir, "backup", backup); err != nil {
				t.Fatal(out)
			}
			test.change(t, path)
			changed, _ := os.ReadFile(path)
			backend.asked()

			stranger, _ := newProof(t)
			for _, proof := range []registration{known, stranger} {
				quickest := patience
				for range 3 {
					start := time.Now()
					if got := d.mustSend(proof); got.status != 503 || got.Errcode != "M_UNKNOWN" {
						t.Errorf("got %d %s", got.status, got.body)
					}
					quickest = min(quickest, time.Since(start))
				}
				if quickest > 10*time.Second { // a busy machine has its moment in one of three, what waits in each
					t.Errorf("each answer took more than %v", quickest)
				}
			}
			if got := d.readiness(503); got != 503 {
				t.Errorf("/readyz answers %d", got)
			}
			if !strings.Contains(d.log(), test.want) {
				t.Errorf("log: %s, want %q", d.log(), test.want)
			}
			if asked := backend.asked(); strings.Contains(asked, callRegister) {
				t.Errorf("asked: %s", asked)
			}
			if after, _ := os.ReadFile(path); string(after) != string(changed) {
				t.Error("the file was written")
			}
			if test.mend != nil {
				test.mend(t, path)
				if got := d.mustSend(stranger); got.status != 200 {
					t.Errorf("put back: got %d %s", got.status, got.body)
				}
				if got := d.readiness(200); got != 200 {
					t.Errorf("put back: /readyz answers %d", got)
				}
			}
			if code := d.stop(); code < 0 {
				t.Errorf("it does not end: %s", d.log())
			}
			if test.mend == nil {
				if out, err := runProgram(t, dir, "--datapath", dir, "restore", backup, "--force"); err != nil {
					t.Fatal(out)
				}
			}
			d = startDaemon(t, programName, dir, backend.URL+homeserver.SharedSecretPath)
			backend.fail(callProfile, nil)
			if got := d.mustSend(known); got.status != 409 {
				t.Errorf("afterwards: got %d %s", got.status, got.body)
			}
			d.stop()
			checkWhole(t, path)
		})
	}
}

func copyTo(from, to string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, content, 0o600)
}
