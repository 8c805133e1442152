// registrar_mas_test.go owns the life of a registration behind Matrix Authentication Service.

package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	masplay "github.com/SmartMeshFoundation/matrix-regservice/e2e/mas"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
)

// doesAndSays does what was asked and answers otherwise.
func doesAndSays(do, say http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		do(httptest.NewRecorder(), r)
		say(w, r)
	}
}

// titled is an error of Matrix Authentication Service, with its cause if it has one.
func titled(c masplay.Case) http.HandlerFunc {
	is, cause := masplay.Answers[c], ""
	if is.Caused {
		cause = `,{"title":"error sending request"},{"title":"connection refused"}`
	}
	return says(is.Status, `{"errors":[{"title":"`+is.Title+`"}`+cause+`]}`)
}

// What Matrix Authentication Service adds to the life of a registration.
func TestMASLife(t *testing.T) {
	const (
		same, other, gone = "same", "other", "gone" // what the homeserver's profile shows
		steps             = "key token masCreate masVersion password"
		oldSteps          = steps + " setName" // before 1.18
		finishing         = "key token masCreate profile lookUp password"
		finishingOld      = "key token masCreate profile lookUp masVersion password setName"
		bare              = "bare" // the profile shows the localpart, as of an account that was never given a name
	)
	html404 := says(404, "<html>nginx</html>")
	limited := says(429, `{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":1234}`)
	type faults = map[string]http.HandlerFunc
	tests := []struct {
		name      string
		before    state
		atMAS     bool
		old       bool   // made before the record
		profile   string // "" and gone for none
		settings  masplay.Settings
		faults    faults
		want      int
		wantAfter state
		wantWhole bool   // the account has the node's password and name
		wantAsked string // "" where it is no matter
		wantLog   string
	}{
		{name: "created", want: 200, wantAfter: stateRegistered, wantWhole: true, wantAsked: steps},
		{name: "created by 1.3", settings: masplay.Settings{Version: masplay.Old}, want: 200, wantAfter: stateRegistered, wantWhole: true, wantAsked: oldSteps},
		{name: "created by 1.17", settings: masplay.Settings{Version: "v1.17.2"}, want: 200, wantAfter: stateRegistered, wantWhole: true, wantAsked: oldSteps},
		{name: "created by 1.18", settings: masplay.Settings{Version: "v1.18.0"}, want: 200, wantAfter: stateRegistered, wantWhole: true, wantAsked: steps},
		{name: "created by a version that is none", settings: masplay.Settings{Version: "abcdef"}, want: 200, wantAfter: stateRegistered, wantWhole: true, wantAsked: oldSteps},
		{name: "created, and the version cannot be told", faults: faults{callMASVersion: says(500, "{}")}, want: 200, wantAfter: stateRegistered, wantWhole: true, wantAsked: oldSteps},
		{name: "somebody's, pending", before: statePending, atMAS: true, profile: other, want: 409, wantAfter: stateRegistered, wantAsked: "key token masCreate profile"},
		{name: "without a name, no record", atMAS: true, profile: bare, want: 502, wantAsked: "key token masCreate profile", wantLog: "set its display name to the one that"},
		{name: "without a name, and older than the record", before: statePending, atMAS: true, old: true, profile: bare, want: 502, wantAfter: statePending, wantAsked: "key token masCreate profile lookUp", wantLog: "set its display name to the one that"},
		{name: "without a name, and younger than the record", before: statePending, atMAS: true, profile: bare, want: 502, wantAfter: statePending, wantAsked: "key token masCreate profile lookUp masVersion", wantLog: "set its display name to the one that"},
		{name: "without a name, and the version cannot be told", before: statePending, atMAS: true, profile: bare, faults: faults{callMASVersion: says(500, "{}")}, want: 502, wantAfter: statePending},
		{name: "without a name, and how old cannot be told", before: statePending, atMAS: true, profile: bare, faults: faults{callLookUp: says(500, "{}")}, want: 502, wantAfter: statePending},
		{name: "without a profile, and older than the record", before: statePending, atMAS: true, old: true, want: 502, wantAfter: statePending},
		{name: "half made, this name, pending", before: statePending, atMAS: true, old: true, profile: same, want: 200, wantAfter: stateRegistered, wantWhole: true, wantAsked: finishing},
		{name: "somebody's, 500", atMAS: true, profile: other, faults: faults{callMASCreate: titled(masplay.Unreached)}, want: 409, wantAfter: stateRegistered, wantAsked: "key token masCreate lookUp profile"},
		{name: "somebody's, 500, profile unreadable", atMAS: true, profile: other, faults: faults{callMASCreate: titled(masplay.Unreached), callProfile: html404}, want: 502, wantAfter: statePending},
		{name: "half made before 1.18, pending", before: statePending, settings: masplay.Settings{Version: masplay.Old}, atMAS: true, profile: bare, want: 200, wantAfter: stateRegistered, wantWhole: true, wantAsked: finishingOld},
		{name: "half made, this name, no record", atMAS: true, profile: same, want: 200, wantAfter: stateRegistered, wantWhole: true, wantAsked: finishing},
		{name: "half made, this name, pending, as_token unknown", before: statePending, atMAS: true, profile: same, faults: faults{callSetName: says(401, unknownToken)}, want: 200, wantAfter: stateRegistered, wantWhole: true, wantAsked: finishing},
		{name: "half made before 1.18, this name, pending", before: statePending, settings: masplay.Settings{Version: masplay.Old}, atMAS: true, profile: same, want: 200, wantAfter: stateRegistered, wantWhole: true, wantAsked: finishing},
		{name: "half made, this name, no record, and not completed", atMAS: true, profile: same, faults: faults{callPassword: says(500, "{}")}, want: 502, wantAfter: statePending},
		{name: "somebody's, no record", atMAS: true, profile: other, want: 409, wantAfter: stateRegistered, wantAsked: "key token masCreate profile"},
		{name: "erased, no record", atMAS: true, profile: gone, want: 409, wantAfter: stateRegistered, wantAsked: "key token masCreate profile lookUp"},
		{name: "gone between", before: statePending, faults: faults{callMASCreate: titled(masplay.Exists)}, want: 502, wantAfter: statePending},

		{name: "at the homeserver alone", profile: same, want: 502, wantAsked: "key token masCreate lookUp", wantLog: "exclusive namespace"},
		{name: "at the homeserver alone, pending", before: statePending, profile: other, want: 502, wantAfter: statePending, wantAsked: "key token masCreate lookUp profile"},
		{name: "another secret at the homeserver", faults: faults{callMASCreate: titled(masplay.Refused)}, want: 502, wantAfter: statePending, wantLog: "matrix.secret"},
		{name: "another endpoint", faults: faults{callMASCreate: titled(masplay.Unreached)}, want: 502, wantAfter: statePending, wantLog: "matrix.endpoint"},
		{name: "reserved, and there, pending", before: statePending, settings: masplay.Settings{Version: masplay.Old}, atMAS: true, profile: bare, faults: faults{callMASCreate: titled(masplay.Reserved)}, want: 200, wantAfter: stateRegistered, wantWhole: true},
		{name: "reserved, and somebody's", atMAS: true, profile: other, faults: faults{callMASCreate: titled(masplay.Reserved)}, want: 409, wantAfter: stateRegistered},
		{name: "reserved, and it cannot be told", faults: faults{callMASCreate: titled(masplay.Reserved), callLookUp: says(500, "{}")}, want: 502},
		{name: "bad name", faults: faults{callMASCreate: titled(masplay.BadName)}, want: 502},
		{name: "500, and nothing kept", faults: faults{callMASCreate: titled(masplay.Unreached)}, want: 502, wantAfter: statePending, wantAsked: "key token masCreate lookUp"},
		{name: "500, and it cannot be told", faults: faults{callMASCreate: titled(masplay.Unreached), callLookUp: html404}, want: 502, wantAfter: statePending},
		{name: "201 for another user", faults: faults{callMASCreate: says(201, `{"data":{"id":"01J44RKQYM4G3TNVANTMTDYTX6","attributes":{"username":"0x0"}}}`)}, want: 502, wantAfter: statePending, wantAsked: "key token masCreate"},
		{name: "201 with an id that is none", faults: faults{callMASCreate: oddID}, want: 502, wantAfter: statePending, wantAsked: "key token masCreate"},
		{name: "201 without an id", faults: faults{callMASCreate: says(201, `{"data":{"attributes":{}}}`)}, want: 502, wantAfter: statePending},

		{name: "passwords off", settings: masplay.Settings{PasswordsOff: true}, want: 502, wantAfter: statePending, wantLog: "passwords: {enabled: true}"},
		{name: "password: unknown id", faults: faults{callPassword: titled(masplay.PasswordNobody)}, want: 502, wantAfter: statePending},
		{name: "password: 500", faults: faults{callPassword: says(500, "{}")}, want: 502, wantAfter: statePending},
		{name: "password: lost", faults: faults{callPassword: breaks}, want: 502, wantAfter: statePending},
		{name: "password: limited", faults: faults{callPassword: limited}, want: 429, wantAfter: statePending},
		{name: "name: as_token unknown", settings: masplay.Settings{Version: masplay.Old}, faults: faults{callSetName: says(401, `{"errcode":"M_UNKNOWN_TOKEN"}`)}, want: 502, wantAfter: statePending, wantLog: "as_token may not set the display name"},
		{name: "name: not in the namespace", settings: masplay.Settings{Version: masplay.Old}, faults: faults{callSetName: says(403, `{"errcode":"M_FORBIDDEN"}`)}, want: 502, wantAfter: statePending},
		{name: "name: 400", settings: masplay.Settings{Version: masplay.Old}, faults: faults{callSetName: says(400, `{"errcode":"M_UNKNOWN"}`)}, want: 502, wantAfter: statePending},
		{name: "name: 200 HTML", settings: masplay.Settings{Version: masplay.Old}, faults: faults{callSetName: says(200, "<html>")}, want: 502, wantAfter: statePending},
		{name: "name: lost", settings: masplay.Settings{Version: masplay.Old}, faults: faults{callSetName: breaks}, want: 502, wantAfter: statePending},
		{name: "name: limited", settings: masplay.Settings{Version: masplay.Old}, faults: faults{callSetName: limited}, want: 429, wantAfter: statePending},

		{name: "no token: bad secret", faults: faults{callToken: says(401, `{"error":"invalid_client"}`)}, want: 502, wantAsked: "key token", wantLog: "client_auth_method: client_secret_basic"},
		{name: "no token: not admin", settings: masplay.Settings{NotAdmin: true}, want: 502, wantAsked: "key token", wantLog: "policy.data.admin_clients"},
		{name: "no token: another scope", faults: faults{callToken: says(200, `{"access_token":"mat_1","expires_in":300,"scope":"openid"}`)}, want: 502, wantAsked: "key token", wantLog: "policy.data.admin_clients"},
		{name: "no token: no such path", faults: faults{callToken: says(404, "")}, want: 502, wantAsked: "key token", wantLog: "resources adminapi"},
		{name: "no token: 500", faults: faults{callToken: says(500, "")}, want: 502},
		{name: "no token: lost", faults: faults{callToken: breaks}, want: 502},
		{name: "no token: limited", faults: faults{callToken: limited}, want: 429},
		{name: "no token, pending", before: statePending, faults: faults{callToken: says(500, "")}, want: 502, wantAfter: statePending},
		{name: "token refused for good", faults: faults{callMASCreate: titled(masplay.NoToken)}, want: 502, wantAsked: "key token masCreate token masCreate"},
		{name: "another server name", faults: faults{callKey: says(200, `{"server_name":"example.org"}`)}, want: 502, wantAsked: "key", wantLog: "give the homeserver's"},

		{name: "registered, gone", before: stateRegistered, want: 200, wantAfter: stateRegistered, wantWhole: true},
		{name: "registered, gone, unanswered", before: stateRegistered, faults: faults{callMASCreate: says(502, "")}, want: 502, wantAfter: statePending},
		{name: "registered, gone, half made", before: stateRegistered, faults: faults{callPassword: says(500, "")}, want: 502, wantAfter: statePending},
		{name: "registered, gone, and reserved", before: stateRegistered, faults: faults{callMASCreate: titled(masplay.Reserved)}, want: 502, wantAfter: stateRegistered},
		{name: "registered, gone, and exists", before: stateRegistered, faults: faults{callMASCreate: titled(masplay.Exists)}, want: 409, wantAfter: stateRegistered},
		{name: "registered, erased at the homeserver", before: stateRegistered, atMAS: true, profile: gone, want: 409, wantAfter: stateRegistered, wantAsked: "profile token lookUp"},
		{name: "registered, gone, MAS cannot tell", before: stateRegistered, faults: faults{callLookUp: html404}, want: 502, wantAfter: stateRegistered, wantAsked: "profile token lookUp"},
		{name: "registered, gone, MAS limited", before: stateRegistered, faults: faults{callLookUp: limited}, want: 429, wantAfter: stateRegistered},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			d := newGateway(t, homeserver.MASUsersPath)
			proof, n := newProof(t)
			d.setState(n, test.before)
			if test.atMAS {
				d.homeserver.MAS.Add(n.Localpart)
			}
			if test.old {
				d.homeserver.MAS.AddOld(n.Localpart)
			}
			switch test.profile {
			case bare:
				d.homeserver.Users[n.UserID] = n.Localpart
			case same:
				d.homeserver.Users[n.UserID] = n.DisplayName
			case other:
				d.homeserver.Users[n.UserID] = "somebody"
			}
			d.homeserver.MAS.Set(test.settings)
			for call, fault := range test.faults {
				d.homeserver.Fail(call, fault)
			}
			got := d.send(proof)
			if got.status != test.want {
				t.Errorf("got %d %s, want %d", got.status, got.body, test.want)
			}
			if after := d.state(n); after != test.wantAfter {
				t.Errorf("record: got %q, want %q", after, test.wantAfter)
			}
			if asked := d.homeserver.Asked(); test.wantAsked != "" && asked != test.wantAsked {
				t.Errorf("asked: got %q, want %q", asked, test.wantAsked)
			}
			if whole := d.isWhole(n); whole != test.wantWhole {
				t.Errorf("whole: got %t, want %t", whole, test.wantWhole)
			}
			if !strings.Contains(d.log.String(), test.wantLog) {
				t.Errorf("log: got %s, want %q in it", d.log, test.wantLog)
			}
		})
	}
}

