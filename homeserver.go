// homeserver.go owns what creating an account is, whichever way it goes: the account, what a way has to do, what is known
// of the account when that fails, and which ways there are.

package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// An account is what a user of the homeserver is made of. How much of the password goes up is up to each way.
type userAccount struct {
	Localpart   string
	UserID      string
	DisplayName string
	Password    string
}

// accounts is one way of creating accounts, as the homeserver has it.
type accounts interface {
	// create makes the account and returns the access token, if the homeserver issued one. Before it sends what may make an
	// account it calls recorded, which waits until the attempt is on disk, and ends with its error. Every other error is a
	// *homeserverError whose fate says what is known of the account.
	create(ctx context.Context, a userAccount, recorded func() error) (accessToken string, err error)

	// inSteps tells whether create takes several calls, so that an account that is there need not be whole.
	inSteps() bool

	// finish makes an account whole that is there and is the node's: create was cut off, or its record was lost. Since is
	// when the first attempt began of those whose end nobody learned, where nothing else says whose the account is: an
	// account that is not known to be younger is left alone, and the error's fate is taken. It is zero where the account
	// shows the node's name. The other errors are as those of create.
	finish(ctx context.Context, a userAccount, since time.Time) error

	// displayName returns the user's display name: errNoUser where the homeserver says that there is no such
	// user, a *homeserverError where it cannot be told.
	displayName(ctx context.Context, userID string) (string, error)

	// probe asks whether this way is open. Its error says why that is unknown, or how to open it.
	probe(ctx context.Context) (apiState, error)

	// answers asks something that costs little, and tells whether accounts could be created now.
	answers(ctx context.Context) error
}

// oneCall is of the ways of creating accounts that do it in one call.
type oneCall struct{}

func (oneCall) inSteps() bool                                        { return false }
func (oneCall) finish(context.Context, userAccount, time.Time) error { return nil }

// An apiState is what a probe found of one way of creating accounts.
type apiState int

const (
	apiUnknown  apiState = iota // no answer that tells
	apiMissing                  // the homeserver, or a proxy before it, does not know the path
	apiDisabled                 // it is there and switched off
	apiPresent
)

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
	mayBeOurs  bool          // of a taken account: an earlier send of this attempt got no readable answer
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

// withoutCause is what a node may read of the error, and nothing of the rest.
func (e *homeserverError) withoutCause() *homeserverError {
	return &homeserverError{limited: e.limited, retryAfter: e.retryAfter, reason: e.reason}
}

var (
	errNoUser  = errors.New("no such user at the homeserver")
	errUnnamed = errors.New("the account has no display name of its own, and may be this node's, half made: if it is, set its display name to the node's, which matrix-regservice register prints for its key, and the node's next try completes it; if it is not, remove it")
)

// unnamed is the failure of a node whose account shows what one shows that was never given a name: it may be the node's,
// half made.
func unnamed() *homeserverError {
	return &homeserverError{
		reason: "the homeserver does not tell whose the account of this name is",
		cause:  errUnnamed,
	}
}

// retried runs a try to create an account, and once more where that promises another end. A request that went
// unanswered marks the whole attempt: an account that the second try finds may be its doing, and a refusal of the
// second proves nothing of the first.
func retried(try func() (accessToken string, err error)) (string, error) {
	token, err := try()
	first, ok := errors.AsType[*homeserverError](err)
	if !ok || !first.again {
		return token, err
	}
	token, err = try()
	if second, ok := errors.AsType[*homeserverError](err); ok && first.fate == unanswered {
		if second.fate == taken {
			second.mayBeOurs = true
		} else {
			second.fate = unanswered
		}
	}
	return token, err
}

// notSent takes a failed question's error for what it means to the attempt: the creating request never left.
func notSent(e *homeserverError) *homeserverError {
	e.fate, e.again = notCreated, false
	return e
}
