// registrar.go owns the life of a registration: which attempt claims an address and which ones wait, what each answer of the
// homeserver says of the account, a 500 or none included, what that means for the record and for the node (decide, which reads
// like the table in docs/design.md), and the reconciling of pending records.

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/limit"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/pgdb"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/log"
)

// Times that depend on how long a homeserver may take. TestTimes holds deploy/ and the documents against them.
const (
	attemptTime = homeserver.AttemptTime                     // the time of one attempt once it has claimed the address
	waitTime    = attemptTime + time.Second                  // how long another request for the same address waits
	answerTime  = waitTime + attemptTime + pgdb.QueryTime    // until the latest answer, with the record's last write
	drainTime   = attemptTime + pgdb.QueryTime + time.Second // for attempts in flight at shutdown, when no request waits any more
)

const (
	profileLookUpPeriod = time.Minute // a registered address costs the homeserver at most one look-up in this time
	profileLookUpsKept  = 1 << 15     // remembered look-ups, in 8 MiB; with more than 500 a second further ones have to wait

	reconcilePeriod = 30 * time.Second
	reconcileAfter  = time.Minute // an attempt that began so long ago has ended; clocks may differ by less
	reconcileAtMost = 15          // records a round: half of what Synapse's rc_profile allows (one a second), the other half is for nodes

	lineReconciled = "Reconciled a pending registration"
)

var (
	errRegistered = errors.New("this address is registered already")
	errForeign    = fmt.Errorf("%w: the homeserver has an account of this name that does not show this node's display name", errRegistered)
	errBanned     = errors.New("this address is banned: ask the operator of this homeserver")
	errBusy       = errors.New("an earlier attempt for this address is still running")
	errStopping   = errors.New("the service is shutting down")
	errStore      = errors.New("the record cannot be read or written")
)

// An outcome is what a successful registration did, for the log.
type outcome string

const (
	outcomeCreated   outcome = "created"   // a new account
	outcomeCompleted outcome = "completed" // an interrupted attempt had made the account
	outcomeAdopted   outcome = "adopted"   // the account was there with this node's display name: a lost record
	outcomeRecreated outcome = "recreated" // the homeserver had lost the account of a registered node
)

// A registrar registers nodes whose proof holds.
type registrar struct {
	accounts homeserver.Accounts
	store    store
	stopping context.Context // ended when shutdown begins: no attempt starts after it
	stop     func()
	newNodes *limit.Buckets // addresses without a record, all together
	slots    limit.Slots    // of attempts that ask the homeserver

	mu             sync.Mutex
	profileLookUps map[common.Address]profileLookUp // of registered addresses whose account was not found missing
	lastSweep      time.Time
}

// A profileLookUp is what a look-up of a registered node's account said, and when. It is not a recent.Answer, since there is one
// for each address, and no more are made when there is no room for their answers.
type profileLookUp struct {
	at  time.Time
	err error // what its node is answered
}

func newRegistrar(a homeserver.Accounts, s store) *registrar {
	r := &registrar{accounts: a, store: s, profileLookUps: make(map[common.Address]profileLookUp)}
	stopping, cancel := context.WithCancelCause(context.Background())
	r.stopping, r.stop = stopping, func() { cancel(errStopping) }
	return r
}

// An account is what an attempt or a profile look-up found out about a node's account.
type account int

const (
	accountNotMade    account = iota // no creating request left, or each was answered with a refusal
	accountMayBeThere                // a creating request failed (5xx, 408) or got no readable answer: the account may be there
	accountMade                      // the homeserver confirms that this attempt made it
	accountOwn                       // it existed, with this node's display name or left by an attempt of this node
	accountForeign                   // it existed with another display name, or with none
	accountThere                     // it existed; its display name was not asked for
	accountGone                      // the homeserver says that there is none
	accountHidden                    // the homeserver refuses to say, and would refuse to create an account that exists
	accountUnclear                   // its owner, or whether it exists, could not be found out
)

// unchanged is the decision that the record stays what it was before the attempt.
const unchanged state = "unchanged"

// errAsItFailed stands for the error of the call that failed.
var errAsItFailed = errors.New("the call that failed says why")

// A decision is what the record becomes ("" for no record), and what the node is answered.
type decision struct {
	record  state
	did     outcome
	err     error
	creates bool // the homeserver is asked to create the account; its answer leads to another decision
}

