// new_test.go owns the tests of writing files: all or none, and their owner.

package files

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
)

// All of the files or none, and the old ones where they were.
func TestWriteFilesAllOrNothing(t *testing.T) {
	for name, force := range map[string]bool{"new": false, "forced": true} {
		t.Run(name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			if force {
				os.WriteFile("a", []byte("old"), 0o600)
			}
			// The second cannot be put in place: a directory takes its draft away.
			files := []New{{"a", 0o600, []byte("new")}, {"b", 0o600, []byte("new")}}
			if force {
				os.Mkdir("b", 0o700) // which no hard link can keep
			} else {
				files[1].Name = "missing/b"
			}
			if _, err := WriteAll(files, nil, force); err == nil {
				t.Fatal("no error")
			}
			content, err := os.ReadFile("a")
			if force && string(content) != "old" || !force && !os.IsNotExist(err) {
				t.Errorf("a: got %q, %v", content, err)
			}
			left, _ := filepath.Glob(".*-*")
			kept, _ := filepath.Glob("*" + BackupTail)
			if len(left)+len(kept) > 0 {
				t.Errorf("left behind: %v %v", left, kept)
			}
		})
	}
}

// What root writes belongs to whom it is for, in whichever directory.
func TestWriteFilesOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		need.Skip(t, need.Missing{What: "root, to give files away", Cure: "run the tests as root"})
	}
	t.Chdir(t.TempDir())
	other := filepath.Join(t.TempDir(), "b")
	if _, err := WriteAll([]New{{"a", 0o600, nil}, {other, 0o600, nil}}, &Owner{12345, 23456}, false); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"a", other} {
		stat, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if owner := stat.Sys().(*syscall.Stat_t); owner.Uid != 12345 || owner.Gid != 23456 || stat.Mode() != 0o600 {
			t.Errorf("%s: got %d:%d, %v", path, owner.Uid, owner.Gid, stat.Mode())
		}
	}
}
