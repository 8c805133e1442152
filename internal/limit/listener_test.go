// listener_test.go owns the tests of which connection is closed when there are too many.

package limit

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// At the limit the connection that has been longest without a complete request makes room.
func TestLongestUnfinishedMakesRoom(t *testing.T) {
	l := &Listener{Most: 3}
	connect := func() *heldConn {
		ours, theirs := net.Pipe()
		t.Cleanup(func() { ours.Close(); theirs.Close() })
		return l.hold(ours)
	}
	asks := func(c *heldConn) {
		r := httptest.NewRequest("GET", "/", http.NoBody)
		WatchBody(r.WithContext(ConnContext(t.Context(), c)), r.Body, true)
		if c.place != nil {
			t.Error("what was asked counts as unfinished")
		}
	}
	gone := func(want *heldConn, all ...*heldConn) {
		t.Helper()
		for i, c := range all {
			if c.gone != (c == want) {
				t.Errorf("connection %d: gone is %v", i, c.gone)
			}
		}
	}
	a, b, c := connect(), connect(), connect()
	asks(a)
	l.ConnState(a, http.StateIdle)
	asks(b) // and is being answered
	d := connect()
	gone(c, a, b, c, d)
	e := connect()
	gone(a, a, b, d, e)
	asks(d)
	asks(e)
	if connect() != nil {
		t.Error("there was room, with three that are being answered")
	}
	l.ConnState(b, http.StateIdle)
	f := connect()
	gone(b, b, d, e, f)
	f.Close()
	f.Close()
	l.ConnState(f, http.StateIdle)
	if l.held != 2 || l.unfinished.Len() != 0 || l.cost != 0 {
		t.Errorf("%d are held, %d of them unfinished, which have sent %d", l.held, l.unfinished.Len(), l.cost)
	}
}

// One whose peer does not take its answer makes room as an unfinished one does, and one that is being answered does not.
func TestUntakenMakesRoom(t *testing.T) {
	l := &Listener{Most: 2}
	connect := func() (*heldConn, net.Conn) {
		ours, theirs := net.Pipe()
		t.Cleanup(func() { ours.Close(); theirs.Close() })
		c := l.hold(ours)
		if c == nil {
			return nil, nil
		}
		r := httptest.NewRequest("GET", "/", http.NoBody)
		WatchBody(r.WithContext(ConnContext(t.Context(), c)), r.Body, true)
		return c, theirs
	}
	untaken := func() int {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.unfinished.Len()
	}
	write := func(c *heldConn) <-chan error {
		written := make(chan error, 1)
		go func() {
			_, err := c.Write([]byte("an answer"))
			written <- err
		}()
		return written
	}
	answered, reading := connect()
	blocked, _ := connect()
	ended := write(blocked)
	for untaken() == 0 { // it is not at once
		select {
		case err := <-ended:
			t.Fatalf("it ended before it could make room: %v", err)
		case <-time.After(time.Millisecond):
		}
	}
	third, _ := connect()
	if third == nil || answered.gone || !blocked.gone {
		t.Fatalf("there is room: %v; gone are the answered one: %v, the untaken one: %v", third != nil, answered.gone, blocked.gone)
	}
	if err := <-ended; err == nil {
		t.Error("what nobody took counts as written")
	}
	if fourth, _ := connect(); fourth != nil {
		t.Error("there was room, with two that are being answered")
	}

	written := write(answered)
	for untaken() == 0 { // it takes its time
		time.Sleep(time.Millisecond)
	}
	got := make([]byte, 100)
	n, err := reading.Read(got)
	if werr := <-written; string(got[:n]) != "an answer" || err != nil || werr != nil || untaken() != 0 {
		t.Errorf("taken late: got %q, %v, %v, and %d in the list", got[:n], err, werr, untaken())
	}
}