// decide is the table in docs/design.md; TestDecide compares the two. Begun is whether a creating request of this service may have
// made the account: one of an earlier attempt, or one of this attempt that got no readable answer. Whole is whether the account,
// if it is there, needs nothing more.
//
// A creating request without an answer leaves the record pending, since the account may be there. Where only the questions
// about the account got no answer, the record stays what it was.
func decide(before state, found account, begun, whole bool) decision {
	switch found {
	case accountMade, accountOwn:
		switch {
		case found == accountOwn && before == stateRegistered && !begun:
			return decision{record: unchanged, err: errRegistered}
		case !whole:
			return decision{record: statePending, err: errAsItFailed}
		case before == stateRegistered:
			return decision{record: stateRegistered, did: outcomeRecreated}
		case found == accountOwn && before == statePending:
			return decision{record: stateRegistered, did: outcomeCompleted}
		case found == accountOwn && !begun:
			return decision{record: stateRegistered, did: outcomeAdopted}
		}
		return decision{record: stateRegistered, did: outcomeCreated}
	case accountMayBeThere:
		if before == stateRegistered && whole {
			return decision{record: unchanged, err: errAsItFailed}
		}
		return decision{record: statePending, err: errAsItFailed}
	case accountForeign:
		if before == stateRegistered {
			return decision{record: unchanged, err: errRegistered}
		}
		return decision{record: stateRegistered, err: errForeign}
	case accountThere:
		return decision{record: unchanged, err: errRegistered}
	case accountGone:
		switch before {
		case statePending:
			return decision{record: ""}
		case stateRegistered:
			return decision{record: unchanged, creates: true}
		}
	case accountHidden:
		if before == stateRegistered {
			return decision{record: unchanged, creates: true}
		}
	}
	return decision{record: unchanged, err: errAsItFailed}
}

// register registers the node, whatever its record says before. The context bounds only the wait for the address: an attempt
// that has begun is finished and recorded, whether or not the client is still there.
func (r *registrar) register(ctx context.Context, n node) (accessToken string, did outcome, err error) {
	claimed, err := r.claim(ctx, n.Address)
	if err != nil {
		return "", "", err
	}
	defer claimed.Release()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), attemptTime)
	defer cancel()

	before, err := claimed.Load(ctx)
	if err != nil && !errors.Is(err, errNoRecord) {
		return "", "", fmt.Errorf("%w: %w", errStore, err)
	}
	if !before.Banned.IsZero() {
		return "", "", errBanned
	}
	if before.State == stateRegistered {
		if err := r.remembered(n.Address); err != nil {
			return "", "", err
		}
	}
	if before.State == "" {
		if err := r.newNodes.Take(limit.Key{}); err != nil {
			return "", "", err
		}
	}
	leave, err := r.slots.Take(ctx, r.stopping)
	if err != nil {
		return "", "", err
	}
	defer leave()
	if before.State == stateRegistered {
		if err := r.mayRecreate(ctx, n); err != nil {
			return "", "", err
		}
	}
	return r.attempt(ctx, claimed, before, n)
}

// attempt creates the account, and writes the record that the table has for the outcome.
func (r *registrar) attempt(ctx context.Context, claimed claim, before record, n node) (accessToken string, did outcome, err error) {
	steps, err := r.accounts.Steps(ctx)
	if err != nil {
		return "", "", err
	}
	recorded := func() error { return nil } // waits until the record is on disk
	// A lost account that one step creates again cannot be left half made: its record stays registered.
	writes := before.State != stateRegistered || steps != homeserver.OneStep
	if writes {
		recorded = beside(func() error { return save(claimed, before, n, statePending) })
		defer recorded() // before the address is released, even if the rest panics
	}

	since := time.Now()
	if before.State == statePending {
		since = before.Created
	}
	accessToken, err = r.accounts.Create(ctx, n.Account, before.State == statePending, recorded)
	found, begun, whole, err := r.judge(ctx, before, n, steps, since, err)
	if err := recorded(); err != nil {
		return "", "", err
	}

	decided := decide(before.State, found, begun, whole)
	if decided.err == errAsItFailed {
		decided.err = err
	}
	if found == accountThere { // the profile is hidden, and Create said that the account exists: that counts as a look-up
		r.remember(n.Address, decided.err)
	}
	switch {
	case decided.record == stateRegistered:
		err = save(claimed, before, n, stateRegistered)
	case decided.record == unchanged && writes:
		err = putBack(claimed, before)
	default: // pending was written, or nothing
		err = nil
	}
	if err != nil {
		return "", "", err
	}
	return accessToken, decided.did, decided.err
}

