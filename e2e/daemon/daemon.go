// Package daemon owns the program as a process of its own before a stand-in of the homeserver: how a test starts, asks, kills
// and stops it. It knows the program as operators and nodes do: its flags, what it tells systemd, its answers.
package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e"
	"github.com/SmartMeshFoundation/matrix-regservice/e2e/standin"
)

// RegisterPath is where nodes register.
const RegisterPath = "/regapp/1/register"

// Patience is how long a test waits for what must happen: long enough for any machine, so that it decides nothing about
// how quick something is. What must be quick is counted, or compared with a control in the same run.
const Patience = 5 * time.Minute

// ReadyForm is what the daemon tells systemd when it serves: where nodes register, and where its operator asks.
var ReadyForm = regexp.MustCompile(`^READY=1\nSTATUS=Serving nodes at (\S+:[1-9]\d*)(?:, health and metrics at (\S+:[1-9]\d*))?$`)

// A Process is the daemon as a process of its own, which a test may kill.
type Process struct {
	URL    string // where nodes register; empty until it serves
	OpsURL string
	Dir    string // its --datapath
	Cmd    *exec.Cmd
	Done   chan struct{} // closed when it has ended

	t      testing.TB
	notice *Notice
	stderr Log
}

// Start runs the command as the daemon of a homeserver, with the store in the directory and no limit of rates, and waits until
// it serves.
func Start(t testing.TB, command, dir, matrixURL string, env ...string) *Process {
	t.Helper()
	d := Launch(t, command, dir, matrixURL, env...)
	nodes, operator, err := d.notice.Wait(d.Done)
	if err != nil {
		t.Fatal(err)
	}
	d.URL, d.OpsURL = "http://"+nodes+RegisterPath, "http://"+operator
	return d
}

// Announced has the command, which is not started yet, say where it serves. The function returns the two addresses when that is
// said; it fails the test where the command has ended before.
func Announced(t testing.TB, cmd *exec.Cmd) (told func(ended <-chan struct{}) (nodes, operator string)) {
	t.Helper()
	notice, err := NewNotice(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(notice.Close)
	return func(ended <-chan struct{}) (nodes, operator string) {
		t.Helper()
		nodes, operator, err := notice.Wait(ended)
		if err != nil {
			t.Fatal(err)
		}
		return nodes, operator
	}
}

// A Notice is the socket on which a daemon says where it serves, as it says it to systemd.
type Notice struct {
	dir    string
	socket *net.UnixConn
}

// NewNotice makes the socket, and tells the command, which is not started yet, of it.
func NewNotice(cmd *exec.Cmd) (*Notice, error) {
	dir, err := os.MkdirTemp("", "notify-") // a test's own directory can have a name that is too long for a socket
	if err != nil {
		return nil, err
	}
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "socket"), Net: "unixgram"})
	if err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	cmd.Env = append(cmd.Environ(), "NOTIFY_SOCKET="+filepath.Join(dir, "socket"))
	return &Notice{dir, socket}, nil
}

// Wait returns the two addresses when the daemon says that it serves, and an error where it has ended before.
func (n *Notice) Wait(ended <-chan struct{}) (nodes, operator string, err error) {
	buf := make([]byte, 300)
	for start := time.Now(); time.Since(start) < Patience; {
		n.socket.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		read, err := n.socket.Read(buf)
		if ready := ReadyForm.FindStringSubmatch(string(buf[:read])); err == nil && ready != nil {
			return ready[1], ready[2], nil
		}
		select {
		case <-ended:
			return "", "", errors.New("the daemon ended at its start")
		default:
		}
	}
	return "", "", errors.New("the daemon does not serve")
}

// AwaitPings waits until the daemon has told the watchdog so many times more that it lives. AwaitStopping waits until it has said that
// it stops. Both fail the test where it does not.
func (d *Process) AwaitPings(count int) {
	d.t.Helper()
	for range count {
		d.awaitNotice("WATCHDOG=1")
	}
}

func (d *Process) AwaitStopping() {
	d.t.Helper()
	d.awaitNotice("STOPPING=1")
}

func (d *Process) awaitNotice(want string) {
	d.t.Helper()
	buf := make([]byte, 300)
	for start := time.Now(); time.Since(start) < Patience; {
		d.notice.socket.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		if read, err := d.notice.socket.Read(buf); err == nil && string(buf[:read]) == want {
			return
		}
		select {
		case <-d.Done:
			d.t.Fatalf("the daemon has ended, and systemd was not told %s", want)
		default:
		}
	}
	d.t.Fatalf("systemd is not told %s", want)
}

