// stat_linux_test.go owns the test that the stat without times returns what the library's returns.

package boltfile

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The stat that asks for no times sees the same file as the one that does, through links and with the same errors.
func TestStat(t *testing.T) {
	path := newTest(t).path
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{path, link, filepath.Dir(path), "/dev/null"} {
		want, err := osStat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := stat(path); err != nil || got != want {
			t.Errorf("%s: got %+v, %v, want %+v", path, got, err, want)
		}
	}
	if _, err := stat(path + ".away"); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("a file that is not there: got %v", err)
	}
}
