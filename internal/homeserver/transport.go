// transport.go owns how every server is called: the one constructor of HTTP clients, their time and size limits, and the check
// that an answer came after its request.

package homeserver

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	dialTime      = 2 * time.Second
	tlsTime       = 2 * time.Second
	HeaderTime    = 5 * time.Second // to the answer's first byte, of a server that does no work before it
	keptConns     = 64              // connections kept open between calls, unless Keep sets another number
	keptConnsTime = 30 * time.Second

	answerHeaderLimit = 64 << 10 // bytes of an answer's header, those of 1xx answers before it included; Go's default is 10 MiB

	// readAhead is the size of net/http's read buffer. A watchedConn fills it with whole lines of an answer's header, and byte by byte
	// after that, so that net/http reads nothing after an answer. A longer read, such as that of a body, bypasses the buffer. It
	// bounds the first line of a chunk, and trailers.
	readAhead = 128
)

// errUnsolicited is the error of a call on whose connection bytes had arrived before its request was written: they answer
// something else.
var errUnsolicited = errors.New("the server sent something unasked before the request")

// ClientOptions are what differs between clients.
type ClientOptions struct {
	Dial       func(ctx context.Context, network, address string) (net.Conn, error) // nil for TCP
	HeaderTime time.Duration                                                        // to the answer's first byte; 0 where the request's context ends the whole call
	MostConns  int                                                                  // at once on kept connections; 0 for any number
}

// NewHTTPClient returns a client for HTTP/1.1 with a time limit on each step. It uses no proxy and follows no redirect, since
// tokens and passwords must reach only the server that they are for.
//
// A request with Close set gets a connection of its own, on which nothing else can be answered. Other requests share kept
// connections: their answers have to identify the request.
func NewHTTPClient(o ClientOptions) *http.Client {
	if o.Dial == nil {
		o.Dial = (&net.Dialer{Timeout: dialTime}).DialContext
	}
	kept := &http.Transport{
		Proxy: nil,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := o.Dial(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return &watchedConn{Conn: conn, raw: rawConn(conn)}, nil
		},
		DialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := o.Dial(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return shakeHands(ctx, conn, address)
		},
		ResponseHeaderTimeout:  o.HeaderTime,
		MaxResponseHeaderBytes: answerHeaderLimit,
		MaxIdleConnsPerHost:    keptConns,
		MaxConnsPerHost:        o.MostConns,
		IdleConnTimeout:        keptConnsTime,
		ReadBufferSize:         readAhead,
		DisableCompression:     true, // a small answer may not grow behind the limit
	}
	own := kept.Clone()
	own.DisableKeepAlives = true
	return &http.Client{
		Transport:     &watchedTransport{kept: kept, own: own},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// shakeHands begins TLS. If net/http did that, a watchedConn could not see what is decrypted.
func shakeHands(ctx context.Context, conn net.Conn, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, tlsTime)
	defer cancel()
	host, _, err := net.SplitHostPort(address)
	if err == nil {
		secured := tls.Client(conn, &tls.Config{ServerName: host})
		if err = secured.HandshakeContext(ctx); err == nil {
			return &watchedConn{Conn: secured}, nil // below lie records of TLS's own, tickets for instance
		}
	}
	conn.Close()
	return nil, err
}

// A watchedTransport refuses an answer that began to arrive before its request was sent.
type watchedTransport struct{ kept, own *http.Transport }

// Keep sets how many connections are kept open between calls.
func (t *watchedTransport) Keep(most int) { t.kept.MaxIdleConnsPerHost = most }

func (t *watchedTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	seen, ok := req.Context().Value(progressKey{}).(*progress)
	if !ok {
		seen = new(progress)
		req = req.WithContext(seen.watch(req.Context()))
	}
	chosen := t.kept
	if req.Close {
		chosen = t.own
	}
	res, err := chosen.RoundTrip(req)
	if !seen.unsolicited.Load() {
		return res, err
	}
	seen.conn.Load().Close()
	if err == nil {
		res.Body.Close()
	}
	return nil, errUnsolicited
}

// A progress says how far a call has come. The connection's own goroutine writes a part of it.
type progress struct {
	conn        atomic.Pointer[watchedConn] // nil while there is none; net/http may try a second one
	kept        atomic.Bool                 // conn had been used before
	answered    atomic.Bool                 // a byte of an answer came
	unsolicited atomic.Bool                 // it came before the request
}

// watch returns the context of the one call whose progress this is to be.
func (p *progress) watch(ctx context.Context) context.Context {
	ctx = context.WithValue(ctx, progressKey{}, p)
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(got httptrace.GotConnInfo) {
			c := got.Conn.(*watchedConn)
			c.begin()
			p.conn.Store(c)
			p.kept.Store(got.Reused)
		},
		GotFirstResponseByte: func() { // of a stray answer net/http holds this one byte, and none behind it
			p.answered.Store(true)
			if c := p.conn.Load(); c != nil && c.since.Load() == 0 {
				p.unsolicited.Store(true)
			}
		},
	})
}

