// registration_fuzz_test.go owns the fuzz test of reading registration.yaml.

package config

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// What is read from files, fuzzed.

var lineNumber = regexp.MustCompile(`line [0-9]+`)

// A registration.yaml gives two tokens or an error, and the error is one of few sentences: nothing in them is out of
// the file.
func FuzzReadRegistration(f *testing.F) {
	path := filepath.Join(f.TempDir(), RegistrationFile)
	read := func(t testing.TB, content []byte) (c Config, said string) {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		err := c.readTokens(path, true)
		if err == nil {
			return c, ""
		}
		return c, lineNumber.ReplaceAllString(err.Error(), "line N")
	}
	fixed := map[string]bool{"": true}
	for _, content := range []string{
		"id: regapp\nurl: http://127.0.0.1:8009/regapp/1\nas_token: sekrit1\nhs_token: sekrit2\nsender_localpart: sekrit3\nnamespaces:\n  users:\n  - exclusive: true\n    regex: '@.*'\n  aliases: []\n",
		"as_token: sekrit1\n", "hs_token: sekrit1\n", "", "- sekrit1\n", "sekrit1", "as_token: &a [*a]\n", "as_token: !!binary sekrit1\n",
		"as_token: [sekrit1]\nhs_token: sekrit2\n", "as_token: sekrit1\nhs_token: {sekrit2: 0x10}\n", "as_token: sekrit1\nhs_token: sekrit2\nid: 1.5\n",
		"as_token: sekrit1\n\ths_token: sekrit2\n", "as_token: \"sekrit1\\nX: y\"\nhs_token: sekrit2\n", "as_token: sekrit1\nhs_token: 'sekrit 2'\n",
		"a: &a {x: sekrit1}\n<<: *a\nas_token: sekrit1\nhs_token: sekrit2\n", "%YAML 9\n---\nsekrit1: !<\n", "\xff\xfe", "? [sekrit1]\n: 1\n",
	} {
		f.Add([]byte(content))
		_, said := read(f, []byte(content))
		if strings.Contains(said, "sekrit") {
			f.Fatalf("quotes the file: %s", said)
		}
		fixed[said] = true
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		c, said := read(t, content)
		if !fixed[said] {
			t.Errorf("this is not one of the fixed errors: %s", said)
		}
		for _, token := range []string{c.ASToken, c.HSToken} {
			if said == "" && token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
				t.Errorf("taken for a token: %q", token)
			}
		}
	})
}