// beside runs the write while its caller goes on, and returns the function that waits for its end. It logs a panic where it
// happens, and makes an error of it for all who wait.
func beside(write func() error) (wait func() error) {
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if broken := recover(); broken != nil {
				logPanic(broken)
				err = errPanic
			}
		}()
		err = write()
	}()
	return func() error {
		<-done
		return err
	}
}

// judge returns what the result of Create says about the account. If the account existed already, judge asks for its owner, and
// completes it if it is the node's. Since is the start of the oldest attempt with an unknown outcome, this attempt included.
func (r *registrar) judge(ctx context.Context, before record, n node, steps homeserver.Steps, since time.Time, created error) (found account, begun, whole bool, failure error) {
	begun, whole = before.State == statePending, steps == homeserver.OneStep
	if created == nil {
		return accountMade, begun, true, nil
	}
	failed, ok := errors.AsType[*homeserver.Error](created)
	switch {
	case !ok: // the record could not be written, or the error is of no known kind
		return accountMayBeThere, begun, whole, created
	case failed.Fate == homeserver.NotCreated:
		return accountNotMade, begun, whole, created
	case failed.Fate == homeserver.MayBeCreated:
		return accountMayBeThere, begun, whole, created
	}

	begun = begun || failed.MayBeOurs
	unclear := accountUnclear
	if failed.MayBeOurs { // this attempt may have made it
		unclear = accountMayBeThere
	}
	if before.State == stateRegistered && !begun {
		return accountThere, begun, whole, created
	}
	shown, err := r.shownName(ctx, n, failed, begun && steps != homeserver.NameApart)
	if err != nil {
		return unclear, begun, whole, err
	}
	switch whose(shown, n, before, begun, steps) {
	case ownerNode:
		since = time.Time{}
	case ownerProven:
	case ownerUntold:
		return unclear, begun, whole, homeserver.Unnamed()
	default:
		return accountForeign, begun, whole, errForeign
	}
	err = r.accounts.Finish(ctx, n.Account, shown, since)
	if failed, ok := errors.AsType[*homeserver.Error](err); ok && failed.Fate == homeserver.Taken {
		return unclear, begun, whole, err
	}
	return accountOwn, begun, err == nil, err
}

// An owner is who owns an account, as far as its display name tells.
type owner int

const (
	ownerNode   owner = iota // the node
	ownerProven              // the node, if Finish can prove it: the account was never given a name
	ownerUntold              // nobody knows: the account was never given a name
	ownerOther               // somebody else
)

// whose returns who owns an account with this display name. The node's display name is a signature: a name that begins with it
// is the node's, whatever a homeserver that was never tried adds to it.
func whose(shown string, n node, before record, begun bool, steps homeserver.Steps) owner {
	isOwn := shown == n.DisplayName || before.State == statePending && shown == before.DisplayName && shown != ""
	isUnnamed := shown == "" || shown == n.Localpart
	switch {
	case isOwn, steps == homeserver.NameApart && strings.HasPrefix(shown, n.DisplayName):
		return ownerNode
	case isUnnamed && steps == homeserver.NameApart, isUnnamed && steps == homeserver.PasswordApart && begun:
		return ownerProven
	case steps == homeserver.PasswordApart && shown == n.Localpart:
		return ownerUntold
	}
	return ownerOther
}

// shownName returns the display name of an account that the homeserver says is there, "" if it has none. If an attempt of this
// service may be creating the account at this moment, a missing profile is an error: it says nothing.
func (r *registrar) shownName(ctx context.Context, n node, failed *homeserver.Error, begun bool) (string, error) {
	if failed.Shows != nil {
		return *failed.Shows, nil
	}
	name, err := r.accounts.DisplayName(ctx, n.UserID)
	switch {
	case errors.Is(err, homeserver.ErrNoUser) && begun:
		return "", &homeserver.Error{Reason: "the homeserver does not say whose the account of this name is", Cause: errors.New("it says that there is one, and shows no profile of it")}
	case errors.Is(err, homeserver.ErrNoUser):
		return "", nil
	}
	return name, err
}

