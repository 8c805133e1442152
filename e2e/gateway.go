// gateway.go owns the gateway as an operator runs it: genconfig's files, and the run.sh among them.

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const registerPath = "/regapp/1/register"

// A Gateway is one gateway, whose files are in a directory.
type Gateway struct {
	Dir         string
	URL         string
	RegisterURL string // without nginx
	LogFile     string

	program *Program
	flags   []string // genconfig's
	process *process
}

// newGateway names a gateway. Further flags are for genconfig.
func newGateway(p *Program, domain, matrixURL, dir, log string, port int, flags ...string) *Gateway {
	url := "http://127.0.0.1:" + strconv.Itoa(port)
	return &Gateway{
		Dir: dir, URL: url, RegisterURL: url + registerPath, LogFile: log, program: p,
		flags: append([]string{"--matrixdomain", domain, "--port", strconv.Itoa(port), "--matrixurl", matrixURL}, flags...),
	}
}

// GenconfigCommand is the words that Genconfig runs the program with.
func (g *Gateway) GenconfigCommand() []string {
	return append(g.flags[:len(g.flags):len(g.flags)], "genconfig")
}

// Genconfig writes registration.yaml and run.sh, and returns what it printed.
func (g *Gateway) Genconfig(ctx context.Context) (string, error) {
	return g.program.mustRun(ctx, g.Dir, g.GenconfigCommand()...)
}

// run is the command that runs run.sh, from a directory that is not its own.
func (g *Gateway) run(ctx context.Context) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(g.Dir, "run.sh"))
	cmd.Dir, cmd.Env = "/", g.program.environment()
	return cmd
}

// Launch runs run.sh, and does not wait.
func (g *Gateway) Launch(ctx context.Context) (err error) {
	g.process, err = startProcess("the gateway", g.LogFile, g.run(context.WithoutCancel(ctx)))
	return err
}

// Start runs run.sh and waits until it answers.
func (g *Gateway) Start(ctx context.Context) error {
	if err := g.Launch(ctx); err != nil {
		return err
	}
	return g.process.ready(ctx, func(ctx context.Context) bool {
		a, err := call(ctx, http.MethodGet, g.RegisterURL, "", nil)
		return err == nil && a.Status == http.StatusMethodNotAllowed
	})
}

// RunAgain runs run.sh to its end, which comes at once where the gateway runs already.
func (g *Gateway) RunAgain(ctx context.Context) (Result, error) {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	return runToEnd(g.run(ctx))
}

// RunElsewhere does so for the same store at another port, without health and metrics.
func (g *Gateway) RunElsewhere(ctx context.Context, port int) (Result, error) {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	script, err := os.ReadFile(filepath.Join(g.Dir, "run.sh"))
	if err != nil {
		return Result{}, err
	}
	other := filepath.Join(g.Dir, "run-elsewhere.sh")
	changed := opsFlag.ReplaceAll(portFlag.ReplaceAll(script, []byte("--port "+strconv.Itoa(port))), nil)
	if err := os.WriteFile(other, changed, 0o700); err != nil {
		return Result{}, err
	}
	cmd := g.run(ctx)
	cmd.Path, cmd.Args = other, []string{other}
	return runToEnd(cmd)
}

var (
	portFlag = regexp.MustCompile(`--port [0-9]+`)
	opsFlag  = regexp.MustCompile(` --ops-listen \S+`)
	urlFlag  = regexp.MustCompile(`--matrixurl \S+`)
	idLine   = regexp.MustCompile(`(?m)^id: .*$`)
)

// Stop ends the gateway and returns its exit code.
func (g *Gateway) Stop() (code int, err error) { return g.process.stop() }

// Hangup has the gateway read its admit file again.
func (g *Gateway) Hangup() error { return g.process.cmd.Process.Signal(syscall.SIGHUP) }

// Freeze stops the gateway where it is: it answers nobody, keeps its connections, and notices nothing.
func (g *Gateway) Freeze() error { return g.process.cmd.Process.Signal(syscall.SIGSTOP) }

// Thaw lets it go on.
func (g *Gateway) Thaw() error { return g.process.cmd.Process.Signal(syscall.SIGCONT) }

// Kill ends the gateway as a crash would.
func (g *Gateway) Kill() error {
	err := g.process.cmd.Process.Kill()
	<-g.process.done
	return err
}

// StartAt starts a gateway that has ended with another --matrixurl.
func (g *Gateway) StartAt(ctx context.Context, matrixURL string) error {
	if err := edit(filepath.Join(g.Dir, "run.sh"), urlFlag, "--matrixurl "+matrixURL); err != nil {
		return err
	}
	return g.Start(ctx)
}

// SetID gives the gateway's registration.yaml the id of another's.
func (g *Gateway) SetID(other *Gateway) error {
	content, err := os.ReadFile(filepath.Join(other.Dir, "registration.yaml"))
	if err != nil {
		return err
	}
	return edit(filepath.Join(g.Dir, "registration.yaml"), idLine, string(idLine.Find(content)))
}

// edit replaces in a file what is of the form.
func edit(path string, form *regexp.Regexp, by string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return os.WriteFile(path, form.ReplaceAllLiteral(content, []byte(by)), 0o700)
}

// Restart stops the gateway, calls the function if there is one, and starts it again.
func (g *Gateway) Restart(ctx context.Context, between func() error) error {
	if code, err := g.Stop(); err != nil || code != 0 {
		return errors.Join(fmt.Errorf("the gateway ended with exit code %d", code), err)
	}
	if between != nil {
		if err := between(); err != nil {
			return err
		}
	}
	return g.Start(ctx)
}

// WipeStore makes a stopped gateway forget every node.
func (g *Gateway) WipeStore() error {
	dir := filepath.Join(g.Dir, ".matrix")
	if _, err := os.Stat(filepath.Join(dir, "register.db")); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

// Log is all that the gateway has logged.
func (g *Gateway) Log() (string, error) {
	content, err := os.ReadFile(g.LogFile)
	return string(content), err
}

// WaitForLog waits until a line of the log has all of the words, and returns it.
func (g *Gateway) WaitForLog(ctx context.Context, words ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	for {
		content, err := g.Log()
		if err != nil {
			return "", err
		}
	lines:
		for line := range strings.Lines(content) {
			for _, word := range words {
				if !strings.Contains(line, word) {
					continue lines
				}
			}
			return line, nil
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("the gateway logs no line with %q", words)
		case <-time.After(pollPause):
		}
	}
}

var tokenForm = regexp.MustCompile(`(?m)^(as_token|hs_token): (\S+)$`)

// tokens reads the two tokens that genconfig made.
func (g *Gateway) tokens() (map[string]string, error) {
	content, err := os.ReadFile(filepath.Join(g.Dir, "registration.yaml"))
	if err != nil {
		return nil, err
	}
	tokens := make(map[string]string)
	for _, match := range tokenForm.FindAllStringSubmatch(string(content), -1) {
		tokens[match[1]] = match[2]
	}
	if len(tokens) != 2 {
		return nil, errors.New("registration.yaml does not hold two tokens")
	}
	return tokens, nil
}
