// Bench takes the figures of docs/performance.md and writes them there.
//
//	go run ./bench                 # the program before a homeserver that answers at once: some minutes
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
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const document = "docs/performance.md"

func main() {
	homeservers := flag.Bool("homeservers", false, "measure before real homeservers")
	short := flag.Bool("short", false, "smaller sizes, one round each, and nothing written: to see that it works")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	run := runBenchmarks
	if *homeservers {
		run = runHomeservers
	}
	if err := run(ctx, *short); err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

// The benchmarks of the table, and those of them that a C compiler makes a difference to.
const (
	allBenchmarks = "^Benchmark(Floor|Verify|Reject|Reserve|Register|Transaction|Size|Memory)$"
	cgoBenchmarks = "^BenchmarkFloor$/^ecrecover$|^BenchmarkVerify$|^BenchmarkReject$/^kept$/^signature$|^BenchmarkRegister$/^api=sharedsecret$/^conns=64$"
)

// runBenchmarks measures both builds and writes the tables.
func runBenchmarks(ctx context.Context, short bool) error {
	pattern := allBenchmarks
	if short { // then those too that are not for the table
		pattern = "."
	}
	withCgo, err := benchmark(ctx, "1", pattern, short)
	if err != nil {
		return err
	}
	pureGo, err := benchmark(ctx, "0", cgoBenchmarks, short)
	if err != nil {
		return err
	}
	tables := map[string]string{"run": taken(), "targets": targetTable(withCgo), "cgo": cgoTable(withCgo, pureGo), "shape": shapeTable(withCgo)}
	for _, name := range []string{"run", "targets", "cgo", "shape"} {
		fmt.Printf("\n%s", tables[name])
	}
	if short {
		return nil
	}
	if strings.Contains(tables["targets"], notMeasured) {
		return fmt.Errorf("the table has a figure (%s) that no benchmark measured", notMeasured)
	}
	return intoDocument(tables)
}

// results are the figures of a run: by the benchmark's name and the unit.
type results map[string]map[string]float64

// benchmark runs the benchmarks of a pattern, and lets what they print be seen.
func benchmark(ctx context.Context, cgo, pattern string, short bool) (results, error) {
	args := []string{"test", "-run", "^$", "-bench", pattern, "-benchtime", "2s", "-timeout", "30m"}
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
	return parse(&out)
}

// parse reads the lines that go test prints for benchmarks: a name, how often it ran, and pairs of a value and a unit.
func parse(r io.Reader) (results, error) {
	all := make(results)
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
		if all[name] != nil {
			return nil, fmt.Errorf("two benchmarks are called %s", name)
		}
		all[name] = make(map[string]float64)
		for i := 2; i+1 < len(fields); i += 2 {
			value, err := strconv.ParseFloat(fields[i], 64)
			if err != nil {
				return nil, fmt.Errorf("go test printed %q: %w", lines.Text(), err)
			}
			all[name][fields[i+1]] = value
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
