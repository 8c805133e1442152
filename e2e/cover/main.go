// Cover runs the tests and prints how much of the code they ran, across packages and the built program included, and
// which functions that keep a promise of SECURITY.md no test entered.
//
//	go run ./e2e/cover
//
// main.go owns the run and what is printed of it. It ends with 1 where a test failed, or a promise stands for a function
// that is not there.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
)

const document = "SECURITY.md"

func main() {
	signal.Notify(make(chan os.Signal, 1), os.Interrupt) // go test gets it too, and ends
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "cover: %v\n", err)
		os.Exit(1)
	}
}

// run runs the tests, with further arguments of go test.
func run(args []string) (err error) {
	promises, err := readPromises(".")
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "matrix-regservice-cover-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	test := []string{"run", "./e2e/notrun", "-count=1", "-timeout", "30m", "-covermode=atomic", "-coverpkg=./..."}
	test = append(append(test, args...), "./...", "-args", "-test.gocoverdir="+dir)
	cmd := exec.Command("go", test...)
	cmd.Env = append(os.Environ(), "E2E_COVER="+dir) // has e2e build the program so that it writes there too
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	failed := cmd.Run()

	fmt.Println("\nCovered, by all tests together:")
	if err := goTool(os.Stdout, "covdata", "percent", "-i="+dir); err != nil {
		return errors.Join(failed, err)
	}
	profile := filepath.Join(dir, "profile")
	if err := goTool(os.Stdout, "covdata", "textfmt", "-i="+dir, "-o="+profile); err != nil {
		return errors.Join(failed, err)
	}
	var table strings.Builder
	if err := goTool(&table, "cover", "-func="+profile); err != nil {
		return errors.Join(failed, err)
	}
	unentered, total, err := notEntered(promises, table.String())
	if err != nil {
		return errors.Join(failed, err)
	}
	fmt.Printf("\t%s of all statements\n\nFunctions that keep a promise of %s and that no test entered: %d\n", total, document, len(unentered))
	for _, line := range unentered {
		fmt.Println("\t" + line)
	}
	if failed != nil {
		return fmt.Errorf("a test failed, so that something may be missing above: %w", failed)
	}
	return nil
}

func goTool(out interface{ Write([]byte) (int, error) }, args ...string) error {
	cmd := exec.Command("go", append([]string{"tool"}, args...)...)
	cmd.Stdout, cmd.Stderr = out, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("go tool %s: %w", args[0], err)
	}
	return nil
}

// A line of go tool cover -func: its file below the module, its line, and the part of its statements that ran.
var coveredLine = regexp.MustCompile(`(?m)^(\S+?):(\d+):\s+\S+\s+([\d.]+%)$`)

// notEntered finds the functions of the promises in what go tool cover -func printed. The total is of all statements.
func notEntered(promises []promise, table string) (unentered []string, total string, err error) {
	covered := map[string]string{}
	for _, m := range coveredLine.FindAllStringSubmatch(table, -1) {
		covered[m[1]+":"+m[2]] = m[3]
	}
	for _, p := range promises {
		for _, f := range p.functions {
			part, ok := covered[f.at]
			if !ok {
				err = errors.Join(err, fmt.Errorf("%s: nothing is known of %s (%s)", document, f.name, f.at))
			}
			if part == "0.0%" {
				unentered = append(unentered, fmt.Sprintf("%s (%s): %s", f.name, f.at, p.text))
			}
		}
	}
	fields := strings.Fields(table)
	return unentered, fields[len(fields)-1], err
}