// save writes the node's record in the given state. When a lost account is created again, Created is set anew: no older attempt can have
// left this account half made.
func save(claimed claim, before record, n node, s state) error {
	now := time.Now().UTC()
	after := record{Localpart: n.Localpart, UserID: n.UserID, DisplayName: n.DisplayName, State: s, Created: before.Created, Updated: now}
	beginsAgain := before.State == stateRegistered && s == statePending
	if after.Created.IsZero() || after.Created.After(now) || beginsAgain {
		after.Created = now
	}
	if err := claimed.Save(after); err != nil {
		return fmt.Errorf("%w: %w", errStore, err)
	}
	return nil
}

// putBack restores the record from before the attempt.
func putBack(claimed claim, before record) (err error) {
	if before.State == "" {
		err = claimed.Drop()
	} else {
		err = claimed.Save(before)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errStore, err)
	}
	return nil
}

// claim waits for the address, until waitTime is over or shutdown begins.
func (r *registrar) claim(ctx context.Context, a common.Address) (claim, error) {
	claimed, err := claimInTime(ctx, r.stopping, r.store, a)
	switch {
	case r.stopping.Err() != nil:
		if err == nil {
			claimed.Release()
		}
		return nil, errStopping
	case errors.Is(err, errBusy):
		return nil, errBusy
	case err != nil:
		return nil, fmt.Errorf("%w: %w", errStore, err)
	}
	return claimed, nil
}

// mayRecreate returns nil only if a registered node's account is to be created again: the homeserver itself says that it is
// not there, or tells nothing and would refuse to create it twice. Any other look-up is remembered, so that a node that
// restarts in a loop costs at most one a minute.
func (r *registrar) mayRecreate(ctx context.Context, n node) error {
	_, err := r.accounts.DisplayName(ctx, n.UserID)
	found := accountUnclear
	switch {
	case errors.Is(err, homeserver.ErrNoUser):
		found = accountGone
	case err == nil:
		found = accountThere
	case isHidden(err) && r.accounts.RefusesTaken():
		found = accountHidden
	}
	decided := decide(stateRegistered, found, false, true)
	if decided.creates {
		return nil
	}
	if decided.err != errAsItFailed {
		err = decided.err
	}
	r.remember(n.Address, err)
	return err
}

// isHidden tells whether the homeserver refuses to show the profile to this service.
func isHidden(err error) bool {
	failed, ok := errors.AsType[*homeserver.Error](err)
	return ok && failed.Hidden
}

// remembered returns the result of the last look-up of the address, or nil if that is too long ago. It returns an EarlyError if
// there is no room to remember another look-up. Once in a period it removes the results that no longer count.
func (r *registrar) remembered(a common.Address) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if now.Sub(r.lastSweep) >= profileLookUpPeriod {
		r.lastSweep = now
		for other, last := range r.profileLookUps {
			if now.Sub(last.at) >= profileLookUpPeriod {
				delete(r.profileLookUps, other)
			}
		}
	}
	if last, ok := r.profileLookUps[a]; ok && now.Sub(last.at) < profileLookUpPeriod {
		if failed, ok := errors.AsType[*homeserver.Error](last.err); ok && failed.Limited {
			failed = failed.WithoutCause()
			failed.RetryAfter = profileLookUpPeriod - now.Sub(last.at) // until then the homeserver is not asked again
			return failed
		}
		return last.err
	}
	if len(r.profileLookUps) >= profileLookUpsKept {
		return &limit.EarlyError{Reason: "too many registered nodes at once", Wait: profileLookUpPeriod - now.Sub(r.lastSweep)}
	}
	return nil
}

