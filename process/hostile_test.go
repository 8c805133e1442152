// hostile_test.go owns what clients cannot do to the daemon, nor to other clients.

package process

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/daemon"
	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
	"github.com/SmartMeshFoundation/matrix-regservice/e2e/standin"
)

const (
	anonLimit        = 64 << 20 // bytes of anonymous memory, whatever is done to the service
	starved          = 4        // a service that waits so many times longer for a processor than it runs does not get what the promise of memory is under
	healthyShare     = 10       // a healthy client is served at least so many times less often than one of a service that is left alone
	appServicePath   = "/regapp/1"
	bodyLimit        = 8 << 10  // bytes of a registration's body
	transactionLimit = 16 << 20 // and of a transaction's

	endTime = 40 * time.Second // by which the service has ended what is done to it; the longest of its time limits is 10 s
)

// A victim is the program as it is built, serving on TCP, with everybody's limits.
type victim struct {
	*testing.T
	address    string
	ops        string
	pid        int
	log        string // the file
	started    time.Time
	homeserver *standin.Homeserver
	peak       atomic.Int64 // of its anonymous memory, in bytes
	came       atomic.Int64 // healthy clients
	served     atomic.Int64 // of them
	control    *victim      // a service that nothing is done to
}

func startVictim(t *testing.T) *victim {
	t.Helper()
	daemon.NeedMemory(t)
	program := plainProgram(t) // whose memory no race detector multiplies
	v := serveVictim(t, program)
	v.control = serveVictim(t, program)
	return v
}

func serveVictim(t *testing.T, program string) *victim {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/secret", []byte(standin.Secret), 0o600); err != nil {
		t.Fatal(err)
	}
	v := &victim{T: t, homeserver: standin.New(t)}
	cmd := exec.Command(program, "--matrixdomain", standin.ServerName, "--matrixurl", v.homeserver.URL+standin.SharedSecretPath, "--hstoken", standin.HSToken,
		"--sharesecret-file", "secret", "--port", "0", "--ops-listen", "127.0.0.1:0", "--verbosity", "5", "--log-format", "json")
	cmd.Dir = dir
	stderr, err := os.Create(dir + "/stderr")
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = stderr
	told := daemon.Announced(t, cmd)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	v.pid, v.log, v.started = cmd.Process.Pid, stderr.Name(), time.Now()
	ended, failed := make(chan struct{}), error(nil)
	go func() { failed = cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		if <-ended; failed != nil {
			said, _ := os.ReadFile(stderr.Name())
			t.Errorf("the service: %v\n%.2000s", failed, said)
		}
	})
	v.address, v.ops = told(ended)
	return v
}

// anon is the anonymous memory that the service has now, in bytes.
func (v *victim) anon() int64 {
	bytes, err := daemon.AnonymousMemory(v.pid)
	if err != nil {
		v.Errorf("the service's memory cannot be read: %v", err)
	}
	return bytes
}

// processor is how long the service's threads ran, and how long they waited for a processor that others had. Threads that have
// ended are left out; Go keeps its own.
func (v *victim) processor() (ran, waited time.Duration) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", v.pid))
	if err != nil {
		v.Error(err)
	}
	for _, thread := range threads {
		var r, w time.Duration
		if text, err := os.ReadFile(thread); err == nil {
			fmt.Sscan(string(text), &r, &w) // nanoseconds
		}
		ran, waited = ran+r, waited+w
	}
	return ran, waited
}

