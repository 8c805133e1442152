// server_connections_test.go owns the tests of which connections stay open.

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
)

// serveLimited serves the gateway on TCP with the limits, until the test ends.
func (d *gateway) serveLimited(l config.Limits) (address string) {
	d.t.Helper()
	d.limited(l)
	d.server.metrics = newMetrics(config.Config{Way: homeserver.CreateUser})
	return d.served()
}

// crowdedOut is how many connections the gateway has closed for want of room.
func (d *gateway) crowdedOut() int {
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

// hostileHead is the start of a registration.
const hostileHead = "POST " + registerPath + " HTTP/1.1\r\nHost: x\r\n"

// hostilePost is a whole registration with the body.
func hostilePost(body string) string {
	return fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s", hostileHead, len(body), body)
}

const notFoundRequest = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"

// A connection whose request is being answered is not closed for another; when all are, the new one is.
func TestAnsweredKeepsItsPlace(t *testing.T) {
	d := newGateway(t, homeserver.SharedSecretPath)
	asked, answer := make(chan bool), make(chan bool)
	d.homeserver.Fail(callNonce, func(w http.ResponseWriter, r *http.Request) {
		asked <- true
		<-answer
		d.homeserver.Right(callNonce)(w, r)
	})
	address := d.serveLimited(config.Limits{MaxConnections: 2})
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

// What unfinished requests hold is bounded: of one, and of all.
func TestUnfinishedIsBounded(t *testing.T) {
	d := newGateway(t, homeserver.SharedSecretPath)
	address := d.serveLimited(config.Limits{MaxConnections: 2000})
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
	newPeer(t, address).asks(fmt.Sprintf("PUT %s/transactions/1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s", modernPath, testHSToken, len(body), body), 200)

	before := d.crowdedOut()
	var held []*peer
	for range 2 * (6 << 20) / bodyLimit {
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