// A node that signs with a random number has another display name at each try: the account gets the last one that it proved.
func TestMASEarlierName(t *testing.T) {
	d := newGateway(t, homeserver.MASUsersPath)
	proof, n := newProof(t)
	_, other := newProof(t)
	earlier := n
	earlier.DisplayName = other.DisplayName
	d.setState(earlier, statePending)
	d.homeserver.MAS.Add(n.Localpart)
	d.homeserver.Users[n.UserID] = earlier.DisplayName
	if got := d.send(proof); got.status != 200 || !d.isWhole(n) {
		t.Errorf("got %d %s, shows %q, want %q", got.status, got.body, d.shows(n), n.DisplayName)
	}
}

// oddID answers as if the user was made, with an id that would lead elsewhere.
func oddID(w http.ResponseWriter, r *http.Request) {
	var asked struct{ Username string }
	json.NewDecoder(r.Body).Decode(&asked)
	says(201, fmt.Sprintf(`{"data":{"id":"../users","attributes":{"username":%q}}}`, asked.Username))(w, r)
}

// isWhole tells whether the node's account has its password and its display name.
func (d *gateway) isWhole(n node) bool {
	password, there := d.homeserver.MAS.Password(n.Localpart)
	return there && password == n.Password && d.shows(n) == n.DisplayName
}