// watch measures, and has healthy clients come to the service and to the one that is left alone, until the function that
// it returns is called.
func (v *victim) watch() (stop func()) {
	done := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		for ; ; time.Sleep(20 * time.Millisecond) {
			v.peak.Store(max(v.peak.Load(), v.anon()))
			select {
			case <-done:
				return
			default:
			}
		}
	})
	for _, at := range []*victim{v, v.control} {
		at.T = v.T
		at.served.Store(0)
		all.Go(func() {
			for ; ; time.Sleep(200 * time.Millisecond) {
				at.healthy()
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	return func() { close(done); all.Wait() }
}

// healthy is a node that comes for the first time.
func (v *victim) healthy() {
	body, _ := json.Marshal(daemon.NewNode(v.T))
	client := &http.Client{Timeout: daemon.Patience, Transport: &http.Transport{DisableKeepAlives: true}}
	req, _ := http.NewRequest(http.MethodPost, "http://"+v.address+daemon.RegisterPath, bytes.NewReader(body))
	req.Header.Set("X-Forwarded-For", fmt.Sprintf("192.0.2.%d", v.came.Add(1)%256))
	res, err := client.Do(req)
	if err != nil {
		v.Errorf("a healthy client: %v", err)
		return
	}
	defer res.Body.Close()
	said, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode == http.StatusBadGateway && bytes.Contains(said, []byte("did not answer in time")) {
		return // the stand-in of the homeserver, in this process, was too slow on a busy machine: it was not served, that is all
	}
	if err != nil || res.StatusCode != 200 {
		v.Errorf("a healthy client: got %d %s, %v", res.StatusCode, said, err)
		return
	}
	v.served.Add(1)
}

// metric is a number that the service tells its operator.
func (v *victim) metric(name string) int {
	v.Helper()
	client := &http.Client{Timeout: daemon.Patience}
	res, err := client.Get("http://" + v.ops + "/metrics")
	if err != nil {
		v.Error(err)
		return 0
	}
	defer res.Body.Close()
	for scanner := bufio.NewScanner(res.Body); scanner.Scan(); {
		if value, ok := strings.CutPrefix(scanner.Text(), "matrix_regservice_"+name+" "); ok {
			number, _ := strconv.ParseFloat(value, 64)
			return int(number)
		}
	}
	v.Errorf("there is no metric %s", name)
	return 0
}

func (v *victim) dial() *net.TCPConn {
	v.Helper()
	conn, err := net.DialTimeout("tcp", v.address, daemon.Patience)
	if err != nil {
		v.Fatal(err)
	}
	v.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(daemon.Patience))
	return conn.(*net.TCPConn)
}

// dialNarrow connects with a receive buffer that few answers fill.
func (v *victim) dialNarrow() *net.TCPConn {
	v.Helper()
	narrow := func(_, _ string, raw syscall.RawConn) (err error) { // before a window is offered, which cannot be taken back
		controlErr := raw.Control(func(fd uintptr) {
			err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 1<<10)
		})
		return errors.Join(controlErr, err)
	}
	conn, err := (&net.Dialer{Timeout: endTime, Control: narrow}).Dial("tcp", v.address)
	if err != nil {
		v.Fatal(err)
	}
	v.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(endTime))
	conn.(*net.TCPConn).SetWriteBuffer(4 << 10)
	return conn.(*net.TCPConn)
}

// many does it so many times at once.
func many(count int, do func(i int)) {
	var all sync.WaitGroup
	for i := range count {
		all.Go(func() { do(i) })
	}
	all.Wait()
}

// trickles sends a start and then a piece again and again, and wants the service to end it.
func (v *victim) trickles(start, piece string) {
	conn := v.dial()
	go func() {
		_, err := io.WriteString(conn, start)
		for ; err == nil; time.Sleep(100 * time.Millisecond) {
			_, err = io.WriteString(conn, piece)
		}
	}()
	v.ends(conn)
}

// ends wants the service to close the connection.
func (v *victim) ends(conn net.Conn) {
	v.Helper()
	conn.SetReadDeadline(time.Now().Add(endTime))
	if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
		v.Errorf("after %v the connection is still open", endTime)
	}
	conn.Close()
}

// says sends a request, and wants this status.
func (v *victim) says(request string, want int) {
	v.Helper()
	v.sends([]byte(request), want)
}

