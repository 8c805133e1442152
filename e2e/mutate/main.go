// Mutate changes the code that this project exists for in one place after another, and runs the tests that come by there.
// A change that no test notices survives: it needs a test, or a line in survivors.txt that says why there can be none.
//
//	go run ./e2e/mutate                       # all of the files below
//	go run ./e2e/mutate verify.go claims.go   # these
//	go run ./e2e/mutate -list verify.go       # which changes there are
//
// All mutants are in one build of the root's tests, each behind an if with its number, so that nothing is built anew for each.
// main.go owns the run.
package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// mutated are the files: the proof, the record, the hand-over to the homeserver.
var mutated = []string{
	"verify.go", "registrar.go", "server.go", "appservice.go", "claims.go", "wire.go", "matrixclient.go",
	"store.go", "store_open.go", "store_postgres.go", "store_postgres_schema.go",
}

const survivorsFile = "e2e/mutate/survivors.txt"

// switches is what each package with mutants gets: which one is on, and with MUTANTS_SEEN which ones a test comes by.
const switches = `package %s

import "os"

var (
	mutantOn    = os.Getenv("MUTANT")
	mutantsSeen = os.Getenv("MUTANTS_SEEN")
)

func mutated(n int) bool {
	if mutantsSeen != "" {
		if f, err := os.OpenFile(mutantsSeen+"/"+mutantNumber(n), os.O_CREATE|os.O_WRONLY, 0o600); err == nil {
			f.Close()
		}
	}
	return mutantOn != "" && mutantOn == mutantNumber(n)
}

func mutatedNil(n int, err error) error {
	if mutated(n) {
		return nil
	}
	return err
}

func mutantNumber(n int) string {
	var digits [10]byte
	at := len(digits)
	for ; n > 0; n /= 10 {
		at--
		digits[at] = byte('0' + n%%10)
	}
	return string(digits[at:])
}
`

func main() {
	list := flag.Bool("list", false, "list the mutants and run nothing")
	only := flag.String("only", "", "the mutants whose name contains this")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, flag.Args(), *only, *list); err != nil {
		fmt.Fprintf(os.Stderr, "mutate: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, files []string, only string, list bool) (err error) {
	all := len(files) == 0 && only == ""
	if len(files) == 0 {
		files = mutated
	}
	dir, err := os.MkdirTemp("", "matrix-regservice-mutate-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	overlay, mutants, err := weaveAll(dir, files)
	if err != nil {
		return err
	}
	mutants = slices.DeleteFunc(mutants, func(m mutant) bool { return !strings.Contains(m.name(), only) })
	if list {
		for _, m := range mutants {
			fmt.Println(m.name())
		}
		return nil
	}
	explained, err := readSurvivors()
	if err != nil {
		return err
	}

	r := runner{binary: filepath.Join(dir, "tests"), dir: dir}
	build := exec.CommandContext(ctx, "go", "test", "-c", "-vet=off", "-overlay", overlay, "-o", r.binary, ".")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the mutants: %w\n%s", err, out)
	}
	if err := r.findTests(ctx); err != nil {
		return err
	}

	var unexplained []string
	left := maps.Clone(explained)
	killed := 0
	for i, m := range mutants {
		verdict, err := r.try(ctx, m)
		if err != nil {
			return err
		}
		if verdict == "" {
			killed++
			continue
		}
		delete(left, m.name())
		if explained[m.name()] == "" {
			unexplained = append(unexplained, m.name())
			fmt.Printf("%d/%d %s:%d: %s: %s\n", i+1, len(mutants), m.file, m.line, verdict, m.name())
		}
	}
	fmt.Printf("%d mutants, %d killed, %d survived that %s explains, %d that nothing explains\n",
		len(mutants), killed, len(mutants)-killed-len(unexplained), survivorsFile, len(unexplained))
	if all {
		for _, name := range slices.Sorted(maps.Keys(left)) {
			fmt.Printf("%s has it, and it was killed or is gone: %s\n", survivorsFile, name)
		}
	}
	if len(unexplained) > 0 || all && len(left) > 0 {
		return errors.New("write a test for each mutant that survived, or say in " + survivorsFile + " why there can be none")
	}
	return nil
}

// weaveAll writes the files with their mutants, and the overlay that has go build them.
func weaveAll(dir string, files []string) (overlay string, mutants []mutant, err error) {
	n := 0
	next := func() int { n++; return n }
	replace := map[string]string{}
	put := func(path string, content []byte) error {
		absolute, err := filepath.Abs(path)
		if err != nil {
			return err
		}
		woven := filepath.Join(dir, strconv.Itoa(len(replace))+".go")
		replace[absolute] = woven
		return os.WriteFile(woven, content, 0o600)
	}
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			return "", nil, err
		}
		woven, found, err := weave(file, source, next)
		if err != nil {
			return "", nil, err
		}
		mutants = append(mutants, found...)
		parsed, err := parser.ParseFile(token.NewFileSet(), file, source, parser.PackageClauseOnly)
		if err != nil {
			return "", nil, err
		}
		if err := errors.Join(put(file, woven),
			put(filepath.Join(filepath.Dir(file), "mutated.go"), fmt.Appendf(nil, switches, parsed.Name.Name))); err != nil {
			return "", nil, err
		}
	}
	content, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", nil, err
	}
	overlay = filepath.Join(dir, "overlay.json")
	return overlay, mutants, os.WriteFile(overlay, content, 0o600)
}

