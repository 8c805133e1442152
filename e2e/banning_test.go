// banning_test.go owns docs/banning.md: each homeserver's call that puts a node out, and that it stays out.

package e2e

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// operate runs a command of the operator beside the gateway.
func operate(t *testing.T, d *Deployment, args ...string) Result {
	t.Helper()
	return must(d.Program.Run(t.Context(), d.Gateway.Dir, args...))(t)
}

// wantSaid checks the exit code of a command, and what it prints.
func wantSaid(t *testing.T, got Result, code int, said ...string) {
	t.Helper()
	for _, what := range said {
		if got.Code != code || !strings.Contains(got.Stdout+got.Stderr, what) {
			t.Errorf("exit %d, want %d and %q:\n%s%s", got.Code, code, what, got.Stdout, got.Stderr)
		}
	}
}

func testBanned(t *testing.T, d *Deployment) {
	n, token := newMember(t, d)
	isDendrite, isMAS := strings.HasPrefix(d.Recipe.Name, "dendrite-"), d.MASURL != ""
	wantSaid(t, operate(t, d, "users", n.Localpart), 0, "record      registered", "has the account, with the display name that was proven", "it is registered and has its account:", " created")
	for _, first := range []bool{true, false} { // it can be repeated
		said := n.UserID + " is banned\n"
		if !first {
			said = n.UserID + " is banned since"
		}
		if isDendrite {
			wantSaid(t, operate(t, d, "ban", n.UserID), 1, said, "left to do at the homeserver", "/_dendrite/admin/resetPassword/"+n.UserID)
		} else {
			wantSaid(t, operate(t, d, "ban", n.UserID), 0, said, "the account is disabled at the homeserver")
		}
	}
	if isDendrite {
		banAtDendrite(t, d, n)
	}
	status, errcode := http.StatusForbidden, "M_FORBIDDEN"
	if isMAS {
		status, errcode = http.StatusUnauthorized, "M_USER_LOCKED"
	}
	staysOut := func(when string) {
		t.Helper()
		want(t, must(n.Login(t.Context()))(t), status, errcode)
		if isMAS { // whether its open sessions end is the real one's to tell
			return
		}
		if a := must(n.WhoAmI(t.Context(), token))(t); a.Status != http.StatusUnauthorized {
			t.Errorf("%s, its session is answered with %d %s, want 401", when, a.Status, a.Body)
		}
	}
	staysOut("banned")
	want(t, must(n.Register(t.Context()))(t), http.StatusForbidden, "M_FORBIDDEN")
	staysOut("registered again")
	wantSaid(t, operate(t, d, "users", "--state", "banned"), 0, n.UserID, "banned 20")
	told := []string{"record      registered", "ban         since", "it is banned", "refused M_FORBIDDEN"}
	if isMAS {
		told = append(told, ", locked")
	}
	wantSaid(t, operate(t, d, "users", n.Localpart), 0, told...)
	wantSaid(t, operate(t, d, "refused"), 0, n.UserID+": this address is banned")

	unbanned := operate(t, d, "unban", n.Localpart)
	switch {
	case isMAS:
		wantSaid(t, unbanned, 0, "is no longer banned", "the account is enabled again at the homeserver")
		want(t, must(n.Login(t.Context()))(t), http.StatusOK, "")
		want(t, must(n.Register(t.Context()))(t), http.StatusConflict, "M_USER_IN_USE")
		return
	case isDendrite:
		wantSaid(t, unbanned, 0, "is no longer banned", "/_dendrite/admin/resetPassword/"+n.UserID)
	case d.Recipe.createPath == CreateUserPath:
		wantSaid(t, unbanned, 0, "is no longer banned", "/_matrix/client/r0/admin/reset_password/"+n.UserID)
	default:
		wantSaid(t, unbanned, 0, "is no longer banned", "/_synapse/admin/v2/users/"+n.UserID)
	}
	want(t, must(n.Register(t.Context()))(t), http.StatusConflict, "M_USER_IN_USE")
	staysOut("no longer banned, and not activated")
	if err := d.Gateway.Restart(t.Context(), d.Gateway.WipeStore); err != nil {
		t.Fatal(err)
	}
	if a := must(n.Register(t.Context()))(t); a.AccessToken != "" {
		t.Errorf("with the store wiped, registering answers with a session: %d", a.Status)
	}
	staysOut("registered again with the store wiped")
	byAdministrator(t, d, n, unbanned.Stdout)
	loggedIn(t, n)
	want(t, must(n.Register(t.Context()))(t), http.StatusConflict, "M_USER_IN_USE")
}

