// registrar_hidden_test.go owns what becomes of registrations at a homeserver that does not show profiles to everybody.

package main

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/standin"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
)

// showings are to whom a homeserver may show profiles, each with what this service then sees of an account that is there,
// and of one that is not.
var showings = []struct {
	name              string
	shows             standin.Showing
	seesIt, seesNoOne bool
}{
	{"to everybody", standin.Showing{}, true, true},
	{"to everybody, as_token not loaded", standin.Showing{NoService: true}, true, true},
	{"with a token", standin.Showing{WithToken: true}, true, true},
	{"with a token, as_token not loaded", standin.Showing{WithToken: true, NoService: true}, false, false},
	{"to who shares a room", standin.Showing{WithToken: true, ToSharing: true}, true, false},
	{"to who shares a room, as_token not loaded", standin.Showing{WithToken: true, ToSharing: true, NoService: true}, false, false},
}

// The rows say who may see profiles, for every way. The service acts on a profile that it sees, never takes a hidden one for the
// node's, and creates a lost account again only where that cannot harm an account that exists.
func TestHiddenProfiles(t *testing.T) {
	const none, same, other = "", "same", "somebody"
	for _, api := range apis {
		creates := api.path != homeserver.CreateUserPath // whatever it sees: it is refused what is there
		for _, of := range showings {
			tests := []struct {
				name       string
				before     state
				account    string
				wantStatus int
				wantAfter  state
			}{
				{"new", "", none, when(creates || of.seesNoOne, 200, 502), when(creates || of.seesNoOne, stateRegistered, "")},
				{"lost record", "", same, when(of.seesIt, 200, 502), when(of.seesIt, stateRegistered, "")},
				{"somebody's", "", other, when(of.seesIt, 409, 502), when(of.seesIt, stateRegistered, "")},
				{"begun, not made", statePending, none, when(creates || of.seesNoOne, 200, 502), when(creates || of.seesNoOne, stateRegistered, statePending)},
				{"begun and made", statePending, same, when(of.seesIt, 200, 502), when(of.seesIt, stateRegistered, statePending)},
				{"begun, and somebody's", statePending, other, when(of.seesIt, 409, 502), when(of.seesIt, stateRegistered, statePending)},
				{"lost account", stateRegistered, none, when(creates || of.seesNoOne, 200, 502), stateRegistered},
				{"registered", stateRegistered, same, when(creates || of.seesIt, 409, 502), stateRegistered},
				{"registered, and renamed", stateRegistered, other, when(creates || of.seesIt, 409, 502), stateRegistered},
			}
			d := newGateway(t, api.path)
			d.homeserver.Shows = of.shows
			for _, test := range tests {
				t.Run(api.name+"/"+of.name+"/"+test.name, func(t *testing.T) {
					d.log.Reset()
					d.homeserver.Asked()
					proof, n := newProof(t)
					d.setState(n, test.before)
					if test.account != none {
						d.homeserver.Users[n.UserID] = map[string]string{same: n.DisplayName, other: other}[test.account]
						d.homeserver.MAS.Add(n.Localpart)
					}
					for try := range 3 {
						got := d.send(proof)
						want := test.wantStatus
						if want == 200 && try > 0 {
							want = 409
						}
						if want == 409 && !creates && !of.seesIt { // once registered, it is looked up
							want = 502
						}
						if got.status != want {
							t.Errorf("try %d: got %d %s, want %d", try, got.status, got.body, want)
						}
						if strings.Contains(got.body, ".yaml") || strings.Contains(got.body, "as_token") {
							t.Errorf("a node is told the cure: %s", got.body)
						}
					}
					if after := d.state(n); after != test.wantAfter {
						t.Errorf("record: got %q, want %q", after, test.wantAfter)
					}
					if shown := d.homeserver.Users[n.UserID]; test.account == other && shown != other {
						t.Errorf("somebody's account shows %q", shown)
					}
					if test.account != none && test.wantStatus != 200 && (d.homeserver.Hashed[n.UserID] != "" || d.homeserver.Whole[n.UserID] != "") {
						t.Error("an account that was there got another password")
					}
					asked := d.homeserver.Asked()
					made, lookedUp := strings.Count(asked, api.creates), strings.Count(asked, callProfile)
					if test.before == stateRegistered && test.account != none && (made > 1 || lookedUp > 4) { // one in each form, and the one that is known
						t.Errorf("an account that is there was asked for %d times in a minute, its profile %d times", made, lookedUp)
					}
					if hidden := test.wantStatus == 502; hidden != strings.Contains(d.log.String(), "write require_auth_for_profile_requests: false") && hidden != strings.Contains(d.log.String(), "write limit_profile_requests_to_users_who_share_rooms: false") {
						t.Errorf("the log has the cure: %v, want %v: %s", !hidden, hidden, d.log)
					}
				})
			}
		}
	}
}

