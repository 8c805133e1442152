// untried_test.go owns a homeserver that this service was never run with: today's Synapse behind a proxy that has it call itself
// something else, and adds to the display names that accounts are made with. What it answers to the rest is Synapse's own.

package e2e

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
)

// newDisguise is such a proxy.
func newDisguise(t *testing.T, d *Deployment) string {
	proxy := httputil.NewSingleHostReverseProxy(must(url.Parse(d.Homeserver.URL))(t))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/_matrix/federation/v1/version":
			io.WriteString(w, `{"server":{"name":"Tuwunel","version":"1.7.0"}}`)
			return
		case r.Method == http.MethodPost && r.URL.Path == SharedSecretPath:
			var body map[string]any
			if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			if name, ok := body["displayname"].(string); ok { // the start proves the secret without one
				body["displayname"] = name + " 💕" // which the mac does not cover
			}
			content, _ := json.Marshal(body)
			r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(content)), int64(len(content))
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func TestUntriedHomeserver(t *testing.T) {
	for name, test := range map[string]struct {
		settings string
		knows    bool
		want     int
	}{
		"as_token loaded":               {"", true, http.StatusOK},
		"as_token loaded, and hardened": {requireAuth + limitSharing, true, http.StatusOK},
		"as_token not loaded":           {"", false, http.StatusBadGateway},
	} {
		t.Run(name, func(t *testing.T) {
			need.OnlyLong(t)
			t.Parallel()
			d, _ := deployHardened(t, test.settings, test.knows)
			if code := must(d.Gateway.Stop())(t); code != 0 {
				t.Fatalf("the gateway ended with exit code %d", code)
			}
			if err := d.Gateway.StartAt(t.Context(), newDisguise(t, d)+d.Recipe.createPath); err != nil {
				t.Fatal(err)
			}
			must(d.Gateway.WaitForLog(t.Context(), "This service was never tested with this homeserver", "Tuwunel 1.7.0"))(t)

			n := newNode(t, d)
			a := must(n.Register(t.Context()))(t)
			if a.Status != test.want {
				t.Fatalf("got %d %s, want %d", a.Status, a.Body, test.want)
			}
			shown := must(n.DisplayNameOf(t.Context(), loggedIn(t, n), n.UserID))(t).DisplayName
			if exact := shown == n.DisplayName; exact != (test.want == http.StatusOK) {
				t.Errorf("answered %d, and the account shows %q", test.want, shown)
			}
			if test.want == http.StatusOK {
				want(t, must(n.Register(t.Context()))(t), http.StatusConflict, "M_USER_IN_USE")
			} else {
				must(d.Gateway.WaitForLog(t.Context(), "Refused registration", n.UserID, "so that the as_token may set them"))(t)
				want(t, must(n.Register(t.Context()))(t), http.StatusBadGateway, "M_UNKNOWN")
			}
			testNoSecretLogged(t, d)
		})
	}
}