// shows is the display name that the homeserver has of the node's account.
func (d *gateway) shows(n node) string {
	d.homeserver.Mu.Lock()
	defer d.homeserver.Mu.Unlock()
	return d.homeserver.Users[n.UserID]
}

// Whatever is interrupted, before or after it was done, the node's next try completes it: with one account, and the
// right password and name, at the first registration and at the one that makes a lost account anew.
func TestMASCompletes(t *testing.T) {
	for _, call := range []string{callMASCreate, callPassword, callSetName} {
		for _, before := range []state{"", stateRegistered} {
			for name, fault := range map[string]func(http.HandlerFunc) http.HandlerFunc{
				"lost before": func(http.HandlerFunc) http.HandlerFunc { return says(504, "<html>") },
				"lost after":  func(do http.HandlerFunc) http.HandlerFunc { return doesAndSays(do, says(504, "<html>")) },
				"500 after":   func(do http.HandlerFunc) http.HandlerFunc { return doesAndSays(do, says(500, "{}")) },
			} {
				t.Run(call+"/"+name+"/"+string(before), func(t *testing.T) {
					d := newGateway(t, homeserver.MASUsersPath)
					proof, n := newProof(t)
					d.setState(n, before)
					do := http.HandlerFunc(d.homeserver.MAS.ServeHTTP)
					if call == callSetName {
						do = d.homeserver.Right(callSetName)
						d.homeserver.MAS.Set(masplay.Settings{Version: "v1.17.0"}) // no later one needs the call
					}
					d.homeserver.Fail(call, fault(do))
					first, then, next := 502, statePending, 200
					if call == callMASCreate && name == "500 after" { // a look-up finds it, and the attempt goes on
						first, then, next = 200, stateRegistered, 409
					}
					if got := d.send(proof); got.status != first {
						t.Errorf("interrupted: got %d %s, want %d", got.status, got.body, first)
					}
					if interrupted := d.state(n); interrupted != then {
						t.Errorf("record: got %q, want %q", interrupted, then)
					}
					d.homeserver.Fail(call, nil)
					if got := d.send(proof); got.status != next {
						t.Errorf("next try: got %d %s, want %d", got.status, got.body, next)
					}
					if d.state(n) != stateRegistered || !d.isWhole(n) {
						t.Errorf("record %q, whole %t", d.state(n), d.isWhole(n))
					}
				})
			}
		}
	}
}

