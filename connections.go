// connections.go owns how many connections are held, and which one makes room for another.

package main

import (
	"container/list"
	"context"
	"io"
	"net"
	"net/http"
	"sync"
)

// connections is a listener whose connections are counted. At the limit the one that has been longest without a
// complete request is closed; one whose request has been read whole is being answered, and stays. When all are, the
// new one is closed.
type connections struct {
	net.Listener
	most    int // 0: no limit
	metrics *metrics

	mu         sync.Mutex
	held       int
	unfinished list.List // of *heldConn, the longest without a complete request first
}

// A heldConn is one of the connections.
type heldConn struct {
	net.Conn
	of    *connections
	place *list.Element // in unfinished; nil while a request is answered
	gone  bool
}

// Accept returns the next connection that is held.
func (l *connections) Accept() (net.Conn, error) {
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

// hold takes the connection in, and nil is that there is no room.
func (l *connections) hold(conn net.Conn) *heldConn {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.most > 0 && l.held >= l.most {
		l.metrics.crowdedOut()
		longest := l.unfinished.Front()
		if longest == nil {
			return nil
		}
		c := longest.Value.(*heldConn)
		l.leave(c)
		c.Conn.Close() // whoever serves it finds out
	}
	c := &heldConn{Conn: conn, of: l}
	c.place = l.unfinished.PushBack(c)
	l.held++
	l.metrics.holding(l.held)
	return c
}

// leave takes the connection out, once.
func (l *connections) leave(c *heldConn) {
	if c.gone {
		return
	}
	c.gone = true
	if c.place != nil {
		l.unfinished.Remove(c.place)
		c.place = nil
	}
	l.held--
	l.metrics.holding(l.held)
}

// Close is the end of the connection.
func (c *heldConn) Close() error {
	c.of.mu.Lock()
	c.of.leave(c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}

// CloseWrite lets the server end its half first, as it does with a connection of TCP.
func (c *heldConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// answering is that the request has been read whole.
func (c *heldConn) answering() {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	if c.place != nil {
		c.of.unfinished.Remove(c.place)
		c.place = nil
	}
}

// answered is the server's ConnState: the next request is waited for.
func (l *connections) answered(conn net.Conn, state http.ConnState) {
	c, ok := conn.(*heldConn)
	if !ok || state != http.StateIdle {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case c.gone:
	case c.place != nil: // a request that was refused unread
		l.unfinished.MoveToBack(c.place)
	default:
		c.place = l.unfinished.PushBack(c)
	}
}

type connectionKey struct{}

// inContext is the server's ConnContext.
func inContext(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, connectionKey{}, conn)
}

// watchBody has the connection know when the request's body, or what there is in its place, has been read whole.
func watchBody(r *http.Request, body io.ReadCloser) io.ReadCloser {
	c, ok := r.Context().Value(connectionKey{}).(*heldConn)
	switch {
	case !ok:
		return body
	case r.Body == http.NoBody:
		c.answering()
		return body
	}
	return &watchedBody{body, c}
}

type watchedBody struct {
	io.ReadCloser
	conn *heldConn
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		b.conn.answering()
	}
	return n, err
}
