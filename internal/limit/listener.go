// listener.go owns how many connections are held, how much memory their unfinished requests may take, and which connection makes
// room for another.

package limit

import (
	"bytes"
	"cmp"
	"container/list"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"
)

// The cost of an unfinished request is its bytes, and lineCost more for each line of its header: net/http makes a map entry of
// each line, so that 8 KiB of short lines take 300 KiB of memory. Measured: 1,900 such requests took 535 MB.
const (
	lineCost        = 128
	unfinishedOne   = 32 << 10 // of one request: 240 lines, or the largest header and body in 100 lines
	unfinishedAll   = 6 << 20  // of all together
	unfinishedShare = 3 << 10  // what each of 2,000 has of it: no node's request needs more
)

// How long a peer may take to read an answer. After promptTime its connection may be closed to make room, and after takeTime it is
// closed. An answer is one write of some hundred bytes, which the kernel accepts at once unless earlier ones fill its buffer.
const (
	promptTime = 50 * time.Millisecond
	takeTime   = 2 * time.Second

	// untakenMost is how many connections may be blocked in writing at once: each holds some 30 KB, and no node's is for
	// longer than a moment. Beyond it the longest so is closed.
	untakenMost = 100

	sendBuffer = 4 << 10 // bytes of untaken answers that the kernel keeps for a connection; by default it keeps up to 4 MiB
)

// A Listener counts its connections. At the limit it closes the connection that has been longest without a complete request, or
// without reading its answer. A connection stays while its request is answered. If all are in that state, the new one is closed.
type Listener struct {
	net.Listener
	Most       int       // 0: no limit
	Holding    func(int) // told how many are held; may be nil
	CrowdedOut func()    // told of each that is closed for want of room; may be nil

	mu         sync.Mutex
	held       int
	unfinished list.List // of *heldConn, the longest without a complete request or with an answer untaken first
	cost       int       // of what those have sent
	untaken    list.List // of those, the ones whose peer does not take an answer; the longest so first
	heavy      list.List // of those, the ones that have sent more than their share; the longest so first
}

// A heldConn is one of the connections.
type heldConn struct {
	net.Conn
	of    *Listener
	place *list.Element // in unfinished; nil while a request is answered and the answer taken
	gone  bool

	inBody  bool // the header has been read whole
	cost    int  // of the unfinished request
	heavy   *list.Element
	blocked *list.Element // in untaken
	next    int           // of what is read and may be the next one's, at most a buffer of net/http
}

// Listen listens at an address of TCP. The connections have the send buffer from the socket that listens, so that it takes no call for
// each. They need no keepalive: the server ends one that is idle for a minute, or whose request takes too long. Nobody here speaks
// Multipath TCP.
func Listen(address string) (net.Listener, error) {
	config := net.ListenConfig{KeepAlive: -1, Control: func(_, _ string, socket syscall.RawConn) (err error) {
		refused := socket.Control(func(fd uintptr) {
			err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF, sendBuffer)
		})
		return cmp.Or(refused, err)
	}}
	config.SetMultipathTCP(false)
	return config.Listen(context.Background(), "tcp", address)
}

// Accept returns the next connection that is held.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if held := l.hold(conn); held != nil {
			return held, nil
		}
		conn.Close()
	}
}

// hold adds the connection. It returns nil if there is no room.
func (l *Listener) hold(conn net.Conn) *heldConn {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.Most > 0 && l.held >= l.Most {
		l.countCrowded()
		longest := l.unfinished.Front()
		if longest == nil {
			return nil
		}
		l.evict(longest.Value.(*heldConn))
	}
	c := &heldConn{Conn: conn, of: l}
	c.place = l.unfinished.PushBack(c)
	l.held++
	l.countHeld()
	return c
}

func (l *Listener) countHeld() {
	if l.Holding != nil {
		l.Holding(l.held)
	}
}

func (l *Listener) countCrowded() {
	if l.CrowdedOut != nil {
		l.CrowdedOut()
	}
}

// evict closes the connection. The server notices at the next read or write.
func (l *Listener) evict(c *heldConn) {
	l.leave(c)
	c.Conn.Close()
}

// finished records that the connection has no unfinished request.
func (l *Listener) finished(c *heldConn) {
	if c.place != nil {
		l.unfinished.Remove(c.place)
		c.place = nil
	}
	if c.heavy != nil {
		l.heavy.Remove(c.heavy)
		c.heavy = nil
	}
	if c.blocked != nil {
		l.untaken.Remove(c.blocked)
		c.blocked = nil
	}
	l.cost -= c.cost
	c.cost = 0
}

