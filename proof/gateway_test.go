// gateway_test.go owns the gateway as a process: how it is started, asked, killed and stopped, and what it logs.

package proof

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e"
	"github.com/SmartMeshFoundation/matrix-regservice/e2e/daemon"
)

// A gateway is one gateway, of which one process runs at a time.
type gateway struct {
	program *e2e.Program
	dir     string // its own, which holds its secrets
	args    []string
	env     []string
	logFile string

	mu      sync.Mutex
	running *gatewayProcess // nil where none runs
}

// A gatewayProcess is one life of a gateway.
type gatewayProcess struct {
	os         *os.Process
	nodes, ops string // addresses
	ended      chan struct{}
	code       int // when it has ended
}

// start starts it, and returns when it serves.
func (g *gateway) start(ctx context.Context) error {
	log, err := os.OpenFile(g.logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.CommandContext(context.WithoutCancel(ctx), g.program.Path(), g.args...)
	cmd.Dir, cmd.Env = g.dir, append(os.Environ(), g.env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	notice, err := daemon.NewNotice(cmd)
	if err != nil {
		return err
	}
	defer notice.Close()
	if err := cmd.Start(); err != nil {
		return err
	}
	p := &gatewayProcess{os: cmd.Process, ended: make(chan struct{})}
	go func() {
		cmd.Wait()
		p.code = cmd.ProcessState.ExitCode()
		close(p.ended)
	}()
	if p.nodes, p.ops, err = notice.Wait(p.ended); err != nil {
		p.os.Kill()
		<-p.ended
		return fmt.Errorf("start the gateway: %w, exit code %d", err, p.code)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.running = p
	return nil
}

// process is the one that runs, or nil.
func (g *gateway) process() *gatewayProcess {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.running
}

// kill ends the process that runs as a crash does, if there is one.
func (g *gateway) kill() {
	g.mu.Lock()
	p := g.running
	g.running = nil
	g.mu.Unlock()
	if p != nil {
		p.os.Kill()
		<-p.ended
	}
}

// stop ends it as an operator does.
func (g *gateway) stop() error {
	g.mu.Lock()
	p := g.running
	g.running = nil
	g.mu.Unlock()
	if p == nil {
		return nil
	}
	p.os.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(daemon.Patience):
		p.os.Kill()
		<-p.ended
	}
	if p.code != 0 {
		return fmt.Errorf("the gateway was stopped and ended with exit code %d", p.code)
	}
	return nil
}

// log is all that it has written.
func (g *gateway) log() string {
	content, err := os.ReadFile(g.logFile)
	if err != nil {
		return err.Error()
	}
	return string(content)
}

// An answer is what a node was answered: status 0 where it got none.
type answer struct {
	status  int
	body    string
	UserID  string `json:"user_id"`
	Token   string `json:"access_token"`
	Errcode string `json:"errcode"`
	Message string `json:"error"`
}

// post sends a body as nodes do.
func (g *gateway) post(ctx context.Context, content []byte) answer {
	p := g.process()
	if p == nil {
		return answer{}
	}
	ctx, cancel := context.WithTimeout(ctx, daemon.Patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+p.nodes+daemon.RegisterPath, bytes.NewReader(content))
	if err != nil {
		return answer{}
	}
	req.Close = true
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return answer{body: err.Error()}
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return answer{body: err.Error()}
	}
	a := answer{status: res.StatusCode, body: string(body)}
	if err := json.Unmarshal(body, &a); err != nil || res.Header.Get("Content-Type") != "application/json" {
		a.Errcode = "NOT_JSON"
	}
	return a
}

// A listedRecord is a record as users lists it.
type listedRecord struct {
	Localpart        string
	State            string
	Created, Updated time.Time
}

// list lists the store, by localpart.
func (g *gateway) list(ctx context.Context, dataPath string) (map[string]listedRecord, error) {
	r, err := g.program.Run(ctx, "/", "--datapath", dataPath, "users", "--format", "json")
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("users: exit %d: %s", r.Code, r.Stderr)
	}
	if err != nil {
		return nil, err
	}
	records := map[string]listedRecord{}
	for line := range strings.Lines(r.Stdout) {
		var record listedRecord
		if err := json.Unmarshal([]byte(line), &record); err != nil {
			return nil, err
		}
		records[record.Localpart] = record
	}
	return records, nil
}
