// peers_test.go owns the peers that speak bytes: a homeserver, and an Ethereum node, that answer one call with what no HTTP
// server should, and repeat every secret that they were told in it.
//
// What holds is: it costs the program bounded memory and bounded time; the node is answered as the contract has it; no secret
// is in the log, in the metrics or in an answer; and the next node is served as if nothing had been.

package proof

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
	"github.com/SmartMeshFoundation/matrix-regservice/e2e/standin"
)

const (
	peerMemory  = 64 << 20    // bytes of anonymous memory that the program may have, whatever its peer does
	peerNodes   = 8           // that come at once while the peer speaks bytes
	peersAtOnce = 24          // programs with a peer each: most of this is waiting for time limits
	floodMost   = 8 << 20     // bytes after which a peer gives up: the program reads on and on
	waitMost    = time.Minute // after which a peer gives up: the program waits on and on. No attempt takes half of it
)

// A bytePeer is one connection on which the peer is asked for something and may say what it likes.
type bytePeer struct {
	net.Conn
	in      *bufio.Reader
	asked   string        // the request, byte for byte
	secrets []string      // that the program has
	echo    string        // the request and the secrets
	answer  func() string // does what was asked, and returns the right answer
	number  int           // of the connections on which it says what it likes
	gaveUp  func(why string)
}

// say sends text, and tells whether it was taken.
func (p *bytePeer) say(text string) bool {
	_, err := io.WriteString(p, text)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		p.gaveUp("keeps a connection that it does not read")
	}
	return err == nil
}

// flood sends pieces until the program has had enough.
func (p *bytePeer) flood(piece string) {
	piece = strings.Repeat(piece, 1+8<<10/len(piece))
	for sent := 0; sent < floodMost; sent += len(piece) {
		if !p.say(piece) {
			return
		}
	}
	p.gaveUp("takes whatever it is sent")
}

// drip sends the text a few bytes at a time, and then its end again and again, until the program has had enough.
func (p *bytePeer) drip(text, again string) {
	for begun := time.Now(); time.Since(begun) < waitMost; time.Sleep(50 * time.Millisecond) {
		piece := text[:min(2, len(text))]
		if text = text[len(piece):]; piece == "" {
			piece = again
		}
		if !p.say(piece) {
			return
		}
	}
	p.gaveUp("waits for the end of an answer")
}

// wait says nothing until the program has had enough.
func (p *bytePeer) wait() {
	p.SetReadDeadline(time.Now().Add(waitMost))
	if _, err := io.Copy(io.Discard, p.in); errors.Is(err, os.ErrDeadlineExceeded) {
		p.gaveUp("waits for an answer")
	}
}

// reset ends the connection without the usual goodbye.
func (p *bytePeer) reset() { p.Conn.(*net.TCPConn).SetLinger(0) }

// rawAnswer is an answer of this status with further lines in its header.
func rawAnswer(status, header, body string) string {
	return fmt.Sprintf("HTTP/1.1 %s\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n\r\n%s", status, header, len(body), body)
}

// strayToken is somebody's access token, which answers to something else give away.
const strayToken = "syt_c29tZWJvZHk_QWNjZXNzVG9rZW5PZg_1a2B3c"

// strayAnswer is the answer to something else, whatever that was.
var strayAnswer = rawAnswer("200 OK", "", `{"jsonrpc":"2.0","id":1,"result":"0xffffffffffffffffff","nonce":"00","displayname":"x","user_id":"@0x0000000000000000000000000000000000000001:x","access_token":"`+strayToken+`"}`)

// plausibleAnswers are answers to other calls of this program, each of which would do for some call of it.
var plausibleAnswers = []string{
	rawAnswer("200 OK", "", `{"displayname":"somebody"}`),
	"HTTP/1.1 204 No Content\r\n\r\n", // the password is set
	rawAnswer("404 Not Found", "", `{"errcode":"M_NOT_FOUND","error":"Profile was not found"}`),
	rawAnswer("409 Conflict", "", `{"errors":[{"title":"User already exists"}]}`),
	strayAnswer,
}

// plausible is another one of them on each connection, so that the calls of a few nodes meet all of them.
func (p *bytePeer) plausible() string { return plausibleAnswers[(p.number-1)%len(plausibleAnswers)] }

// oneLine is text without what would end a line of a header.
func oneLine(text string) string {
	return strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r < ' ' }), " ")
}