// The service asks for no more than it needs, and has no check of the homeserver skipped.
func TestMASSendsNoMore(t *testing.T) {
	d := newGateway(t, homeserver.MASUsersPath)
	proof, n := newProof(t)
	var sent []string
	for _, call := range []string{callMASCreate, callPassword} {
		d.homeserver.Fail(call, func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			sent = append(sent, string(body))
			r.Body = io.NopCloser(strings.NewReader(string(body)))
			d.homeserver.MAS.ServeHTTP(w, r)
		})
	}
	if got := d.send(proof); got.status != 200 {
		t.Fatalf("got %d %s", got.status, got.body)
	}
	want := `{"displayname":"` + n.DisplayName + `","username":"` + n.Localpart + `"} {"password":"` + n.Password + `","skip_password_check":true}`
	if got := strings.Join(sent, " "); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// watchSkips counts the creations that have the check of the homeserver skipped, and passes each on to do.
func (d *gateway) watchSkips(do http.HandlerFunc) (skips *atomic.Int32) {
	skips = new(atomic.Int32)
	d.homeserver.Fail(callMASCreate, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if strings.Contains(string(body), "skip_homeserver_check") {
			skips.Add(1)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		do(w, r)
	})
	return skips
}

// A creation that is cut off leaves the account at the homeserver alone: the service died before it kept its part, or dropped
// the call when its caller went away. The node's next try completes the account all the same.
func TestMASCutOff(t *testing.T) {
	dies := masplay.Settings{Keep: func(context.Context) error { return errors.New("killed") }}
	for _, before := range []state{"", stateRegistered} {
		for way, cut := range map[string]func(d *gateway) http.HandlerFunc{
			"the service dies": func(d *gateway) http.HandlerFunc {
				d.homeserver.MAS.Set(dies)
				return d.homeserver.MAS.ServeHTTP
			},
			"its caller goes away": func(d *gateway) http.HandlerFunc {
				return func(w http.ResponseWriter, r *http.Request) {
					ctx, leave := context.WithCancel(r.Context())
					leave()
					d.homeserver.MAS.ServeHTTP(w, r.WithContext(ctx))
				}
			},
		} {
			t.Run(way+"/"+string(before), func(t *testing.T) {
				d := newGateway(t, homeserver.MASUsersPath)
				proof, n := newProof(t)
				d.setState(n, before)
				d.homeserver.Fail(callMASCreate, cut(d))
				if got := d.send(proof); got.status != 502 || d.state(n) != statePending {
					t.Fatalf("cut off: got %d %s, record %q", got.status, got.body, d.state(n))
				}
				if _, there := d.homeserver.MAS.Password(n.Localpart); there || d.shows(n) != n.DisplayName {
					t.Fatal("the account is not at the homeserver alone")
				}
				d.homeserver.MAS.Set(masplay.Settings{})
				skips := d.watchSkips(d.homeserver.MAS.ServeHTTP)
				d.homeserver.Fail(callSetName, says(401, unknownToken)) // the name is there: nothing needs the as_token
				if got := d.send(proof); got.status != 200 || d.state(n) != stateRegistered || !d.isWhole(n) || skips.Load() != 1 {
					t.Errorf("next try: got %d %s, record %q, whole %t, %d skips", got.status, got.body, d.state(n), d.isWhole(n), skips.Load())
				}
				if !strings.Contains(d.log.String(), `"outcome":"`+string(outcomeCompleted)) {
					t.Errorf("log: %s", d.log)
				}
			})
		}
	}
}

