// peer_linux.go owns the question which user is at the other end of a unix socket, on Linux.

package limit

import (
	"net"
	"syscall"
)

// peerUser returns the user that made the connection of a unix socket.
func peerUser(conn net.Conn) (uid uint32, known bool) {
	unix, ok := conn.(*net.UnixConn)
	if !ok {
		return 0, false
	}
	raw, err := unix.SyscallConn()
	if err != nil {
		return 0, false
	}
	var peer *syscall.Ucred
	if raw.Control(func(fd uintptr) {
		peer, err = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}) != nil || err != nil {
		return 0, false
	}
	return peer.Uid, true
}