func first(most int, text string) string { return text[:min(most, len(text))] }

func last(most int, text string) string { return text[max(0, len(text)-most):] }

func quoted(text string) string {
	content, _ := json.Marshal(text)
	return string(content)
}

// A byteCase is something that a peer does instead of answering.
type byteCase struct {
	name     string
	right    bool // the answer that was asked for is among it, and may be taken
	speak    func(p *bytePeer)
	isObject bool // the first answer is 200 with an object, which is all that some calls want

	everywhere bool // the short test tries it at each call, too: what is believed depends on the call
}

var byteCases = []byteCase{
	{name: "extra answers behind the right one", right: true, speak: func(p *bytePeer) { p.say(p.answer() + strayAnswer); p.waitForMore() }},
	{name: "answers to other calls behind the right one", right: true, speak: func(p *bytePeer) {
		p.say(p.answer() + p.plausible())
		p.waitForMore()
	}},
	{name: "an answer to another call for the next one", right: true, everywhere: true, speak: func(p *bytePeer) {
		p.say(p.answer())
		if p.waitForMore() {
			p.say(p.plausible())
			p.waitForMore()
		}
	}},
	{name: "an extra answer a little later", right: true, speak: func(p *bytePeer) {
		p.say(p.answer())
		time.Sleep(20 * time.Millisecond)
		p.say(strayAnswer)
		p.waitForMore()
	}},
	{name: "a part of an extra answer", right: true, speak: func(p *bytePeer) { p.say(p.answer() + strayAnswer[:40]); p.waitForMore() }},
	{name: "extra answers before the right one", isObject: true, everywhere: true, speak: func(p *bytePeer) { p.say(strayAnswer + p.answer()) }},
	{name: "header lines without end", speak: func(p *bytePeer) { p.say("HTTP/1.1 200 OK\r\n"); p.flood("X: " + first(200, oneLine(p.echo)) + "\r\n") }},
	{name: "short header lines without end", speak: func(p *bytePeer) { p.say("HTTP/1.1 200 OK\r\n"); p.flood("a:\r\n") }},
	{name: "a header line without end", speak: func(p *bytePeer) { p.say("HTTP/1.1 200 OK\r\nX: "); p.flood(oneLine(p.echo)) }},
	{name: "a status line without end", speak: func(p *bytePeer) { p.say("HTTP/1.1 200 "); p.flood(oneLine(p.echo)) }},
	{name: "1xx answers without end", speak: func(p *bytePeer) {
		p.flood("HTTP/1.1 103 Early Hints\r\nLink: <" + first(100, oneLine(p.echo)) + ">\r\n\r\n")
	}},
	{name: "100 without end", speak: func(p *bytePeer) { p.flood("HTTP/1.1 100 Continue\r\n\r\n") }},
	{name: "a few 1xx answers, and then the right one", right: true, speak: func(p *bytePeer) {
		p.say(strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n", 3) + p.answer())
	}},
	{name: "102 slowly without end", speak: func(p *bytePeer) { p.drip("", "HTTP/1.1 102 Processing\r\n\r\n") }},
	{name: "an early close", speak: func(*bytePeer) {}},
	{name: "an early close, done", speak: func(p *bytePeer) { p.answer() }},
	{name: "a reset", speak: func(p *bytePeer) { p.reset() }},
	{name: "a close in the status line", speak: func(p *bytePeer) { p.say(first(10, p.answer())) }},
	{name: "a close in the header", speak: func(p *bytePeer) { p.say(first(30, p.answer())) }},
	{name: "a close in the body", speak: func(p *bytePeer) {
		p.answer()
		p.say("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{\"x\":" + first(100, quoted(p.echo)))
	}},
	{name: "a reset in the body", speak: func(p *bytePeer) {
		p.say("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + first(100, p.echo))
		p.reset()
	}},
	{name: "HTTP/0.9", speak: func(p *bytePeer) {
		_, body, _ := strings.Cut(p.answer(), "\r\n\r\n")
		p.say(body)
	}},
	{name: "HTTP/0.9 that repeats everything", speak: func(p *bytePeer) { p.say(p.echo) }},
	{name: "HTTP/2", speak: func(p *bytePeer) { p.say("\x00\x00\x12\x04\x00\x00\x00\x00\x00" + p.echo) }},
	{name: "TLS", speak: func(p *bytePeer) { p.say("\x15\x03\x01\x00\x02\x02\x46" + p.echo) }},
	{name: "another protocol", speak: func(p *bytePeer) { p.say("220 " + oneLine(p.echo) + " ESMTP\r\n") }},
	{name: "a status that is none", speak: func(p *bytePeer) { p.say("HTTP/1.1 2O0 " + oneLine(p.echo) + "\r\n\r\n") }},
	{name: "a status of four digits", speak: func(p *bytePeer) { p.say("HTTP/1.1 2000 " + oneLine(p.echo) + "\r\n\r\n") }},
	{name: "a version that is none", speak: func(p *bytePeer) { p.say("HTTP/" + oneLine(p.echo) + " 200 OK\r\n\r\n") }},
	{name: "HTTP/1.0 until it is closed", right: true, speak: func(p *bytePeer) {
		_, body, _ := strings.Cut(p.answer(), "\r\n\r\n")
		p.say("HTTP/1.0 200 OK\r\n\r\n" + body)
	}},
	{name: "a header byte by byte", speak: func(p *bytePeer) { p.drip("HTTP/1.1 200 OK\r\nX: ", "x") }},
	{name: "header lines one by one", speak: func(p *bytePeer) { p.drip("HTTP/1.1 200 OK\r\n", "X: x\r\n") }},
	{name: "a body byte by byte", speak: func(p *bytePeer) { p.drip("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", "x") }},
	{name: "chunks byte by byte", speak: func(p *bytePeer) { p.drip("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n") }},
	{name: "silence", speak: (*bytePeer).wait},
	{name: "a body without end", speak: func(p *bytePeer) { p.say("HTTP/1.1 200 OK\r\n\r\n"); p.flood(p.echo) }},
	{name: "a chunked body without end", speak: func(p *bytePeer) {
		p.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		p.flood("400\r\n" + strings.Repeat("x", 0x400) + "\r\n")
	}},
	{name: "a chunk's extension without end", speak: func(p *bytePeer) {
		p.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;x=")
		p.flood(oneLine(p.echo))
	}},
	{name: "trailers without end", speak: func(p *bytePeer) {
		p.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n")
		p.flood("X: x\r\n")
	}},
	{name: "a chunk's length that is none", speak: func(p *bytePeer) {
		p.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + oneLine(p.echo) + "\r\n")
	}},
	{name: "a length that is none", speak: func(p *bytePeer) {
		p.say("HTTP/1.1 200 OK\r\nContent-Length: " + first(300, oneLine(p.echo)) + "\r\n\r\n{}")
	}},
	{name: "an encoding that is none", speak: func(p *bytePeer) {
		p.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: " + first(300, oneLine(p.echo)) + "\r\n\r\n{}")
	}},
	{name: "two lengths", speak: func(p *bytePeer) { p.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}}") }},
	{name: "a header line without a colon", speak: func(p *bytePeer) { p.say("HTTP/1.1 200 OK\r\n" + first(300, oneLine(p.echo)) + "\r\n\r\n{}") }},
	{name: "a header field that is none", speak: func(p *bytePeer) {
		p.say("HTTP/1.1 200 OK\r\n(" + strings.ReplaceAll(first(300, oneLine(p.echo)), ":", " ") + "): x\r\n\r\n{}")
	}},
	{name: "another protocol that is agreed on", speak: func(p *bytePeer) {
		p.say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + first(100, oneLine(p.echo)) + "\r\n\r\n" + p.echo)
		p.wait()
	}},
	{name: "a redirect that repeats everything", speak: func(p *bytePeer) {
		p.say(rawAnswer("307 "+oneLine(p.echo), "Location: http://elsewhere.example/?x="+url.QueryEscape(p.echo)+"\r\n", "{}"))
	}},
	{name: "a redirect to each word of everything", speak: func(p *bytePeer) {
		words := strings.FieldsFunc(p.echo, func(r rune) bool { return strings.ContainsRune(" \r\n\"{}:,=&", r) })
		at := strings.Join(slices.DeleteFunc(words, func(word string) bool { return len(word) < 20 }), "/")
		p.say(rawAnswer("307 Temporary Redirect", "Location: http://elsewhere.example/"+last(300, at)+"\r\n", "{}"))
	}},
	{name: "a redirect to nowhere", speak: func(p *bytePeer) {
		p.say(rawAnswer("302 Found", "Location: http://%zz/"+strings.ReplaceAll(first(300, oneLine(p.echo)), " ", "")+"\r\n", "{}"))
	}},
	{name: "400 that repeats everything", speak: echoes("400")},
	{name: "401 that repeats everything", speak: echoes("401")},
	{name: "403 that repeats everything", speak: echoes("403")},
	{name: "404 that repeats everything", speak: echoes("404")},
	{name: "409 that repeats everything", speak: echoes("409")},
	{name: "429 that repeats everything", speak: echoes("429")},
	{name: "500 that repeats everything", speak: echoes("500")},
	{name: "502 that repeats everything in HTML", speak: func(p *bytePeer) { p.say(rawAnswer("502 "+oneLine(p.echo), "", "<html>"+p.echo+"</html>")) }},
	{name: "400 with a part of everything", speak: func(p *bytePeer) {
		for _, word := range strings.Fields(p.echo) {
			if len(word) > 20 {
				p.say(rawAnswer("400 Bad Request", "", `{"errcode":"M_UNKNOWN","error":`+quoted("you sent "+word[:20]+" and "+word[len(word)-20:])+`}`))
				return
			}
		}
	}},
	{name: "400 with every secret cut short", speak: func(p *bytePeer) {
		parts := []string{}
		for _, secret := range p.secrets {
			parts = append(parts, secret[:20], secret[4:], secret[:len(secret)-1])
		}
		p.say(rawAnswer("400 Bad Request", "", `{"errcode":"M_UNKNOWN","error":`+quoted(strings.Join(parts, " "))+`}`))
	}},
	{name: "400 with everything as an errcode", speak: func(p *bytePeer) {
		p.say(rawAnswer("400 Bad Request", "", `{"errcode":`+quoted("M_"+standin.ASToken)+`,"error":`+quoted(p.echo)+`,"errors":[{"title":`+quoted(p.echo)+`}]}`))
	}},
	{name: "400 with everything in base64", speak: func(p *bytePeer) {
		p.say(rawAnswer("400 Bad Request", "", `{"errcode":"M_UNKNOWN","error":`+quoted(base64.StdEncoding.EncodeToString([]byte(p.echo)))+`}`))
	}},
	{name: "a compressed body that is none", speak: func(p *bytePeer) { p.say(rawAnswer("200 OK", "Content-Encoding: gzip\r\n", p.echo)) }},
	{name: "200 with everything", isObject: true, speak: func(p *bytePeer) {
		p.say(rawAnswer("200 "+oneLine(p.echo), "", `{"user_id":`+quoted(p.echo)+`,"displayname":7,"nonce":`+quoted(p.echo)+`,"result":`+quoted(p.echo)+`}`))
	}},
}