type progressKey struct{}

// A watchedConn notices bytes that arrive before a request is written.
//
// net/http does not. If bytes come between two requests, it takes them for the answer to the second, if it has chosen the
// connection by then; otherwise it prints them unchanged (Go 1.26; TestStrayAnswer).
type watchedConn struct {
	net.Conn
	raw syscall.RawConn // shows whether the kernel holds bytes; nil if it cannot be asked

	space  [4 << 10]byte // bytes that were read; ahead is the rest of them, and failed the error that follows
	ahead  []byte
	failed error

	inHeader  atomic.Bool  // of the answer; false between answers
	waiting   atomic.Int64 // bytes in ahead
	requested atomic.Bool  // the request's first byte was written
	since     atomic.Int64 // bytes handed on since then
}

// begin is called when net/http has chosen the connection, before it writes the request.
func (c *watchedConn) begin() {
	c.requested.Store(false)
	c.inHeader.Store(false)
	c.since.Store(0)
}

func (c *watchedConn) Read(p []byte) (n int, err error) {
	if len(p) == 0 {
		return 0, nil
	}
	if len(c.ahead) == 0 && len(p) > readAhead {
		n, err = c.Conn.Read(p)
		c.handedOn(n)
		return n, err
	}
	if len(c.ahead) == 0 && c.failed == nil {
		n, c.failed = c.Conn.Read(c.space[:])
		c.ahead = c.space[:n]
	}
	if len(p) <= readAhead {
		p = p[:c.step(len(p))]
	}
	n = copy(p, c.ahead)
	c.ahead = c.ahead[n:]
	c.waiting.Store(int64(len(c.ahead)))
	c.handedOn(n)
	if n == 0 {
		err, c.failed = c.failed, nil
	}
	return n, err
}

// step returns how many bytes of those ahead go into net/http's buffer of this length: of an answer's header whole lines, since more of
// the answer follows each line but the last, which is empty; otherwise one byte.
func (c *watchedConn) step(length int) (lines int) {
	for c.inHeader.Load() {
		line := bytes.IndexByte(c.ahead[lines:], '\n') + 1
		if line == 0 || lines+line > length { // the rest of the line is not there, or does not fit
			break
		}
		if len(bytes.TrimSpace(c.ahead[lines:lines+line])) == 0 { // net/http ends a header at spaces, too
			c.inHeader.Store(false)
		}
		lines += line
	}
	return max(lines, 1)
}

func (c *watchedConn) handedOn(n int) {
	if c.requested.Load() {
		c.since.Add(int64(n))
	}
}

// Write refuses the first byte of a request if bytes wait to be read. Nothing is sent then, and net/http takes another connection
// if this was a kept one.
func (c *watchedConn) Write(p []byte) (int, error) {
	if !c.requested.Load() {
		if c.waiting.Load() > 0 || c.raw != nil && holdsBytes(c.raw) {
			return 0, errUnsolicited
		}
		c.requested.Store(true)
		c.inHeader.Store(true)
	}
	return c.Conn.Write(p)
}

// rawConn returns nil if the kernel cannot be asked.
func rawConn(conn net.Conn) syscall.RawConn {
	system, ok := conn.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := system.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}

// holdsBytes reports whether bytes can be read, without reading them or waiting. A connection that the peer has closed holds
// none.
func holdsBytes(conn syscall.RawConn) (holds bool) {
	conn.Control(func(fd uintptr) { // Go has sockets not wait
		var one [1]byte
		n, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK)
		holds = err == nil && n > 0
	})
	return holds
}
