// Package need owns what a test needs that a machine may lack, and the line that brings it. It knows no server.
//
// A test that cannot run says so here, so that e2e/notrun can list it when all tests have run.
package need

import (
	"errors"
	"os"
	"strings"
	"testing"
)

// Attribute is the key of the test attribute that holds a Missing as text. See testing.T.Attr.
const Attribute = "needs"

// A Missing is something that a test needs, and the command that provides it.
type Missing struct {
	What string // without a colon
	Cure string
}

func (m Missing) Error() string { return m.What + " is missing: " + m.Cure }

// String is the form that Parse reads.
func (m Missing) String() string { return m.What + ": " + m.Cure }

// Parse reads the form that String writes.
func Parse(text string) (m Missing, ok bool) {
	m.What, m.Cure, ok = strings.Cut(text, ": ")
	return m, ok
}

// All skips the test when one of the errors is a Missing. With E2E_REQUIRED=1 the test fails instead. Any other
// error fails it always, nil is fine.
func All(t testing.TB, errs ...error) {
	t.Helper()
	var missing []Missing
	for _, err := range errs {
		m, ok := errors.AsType[Missing](err)
		if err != nil && (!ok || os.Getenv("E2E_REQUIRED") == "1") {
			t.Fatal(err)
		}
		if ok {
			missing = append(missing, m)
		}
	}
	if len(missing) > 0 {
		Skip(t, missing...)
	}
}

// Skip skips the test, whatever E2E_REQUIRED says.
func Skip(t testing.TB, missing ...Missing) {
	t.Helper()
	var texts []string
	for _, m := range missing {
		t.Attr(Attribute, m.String())
		texts = append(texts, m.String())
	}
	t.Skip("needs " + strings.Join(texts, "; "))
}

// Long reports whether the tests shall take their time: make test-all sets TEST_LONG=1.
func Long() bool { return os.Getenv("TEST_LONG") == "1" }

// OnlyLong skips a test that make test has no time for.
func OnlyLong(t testing.TB) {
	t.Helper()
	if !Long() {
		Skip(t, Missing{"more time", "make test-all"})
	}
}