// sends does so with what many send: a copy for each would take this process longer than the service takes for all.
func (v *victim) sends(request []byte, want int) {
	v.Helper()
	conn := v.dial()
	defer conn.Close()
	go conn.Write(request) // the answer may come before it is taken
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		v.Errorf("got %v, want %d", err, want)
		return
	}
	defer res.Body.Close()
	if res.StatusCode != want {
		v.Errorf("got %d, want %d", res.StatusCode, want)
	}
	io.Copy(io.Discard, res.Body)
}

const (
	hostileHead = "POST " + daemon.RegisterPath + " HTTP/1.1\r\nHost: x\r\n"
	transaction = "PUT " + appServicePath + "/_matrix/app/v1/transactions/1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + standin.HSToken + "\r\n"
)

// post is a whole request with the body.
func hostilePost(body string) string {
	return fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s", hostileHead, len(body), body)
}

// Whatever clients do, it costs them a bounded time and the service a bounded memory, and healthy clients are served
// meanwhile.
func TestHostileClients(t *testing.T) {
	good := func() string {
		body, _ := json.Marshal(daemon.NewNode(t))
		return string(body)
	}
	chunks := strings.Repeat("400\r\n"+strings.Repeat("x", 0x400)+"\r\n", 100)
	endless := func(v *victim, start string, want int) {
		conn := v.dial()
		go func() {
			_, err := io.WriteString(conn, start+"Transfer-Encoding: chunked\r\n\r\n")
			for err == nil {
				_, err = io.WriteString(conn, chunks)
			}
		}()
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err == nil && res.StatusCode != want {
			v.Errorf("got %d, want %d", res.StatusCode, want)
		} // or the connection broke, since it was still being written to
		v.ends(conn)
	}
	fields := new(strings.Builder)
	for i := 0; fields.Len() < 7<<10; i++ {
		fmt.Fprintf(fields, "%x:\r\n", i)
	}
	most, clients, opened := 500, 20, 3_000
	if need.Long() {
		most, clients, opened = 2000, 60, 10_000
	}
	waiting := []struct { // for the service's time limits, each at a service of its own
		name string
		do   func(*victim)
	}{
		{"header trickle", func(v *victim) { many(300, func(int) { v.trickles(hostileHead+"X: ", "x") }) }},
		{"header lines trickle", func(v *victim) { many(300, func(int) { v.trickles(hostileHead, "X: x\r\n") }) }},
		{"body trickle", func(v *victim) {
			many(300, func(int) { v.trickles(hostileHead+"Content-Length: 8000\r\n\r\n", "x") })
		}},
		{"chunks trickle", func(v *victim) {
			many(300, func(int) { v.trickles(hostileHead+"Transfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n") })
		}},
		{"silent connections", func(v *victim) { many(1000, func(int) { v.ends(v.dial()) }) }},
		{"reading a byte a second", func(v *victim) { v.pipelinesUnread(300, clients, time.Second) }},
		{"bodies that lack a byte", func(v *victim) {
			many(1900, func(int) {
				conn := v.dial()
				io.WriteString(conn, strings.TrimSuffix(hostilePost(strings.Repeat("x", bodyLimit)), "x"))
				v.ends(conn)
			})
		}},
	}
	tests := []struct {
		name string
		do   func(*victim)
	}{
		{"40,000 addresses", (*victim).addresses},
		{"idle connections", func(v *victim) { v.idle(opened) }},
		{"never-ending chunked body", func(v *victim) { many(50, func(int) { endless(v, hostileHead, 413) }) }},
		{"never-ending chunked transaction", func(v *victim) { many(8, func(int) { endless(v, transaction, 413) }) }},
		{"50 MB body", func(v *victim) {
			request := []byte(hostilePost(strings.Repeat("x", 50<<20)))
			many(20, func(int) { v.sends(request, 413) })
		}},
		{"transactions of 16 MiB", func(v *victim) {
			body := strings.Repeat("x", transactionLimit)
			request := fmt.Appendf(nil, "%sContent-Length: %d\r\n\r\n%s", transaction, len(body), body)
			many(32, func(int) { v.sends(request, 200) })
		}},
		{"many fields and a body that lacks a byte", func(v *victim) {
			many(1900, func(int) {
				conn := v.dial()
				io.WriteString(conn, hostileHead+fields.String()+"Content-Length: 2\r\n\r\n{")
				v.ends(conn)
			})
		}},
		{"many fields and no end of them", func(v *victim) {
			many(1900, func(int) {
				conn := v.dial()
				io.WriteString(conn, hostileHead+fields.String())
				v.ends(conn)
			})
		}},
		{"huge header", func(v *victim) {
			many(50, func(int) { v.says(hostileHead+"X: "+strings.Repeat("x", 1<<20)+"\r\n\r\n", 431) })
		}},
		{"pipelining", (*victim).pipelines},
		{"not reading", func(v *victim) { v.pipelinesUnread(most, clients, 0) }},
		{"half-closing", func(v *victim) {
			v.halfCloses(hostilePost(good()), 200)
			many(300, func(int) { v.halfCloses(hostilePost("x"), 400) })
			many(300, func(i int) { v.halfCloses(hostilePost("xyz")[:i%len(hostilePost("xyz"))], 0) })
		}},
		{"resetting in the middle", func(v *victim) {
			request := hostilePost("x") + "GET / HTTP/1.1\r\nHost: x\r\n\r\n" + hostilePost(strings.Repeat("x", bodyLimit))
			many(2000, func(i int) {
				conn := v.dial()
				io.WriteString(conn, request[:i*len(request)/2000])
				conn.SetLinger(0)
				conn.Close()
			})
			v.forgets()
		}},
		{"HTTP/1.0", func(v *victim) {
			v.says(strings.Replace(hostilePost(good()), "HTTP/1.1\r\nHost: x", "HTTP/1.0", 1), 200)
		}},
		{"no Host", func(v *victim) { v.says(strings.Replace(hostilePost(good()), "Host: x\r\n", "", 1), 400) }},
		{"bad Host", func(v *victim) { v.says(strings.Replace(hostilePost(good()), "Host: x", "Host: a b\x01", 1), 400) }},
		{"two Hosts", func(v *victim) { v.says(strings.Replace(hostilePost(good()), "Host: x", "Host: x\r\nHost: y", 1), 400) }},
		{"absolute-form URI", func(v *victim) {
			v.says(strings.Replace(hostilePost(good()), daemon.RegisterPath, "http://elsewhere.example"+daemon.RegisterPath, 1), 200)
		}},
		{"two lengths", func(v *victim) {
			v.says(strings.Replace(hostilePost("{}"), "Content-Length: 2", "Content-Length: 2\r\nContent-Length: 3", 1), 400)
		}},
		{"duplicate keys", func(v *victim) { v.says(hostilePost(`{"localpart":"x",`+good()[1:]), 200) }},
		{"deep nesting", func(v *victim) {
			many(200, func(int) {
				v.says(hostilePost(strings.Repeat("[", bodyLimit/2)+strings.Repeat("]", bodyLimit/2)), 400)
			})
		}},
		{"deep nesting in a field", func(v *victim) {
			v.says(hostilePost(`{"localpart":`+strings.Repeat(`{"x":`, 1000)+"1"+strings.Repeat("}", 1001)), 400)
		}},
		{"NUL", func(v *victim) { v.says(hostilePost("\x00"+good()), 400) }},
		{"NUL in a field", func(v *victim) { v.says(hostilePost(strings.Replace(good(), "0x", `0x\u0000`, 1)), 400) }},
		{"invalid UTF-8", func(v *victim) { v.says(hostilePost(strings.Replace(good(), "0x", "0x\xff\xfe", 1)), 400) }},
	}
	t.Parallel() // most of it is waiting for time limits
	for _, test := range waiting {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			v := startVictim(t)
			v.withstands(t, test.do)
			v.logsLittle()
		})
	}
	v := startVictim(t)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { v.withstands(t, test.do) })
	}
	v.T = t
	v.logsLittle()
}

