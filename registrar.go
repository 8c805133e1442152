// registrar.go owns the life of a registration: who holds an address and who waits for whom, what is recorded
// before and after the homeserver is asked, and what each answer of the homeserver means for the record.

package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	attemptTime  = 12 * time.Second // all that one attempt may take once it holds the address
	waitTime     = 13 * time.Second // how long another request for the same address waits: longer than an attempt
	lookUpPeriod = time.Minute      // a registered address costs the homeserver at most one look-up in this time
	lookUpsKept  = 1 << 15          // look-ups remembered, in 2 MiB: beyond 500 a second there are none for a while
)

// accounts is the homeserver, as far as registering needs it.
type accounts interface {
	// create makes the node's account and returns the access token, if the homeserver issued one. Before it sends
	// what may make an account it calls recorded, which waits until the attempt is on disk, and ends with its error.
	// Every other error is a *homeserverError whose fate says what is known of the account.
	create(ctx context.Context, n node, recorded func() error) (accessToken string, err error)

	// inSteps tells whether create takes several calls, so that an account that is there need not be whole.
	inSteps() bool

	// finish makes an account whole that is there and is the node's: create was cut off, or its record lost.
	// Its errors are as those of create.
	finish(ctx context.Context, n node) error

	// displayName returns the user's display name: errNoUser where the homeserver says that there is no such
	// user, a *homeserverError where it cannot be told.
	displayName(ctx context.Context, userID string) (string, error)
}

// oneCall is of the ways of creating accounts that do it in one call.
type oneCall struct{}

func (oneCall) inSteps() bool                      { return false }
func (oneCall) finish(context.Context, node) error { return nil }

// store keeps the records of all nodes.
type store interface {
	// Load reads a record, whoever holds its address: errNoRecord where it is unknown.
	Load(ctx context.Context, a address) (record, error)

	// Claim holds the address for one attempt alone, waiting for it until the context ends: errBusy where too many wait.
	Claim(ctx context.Context, a address) (claim, error)

	// ClaimPending holds the next pending record that nobody holds and that was last written before the given
	// time. Called again it goes on behind that one, and begins anew after it said errNoRecord: there is no more.
	ClaimPending(ctx context.Context, before time.Time) (claim, record, error)

	Close() error
}

// claim is an address in hand. What Save and Drop did is on disk when they return.
type claim interface {
	Save(record) error
	Drop() error
	Release() // once, whatever happened
}

// A fate is what is known of an account after a call that should have created it did not.
type fate int

const (
	notCreated fate = iota // no request left this machine, or every one that did was answered with a refusal
	unanswered             // a request left and got no readable answer: the account may be there
	taken                  // the homeserver says that the account is there already
)

// A homeserverError says why the homeserver did not do what it was asked.
type homeserverError struct {
	fate       fate
	again      bool          // worth one more try at once: a kept connection had been closed, a nonce was stale
	limited    bool          // it asked for fewer requests (429)
	retryAfter time.Duration // and for how long; 0 when it did not say
	shows      *string       // the display name that a taken account was seen to have, if somebody looked
	reason     string        // in plain words, fit for a node to read
	cause      error         // for the log alone: the whole of it and what the operator can do
}

func (e *homeserverError) Error() string {
	if e.cause == nil {
		return e.reason
	}
	return fmt.Sprintf("%s: %v", e.reason, e.cause)
}

func (e *homeserverError) Unwrap() error { return e.cause }

var (
	errNoUser     = errors.New("no such user at the homeserver")
	errRegistered = errors.New("this address is registered already")
	errForeign    = fmt.Errorf("%w: the homeserver has an account of this name that this service did not make", errRegistered)
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
	accounts accounts
	store    store
	stopping context.Context // ended when shutdown begins: no attempt starts after it
	stop     context.CancelFunc
	newNodes *limiter // addresses without a record, all together
	slots    slots    // of attempts that ask the homeserver

	mu        sync.Mutex
	lookUps   map[address]time.Time // when a registered address was last looked up, and not found gone
	lastSweep time.Time
}

func newRegistrar(a accounts, s store) *registrar {
	r := &registrar{accounts: a, store: s, lookUps: make(map[address]time.Time)}
	r.stopping, r.stop = context.WithCancel(context.Background())
	return r
}

