// reverse_proxy_released_test.go owns the tests of whether released nodes can connect, with TLS and plain HTTP.

package check

import (
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

func TestReleasedNodes(t *testing.T) {
	versions := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(`{"versions":["r0.0.1"]}`)) })
	plain, secure := httptest.NewServer(versions), httptest.NewTLSServer(versions)
	without := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(without.Close)
	t.Cleanup(plain.Close)
	t.Cleanup(secure.Close)
	dumb, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dumb.Close() })
	go func() {
		for conn, err := dumb.Accept(); err == nil; conn, err = dumb.Accept() {
			conn.Close()
		}
	}()
	host := func(server *httptest.Server) string { return server.Listener.Addr().String() }
	for _, test := range []struct {
		name, public, plain string
		want                Status
		says                string
	}{
		{"plain HTTP", "http://" + host(plain), "http://" + host(plain), OK, "speaks plain HTTP"},
		{"plain HTTP beside TLS", "https://" + host(secure), "http://" + host(plain), OK, "speaks plain HTTP"},
		{"plain HTTP without a homeserver", "http://" + host(without), "http://" + host(without), OK, "speaks plain HTTP"},
		{"TLS beside TLS", "https://example.org", "http://" + host(secure), Note, "speaks TLS"},
		{"TLS where plain HTTP was meant", "http://" + host(secure), "http://" + host(secure), Note, "speaks TLS"},
		{"nothing beside TLS", "https://example.org", "http://" + dumb.Addr().String(), Note, "nothing answers"},
		{"nothing", "http://" + dumb.Addr().String(), "http://" + dumb.Addr().String(), Note, "not checked"},
	} {
		t.Run(test.name, func(t *testing.T) {
			public, _ := url.Parse(test.public)
			at, _ := url.Parse(test.plain)
			found := releasedAt(t.Context(), *public, *at)
			if len(found) != 1 || found[0].Status != test.want || !strings.Contains(found[0].Found, test.says) || (found[0].Do == "") != (test.want == OK || found[0].unseen) {
				t.Errorf("got %+v, want %s, %q", found, test.want, test.says)
			}
		})
	}
}

func TestPlainURL(t *testing.T) {
	for public, want := range map[string]string{
		"https://example.org": "http://example.org:8008", "https://example.org:8448": "http://example.org:8008", "https://[2001:db8::1]": "http://[2001:db8::1]:8008",
		"http://example.org": "http://example.org", "http://127.0.0.1:8008": "http://127.0.0.1:8008",
	} {
		u, err := url.Parse(public)
		if err != nil {
			t.Fatal(err)
		}
		if got := plainURL(*u); got.String() != want {
			t.Errorf("%s: got %s, want %s", public, got.String(), want)
		}
	}
}
