// proxies_test.go owns the tests of the client's address behind proxies.

package limit

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
)

func trusted(networks ...string) (p Proxies) {
	for _, network := range networks {
		p = append(p, netip.MustParsePrefix(network))
	}
	return p
}

func TestClientAddress(t *testing.T) {
	tests := []struct {
		name, peer string
		forwarded  []string
		want       string
		wantKnown  bool
	}{
		{"direct", "203.0.113.9:5", nil, "203.0.113.9", true},
		{"forged from outside", "203.0.113.9:5", []string{"198.51.100.1"}, "203.0.113.9", true},
		{"behind nginx", "127.0.0.1:5", []string{"203.0.113.9"}, "203.0.113.9", true},
		{"behind nginx, IPv6", "[::1]:5", []string{"2001:db8::1"}, "2001:db8::1", true},
		{"behind nginx, seen by IPv6", "[::ffff:127.0.0.1]:5", []string{"203.0.113.9"}, "203.0.113.9", true},
		{"behind nginx, forged", "127.0.0.1:5", []string{"198.51.100.1, 203.0.113.9"}, "203.0.113.9", true},
		{"behind nginx, forged in a header of its own", "127.0.0.1:5", []string{"198.51.100.1", "203.0.113.9"}, "203.0.113.9", true},
		{"behind two", "127.0.0.1:5", []string{"198.51.100.1, 203.0.113.9, 10.0.0.7"}, "203.0.113.9", true},
		{"behind two, in two headers", "127.0.0.1:5", []string{"198.51.100.1, 203.0.113.9", "10.0.0.7"}, "203.0.113.9", true},
		{"from a proxy itself", "127.0.0.1:5", []string{"10.0.0.8, 10.0.0.7"}, "10.0.0.8", true},
		{"from this machine", "127.0.0.1:5", []string{"127.0.0.1"}, "127.0.0.1", true},
		{"nonsense left of the client", "127.0.0.1:5", []string{"who knows, 203.0.113.9"}, "203.0.113.9", true},
		{"mapped", "127.0.0.1:5", []string{"::ffff:203.0.113.9"}, "203.0.113.9", true},
		{"a zone", "127.0.0.1:5", []string{"fe80::1%eth0"}, "fe80::1", true},
		{"a zone of the peer", "[fe80::1%eth0]:5", nil, "fe80::1", true},
		{"with a port", "127.0.0.1:5", []string{"203.0.113.9:1234"}, "203.0.113.9", true},
		{"IPv6 with a port", "127.0.0.1:5", []string{"[2001:db8::1]:1234"}, "2001:db8::1", true},
		{"IPv6 in brackets", "127.0.0.1:5", []string{"[2001:db8::1]"}, "2001:db8::1", true},
		{"empty entries", "127.0.0.1:5", []string{"203.0.113.9, ,", ""}, "203.0.113.9", true},
		{"no header", "127.0.0.1:5", nil, "127.0.0.1", false},
		{"an empty header", "127.0.0.1:5", []string{""}, "127.0.0.1", false},
		{"nonsense", "127.0.0.1:5", []string{"who knows"}, "127.0.0.1", false},
		{"nonsense left of a proxy", "127.0.0.1:5", []string{"203.0.113.9, who knows, 10.0.0.7"}, "127.0.0.1", false},
		{"no peer", "@", []string{"203.0.113.9"}, "invalid IP", false},
	}
	proxies := trusted("127.0.0.0/8", "::1/128", "10.0.0.0/8")
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := httptest.NewRequest("POST", "/", nil)
			r.RemoteAddr = test.peer
			for _, value := range test.forwarded {
				r.Header.Add("X-Forwarded-For", value)
			}
			if got, known := proxies.Client(r); got.String() != test.want || known != test.wantKnown {
				t.Errorf("got %s, %v, want %s, %v", got, known, test.want, test.wantKnown)
			}
		})
	}
}

// Whatever a client writes into X-Forwarded-For, it is known by the address that the nearest trusted proxy saw, and by its
// own where it is no such proxy.
func FuzzForwardedFor(f *testing.F) {
	for _, header := range []string{"", "203.0.113.9", "198.51.100.1, 203.0.113.9", "2001:db8::1", "[2001:db8::1]:443", "::ffff:203.0.113.9", "fe80::1%eth0", "127.0.0.1, ::1", ",, ,", "who knows", "203.0.113.9:80", "unknown, 127.0.0.1", "203.0.113.9\n198.51.100.1", "0x7f.1"} {
		f.Add(header)
	}
	proxies := trusted("127.0.0.0/8", "::1/128")
	f.Fuzz(func(t *testing.T, header string) {
		client := func(peer string, values ...string) (netip.Addr, bool) {
			return proxies.Client(&http.Request{RemoteAddr: peer, Header: http.Header{"X-Forwarded-For": values}})
		}
		const proxy, stranger = "127.0.0.1:5", "203.0.113.77"
		values := strings.Split(header, "\n")
		if got, known := client(stranger+":5", values...); got.String() != stranger || !known {
			t.Errorf("forged without a proxy: got %v (%v)", got, known)
		}
		if got, known := client(proxy, append(values, stranger)...); got.String() != stranger || !known {
			t.Errorf("forged behind a proxy: got %v (%v)", got, known)
		}
		got, known := client(proxy, values...)
		if !known && got.String() != "127.0.0.1" {
			t.Errorf("not known, but %v", got)
		}
		if !got.IsValid() || got.Zone() != "" || got.Is4In6() {
			t.Errorf("%v is not the one spelling of an address", got)
		}
		if joined, alsoKnown := client(proxy, strings.Join(values, ",")); joined != got || alsoKnown != known {
			t.Errorf("in one line: got %v (%v), in several %v (%v)", joined, alsoKnown, got, known)
		}
		if further, alsoKnown := client(proxy, append(values, "::1")...); known && (further != got || !alsoKnown) {
			t.Errorf("by way of another trusted proxy: got %v (%v), want %v", further, alsoKnown, got)
		}
	})
}
