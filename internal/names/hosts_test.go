// hosts_test.go owns the tests of hosts and networks.

package names

import (
	"strings"
	"testing"
)

func TestReadNetworks(t *testing.T) {
	for text, want := range map[string]string{ // "" is an error
		"127.0.0.0/8,::1":          "127.0.0.0/8 ::1/128",
		"10.1.2.3/8":               "10.0.0.0/8",
		" 10.1.2.3 , 2001:db8::1 ": "10.1.2.3/32 2001:db8::1/128",
		"::ffff:10.1.2.3":          "10.1.2.3/32",
		"::ffff:10.0.0.0/104":      "",
		"nginx":                    "",
		"10.0.0.0/33":              "",
		"10.0.0.1:80":              "",
		"fe80::1%eth0/64":          "",
	} {
		all, err := ParseNetworks(text)
		var got []string
		for _, prefix := range all {
			got = append(got, prefix.String())
		}
		if (err != nil) != (want == "") || strings.Join(got, " ") != want {
			t.Errorf("%q: got %v, %v, want %s", text, got, err, want)
		}
	}
	if all, err := ParseNetworks(""); err != nil || len(all) > 0 {
		t.Errorf("nobody: got %v, %v", all, err)
	}
}

func TestReachableHost(t *testing.T) {
	for host, want := range map[string]string{"127.0.0.1": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1", "gateway": "gateway", "2001:db8::1": "2001:db8::1"} {
		if got := ReachableHost(host); got != want {
			t.Errorf("%s: got %s, want %s", host, got, want)
		}
	}
}
