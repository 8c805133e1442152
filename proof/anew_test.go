// anew_test.go owns what may become of the record of a registered node whose account is to be created again, step by step: the
// random test comes by here seldom.

package proof

import (
	"slices"
	"testing"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/daemon"
)

// Where an account takes several calls, an attempt to create it again begins as a first one does: what it leaves half made has to
// be known as begun. So the record of a registered node is pending while the account may be half made, and gone once the
// homeserver says that it made nothing. The node's next try ends both.
func TestCreatedAnew(t *testing.T) {
	const killed = 0
	atStart := map[string]call{createUser: callCreate, sharedSecret: callRegister, masUsers: callByName} // the last call that may create an account
	for _, test := range []struct {
		name         string
		api          string
		isLost       bool
		isUntold     bool // the homeserver does not say which it is
		faults       []plannedFault
		answer       int
		after, quiet string // the record, and once a round of reconciling has seen it
	}{
		{"lost, and not made", masUsers, true, false, []plannedFault{{callAdd, failed}}, 502, "pending", ""},
		{"lost, and made without a password", masUsers, true, false, []plannedFault{{callPassword, failed}}, 502, "pending", "pending"},
		{"lost, and refused", masUsers, true, false, []plannedFault{{callAdd, refused}}, 502, "registered", "registered"},
		{"lost, and killed", masUsers, true, false, []plannedFault{{callAdd, killBefore}}, killed, "pending", ""},
		{"hidden, and killed", masUsers, false, false, []plannedFault{{callProfile, forbidden}, {callAdd, killBefore}}, killed, "pending", "pending"},
		{"lost, one call, and not made", sharedSecret, true, false, []plannedFault{{callRegister, failed}}, 502, "registered", "registered"},
		{"lost, one call, and killed", createUser, true, false, []plannedFault{{callCreate, killBefore}}, killed, "registered", "registered"},
		{"hidden, one call, and killed", sharedSecret, false, false, []plannedFault{{callProfile, forbidden}, {callRegister, killBefore}}, killed, "registered", "registered"},
		{"lost, perhaps one call, and not made", sharedSecret, true, true, []plannedFault{{callRegister, failed}}, 502, "pending", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, plan{api: test.api, store: newBoltFiles(t.TempDir())})
			n := w.newNode()
			w.tries(n, 200)
			w.must(w.gateway.stop()) // which forgets what look-ups said
			var untold []plannedFault
			if test.isUntold {
				untold = slices.Repeat([]plannedFault{{callVersion, unknownPath}}, 10)
			}
			w.faults(untold)
			before := w.timesAsked(atStart[test.api])
			w.must(w.restart())
			w.waitAsked(atStart[test.api], before)
			if test.isLost {
				w.forget(n.Localpart)
			}
			w.faults(slices.Concat(untold, test.faults))
			w.tries(n, test.answer)
			w.faults(nil)
			w.hasRecord(n, test.after)

			w.must(w.gateway.stop())
			w.must(w.clock.set(time.Hour))
			w.must(w.restart())
			for begun := time.Now(); test.quiet == "" && w.pending() > 0; time.Sleep(20 * time.Millisecond) {
				if time.Since(begun) > daemon.Patience {
					w.fails("%d records stay pending", w.pending())
				}
			}
			w.hasRecord(n, test.quiet)
			if test.quiet == "registered" && !test.isLost {
				w.tries(n, 409)
			} else {
				w.tries(n, 200)
			}
			w.hasRecord(n, "registered")
		})
	}
}

// tries has the node register once.
func (w *world) tries(n *node, want int) {
	w.t.Helper()
	if got := w.send(n); got.status != want {
		w.fails("%s was answered %d %s, want %d", n.Localpart, got.status, got.body, want)
	}
	w.settle()
}

// hasRecord holds the node's record against this state, and all records against the invariants.
func (w *world) hasRecord(n *node, state string) {
	w.t.Helper()
	if got := w.checkRecords()[n.Localpart].State; got != state {
		w.fails("the record of %s is %q, want %q", n.Localpart, got, state)
	}
	w.judged()
}
