// report.go owns what is read of go test -json: what go test would print without it, and what did not run.

package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
)

// namesShown is how many tests a row of the table names.
const namesShown = 3

// An event is one of go doc test2json.
type event struct {
	Action, Package, Test, Output, Key, Value string
}

type testID struct{ pkg, test string }

// A report collects one run of go test.
type report struct {
	output map[testID]*strings.Builder // of each test that runs, and of its package
	needs  map[testID][]need.Missing
	rows   []row
}

// A row is something that is missing, and the tests that did not run for want of it.
type row struct {
	need.Missing
	tests []string
}

func newReport() *report {
	return &report{output: map[testID]*strings.Builder{}, needs: map[testID][]need.Missing{}}
}

// add notes that the test did not run. The test is empty where it is something else that did not.
func (r *report) add(m need.Missing, test string) {
	i := slices.IndexFunc(r.rows, func(at row) bool { return at.Missing == m })
	if i < 0 {
		i = len(r.rows)
		r.rows = append(r.rows, row{Missing: m})
	}
	if test != "" {
		r.rows[i].tests = append(r.rows[i].tests, test)
	}
}

// read takes one line of go test -json and returns what to print now. A line that is no event is printed as it is.
func (r *report) read(line []byte) string {
	var e event
	if err := json.Unmarshal(line, &e); err != nil || e.Action == "" {
		return string(line)
	}
	id := testID{e.Package, e.Test}
	switch e.Action {
	case "output":
		if !strings.HasPrefix(e.Output, "=== ") {
			if r.output[id] == nil {
				r.output[id] = new(strings.Builder)
			}
			r.output[id].WriteString(e.Output)
		}
	case "build-output":
		return e.Output
	case "attr":
		if m, ok := need.Parse(e.Value); ok && e.Key == need.Attribute {
			r.needs[id] = append(r.needs[id], m)
		}
	case "skip", "pass":
		output := r.taken(id)
		if e.Test == "" { // the closing line, as go test prints it without -v
			return output[strings.LastIndexByte(strings.TrimSuffix(output, "\n"), '\n')+1:]
		}
		if e.Action == "skip" {
			r.skipped(id, output)
		}
	case "fail":
		if e.Test == "" {
			return r.unfinished(e.Package)
		}
		return r.taken(id)
	}
	return ""
}

// taken returns the output of a test once.
func (r *report) taken(id testID) (output string) {
	if b := r.output[id]; b != nil {
		output = b.String()
		delete(r.output, id)
	}
	return output
}

// unfinished is the output of the tests that a panic or a time limit ended, and then that of the package.
func (r *report) unfinished(pkg string) (output string) {
	var left []string
	for id := range r.output {
		if id.pkg == pkg && id.test != "" {
			left = append(left, id.test)
		}
	}
	slices.Sort(left)
	for _, test := range left {
		output += r.taken(testID{pkg, test})
	}
	return output + r.taken(testID{pkg: pkg})
}

var skipMessage = regexp.MustCompile(`(?m)^ +\w+\.go:\d+: (.*)$`)

// skipped notes what a skipped test needs. One that does not say gets its message and no cure.
func (r *report) skipped(id testID, output string) {
	needs := r.needs[id]
	if len(needs) == 0 {
		said := "a test says nothing"
		if found := skipMessage.FindAllStringSubmatch(output, -1); found != nil {
			said = found[len(found)-1][1]
		}
		needs = []need.Missing{{What: said}}
	}
	for _, m := range needs {
		r.add(m, id.test)
	}
}

// table is the end of the run. It is empty when everything ran.
func (r *report) table() string {
	if len(r.rows) == 0 {
		return ""
	}
	slices.SortStableFunc(r.rows, func(a, b row) int { return cmp.Compare(len(b.Cure), 0) - cmp.Compare(len(a.Cure), 0) })
	var b strings.Builder
	b.WriteString("\nNot everything ran:\n\n")
	w := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "  missing\tto run it\tnot run")
	for _, row := range r.rows {
		fmt.Fprintf(w, "  %s\t%s\t%s\n", row.What, cmp.Or(row.Cure, "-"), cmp.Or(row.names(), "-"))
	}
	w.Flush()
	if line := r.oneLine(); line != "" {
		b.WriteString("\nAll of Debian's packages: " + line + "\n")
	}
	return b.String()
}

func (r row) names() string {
	if len(r.tests) <= namesShown {
		return strings.Join(r.tests, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(r.tests[:namesShown-1], ", "), len(r.tests)-namesShown+1)
}

// oneLine installs all packages that the rows name, where there is more than one row of them.
func (r *report) oneLine() string {
	const install = "apt-get install "
	var packages []string
	rows := 0
	for _, row := range r.rows {
		if names, ok := strings.CutPrefix(row.Cure, install); ok {
			rows++
			packages = append(packages, strings.Fields(names)...)
		}
	}
	if rows < 2 {
		return ""
	}
	slices.Sort(packages)
	return install + strings.Join(slices.Compact(packages), " ")
}
