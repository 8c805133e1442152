// report_test.go owns the tests of the report: findings that follow from others, and findings that a measurement overrules.

package check

import (
	"bytes"
	"strings"
	"testing"
)

// Whatever a file or a server says, a finding is one line, and holds no secret.
func TestReportAdd(t *testing.T) {
	r := &Report{}
	r.keepSecret(ourASToken, "", "abc")
	r.add(fine("one", "two\nlines of %s", ourASToken), warning("two", "do\tthis with "+ourASToken, "abc"), problem("three", "do that", "found"))
	var out bytes.Buffer
	r.finish()
	r.Print(&out, Style{All: true})
	want := "problem  three: found\n    do that\nwarning  two: abc\n    do this with …\nok       one: two lines of …\n1 problem, 1 warning, 1 ok\n"
	if out.String() != want {
		t.Errorf("got %s, want %s", &out, want)
	}
}

// A cause is counted once, with what follows from it beneath: through what was not looked at, too. What follows from something that is
// no problem stands by itself.
func TestReportCauses(t *testing.T) {
	r := &Report{}
	r.add(
		fine("files", "read"),
		warning("slow", "write in x: "+paste("fast: true")+thenRestart, "it is slow"),
		problem("server", "start it: "+paste("./start")+"; or see its log", "down"),
		unseen("token", "of server").follows("server"),
		unseen("ping", "of token").follows("token"),
		problem("door", "see nginx", "502").follows("slow", "server"),
		problem("alone", "do it", "wrong").follows("files", "slow", "nothing"),
	)
	r.finish()
	if r.Problems != 2 || r.Warnings != 1 || r.Notes != 0 || r.OK != 1 {
		t.Errorf("got %d problems, %d warnings, %d notes, %d ok", r.Problems, r.Warnings, r.Notes, r.OK)
	}
	const want = `problem  server: down
    start it:
        ./start
    or see its log
    so also door: 502
    and not checked: token, ping
problem  alone: wrong
    do it
warning  slow: it is slow
    write in x:
        fast: true
    then restart the homeserver
2 problems, 1 warning, 1 ok (--all shows what is ok)
`
	var out bytes.Buffer
	r.Print(&out, Style{})
	if out.String() != want {
		t.Errorf("got %s, want %s", &out, want)
	}
	for _, f := range r.Findings {
		if strings.Contains(f.Do, pasteMark) {
			t.Errorf("--json has a mark: %q", f.Do)
		}
	}
	out.Reset()
	r.Print(&out, Style{Colours: true})
	if !strings.Contains(out.String(), "\x1b[1;31mproblem \x1b[0m server: down\n    start it:\n        \x1b[1m./start\x1b[0m\n") {
		t.Errorf("in colours: %q", &out)
	}
}

// What was measured makes a warning of what was only read, and no measurement that is not ok does.
func TestOverrule(t *testing.T) {
	for measured, want := range map[Finding]Status{fine("probe", "ours"): Warning, problem("probe", "do", "another"): Problem, unseen("probe", "x"): Problem} {
		r := &Report{}
		r.add(problem("setting", "write it", "another"), measured)
		r.overrule([]rule{{subject: "setting", unless: "probe"}, {subject: "probe"}})
		if got := r.Findings[0]; got.Status != want {
			t.Errorf("with %+v: got %+v, want %s", measured, got, want)
		}
	}
}