// register takes a node from whatever its record says to registered. The context bounds only the wait for
// the address: an attempt begun is finished and recorded, whether or not the client is still there.
func (r *registrar) register(ctx context.Context, n node) (accessToken string, did outcome, err error) {
	held, err := r.claim(ctx, n.Address)
	if err != nil {
		return "", "", err
	}
	defer held.Release()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), attemptTime)
	defer cancel()

	before, err := r.store.Load(ctx, n.Address)
	if err != nil && !errors.Is(err, errNoRecord) {
		return "", "", fmt.Errorf("%w: %w", errStore, err)
	}
	if before.State == stateRegistered && r.lookedUp(n.Address) {
		return "", "", errRegistered
	}
	if before.State == "" {
		if err := r.newNodes.take(limitKey{}); err != nil {
			return "", "", err
		}
	}
	leave, err := r.slots.take(ctx, r.stopping)
	if err != nil {
		return "", "", err
	}
	defer leave()
	if before.State == stateRegistered {
		if err := r.confirmGone(ctx, n); err != nil {
			return "", "", err
		}
	}
	// A registered node's record stays what it is, unless what is created anew may be left half made: then its next
	// try has to find it pending.
	begun := before.State != stateRegistered || r.accounts.inSteps()
	recorded := func() error { return nil }
	if begun {
		recorded = beside(func() error { return save(held, before, n, statePending) })
		defer recorded() // before the address is released, even if the hand-over panics
	}

	accessToken, did, err = r.handOver(ctx, before.State, n, recorded)
	if err := recorded(); err != nil {
		return "", "", err
	}
	failed := (*homeserverError)(nil)
	isNotCreated := errors.As(err, &failed) && failed.fate == notCreated
	switch {
	case err == nil, errors.Is(err, errForeign), begun && before.State == stateRegistered && (isNotCreated || errors.Is(err, errRegistered)):
		if err := save(held, before, n, stateRegistered); err != nil {
			return "", "", err
		}
	case isNotCreated && before.State == "":
		if err := held.Drop(); err != nil {
			return "", "", fmt.Errorf("%w: %w", errStore, err)
		}
	}
	return accessToken, did, err
}

// beside runs the write while its caller goes on, and returns how to wait for its end. A panic is the waiting caller's.
func beside(write func() error) (wait func() error) {
	wait = sync.OnceValue(write)
	go func() {
		defer func() { recover() }()
		wait()
	}()
	return wait
}

// handOver has the account created, and tells what it means when it was there already.
func (r *registrar) handOver(ctx context.Context, before state, n node, recorded func() error) (accessToken string, did outcome, err error) {
	accessToken, err = r.accounts.create(ctx, n, recorded)
	if err == nil {
		if before == stateRegistered {
			return accessToken, outcomeRecreated, nil
		}
		return accessToken, outcomeCreated, nil
	}
	failed := (*homeserverError)(nil)
	if !errors.As(err, &failed) || failed.fate != taken {
		return "", "", err
	}

	switch before {
	case stateRegistered:
		return "", "", errRegistered
	case statePending:
		return "", outcomeCompleted, r.accounts.finish(ctx, n)
	}
	if failed.shows == nil {
		name, err := r.accounts.displayName(ctx, n.UserID)
		if errors.As(err, &failed) && failed.limited {
			return "", "", err
		}
		if err != nil {
			return "", "", errForeign
		}
		failed.shows = &name
	}
	if *failed.shows != n.DisplayName {
		return "", "", errForeign
	}
	return "", outcomeAdopted, r.accounts.finish(ctx, n)
}

// save writes the node's record in the given state.
func save(held claim, before record, n node, s state) error {
	now := time.Now().UTC()
	after := record{Localpart: n.Localpart, UserID: n.UserID, DisplayName: n.DisplayName, State: s, Created: before.Created, Updated: now}
	if after.Created.IsZero() {
		after.Created = now
	}
	if err := held.Save(after); err != nil {
		return fmt.Errorf("%w: %w", errStore, err)
	}
	return nil
}

// claim waits for the address, as long as the contract allows and no shutdown begins.
func (r *registrar) claim(ctx context.Context, a address) (claim, error) {
	ctx, cancel := context.WithTimeout(ctx, waitTime)
	defer cancel()
	defer context.AfterFunc(r.stopping, cancel)()

	held, err := r.store.Claim(ctx, a)
	switch {
	case r.stopping.Err() != nil:
		if err == nil {
			held.Release()
		}
		return nil, errStopping
	case errors.Is(err, errBusy), err != nil && ctx.Err() != nil:
		return nil, errBusy
	case err != nil:
		return nil, fmt.Errorf("%w: %w", errStore, err)
	}
	return held, nil
}

// confirmGone returns nil only when the homeserver itself says that a registered node's account is not there.
// Any other look-up is remembered, so that a node that restarts in a loop costs at most one a minute.
func (r *registrar) confirmGone(ctx context.Context, n node) error {
	_, err := r.accounts.displayName(ctx, n.UserID)
	if errors.Is(err, errNoUser) {
		return nil
	}
	r.remember(n.Address)
	if failed := (*homeserverError)(nil); errors.As(err, &failed) && failed.limited {
		return err
	}
	return errRegistered
}

// lookedUp tells whether the address may not be looked up now: because it was, or because so many were that no more
// can be remembered. It forgets once a period those that no longer count.
func (r *registrar) lookedUp(a address) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if now.Sub(r.lastSweep) >= lookUpPeriod {
		r.lastSweep = now
		for other, at := range r.lookUps {
			if now.Sub(at) >= lookUpPeriod {
				delete(r.lookUps, other)
			}
		}
	}
	at, ok := r.lookUps[a]
	return ok && now.Sub(at) < lookUpPeriod || len(r.lookUps) >= lookUpsKept
}

// remember notes a look-up.
func (r *registrar) remember(a address) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lookUps[a] = time.Now()
}
