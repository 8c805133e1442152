// user_test.go owns the tests of finding Synapse's user, and of what that user may read.

package synapse

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
)

// Who reads the settings is told by the process, by the key or by the directory, in this order.
func TestReadBy(t *testing.T) {
	if os.Getuid() != 0 {
		need.Skip(t, needRoot)
	}
	const key, dir, process = 1111, 2222, 3333
	t.Chdir(t.TempDir())
	settings := "server_name: example.org\n"
	plant(t, "homeserver.yaml", &settings)
	os.Chown(".", dir, dir) // what it does not do is seen below
	owner := func() User {
		t.Helper()
		s, err := Read([]string{"homeserver.yaml"})
		if err != nil {
			t.Fatal(err)
		}
		return s.ReadBy(Process{})
	}
	if got := owner(); got.UID != dir || !strings.Contains(got.Why, "directory") {
		t.Errorf("no key: got %+v", got)
	}
	empty := ""
	plant(t, "example.org.signing.key", &empty)
	os.Chown("example.org.signing.key", key, key)
	if got := owner(); got.UID != key || !strings.Contains(got.Why, "example.org.signing.key") {
		t.Errorf("the key of its name: got %+v", got)
	}
	settings += "signing_key_path: keys/a.key\n"
	plant(t, "homeserver.yaml", &settings)
	plant(t, "keys/a.key", &empty)
	os.Chown("keys/a.key", key+1, key+1)
	if got := owner(); got.UID != key+1 {
		t.Errorf("the key that is named: got %+v", got)
	}
	if got := (Settings{}).ReadBy(Process{User: User{UID: process, Why: "seen"}}); got.UID != process {
		t.Errorf("a process: got %+v", got)
	}
	if got := (Settings{}).ReadBy(Process{}); got.IsKnown() {
		t.Errorf("nothing: got %+v", got)
	}
}

// Whether a user may read is told as the kernel tells it.
func TestMayRead(t *testing.T) {
	if os.Getuid() != 0 {
		need.Skip(t, needRoot)
	}
	const its, group = 12345, 54321
	top := openDir(t)
	for _, test := range []struct {
		name            string
		uid, gid        int
		mode, directory os.FileMode
		groups          []int
		want            bool
	}{
		{"its own", its, 0, 0o600, 0o755, nil, true},
		{"its own, and not for it", its, 0, 0o044, 0o755, nil, false},
		{"root's", 0, 0, 0o600, 0o755, nil, false},
		{"for a group", 0, group, 0o640, 0o755, nil, false},
		{"for its group", 0, group, 0o640, 0o755, []int{1, group}, true},
		{"for others than its group", 0, group, 0o604, 0o755, []int{group}, false},
		{"for all", 0, 0, 0o644, 0o755, nil, true},
		{"for all, in a directory of root's", 0, 0, 0o644, 0o700, nil, false},
		{"for all, in a directory that cannot be listed", 0, 0, 0o644, 0o711, nil, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir, err := os.MkdirTemp(top, "")
			if err != nil {
				t.Fatal(err)
			}
			file, link := filepath.Join(dir, "file"), filepath.Join(top, filepath.Base(dir)+".link")
			err = errors.Join(os.WriteFile(file, nil, 0o600), os.Chown(file, test.uid, test.gid), os.Chmod(file, test.mode), os.Chmod(dir, test.directory), os.Symlink(file, link))
			if err != nil {
				t.Fatal(err)
			}
			for _, path := range []string{file, link} {
				err := User{UID: its, GIDs: test.groups}.MayRead(path)
				if fault := (ModeError{}); (err == nil) != test.want || err != nil && !errors.As(err, &fault) {
					t.Errorf("%s: got %v", path, err)
				}
			}
			if err := (User{}).MayRead(file); err != nil {
				t.Errorf("root: got %v", err)
			}
			if len(test.groups) == 0 { // and so says the kernel
				asAnother(t, func() {
					f, err := os.Open(file)
					if (err == nil) != test.want {
						t.Errorf("the kernel: got %v", err)
					}
					f.Close()
				})
			}
		})
	}
	if err := (User{UID: its}).MayRead(filepath.Join(top, "nowhere")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: got %v", err)
	}
}

// openDir makes a directory that everybody may enter.
func openDir(t *testing.T) string {
	t.Helper()
	top := t.TempDir()
	for dir := top; dir != filepath.Dir(dir) && dir != os.TempDir(); dir = filepath.Dir(dir) { // which are for their owner alone
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return top
}
