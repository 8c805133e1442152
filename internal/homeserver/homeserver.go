// Package homeserver owns the homeserver as this program sees it: the client that every call goes through, what its answers
// say of an account, and which ways of creating accounts there are. It knows neither nodes nor records, and no flags.
//
// homeserver.go owns what creating an account is, whichever way it goes: the account, what a way has to do, and what is
// known of the account when that fails.
package homeserver

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// An account is what a user of the homeserver is made of. How much of the password goes up is up to each way.
type Account struct {
	Localpart   string
	UserID      string
	DisplayName string
	Password    string
}

// Accounts is one way of creating accounts, as the homeserver has it.
type Accounts interface {
	// create makes the account and returns the access token, if the homeserver issued one. Before it sends what may make an
	// account it calls recorded, which waits until the attempt is on disk, and ends with its error. Every other error is a
	// *Error whose fate says what is known of the account.
	Create(ctx context.Context, a Account, recorded func() error) (accessToken string, err error)

	// inSteps tells whether create takes several calls, so that an account that is there need not be whole.
	InSteps() bool

	// refusesTaken tells whether create is refused where the account is there, whoever's it is, and changes nothing of it. Then
	// it may be asked where the homeserver does not tell whether the account is there.
	RefusesTaken() bool

	// finish makes an account whole that is there and is the node's: create was cut off, or its record was lost. Since is
	// when the first attempt began of those whose end nobody learned, where nothing else says whose the account is: an
	// account that is not known to be younger is left alone, and the error's fate is taken. It is zero where the account
	// shows the node's name. The other errors are as those of create.
	Finish(ctx context.Context, a Account, since time.Time) error

	// displayName returns the user's display name: errNoUser where the homeserver says that there is no such
	// user, a *Error where it cannot be told.
	DisplayName(ctx context.Context, userID string) (string, error)

	// probe asks whether this way is open. Its error says why that is unknown, or how to open it.
	Probe(ctx context.Context) (State, error)

	// answers asks something that costs little, and tells whether accounts could be created now.
	Answers(ctx context.Context) error
}

// OneCall is of the ways of creating accounts that do it in one call, and may do it to an account that is there.
type OneCall struct{}

func (OneCall) InSteps() bool                                    { return false }
func (OneCall) RefusesTaken() bool                               { return false }
func (OneCall) Finish(context.Context, Account, time.Time) error { return nil }

// An State is what a probe found of one way of creating accounts.
type State int

const (
	Unknown  State = iota // no answer that tells
	Missing               // the homeserver, or a proxy before it, does not know the path
	Disabled              // it is there and switched off
	Present
)

// A fate is what is known of an account after a call that should have created it did not.
type fate int

const (
	NotCreated fate = iota // no request left this machine, or every one that did was answered with a refusal
	Unanswered             // a request left and got no readable answer: the account may be there
	Taken                  // the homeserver says that the account is there already
)

// A Error says why the homeserver did not do what it was asked.
type Error struct {
	Fate       fate
	Again      bool          // worth one more try at once: a kept connection had been closed, a nonce was stale
	MayBeOurs  bool          // of a taken account: an earlier send of this attempt got no readable answer
	Hidden     bool          // of a profile: it is refused to this service, whoever it asks as (401, 403)
	Limited    bool          // it asked for fewer requests (429)
	RetryAfter time.Duration // and for how long; 0 when it did not say
	Shows      *string       // the display name that a taken account was seen to have, if somebody looked
	Reason     string        // in plain words, fit for a node to read
	Cause      error         // for the log alone: the whole of it and what the operator can do
}

func (e *Error) Error() string {
	if e.Cause == nil {
		return e.Reason
	}
	return fmt.Sprintf("%s: %v", e.Reason, e.Cause)
}

func (e *Error) Unwrap() error { return e.Cause }

// WithoutCause is what a node may read of the error, and nothing of the rest.
func (e *Error) WithoutCause() *Error {
	return &Error{Limited: e.Limited, RetryAfter: e.RetryAfter, Reason: e.Reason}
}

var (
	ErrNoUser  = errors.New("no such user at the homeserver")
	errUnnamed = errors.New("the account has no display name of its own, and may be this node's, half made: if it is, set its display name to the node's, which matrix-regservice register prints for its key, and the node's next try completes it; if it is not, remove it")
)

// Unnamed is the failure of a node whose account shows what one shows that was never given a name: it may be the node's,
// half made.
func Unnamed() *Error {
	return &Error{
		Reason: "the homeserver does not tell whose the account of this name is",
		Cause:  errUnnamed,
	}
}

// Retried runs a try to create an account, and once more where that promises another end. A request that went
// unanswered marks the whole attempt: an account that the second try finds may be its doing, and a refusal of the
// second proves nothing of the first.
func Retried(try func() (accessToken string, err error)) (string, error) {
	token, err := try()
	first, ok := errors.AsType[*Error](err)
	if !ok || !first.Again {
		return token, err
	}
	token, err = try()
	if second, ok := errors.AsType[*Error](err); ok && first.Fate == Unanswered {
		if second.Fate == Taken {
			second.MayBeOurs = true
		} else {
			second.Fate = Unanswered
		}
	}
	return token, err
}

// NotSent takes a failed question's error for what it means to the attempt: the creating request never left.
func NotSent(e *Error) *Error {
	e.Fate, e.Again = NotCreated, false
	return e
}