// echoes answers with this status and every secret in every place.
func echoes(status string) func(*bytePeer) {
	return func(p *bytePeer) {
		said := oneLine(p.echo)
		header := "WWW-Authenticate: Bearer realm=\"" + said + "\"\r\nSet-Cookie: x=" + said + "\r\nServer: " + said + "\r\nLocation: /?x=" + url.QueryEscape(p.echo) + "\r\nRetry-After: " + said + "\r\nX-" + standin.ASToken + ": x\r\n"
		p.say(rawAnswer(status+" "+said, header, `{"errcode":"M_UNKNOWN","error":`+quoted(p.echo)+`,"message":`+quoted(p.echo)+`,"retry_after_ms":1,"errors":[{"title":`+quoted(p.echo)+`}]}`))
	}
}

// waitForMore keeps the connection, as a server does between two requests, and tells whether a further one came, which it does not
// answer.
func (p *bytePeer) waitForMore() bool {
	p.SetReadDeadline(time.Now().Add(2 * time.Second))
	_, err := http.ReadRequest(p.in)
	return err == nil
}

// A byteServer is a peer: it answers rightly, but for one call while it is armed.
type byteServer struct {
	net.Listener
	right   http.Handler
	which   func(*http.Request) string // the call
	secrets []string                   // of the program, which it repeats
	speak   func(*bytePeer)
	at      string // the call that it speaks bytes at

	armed  atomic.Bool
	spoke  atomic.Int64
	conns  sync.WaitGroup
	gaveUp atomic.Pointer[string] // why a connection was ended that the program should have ended
}

