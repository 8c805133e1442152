// report_test.go owns what go test's events become: its usual output, and the table.

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const needPackage = "github.com/SmartMeshFoundation/matrix-regservice/e2e/need"

// A package of its own, which lies in this module so that it can import need.
const skipping = `package skipping

import (
	"testing"

	"` + needPackage + `"
)

var nginx = need.Missing{What: "nginx", Cure: "apt-get install nginx-light"}

func TestRuns(t *testing.T)     { t.Log("nobody sees this") }
func TestOne(t *testing.T)      { need.All(t, nil, nginx) }
func TestTwo(t *testing.T) {
	t.Run("inner", func(t *testing.T) { need.All(t, need.Missing{What: "PostgreSQL", Cure: "apt-get install postgresql"}, nginx) })
}
func TestThree(t *testing.T)    { need.All(t, nginx) }
func TestFour(t *testing.T)     { need.All(t, nginx) }
func TestBare(t *testing.T)     { t.Skip("this one has no ping") }
func TestLong(t *testing.T)     { need.OnlyLong(t) }
`

const failing = `package failing

import "testing"

func TestFails(t *testing.T) {
	t.Run("inner", func(t *testing.T) { t.Error("this is why") })
}
func TestPanics(t *testing.T) { t.Log("before it"); panic("at the disco") }
`

// gotest runs the program of this directory on a package, as make does.
func gotest(t *testing.T, source string, env ...string) (output string, code int) {
	t.Helper()
	dir, err := os.MkdirTemp(".", "_package-") // which ./... leaves out
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.WriteFile(filepath.Join(dir, "a_test.go"), []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "notrun")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	cmd := exec.CommandContext(t.Context(), program, "-also", "a network: plug it in", "-count=1", "./"+dir)
	cmd.Env = append(os.Environ(), append([]string{"E2E_REQUIRED=", "TEST_LONG="}, env...)...)
	out, _ := cmd.CombinedOutput()
	return string(out), cmd.ProcessState.ExitCode()
}

func TestTable(t *testing.T) {
	out, code := gotest(t, skipping)
	if code != 0 {
		t.Errorf("exit %d", code)
	}
	if !strings.HasPrefix(out, "ok  \t"+needPackage[:strings.LastIndex(needPackage, "/")]+"/notrun/_package-") {
		t.Errorf("the first line is not go test's")
	}
	_, table, _ := strings.Cut(out, "\n")
	want := `
Not everything ran:

  missing                to run it                     not run
  a network              plug it in                    -
  nginx                  apt-get install nginx-light   TestOne, TestTwo/inner and 2 more
  PostgreSQL             apt-get install postgresql    TestTwo/inner
  more time              make test-all                 TestLong
  this one has no ping   -                             TestBare

All of Debian's packages: apt-get install nginx-light postgresql
`
	if table != want {
		t.Errorf("got\n%s\nwant\n%s", table, want)
	}
}

// With E2E_REQUIRED=1 what is missing is a failure, and with TEST_LONG=1 nothing is too long. The table stays.
func TestRequired(t *testing.T) {
	out, code := gotest(t, skipping, "E2E_REQUIRED=1", "TEST_LONG=1")
	if code != 1 {
		t.Errorf("exit %d", code)
	}
	for _, want := range []string{"nginx is missing: apt-get install nginx-light", "--- FAIL: TestOne", "FAIL\t" + needPackage[:10], "this one has no ping   -"} {
		if !strings.Contains(out, want) {
			t.Errorf("there is no %q", want)
		}
	}
	if strings.Contains(out, "make test-all") || strings.Contains(out, "nobody sees this") {
		t.Error("what ran is there too")
	}
	if t.Failed() {
		t.Log(out)
	}
}

func TestFailures(t *testing.T) {
	for name, test := range map[string]struct {
		source string
		want   []string
	}{
		"tests":    {failing, []string{"--- FAIL: TestFails/inner", "this is why", "before it", "panic: at the disco", "\nFAIL\t"}},
		"no build": {"package broken\n\nvar x = y\n", []string{"undefined: y", "[build failed]"}},
	} {
		t.Run(name, func(t *testing.T) {
			out, code := gotest(t, test.source)
			if code != 1 {
				t.Errorf("exit %d", code)
			}
			for _, want := range append(test.want, "a network") {
				if !strings.Contains(out, want) {
					t.Errorf("there is no %q in\n%s", want, out)
				}
			}
		})
	}
}