// However many do not take their answers, few of them are held.
func TestUntakenIsBounded(t *testing.T) {
	l := &Listener{Most: 2000}
	var all []*heldConn
	for range untakenMost + 10 {
		ours, theirs := net.Pipe()
		t.Cleanup(func() { ours.Close(); theirs.Close() })
		c := l.hold(ours)
		l.finished(c)
		l.blocks(c)
		all = append(all, c)
	}
	if l.held != untakenMost || l.untaken.Len() != untakenMost || !all[9].gone || all[10].gone {
		t.Errorf("%d are held, %d of them blocked in writing, want %d, the first 10 gone", l.held, l.untaken.Len(), untakenMost)
	}
}

// Where nobody needs the room the peer's time is up soon, counted from the write, however long the answer took.
func TestUntakenEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		l := &Listener{Most: 1}
		c := l.hold(ours)
		time.Sleep(time.Minute)
		for range 2 { // a taken one gives no time to the next, and takes none from it
			read := make(chan error, 1)
			go func() { _, err := theirs.Read(make([]byte, 100)); read <- err }()
			if _, err := c.Write([]byte("taken")); err != nil {
				t.Fatal(err)
			}
			<-read
			time.Sleep(takeTime)
		}
		start := time.Now()
		_, err := c.Write([]byte("untaken"))
		if took := time.Since(start); !errors.Is(err, os.ErrDeadlineExceeded) || took < 2*time.Second || took > 3*time.Second {
			t.Errorf("after %v: %v", took, err)
		}
		c.Close()
		if l.held != 0 || l.unfinished.Len() != 0 {
			t.Errorf("%d are held, %d of them unfinished", l.held, l.unfinished.Len())
		}
	})
}

// A request that has no more than its share stays where others have sent too much, however old it is.
func TestShareIsKept(t *testing.T) {
	l := &Listener{Most: 2000}
	connect := func(cost int) *heldConn {
		ours, theirs := net.Pipe()
		t.Cleanup(func() { ours.Close(); theirs.Close() })
		c := l.hold(ours)
		l.charge(c, cost)
		return c
	}
	light := connect(unfinishedShare)
	var heavy []*heldConn
	for range 1900 {
		heavy = append(heavy, connect(8<<10))
	}
	if light.gone || !heavy[0].gone || heavy[len(heavy)-1].gone || l.cost > unfinishedAll {
		t.Errorf("gone are: light %v, the first of the heavy %v, the last %v; together they have %d", light.gone, heavy[0].gone, heavy[len(heavy)-1].gone, l.cost)
	}
	for _, c := range append(heavy, light) {
		c.Close()
	}
	if l.held != 0 || l.cost != 0 || l.heavy.Len() != 0 {
		t.Errorf("%d are held, of them %d heavy, which have sent %d", l.held, l.heavy.Len(), l.cost)
	}
}

// Trailers are gone when the body has been read: a request that waits for the homeserver would keep them.
func TestTrailersAreDropped(t *testing.T) {
	kept := make(chan int, 1)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(WatchBody(r, http.MaxBytesReader(w, r.Body, 8), true))
		if string(body) != "{}" || err != nil {
			t.Errorf("got %q, %v", body, err)
		}
		kept <- len(r.Trailer)
	}))
	server.Listener = &Listener{Listener: server.Listener, Most: 3}
	server.Config.ConnContext = ConnContext
	server.Start()
	defer server.Close()
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: A\r\n\r\n2\r\n{}\r\n0\r\nA: 1\r\nB: 2\r\n\r\n")
	if got := <-kept; got != 0 {
		t.Errorf("%d trailers are kept, want none", got)
	}
}

// A connection has the small send buffer, and no keepalive that takes calls of its own.
func TestListenSetsConnections(t *testing.T) {
	l, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialed, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer dialed.Close()
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	option := func(conn net.Conn, option int) (value int) {
		socket, err := conn.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		socket.Control(func(fd uintptr) { value, err = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, option) })
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
	if ours, theirs := option(accepted, syscall.SO_SNDBUF), option(dialed, syscall.SO_SNDBUF); ours > 4*sendBuffer || theirs <= 4*sendBuffer {
		t.Errorf("the send buffer is %d bytes, want about %d; by default it is %d", ours, sendBuffer, theirs)
	}
	if option(accepted, syscall.SO_KEEPALIVE) != 0 {
		t.Error("it is kept alive")
	}
}
