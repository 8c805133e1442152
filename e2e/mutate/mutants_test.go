// mutants_test.go owns that a change is woven into the code where it was planned.

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const sample = `package main

import (
	"errors"
	"fmt"
	"os"
)

func main() {
	for _, n := range []int{-1, 0, 1, 2} {
		got, err := half(n, n == 2 == true)
		fmt.Fprint(os.Stdout, got, err, " ")
	}
}

func half(n int, even bool) (int, error) {
	if n < 0 || n == 0 && !even {
		return 0, errors.New("small")
	}
	half := 0
	for n > 1 && half < 9 {
		n -= 2
		half++
	}
	return half, nil
}
`

// Each mutant of the sample is switched on alone, and changes what it prints; without one it prints as ever.
func TestWeave(t *testing.T) {
	number := 0
	woven, mutants, err := weave("sample.go", []byte(sample), func() int { number++; return number })
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, content := range map[string]string{
		"sample.go": string(woven), "go.mod": "module sample\n",
		"mutated.go": strings.ReplaceAll(strings.Replace(switches, "%s", "main", 1), "%%", "%"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	binary := filepath.Join(dir, "sample")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, ".")
	build.Dir = dir
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s\n%s", err, out, woven)
	}

	prints := func(env ...string) string {
		cmd := exec.CommandContext(t.Context(), binary)
		cmd.Env = env
		out, err := cmd.Output()
		if err != nil {
			return err.Error()
		}
		return string(out)
	}
	asEver := prints()
	if want := "0 small 0 small 0 <nil> 1 <nil> "; asEver != want {
		t.Fatalf("got %q, want %q", asEver, want)
	}
	var changes, same []string
	for _, m := range mutants {
		changes = append(changes, m.change)
		if prints("MUTANT="+strconv.Itoa(m.number)) == asEver {
			same = append(same, m.change)
		}
	}
	for _, want := range []string{
		`n > 1 is n >= 1`, `without fmt.Fprint(os.Stdout, got, err, " ")`, `n < 0 || n == 0 && !even is true`,
		`n < 0 || n == 0 && !even is false`, `n < 0 is false`, `n == 0 && !even is false`, `n == 0 is true`, `!even is true`,
		`n < 0 is n <= 0`, `return nil for errors.New("small")`, `n > 1 && half < 9 is false`, `n > 1 is true`, `without n -= 2`,
		`without half++`, `true is false in got, err := half(n, n == 2 == true)`, `half < 9 is true`,
	} {
		if !slices.Contains(changes, want) {
			t.Errorf("no mutant %q among %q", want, changes)
		}
	}
	// The sample prints no value that these need.
	if want := []string{"n < 0 is n <= 0", "!even is true", "half < 9 is true", "half < 9 is half <= 9"}; !slices.Equal(same, want) {
		t.Errorf("these print as ever: %q, want %q", same, want)
	}

	seen := filepath.Join(dir, "seen")
	if err := os.Mkdir(seen, 0o700); err != nil {
		t.Fatal(err)
	}
	prints("MUTANTS_SEEN=" + seen)
	if entries, err := os.ReadDir(seen); err != nil || len(entries) < len(mutants)/2 {
		t.Errorf("%d of %d mutants were seen, %v", len(entries), len(mutants), err)
	}
}
