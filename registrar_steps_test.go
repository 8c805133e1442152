// registrar_steps_test.go owns what an attempt does between its calls: from when it counts, what it may go on without, and what a
// node that never came is spared.

package main

import (
	"net/http"
	"strings"
	"testing"
	"time"

	masplay "github.com/SmartMeshFoundation/matrix-regservice/e2e/mas"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/ethereum/go-ethereum/common"
)

// Before 1.18 of Matrix Authentication Service, an account that was never given a name may be what an attempt left half made. It
// is the node's if it is younger than the oldest attempt whose end is not known, and nobody takes over an older one.
func TestUnnamedBySince(t *testing.T) {
	const year = 365 * 24 * time.Hour
	for _, test := range []struct {
		name   string
		begun  time.Duration // how long ago the first attempt began, 0 for none
		before state         // the record of it
		again  bool          // another attempt got no answer before the account was there
		want   int
		after  state
	}{
		{"the first attempt is older than the account", 2 * year, statePending, false, 200, stateRegistered},
		{"the first attempt is older, another was just now", 2 * year, statePending, true, 200, stateRegistered},
		{"the first attempt is younger", year / 2, statePending, false, 502, statePending},
		{"this attempt is the first", 0, "", false, 502, statePending},
		{"what began was another account, since lost", 2 * year, stateRegistered, false, 502, statePending},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := newGateway(t, homeserver.MASUsersPath)
			d.homeserver.MAS.Set(masplay.Settings{Version: masplay.Old})
			other, _ := newProof(t) // whose creation leaves a kept connection behind, on which a call is tried twice
			d.send(other)
			proof, n := newProof(t)
			if test.before != "" {
				d.setOld(n, test.before, test.begun)
			}
			add := func() {
				d.homeserver.MAS.AddOld(n.Localpart) // a year ago
				d.homeserver.Mu.Lock()
				d.homeserver.Users[n.UserID] = n.Localpart
				d.homeserver.Mu.Unlock()
			}
			if test.again {
				d.homeserver.FailOnce(callMASCreate, says(502, ""))
				if got := d.send(proof); got.status != 502 || d.state(n) != statePending {
					t.Fatalf("without an answer: got %d %s, record %q", got.status, got.body, d.state(n))
				}
			}
			if test.before == statePending {
				add()
			} else {
				d.homeserver.FailOnce(callMASCreate, func(w http.ResponseWriter, r *http.Request) { add(); breaks(w, r) })
			}
			for try := range 3 {
				got, want := d.send(proof), test.want
				if want == 200 && try > 0 {
					want = 409
				}
				if got.status != want || d.state(n) != test.after {
					t.Errorf("try %d: got %d %s, record %q, want %d and %q", try, got.status, got.body, d.state(n), want, test.after)
				}
			}
			if password, _ := d.homeserver.MAS.Password(n.Localpart); (password != "") != (test.want == 200) {
				t.Errorf("a password was set: %t", password != "")
			}
		})
	}
}

// Where it cannot be told in which steps an account is made, no attempt begins: its record would not say what may be left to do.
func TestNoAttemptWithoutSteps(t *testing.T) {
	for _, before := range []state{"", statePending, stateRegistered} {
		d := newGateway(t, homeserver.SharedSecretPath)
		proof, n := newProof(t)
		d.setState(n, before)
		was := d.record(n)
		d.homeserver.FailOnce(callVersion, says(500, "{}"))
		if got := d.send(proof); got.status != 502 || d.record(n) != was {
			t.Errorf("%q: got %d %s, record %+v, want what it was, %+v", before, got.status, got.body, d.record(n), was)
		}
		if asked := d.homeserver.Asked(); strings.Contains(asked, callRegister) {
			t.Errorf("%q: asked: %s", before, asked)
		}
	}
}

// While there is no room to remember another look-up, registered nodes wait, and new ones do not.
func TestNewNodesNeedNoLookUp(t *testing.T) {
	d := newGateway(t, homeserver.SharedSecretPath)
	known, n := newProof(t)
	d.setState(n, stateRegistered)
	r := d.server.registrar
	r.lastSweep = time.Now()
	for i := range profileLookUpsKept {
		r.remember(common.Address{byte(i), byte(i >> 8)}, errRegistered)
	}
	if got := d.send(known); got.status != 429 {
		t.Errorf("a registered node: got %d %s, want 429", got.status, got.body)
	}
	fresh, begun := newProof(t)
	for _, before := range []state{"", statePending} {
		d.setState(begun, before)
		if got := d.send(fresh); got.status != 200 {
			t.Errorf("a node whose record is %q: got %d %s, want 200", before, got.status, got.body)
		}
	}
}

// A record keeps the time when the first attempt began, until an attempt to create a lost account again is interrupted. A time that
// is still to come, of a clock that was wrong, is not kept.
func TestCreatedTime(t *testing.T) {
	lost := says(502, "<html>")
	for _, api := range apis {
		for _, test := range []struct {
			name   string
			before state
			age    time.Duration
			fault  http.HandlerFunc // of the creating call
			keeps  bool
		}{
			{"completed", statePending, time.Hour, nil, true},
			{"interrupted again", statePending, time.Hour, lost, true},
			{"created again", stateRegistered, time.Hour, nil, true},
			{"created again, interrupted", stateRegistered, time.Hour, lost, api.path != homeserver.MASUsersPath}, // one call leaves nothing half made
			{"by a clock that was wrong", statePending, -time.Hour, nil, false},
		} {
			t.Run(api.name+"/"+test.name, func(t *testing.T) {
				d := newGateway(t, api.path)
				proof, n := newProof(t)
				d.setOld(n, test.before, test.age)
				was := d.record(n)
				d.homeserver.Fail(api.creates, test.fault)
				start := time.Now().Truncate(time.Microsecond)
				d.send(proof)
				switch is := d.record(n); {
				case test.keeps && !is.Created.Equal(was.Created):
					t.Errorf("created: got %v, want what it was, %v", is.Created, was.Created)
				case !test.keeps && (is.Created.Before(start) || is.Created.After(time.Now())):
					t.Errorf("created: got %v, want now", is.Created)
				}
			})
		}
	}
}

// Where the first record cannot be written, that is what is said, whatever else is wrong at the same time.
func TestUnwrittenIsSaid(t *testing.T) {
	for _, api := range apis {
		d := newGateway(t, api.path)
		other, _ := newProof(t) // after which it is known what the homeserver is
		d.send(other)
		d.server.registrar.store = &brokenStore{boltStore: d.bolt(), fails: func(write int) bool { return write == 0 }}
		d.homeserver.Close()
		proof, n := newProof(t)
		if got := d.send(proof); got.status != 503 || d.state(n) != "" {
			t.Errorf("%s: got %d %s, record %q, want 503 and none", api.name, got.status, got.body, d.state(n))
		}
	}
}
