// Package load owns the parts of a benchmark of the program: its clients, its homeserver, and the program itself as a process. It
// knows nothing of the program's code.
package load

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e"
	"github.com/SmartMeshFoundation/matrix-regservice/e2e/daemon"
	"github.com/SmartMeshFoundation/matrix-regservice/e2e/mas"
	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
	"github.com/SmartMeshFoundation/matrix-regservice/e2e/standin"
	"golang.org/x/sys/unix"
)

const addressDigits = 40 // of a localpart, after 0x

// A Homeserver answers the calls of every API at once and keeps nothing. It parses no more of a request than
// it has to: it shares the machine's cores with what is measured.
type Homeserver struct {
	net.Listener
	URL string
}

// StartHomeserver starts one, until the benchmark ends.
func StartHomeserver(b *testing.B) *Homeserver {
	b.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { listener.Close() })
	h := &Homeserver{listener, "http://" + listener.Addr().String()}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go h.answer(conn)
		}
	}()
	return h
}

func (h *Homeserver) answer(conn net.Conn) {
	defer conn.Close()
	r := bufio.NewReader(conn)
	for {
		line, body, err := readMessage(r)
		if err != nil {
			return
		}
		status, said := h.say(line, body)
		if _, err := fmt.Fprintf(conn, "HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", status, len(said), said); err != nil {
			return
		}
	}
}

// say is the answer to a request.
func (h *Homeserver) say(line string, body []byte) (status, said string) {
	const ok = "200 OK"
	switch method, path, _ := strings.Cut(line, " "); {
	case strings.HasPrefix(path, "/_matrix/federation/v1/version"):
		return ok, `{"server":{"name":"Synapse","version":"1.163.2"}}`
	case strings.HasPrefix(path, "/_matrix/key/v2/server"):
		return ok, `{"server_name":"` + standin.ServerName + `"}`
	case strings.HasPrefix(path, standin.SharedSecretPath) && method == http.MethodGet:
		return ok, `{"nonce":"` + strings.Repeat("0123456789abcdef", 8) + `"}`
	case strings.HasPrefix(path, mas.TokenPath):
		return ok, `{"access_token":"mat_of_a_benchmark","expires_in":300}`
	case strings.HasPrefix(path, standin.MASPath+"/"): // the password
		return "204 No Content", ""
	case strings.HasPrefix(path, "/_matrix/client/v3/profile/") && method == http.MethodPut:
		return ok, "{}"
	case strings.HasPrefix(path, standin.MASPath):
		at := bytes.Index(body, []byte(`"0x`))
		return "201 Created", `{"data":{"id":"` + standin.MASClientID + `","attributes":{"username":"` + string(body[at+1:at+1+len("0x")+addressDigits]) + `"}}}`
	case strings.HasPrefix(path, standin.SharedSecretPath), strings.HasPrefix(path, standin.CreateUserPath):
		at := bytes.Index(body, []byte(`"0x`)) // a localpart is the only value that begins so
		if at < 0 {                            // it is asked whether it has the path
			return "403 Forbidden", `{"errcode":"M_UNKNOWN","error":"Invalid application service token."}`
		}
		localpart := string(body[at+1 : at+1+len("0x")+addressDigits])
		return ok, `{"user_id":"` + "@" + localpart + ":" + standin.ServerName + `","access_token":"MDAyOGxvY2F0aW9uIHRva2VuMTIzNDU2Nzg5","home_server":"` + standin.ServerName + `"}`
	}
	return "404 Not Found", `{"errcode":"M_NOT_FOUND","error":"Profile was not found"}`
}

// readMessage reads a request or an answer whose body has a length.
func readMessage(r *bufio.Reader) (line string, body []byte, err error) {
	first, err := r.ReadString('\n')
	length := 0
	for err == nil {
		var header []byte
		header, err = r.ReadSlice('\n')
		if len(header) <= 2 {
			break
		}
		if name, value, _ := bytes.Cut(header, []byte(": ")); bytes.EqualFold(name, []byte("Content-Length")) {
			length, err = strconv.Atoi(string(bytes.TrimSpace(value)))
		}
	}
	if err != nil {
		return "", nil, err
	}
	body = make([]byte, length)
	_, err = io.ReadFull(r, body)
	return first, body, err
}

// Message is a whole request with a JSON body, as a node sends it but for the connection, which is kept.
func Message(method, path, body string, headers ...string) []byte {
	return []byte(method + " " + path + " HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: " +
		strconv.Itoa(len(body)) + "\r\n" + strings.Join(append(headers, ""), "\r\n") + "\r\n" + body)
}

