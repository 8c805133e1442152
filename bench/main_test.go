// main_test.go owns the proof that a run beside other work is refused, and that what go test prints is read.

package main

import (
	"strings"
	"testing"
)

// A run whose floors differ is refused, whichever way, and one whose floors are near each other is not.
func TestCompareFloors(t *testing.T) {
	before := results{"Floor/ecrecover": {"ns/op": 100}, "Floor/commit": {"ns/op": 1, median: 0.2}}
	for name, test := range map[string]struct {
		after results
		want  string // in the error; "" for none
	}{
		"near":             {results{"Floor/ecrecover": {"ns/op": 119}, "Floor/commit": {"ns/op": 9, median: 0.17}}, ""},
		"slower":           {results{"Floor/ecrecover": {"ns/op": 121}, "Floor/commit": {median: 0.2}}, "Floor/ecrecover 100 ns/op before and 121 after"},
		"faster":           {results{"Floor/ecrecover": {"ns/op": 100}, "Floor/commit": {median: 0.1}}, "Floor/commit 0.2 p50-ms before and 0.1 after"},
		"measured no more": {results{"Floor/ecrecover": {"ns/op": 100}}, "Floor/commit"},
	} {
		err := compareFloors(before, test.after)
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: got %v, want %q", name, err, test.want)
		}
	}
}

// Of the same benchmark the lowest values count. One that runs more often than asked for is two of one name.
func TestParse(t *testing.T) {
	const printed = "goos: linux\nBenchmarkFloor/commit-2 \t 10\t 30 ns/op\t 0.2 p50-ms\nBenchmarkFloor/commit-2 \t 10\t 20 ns/op\t 0.3 p50-ms\nPASS\n"
	got, err := parse(strings.NewReader(printed), 2)
	if commit := got["Floor/commit"]; err != nil || commit["ns/op"] != 20 || commit[median] != 0.2 {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := parse(strings.NewReader(printed), 1); err == nil {
		t.Error("two of one name were taken")
	}
}
