// process_linux.go owns what only Linux has: a child that is killed when its parent dies.

package e2e

import "syscall"

// childAttributes keep a terminal's Ctrl-C from the servers, which their parent ends in order, and end them with
// it should it be killed. run.sh and nginx stay the one process that was started, so that this reaches them.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
