// registration_test.go owns the tests of reading registration.yaml, and of its errors.

package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// An error about a file names the file and the key, and never quotes what stands there.
func TestReadRegistration(t *testing.T) {
	tests := []struct {
		name, content string
		given         Config
		want          string
	}{
		{"good", "as_token: sekrit1\nhs_token: sekrit2\n", Config{}, ""},
		{"a flag repeats it", "as_token: sekrit1\nhs_token: sekrit2\n", Config{ASToken: "sekrit1"}, ""},
		{"a flag contradicts", "as_token: sekrit1\nhs_token: sekrit2\n", Config{HSToken: "sekrit3"}, "--hstoken is not the hs_token of"},
		{"no hs_token", "as_token: sekrit1\n", Config{}, "has no hs_token"},
		{"empty", "", Config{}, "has no as_token"},
		{"a number", "as_token: 5318008\nhs_token: sekrit2\n", Config{}, "as_token must be a string"},
		{"a list", "as_token: [sekrit1]\nhs_token: sekrit2\n", Config{}, "as_token must be a string"},
		{"a list of all", "- sekrit1\n", Config{}, "is not a YAML mapping"},
		{"text", "sekrit1", Config{}, "is not a YAML mapping"},
		{"broken", "as_token: sekrit1\n\ths_token: sekrit2\n", Config{}, "is not a YAML mapping of settings: line 2"},
		{"a line break", "as_token: \"sekrit1\\nX: y\"\nhs_token: sekrit2\n", Config{}, "as_token has characters"},
		{"a space", "as_token: sekrit1 sekrit\nhs_token: sekrit2\n", Config{}, "as_token has characters"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "registration.yaml")
			if err := os.WriteFile(path, []byte(test.content), 0o600); err != nil {
				t.Fatal(err)
			}
			c := test.given
			err := c.readTokens(path, true)
			if test.want == "" && (err != nil || c.ASToken != "sekrit1" || c.HSToken != "sekrit2") {
				t.Errorf("got %+v, %v", c, err)
			}
			if test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), path)) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			if err != nil && (strings.Contains(err.Error(), "sekrit") || strings.Contains(err.Error(), "5318008")) {
				t.Errorf("quotes the file: %v", err)
			}
		})
	}
}
