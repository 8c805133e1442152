// transport_test.go owns the tests of the transport: an answer belongs to its request, comes from the right server, and has a bounded size.

package homeserver

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"

	"log"
)

// strayToken is what a stray answer gives away.
const strayToken = "syt_c29tZWJvZHk_QWNjZXNzVG9rZW5PZg_1a2B3c"

// A bytePeer speaks bytes: it answers each request on a connection with what the function says, which is told the
// connection's number and the request's on it, and the path.
func bytePeer(t *testing.T, answer func(conn, request int, path string) string) (origin string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	t.Cleanup(func() { l.Close(); serving.Wait() })
	serving.Go(func() {
		for number := 1; ; number++ {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { conn.Close() })
			go func() {
				in := bufio.NewReader(conn)
				for request := 1; ; request++ {
					r, err := http.ReadRequest(in)
					if err != nil {
						return
					}
					io.Copy(io.Discard, r.Body)
					for rest := answer(number, request, r.URL.Path); rest != "" && err == nil; {
						piece := []byte(rest[:min(4<<10, len(rest))])
						rest = rest[len(piece):]
						_, err = conn.Write(piece)
					}
					if err != nil || r.Close {
						conn.Close()
						return
					}
				}
			}()
		}
	})
	return "http://" + l.Addr().String()
}

func rawAnswer(body string) string {
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

// A lockedBuffer may be written to by several.
type lockedBuffer struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.String()
}

// What comes behind an answer is never the answer to the next request, whether it came with it or after it, and is not
// told.
func TestStrayAnswer(t *testing.T) {
	lines := new(lockedBuffer) // net/http's connections write on when their call has ended
	log.SetOutput(lines)
	defer log.SetOutput(os.Stderr)
	stray := rawAnswer(`{"access_token":"` + strayToken + `","stray":true}`)
	for name, behind := range map[string]string{"whole": stray, "a byte": "H", "a part": stray[:30], "two": stray + stray} {
		t.Run(name, func(t *testing.T) {
			h := NewClient(bytePeer(t, func(conn, request int, path string) string {
				return rawAnswer(`{"path":"`+path+`"}`) + behind
			}), "example.org").Binding()
			defer h.http.CloseIdleConnections()
			for i := range 300 {
				path := fmt.Sprintf("/%d", i)
				a, err := h.Call(t.Context(), Request{Within: ReadTime, Method: http.MethodGet, Path: path})
				if err == nil && string(a.Body) != `{"path":"`+path+`"}` {
					t.Fatalf("%s was answered %q", path, a.Body)
				}
			}
		})
	}
	if told := lines.String(); strings.Contains(told, strayToken) {
		t.Errorf("the log tells the token: %s", told)
	}
}

// Nor where a request waits for the very connection: net/http hands it on before it looks whether more has come.
func TestStrayAnswerToTheNext(t *testing.T) {
	stray := rawAnswer(`{"access_token":"` + strayToken + `"}`)
	origin := bytePeer(t, func(conn, request int, path string) string { return rawAnswer(path) + stray })
	client := NewHTTPClient(ClientOptions{MostConns: 1})
	client.Timeout = CreateTime
	defer client.CloseIdleConnections()
	var all sync.WaitGroup
	for worker := range 8 {
		all.Go(func() {
			for i := range 100 {
				path := fmt.Sprintf("/%d/%d", worker, i)
				res, err := client.Get(origin + path)
				if err != nil {
					continue // "cannot tell" is an answer
				}
				body, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err == nil && string(body) != path {
					t.Errorf("%s was answered %q", path, body)
					return
				}
			}
		})
	}
	all.Wait()
}

