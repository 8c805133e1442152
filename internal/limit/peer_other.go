//go:build !linux

// peer_other.go owns the answer where the system does not tell.

package limit

import (
	"net"
	"os"
)

// peerUser is not told here: the mode of the socket decides alone.
func peerUser(net.Conn) (uid uint32, known bool) { return uint32(os.Geteuid()), true }