// remember keeps the result of a look-up, without the cause, which is for the log alone and was logged.
func (r *registrar) remember(a common.Address, err error) {
	if failed, ok := errors.AsType[*homeserver.Error](err); ok {
		err = failed.WithoutCause()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.profileLookUps[a] = profileLookUp{time.Now(), err}
}

// reconcileAll reconciles pending records at once and then once in a period, until shutdown begins.
func (r *registrar) reconcileAll() {
	rounds := time.NewTicker(reconcilePeriod)
	defer rounds.Stop()
	said := ""
	for {
		looked, err := r.reconcileRound(r.stopping)
		said = r.logRound(looked, err, said)
		select {
		case <-r.stopping.Done():
			return
		case <-rounds.C:
		}
	}
}

// logRound logs why a round did not reconcile every record that it checked, unless the same was logged last, and returns what it logged.
// A round without records changes nothing: the one before may have ended at the last record.
func (r *registrar) logRound(looked int, err error, said string) string {
	failed, isFailed := errors.AsType[*homeserver.Error](err)
	switch {
	case r.stopping.Err() != nil, err == nil && looked > 0:
		return ""
	case err == nil:
		return said
	case isFailed && failed.Limited:
		log.Info("The homeserver limits profile look-ups (rc_profile in Synapse); pending registrations are reconciled later", "in", reconcilePeriod)
	case err.Error() != said:
		log.Warn("Pending registrations could not be reconciled; trying again", "in", reconcilePeriod, "err", err)
	}
	return err.Error()
}

// reconcileRound reconciles records until there is none left, reconcileAtMost are done, or the homeserver does not say, and
// returns how many it checked. It goes on to the next if the homeserver hides an account, or a record is damaged.
func (r *registrar) reconcileRound(ctx context.Context) (looked int, err error) {
	var passedOver error
	for looked < reconcileAtMost {
		now := time.Now()
		claimed, pending, err := r.store.ClaimPending(ctx, span{now.Add(-reconcileAfter), now.Add(reconcileAfter)})
		if errors.Is(err, errNoRecord) {
			return looked, passedOver
		}
		if err != nil {
			err = fmt.Errorf("%w: %w", errStore, err)
		}
		if err != nil && !errors.Is(err, errDamagedRecord) {
			return looked, err
		}
		looked++
		if err == nil {
			if err = r.reconcile(ctx, claimed, pending); err != nil && !isHidden(err) {
				return looked, err
			}
		}
		passedOver = cmp.Or(passedOver, err)
	}
	return looked, passedOver
}

// seen returns what the homeserver says about the account of a pending record, without the node.
func (r *registrar) seen(ctx context.Context, pending record) (found account, whole bool, failure error) {
	steps, err := r.accounts.Steps(ctx)
	if err != nil {
		return accountUnclear, false, err
	}
	name, err := r.accounts.DisplayName(ctx, pending.UserID)
	isGone, isOwn := errors.Is(err, homeserver.ErrNoUser), err == nil && name == pending.DisplayName
	switch {
	case steps == homeserver.NameApart && (isGone || err == nil && !isOwn): // it may be there, its name not yet set
		return accountUnclear, false, homeserver.LeftToNode()
	case isGone:
		return accountGone, true, nil
	case isOwn, err == nil && steps == homeserver.PasswordApart: // only the node can do what may be left
		return accountOwn, steps != homeserver.PasswordApart, nil
	case err == nil:
		return accountForeign, true, nil
	}
	return accountUnclear, false, err
}

// reconcile asks the homeserver for the account of a pending record. It keeps the record if the homeserver does not say.
func (r *registrar) reconcile(ctx context.Context, claimed claim, pending record) error {
	defer claimed.Release()
	now := time.Now().UTC()
	written := pending.Updated
	if written.After(now) {
		log.Warn("A pending registration has a time in the future: a clock is or was wrong; set the clocks of all gateways with NTP",
			"user_id", pending.UserID, "written", written, "now", now)
	}

	found, whole, failure := r.seen(ctx, pending)
	decided := decide(statePending, found, true, whole)
	end, err := "", error(nil)
	switch decided.record {
	case stateRegistered:
		end = "registered"
		pending.State, pending.Updated = stateRegistered, now
		err = claimed.Save(pending)
	case "":
		end = "dropped"
		err = claimed.Drop()
	default:
		if !written.After(now) {
			break
		}
		pending.Updated = now // so that the log has the wrong clock once
		err = claimed.Save(pending)
	}
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", errStore, err)
	case errors.Is(decided.err, errForeign):
		log.Warn(lineReconciled, "outcome", end, "user_id", pending.UserID, "reason", errForeign)
	case end != "":
		log.Info(lineReconciled, "outcome", end, "user_id", pending.UserID)
	case found == accountUnclear:
		return failure
	}
	return nil
}
