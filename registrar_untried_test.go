// registrar_untried_test.go owns what becomes of registrations at a homeserver that this service was never run with: one that
// changes display names, or makes an account before its name.

package main

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/standin"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
)

const tuwunel = `{"server":{"name":"Tuwunel","version":"1.7.0"}}`

// Whose an account is, by what it shows, at each kind of homeserver.
func TestWhose(t *testing.T) {
	_, n := newProof(t)
	_, other := newProof(t)
	begun, earlier := record{State: statePending, DisplayName: n.DisplayName}, record{State: statePending, DisplayName: other.DisplayName}
	empty, known := record{State: statePending}, record{State: stateRegistered, DisplayName: other.DisplayName}
	const suffix = " 💕"
	tests := []struct {
		name, shown string
		before      record
		want        map[homeserver.Steps]owner // of each, before and after an attempt began
		wantBegun   map[homeserver.Steps]owner
	}{
		{"the node's name", n.DisplayName, record{}, owners(ownerNode, ownerNode, ownerNode), owners(ownerNode, ownerNode, ownerNode)},
		{"another's", other.DisplayName, record{}, owners(ownerOther, ownerOther, ownerOther), owners(ownerOther, ownerOther, ownerOther)},
		{"that of an earlier attempt", other.DisplayName, earlier, owners(ownerNode, ownerNode, ownerNode), owners(ownerNode, ownerNode, ownerNode)},
		{"that of an earlier registration, whose account was lost", other.DisplayName, known, owners(ownerOther, ownerOther, ownerOther), owners(ownerOther, ownerOther, ownerOther)},
		{"the node's name and more", n.DisplayName + suffix, begun, owners(ownerOther, ownerNode, ownerOther), owners(ownerOther, ownerNode, ownerOther)},
		{"more and the node's name", "x" + n.DisplayName, begun, owners(ownerOther, ownerOther, ownerOther), owners(ownerOther, ownerOther, ownerOther)},
		{"a part of it", n.DisplayName[:134], begun, owners(ownerOther, ownerOther, ownerOther), owners(ownerOther, ownerOther, ownerOther)},
		{"a name", "somebody", begun, owners(ownerOther, ownerOther, ownerOther), owners(ownerOther, ownerOther, ownerOther)},
		{"none", "", begun, owners(ownerOther, ownerProven, ownerOther), owners(ownerOther, ownerProven, ownerProven)},
		{"none, and a record without one", "", empty, owners(ownerOther, ownerProven, ownerOther), owners(ownerOther, ownerProven, ownerProven)},
		{"its localpart", n.Localpart, begun, owners(ownerOther, ownerProven, ownerUntold), owners(ownerOther, ownerProven, ownerProven)},
		{"its localpart and more", n.Localpart + suffix, begun, owners(ownerOther, ownerOther, ownerOther), owners(ownerOther, ownerOther, ownerOther)},
	}
	for _, test := range tests {
		for steps := range test.want {
			if got := whose(test.shown, n, test.before, false, steps); got != test.want[steps] {
				t.Errorf("%s, %v: got %v, want %v", test.name, steps, got, test.want[steps])
			}
			if got := whose(test.shown, n, test.before, true, steps); got != test.wantBegun[steps] {
				t.Errorf("%s, %v, begun: got %v, want %v", test.name, steps, got, test.wantBegun[steps])
			}
		}
	}
}

func owners(one, nameApart, passwordApart owner) map[homeserver.Steps]owner {
	return map[homeserver.Steps]owner{homeserver.OneStep: one, homeserver.NameApart: nameApart, homeserver.PasswordApart: passwordApart}
}

// newUntried makes a gateway before such a homeserver.
func newUntried(t *testing.T, odd standin.Odd, shows standin.Showing) *gateway {
	d := newGateway(t, homeserver.SharedSecretPath)
	d.homeserver.Version, d.homeserver.Odd, d.homeserver.Shows = tuwunel, odd, shows
	return d
}

var (
	suffixes   = standin.Odd{Suffix: " 💕", HidesEmpty: true}
	losesNames = standin.Odd{HidesEmpty: true, NameLost: true}
)