// The homeserver's word is overridden only where an earlier attempt had begun, the profile has exactly this display name,
// and Matrix Authentication Service knows no such user.
func TestMASOverrides(t *testing.T) {
	reserved := titled(masplay.Reserved)
	for _, test := range []struct {
		name   string
		before state
		shows  func(n node) string // "" for no profile
		atMAS  bool
		faults map[string]http.HandlerFunc
		want   int
		skips  int32
		log    string
	}{
		{name: "all three", before: statePending, shows: func(n node) string { return n.DisplayName }, want: 200, skips: 1},
		{name: "no earlier attempt", shows: func(n node) string { return n.DisplayName }, want: 502, log: "import the account with mas-cli syn2mas"},
		{name: "registered, no earlier attempt", before: stateRegistered, faults: map[string]http.HandlerFunc{callMASCreate: reserved}, want: 502, log: "import the account with mas-cli syn2mas"},
		{name: "another display name", before: statePending, shows: func(node) string { return "somebody" }, want: 502, log: "import the account with mas-cli syn2mas"},
		{name: "a longer display name", before: statePending, shows: func(n node) string { return n.DisplayName + " " }, want: 502},
		{name: "no display name", before: statePending, shows: func(n node) string { return n.Localpart }, want: 502, log: "skip_homeserver_check"},
		{name: "no account", before: statePending, faults: map[string]http.HandlerFunc{callMASCreate: reserved}, want: 502, log: "reserves the name"},
		{name: "profile unreadable", before: statePending, shows: func(n node) string { return n.DisplayName }, faults: map[string]http.HandlerFunc{callProfile: says(401, `{"errcode":"M_MISSING_TOKEN"}`)}, want: 502},
		{name: "profile limited", before: statePending, shows: func(n node) string { return n.DisplayName }, faults: map[string]http.HandlerFunc{callProfile: says(429, `{"errcode":"M_LIMIT_EXCEEDED"}`)}, want: 429},
		{name: "it knows the user", before: statePending, shows: func(n node) string { return n.DisplayName }, atMAS: true, faults: map[string]http.HandlerFunc{callMASCreate: reserved}, want: 200},
		{name: "it cannot tell", before: statePending, shows: func(n node) string { return n.DisplayName }, faults: map[string]http.HandlerFunc{callLookUp: says(500, "{}")}, want: 502},
		{name: "the look-up is a proxy's", before: statePending, shows: func(n node) string { return n.DisplayName }, faults: map[string]http.HandlerFunc{callLookUp: says(404, "<html>")}, want: 502},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := newGateway(t, homeserver.MASUsersPath)
			proof, n := newProof(t)
			d.setState(n, test.before)
			if test.shows != nil {
				d.homeserver.Users[n.UserID] = test.shows(n)
			}
			if test.atMAS {
				d.homeserver.MAS.Add(n.Localpart)
			}
			create := http.HandlerFunc(d.homeserver.MAS.ServeHTTP)
			for call, fault := range test.faults {
				d.homeserver.Fail(call, fault)
				if call == callMASCreate {
					create = fault
				}
			}
			skips := d.watchSkips(create)
			got := d.send(proof)
			if got.status != test.want || skips.Load() != test.skips {
				t.Errorf("got %d %s and %d skips, want %d and %d", got.status, got.body, skips.Load(), test.want, test.skips)
			}
			if after := d.state(n); test.want != 200 && after != test.before {
				t.Errorf("record: got %q, want %q", after, test.before)
			}
			if !strings.Contains(d.log.String(), test.log) {
				t.Errorf("log: got %s, want %q in it", d.log, test.log)
			}
		})
	}
}

