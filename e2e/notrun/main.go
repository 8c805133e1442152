// Notrun runs go test with its arguments, prints what go test prints, and ends with a table of the tests that did not
// run and the command that would make them run.
//
//	go run ./e2e/notrun [-also "WHAT: CURE"]… -race ./...
//
// main.go owns the run: its flags, the race detector, the exit code, which is go test's.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
)

func main() {
	signal.Ignore(os.Interrupt) // go test gets it too, and ends
	code, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintf(os.Stderr, "notrun: %v\n", err)
		os.Exit(1)
	}
	os.Exit(code)
}

func run(args []string) (code int, err error) {
	r := newReport()
	for len(args) >= 2 && args[0] == "-also" {
		m, ok := need.Parse(args[1])
		if !ok {
			return 0, fmt.Errorf("-also %q: want \"WHAT: CURE\"", args[1])
		}
		r.add(m, "")
		args = args[2:]
	}
	if i := slices.Index(args, "-race"); i >= 0 {
		has, err := hasCgo()
		if err != nil {
			return 0, err
		}
		if !has {
			args = slices.Delete(slices.Clone(args), i, i+1)
			r.add(need.Missing{What: "the race detector, which needs a C compiler", Cure: "apt-get install gcc libc6-dev"}, "")
		}
	}
	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadBytes('\n')
		os.Stdout.WriteString(r.read(line))
		if err != nil {
			break
		}
	}
	err = cmd.Wait()
	if failed, ok := errors.AsType[*exec.ExitError](err); ok {
		code, err = max(failed.ExitCode(), 1), nil
	}
	fmt.Print(r.table())
	return code, err
}

// hasCgo reports whether go test -race can work: Go turns cgo off by itself where there is no C compiler.
func hasCgo() (bool, error) {
	out, err := exec.Command("go", "env", "CGO_ENABLED").Output()
	if err != nil {
		return false, fmt.Errorf("go env CGO_ENABLED: %w", err)
	}
	return strings.TrimSpace(string(out)) == "1", nil
}