// NewRequests signs as many registrations, each of a key of its own, and returns them as whole requests.
func NewRequests(b *testing.B, count int, kept bool) [][]byte {
	b.Helper()
	requests := make([][]byte, count)
	for i := range requests {
		requests[i] = RegisterMessage(b, daemon.NewNode(b), kept)
	}
	return requests
}

// RegisterMessage is the request of a node, whose connection is kept or, as nodes want it, closed.
func RegisterMessage(b *testing.B, node e2e.Registration, kept bool) []byte {
	b.Helper()
	body, err := json.Marshal(node)
	if err != nil {
		b.Fatal(err)
	}
	if kept {
		return Message("POST", daemon.RegisterPath, string(body))
	}
	return Message("POST", daemon.RegisterPath, string(body), "Connection: close")
}

// Figures are what clients saw of a load, and what it cost.
type Figures struct {
	Latencies []time.Duration
	Took      time.Duration
	CPU       time.Duration // of the gateway
}

// Add adds those of a further round.
func (f *Figures) Add(more Figures) {
	f.Latencies = append(f.Latencies, more.Latencies...)
	f.Took, f.CPU = f.Took+more.Took, f.CPU+more.CPU
}

// P50 is the median.
func (f *Figures) P50() time.Duration {
	slices.Sort(f.Latencies)
	return f.Latencies[len(f.Latencies)/2]
}

// Report adds the figures of a benchmark whose operations are requests; what names them, as in cpu-ms/what.
func (f *Figures) Report(b *testing.B, what string) {
	b.Helper()
	n := len(f.Latencies)
	b.ReportMetric(0, "ns/op") // of a whole round, which says nothing
	b.ReportMetric(float64(n)/f.Took.Seconds(), what+"/s")
	b.ReportMetric(f.CPU.Seconds()*1e3/float64(n), "cpu-ms/"+what)
	f.ReportTimes(b, "")
}

// ReportTimes adds the median and the 99th percentile; what is put before their names.
func (f *Figures) ReportTimes(b *testing.B, what string) {
	b.Helper()
	b.ReportMetric(f.P50().Seconds()*1e3, what+"p50-ms")
	b.ReportMetric(f.Latencies[len(f.Latencies)*99/100].Seconds()*1e3, what+"p99-ms")
}

// An Aim is where requests go and what they are to be answered.
type Aim struct {
	Address  string
	Status   string // of every answer
	DialEach bool   // a connection for each request, as nodes do it
}

// Send sends all requests over so many connections at once.
func (a Aim) Send(b *testing.B, conns int, requests [][]byte) Figures {
	b.Helper()
	var f Figures
	var mu sync.Mutex
	var failed sync.Once
	var all sync.WaitGroup
	start := time.Now()
	for i := range conns {
		all.Go(func() {
			mine := make([]time.Duration, 0, len(requests)/conns+1)
			client := Client{Aim: a}
			defer client.Close()
			for ; i < len(requests); i += conns {
				began := time.Now()
				if err := client.Ask(requests[i]); err != nil {
					failed.Do(func() { b.Error(err) })
					return
				}
				mine = append(mine, time.Since(began))
			}
			mu.Lock()
			defer mu.Unlock()
			f.Latencies = append(f.Latencies, mine...)
		})
	}
	all.Wait()
	f.Took = time.Since(start)
	if b.Failed() {
		b.FailNow()
	}
	return f
}

// A Client is one client's connection.
type Client struct {
	Aim
	conn net.Conn
	r    *bufio.Reader
}

// Close closes the connection, if there is one.
func (c *Client) Close() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

// Ask sends a request, and wants an answer of the status.
func (c *Client) Ask(request []byte) (err error) {
	if c.conn == nil {
		if c.conn, err = net.Dial("tcp", c.Address); err != nil {
			return err
		}
		c.r = bufio.NewReader(c.conn)
	}
	if c.DialEach {
		defer c.Close()
	}
	if _, err := c.conn.Write(request); err != nil {
		return err
	}
	line, body, err := readMessage(c.r)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(line, "HTTP/1.1 "+c.Status) {
		return fmt.Errorf("got %s%s, want %s", line, body, c.Status)
	}
	return nil
}

// A Gateway is the program itself, built and started as a process of its own.
type Gateway struct {
	cmd     *exec.Cmd
	ended   chan struct{}
	failed  error // how it ended
	stopped bool
	address string
	Ready   time.Duration // from its start to its first answer
}

