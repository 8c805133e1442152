package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// serveLimited serves the door on TCP with the limits, until the test ends.
func (d *door) serveLimited(l limits) (address string) {
	d.t.Helper()
	d.limited(l)
	d.server.metrics = newMetrics(config{})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		d.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- d.server.serve(ctx, listener) }()
	d.t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			d.t.Error(err)
		}
	})
	return listener.Addr().String()
}

// crowdedOut is how many connections the door has closed for want of room.
func (d *door) crowdedOut() int {
	d.t.Helper()
	families, err := d.server.metrics.registry.Gather()
	if err != nil {
		d.t.Error(err)
	}
	for _, family := range families {
		if family.GetName() == metricsPrefix+"connections_crowded_out_total" {
			return int(family.GetMetric()[0].GetCounter().GetValue())
		}
	}
	d.t.Error("the closed connections are not counted")
	return 0
}

// A peer is the other end of a connection.
type peer struct {
	*testing.T
	net.Conn
	in *bufio.Reader
}

func newPeer(t *testing.T, address string) *peer {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	return &peer{t, conn, bufio.NewReader(conn)}
}

// asks sends a request and wants its answer.
func (p *peer) asks(request string, want int) {
	p.Helper()
	io.WriteString(p, request)
	p.isAnswered(want)
}

func (p *peer) isAnswered(want int) {
	p.Helper()
	res, err := http.ReadResponse(p.in, nil)
	if err != nil {
		p.Errorf("got %v, want %d", err, want)
		return
	}
	defer res.Body.Close()
	io.Copy(io.Discard, res.Body)
	if res.StatusCode != want {
		p.Errorf("got %d, want %d", res.StatusCode, want)
	}
}

// isClosed wants the other side to end it. Whether it did for want of room is counted: a time limit would end it as well.
func (p *peer) isClosed() {
	p.Helper()
	if _, err := p.in.ReadByte(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		p.Errorf("the connection is open (%v)", err)
	}
}

const notFoundRequest = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"