// charge adds to the cost of the connection's unfinished request. A connection that costs too much is closed. If all together cost
// too much, those with more than their share are closed. The others stay, however many they are.
func (l *Listener) charge(c *heldConn, cost int) {
	if c.place == nil {
		return
	}
	c.cost += cost
	l.cost += cost
	if c.cost > unfinishedOne {
		l.countCrowded()
		l.evict(c)
	}
	if c.place != nil && c.heavy == nil && c.cost > unfinishedShare {
		c.heavy = l.heavy.PushBack(c)
	}
	for l.cost > unfinishedAll && l.heavy.Len() > 0 {
		l.countCrowded()
		l.evict(l.heavy.Front().Value.(*heldConn))
	}
}

// leave removes the connection, once.
func (l *Listener) leave(c *heldConn) {
	if c.gone {
		return
	}
	c.gone = true
	l.finished(c)
	l.held--
	l.countHeld()
}

// Close closes the connection and removes it.
func (c *heldConn) Close() error {
	c.of.mu.Lock()
	c.of.leave(c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}

var headerEnd = []byte("\r\n\r\n")

// Read counts the cost of a header. After the header comes the body, which WatchBody counts, or already the next header. Read
// cannot tell which, so that a connection may be closed after the answer to a body of very many lines.
func (c *heldConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	part, rest, more := []byte(nil), p[:n], true
	if !c.inBody {
		part, rest, more = bytes.Cut(rest, headerEnd)
		c.of.charge(c, costOf(part))
	}
	for more {
		part, rest, more = bytes.Cut(rest, headerEnd)
		c.next = max(c.next, costOf(part))
	}
	if c.gone {
		return 0, net.ErrClosed // so that the server parses nothing
	}
	return n, err
}

// Write gives the peer time to read the answer. Meanwhile the connection may be closed to make room, as one with an unfinished
// request may: answers that nobody reads keep nobody out.
func (c *heldConn) Write(p []byte) (int, error) {
	c.Conn.SetWriteDeadline(time.Now().Add(promptTime))
	n, err := c.Conn.Write(p)
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return n, err
	}
	defer c.of.blocks(c)()
	c.Conn.SetWriteDeadline(time.Now().Add(takeTime))
	more, err := c.Conn.Write(p[n:])
	return n + more, err
}

// blocks records that the peer does not read its answer, until the returned function is called.
func (l *Listener) blocks(c *heldConn) (taken func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.gone || c.place != nil { // its request is unfinished, too
		return func() {}
	}
	c.place, c.blocked = l.unfinished.PushBack(c), l.untaken.PushBack(c)
	if l.untaken.Len() > untakenMost {
		l.countCrowded()
		l.evict(l.untaken.Front().Value.(*heldConn))
	}
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.finished(c)
	}
}

func costOf(header []byte) int { return len(header) + lineCost*bytes.Count(header, []byte{'\n'}) }

// CloseWrite lets the server end its half first, as it does with a connection of TCP.
func (c *heldConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// ConnState is for the ConnState of the http.Server. When a connection is idle its next request begins, and may be here in part.
func (l *Listener) ConnState(conn net.Conn, state http.ConnState) {
	c, ok := conn.(*heldConn)
	if !ok || state != http.StateIdle {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.gone {
		return
	}
	l.finished(c) // where the request was refused unread
	c.place = l.unfinished.PushBack(c)
	begun := c.next
	c.inBody, c.next = false, 0
	l.charge(c, begun)
}

type connectionKey struct{}

// ConnContext is for the ConnContext of the http.Server: WatchBody finds the connection by it.
func ConnContext(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, connectionKey{}, conn)
}

// WatchBody returns the body with its connection informed when it was read whole. If it is kept until then, what is read adds to
// the cost of the request.
func WatchBody(r *http.Request, body io.ReadCloser, kept bool) io.ReadCloser {
	c, ok := r.Context().Value(connectionKey{}).(*heldConn)
	if !ok {
		return body
	}
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	c.inBody = true
	if r.Body == http.NoBody {
		c.of.finished(c)
		return body
	}
	return &watchedBody{body, r, c, kept}
}

type watchedBody struct {
	io.ReadCloser
	request *http.Request
	conn    *heldConn
	kept    bool
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		b.request.Trailer = nil // which nobody reads, and which takes 50 KB or more for as long as the request waits
	}
	b.conn.of.mu.Lock()
	defer b.conn.of.mu.Unlock()
	switch {
	case err == io.EOF:
		b.conn.of.finished(b.conn)
	case b.kept:
		b.conn.of.charge(b.conn, n)
	}
	return n, err
}