// withstands does something to the service, and wants its memory bounded and healthy clients served meanwhile.
func (v *victim) withstands(t *testing.T, do func(*victim)) {
	t.Helper()
	v.T = t
	v.peak.Store(0)
	ranBefore, waitedBefore := v.processor()
	start, stop := time.Now(), v.watch()
	do(v)
	stop()
	ran, waited := v.processor()
	ran, waited = ran-ranBefore, waited-waitedBefore
	served, alone := v.served.Load(), v.control.served.Load()
	t.Logf("%v, %d healthy clients, %d of a service left alone, at most %d KiB of anonymous memory, then %d; it ran %v and waited %v for a processor", time.Since(start).Round(time.Millisecond), served, alone, v.peak.Load()>>10, v.anon()>>10, ran, waited)
	if served*healthyShare < alone {
		t.Errorf("%d healthy clients were served, and %d of a service that is left alone", served, alone)
	}
	limit := int64(anonLimit)
	if waited > starved*ran { // garbage is collected later then
		limit *= 2
	}
	if peak := v.peak.Load(); peak >= limit {
		t.Errorf("the service has %d KiB of anonymous memory, want less than %d", peak>>10, limit>>10)
	}
}

// logsLittle wants the log to hold of each kind of line no more than there may be since the start. The longer this takes,
// the more there may be.
func (v *victim) logsLittle() {
	text, err := os.ReadFile(v.log)
	if err != nil {
		v.Fatal(err)
	}
	most := 100 + 1 + int(time.Since(v.started)/(10*time.Second)) // of a kind: at once, and then one in each interval
	lines := map[string]int{}
	for text := range bytes.Lines(text) {
		var line struct {
			Msg, Errcode, Kind string
			Status             int
		}
		if err := json.Unmarshal(text, &line); err != nil {
			v.Fatalf("%.300s: %v", text, err)
		}
		if line.Msg != "Registered node" {
			lines[fmt.Sprint(line)]++
		}
		if len(text) > 1000 {
			v.Errorf("a line of %d bytes: %.300s", len(text), text)
		}
	}
	for line, count := range lines {
		if count > most {
			v.Errorf("%d lines of %s, want at most %d", count, line, most)
		}
	}
	v.Logf("%d bytes in the log after %v, of lines that are no successes: %v", len(text), time.Since(v.started).Round(time.Second), lines)
}