// Each way in which something unasked can lie there when a request is about to be written.
func TestWatchedConn(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for name, read := range map[string]int{"nothing": -1, "in the kernel": 0, "read ahead": 1} {
		t.Run(name, func(t *testing.T) {
			near, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer near.Close()
			far, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer far.Close()
			c := &watchedConn{Conn: near, raw: rawConn(near)}
			if read >= 0 {
				io.WriteString(far, "HTTP/1.1 200 OK")
				for !holdsBytes(c.raw) { // until it has arrived
					runtime.Gosched()
				}
			}
			if n, _ := c.Read(make([]byte, readAhead*min(1, max(read, 0)))); n != max(read, 0) {
				t.Errorf("net/http was given %d bytes behind an answer", n)
			}
			c.begin()
			if _, err := c.Write([]byte("GET")); (err == nil) != (read < 0) {
				t.Errorf("wrote, with %v", err)
			}
		})
	}
}

// Of an answer net/http is given whole lines of the header, and after that no more than it asks for: what follows may be another's.
func TestWatchedConnSteps(t *testing.T) {
	const length, far = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", "{}HTTP/1.1 201 Stray\r\n"
	long := "X: " + strings.Repeat("x", readAhead-len("X: \r\n")) + "\r\n" // it just fits
	for name, test := range map[string]struct {
		answer string
		want   []string
	}{
		"a header":                 {length + "\r\n" + far, []string{length + "\r\n", "{", "}", "H", "T"}},
		"one of more than fits":    {length + long + length + "\r\n" + far, []string{length, long, length + "\r\n", "{", "}"}},
		"one that spaces end":      {length + " \t\r\n" + far, []string{length + " \t\r\n", "{", "}"}},
		"lines of another system":  {"HTTP/1.1 200 OK\n\n" + far, []string{"HTTP/1.1 200 OK\n\n", "{", "}"}},
		"one that has not come":    {"HTTP/1.1", []string{"H", "T"}},
		"half of one":              {length + "Ser", []string{length, "S", "e"}},
		"a line without an end":    {strings.Repeat("x", readAhead+1) + "\n", []string{"x", "x"}},
		"one that another follows": {"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n", []string{"HTTP/1.1 100 Continue\r\n\r\n", "H", "T"}},
	} {
		t.Run(name, func(t *testing.T) {
			near, peer := net.Pipe()
			defer near.Close()
			defer peer.Close()
			c := &watchedConn{Conn: near}
			c.begin()
			go func() {
				io.ReadFull(peer, make([]byte, 3))
				io.WriteString(peer, test.answer)
			}()
			if _, err := c.Write([]byte("GET")); err != nil {
				t.Fatal(err)
			}
			for i, want := range test.want {
				p := make([]byte, readAhead)
				if n, err := c.Read(p); string(p[:n]) != want {
					t.Fatalf("read %d gave %q, %v, want %q", i, p[:n], err, want)
				}
			}
		})
	}
}

// An earlyConn has the first byte of an answer come before the request is written, when it is told to, and the rest behind it.
type earlyConn struct {
	net.Conn
	begin, wrote chan bool
	once         sync.Once
	answer       io.Reader
}

func (c *earlyConn) Read(p []byte) (int, error) {
	if c.begin != nil {
		<-c.begin
		c.begin = nil
		return c.answer.Read(p[:1])
	}
	<-c.wrote
	return c.answer.Read(p)
}

func (c *earlyConn) Write(p []byte) (int, error) {
	c.once.Do(func() { close(c.wrote) })
	return len(p), nil
}

// A readerFunc is an empty body of unknown length: with GET net/http reads it before it writes the request.
type readerFunc func()

func (f readerFunc) Read([]byte) (int, error) { f(); return 0, io.EOF }

// An answer that began before its request was written is another's, where all of it that had come was read by then.
func TestAnswerBeganBefore(t *testing.T) {
	for before := false; !before; { // net/http waits 200 ms for the body, then it writes
		begin, first, wrote := make(chan bool), make(chan bool), make(chan bool)
		client := NewHTTPClient(ClientOptions{Dial: func(context.Context, string, string) (net.Conn, error) {
			near, far := net.Pipe()
			t.Cleanup(func() { near.Close(); far.Close() })
			return &earlyConn{Conn: near, begin: begin, wrote: wrote, answer: strings.NewReader(rawAnswer("stray"))}, nil
		}})
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotFirstResponseByte: func() { close(first) }})
		began := sync.OnceFunc(func() {
			close(begin)
			<-first
			select {
			case <-wrote:
			default:
				before = true
			}
		})
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://x/", readerFunc(began))
		if err != nil {
			t.Fatal(err)
		}
		req.ContentLength = -1
		res, err := client.Do(req)
		began() // has ended when this returns
		if before && !errors.Is(err, errUnsolicited) {
			t.Errorf("got %v, %v", res, err)
		}
	}
}

