// Package e2e runs the program against real homeservers: it builds the binary, starts a homeserver, the gateway and
// nginx on free loopback ports in a scratch directory, and plays the node. The tests and the demo share it.
//
// process.go owns the servers as processes: each has a log file, is ended by its own process id, and does not
// outlive its starter.
package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

const (
	startTime = 5 * time.Minute  // until a server answers, which is a matter of two seconds: no machine is so busy
	stopTime  = time.Minute      // between SIGTERM and SIGKILL
	killTime  = 30 * time.Second // for what SIGKILL ends
	pollPause = 50 * time.Millisecond

	tailLines = 20 // of a log, where it explains a failure
)

// A process is one server while it runs.
type process struct {
	name string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// startProcess starts the command with its output appended to the log.
func startProcess(name, log string, cmd *exec.Cmd) (*process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	attributes := childAttributes()
	if cmd.SysProcAttr != nil {
		attributes.Credential = cmd.SysProcAttr.Credential
	}
	cmd.SysProcAttr = attributes
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &process{name: name, cmd: cmd, done: make(chan struct{})}
	go func() {
		cmd.Wait() // its result stays in cmd.ProcessState
		close(p.done)
	}()
	return p, nil
}

// ready waits until the question is answered with yes. It gives up when the process has ended.
func (p *process) ready(ctx context.Context, answers func(context.Context) bool) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	for !answers(ctx) {
		select {
		case <-p.done:
			return fmt.Errorf("%s ended at its start: %v", p.name, p.cmd.ProcessState)
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer: %w", p.name, ctx.Err())
		case <-time.After(pollPause):
		}
	}
	return nil
}

// stop ends the process and returns its exit code, -1 where a signal ended it. To stop one that is not there, or
// has ended, is no error.
func (p *process) stop() (code int, err error) {
	if p == nil {
		return 0, nil
	}
	for _, end := range []struct {
		signal  syscall.Signal
		patient time.Duration
	}{{syscall.SIGTERM, stopTime}, {syscall.SIGKILL, killTime}} {
		if err := p.cmd.Process.Signal(end.signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return -1, fmt.Errorf("stop %s: %w", p.name, err)
		}
		select {
		case <-p.done:
			return p.cmd.ProcessState.ExitCode(), nil
		case <-time.After(end.patient):
		}
	}
	return -1, fmt.Errorf("%s, process %d, does not end", p.name, p.cmd.Process.Pid)
}

// logTail is the end of a log, for an error.
func logTail(path string) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(content)), "\n")
	return strings.Join(lines[max(0, len(lines)-tailLines):], "\n")
}

// freePorts returns so many different ports that nobody has and nobody gets until this process ends: each is bound here, and
// nobody listens. A server can bind it beside that, at its start and at each further one, because both set SO_REUSEADDR, as
// servers do. The system gives such a port to no other socket, be it another run's listener or an outgoing connection. It is
// bound at every address: systems other than Linux let two sockets share a port only where their addresses differ.
func freePorts(count int) ([]int, error) {
	ports := make([]int, count)
	for i := range ports {
		port, err := holdPort()
		if err != nil {
			return nil, fmt.Errorf("no free port: %w", err)
		}
		ports[i] = port
	}
	return ports, nil
}

// holdPort binds a port of the system's choice, and leaves it so.
func holdPort() (port int, err error) {
	syscall.ForkLock.RLock()
	socket, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(socket) // a child that lives on would hold it
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return 0, err
	}
	if err := errors.Join(
		syscall.SetsockoptInt(socket, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1),
		syscall.Bind(socket, &syscall.SockaddrInet4{}),
	); err != nil {
		return 0, errors.Join(err, syscall.Close(socket))
	}
	name, err := syscall.Getsockname(socket)
	if err != nil {
		return 0, errors.Join(err, syscall.Close(socket))
	}
	return name.(*syscall.SockaddrInet4).Port, nil
}
