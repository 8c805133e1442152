// process_test.go owns what the servers rely on of their ports.

package e2e

import (
	"fmt"
	"net"
	"testing"
)

// A port that is held goes to no other socket, and its server can listen there, again too.
func TestFreePortsAreHeld(t *testing.T) {
	held := make(map[int]bool)
	for _, port := range must(freePorts(200))(t) {
		held[port] = true
	}
	if len(held) != 200 {
		t.Errorf("%d of 200 ports are different", len(held))
	}
	for range 1000 { // of some 28,000 ports: were they not held, about seven would be among these
		l := must(net.Listen("tcp", "127.0.0.1:0"))(t)
		defer l.Close()
		if port := l.Addr().(*net.TCPAddr).Port; held[port] {
			t.Errorf("another got port %d", port)
		}
	}
	for port := range held {
		for range 2 {
			l := must(net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)))(t)
			client := must(net.Dial("tcp", l.Addr().String()))(t)
			served := must(l.Accept())(t)
			served.Close() // first, so that the port is in TIME_WAIT
			client.Close()
			l.Close()
		}
	}
}