// Start starts the program with its store in the directory and waits until it answers.
func Start(b *testing.B, binary, dir, homeserverURL, apiPath string) *Gateway {
	b.Helper()
	cmd := exec.Command(binary, "--matrixdomain", standin.ServerName, "--port", "0", "--datapath", dir,
		"--matrixurl", homeserverURL+apiPath, "--astoken", standin.ASToken, "--hstoken", standin.HSToken,
		"--rate-limit", "0", "--total-rate-limit", "0", "--max-inflight", "128", "--max-connections", "0")
	if apiPath == standin.SharedSecretPath {
		cmd.Args = append(cmd.Args, "--sharesecret", standin.Secret)
	}
	if apiPath == standin.MASPath {
		secret := filepath.Join(b.TempDir(), "secret")
		if err := os.WriteFile(secret, []byte(standin.MASSecret), 0o600); err != nil {
			b.Fatal(err)
		}
		cmd.Args = append(cmd.Args, "--homeserver-url", homeserverURL, "--mas-client-id", standin.MASClientID, "--mas-client-secret-file", secret)
	}
	return start(b, cmd)
}

// StartLeast starts bench/least, built, with the secret that lets it create accounts. Further arguments are its own.
func StartLeast(b *testing.B, binary, dir, homeserverURL, secret string, args ...string) *Gateway {
	b.Helper()
	return start(b, exec.Command(binary, append([]string{dir, homeserverURL, standin.ServerName, secret}, args...)...))
}

// start starts a program that says where it serves, and waits until it answers.
func start(b *testing.B, cmd *exec.Cmd) *Gateway {
	b.Helper()
	logFile, err := os.Create(filepath.Join(b.TempDir(), "gateway"+rand.Text()[:8]+".log"))
	if err != nil {
		b.Fatal(err)
	}
	defer logFile.Close()
	g := &Gateway{cmd: cmd, ended: make(chan struct{})}
	g.cmd.Stdout, g.cmd.Stderr = logFile, logFile
	told := daemon.Announced(b, g.cmd)
	start := time.Now()
	if err := g.cmd.Start(); err != nil {
		b.Fatal(err)
	}
	go func() { g.failed = g.cmd.Wait(); close(g.ended) }()
	b.Cleanup(func() { g.Stop(b) })
	g.address, _ = told(g.ended)
	probe := Message("GET", daemon.RegisterPath, "")
	for {
		client := Client{Aim: Aim{Address: g.address, Status: "4"}} // which is no POST
		err := client.Ask(probe)
		client.Close()
		if g.Ready = time.Since(start); err == nil {
			return g
		}
		if g.Ready > 10*time.Second {
			logged, _ := os.ReadFile(logFile.Name())
			b.Fatalf("the gateway does not answer: %v\n%s", err, logged)
		}
		time.Sleep(200 * time.Microsecond)
	}
}

// Stop ends the program; a second call does nothing.
func (g *Gateway) Stop(b *testing.B) {
	b.Helper()
	if g.stopped {
		return
	}
	g.stopped = true
	g.cmd.Process.Signal(os.Interrupt)
	if <-g.ended; g.failed != nil {
		b.Errorf("the gateway ended badly: %v", g.failed)
	}
}

// Send is Aim.Send at the gateway, with the processor time that it took.
func (g *Gateway) Send(b *testing.B, conns int, a Aim, requests [][]byte) Figures {
	b.Helper()
	a.Address = g.address
	before := g.cpu(b)
	f := a.Send(b, conns, requests)
	f.CPU = g.cpu(b) - before
	return f
}

// cpu is the processor time that the gateway has used, in user mode and in the kernel.
func (g *Gateway) cpu(b *testing.B) time.Duration {
	b.Helper()
	const ofProcess = 2 // CPUCLOCK_SCHED of the kernel, which counts in nanoseconds
	var used unix.Timespec
	if err := unix.ClockGettime(int32(^g.cmd.Process.Pid<<3|ofProcess), &used); err != nil {
		need.Skip(b, need.Missing{What: "Linux, which tells a process's time by a clock", Cure: "run the benchmarks on Linux"})
	}
	return time.Duration(used.Nano())
}

// Memory is the gateway's anonymous memory in MiB.
func (g *Gateway) Memory(b *testing.B) float64 {
	b.Helper()
	bytes, err := daemon.AnonymousMemory(g.cmd.Process.Pid)
	need.All(b, err)
	return float64(bytes) / (1 << 20)
}

// Register measures rounds of registrations by so many at once, over kept connections or over one for each, as nodes do it.
func (g *Gateway) Register(b *testing.B, conns int, kept bool) {
	b.Helper()
	perConn := 20
	if conns == 1 {
		perConn = 100
	}
	aim := Aim{Status: "200", DialEach: !kept}
	g.Send(b, conns, aim, NewRequests(b, conns, kept)) // connections and memory as they are when it has run a while
	var all Figures
	for b.Loop() {
		b.StopTimer()
		requests := NewRequests(b, conns*perConn, kept)
		b.StartTimer()
		all.Add(g.Send(b, conns, aim, requests))
	}
	all.Report(b, "registration")
}
