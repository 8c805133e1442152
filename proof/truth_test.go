// truth_test.go owns what is true of the accounts: which there are, whose they are and what they hold, and which of the calls
// that arrive may never arrive. The homeserver of these tests answers by it, and the invariants are held against it.

package proof

import (
	"fmt"
	"strings"
	"sync"

	"golang.org/x/crypto/bcrypt"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e"
)

// bcryptReads is how many bytes of a password bcrypt reads.
const bcryptReads = 72

// An account is an account at the homeserver, and behind Matrix Authentication Service at both.
type account struct {
	name     string // the display name; "" for none
	hash     string // of the password, by bcrypt
	password string // where the homeserver was given that, and not its hash

	othersMade  bool // not through this service
	renamed     bool
	locked      bool
	deactivated bool

	id      string // at Matrix Authentication Service; "" where it does not have the account
	profile bool   // the homeserver has it
}

// A truth is all that is true.
type truth struct {
	mu       sync.Mutex
	accounts map[string]*account         // by localpart
	proven   map[string]e2e.Registration // what was sent with both proofs right, by localpart
	permits  map[string]int              // look-ups that told that there is no such account, and that no createUser has followed yet
	anew     map[string]bool             // whose account was lost, or hidden from a look-up, so that an attempt to create it again may have begun
	tokens   map[string]string           // access tokens: whose each is
	secrets  map[string]string           // what nobody may ever read in a log: what each is
	broken   []string                    // invariants that were broken
	counts   map[string]int              // of what happened, for the figures
	told     func(format string, args ...any)

	isDendrite bool
	isUntold   bool // it did not say once which homeserver it is
}

func newTruth(told func(format string, args ...any)) *truth {
	return &truth{
		accounts: map[string]*account{}, proven: map[string]e2e.Registration{}, permits: map[string]int{}, anew: map[string]bool{},
		tokens: map[string]string{}, secrets: map[string]string{}, counts: map[string]int{}, told: told,
	}
}

// breaks notes a broken invariant. The lock is held.
func (h *truth) breaks(format string, args ...any) {
	h.broken = append(h.broken, fmt.Sprintf(format, args...))
	h.told("BROKEN: "+format, args...)
}

// takeBroken returns what was broken since it was called last.
func (h *truth) takeBroken() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	broken := strings.Join(h.broken, "\n")
	h.broken = nil
	return broken
}

// proves notes a registration whose two proofs are right, before it is sent.
func (h *truth) proves(r e2e.Registration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.proven[r.Localpart] = r
	h.keepSecret(r.Password, "the password of "+r.Localpart)
	h.keepSecret(strings.TrimPrefix(r.DisplayName, r.Localpart[2:6]+"-"), "the signature in the display name of "+r.Localpart)
}

// keepSecret notes a secret. The lock is held.
func (h *truth) keepSecret(secret, what string) { h.secrets[secret] = what }

// mayMake tells whether an account may be made so, and notes where not: nobody has one without both proofs. The lock is held.
func (h *truth) mayMake(localpart, displayName string) bool {
	proven, ok := h.proven[localpart]
	switch {
	case !ok:
		h.breaks("no account without both proofs: one was asked for, for %s, who has not proven the address", localpart)
	case displayName != proven.DisplayName:
		h.breaks("no account without both proofs: one was asked for, for %s, with a display name that it did not prove", localpart)
	}
	return ok
}

// mayChange notes where an account is changed that others made. The lock is held.
func (h *truth) mayChange(localpart, how string) {
	if a := h.accounts[localpart]; a != nil && a.othersMade {
		h.breaks("an account that others made is never taken over: %s of %s", how, localpart)
	}
}

// lookedUp notes that a look-up told this of the account. The lock is held.
func (h *truth) lookedUp(localpart string, there bool) {
	if !there {
		h.permits[localpart]++
	}
}

// creates is createUser as it arrives, done as Synapse 0.34.0 does it: to an account that is there, too. The lock is held.
func (h *truth) creates(localpart, displayName, hash string) {
	permitted := h.permits[localpart] > 0
	if permitted {
		h.permits[localpart]--
	}
	if !h.mayMake(localpart, displayName) {
		return
	}
	if err := bcrypt.CompareHashAndPassword([]byte(hash), []byte(h.proven[localpart].Password[:bcryptReads])); err != nil {
		h.breaks("no 200 without the account and its password: createUser for %s with a hash of another password", localpart)
	}
	h.keepSecret(hash, "the password hash of "+localpart)
	h.mayChange(localpart, "createUser")
	a := h.accounts[localpart]
	switch {
	case a != nil && !permitted:
		h.breaks("createUser is never called for an account that is there: %s", localpart)
	case a != nil:
		h.counts["createUser that another overtook"]++ // of a gateway that was killed while its call was under way
		a.name = displayName
	default:
		h.accounts[localpart] = &account{name: displayName, hash: hash, profile: true}
	}
}

// isWhole tells whether the account is there, at all places where it belongs.
func (a *account) isWhole(api string) bool {
	return a != nil && a.profile && (api != masUsers || a.id != "")
}

// hasPassword tells whether the node's password is the account's. Dendrite reads the first 72 bytes alone.
func (a *account) hasPassword(of e2e.Registration, isDendrite bool) bool {
	if a.hash != "" {
		return bcrypt.CompareHashAndPassword([]byte(a.hash), []byte(of.Password[:bcryptReads])) == nil
	}
	return a.password == of.Password || isDendrite && a.password == of.Password[:bcryptReads]
}

// checkIn notes where a node that was answered 200 just now has no account, or not with its password.
func (h *truth) checkIn(n e2e.Registration, accessToken string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	a := h.accounts[n.Localpart]
	switch {
	case a == nil || !a.profile:
		h.breaks("no 200 without the account and its password: %s was answered 200 and has no account", n.Localpart)
	case a.othersMade:
		h.breaks("an account that others made is never taken over: %s was answered 200", n.Localpart)
	case a.deactivated: // it shows this name, and the homeserver refuses its login
	case !a.hasPassword(n, h.isDendrite):
		h.breaks("no 200 without the account and its password: %s was answered 200, and its password does not log in", n.Localpart)
	case a.name != n.DisplayName:
		h.breaks("no 200 without the account and its password: %s was answered 200 and shows another display name", n.Localpart)
	}
	if accessToken != "" && h.tokens[accessToken] != n.Localpart {
		h.breaks("%s was answered with the access token of %q", n.Localpart, h.tokens[accessToken])
	}
}

// forgetPermits is for a moment when no call is under way.
func (h *truth) forgetPermits() {
	h.mu.Lock()
	defer h.mu.Unlock()
	clear(h.permits)
}

// change changes an account behind the service's back, if it is there.
func (h *truth) change(localpart string, how func(*account)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if a := h.accounts[localpart]; a != nil {
		how(a)
	}
}

// forget loses accounts, as a homeserver does whose database was lost.
func (h *truth) forget(localparts ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, localpart := range localparts {
		delete(h.accounts, localpart)
		h.anew[localpart] = true
	}
}

// account returns a copy of what is true of the account now.
func (h *truth) account(localpart string) (account, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if a := h.accounts[localpart]; a != nil {
		return *a, true
	}
	return account{}, false
}
