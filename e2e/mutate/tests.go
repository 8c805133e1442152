// tests.go owns which tests come by a mutant, and their verdict.

package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A runner runs the tests that come by a mutant.
type runner struct {
	binary, dir string
	tests       []test
	quick       bool // slow tests are left out

	mu      sync.Mutex
	killers map[string][]string // by function: the tests that noticed a mutant in it, the last one first
}

// A test is one test of the root, and what it was seen to do without a mutant.
type test struct {
	name  string
	took  time.Duration
	seen  map[int]bool // the mutants that it comes by
	fails bool
}

// A verdict is how a mutant got through, or which test noticed it.
type verdict struct{ survived, by string }

// findTests runs each test alone without a mutant on, unless an earlier run did: how long it takes, and which mutants it comes by.
func (r *runner) findTests(ctx context.Context, mutants []mutant, fresh bool) error {
	listed, err := exec.CommandContext(ctx, r.binary, "-test.list", "^(Test|Fuzz)").Output()
	if err != nil {
		return fmt.Errorf("list the tests: %w", err)
	}
	kept, err := openKept(fresh)
	if err != nil {
		return err
	}
	for lines := bufio.NewScanner(bytes.NewReader(listed)); lines.Scan(); {
		name := lines.Text()
		t, known := kept.test(name, mutants)
		if !known {
			if t, err = r.findTest(ctx, name); err != nil {
				return err
			}
			if err := kept.add(t, mutants); err != nil {
				return err
			}
		}
		switch {
		case t.fails:
			fmt.Printf("%s fails without any mutant, and is left out\n", t.name)
		case len(t.seen) > 0:
			r.tests = append(r.tests, t)
		}
	}
	slices.SortFunc(r.tests, func(a, b test) int { return cmp.Compare(a.took, b.took) })
	return nil
}

func (r *runner) findTest(ctx context.Context, name string) (test, error) {
	seen, err := os.MkdirTemp(r.dir, "seen-")
	if err := errors.Join(err, os.Chmod(r.dir, 0o711), os.Chmod(seen, 0o777)); err != nil { // for the parts of a test that run as another user
		return test{}, err
	}
	start := time.Now()
	t := test{name: name, seen: map[int]bool{}}
	_, t.fails = r.failed(ctx, []test{t}, 2*time.Minute, "MUTANTS_SEEN="+seen)
	if t.took = time.Since(start); ctx.Err() != nil {
		return test{}, ctx.Err()
	}
	entries, err := os.ReadDir(seen)
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil {
			t.seen[n] = true
		}
	}
	return t, errors.Join(err, os.RemoveAll(seen))
}

// The sizes of the batches that tests run in: one that fails spares the next ones.
const (
	killersFirst = 6
	quickBatch   = 25
	quickTest    = 2 * time.Second // one that takes less is quick
)

// try runs the tests that come by a mutant: first those that noticed others in its function, then the quick ones, then the rest.
func (r *runner) try(ctx context.Context, m mutant) (verdict, error) {
	of := m.file + m.function
	r.mu.Lock()
	first := slices.Clone(r.killers[of])
	r.mu.Unlock()
	var killers, quick, slow []test
	for _, t := range r.tests {
		switch {
		case !t.seen[m.number]:
		case slices.Contains(first, t.name):
			killers = append(killers, t)
		case t.took < quickTest:
			quick = append(quick, t)
		case !r.quick:
			slow = append(slow, t)
		}
	}
	if len(killers)+len(quick)+len(slow) == 0 {
		return verdict{survived: "no test comes by"}, nil
	}
	for _, batch := range slices.Concat([][]test{killers}, slices.Collect(slices.Chunk(quick, quickBatch)), [][]test{slow}) {
		if len(batch) == 0 {
			continue
		}
		room := 20 * time.Second // a change may have a test wait for good
		for _, t := range batch {
			room += 10 * t.took
		}
		by, fails := r.failed(ctx, batch, room, "MUTANT="+strconv.Itoa(m.number))
		if ctx.Err() != nil {
			return verdict{}, ctx.Err()
		}
		if fails {
			r.mu.Lock()
			defer r.mu.Unlock()
			others := slices.DeleteFunc(r.killers[of], func(name string) bool { return name == by })
			r.killers[of] = slices.Concat([]string{by}, others[:min(len(others), killersFirst-1)])
			return verdict{by: by}, nil
		}
	}
	return verdict{survived: "survived"}, nil
}

