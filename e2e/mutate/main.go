// Command mutate changes the code that this project exists for in one place after another, and runs the tests that come by there.
// A change that no test notices survives: it needs a test, or a line in survivors.txt that says why there can be none.
//
//	go run ./e2e/mutate                       # all of the files below
//	go run ./e2e/mutate verify.go claims.go   # these
//	go run ./e2e/mutate -list verify.go       # which changes there are
//	go run ./e2e/mutate -quick -v server.go   # without the tests that take seconds, and which test notices what
//	go run ./e2e/mutate -in LOG               # those that an earlier run printed
//
// All mutants are in one build of the root's tests, each behind an if with its number, so that nothing is built anew for each.
// main.go owns the run.
package main

import (
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
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
)

// mutated are the files: the proof, the record, the hand-over to the homeserver.
var mutated = []string{
	"verify.go", "registrar.go", "server.go", "appservice.go", "claims.go", "wire.go", "matrixclient.go",
	"store.go", "store_open.go", "store_postgres.go", "store_postgres_schema.go",
}

const survivorsFile = "e2e/mutate/survivors.txt"

// switches is what each package with mutants gets: which one is on, and with MUTANTS_SEEN which ones a test comes by.
const switches = `package %s

import (
	"os"
	"sync/atomic"
)

var (
	mutantOn    = os.Getenv("MUTANT")
	mutantsSeen = os.Getenv("MUTANTS_SEEN")
	mutantSeen  [1 << 14]atomic.Bool
)

func mutated(n int) bool {
	if mutantsSeen != "" && !mutantSeen[n%%len(mutantSeen)].Swap(true) {
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
	var o options
	flag.BoolVar(&o.list, "list", false, "list the mutants and run nothing")
	flag.BoolVar(&o.verbose, "v", false, "tell of each mutant which test noticed it")
	flag.BoolVar(&o.fresh, "fresh", false, "find anew which tests come by each mutant")
	flag.BoolVar(&o.quick, "quick", false, "leave out the tests that take seconds, to see first where tests may lack")
	flag.StringVar(&o.only, "only", "", "the mutants whose name contains this")
	flag.StringVar(&o.in, "in", "", "the mutants that this file names, such as what an earlier run printed")
	flag.IntVar(&o.jobs, "jobs", runtime.NumCPU(), "how many mutants to try at a time")
	flag.Parse()
	o.files = flag.Args()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintf(os.Stderr, "mutate: %v\n", err)
		os.Exit(1)
	}
}

type options struct {
	list, verbose, fresh, quick bool

	only  string
	in    string
	jobs  int
	files []string
}

// choose returns the mutants that are to be tried.
func (o options) choose(all []mutant) (chosen []mutant, err error) {
	named := map[string]bool{}
	if o.in != "" {
		content, err := os.ReadFile(o.in)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(content)) {
			parts := strings.SplitN(strings.TrimSpace(line), ": ", 3) // the place, the verdict, the name
			named[parts[len(parts)-1]] = true
		}
	}
	for _, m := range all {
		if (len(o.files) == 0 || slices.Contains(o.files, m.file)) && strings.Contains(m.name(), o.only) && (o.in == "" || named[m.name()]) {
			chosen = append(chosen, m)
		}
	}
	return chosen, nil
}

// isAll tells whether that is all of them.
func (o options) isAll() bool { return len(o.files) == 0 && o.only == "" && o.in == "" }

// run weaves all files, also if it tries the mutants of one only. So the mutants keep their numbers, and the cache stays valid.
func run(ctx context.Context, o options) (err error) {
	for _, file := range o.files {
		if !slices.Contains(mutated, file) {
			return fmt.Errorf("%s is not among the files that are mutated: %s", file, strings.Join(mutated, " "))
		}
	}
	dir, err := os.MkdirTemp("", "matrix-regservice-mutate-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	overlay, every, err := weaveAll(dir, mutated)
	if err != nil {
		return err
	}
	mutants, err := o.choose(every)
	if err != nil {
		return err
	}
	if o.list {
		for _, m := range mutants {
			fmt.Println(m.name())
		}
		return nil
	}
	explained, err := readSurvivors()
	if err != nil {
		return err
	}

	r := runner{binary: filepath.Join(dir, "tests"), dir: dir, quick: o.quick, killers: map[string][]string{}}
	build := exec.CommandContext(ctx, "go", "test", "-c", "-vet=off", "-overlay", overlay, "-o", r.binary, ".")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the mutants: %w\n%s", err, out)
	}
	if err := r.findTests(ctx, every, o.fresh); err != nil {
		return err
	}
	verdicts := make([]verdict, len(mutants))
	if err := each(ctx, o.jobs, len(mutants), func(i int) (err error) {
		m := mutants[i]
		verdicts[i], err = r.try(ctx, m)
		switch v := verdicts[i]; {
		case err != nil:
		case v.survived != "" && explained[m.name()] == "":
			fmt.Printf("%d/%d %s:%d: %s: %s\n", i+1, len(mutants), m.file, m.line, v.survived, m.name())
		case o.verbose:
			fmt.Printf("%d/%d %s:%d: %s: %s\n", i+1, len(mutants), m.file, m.line, cmp.Or(v.survived, "noticed by "+v.by), m.name())
		}
		return err
	}); err != nil {
		return err
	}
	return report(mutants, verdicts, explained, o.isAll() && !o.quick)
}

// each calls do for each number below n, some at a time, until one fails.
func each(ctx context.Context, jobs, n int, do func(int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var all sync.WaitGroup
	var next atomic.Int64
	for range max(1, jobs) {
		all.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				if err := do(i); err != nil {
					cancel(err)
				}
			}
		})
	}
	all.Wait()
	return context.Cause(ctx)
}

// report holds the verdicts against what is explained, and returns an error where they differ.
func report(mutants []mutant, verdicts []verdict, explained map[string]string, all bool) error {
	left := maps.Clone(explained)
	killed, unexplained := 0, 0
	for i, m := range mutants {
		switch {
		case verdicts[i].survived == "":
			killed++
			continue
		case explained[m.name()] == "":
			unexplained++
		}
		delete(left, m.name())
	}
	fmt.Printf("%d mutants, %d killed, %d survived that %s explains, %d that nothing explains\n",
		len(mutants), killed, len(mutants)-killed-unexplained, survivorsFile, unexplained)
	for i, m := range mutants {
		if verdicts[i].survived == "" && explained[m.name()] != "" {
			fmt.Printf("%s has it, and %s notices it: %s\n", survivorsFile, verdicts[i].by, m.name())
			delete(left, m.name())
			unexplained++
		}
	}
	for _, name := range slices.Sorted(maps.Keys(left)) {
		if all {
			fmt.Printf("%s has it, and it is gone: %s\n", survivorsFile, name)
			unexplained++
		}
	}
	if unexplained > 0 {
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
