// promises_test.go owns that SECURITY.md's promises name functions, and that the comparison tells when they do not.

package main

import (
	"strings"
	"testing"
)

// Each promise of SECURITY.md has its line, and each function there is one.
func TestPromises(t *testing.T) {
	promises, err := readPromises("../..")
	if err != nil {
		t.Fatal(err)
	}
	if len(promises) < 15 {
		t.Errorf("only %d promises: is the form of the document another?", len(promises))
	}
	for _, p := range promises {
		if len(p.functions) == 0 {
			t.Errorf("%q names no function", p.text)
		}
	}
}

const table = "| promise | tests |\n|---|---|\n| Nobody gets in without a key | `TestA` |\n| It is answered | `TestB` |\n\n<!-- make cover\n"

var declared = []function{{"verify", "m/verify.go:3"}, {"server.answer", "m/server.go:9"}, {"limit.Take", "m/internal/limit/limit.go:5"}}

func TestPromisesThatDoNotMatch(t *testing.T) {
	for name, test := range map[string]struct{ comment, want string }{
		"all there":             {"Nobody gets in: verify\nIt is: server.answer limit.Take\n-->", ""},
		"no such function":      {"Nobody gets in: verified\nIt is: server.answer\n-->", "0 functions are called verified"},
		"a method by name only": {"Nobody gets in: verify\nIt is: answer\n-->", "0 functions are called answer"},
		"no such promise":       {"Nobody gets in: verify\nIt is: verify\nIt was: verify\n-->", `there is no promise "It was"`},
		"a promise without":     {"Nobody gets in: verify\n-->", `0 lines of its comment are of the promise "It is answered"`},
		"no comment":            {"Nobody gets in: verify\n", "has no comment"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := matchPromises(table+test.comment, declared)
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

func TestNotEntered(t *testing.T) {
	promises := []promise{{"Nobody gets in", declared[:2]}}
	const printed = "m/server.go:9:\t\tanswer\t\t0.0%\nm/verify.go:3:\t\tverify\t\t66.7%\ntotal:\t\t\t(statements)\t\t41.0%\n"
	unentered, total, err := notEntered(promises, printed)
	if err != nil || total != "41.0%" || len(unentered) != 1 || unentered[0] != "server.answer (m/server.go:9): Nobody gets in" {
		t.Errorf("got %q, %s, %v", unentered, total, err)
	}
	if _, _, err := notEntered([]promise{{"It is", declared}}, printed); err == nil || !strings.Contains(err.Error(), "nothing is known of limit.Take") {
		t.Errorf("got %v", err)
	}
}