// Before 1.18 the account that a cut-off creation leaves has no display name, so that nothing tells whose it is. The log has
// the one command after which the node's next try completes it.
func TestMASCutOffOld(t *testing.T) {
	d := newGateway(t, homeserver.MASUsersPath)
	proof, n := newProof(t)
	d.homeserver.MAS.Set(masplay.Settings{Version: "v1.17.0", Keep: func(context.Context) error { return errors.New("killed") }})
	for range 3 {
		if got := d.send(proof); got.status != 502 || d.state(n) != statePending {
			t.Fatalf("got %d %s, record %q", got.status, got.body, d.state(n))
		}
		d.homeserver.MAS.Set(masplay.Settings{Version: "v1.17.0"})
	}
	typed := regexp.MustCompile(`curl -H @token -H Content-Type:application/json -d \$'(\{.*?\})' (\S+)`).FindStringSubmatch(d.log.String())
	if typed == nil {
		t.Fatalf("log: %s", d.log)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, typed[2], strings.NewReader(strings.ReplaceAll(typed[1], `\"`, `"`))) // as $'…' reads it
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+d.homeserver.MAS.Token())
	res, err := http.DefaultClient.Do(req)
	if err != nil || res.StatusCode != 201 {
		t.Fatalf("typed %q: got %v, %v", typed[0], res, err)
	}
	res.Body.Close()
	if got := d.send(proof); got.status != 200 || d.state(n) != stateRegistered || !d.isWhole(n) {
		t.Errorf("next try: got %d %s, record %q, whole %t", got.status, got.body, d.state(n), d.isWhole(n))
	}
}

