// waiting_test.go owns how long tests wait for what must happen, and how much they do.

package main

import (
	"os"
	"testing"
	"time"
)

// patience is how long a test waits for what must happen: long enough for any machine, so that it decides nothing about
// how quick something is. What must be quick is counted, or compared with a control in the same run.
const patience = 5 * time.Minute

// long tells whether tests that can be made longer are: make test-all runs them so.
func long() bool { return os.Getenv("TEST_LONG") == "1" }

// eventually polls until the condition holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for start := time.Now(); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Since(start) > patience {
			t.Fatalf("still not: %s", what)
		}
	}
}
