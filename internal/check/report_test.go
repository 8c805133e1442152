package check

import (
	"bytes"
	"testing"
)

// Whatever a file or a server says, a finding is one line, and holds no secret.
func TestReportAdd(t *testing.T) {
	r := &Report{}
	r.keepSecret(ourASToken, "", "abc")
	r.add(fine("one", "two\nlines of %s", ourASToken), warning("two", "do\tthis with "+ourASToken, "abc"), problem("three", "do that", "found"))
	var out bytes.Buffer
	r.Print(&out)
	want := "ok       one: two lines of …\nwarning  two: abc; do this with …\nproblem  three: found; do that\n1 problem, 1 warning, 1 ok\n"
	if out.String() != want {
		t.Errorf("got %s, want %s", &out, want)
	}
}
