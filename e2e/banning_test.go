// banning_test.go owns docs/banning.md: each homeserver's call that puts a node out, and that it stays out.

package e2e

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

func testBanned(t *testing.T, d *Deployment) {
	n, token := newMember(t, d)
	if strings.HasPrefix(d.Recipe.Name, "dendrite-") {
		banAtDendrite(t, d, n)
	} else {
		banAtSynapse(t, d, n)
	}
	staysOut := func(when string) {
		t.Helper()
		want(t, must(n.Login(t.Context()))(t), http.StatusForbidden, "M_FORBIDDEN")
		if a := must(n.WhoAmI(t.Context(), token))(t); a.Status != http.StatusUnauthorized {
			t.Errorf("%s, its session is answered with %d %s, want 401", when, a.Status, a.Body)
		}
	}
	staysOut("banned")
	want(t, must(n.Register(t.Context()))(t), http.StatusConflict, "M_USER_IN_USE")
	staysOut("registered again")
	if err := d.Gateway.Restart(t.Context(), d.Gateway.WipeStore); err != nil {
		t.Fatal(err)
	}
	if a := must(n.Register(t.Context()))(t); a.AccessToken != "" {
		t.Errorf("with the store wiped, registering answers with a session: %d", a.Status)
	}
	staysOut("registered again with the store wiped")
}

// banAtSynapse deactivates the account, which an application service may do with the users of its namespace.
func banAtSynapse(t *testing.T, d *Deployment, n *Node) {
	t.Helper()
	asToken := must(d.Gateway.tokens())(t)["as_token"]
	to := d.Homeserver.URL + "/_matrix/client/r0/account/deactivate?user_id=" + url.QueryEscape(n.UserID)
	want(t, must(d.call(t.Context(), http.MethodPost, to, asToken, struct{}{}))(t), http.StatusOK, "")
}

// banAtDendrite gives the account a password that nobody knows and ends its sessions: Dendrite lets only the owner
// deactivate an account.
func banAtDendrite(t *testing.T, d *Deployment, n *Node) {
	t.Helper()
	admin := newAdmin(t, d)
	a := must(d.call(t.Context(), http.MethodPost, d.Homeserver.URL+"/_dendrite/admin/resetPassword/"+n.UserID, admin, map[string]any{"password": rand.Text(), "logout_devices": true}))(t)
	want(t, a, http.StatusOK, "")
}

// newAdmin makes an administrator with the shared secret, as Dendrite's create-account does, and returns his session.
func newAdmin(t *testing.T, d *Deployment) (token string) {
	t.Helper()
	a := must(d.call(t.Context(), http.MethodGet, d.Homeserver.URL+SharedSecretPath, "", nil))(t)
	var given struct{ Nonce string }
	if err := json.Unmarshal([]byte(a.Body), &given); err != nil || given.Nonce == "" {
		t.Fatalf("no nonce: %s", a.Body)
	}
	name, password := "admin"+strings.ToLower(rand.Text()), rand.Text()
	mac := hmac.New(sha1.New, []byte(d.Homeserver.SharedSecret))
	mac.Write([]byte(strings.Join([]string{given.Nonce, name, password, "admin"}, "\x00")))
	a = must(d.call(t.Context(), http.MethodPost, d.Homeserver.URL+SharedSecretPath, "", map[string]any{
		"nonce": given.Nonce, "username": name, "password": password, "admin": true, "mac": hex.EncodeToString(mac.Sum(nil)),
	}))(t)
	want(t, a, http.StatusOK, "")
	return a.AccessToken
}
