// urls_test.go owns the tests of URLs, and of which hold a password.

package names

import (
	"strings"
	"testing"
)

func TestParseEthRPC(t *testing.T) {
	for text, want := range map[string]struct{ valid, keyed bool }{
		"http://127.0.0.1:8545":              {true, false},
		"http://127.0.0.1:8545/":             {true, false},
		"https://eth.example.org":            {true, false},
		"http://[::1]:8545":                  {true, false},
		"https://eth.example.org/v3/hunter2": {true, true},
		"https://eth.example.org/?k=hunter2": {true, true},
		"https://u:hunter2@eth.example.org":  {true, true},
		"https://hunter2@eth.example.org":    {true, true},
		"":                                   {},
		"127.0.0.1:8545":                     {},
		"ws://127.0.0.1:8546/hunter2":        {},
		"/run/geth.ipc":                      {},
		"http:///hunter2":                    {},
		"http://x:99999/hunter2":             {},
		"http://x/hunter2#fragment":          {},
		"http://x/hunter2\n":                 {},
		"http://x/%zzhunter2":                {},
	} {
		u, err := ParseEthereumURL(text)
		if (err == nil) != want.valid || err == nil && MayHoldKey(u) != want.keyed {
			t.Errorf("%q: got %v", text, err)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: the error quotes it: %v", text, err)
		}
	}
}

func TestHasPassword(t *testing.T) {
	for dataPath, want := range map[string]bool{
		".matrix": false, "/var/lib/x": false, "postgres://u@h/db": false, "postgres:///db": false,
		"postgres://u:p@h/db": true, "postgres://u@h/db?password=p": true, "postgres://u:%zz@h/db": true,
	} {
		if got := HasPassword(dataPath); got != want {
			t.Errorf("%s: got %v", dataPath, got)
		}
	}
}
