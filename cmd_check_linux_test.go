// cmd_check_linux_test.go owns the test of check with a run.sh that it may not read.

package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"golang.org/x/sys/unix"
)

// A run.sh that this user may not read is there, and check says as whom it can be read.
func TestCheckUnreadableScript(t *testing.T) {
	if os.Getuid() != 0 {
		need.Skip(t, need.Missing{What: "root, to be another user", Cure: "run the tests as root"})
	}
	const owner = 54321
	dir := t.TempDir()
	for above := dir; above != os.TempDir() && above != filepath.Dir(above); above = filepath.Dir(above) {
		if err := os.Chmod(above, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	if err := errors.Join(os.WriteFile(config.RunFile, []byte("exec "+config.Program+" --matrixdomain example.org\n"), 0o700), os.Chown(config.RunFile, owner, owner)); err != nil {
		t.Fatal(err)
	}
	said := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread, which is another user's then, ends
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 12345, 12345, 12345); errno != 0 {
			said <- errno
			return
		}
		said <- newCommand(io.Discard, io.Discard).Run(t.Context(), []string{programName, "check"})
	}()
	const want = "run.sh may have it; it is there and cannot be read: run this as 54321, whose it is, or as root, or give check the flags of the service"
	if err := <-said; err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("got %v", err)
	}
}
