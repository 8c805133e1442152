// Bench takes the figures of docs/performance.md and writes them there.
//
//	go run ./bench                 # the program before a homeserver that answers at once: some minutes
//	go run ./bench -goals          # of that the ratios alone, which hold beside other work too
//	go run ./bench -homeservers    # before real homeservers, which make venvs installs
//
// main.go runs the benchmarks, with cgo and without, and puts what they print into the document.
package main

import (
	"bufio"
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const document = "docs/performance.md"

func main() {
	homeservers := flag.Bool("homeservers", false, "measure before real homeservers")
	goals := flag.Bool("goals", false, "take the ratios alone")
	short := flag.Bool("short", false, "smaller sizes, one round each, and nothing written: to see that it works")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	run := runBenchmarks
	switch {
	case *homeservers:
		run = runHomeservers
	case *goals:
		run = runGoals
	}
	if err := run(ctx, *short); err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

// The benchmarks of the tables, and those of them that a C compiler makes a difference to.
const (
	floorBenchmarks = "^BenchmarkFloor$"
	goalBenchmarks  = "^Benchmark(Beside|MAS|Reject)$"
	allBenchmarks   = "^Benchmark(Beside|MAS|Reject|Verify|Reserve|Register|Transaction|Size|Memory)$"
	recoverFloor    = "^BenchmarkFloor$/^ecrecover$"
	cgoBenchmarks   = "^BenchmarkVerify$|^BenchmarkReject$/^close$/^name$|^BenchmarkRegister$/^api=sharedsecret$/^close$/^conns=64$"
)

// runBenchmarks measures both builds and writes the tables. The floors are measured before the rest and after it.
func runBenchmarks(ctx context.Context, short bool) error {
	floors, err := benchmark(ctx, "1", floorBenchmarks, short)
	if err != nil {
		return err
	}
	pattern := allBenchmarks
	if short { // then those too that are not for the tables
		pattern = "^Benchmark([^F]|F[^l])"
	}
	withCgo, err := benchmark(ctx, "1", pattern, short)
	if err != nil {
		return err
	}
	pureGo, err := benchmark(ctx, "0", cgoBenchmarks, short)
	if err != nil {
		return err
	}
	pureGoFloor, err := benchmark(ctx, "0", recoverFloor, short)
	if err != nil {
		return err
	}
	maps.Copy(pureGo, pureGoFloor)
	if !short {
		after, err := benchmark(ctx, "1", floorBenchmarks, short)
		if err != nil {
			return err
		}
		if err := compareFloors(floors, after); err != nil {
			return err
		}
	}
	maps.Copy(withCgo, floors)
	goals, err := measureGoals(ctx, withCgo, short)
	if err != nil {
		return err
	}
	tables := map[string]string{
		"run": taken(), "goals": goals, "figures": figureTable(withCgo), "cgo": cgoTable(withCgo, pureGo), "shape": shapeTable(withCgo),
	}
	for _, name := range []string{"goals", "run", "figures", "cgo", "shape"} {
		fmt.Printf("\n%s", tables[name])
	}
	if short {
		return nil
	}
	if strings.Contains(tables["figures"]+tables["goals"], notMeasured) {
		return fmt.Errorf("the tables have a figure (%s) that no benchmark measured", notMeasured)
	}
	return intoDocument(tables)
}

// runGoals measures the ratios and writes their table.
func runGoals(ctx context.Context, short bool) error {
	measured, err := benchmark(ctx, "1", goalBenchmarks, short)
	if err != nil {
		return err
	}
	goals, err := measureGoals(ctx, measured, short)
	if err != nil {
		return err
	}
	fmt.Printf("\n%s", goals)
	if short {
		return nil
	}
	return intoDocument(map[string]string{"goals": goals})
}

// measureGoals measures the ratio at Synapse, and returns the table of all.
func measureGoals(ctx context.Context, measured results, short bool) (table string, err error) {
	var synapse race
	if !short {
		if synapse, err = subjects[0].measure(ctx); err != nil {
			return "", fmt.Errorf("%s: %w", subjects[0].recipe, err)
		}
	}
	return taken() + "\n" + goalTable(measured, synapse), nil
}

// floorTimes is how often each floor is measured, before and after. The fastest counts: what else the machine does, and a
// neighbour of a virtual machine, only ever makes one slower, for seconds or for minutes.
const floorTimes = 15

// floorsDiffer is by how much the floors of a run may differ, as a ratio.
const floorsDiffer = 1.2

// compareFloors refuses a run on a machine that became slower or faster meanwhile, since something else ran on it.
func compareFloors(before, after results) error {
	var differ []string
	for name, units := range before {
		unit := "ns/op"
		if units[median] > 0 {
			unit = median
		}
		b, a := units[unit], after[name][unit]
		if max(a, b) > floorsDiffer*min(a, b) {
			differ = append(differ, fmt.Sprintf("%s %s %s before and %s after", name, format(b), unit, format(a)))
		}
	}
	if len(differ) > 0 {
		slices.Sort(differ)
		return fmt.Errorf("nothing is written: the floors of this run differ by more than %.0f %% (%s): something else ran on this machine", (floorsDiffer-1)*100, strings.Join(differ, "; "))
	}
	return nil
}

// results are the figures of a run: by the benchmark's name and the unit.
type results map[string]map[string]float64

// benchmark runs the benchmarks of a pattern, and lets what they print be seen.
func benchmark(ctx context.Context, cgo, pattern string, short bool) (results, error) {
	each, times := "2s", 1
	if strings.HasPrefix(pattern, floorBenchmarks) && !short {
		each, times = "300ms", floorTimes
	}
	args := []string{"test", "-run", "^$", "-bench", pattern, "-benchtime", each, "-count", strconv.Itoa(times), "-timeout", "30m"}
	if short {
		args = append(args, "-short", "-benchtime", "1x")
	}
	args = append(args, "./...") // wherever a benchmark lives; go test runs one package after another then
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED="+cgo)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = io.MultiWriter(&out, os.Stderr), os.Stderr
	fmt.Fprintf(os.Stderr, "CGO_ENABLED=%s go %s\n", cgo, strings.Join(args, " "))
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("go test: %w", err)
	}
	return parse(&out, times)
}

// parse reads the lines that go test prints for benchmarks: a name, how often it ran, and pairs of a value and a unit. Of a benchmark
// that runs several times it keeps the lowest value in each unit.
func parse(r io.Reader, times int) (results, error) {
	all, seen := make(results), make(map[string]int)
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
			continue
		}
		name := strings.TrimPrefix(fields[0], "Benchmark")
		if dash := strings.LastIndexByte(name, '-'); dash >= 0 {
			name = name[:dash] // the number of processors
		}
		if seen[name]++; seen[name] > times {
			return nil, fmt.Errorf("two benchmarks are called %s", name)
		}
		if all[name] == nil {
			all[name] = make(map[string]float64)
		}
		for i := 2; i+1 < len(fields); i += 2 {
			value, err := strconv.ParseFloat(fields[i], 64)
			if err != nil {
				return nil, fmt.Errorf("go test printed %q: %w", lines.Text(), err)
			}
			unit := fields[i+1]
			if lowest, ok := all[name][unit]; !ok || value < lowest {
				all[name][unit] = value
			}
		}
	}
	return all, lines.Err()
}

// taken says of a run when and on what it was.
func taken() string {
	model := "a processor of unknown make"
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(info)) {
			if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	return fmt.Sprintf("Taken on %s with %s on %d cores of %s, %s/%s.\n",
		time.Now().UTC().Format("2 January 2006"), runtime.Version(), runtime.NumCPU(), model, runtime.GOOS, runtime.GOARCH)
}

// intoDocument puts each text between its two marks in the document.
func intoDocument(texts map[string]string) error {
	content, err := os.ReadFile(document)
	if err != nil {
		return err
	}
	for name, text := range texts {
		begin, end := "<!-- bench: "+name+" -->\n", "<!-- bench: end -->\n"
		before, rest, found := bytes.Cut(content, []byte(begin))
		_, after, ended := bytes.Cut(rest, []byte(end))
		if !found || !ended {
			return fmt.Errorf("%s has no place for %q: it stands between %q and %q", document, name, begin, end)
		}
		content = bytes.Join([][]byte{before, []byte(begin), []byte(text), []byte(end), after}, nil)
	}
	return os.WriteFile(document, content, 0o644)
}