// newByteServer makes one that is armed: the program's start meets its bytes too.
func newByteServer(t *testing.T, s *byteServer) *byteServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.Listener = l
	s.armed.Store(true)
	s.conns.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.(*net.TCPConn).SetWriteBuffer(64 << 10) // so that what is sent has been read, but for little
			s.conns.Go(func() { s.serve(conn) })
		}
	})
	return s
}

func (s *byteServer) url() string { return "http://" + s.Addr().String() }

// serve answers on one connection until somebody closes it.
func (s *byteServer) serve(conn net.Conn) {
	defer conn.Close()
	for sent := new(bytes.Buffer); ; sent.Reset() {
		in := bufio.NewReader(io.TeeReader(conn, sent))
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		p := &bytePeer{Conn: conn, in: in, asked: sent.String(), secrets: s.secrets, echo: sent.String() + " " + strings.Join(s.secrets, " ") + " " + strayToken, answer: func() string {
			answer := httptest.NewRecorder()
			s.right.ServeHTTP(answer, r)
			return rawAnswer(fmt.Sprintf("%d %s", answer.Code, http.StatusText(answer.Code)), "", answer.Body.String())
		}, gaveUp: func(why string) { s.gaveUp.Store(&why) }}
		if s.armed.Load() && s.which(r) == s.at {
			p.number = int(s.spoke.Add(1))
			conn.SetWriteDeadline(time.Now().Add(waitMost))
			s.speak(p)
			return
		}
		if !p.say(p.answer()) || r.Close {
			return
		}
	}
}

