// files_test.go owns the tests of reading small files.

package files

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
)

// What is no file, or is no small one, is not waited for.
func TestReadFile(t *testing.T) {
	dir := t.TempDir()
	pipe, large := filepath.Join(dir, "pipe"), filepath.Join(dir, "large")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	os.WriteFile(large, make([]byte, smallLimit+1), 0o600)
	for path, want := range map[string]string{pipe: "not a regular file", "/dev/zero": "not a regular file", dir: "not a regular file", large: "is over"} {
		if _, err := Read(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", path, err, want)
		}
	}
}

// Who may not read a file is named, and what to do.
func TestReadUnreadable(t *testing.T) {
	const unreadable = "/proc/sys/vm/compact_memory" // for root too
	if f, err := os.Open(unreadable); !errors.Is(err, os.ErrPermission) {
		f.Close()
		need.Skip(t, need.Missing{What: "a file that nobody may read", Cure: "run the tests on Linux"})
	}
	if _, err := Read(unreadable); !errors.Is(err, os.ErrPermission) || !strings.Contains(err.Error(), "permission denied for ") || !strings.Contains(err.Error(), ": let this user read the file, or run this as the file's owner") {
		t.Errorf("got %v", err)
	}
}

func TestReadSecret(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	if _, err := ReadSecret(path, "the secret"); !errors.Is(err, os.ErrNotExist) || err.Error() != path+" does not exist: it should hold the secret" {
		t.Error("a file that is not there: no error")
	}
	os.WriteFile(path, []byte(" \n"), 0o600)
	if _, err := ReadSecret(path, "the secret"); err == nil || !strings.Contains(err.Error(), "is empty") {
		t.Errorf("an empty file: got %v", err)
	}
	for _, mark := range []string{"\ufeff", "\xff\xfe", "\xfe\xff"} {
		os.WriteFile(path, []byte(mark+"open sesame\n"), 0o600)
		if _, err := ReadSecret(path, "the secret"); err == nil || !strings.Contains(err.Error(), "byte order mark") || strings.Contains(err.Error(), "sesame") {
			t.Errorf("%x: got %v", mark, err)
		}
	}
	os.WriteFile(path, []byte("open sesame\n"), 0o600)
	if got, err := ReadSecret(path, "the secret"); got != "open sesame" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}
