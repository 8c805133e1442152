// cmd_check_linux_test.go owns the test of check with a run.sh that it may not read.

package main

import (
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
)

// A run.sh that this user may not read is there, and check says as whom it can be read.
func TestCheckUnreadableScript(t *testing.T) {
	const owner = 54321
	t.Chdir(needAnother(t))
	if err := errors.Join(os.WriteFile(config.RunFile, []byte("exec "+config.Program+" --matrixdomain example.org\n"), 0o700), os.Chown(config.RunFile, owner, owner)); err != nil {
		t.Fatal(err)
	}
	err := asAnother(func() error {
		return newCommand(io.Discard, io.Discard).Run(t.Context(), []string{programName, "check"})
	})
	const want = "run.sh may have it; it is there and cannot be read: run this as 54321, whose it is, or as root, or give check the flags of the service"
	if err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("got %v", err)
	}
}