// A byteTarget is a call that the program makes, and what a node may be answered where that is spoiled.
type byteTarget struct {
	api string
	at  call
}

// byteTargets are the calls at which a homeserver speaks bytes. Where a look-up of what the homeserver is says nothing,
// the program goes on without it.
var byteTargets = []byteTarget{
	{createUser, callProfile}, {createUser, callCreate}, {createUser, callKey},
	{sharedSecret, callNonce}, {sharedSecret, callRegister}, {sharedSecret, callVersion},
	{masUsers, callToken}, {masUsers, callAdd}, {masUsers, callPassword}, {masUsers, callSetName},
}

// secretsOf are the secrets that a gateway has.
var secretsOf = map[string][]string{
	createUser:   {standin.ASToken, standin.HSToken},
	sharedSecret: {standin.Secret, standin.HSToken},
	masUsers:     {standin.ASToken, standin.HSToken, standin.MASSecret},
}

// Whatever a homeserver says at a call. In the long test each case is tried at each call, and in the short one at one of them.
func TestByteHomeservers(t *testing.T) {
	t.Parallel()
	eachByteCase(t, len(byteTargets), 1, func(t *testing.T, c byteCase, i int) {
		at := byteTargets[i]
		truth := newTruth(func(string, ...any) {})
		fake := newFakeHandler(truth)
		fake.versionHidden = at.at == callSetName
		peer := newByteServer(t, &byteServer{right: fake, which: func(r *http.Request) string { c, _ := fake.which(r); return string(c) }, at: string(at.at), speak: c.speak, secrets: secretsOf[at.api]})
		truth.keepSecret(strayToken, "somebody's access token")
		keepOwnSecrets(truth)
		v := newByteVictim(t, c.name+string(at.at), peer, at.api, nil)
		v.truth = truth
		isFree := at.at == callKey || at.at == callVersion || at.at == callSetName && c.isObject
		v.speaks(peer, func(a answer) bool {
			switch {
			case a.status == 200:
				return c.right || isFree
			case a.status == 409: // of a user that is there already: it names nobody, so that another node's may be taken for it
				return a.Errcode == "M_USER_IN_USE" && at.at == callAdd && c.right && c.everywhere
			case a.status == 429:
				return a.Errcode == "M_LIMIT_EXCEEDED" && strings.HasPrefix(c.name, "429")
			}
			return a.status == 502 && a.Errcode == "M_UNKNOWN"
		}, 200)
	})
}

// rpcKey is the key in the URL of the Ethereum node.
const rpcKey = "k3y0f4nEthereumProvider9aZ"

