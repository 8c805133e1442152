package main

import (
	"bytes"
	"testing"
)

// Whatever a file or a server says, a finding is one line, and holds no secret.
func TestReportAdd(t *testing.T) {
	r := &checkReport{}
	r.keepSecret(testASToken, "", "abc")
	r.add(fine("one", "two\nlines of %s", testASToken), warning("two", "do\tthis with "+testASToken, "abc"), problem("three", "do that", "found"))
	var out bytes.Buffer
	r.print(&out)
	want := "ok       one: two lines of …\nwarning  two: abc; do this with …\nproblem  three: found; do that\n1 problem, 1 warning, 1 ok\n"
	if out.String() != want {
		t.Errorf("got %s, want %s", &out, want)
	}
}