var failedTest = regexp.MustCompile(`(?m)^--- FAIL: (\S+) `)

// failed tells whether one of some tests fails, and which. What they started ends with them.
func (r *runner) failed(ctx context.Context, tests []test, room time.Duration, env string) (by string, fails bool) {
	names := make([]string, len(tests))
	for i, t := range tests {
		names[i] = t.name
	}
	cmd := exec.CommandContext(ctx, r.binary, "-test.run", "^("+strings.Join(names, "|")+")$", "-test.failfast", "-test.timeout", room.String())
	cmd.Env = append(os.Environ(), env)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	end := func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.Cancel, cmd.WaitDelay = end, time.Second
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		return err.Error(), true
	}
	err := cmd.Wait()
	_ = end()
	if err == nil {
		return "", false
	}
	if found := failedTest.FindSubmatch(out.Bytes()); found != nil {
		return string(found[1]), true
	}
	return "the end of the process", true
}

// kept is what earlier runs found out about each test without a mutant. It is found anew where the test's own file is another
// one. Of a mutant that is new since, the tests of its function count. With other changes of the code it may miss tests, and then
// tells of a survivor too many: see -fresh.
type kept struct {
	Tests map[string]keptTest // by name
	Lists map[string][]string // the names of all mutants at a time, by their hash

	path  string
	files map[string]string // of each test, the hash of the file that it is in
}

type keptTest struct {
	File  string // its hash
	List  string // of the mutants that there were
	Took  time.Duration
	Seen  []string // names of mutants
	Fails bool
}

var testFunction = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w*)\(`)

// openKept reads it.
func openKept(fresh bool) (*kept, error) {
	k := &kept{Tests: map[string]keptTest{}, Lists: map[string][]string{}, files: map[string]string{}}
	paths, err := filepath.Glob("*_test.go")
	if err != nil {
		return nil, err
	}
	for _, path := range paths {
		content, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		hash := sha256.Sum256(content)
		for _, found := range testFunction.FindAllSubmatch(content, -1) {
			k.files[string(found[1])] = hex.EncodeToString(hash[:])
		}
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, err
	}
	k.path = filepath.Join(cache, "matrix-regservice-mutate.json")
	content, err := os.ReadFile(k.path)
	if errors.Is(err, fs.ErrNotExist) || fresh {
		return k, nil
	}
	if err == nil {
		err = json.Unmarshal(content, k)
	}
	return k, err
}

// test returns what is kept of the test, for the mutants that there are now.
func (k *kept) test(name string, mutants []mutant) (t test, isKept bool) {
	is, isKept := k.Tests[name]
	if !isKept || is.File != k.files[name] {
		return test{}, false
	}
	seen, functions, known := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, name := range is.Seen {
		seen[name], functions[functionOf(name)] = true, true
	}
	for _, name := range k.Lists[is.List] {
		known[name] = true
	}
	t = test{name: name, took: is.Took, fails: is.Fails, seen: map[int]bool{}}
	for _, m := range mutants {
		if seen[m.name()] || !known[m.name()] && functions[functionOf(m.name())] {
			t.seen[m.number] = true
		}
	}
	return t, true
}

// functionOf is the beginning of a mutant's name: the file and the function.
func functionOf(name string) string {
	parts := strings.SplitN(name, ": ", 3)
	return strings.Join(parts[:min(2, len(parts))], ": ")
}

// add keeps the test.
func (k *kept) add(t test, mutants []mutant) error {
	is := keptTest{File: k.files[t.name], Took: t.took, Fails: t.fails}
	list := make([]string, len(mutants))
	for i, m := range mutants {
		list[i] = m.name()
		if t.seen[m.number] {
			is.Seen = append(is.Seen, m.name())
		}
	}
	hash := sha256.Sum256([]byte(strings.Join(list, "\n")))
	is.List = hex.EncodeToString(hash[:])
	k.Tests[t.name], k.Lists[is.List] = is, list

	used := map[string]bool{}
	for _, other := range k.Tests {
		used[other.List] = true
	}
	maps.DeleteFunc(k.Lists, func(hash string, _ []string) bool { return !used[hash] })
	content, err := json.Marshal(k)
	if err != nil {
		return err
	}
	return errors.Join(os.MkdirAll(filepath.Dir(k.path), 0o700), os.WriteFile(k.path, content, 0o600))
}
