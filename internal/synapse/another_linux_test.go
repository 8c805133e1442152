// another_linux_test.go owns running a part of a test as another user.

package synapse

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// asAnother does it as a user who has nothing to say, on a thread that ends with it.
func asAnother(t *testing.T, do func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends
		_, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 12345, 12345, 12345)
		if errno != 0 {
			done <- errno
			return
		}
		do()
		done <- nil
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