// A success promises the account with exactly the node's display name, whatever the homeserver makes of it.
func TestUntried(t *testing.T) {
	const told = "its display name is not the one that the node proved"
	hidden := standin.Showing{WithToken: true, ToSharing: true}
	for name, test := range map[string]struct {
		odd        standin.Odd
		shows      standin.Showing
		mayNotSet  bool
		sets       http.HandlerFunc // in the place of setting the name
		wantFirst  int              // and the record is pending where that is 502
		wantSecond int
	}{
		"as it should be":                       {standin.Odd{}, standin.Showing{}, false, nil, 200, 409},
		"a suffix":                              {suffixes, standin.Showing{}, false, nil, 200, 409},
		"a suffix, and hidden":                  {suffixes, hidden, false, nil, 200, 409},
		"a suffix, and no right to set it":      {suffixes, standin.Showing{}, true, nil, 502, 502},
		"a suffix, and all hidden":              {suffixes, standin.Showing{WithToken: true, NoService: true}, true, nil, 502, 502},
		"the name is lost":                      {losesNames, standin.Showing{}, false, nil, 502, 200},
		"the name is lost, and hidden":          {losesNames, standin.Showing{WithToken: true}, false, nil, 502, 200},
		"a suffix, and setting it does nothing": {suffixes, standin.Showing{}, true, says(200, "{}"), 502, 502},
		"the name is lost, and no right to it":  {losesNames, standin.Showing{}, true, nil, 502, 502},
	} {
		t.Run(name, func(t *testing.T) {
			d := newUntried(t, test.odd, test.shows)
			if test.mayNotSet && test.sets == nil {
				test.sets = says(401, `{"errcode":"M_UNKNOWN_TOKEN"}`)
			}
			d.homeserver.Fail(callSetName, test.sets)
			proof, n := newProof(t)
			for i, want := range []int{test.wantFirst, test.wantSecond} {
				got := d.send(proof)
				if got.status != want || strings.Contains(got.body, "suffix") {
					t.Errorf("try %d: got %d %s, want %d", i, got.status, got.body, want)
				}
				if shown := d.homeserver.Users[n.UserID]; (want == 200 || want == 409) && shown != n.DisplayName {
					t.Errorf("try %d: %d, and the account shows %q", i, want, shown)
				}
				if got, want := d.state(n), when(want == 502, statePending, stateRegistered); got != want {
					t.Errorf("try %d: record %q, want %q", i, got, want)
				}
			}
			if logged := strings.Contains(d.log.String(), told); logged != test.mayNotSet {
				t.Errorf("the log says what to set: %v: %s", logged, d.log)
			}
			if len(d.homeserver.Sessions) > 0 {
				t.Errorf("%d sessions stay open", len(d.homeserver.Sessions))
			}
			if !test.mayNotSet {
				return
			}
			d.homeserver.Fail(callSetName, nil) // as the log said
			d.homeserver.Shows.NoService = false
			if got := d.send(proof); got.status != 200 || d.homeserver.Users[n.UserID] != n.DisplayName || d.state(n) != stateRegistered {
				t.Errorf("with the right to set names: got %d %s, %q", got.status, got.body, d.homeserver.Users[n.UserID])
			}
		})
	}
}

// An account that another made is never the node's, named or not, and is left as it is; nor does an attempt that began make it so.
func TestUntriedForeign(t *testing.T) {
	for _, before := range []state{"", statePending} {
		for name, test := range map[string]struct {
			shows, password string
			loginFails      bool
			want            int
			wantAfter       state
		}{
			"another name":                  {"somebody", "another password", false, 409, stateRegistered},
			"no name":                       {"", "another password", false, 502, before},
			"no name, and no password":      {"", "", false, 502, before},
			"no name, and logins fail":      {"", "another password", true, 502, before},
			"its localpart for its name":    {"localpart", "another password", false, 502, before},
			"another name, and logins fail": {"somebody", "another password", true, 409, stateRegistered},
		} {
			t.Run(orUnknown(before)+"/"+name, func(t *testing.T) {
				d := newUntried(t, standin.Odd{HidesEmpty: true}, standin.Showing{})
				proof, n := newProof(t)
				d.setState(n, before)
				shown := strings.Replace(test.shows, "localpart", n.Localpart, 1)
				d.homeserver.Users[n.UserID], d.homeserver.Whole[n.UserID] = shown, test.password
				if test.loginFails {
					d.homeserver.Fail(callLogin, says(429, `{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":1000}`))
				}
				for range 3 {
					got := d.send(proof)
					if want := when(test.loginFails && test.want == 502, 429, test.want); got.status != want {
						t.Errorf("got %d %s, want %d", got.status, got.body, want)
					}
				}
				if got := d.state(n); got != test.wantAfter {
					t.Errorf("record: got %q, want %q", got, test.wantAfter)
				}
				if asked := d.homeserver.Asked(); strings.Contains(asked, callSetName) || d.homeserver.Users[n.UserID] != shown || d.homeserver.Whole[n.UserID] != test.password {
					t.Errorf("the account was changed: %s", asked)
				}
			})
		}
	}
}