// printedCall is a call as ban and unban print it.
var printedCall = regexp.MustCompile(`curl -X ([A-Z]+) -H 'Authorization: Bearer ADMIN_TOKEN' -H 'Content-Type: application/json' -d '([^']*)' '(http://[^/']*)([^']*)'`)

// byAdministrator makes the printed call as an administrator of the homeserver does, with the password of the node.
func byAdministrator(t *testing.T, d *Deployment, n *Node, printed string) {
	t.Helper()
	found := printedCall.FindStringSubmatch(printed)
	if found == nil {
		t.Fatalf("there is no call in %q", printed)
	}
	password := n.Password
	if strings.Contains(printed, "the first 72 characters") {
		password = password[:72]
	}
	var body map[string]any
	if err := json.Unmarshal([]byte(strings.Replace(found[2], `"PASSWORD"`, strconv.Quote(password), 1)), &body); err != nil {
		t.Fatal(err)
	}
	url := d.Homeserver.URL + found[4] // its own port, as docs/banning.md says
	admin := newAdmin(t, d)
	a := must(d.call(t.Context(), found[1], url, admin, body))(t)
	for a.Status == http.StatusInternalServerError && must(d.Homeserver.Count(t.Context(), profilesLackIndex))(t) > 0 {
		want(t, must(n.Login(t.Context()))(t), http.StatusForbidden, "M_USER_DEACTIVATED")
		time.Sleep(time.Second)
		a = must(d.call(t.Context(), found[1], url, admin, body))(t)
	}
	want(t, a, http.StatusOK, "")
	if oldSynapse := d.Recipe.createPath == CreateUserPath; oldSynapse {
		log := must(os.ReadFile(d.Homeserver.LogFile))(t)
		if !strings.Contains(printed, "new_password") || !strings.Contains(string(log), n.Password) {
			t.Error("Synapse 0.34.0 no longer writes the password into its log, or unban no longer says so")
		}
	}
}

// profilesLackIndex counts the background update of Synapse that its activation of an account needs the end of: it is one of some
// sixty that a new database begins with, a second or so each.
var profilesLackIndex = []string{"python", "-c", `import sqlite3
db = sqlite3.connect("file:homeserver.db?mode=ro", uri=True, timeout=30)
print(*db.execute("SELECT count(*) FROM background_updates WHERE update_name = 'profiles_full_user_id_key_idx'").fetchone())`}

// banAtDendrite gives the account a password that nobody knows and ends its sessions: Dendrite lets only the owner
// deactivate an account.
func banAtDendrite(t *testing.T, d *Deployment, n *Node) {
	t.Helper()
	admin := newAdmin(t, d)
	a := must(d.call(t.Context(), http.MethodPost, d.Homeserver.URL+"/_dendrite/admin/resetPassword/"+n.UserID, admin, map[string]any{"password": rand.Text(), "logout_devices": true}))(t)
	want(t, a, http.StatusOK, "")
}

// makeAdmin makes the user an administrator in Synapse's database, as one does where the homeserver has no shared secret.
var makeAdmin = []string{"python", "-c", `import sqlite3, sys
db = sqlite3.connect("homeserver.db", timeout=30)
print(db.execute("UPDATE users SET admin = 1 WHERE name = ?", sys.argv[1:]).rowcount)
db.commit()`}

// newAdmin makes an administrator with the shared secret, as Dendrite's create-account does, and returns their session.
func newAdmin(t *testing.T, d *Deployment) (token string) {
	t.Helper()
	if d.Recipe.createPath == CreateUserPath {
		admin, token := newMember(t, d)
		if changed := must(d.Homeserver.Count(t.Context(), makeAdmin, admin.UserID))(t); changed != 1 {
			t.Fatalf("%d users were made administrators, want 1", changed)
		}
		return token
	}
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
