// tests_test.go owns the tests of the cache, of which tests are run for a mutant, and of the report.

package main

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
)

// What is kept of a test counts as long as its file is the same: by the names of mutants, whatever their numbers, and for a
// mutant that is new by its function.
func TestKept(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Chdir(t.TempDir())
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile("a_test.go", []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	open := func(fresh bool) *kept {
		t.Helper()
		k, err := openKept(fresh)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	write("package main\nfunc TestA(t *testing.T) {}\n")
	before := []mutant{{1, "a.go", 1, "f", "x is true"}, {2, "a.go", 2, "f", "y is true"}, {3, "a.go", 3, "g", "x is true"}}
	if err := open(false).add(test{name: "TestA", seen: map[int]bool{1: true}}, before); err != nil {
		t.Fatal(err)
	}
	after := []mutant{{1, "a.go", 1, "f", "new is true"}, {2, "a.go", 2, "f", "x is true"}, {3, "a.go", 3, "f", "y is true"}, {4, "a.go", 4, "g", "new is true"}}
	got, known := open(false).test("TestA", after)
	if want := map[int]bool{1: true, 2: true}; !known || !maps.Equal(got.seen, want) {
		t.Errorf("got %v, %t, want %v", got.seen, known, want)
	}
	if _, known := open(true).test("TestA", after); known {
		t.Error("it is known where all is to be found anew")
	}
	write("package main\nfunc TestA(t *testing.T) { t.Log() }\n")
	if _, known := open(false).test("TestA", after); known {
		t.Error("it is known though its file is another")
	}
}

// A run is of the files, of the names with a part, or of what an earlier run printed.
func TestChoose(t *testing.T) {
	all := []mutant{{1, "a.go", 7, "f", "x is true"}, {2, "a.go", 8, "f", "y is true"}, {3, "b.go", 9, "f", "x is true"}}
	printed := filepath.Join(t.TempDir(), "printed")
	if err := os.WriteFile(printed, []byte("1/3 a.go:7: survived: a.go: f: x is true\n3/3 b.go:9: noticed by TestX: b.go: f: x is true\n3 mutants\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		o    options
		want []int
	}{
		{options{}, []int{1, 2, 3}},
		{options{files: []string{"a.go"}}, []int{1, 2}},
		{options{only: "x is"}, []int{1, 3}},
		{options{in: printed}, []int{1, 3}},
		{options{in: printed, files: []string{"b.go"}}, []int{3}},
	} {
		chosen, err := test.o.choose(all)
		var got []int
		for _, m := range chosen {
			got = append(got, m.number)
		}
		if err != nil || !slices.Equal(got, test.want) {
			t.Errorf("%+v: got %v, %v, want %v", test.o, got, err, test.want)
		}
	}
}

// A run succeeds only where each mutant that survived is explained, and each explanation is of one that did.
func TestReport(t *testing.T) {
	mutants := []mutant{{1, "a.go", 1, "f", "x"}, {2, "a.go", 2, "f", "y"}}
	killed, survived := verdict{by: "TestX"}, verdict{survived: "survived"}
	of := func(names ...string) map[string]string {
		explained := map[string]string{}
		for _, name := range names {
			explained[name] = "why"
		}
		return explained
	}
	for _, test := range []struct {
		name      string
		verdicts  []verdict
		explained map[string]string
		all       bool
		fails     bool
	}{
		{"all killed", []verdict{killed, killed}, of(), true, false},
		{"explained", []verdict{killed, survived}, of("a.go: f: y"), true, false},
		{"not explained", []verdict{killed, survived}, of(), false, true},
		{"explained, and killed", []verdict{killed, survived}, of("a.go: f: x", "a.go: f: y"), false, true},
		{"explained, and gone", []verdict{killed, killed}, of("a.go: f: z"), true, true},
		{"explained, of another run", []verdict{killed, killed}, of("b.go: f: z"), false, false},
	} {
		if err := report(mutants, test.verdicts, test.explained, test.all); (err != nil) != test.fails {
			t.Errorf("%s: got %v", test.name, err)
		}
	}
}

func TestEach(t *testing.T) {
	var done atomic.Int32
	if err := each(t.Context(), 3, 10, func(int) error { done.Add(1); return nil }); err != nil || done.Load() != 10 {
		t.Errorf("%d of 10, %v", done.Load(), err)
	}
	broken := errors.New("broken")
	if err := each(t.Context(), 3, 10, func(i int) error { return map[bool]error{true: broken}[i == 4] }); err != broken {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := each(ctx, 3, 10, func(int) error { t.Error("begun"); return nil }); err == nil {
		t.Error("it was stopped, and says nothing")
	}
}