// readSurvivors reads what is known to survive: names, one a line, and below a group of them, indented, why.
func readSurvivors() (map[string]string, error) {
	content, err := os.ReadFile(survivorsFile)
	if err != nil {
		return nil, err
	}
	survivors := map[string]string{}
	var group []string
	for line := range strings.Lines(string(content)) {
		line = strings.TrimRight(line, "\n")
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "\t"):
			for _, name := range group {
				survivors[name] = strings.TrimSpace(line)
			}
			group = nil
		default:
			group = append(group, line)
		}
	}
	if len(group) > 0 {
		return nil, fmt.Errorf("%s does not say why %s survives", survivorsFile, group[0])
	}
	return survivors, nil
}

// A runner runs the tests that come by a mutant.
type runner struct {
	binary, dir string
	tests       []test
}

type test struct {
	name string
	took time.Duration
	seen map[int]bool
}

// findTests runs each test alone without a mutant on: how long it takes, and which mutants it comes by.
func (r *runner) findTests(ctx context.Context) error {
	listed, err := exec.CommandContext(ctx, r.binary, "-test.list", "^(Test|Fuzz)").Output()
	if err != nil {
		return fmt.Errorf("list the tests: %w", err)
	}
	for lines := bufio.NewScanner(bytes.NewReader(listed)); lines.Scan(); {
		seen := filepath.Join(r.dir, "seen")
		if err := errors.Join(os.RemoveAll(seen), os.Mkdir(seen, 0o700)); err != nil {
			return err
		}
		t := test{name: lines.Text(), seen: map[int]bool{}}
		start := time.Now()
		passed := r.passes(ctx, []test{t}, 2*time.Minute, "MUTANTS_SEEN="+seen)
		if t.took = time.Since(start); ctx.Err() != nil {
			return ctx.Err()
		}
		entries, err := os.ReadDir(seen)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if n, err := strconv.Atoi(e.Name()); err == nil {
				t.seen[n] = true
			}
		}
		switch {
		case !passed:
			fmt.Printf("%s fails without any mutant, and is left out\n", t.name)
		case len(t.seen) > 0:
			r.tests = append(r.tests, t)
		}
	}
	slices.SortFunc(r.tests, func(a, b test) int { return cmp.Compare(a.took, b.took) })
	return nil
}

// try runs the tests that come by a mutant, the quick ones first. It returns nothing where one failed, and else how the mutant
// got through.
func (r *runner) try(ctx context.Context, m mutant) (survived string, err error) {
	var quick, slow []test
	for _, t := range r.tests {
		switch {
		case !t.seen[m.number]:
		case t.took < time.Second:
			quick = append(quick, t)
		default:
			slow = append(slow, t)
		}
	}
	if len(quick)+len(slow) == 0 {
		return "no test comes by", nil
	}
	batches := [][]test{}
	for len(quick) > 0 {
		n := min(20, len(quick))
		batches, quick = append(batches, quick[:n]), quick[n:]
	}
	for _, t := range slow {
		batches = append(batches, []test{t})
	}
	for _, batch := range batches {
		room := time.Minute
		for _, t := range batch {
			room += 10 * t.took
		}
		if passed := r.passes(ctx, batch, room, "MUTANT="+strconv.Itoa(m.number)); ctx.Err() != nil {
			return "", ctx.Err()
		} else if !passed {
			return "", nil
		}
	}
	return "survived", nil
}

// passes tells whether all of some tests pass. What they started ends with them.
func (r *runner) passes(ctx context.Context, tests []test, room time.Duration, env string) bool {
	names := make([]string, len(tests))
	for i, t := range tests {
		names[i] = t.name
	}
	cmd := exec.CommandContext(ctx, r.binary, "-test.run", "^("+strings.Join(names, "|")+")$", "-test.failfast", "-test.timeout", room.String())
	cmd.Env = append(os.Environ(), env)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	end := func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.Cancel, cmd.WaitDelay = end, time.Second
	if err := cmd.Start(); err != nil {
		return false
	}
	err := cmd.Wait()
	_ = end()
	return err == nil
}
