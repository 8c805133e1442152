// peer.go owns whose connections a unix socket takes.

package limit

import (
	"net"
	"os"
)

// A PeerListener takes connections of this process's own user and of root. It closes all others, whatever the socket's mode is.
type PeerListener struct{ net.Listener }

// Accept waits for the next connection that may be taken.
func (l PeerListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if uid, known := peerUser(conn); known && isTrustedPeer(uid, uint32(os.Geteuid())) {
			return conn, nil
		}
		conn.Close()
	}
}

func isTrustedPeer(uid, own uint32) bool { return uid == 0 || uid == own }
