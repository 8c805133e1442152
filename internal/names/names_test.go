// names_test.go owns the tests of server names and addresses.

package names

import (
	"strings"
	"testing"
)

func TestCheckServerName(t *testing.T) {
	tests := []struct {
		name string
		want string // in the error; "" for none
	}{
		{"transport02.smartmesh.cn", ""},
		{"localhost", ""},
		{"example.org:8448", ""},
		{"192.0.2.1", ""},
		{"192.0.2.1:8448", ""},
		{strings.Repeat("a", 211), ""},
		{"", "not a Matrix server name"},
		{"[2001:db8::1]", "IPv6 literal"},
		{"[2001:db8::1]:8448", "IPv6 literal"},
		{"2001:db8::1", "IPv6 literal"},
		{"example.org:", "not a Matrix server name"},
		{"example.org:123456", "not a Matrix server name"},
		{"example.org:port", "not a Matrix server name"},
		{":8448", "not a Matrix server name"},
		{"exa mple.org", "not a Matrix server name"},
		{"example.org\n", "not a Matrix server name"},
		{"exämple.org", "not a Matrix server name"},
		{"under_score.org", "not a Matrix server name"},
		{"https://example.org", "not a Matrix server name"},
		{"@user", "not a Matrix server name"},
		{"-", "not a Matrix server name"},
		{strings.Repeat("a", 212), "longer than Matrix allows"},
	}
	for _, test := range tests {
		err := CheckServerName(test.name)
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%q: got %v, want %q", test.name, err, test.want)
		}
	}
}

func TestIsAddress(t *testing.T) {
	const checksummed = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
	for text, want := range map[string]bool{
		checksummed:                                  true,
		strings.ToLower(checksummed):                 true,
		"0x" + strings.ToUpper(checksummed[2:]):      true,
		"0x5AAeb6053F3E94C9b9A09f33669435E7Ef1BeAed": false, // one letter's case
		checksummed[2:]:                              false,
		"0X" + checksummed[2:]:                       false,
		checksummed + "0":                            false,
		checksummed[:41]:                             false,
		"0x" + strings.Repeat("g", 40):               false,
		"":                                           false,
	} {
		if got := IsAddress(text); got != want {
			t.Errorf("%q: got %v, want %v", text, got, want)
		}
	}
}
