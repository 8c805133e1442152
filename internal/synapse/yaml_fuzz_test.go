// yaml_fuzz_test.go owns the fuzz test of reading Synapse's files.

package synapse

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// Whatever stands in a file, reading it ends, and a fault is told with a line that the file has.
func FuzzDecode(f *testing.F) {
	for _, text := range []string{"a: 1", "a: [1, 2", "a: &x {b: 1}\nc: {<<: *x}", "a: 'x\ty'\nb:\tc", "%YAML 1.2\n---\na: |\n  \tx\n", "a: 'x'#c", "&a [*a]", "a: 1:30\nb: 2024-01-01"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		_, err := Decode(content)
		if fault, ok := err.(SyntaxError); err != nil && (!ok || fault.Line > len(readLines(content).begin) || strings.TrimSpace(fault.Problem) == "" || !utf8.ValidString(fault.Problem)) {
			t.Errorf("got %#v", err)
		}
	})
}
