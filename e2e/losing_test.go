// losing_test.go owns what happens to a node when the gateway or the homeserver forgets it, or is meant to keep it out.

package e2e

import (
	"net/http"
	"testing"
)

// A lost record must not cost the node its session: createUser would end it if it were called once more.
func testWipedStore(t *testing.T, d *Deployment) {
	n, token := newMember(t, d)
	if err := d.Gateway.Restart(t.Context(), d.Gateway.WipeStore); err != nil {
		t.Fatal(err)
	}

	want(t, must(n.Register(t.Context()))(t), http.StatusOK, "")
	a := must(n.WhoAmI(t.Context(), token))(t)
	want(t, a, http.StatusOK, "")
	if a.UserID != n.UserID {
		t.Errorf("the session is %q's, want %q's", a.UserID, n.UserID)
	}
	must(d.Gateway.WaitForLog(t.Context(), "Registered node", n.UserID, "adopted"))(t)
	loggedIn(t, n)
	want(t, must(n.Register(t.Context()))(t), http.StatusConflict, "M_USER_IN_USE")
}

// A banned node stays banned, whatever the gateway remembers.
func testDeactivated(t *testing.T, d *Deployment) {
	n, token := newMember(t, d)
	want(t, must(n.Deactivate(t.Context(), token))(t), http.StatusOK, "")
	staysOut := func(when string) {
		t.Helper()
		if a := must(n.Login(t.Context()))(t); a.Status != http.StatusForbidden {
			t.Fatalf("%s, its login is answered with %d %s, want 403", when, a.Status, a.Body)
		}
		a := must(n.WhoAmI(t.Context(), token))(t)
		if a.Status != http.StatusUnauthorized && a.Status != http.StatusForbidden {
			t.Errorf("%s, its session is answered with %d %s, want 401", when, a.Status, a.Body)
		}
	}

	staysOut("deactivated")
	want(t, must(n.Register(t.Context()))(t), http.StatusConflict, "M_USER_IN_USE")
	staysOut("registered again")

	if err := d.Gateway.Restart(t.Context(), d.Gateway.WipeStore); err != nil {
		t.Fatal(err)
	}
	if a := must(n.Register(t.Context()))(t); a.Status != http.StatusOK && a.Status != http.StatusConflict {
		t.Errorf("with the store wiped, registering is answered with %d %s, want 200 or 409", a.Status, a.Body)
	} else if a.AccessToken != "" {
		t.Error("with the store wiped, registering answers with a session of the deactivated account")
	}
	staysOut("registered again with the store wiped")
}

// The record says registered, and the homeserver that there is no such user: the node gets its account again.
func testLostDatabase(t *testing.T, d *Deployment) {
	n, _ := newMember(t, d)
	if err := d.Homeserver.Restart(t.Context(), d.Homeserver.WipeDatabase); err != nil {
		t.Fatal(err)
	}
	want(t, must(n.Login(t.Context()))(t), http.StatusForbidden, "M_FORBIDDEN")

	a := must(n.Register(t.Context()))(t)
	want(t, a, http.StatusOK, "")
	if a.UserID != n.UserID {
		t.Errorf("registered as %q, want %q", a.UserID, n.UserID)
	}
	must(d.Gateway.WaitForLog(t.Context(), "Registered node", n.UserID, "recreated"))(t)
	loggedIn(t, n)
}