// forgets wants the service to hold no more connections than healthy clients and those who ask for this have.
func (v *victim) forgets() {
	v.Helper()
	for deadline := time.Now().Add(endTime); v.metric("connections") > 20; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			v.Errorf("the service still holds %d connections", v.metric("connections"))
			return
		}
	}
}

// pipelinesUnread has so many connections ask without end and take of the answers a byte at each interval, or none for 0,
// with more that come in the place of those that were closed, until so many healthy clients have been served, and wants the
// service to end them all. That is asked of the service: a reset need not get through to who does not read.
func (v *victim) pipelinesUnread(count, clients int, interval time.Duration) {
	v.Helper()
	requests := strings.Repeat("GET "+appServicePath+"/users/x HTTP/1.1\r\nHost: x\r\n\r\n", 20)
	var conns []*net.TCPConn
	var all sync.WaitGroup
	attack := func() {
		conn := v.dialNarrow()
		conns = append(conns, conn)
		all.Go(func() {
			for err := error(nil); err == nil; {
				_, err = io.WriteString(conn, requests)
			}
		})
		if interval > 0 {
			all.Go(func() {
				for err := error(nil); err == nil; time.Sleep(interval) {
					_, err = conn.Read(make([]byte, 1))
				}
			})
		}
	}
	for range count {
		attack()
	}
	for until := v.served.Load() + int64(clients); v.served.Load() < until; time.Sleep(100 * time.Millisecond) {
		for range count / 100 {
			attack()
		}
	}
	v.forgets()
	for _, conn := range conns {
		conn.Close()
	}
	all.Wait()
}

