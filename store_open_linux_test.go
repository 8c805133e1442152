// store_open_linux_test.go owns the tests of a store that another user may not open, and running a part of a test as one.

package main

import (
	"errors"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
	"golang.org/x/sys/unix"
)

// anotherUser is the number of no user here.
const anotherUser = 12345

// asAnother does something as a user who is not root, and returns its error.
func asAnother(do func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread, which is another user's then, ends
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, anotherUser, anotherUser, anotherUser); errno != 0 {
			done <- errno
			return
		}
		done <- do()
	}()
	return <-done
}

// needAnother skips the test of who is not root, and lets every user reach the test's directory.
func needAnother(t *testing.T) (dir string) {
	t.Helper()
	if os.Geteuid() != 0 {
		need.Skip(t, need.Missing{What: "root, to be another user", Cure: "run the tests as root"})
	}
	dir = t.TempDir()
	for above := dir; above != os.TempDir() && above != filepath.Dir(above); above = filepath.Dir(above) {
		if err := os.Chmod(above, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// What a user may not open says so. Where root has left it, and only there, it says what to type.
func TestStoreDenied(t *testing.T) {
	user.Current() // which is remembered, and shall be this process's user
	base := needAnother(t)
	const roots = " is root's: if this is the user that runs the service, type as root: chown -R "
	for _, test := range []struct {
		name string
		make func(dir string) error
		want string // after the name of the directory; "" where root has nothing to do with it
	}{
		{"root's directory", func(dir string) error { return os.Mkdir(dir, 0o755) }, roots},
		{"root's directory with a store", func(dir string) error {
			makeStore(t, filepath.Join(dir, storeFile))
			return os.Chmod(dir, 0o755)
		}, roots},
		{"root's store", func(dir string) error {
			makeStore(t, filepath.Join(dir, storeFile))
			return os.Chown(dir, anotherUser, anotherUser)
		}, string(filepath.Separator) + storeFile + roots},
		{"a third one's directory", func(dir string) error { return errors.Join(os.Mkdir(dir, 0o700), os.Chown(dir, 54321, 54321)) }, ""},
		{"its own directory, which it may not list", func(dir string) error {
			return errors.Join(os.Mkdir(dir, 0o300), os.Chown(dir, anotherUser, anotherUser))
		}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := filepath.Join(base, strings.ReplaceAll(test.name, " ", "-"))
			if err := test.make(dir); err != nil {
				t.Fatal(err)
			}
			err := asAnother(func() error {
				s, err := openBoltStore(dir, testServerName)
				if s != nil {
					s.Close()
				}
				return err
			})
			if !errors.Is(err, fs.ErrPermission) || test.want != "" && !strings.Contains(err.Error(), ": "+dir+test.want) || test.want == "" && strings.Contains(err.Error(), roots) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
	t.Run("what nobody may open", func(t *testing.T) {
		dir := filepath.Join(base, "pipe")
		if err := errors.Join(os.Mkdir(dir, 0o755), syscall.Mkfifo(filepath.Join(dir, storeFile), 0o644)); err != nil {
			t.Fatal(err)
		}
		err := asAnother(func() error { _, err := openBoltStore(dir, testServerName); return err })
		if err == nil || !strings.Contains(err.Error(), "not a regular file") || strings.Contains(err.Error(), roots) {
			t.Errorf("got %v", err)
		}
	})
}