// At the limit the connection that has been longest without a complete request makes room.
func TestLongestUnfinishedMakesRoom(t *testing.T) {
	l := &connections{most: 3}
	connect := func() *heldConn {
		ours, theirs := net.Pipe()
		t.Cleanup(func() { ours.Close(); theirs.Close() })
		return l.hold(ours)
	}
	asks := func(c *heldConn) {
		r := httptest.NewRequest("GET", "/", http.NoBody)
		watchBody(r.WithContext(inContext(t.Context(), c)), r.Body, true)
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
	l.answered(a, http.StateIdle)
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
	l.answered(b, http.StateIdle)
	f := connect()
	gone(b, b, d, e, f)
	f.Close()
	f.Close()
	l.answered(f, http.StateIdle)
	if l.held != 2 || l.unfinished.Len() != 0 || l.cost != 0 {
		t.Errorf("%d are held, %d of them unfinished, which have sent %d", l.held, l.unfinished.Len(), l.cost)
	}
}

// One whose peer does not take its answer makes room as an unfinished one does, and one that is being answered does not.
func TestUntakenMakesRoom(t *testing.T) {
	l := &connections{most: 2}
	connect := func() (*heldConn, net.Conn) {
		ours, theirs := net.Pipe()
		t.Cleanup(func() { ours.Close(); theirs.Close() })
		c := l.hold(ours)
		if c == nil {
			return nil, nil
		}
		r := httptest.NewRequest("GET", "/", http.NoBody)
		watchBody(r.WithContext(inContext(t.Context(), c)), r.Body, true)
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
	l := &connections{most: 2000}
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
		l := &connections{most: 1}
		c := l.hold(ours)
		time.Sleep(waitTime + attemptTime)
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

// A connection whose request is being answered is not closed for another; when all are, the new one is.
func TestAnsweredKeepsItsPlace(t *testing.T) {
	d := newDoor(t, sharedSecretPath)
	asked, answer := make(chan bool), make(chan bool)
	d.homeserver.fail(callNonce, func(w http.ResponseWriter, r *http.Request) {
		asked <- true
		<-answer
		d.homeserver.nonce(w, r)
	})
	address := d.serveLimited(limits{maxConnections: 2})
	var busy []*peer
	for range 2 {
		p := newPeer(t, address)
		proof, _ := newProof(t)
		io.WriteString(p, hostilePost(fmt.Sprintf(`{"localpart":%q,"displayname":%q,"password":%q}`, proof.Localpart, proof.DisplayName, proof.Password)))
		<-asked
		busy = append(busy, p)
	}
	for range 3 {
		newPeer(t, address).isClosed()
	}
	if got := d.crowdedOut(); got != 3 {
		t.Errorf("%d were closed for want of room, want 3", got)
	}
	for _, p := range busy {
		answer <- true
		p.isAnswered(200)
	}
	for deadline := time.Now().Add(patience); ; { // until the service knows that one of them is idle
		p := newPeer(t, address)
		io.WriteString(p, notFoundRequest)
		if _, err := http.ReadResponse(p.in, nil); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("there is no room for another")
		}
	}
}

// A request that has no more than its share stays where others have sent too much, however old it is.
func TestShareIsKept(t *testing.T) {
	l := &connections{most: 2000}
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
		heavy = append(heavy, connect(bodyLimit))
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

// What unfinished requests hold is bounded: of one, and of all.
func TestUnfinishedIsBounded(t *testing.T) {
	d := newDoor(t, sharedSecretPath)
	address := d.serveLimited(limits{maxConnections: 2000})
	lines := strings.Repeat("a:\r\n", 300)
	for name, sent := range map[string]string{
		"in a header":              hostileHead + lines,
		"in a whole header":        hostileHead + lines + "Content-Length: 2\r\n\r\n{",
		"in a header of bare \\n":  strings.ReplaceAll(hostileHead+lines, "\r", ""),
		"in the next header":       notFoundRequest + hostileHead + lines,
		"in the next whole header": notFoundRequest + hostileHead + lines + "Content-Length: 2\r\n\r\n{",
		"behind a body":            hostilePost("x") + hostileHead + lines,
	} {
		t.Run(name, func(t *testing.T) {
			before := d.crowdedOut()
			p := newPeer(t, address)
			io.WriteString(p, sent)
			for {
				res, err := http.ReadResponse(p.in, nil)
				if errors.Is(err, os.ErrDeadlineExceeded) {
					t.Fatal("the connection is open")
				}
				if err != nil {
					if got := d.crowdedOut() - before; got != 1 {
						t.Errorf("%d were closed for what they hold, want 1", got)
					}
					return
				}
				if res.StatusCode != 404 && res.StatusCode != 400 {
					t.Errorf("got %d", res.StatusCode)
				}
				io.Copy(io.Discard, res.Body)
			}
		})
	}

	p := newPeer(t, address)
	for range 20 { // what is answered does not add up
		p.asks(hostileHead+strings.Repeat("a:\r\n", 50)+"Content-Length: 8000\r\n\r\n"+strings.Repeat("x", 8000), 400)
	}
	body := strings.Repeat("\n", 1<<20) // the lines of a body are no header's
	newPeer(t, address).asks(fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s", transaction, len(body), body), 200)

	before := d.crowdedOut()
	var held []*peer
	for range 2 * unfinishedAll / bodyLimit {
		p := newPeer(t, address)
		io.WriteString(p, strings.TrimSuffix(hostilePost(strings.Repeat("x", bodyLimit)), "x"))
		held = append(held, p)
	}
	held[0].isClosed()
	if d.crowdedOut() == before {
		t.Error("nothing was closed for what all of them hold")
	}
	last := held[len(held)-1]
	io.WriteString(last, "x")
	last.isAnswered(400)
}