// A lost record of an account whose name was lost: it takes the node's password, so that it is the node's.
func TestUntriedLostRecord(t *testing.T) {
	for _, shown := range []string{"", "localpart", "suffix"} {
		d := newUntried(t, standin.Odd{HidesEmpty: true}, standin.Showing{})
		proof, n := newProof(t)
		d.homeserver.Users[n.UserID] = map[string]string{"": "", "localpart": n.Localpart, "suffix": n.DisplayName + " 💕"}[shown]
		d.homeserver.Whole[n.UserID] = n.Password
		if got := d.send(proof); got.status != 200 || d.homeserver.Users[n.UserID] != n.DisplayName || !strings.Contains(d.log.String(), string(outcomeAdopted)) {
			t.Errorf("%q: got %d %s, shows %q", shown, got.status, got.body, d.homeserver.Users[n.UserID])
		}
	}
}

// A registered node whose account is not found may be there without a name: creating it tells.
func TestUntriedRegistered(t *testing.T) {
	d := newUntried(t, losesNames, standin.Showing{})
	proof, n := newProof(t)
	d.setState(n, stateRegistered)
	d.homeserver.Users[n.UserID], d.homeserver.Whole[n.UserID] = "", n.Password
	if got := d.send(proof); got.status != 409 || d.state(n) != stateRegistered {
		t.Errorf("without a name: got %d %s, record %q", got.status, got.body, d.state(n))
	}

	proof, n = newProof(t)
	d.setState(n, stateRegistered)
	if got := d.send(proof); got.status != 502 || d.state(n) != statePending { // half made anew
		t.Errorf("gone: got %d %s, record %q", got.status, got.body, d.state(n))
	}
	if got := d.send(proof); got.status != 200 || d.homeserver.Users[n.UserID] != n.DisplayName {
		t.Errorf("next try: got %d %s", got.status, got.body)
	}
}

// Without the node only an account with exactly its name is completed: another may be incomplete.
func TestUntriedReconcile(t *testing.T) {
	d := newUntried(t, standin.Odd{HidesEmpty: true}, standin.Showing{})
	for shown, want := range map[string]state{"whole": stateRegistered, "suffix": statePending, "somebody": statePending, "": statePending, "not there": statePending} {
		_, n := newProof(t)
		d.setOld(n, statePending, time.Hour)
		if shown != "not there" {
			d.homeserver.Users[n.UserID] = strings.NewReplacer("whole", n.DisplayName, "suffix", n.DisplayName+" 💕").Replace(shown)
		}
		d.server.registrar.reconcileRound(t.Context())
		if got := d.state(n); got != want {
			t.Errorf("%q: got %q, want %q", shown, got, want)
		}
	}
}

// A homeserver that does not say which it is is looked at until it has given one account its name.
func TestUnnamedSoftware(t *testing.T) {
	d := newUntried(t, suffixes, standin.Showing{})
	d.homeserver.Version = ""
	proof, n := newProof(t)
	if got := d.send(proof); got.status != 200 || d.homeserver.Users[n.UserID] != n.DisplayName {
		t.Errorf("a suffix: got %d %s, shows %q", got.status, got.body, d.homeserver.Users[n.UserID])
	}
	d.homeserver.Fail(callSetName, says(403, `{"errcode":"M_FORBIDDEN"}`))
	proof, n = newProof(t)
	for range 2 {
		if got := d.send(proof); got.status != 502 || d.state(n) != statePending {
			t.Errorf("a suffix that may not be taken away: got %d %s, record %q", got.status, got.body, d.state(n))
		}
	}
	d.homeserver.Odd.Suffix = ""
	for range 2 {
		proof, _ := newProof(t)
		if got := d.send(proof); got.status != 200 {
			t.Errorf("no suffix: got %d %s", got.status, got.body)
		}
	}
	d.homeserver.Asked()
	proof, _ = newProof(t)
	if got := d.send(proof); got.status != 200 || strings.Contains(d.homeserver.Asked(), callProfile) {
		t.Errorf("known: got %d %s, and it is looked at again", got.status, got.body)
	}
}
