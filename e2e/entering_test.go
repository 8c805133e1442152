// entering_test.go owns a node's way in, and what is answered to those who do not get in.

package e2e

import (
	"encoding/json"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func testNodeEnters(t *testing.T, d *Deployment) {
	n := newNode(t, d)
	want(t, must(n.Login(t.Context()))(t), http.StatusForbidden, "M_FORBIDDEN")

	a := must(n.Register(t.Context()))(t)
	want(t, a, http.StatusOK, "")
	if a.UserID != n.UserID || a.HomeServer != d.Domain {
		t.Errorf("registered as %q at %q, want %q at %q", a.UserID, a.HomeServer, n.UserID, d.Domain)
	}
	if want := d.Recipe.opensSession; (a.AccessToken != "") != want {
		t.Errorf("an access token in the answer: %t, want %t", a.AccessToken != "", want)
	}

	if len(n.Password) != 130 {
		t.Fatalf("the password has %d characters, want 130", len(n.Password))
	}
	loggedIn(t, n)
	want(t, must(n.LoginWith(t.Context(), n.Password[:71]))(t), http.StatusForbidden, "M_FORBIDDEN")

	other, token := newMember(t, d)
	a = must(other.DisplayNameOf(t.Context(), token, n.UserID))(t)
	want(t, a, http.StatusOK, "")
	if a.DisplayName != n.DisplayName {
		t.Errorf("another node reads the display name %q, want %q", a.DisplayName, n.DisplayName)
	}

	want(t, must(n.Register(t.Context()))(t), http.StatusConflict, "M_USER_IN_USE")
	loggedIn(t, n)
}

// hasDirectory is false where noDirectory says why.
func hasDirectory(_ *testing.T, d *Deployment) bool { return d.Recipe.noDirectory == "" }

// The guide has the homeserver list all users, so that nodes find each other by address.
func testNodesFindEachOther(t *testing.T, d *Deployment) {
	n, _ := newMember(t, d)
	other, token := newMember(t, d)
	deadline := time.Now().Add(startTime) // the directory is filled behind the registration's back
	for {
		a := must(other.Find(t.Context(), token, n.Localpart))(t)
		want(t, a, http.StatusOK, "")
		if strings.Contains(a.Body, n.UserID) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is not found: %s", n.UserID, a.Body)
		}
		time.Sleep(pollPause)
	}
}

func testRegisterCommand(t *testing.T, d *Deployment) {
	key := filepath.Join(d.Dir, "command.key")
	for _, run := range []struct {
		flag  string
		steps []string
	}{
		{"--generate", []string{"node", "login 403", "register 200", "login 200", "logout 200"}},
		{"--key", []string{"node", "login 200", "logout 200"}},
	} {
		r := must(d.Program.Run(t.Context(), d.Dir, "register", "--matrixdomain", d.Domain, "--server", d.NodeURL, run.flag, key))(t)
		for deadline := time.Now().Add(startTime); tookTooLong(r.Stdout) && time.Now().Before(deadline); { // as nodes do; the key is there now
			r = must(d.Program.Run(t.Context(), d.Dir, "register", "--matrixdomain", d.Domain, "--server", d.NodeURL, "--key", key))(t)
		}
		if r.Code != 0 || r.Stderr != "" {
			t.Fatalf("%s: exit %d\n%s%s", run.flag, r.Code, r.Stdout, r.Stderr)
		}
		var steps []string
		for line := range strings.Lines(r.Stdout) {
			step, what, _ := strings.Cut(line, " ")
			if status := strings.Fields(what)[0]; step != "node" {
				step += " " + status
			}
			steps = append(steps, step)
		}
		if got, want := strings.Join(steps, ", "), strings.Join(run.steps, ", "); got != want {
			t.Errorf("%s: got the steps %s, want %s:\n%s", run.flag, got, want, r.Stdout)
		}
	}
}

func testSixteenAtOnce(t *testing.T, d *Deployment) {
	const requests = 16
	n := newNode(t, d)
	answers := make([]Answer, requests)
	errs := make([]error, requests)
	var all sync.WaitGroup
	for i := range requests {
		all.Go(func() { answers[i], errs[i] = n.Register(t.Context()) })
	}
	all.Wait()

	created := 0
	for i, a := range answers {
		switch {
		case errs[i] != nil:
			t.Error(errs[i])
		case a.Status == http.StatusOK:
			created++
		default:
			want(t, a, http.StatusConflict, "M_USER_IN_USE")
		}
	}
	if created != 1 {
		t.Errorf("%d of %d requests were answered with 200, want 1", created, requests)
	}
	if accounts := must(d.Homeserver.Accounts(t.Context(), n.UserID))(t); accounts != 1 {
		t.Errorf("the homeserver has %d accounts, want 1", accounts)
	}
	loggedIn(t, n)
}

func testRefused(t *testing.T, d *Deployment) {
	n, thief := newNode(t, d), newNode(t, d)
	_, itsSignature, _ := strings.Cut(thief.DisplayName, "-")
	stolen := Registration{Localpart: n.Localpart, DisplayName: n.Localpart[2:6] + "-" + itsSignature, Password: thief.Password}
	halfStolen := n.Registration
	halfStolen.Password = thief.Password

	for _, test := range []struct {
		name, method, url string
		body              any
		status            int
		errcode           string
	}{
		{"both signatures of another key", "POST", d.RegisterURL, stolen, 400, "M_INVALID_SIGNATURE"},
		{"a password of another key", "POST", d.RegisterURL, halfStolen, 400, "M_INVALID_SIGNATURE"},
		{"an empty object", "POST", d.RegisterURL, struct{}{}, 400, "M_MISSING_PARAM"},
		{"an unknown path, without nginx", "POST", d.Gateway.URL + "/regapp/1/unregister", n.Registration, 404, "M_UNRECOGNIZED"},
		{"the wrong method", "GET", d.RegisterURL, nil, 405, "M_UNRECOGNIZED"},
	} {
		a := must(d.call(t.Context(), test.method, test.url, "", test.body))(t)
		if a.Status != test.status || a.Errcode != test.errcode || a.Message == "" || !json.Valid([]byte(a.Body)) {
			t.Errorf("%s: got %d %s, want %d %s as JSON", test.name, a.Status, a.Body, test.status, test.errcode)
		}
	}
	want(t, must(n.Login(t.Context()))(t), http.StatusForbidden, "M_FORBIDDEN")
	if accounts := must(d.Homeserver.Accounts(t.Context(), n.UserID))(t); accounts != 0 {
		t.Errorf("the homeserver has %d accounts, want none", accounts)
	}
}