// A service without an as_token sends none, and goes as far as it sees.
func TestNoASToken(t *testing.T) {
	for hidden, wantAdopted := range map[bool]int{false: 200, true: 502} {
		d := newGateway(t, homeserver.SharedSecretPath)
		d.homeserver.Shows.WithToken = hidden
		d.server = newServer(serviceOf(config.Config{ServerName: testServerName, Origin: d.homeserver.URL, Way: homeserver.SharedSecret, SharedSecret: testSecret, HSToken: testHSToken}), d.store)
		d.handler = d.server.handler()
		profile := d.homeserver.Right(callProfile)
		d.homeserver.Fail(callProfile, func(w http.ResponseWriter, r *http.Request) {
			if _, sent := r.Header["Authorization"]; sent || r.URL.RawQuery != "" {
				t.Errorf("a profile is asked for with %q and %q", r.Header["Authorization"], r.URL.RawQuery)
			}
			profile(w, r)
		})
		fresh, _ := newProof(t)
		for _, want := range []int{200, 409, 409} {
			if got := d.send(fresh); got.status != want {
				t.Errorf("hidden %v: got %d %s, want %d", hidden, got.status, got.body, want)
			}
		}
		lost, n := newProof(t)
		d.homeserver.Users[n.UserID] = n.DisplayName
		if got := d.send(lost); got.status != wantAdopted || hidden && !strings.Contains(d.log.String(), "has no as_token") {
			t.Errorf("hidden %v, a lost record: got %d %s, want %d: %s", hidden, got.status, got.body, wantAdopted, d.log)
		}
	}
}

// when is one of two values.
func when[T any](is bool, then, otherwise T) T {
	if is {
		return then
	}
	return otherwise
}

// Reconciling takes what it sees, keeps the rest, and goes on behind it.
func TestReconcileHidden(t *testing.T) {
	for _, of := range showings {
		t.Run(of.name, func(t *testing.T) {
			d := newGateway(t, homeserver.SharedSecretPath)
			d.homeserver.Shows = of.shows
			var made, lost [3]node
			for i := range made {
				_, made[i] = newProof(t)
				_, lost[i] = newProof(t)
				d.setOld(lost[i], statePending, 2*time.Hour)
				d.setOld(made[i], statePending, time.Hour)
				d.homeserver.Users[made[i].UserID] = made[i].DisplayName
			}
			_, err := d.server.registrar.reconcileRound(t.Context())
			if told := of.seesIt && of.seesNoOne; told != (err == nil) {
				t.Errorf("got %v", err)
			}
			for i := range made {
				if got, want := d.state(made[i]), when(of.seesIt, stateRegistered, statePending); got != want {
					t.Errorf("made: got %q, want %q", got, want)
				}
				if got, want := d.state(lost[i]), when[state](of.seesNoOne, "", statePending); got != want {
					t.Errorf("not made: got %q, want %q", got, want)
				}
			}
		})
	}
}

// The reason why records could not be reconciled is logged once, until it is another one or a round has succeeded.
func TestReconcileSaysItOnce(t *testing.T) {
	d := newGateway(t, homeserver.SharedSecretPath)
	_, stuck := newProof(t)
	d.setOld(stuck, statePending, time.Hour)
	said := ""
	round := func() {
		looked, err := d.server.registrar.reconcileRound(t.Context())
		said = d.server.registrar.logRound(looked, err, said)
	}
	rounds := func(fault http.HandlerFunc, want int) {
		t.Helper()
		d.homeserver.Fail(callProfile, fault)
		for range 6 { // each second one finds no record, as the one before ended at the last
			round()
		}
		if got := strings.Count(d.log.String(), "could not be reconciled"); got != want {
			t.Errorf("said %d times, want %d: %s", got, want, d.log)
		}
	}
	rounds(says(500, "{}"), 1)
	rounds(says(503, "<html>"), 2)
	rounds(says(500, "{}"), 3)
	rounds(nil, 3)
	d.setOld(stuck, statePending, time.Hour)
	rounds(says(500, "{}"), 4)
	rounds(says(429, `{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":900}`), 4)
	if !strings.Contains(d.log.String(), "rc_profile") {
		t.Errorf("nothing says that look-ups are limited: %s", d.log)
	}
}
