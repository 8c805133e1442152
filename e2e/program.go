// program.go owns the program under test: it is built once from the checkout, and its commands are run as an
// operator types them.

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

const programName = "matrix-regservice"

// A Program is the built binary.
type Program struct {
	path string
}

// A Result is what a command that ran to its end left.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// Path is where the program is.
func (p *Program) Path() string { return p.path }

// Build builds the program into the directory, with further flags of go build.
func Build(ctx context.Context, dir string, flags ...string) (*Program, error) {
	root, err := moduleRoot(ctx)
	if err != nil {
		return nil, err
	}
	if err := watchSource(ctx, root); err != nil {
		return nil, err
	}
	p := &Program{path: filepath.Join(dir, programName)}
	cmd := exec.CommandContext(ctx, "go", append([]string{"build", "-o", p.path}, flags...)...)
	if counts := os.Getenv("E2E_COVER"); counts != "" && !slices.Contains(flags, "-overlay") { // the cover tool finds no file that an overlay adds
		cmd.Args = append(cmd.Args, "-cover", "-covermode=atomic", "-coverpkg=./...")
		if err := os.Setenv("GOCOVERDIR", counts); err != nil { // go test has its own there, which it removes
			return nil, err
		}
	}
	cmd.Args = append(cmd.Args, ".")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("go build: %w\n%s", err, out)
	}
	return p, nil
}

// watchSource has go test run this package again when the program changes: go test sees which files and directories a test
// reads, but not those that a go build started by it does.
func watchSource(ctx context.Context, root string) error {
	dirs, err := sourceDirs(ctx, root)
	if err != nil {
		return err
	}
	for _, file := range []string{"go.mod", "go.sum"} {
		if _, err := os.Stat(filepath.Join(root, file)); err != nil {
			return err
		}
	}
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, entry := range entries {
			if !entry.Type().IsRegular() || strings.HasSuffix(entry.Name(), "_test.go") {
				continue
			}
			if _, err := os.Stat(filepath.Join(dir, entry.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// sourceDirs returns the directories of the packages of this module that the program is built from.
func sourceDirs(ctx context.Context, root string) ([]string, error) {
	list := exec.CommandContext(ctx, "go", "list", "-deps", "-f", "{{with .Module}}{{if .Main}}{{$.Dir}}{{end}}{{end}}", ".")
	list.Dir = root
	out, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n"), nil
}

// moduleRoot is the checkout's directory: the demo starts in it, the tests start in this package's.
func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOMOD: %w", err)
	}
	mod := strings.TrimSpace(string(out))
	if mod == "" || mod == os.DevNull {
		return "", errors.New("this is not a checkout of matrix-regservice: there is no go.mod")
	}
	return filepath.Dir(mod), nil
}

// Run runs a command of the program in the directory. A command that fails is a Result too; the error is for one
// that could not be run.
func (p *Program) Run(ctx context.Context, dir string, args ...string) (Result, error) {
	return runToEnd(p.command(ctx, dir, args...))
}

// command is a command of the program in the directory.
func (p *Program) command(ctx context.Context, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, p.path, args...)
	cmd.Dir, cmd.Env = dir, p.environment()
	return cmd
}

func runToEnd(cmd *exec.Cmd) (Result, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if failed := (*exec.ExitError)(nil); errors.As(err, &failed) && failed.ExitCode() >= 0 {
		err = nil
	}
	if err != nil {
		return Result{}, fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, &stderr)
	}
	return Result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}, nil
}

// mustRun is Run where failing is an error.
func (p *Program) mustRun(ctx context.Context, dir string, args ...string) (stdout string, err error) {
	r, err := p.Run(ctx, dir, args...)
	if err != nil {
		return "", err
	}
	if r.Code != 0 {
		return "", fmt.Errorf("%s %s: exit %d\n%s%s", programName, strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout, nil
}

// environment finds the program by its name, as where it is installed, and sets none of its flags: nor does the environment file of a
// package that this machine has.
func (p *Program) environment() []string {
	env := []string{"PATH=" + filepath.Dir(p.path) + string(os.PathListSeparator) + os.Getenv("PATH"), "MATRIX_REGSERVICE_ENVIRONMENT=" + os.DevNull}
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "PATH=") && !strings.HasPrefix(variable, "MATRIX_REGSERVICE_") {
			env = append(env, variable)
		}
	}
	return env
}