// A pending record is kept while anything is there, since only the node has what may be left to do.
func TestMASReconcile(t *testing.T) {
	for _, test := range []struct {
		name           string
		atMAS, profile bool
		faults         map[string]http.HandlerFunc
		want           state
		wantErr        bool
	}{
		{name: "whole or half made", atMAS: true, profile: true, want: statePending},
		{name: "not there"},
		{name: "without a profile", atMAS: true, want: statePending},
		{name: "MAS cannot tell", faults: map[string]http.HandlerFunc{callLookUp: says(404, "<html>")}, want: statePending, wantErr: true},
		{name: "no token", faults: map[string]http.HandlerFunc{callToken: says(500, "")}, want: statePending, wantErr: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := newGateway(t, homeserver.MASUsersPath)
			proof, n := newProof(t)
			d.setOld(n, statePending, time.Hour)
			if test.atMAS {
				d.homeserver.MAS.Add(n.Localpart)
			}
			if test.profile {
				d.homeserver.Users[n.UserID] = n.DisplayName
			}
			for call, fault := range test.faults {
				d.homeserver.Fail(call, fault)
			}
			if _, err := d.server.registrar.reconcileRound(t.Context()); (err != nil) != test.wantErr {
				t.Errorf("got %v", err)
			}
			if got := d.state(n); got != test.want {
				t.Errorf("record: got %q, want %q", got, test.want)
			}
			for call := range test.faults {
				d.homeserver.Fail(call, nil)
			}
			d.homeserver.Users[n.UserID] = n.DisplayName
			if test.atMAS {
				if got := d.send(proof); got.status != 200 || !d.isWhole(n) {
					t.Errorf("the node's try: got %d, whole %t", got.status, d.isWhole(n))
				}
			}
		})
	}
}

// All who need a token at the same time wait for one fetch, the first time and when it was refused.
func TestMASTokenOnce(t *testing.T) {
	d := newGateway(t, homeserver.MASUsersPath)
	fetches := func() int { return strings.Count(d.homeserver.Asked(), callToken) }
	sendMany := func() {
		var all sync.WaitGroup
		for range 16 {
			proof, _ := newProof(t)
			all.Go(func() {
				if got := d.send(proof); got.status != 200 {
					t.Errorf("got %d %s", got.status, got.body)
				}
			})
		}
		all.Wait()
	}
	sendMany()
	if got := fetches(); got != 1 {
		t.Errorf("the first time: %d fetches", got)
	}
	sendMany()
	if got := fetches(); got != 0 {
		t.Errorf("with a good token: %d fetches", got)
	}
	d.homeserver.MAS.Forget()
	sendMany()
	if got := fetches(); got != 1 {
		t.Errorf("with an expired token: %d fetches", got)
	}
}

// Which version it is costs one call for all who are registered within a minute.
func TestMASVersionOnce(t *testing.T) {
	d := newGateway(t, homeserver.MASUsersPath)
	for range 8 {
		proof, _ := newProof(t)
		if got := d.send(proof); got.status != 200 {
			t.Fatalf("got %d %s", got.status, got.body)
		}
	}
	asked := d.homeserver.Asked()
	if versions, names := strings.Count(asked, callMASVersion), strings.Count(asked, callSetName); versions != 1 || names != 0 {
		t.Errorf("%d versions and %d display names were asked for: %s", versions, names, asked)
	}
}

// Whatever call of it repeats all that it was sent, nothing of that is told.
func TestMASNothingSecretIsTold(t *testing.T) {
	credential := base64.StdEncoding.EncodeToString([]byte(testMASClientID + ":" + testMASSecret))
	for _, call := range []string{callToken, callMASCreate, callLookUp, callPassword, callSetName} {
		for _, status := range []int{200, 400, 403, 404, 409, 500} {
			d := newGateway(t, homeserver.MASUsersPath)
			d.homeserver.MAS.Set(masplay.Settings{Version: masplay.Old}) // with which each of the calls is made
			d.homeserver.Fail(call, echo(status))
			if call == callToken {
				d.homeserver.Fail(call, says(status, `{"error":"`+testMASSecret+` `+credential+`"}`))
			}
			proof, n := newProof(t)
			if call == callLookUp {
				d.homeserver.MAS.Add(n.Localpart)
				d.setState(n, statePending)
			}
			told := d.send(proof).body + d.log.String()
			for _, secret := range []string{proof.Password[:16], proof.DisplayName[5:21], testASToken, testMASSecret, "mat_", credential} {
				if strings.Contains(told, secret) {
					t.Errorf("%s answers %d: %q is told: %s", call, status, secret, told)
				}
			}
		}
	}
}

