// shell_test.go owns the test that quoting for a shell can be undone.

package shell

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// What is quoted reaches the program as it was, and is read as it was.
func TestShellQuote(t *testing.T) {
	for _, word := range []string{"plain", "two words", "it's", `"$HOME"`, "`id`", "a;b", "*", "", "-n", "ä", "~", "a\\b", "line\nbreak"} {
		out, err := exec.Command("sh", "-c", "printf %s "+Quote(word)).Output()
		if err != nil || string(out) != word {
			t.Errorf("%q: got %q, %v", word, out, err)
		}
		if got := Words("x " + Quote(word)); len(got) != 2 || got[1] != word {
			t.Errorf("%q: read as %q", word, got)
		}
	}
}

// A real shell reads the same words.
func TestShellWords(t *testing.T) {
	for line, want := range map[string][]string{
		"":                       nil,
		"a  b\tc\n":              {"a", "b", "c"},
		`'a b' "c d"`:            {"a b", "c d"},
		`'it'\''s'`:              {"it's"},
		`a\ b '\' "\""`:          {"a b", `\`, `"`},
		`'' x`:                   {"", "x"},
		`"a\b" "\\c" "\$d" '\e'`: {`a\b`, `\c`, "$d", `\e`},
	} {
		if got := Words(line); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", line, got, want)
		}
		out, err := exec.Command("sh", "-c", "for word in "+strings.TrimSuffix(line, "\n")+`; do printf '%s\0' "$word"; done`).Output()
		if got := strings.Join(want, "\x00"); err != nil || strings.TrimSuffix(string(out), "\x00") != got {
			t.Errorf("%s: sh reads %q, %v", line, out, err)
		}
	}
}