// halfCloses sends all that it will ever send, and wants an answer of the status, or for 0 any or none, and the end.
func (v *victim) halfCloses(sent string, want int) {
	v.Helper()
	conn := v.dial()
	io.WriteString(conn, sent)
	conn.CloseWrite()
	answers := bufio.NewReader(conn)
	if want != 0 {
		res, err := http.ReadResponse(answers, nil)
		if err != nil || res.StatusCode != want {
			v.Errorf("got %v, %v, want %d", res, err, want)
			return
		}
		io.Copy(io.Discard, res.Body)
	}
	v.ends(conn)
}

// idle opens so many connections that have had an answer each, and keeps them. The service keeps 2,000.
func (v *victim) idle(opened int) {
	limit := syscall.Rlimit{}
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		v.Fatal(err)
	}
	limit.Cur = limit.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || limit.Cur < uint64(opened)+1000 {
		v.Fatalf("this test needs %d open files: raise ulimit -Hn, which is %d (%v)", opened+1000, limit.Cur, err)
	}
	before := v.metric("connections_crowded_out_total")
	conns := make([]*net.TCPConn, opened)
	for i := range conns {
		conns[i] = v.dial()
		io.WriteString(conns[i], "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		if i%100 == 99 { // so that the healthy wait behind a hundred, and not behind all that the system's queue takes
			conns[i].Read(make([]byte, 1))
		}
	}
	daemon.Eventually(v, "room was made for all", func() bool {
		return v.metric("connections_crowded_out_total")-before >= opened-2000
	})
	kept := 0
	daemon.Eventually(v, "2,000 connections are kept", func() bool { // what gives way is closed behind the count
		kept = 0
		for _, conn := range conns {
			if isOpen(conn) {
				kept++
			}
		}
		return kept <= 2000
	})
	if kept < 1900 { // some of the places are healthy clients'
		v.Errorf("%d of the connections are kept, want 2,000", kept)
	}
	if held := v.metric("connections"); held > 2000 {
		v.Errorf("the service says that it holds %d connections", held)
	}
	for _, conn := range conns {
		conn.Close()
	}
}

// isOpen tells, without waiting, whether the other side has not closed the connection.
func isOpen(conn *net.TCPConn) bool {
	raw, err := conn.SyscallConn()
	if err != nil {
		return false
	}
	buffer, open := make([]byte, 4096), false
	raw.Read(func(fd uintptr) bool {
		for {
			n, err := syscall.Read(int(fd), buffer)
			if n <= 0 {
				open = err == syscall.EAGAIN
				return true
			}
		}
	})
	return open
}

// addresses asks for more clients than are remembered.
func (v *victim) addresses() {
	many(8, func(i int) {
		const requests = 5000
		conn := v.dial()
		go func() {
			out := bufio.NewWriter(conn)
			for j := range requests {
				fmt.Fprintf(out, "%sX-Forwarded-For: 10.%d.%d.%d\r\nContent-Length: 1\r\n\r\nx", hostileHead, i, j/256, j%256)
			}
			out.Flush()
		}()
		answers := bufio.NewReader(conn)
		for range requests {
			res, err := http.ReadResponse(answers, nil)
			if err != nil {
				v.Error(err)
				return
			}
			io.Copy(io.Discard, res.Body)
			if res.StatusCode != 400 {
				v.Errorf("got %d, want 400", res.StatusCode)
			}
		}
	})
}

// pipelines sends requests without waiting for their answers, which come in order.
func (v *victim) pipelines() {
	const requests = 1000
	conn := v.dial()
	go io.WriteString(conn, strings.Repeat(hostilePost("x")+"GET / HTTP/1.1\r\nHost: x\r\n\r\n", requests))
	answers := bufio.NewReader(conn)
	for i := range requests {
		for _, want := range []int{400, 404} {
			res, err := http.ReadResponse(answers, nil)
			if err != nil {
				v.Fatalf("answer %d: %v", i, err)
			}
			io.Copy(io.Discard, res.Body)
			if res.StatusCode != want {
				v.Fatalf("answer %d: got %d, want %d", i, res.StatusCode, want)
			}
		}
	}
}
