// bench_load_test.go owns the parts of a benchmark of the program: its clients, its homeserver, and the program itself as a
// process.

package main

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
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

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/daemon"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/mas"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
)

// An instantHomeserver answers the calls of every API at once and keeps nothing. It parses no more of a request than
// it has to: it shares the machine's cores with what is measured.
type instantHomeserver struct {
	net.Listener
	url string
}

func startInstantHomeserver(b *testing.B) *instantHomeserver {
	b.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { listener.Close() })
	h := &instantHomeserver{listener, "http://" + listener.Addr().String()}
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

func (h *instantHomeserver) answer(conn net.Conn) {
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
func (h *instantHomeserver) say(line string, body []byte) (status, said string) {
	const ok = "200 OK"
	switch method, path, _ := strings.Cut(line, " "); {
	case strings.HasPrefix(path, homeserver.VersionPath):
		return ok, `{"server":{"name":"Synapse","version":"1.163.2"}}`
	case strings.HasPrefix(path, homeserver.KeyPath):
		return ok, `{"server_name":"` + testServerName + `"}`
	case strings.HasPrefix(path, homeserver.SharedSecretPath) && method == http.MethodGet:
		return ok, `{"nonce":"` + strings.Repeat("0123456789abcdef", 8) + `"}`
	case strings.HasPrefix(path, mas.TokenPath):
		return ok, `{"access_token":"mat_of_a_benchmark","expires_in":300}`
	case strings.HasPrefix(path, homeserver.MASUsersPath+"/"): // the password
		return "204 No Content", ""
	case strings.HasPrefix(path, homeserver.SetProfilePath) && method == http.MethodPut:
		return ok, "{}"
	case strings.HasPrefix(path, homeserver.MASUsersPath):
		at := bytes.Index(body, []byte(`"0x`))
		return "201 Created", `{"data":{"id":"` + testMASClientID + `","attributes":{"username":"` + string(body[at+1:at+1+len("0x")+names.AddressDigits]) + `"}}}`
	case strings.HasPrefix(path, homeserver.SharedSecretPath), strings.HasPrefix(path, homeserver.CreateUserPath):
		at := bytes.Index(body, []byte(`"0x`)) // a localpart is the only value that begins so
		if at < 0 {                            // it is asked whether it has the path
			return "403 Forbidden", `{"errcode":"M_UNKNOWN","error":"Invalid application service token."}`
		}
		localpart := string(body[at+1 : at+1+len("0x")+names.AddressDigits])
		return ok, `{"user_id":"` + names.UserID(localpart, testServerName) + `","access_token":"MDAyOGxvY2F0aW9uIHRva2VuMTIzNDU2Nzg5","home_server":"` + testServerName + `"}`
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

// httpMessage is a whole request with a JSON body, as a node sends it but for the connection, which is kept.
func httpMessage(method, path, body string, headers ...string) []byte {
	return []byte(method + " " + path + " HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: " +
		strconv.Itoa(len(body)) + "\r\n" + strings.Join(append(headers, ""), "\r\n") + "\r\n" + body)
}

// newRequests signs as many registrations, each of a key of its own, and returns them as whole requests.
func newRequests(b *testing.B, count int) [][]byte {
	b.Helper()
	requests := make([][]byte, count)
	for i := range requests {
		requests[i] = registerMessage(b, newSigned(b))
	}
	return requests
}

// newSigned is newProof without looking at the proof.
func newSigned(b *testing.B) registration {
	b.Helper()
	proof, err := sign(newKey(b), testServerName)
	if err != nil {
		b.Fatal(err)
	}
	return proof
}

// registerMessage is the request of a node.
func registerMessage(b *testing.B, proof registration, headers ...string) []byte {
	b.Helper()
	body, err := json.Marshal(proof)
	if err != nil {
		b.Fatal(err)
	}
	return httpMessage("POST", registerPath, string(body), headers...)
}

// A figures is what clients saw of a load, and what it cost.
type figures struct {
	latencies []time.Duration
	took      time.Duration
	cpu       time.Duration // of the gateway
}

func (f *figures) add(more figures) {
	f.latencies = append(f.latencies, more.latencies...)
	f.took, f.cpu = f.took+more.took, f.cpu+more.cpu
}

// p50 is the median.
func (f *figures) p50() time.Duration {
	slices.Sort(f.latencies)
	return f.latencies[len(f.latencies)/2]
}

// report adds the figures of a benchmark whose operations are requests; what names them, as in cpu-ms/what.
func (f *figures) report(b *testing.B, what string) {
	b.Helper()
	slices.Sort(f.latencies)
	n := len(f.latencies)
	b.ReportMetric(0, "ns/op") // of a whole round, which says nothing
	b.ReportMetric(float64(n)/f.took.Seconds(), what+"/s")
	b.ReportMetric(f.cpu.Seconds()*1e3/float64(n), "cpu-ms/"+what)
	b.ReportMetric(f.latencies[n/2].Seconds()*1e3, "p50-ms")
	b.ReportMetric(f.latencies[n*99/100].Seconds()*1e3, "p99-ms")
}

// An aim is where requests go and what they are to be answered.
type aim struct {
	address  string
	status   string // of every answer
	dialEach bool   // a connection for each request, as nodes do it
}

// send sends all requests over so many connections at once.
func (a aim) send(b *testing.B, conns int, requests [][]byte) figures {
	b.Helper()
	var f figures
	var mu sync.Mutex
	var failed sync.Once
	var all sync.WaitGroup
	start := time.Now()
	for i := range conns {
		all.Go(func() {
			mine := make([]time.Duration, 0, len(requests)/conns+1)
			client := benchClient{aim: a}
			defer client.close()
			for ; i < len(requests); i += conns {
				began := time.Now()
				if err := client.ask(requests[i]); err != nil {
					failed.Do(func() { b.Error(err) })
					return
				}
				mine = append(mine, time.Since(began))
			}
			mu.Lock()
			defer mu.Unlock()
			f.latencies = append(f.latencies, mine...)
		})
	}
	all.Wait()
	f.took = time.Since(start)
	if b.Failed() {
		b.FailNow()
	}
	return f
}

// A benchClient is one client's connection.
type benchClient struct {
	aim
	conn net.Conn
	r    *bufio.Reader
}

func (c *benchClient) close() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

func (c *benchClient) ask(request []byte) (err error) {
	if c.conn == nil {
		if c.conn, err = net.Dial("tcp", c.address); err != nil {
			return err
		}
		c.r = bufio.NewReader(c.conn)
	}
	if c.dialEach {
		defer c.close()
	}
	if _, err := c.conn.Write(request); err != nil {
		return err
	}
	line, body, err := readMessage(c.r)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(line, "HTTP/1.1 "+c.status) {
		return fmt.Errorf("got %s%s, want %s", line, body, c.status)
	}
	return nil
}

// A benchGateway is the program itself, built and started as a process of its own.
type benchGateway struct {
	cmd     *exec.Cmd
	ended   chan struct{}
	failed  error // how it ended
	stopped bool
	address string
	ready   time.Duration // from its start to its first answer
}

// buildGateway builds the program, once for all that a benchmark starts.
func buildGateway(b *testing.B) (binary string) {
	b.Helper()
	binary = filepath.Join(b.TempDir(), programName)
	if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		b.Fatalf("go build: %v\n%s", err, out)
	}
	return binary
}

// startGateway starts the program with its store in the directory and waits until it answers.
func startGateway(b *testing.B, binary, dir, homeserverURL, apiPath string) *benchGateway {
	b.Helper()
	logFile, err := os.Create(filepath.Join(b.TempDir(), "gateway"+rand.Text()[:8]+".log"))
	if err != nil {
		b.Fatal(err)
	}
	defer logFile.Close()
	g := &benchGateway{ended: make(chan struct{})}
	g.cmd = exec.Command(binary, "--matrixdomain", testServerName, "--port", "0", "--datapath", dir,
		"--matrixurl", homeserverURL+apiPath, "--astoken", testASToken, "--hstoken", testHSToken,
		"--"+config.FlagRateLimit, "0", "--"+config.FlagTotalRateLimit, "0", "--"+config.FlagMaxInflight, "128", "--"+config.FlagMaxConnections, "0")
	if apiPath == homeserver.SharedSecretPath {
		g.cmd.Args = append(g.cmd.Args, "--sharesecret", testSecret)
	}
	if apiPath == homeserver.MASUsersPath {
		secret := filepath.Join(b.TempDir(), "secret")
		if err := os.WriteFile(secret, []byte(testMASSecret), 0o600); err != nil {
			b.Fatal(err)
		}
		g.cmd.Args = append(g.cmd.Args, "--"+config.FlagHomeserverURL, homeserverURL, "--"+config.FlagMASClientID, testMASClientID, "--"+config.FlagMASClientSecretFile, secret)
	}
	g.cmd.Stdout, g.cmd.Stderr = logFile, logFile
	told := daemon.Announced(b, g.cmd)
	start := time.Now()
	if err := g.cmd.Start(); err != nil {
		b.Fatal(err)
	}
	go func() { g.failed = g.cmd.Wait(); close(g.ended) }()
	b.Cleanup(func() { g.stop(b) })
	g.address, _ = told(g.ended)
	probe := httpMessage("GET", registerPath, "")
	for {
		client := benchClient{aim: aim{address: g.address, status: "405"}}
		err := client.ask(probe)
		client.close()
		if g.ready = time.Since(start); err == nil {
			return g
		}
		if g.ready > 10*time.Second {
			logged, _ := os.ReadFile(logFile.Name())
			b.Fatalf("the gateway does not answer: %v\n%s", err, logged)
		}
		time.Sleep(200 * time.Microsecond)
	}
}

// stop ends the program; a second call does nothing.
func (g *benchGateway) stop(b *testing.B) {
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

// send is aim.send at the gateway, with the processor time that it took.
func (g *benchGateway) send(b *testing.B, conns int, a aim, requests [][]byte) figures {
	b.Helper()
	a.address = g.address
	before := g.cpu(b)
	f := a.send(b, conns, requests)
	f.cpu = g.cpu(b) - before
	return f
}

// cpu is the processor time that the gateway has used, in user mode and in the kernel.
func (g *benchGateway) cpu(b *testing.B) time.Duration {
	b.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", g.cmd.Process.Pid))
	if errors.Is(err, os.ErrNotExist) {
		b.Skip("it needs Linux's /proc")
	}
	_, rest, _ := strings.Cut(string(stat), ") ") // behind the command's name
	fields := strings.Fields(rest)
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	if err != nil || err1 != nil || err2 != nil {
		b.Fatal(err, err1, err2)
	}
	return time.Duration(user+system) * 10 * time.Millisecond // Linux counts here in hundredths of a second on every machine
}

// rssAnon is the gateway's anonymous memory in MiB.
func (g *benchGateway) rssAnon(b *testing.B) float64 {
	b.Helper()
	return float64(anonymousMemory(b, g.cmd.Process.Pid)) / 1024
}