// An Ethereum node may report a high balance in the answer to another request. That admits nobody.
func TestByteEthereumNodes(t *testing.T) {
	t.Parallel()
	eachByteCase(t, 1, 3, func(t *testing.T, c byteCase, _ int) {
		truth := newTruth(func(string, ...any) {})
		fake := newFakeHomeserver(truth)
		t.Cleanup(fake.Close)
		chain := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var asked struct {
				ID     int64
				Method string
			}
			json.NewDecoder(r.Body).Decode(&asked)
			fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%d,"result":"0x1"}`, asked.ID) // of each address, and the chain's number
		})
		peer := newByteServer(t, &byteServer{right: chain, which: func(*http.Request) string { return "eth" }, at: "eth", speak: c.speak, secrets: []string{rpcKey}})
		truth.keepSecret(strayToken, "somebody's access token")
		truth.keepSecret(rpcKey, "the key in the URL of the Ethereum node")
		v := newByteVictim(t, c.name+"eth", peer, createUser, fake)
		v.truth = truth
		v.speaks(peer, func(a answer) bool {
			return a.status == 503 && a.Errcode == "M_UNKNOWN" || c.right && a.status == 403 && a.Errcode == "M_FORBIDDEN"
		}, 403)
	})
}

// keepOwnSecrets notes the secrets of the program.
func keepOwnSecrets(h *truth) {
	for secret, what := range map[string]string{standin.ASToken: "the as_token", standin.HSToken: "the hs_token", standin.Secret: "the shared secret", standin.MASSecret: "the client secret"} {
		h.keepSecret(secret, what)
	}
}

// eachByteCase runs each case at each target with a program of its own, many at once. The short test runs one of so many cases,
// each at one target, but for those that it tries everywhere.
func eachByteCase(t *testing.T, targets, oneOf int, run func(t *testing.T, c byteCase, target int)) {
	t.Helper()
	if runtime.GOOS != "linux" {
		need.Skip(t, need.Missing{What: "Linux, whose /proc tells how much memory a process has", Cure: "run it there"})
	}
	if _, err := asBuilt(); err != nil {
		t.Fatal(err)
	}
	slots := make(chan struct{}, peersAtOnce)
	var all sync.WaitGroup
	for number, c := range byteCases {
		for target := range targets {
			if !need.Long() && !c.everywhere && (target != number%targets || number%oneOf != 0) {
				continue
			}
			slots <- struct{}{}
			all.Go(func() {
				defer func() { <-slots }()
				t.Run(fmt.Sprintf("%s/%d", c.name, target), func(t *testing.T) { run(t, c, target) })
			})
		}
	}
	all.Wait()
}

// A byteVictim is the program as it is built, with a peer.
type byteVictim struct {
	*testing.T
	*truth
	*gateway
	number  int
	answers []string // that are none of success
}

// newByteVictim starts the program with the peer as its homeserver, or where there is one already as its Ethereum node.
func newByteVictim(t *testing.T, name string, peer *byteServer, api string, homeserver *fakeHomeserver) *byteVictim {
	t.Helper()
	program, err := asBuilt()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(scratch, "peer-")
	if err != nil {
		t.Fatal(err)
	}
	origin := peer.url()
	if homeserver != nil {
		origin = homeserver.URL
	}
	g := newGateway(t, program, dir, origin, api, filepath.Join(dir, "data"))
	if homeserver != nil {
		g.args = append(g.args, "--eth-rpc", "http://user:"+rpcKey+"@"+peer.Addr().String()+"/v3/"+rpcKey+"?key="+rpcKey, "--min-balance", "1000")
	}
	t.Cleanup(func() {
		g.kill()
		peer.Close()
		os.RemoveAll(dir)
	})
	if err := g.start(context.Background()); err != nil {
		t.Fatal(err)
	}
	number := 0
	for _, c := range name {
		number = number*31 + int(c)
	}
	return &byteVictim{T: t, gateway: g, number: number}
}

// newNode is a node that never came.
func (v *byteVictim) newNode() *node {
	v.truth.mu.Lock()
	defer v.truth.mu.Unlock()
	v.number++
	key := keyOf(v.number)
	return &node{Registration: registrationOf(key), key: key}
}

// triesAgain has the node register until that goes well, as nodes do: what many wait for together, such as a token, may still
// be on its way from the peer.
func (v *byteVictim) triesAgain(n *node, healthy int) (a answer) {
	for range 20 {
		if a = v.tries(n); a.status == healthy || a.status == 409 {
			return a
		}
		time.Sleep(500 * time.Millisecond)
	}
	return a
}

// askedAgain is how often a request that got no answer is sent again: on a busy machine the gateway may end a connection whose
// client was too slow to send its header.
const askedAgain = 5

// tries has it register once.
func (v *byteVictim) tries(n *node) (a answer) {
	v.proves(n.Registration)
	body, _ := json.Marshal(n.Registration)
	for range askedAgain {
		if a = v.post(context.Background(), body); a.status != 0 {
			break
		}
	}
	if a.status == 200 {
		v.checkIn(n.Registration, a.Token)
	}
	v.truth.mu.Lock()
	defer v.truth.mu.Unlock()
	if a.status != 200 {
		v.answers = append(v.answers, a.body)
	}
	return a
}

// speaks has nodes come while the peer speaks bytes, and then when it is well again.
func (v *byteVictim) speaks(peer *byteServer, isRight func(answer) bool, healthy int) {
	v.Helper()
	stop := make(chan struct{})
	peak := make(chan int64)
	go func() { peak <- v.memory(stop) }()

	var nodes []*node
	for range 10 { // until the peer is asked: on a busy machine a call before that one may be too slow
		coming := make([]*node, peerNodes)
		var all sync.WaitGroup
		for i := range coming {
			all.Go(func() {
				coming[i] = v.newNode()
				if a := v.tries(coming[i]); !isRight(a) {
					v.Errorf("while the peer speaks bytes: got %d %s", a.status, a.body)
				}
			})
		}
		all.Wait()
		nodes = append(nodes, coming...)
		if peer.spoke.Load() > 0 {
			break
		}
	}
	peer.armed.Store(false)
	if peer.spoke.Load() == 0 {
		v.Error("the peer was not asked")
	}

	next := v.newNode()
	for _, n := range append(nodes, next) {
		if a := v.triesAgain(n, healthy); a.status != healthy && (n == next || a.status != 409) {
			v.Errorf("once the peer is well: got %d %s, want %d", a.status, a.body, healthy)
		}
	}
	close(stop)
	if most := <-peak; most > peerMemory {
		v.Errorf("the program has %d KiB of anonymous memory, want at most %d", most>>10, peerMemory>>10)
	}
	metrics := v.operatorReads()
	if err := v.stop(); err != nil {
		v.Error(err)
	}
	peer.Close()
	peer.conns.Wait()
	if why := peer.gaveUp.Load(); why != nil {
		v.Errorf("the program %s: the peer gave up", *why)
	}
	v.leaksNothing(metrics)
	if broken := v.takeBroken(); broken != "" {
		v.Error(broken)
	}
}

// leaksNothing looks for secrets in all that was written.
func (v *byteVictim) leaksNothing(metrics string) {
	v.Helper()
	v.truth.mu.Lock()
	secrets := maps.Clone(v.secrets)
	v.truth.mu.Unlock()
	for where, text := range map[string]string{"log": v.log(), "metrics": metrics, "answers": strings.Join(v.answers, "\n")} {
		for i, found := range findSecrets(secrets, text) {
			if i < 3 {
				v.Errorf("in the %s: %s", where, found)
			}
		}
	}
	for _, fatal := range []string{"panic: ", "request panicked", "fatal error: "} {
		if log := v.log(); strings.Contains(log, fatal) {
			v.Errorf("the log says: %.2000s", log)
		}
	}
}

// operatorReads is what the operator is told.
func (v *byteVictim) operatorReads() string {
	all := new(strings.Builder)
	for _, path := range []string{"/metrics", "/readyz", "/livez"} {
		var res *http.Response
		var err error
		for range askedAgain {
			if res, err = http.Get("http://" + v.process().ops + path); err == nil {
				break
			}
		}
		if err != nil {
			v.Error(err)
			return ""
		}
		io.Copy(all, res.Body)
		res.Body.Close()
	}
	return all.String()
}

var anonLine = regexp.MustCompile(`RssAnon:\s+(\d+) kB`)

// memory is the most anonymous memory that the program had until the channel is closed, in bytes.
func (v *byteVictim) memory(stop <-chan struct{}) (most int64) {
	for {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", v.process().os.Pid))
		if found := anonLine.FindSubmatch(status); err == nil && found != nil {
			kib, _ := strconv.ParseInt(string(found[1]), 10, 64)
			most = max(most, kib<<10)
		}
		select {
		case <-stop:
			return most
		case <-time.After(20 * time.Millisecond):
		}
	}
}
