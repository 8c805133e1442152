// process_test.go owns the daemon as a process of its own: how a test starts, asks, kills and stops it.

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
)

// A daemonProcess is the daemon as a process of its own, which a test may kill.
type daemonProcess struct {
	t      testing.TB
	cmd    *exec.Cmd
	done   chan struct{} // closed when it has ended
	told   func(ended <-chan struct{}) (nodes, operator string)
	url    string // where nodes register; empty until it serves
	opsURL string
	dir    string // its --datapath
	stderr lockedWriter
}

// startDaemon runs one of this test binary's commands as the daemon of a homeserver, with the store in the directory,
// and waits until it serves.
func startDaemon(t testing.TB, command, dir, matrixURL string, env ...string) *daemonProcess {
	t.Helper()
	d := launchDaemon(t, command, dir, matrixURL, env...)
	nodes, operator := d.told(d.done)
	d.url, d.opsURL = "http://"+nodes+registerPath, "http://"+operator
	return d
}

// announced has the command, which is not started yet, say where it serves as it says it to systemd. The function returns
// the two addresses when that is said; it fails the test where the command has ended before.
func announced(t testing.TB, cmd *exec.Cmd) (told func(ended <-chan struct{}) (nodes, operator string)) {
	t.Helper()
	dir, err := os.MkdirTemp("", "notify-") // a test's own directory can have a name that is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "socket"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() })
	cmd.Env = append(cmd.Environ(), "NOTIFY_SOCKET="+filepath.Join(dir, "socket"))
	return func(ended <-chan struct{}) (nodes, operator string) {
		t.Helper()
		buf := make([]byte, 200)
		for start := time.Now(); time.Since(start) < patience; {
			socket.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			n, err := socket.Read(buf)
			if ready := readyForm.FindStringSubmatch(string(buf[:n])); err == nil && ready != nil {
				return ready[1], ready[2]
			}
			select {
			case <-ended:
				t.Fatal("the daemon ended at its start")
			default:
			}
		}
		t.Fatal("the daemon does not serve")
		return "", ""
	}
}

// launchDaemon runs the daemon, and does not wait.
func launchDaemon(t testing.TB, command, dir, matrixURL string, env ...string) *daemonProcess {
	t.Helper()
	path, err := exec.LookPath(command)
	if err != nil {
		t.Fatal(err)
	}
	d := &daemonProcess{t: t, done: make(chan struct{}), dir: dir}
	d.cmd = exec.Command(path, "--matrixdomain", testServerName, "--matrixurl", matrixURL, "--port", "0", "--ops-listen", "127.0.0.1:0", "--datapath", dir, "--rate-limit", "0", "--total-rate-limit", "0")
	d.cmd.Dir = t.TempDir()
	d.cmd.Env = append(os.Environ(), append(env, "MATRIX_REGSERVICE_HSTOKEN="+testHSToken)...)
	secretFile := func(secret string) string {
		path := filepath.Join(d.cmd.Dir, "secret")
		if err := os.WriteFile(path, []byte(secret), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if strings.HasSuffix(matrixURL, homeserver.SharedSecretPath) {
		d.cmd.Env = append(d.cmd.Env, "MATRIX_REGSERVICE_SHARESECRET_FILE="+secretFile(testSecret))
	} else {
		d.cmd.Env = append(d.cmd.Env, "MATRIX_REGSERVICE_ASTOKEN="+testASToken)
	}
	if backend, ok := strings.CutSuffix(matrixURL, homeserver.MASUsersPath); ok {
		d.cmd.Env = append(d.cmd.Env, "MATRIX_REGSERVICE_HOMESERVER_URL="+backend, "MATRIX_REGSERVICE_MAS_CLIENT_ID="+testMASClientID, "MATRIX_REGSERVICE_MAS_CLIENT_SECRET_FILE="+secretFile(testMASSecret))
	}
	d.told = announced(t, d.cmd)
	d.stderr.w = new(bytes.Buffer)
	d.cmd.Stderr = &d.stderr
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { d.cmd.Wait(); close(d.done) }()
	t.Cleanup(func() {
		d.kill()
		if t.Failed() {
			t.Log(d.log())
		}
	})
	return d
}

func (d *daemonProcess) log() string {
	d.stderr.mu.Lock()
	defer d.stderr.mu.Unlock()
	return d.stderr.w.(*bytes.Buffer).String()
}

// kill ends it as a power failure would, but for what the system has of its writes.
func (d *daemonProcess) kill() {
	d.cmd.Process.Kill()
	<-d.done
}

// stop ends it as the operator does, and returns its exit code: -1 where it did not end and was killed.
func (d *daemonProcess) stop() int {
	d.t.Helper()
	d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.done:
	case <-time.After(drainTime + patience):
		d.kill()
	}
	return d.cmd.ProcessState.ExitCode()
}

// send registers with the proof. The error is a connection without an answer.
func (d *daemonProcess) send(proof registration) (answered, error) {
	body, err := json.Marshal(proof)
	if err != nil {
		return answered{}, err
	}
	ctx, cancel := context.WithTimeout(d.t.Context(), waitTime+attemptTime+patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, d.url, bytes.NewReader(body))
	if err != nil {
		return answered{}, err
	}
	req.Close = true // as nodes do
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return answered{}, err
	}
	defer res.Body.Close()
	content, err := io.ReadAll(res.Body)
	if err != nil {
		return answered{}, err
	}
	a := answered{status: res.StatusCode, header: res.Header, body: string(content)}
	return a, json.Unmarshal(content, &a)
}

// mustSend fails the test where there is no answer.
func (d *daemonProcess) mustSend(proof registration) answered {
	d.t.Helper()
	a, err := d.send(proof)
	if err != nil {
		d.t.Fatalf("%v\n%s", err, d.log())
	}
	return a
}

// readiness is what /readyz answers, once it is what is wanted or nobody would wait any longer.
func (d *daemonProcess) readiness(want int) int {
	d.t.Helper()
	for start := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		res, err := http.Get(d.opsURL + "/readyz")
		if err != nil {
			d.t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode == want || time.Since(start) > patience {
			return res.StatusCode
		}
	}
}

// Where few files may be open fewer connections are held, so that one can give way to a node's and the homeserver can be
// asked. Without it the first to fill them shuts every node out, for as long as he likes.
func TestFewFiles(t *testing.T) {
	few := filepath.Join(t.TempDir(), "few")
	if err := os.WriteFile(few, []byte("#!/bin/sh\nulimit -n 300\nexec "+programName+" \"$@\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	d := startDaemon(t, few, t.TempDir(), newStandIn(t).URL+homeserver.SharedSecretPath)
	host := strings.TrimSuffix(strings.TrimPrefix(d.url, "http://"), registerPath)
	for range 400 {
		conn, err := net.DialTimeout("tcp", host, patience)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		io.WriteString(conn, "POST "+registerPath+" HTTP/1.1\r\nHost: x\r\n")
	}
	proof, _ := newProof(t)
	if got := d.mustSend(proof); got.status != 200 {
		t.Errorf("got %d %s", got.status, got.body)
	}
	if said := d.log(); !strings.Contains(said, "Holding fewer connections") || strings.Contains(said, "too many open files") {
		t.Errorf("the log: %s", said)
	}
}

// checkWhole reads the store from end to end.
func checkWhole(t *testing.T, path string) storeCounts {
	t.Helper()
	counts, err := verifyCopy(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	return counts
}