// A connection without strays is used again.
func TestKeptConnection(t *testing.T) {
	h := NewClient(bytePeer(t, func(conn, request int, path string) string {
		return rawAnswer(fmt.Sprintf("%d.%d", conn, request))
	}), "example.org")
	for i := range 3 {
		if a, err := h.Binding().Call(t.Context(), Request{Within: ReadTime, Method: http.MethodGet, Path: "/"}); err != nil || string(a.Body) != fmt.Sprintf("1.%d", i+1) {
			t.Errorf("binding call %d: got %q, %v", i, a.Body, err)
		}
	}
	for i := range 3 { // as the answer does not say what it answers
		if a, err := h.Call(t.Context(), Request{Within: ReadTime, Method: http.MethodGet, Path: "/"}); err != nil || string(a.Body) != fmt.Sprintf("%d.1", i+2) {
			t.Errorf("other call %d: got %q, %v", i, a.Body, err)
		}
	}
	h.http.CloseIdleConnections()
}

// An answer to another question is no profile.
func TestProfileForms(t *testing.T) {
	for body, want := range map[string]bool{
		`{"displayname":"x"}`: true, `{"displayname":null}`: true, `{}`: true,
		`{"user_id":"@x:y","access_token":"z"}`: false, `{"displayname":"x","user_id":"@x:y"}`: false, `{"nonce":"x"}`: false,
		`{"displayname":1}`: false, `{"DisplayName":"x"}`: false, `[]`: false, `null`: false, ``: false, `{"duration_ms":1}`: false,
	} {
		if _, got := (Answer{Status: 200, Body: []byte(body)}).profileName(); got != want {
			t.Errorf("%s: got %v, want %v", body, got, want)
		}
	}
}

// No client uses a proxy. Not by the environment in a test: net/http reads it once, and leaves this machine out.
func TestNoProxy(t *testing.T) {
	if made := NewHTTPClient(ClientOptions{}).Transport.(*watchedTransport); made.kept.Proxy != nil || made.own.Proxy != nil {
		t.Error("the client uses a proxy")
	}
}

// An answer's header takes no memory to speak of, however it is made.
func TestHeaderBombs(t *testing.T) {
	const status = "HTTP/1.1 200 OK\r\n"
	short := new(strings.Builder)
	for i := 0; short.Len() < 10<<20; i++ {
		fmt.Fprintf(short, "%x:\r\n", i)
	}
	for name, bomb := range map[string]string{
		"lines":    status + short.String(),
		"one line": status + "X: " + strings.Repeat("x", 10<<20),
		"status":   "HTTP/1.1 200 " + strings.Repeat("x", 10<<20),
		"1xx":      strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", 200_000),
		"100":      strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 200_000),
		"trailers": status + "Transfer-Encoding: chunked\r\nTrailer: X\r\n\r\n0\r\n" + short.String(),
	} {
		t.Run(name, func(t *testing.T) {
			h := NewClient(bytePeer(t, func(int, int, string) string { return bomb }), "example.org")
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			a, err := h.Call(t.Context(), Request{Within: ReadTime, Method: http.MethodGet, Path: "/"})
			runtime.ReadMemStats(&after)
			if err == nil && a.Cut == nil {
				t.Error("the answer was taken")
			}
			const most = 8 << 20 // in all, most of it garbage at once
			if took := after.TotalAlloc - before.TotalAlloc; took > most {
				t.Errorf("took %d KiB", took>>10)
			} else {
				t.Logf("took %d KiB", took>>10)
			}
		})
	}
}
