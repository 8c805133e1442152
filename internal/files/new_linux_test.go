// new_linux_test.go owns the test of writing files on a file system without hard links.

package files

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
)

// Without hard links, which a file at their limit does not have either, a draft gets its name and a file is kept all the
// same, and neither replaces another.
func TestWithoutHardLinks(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.WriteFile("file", []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	os.Mkdir("links", 0o700)
	for i := 0; ; i++ {
		err := os.Link("file", fmt.Sprintf("links/%d", i))
		if errors.Is(err, syscall.EMLINK) {
			break
		}
		if err != nil || i == 70_000 {
			need.Skip(t, need.Missing{What: "a file system with a limit of links", Cure: "run the tests with TMPDIR on ext4"})
		}
	}
	os.WriteFile("taken", []byte("another"), 0o600)
	for name, give := range map[string]func(string, string) error{"name": Publish, "keep": Keep} {
		if err := give("file", "taken"); !errors.Is(err, os.ErrExist) || err.Error() != "taken exists already" {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if err := Keep("file", "kept"); err != nil {
		t.Fatal(err)
	}
	if err := Publish("file", "named"); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"kept": "content", "named": "content", "taken": "another"} {
		if got, err := os.ReadFile(name); err != nil || string(got) != want {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
	if left, _ := filepath.Glob(".*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