// Close removes the socket.
func (n *Notice) Close() {
	n.socket.Close()
	os.RemoveAll(n.dir)
}

// Launch runs the daemon, and does not wait.
func Launch(t testing.TB, command, dir, matrixURL string, env ...string) *Process {
	t.Helper()
	path, err := exec.LookPath(command)
	if err != nil {
		t.Fatal(err)
	}
	d := &Process{t: t, Done: make(chan struct{}), Dir: dir}
	d.Cmd = exec.Command(path, "--matrixdomain", standin.ServerName, "--matrixurl", matrixURL, "--port", "0", "--ops-listen", "127.0.0.1:0", "--datapath", dir, "--rate-limit", "0", "--total-rate-limit", "0")
	d.Cmd.Dir = t.TempDir()
	d.Cmd.Env = append(os.Environ(), append(env, "MATRIX_REGSERVICE_HSTOKEN="+standin.HSToken)...)
	secretFile := func(secret string) string {
		path := filepath.Join(d.Cmd.Dir, "secret")
		if err := os.WriteFile(path, []byte(secret), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if strings.HasSuffix(matrixURL, standin.SharedSecretPath) {
		d.Cmd.Env = append(d.Cmd.Env, "MATRIX_REGSERVICE_SHARESECRET_FILE="+secretFile(standin.Secret))
	} else {
		d.Cmd.Env = append(d.Cmd.Env, "MATRIX_REGSERVICE_ASTOKEN="+standin.ASToken)
	}
	if backend, ok := strings.CutSuffix(matrixURL, standin.MASPath); ok {
		d.Cmd.Env = append(d.Cmd.Env, "MATRIX_REGSERVICE_HOMESERVER_URL="+backend, "MATRIX_REGSERVICE_MAS_CLIENT_ID="+standin.MASClientID, "MATRIX_REGSERVICE_MAS_CLIENT_SECRET_FILE="+secretFile(standin.MASSecret))
	}
	if d.notice, err = NewNotice(d.Cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.notice.Close)
	d.Cmd.Stderr = &d.stderr
	if err := d.Cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { d.Cmd.Wait(); close(d.Done) }()
	t.Cleanup(func() {
		d.Kill()
		if t.Failed() {
			t.Log(d.Log())
		}
	})
	return d
}

// A Log is what a process has written, while it may still write.
type Log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Log is what the daemon has logged.
func (d *Process) Log() string { return d.stderr.String() }

// Kill ends it as a power failure would, but for what the system has of its writes.
func (d *Process) Kill() {
	d.Cmd.Process.Kill()
	<-d.Done
}

// Stop ends it as the operator does, and returns its exit code: -1 where it did not end and was killed.
func (d *Process) Stop() int {
	d.t.Helper()
	d.Cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.Done:
	case <-time.After(Patience):
		d.Kill()
	}
	return d.Cmd.ProcessState.ExitCode()
}

// Send registers with the proof, which is sent as JSON. The error is a connection without an answer.
func (d *Process) Send(proof any) (e2e.Answer, error) { return Post(d.t.Context(), d.URL, proof) }

// Post sends the proof as a node does.
func Post(ctx context.Context, url string, proof any) (e2e.Answer, error) {
	body, err := json.Marshal(proof)
	if err != nil {
		return e2e.Answer{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return e2e.Answer{}, err
	}
	req.Close = true // as nodes do
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return e2e.Answer{}, err
	}
	defer res.Body.Close()
	content, err := io.ReadAll(res.Body)
	if err != nil {
		return e2e.Answer{}, err
	}
	a := e2e.Answer{Status: res.StatusCode, Body: string(content)}
	return a, json.Unmarshal(content, &a)
}

// MustSend fails the test where there is no answer.
func (d *Process) MustSend(proof any) e2e.Answer {
	d.t.Helper()
	a, err := d.Send(proof)
	if err != nil {
		d.t.Fatalf("%v\n%s", err, d.Log())
	}
	return a
}

// Readiness is what /readyz answers, once it is what is wanted or nobody would wait any longer.
func (d *Process) Readiness(want int) int {
	d.t.Helper()
	for start := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		res, err := http.Get(d.OpsURL + "/readyz")
		if err != nil {
			d.t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode == want || time.Since(start) > Patience {
			return res.StatusCode
		}
	}
}

// Eventually polls until the condition holds.
func Eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for start := time.Now(); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Since(start) > Patience {
			t.Fatalf("still not: %s", what)
		}
	}
}