// The probe says what Matrix Authentication Service, or the homeserver behind it, does not have.
func TestMASProbe(t *testing.T) {
	unrecognized := says(404, `{"errcode":"M_UNRECOGNIZED","error":"Unrecognized request"}`)
	neither := map[string]http.HandlerFunc{callNonce: unrecognized, callCreateUser: unrecognized}
	for _, test := range []struct {
		name, api string
		issuer    string
		settings  masplay.Settings
		faults    map[string]http.HandlerFunc
		want      string
	}{
		{name: "there", api: homeserver.MASUsersPath, issuer: "https://auth/", want: "The homeserver has the API"},
		{name: "there, 1.3", api: homeserver.MASUsersPath, issuer: "https://auth/", settings: masplay.Settings{Version: masplay.Old}, want: "The homeserver has the API"},
		{name: "not in charge", api: homeserver.MASUsersPath, want: "write matrix_authentication_service"},
		{name: "no admin API", api: homeserver.MASUsersPath, issuer: "https://auth/", settings: masplay.Settings{NoAdminAPI: true}, faults: neither, want: "resources adminapi"},
		{name: "no oauth", api: homeserver.MASUsersPath, issuer: "https://auth/", faults: map[string]http.HandlerFunc{callToken: says(404, ""), callNonce: unrecognized, callCreateUser: unrecognized}, want: "resources adminapi"},
		{name: "bad secret", api: homeserver.MASUsersPath, faults: map[string]http.HandlerFunc{callToken: says(401, `{"error":"invalid_client"}`)}, want: "client_secret_basic"},
		{name: "not admin", api: homeserver.MASUsersPath, settings: masplay.Settings{NotAdmin: true}, want: "policy.data.admin_clients"},
		{name: "passwords off", api: homeserver.MASUsersPath, settings: masplay.Settings{PasswordsOff: true}, want: "passwords: {enabled: true}"},
		{name: "another server name", api: homeserver.MASUsersPath, faults: map[string]http.HandlerFunc{callKey: says(200, `{"server_name":"example.org"}`)}, want: "another server_name"},
		{name: "no MAS, but the homeserver's own", api: homeserver.MASUsersPath, faults: map[string]http.HandlerFunc{callToken: says(404, ""), callCreateUser: unrecognized}, want: "use --matrixurl ORIGIN/_synapse/admin/v1/register"},
		{name: "MAS instead of the shared secret", api: homeserver.SharedSecretPath, issuer: "https://auth/", faults: neither, want: "Matrix Authentication Service is in charge (https://auth/): use --matrixurl http://127.0.0.1:8082/api/admin/v1/users"},
		{name: "MAS instead of createUser", api: homeserver.CreateUserPath, issuer: "https://auth/", faults: neither, want: "--homeserver-url ORIGIN, --mas-client-id"},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := newGateway(t, test.api)
			d.homeserver.Issuer = test.issuer
			d.homeserver.MAS.Set(test.settings)
			for call, fault := range test.faults {
				d.homeserver.Fail(call, fault)
			}
			c := config.Config{ServerName: testServerName, Origin: d.homeserver.URL, Way: wayOf(test.api), ASToken: testASToken, SharedSecret: testSecret, MASClientID: testMASClientID, MASClientSecret: testMASSecret}
			d.wantProbed(t, c, test.want)
		})
	}
}

// A service that cannot make accounts at Matrix Authentication Service is not ready, though the homeserver answers.
func TestMASReady(t *testing.T) {
	for _, test := range []struct {
		name  string
		fault http.HandlerFunc
		want  int
	}{{"up", nil, 200}, {"down", says(502, "<html>"), 503}, {"client unknown", says(401, `{"error":"invalid_client"}`), 503}} {
		d := newGateway(t, homeserver.MASUsersPath)
		d.homeserver.Fail(callToken, test.fault)
		c := config.Config{ServerName: testServerName, Origin: d.homeserver.URL, Way: homeserver.MAS, ASToken: testASToken, MASClientID: testMASClientID, MASClientSecret: testMASSecret}
		w := httptest.NewRecorder()
		newHealth(t.Context(), serviceOf(c), d.store).ready(w, httptest.NewRequest(http.MethodGet, "/readyz", nil))
		if w.Code != test.want {
			t.Errorf("%s: got %d %s, want %d", test.name, w.Code, w.Body, test.want)
		}
	}
}
