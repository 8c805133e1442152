// Package homeserver owns the homeserver as this program sees it: the client that makes every call, what answers say about an
// account, and the ways of creating accounts. It knows neither nodes nor records, and no flags.
//
// homeserver.go owns what all ways of creating accounts have in common: the account, the interface of a way, and what is known of
// the account after a failure.
package homeserver

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// An Account is what an account is created with. Each way decides how much of the password it sends.
type Account struct {
	Localpart   string
	UserID      string
	DisplayName string
	Password    string
}

// Accounts is one way of creating accounts, as the homeserver has it.
type Accounts interface {
	// Create makes the account and returns the access token, if the homeserver issued one. Before it sends a request that may
	// make an account it calls recorded, which waits until the attempt is on disk. If that fails, Create returns its error. Every
	// other error is an *Error whose Fate says what is known of the account. Begun says that an earlier attempt of this service
	// began to make the account, and nobody learned how it ended.
	Create(ctx context.Context, a Account, begun bool, recorded func() error) (accessToken string, err error)

	// Steps returns in which steps Create makes an account. Its error is an *Error.
	Steps(ctx context.Context) (Steps, error)

	// RefusesTaken reports whether Create fails on an account that exists, no matter whose it is, and leaves it unchanged. Create
	// may then be called when the homeserver does not say whether the account is there.
	RefusesTaken() bool

	// Finish completes an account that is there, shows this display name, and is the node's: Create was cut off, or its record
	// was lost. Since is when the oldest attempt began whose end is not known, and is zero if the account shows the node's name.
	// An account without that name which may be older than since is left alone, and the error's Fate is Taken. The other errors
	// are those of Create.
	Finish(ctx context.Context, a Account, shown string, since time.Time) error

	// DisplayName returns the user's display name. The error is ErrNoUser if the homeserver says that there is no such user,
	// and a *Error if it cannot be told.
	DisplayName(ctx context.Context, userID string) (string, error)

	// Ban keeps the account out: it cannot log in. It returns ErrNoUser if there is none, a *ByHandError if
	// only an administrator can do it, and an *Error if it failed. It can be done twice.
	Ban(ctx context.Context, userID string) error

	// Unban lets it in again. Its errors are those of Ban.
	Unban(ctx context.Context, userID string) error

	// Standing tells whether something keeps the account out, where that is told.
	Standing(ctx context.Context, userID string) (Standing, error)

	// Probe asks whether this way is open. Its error says why that is unknown, or how to open it.
	Probe(ctx context.Context) (State, error)

	// Refused asks whether the server refuses what this way creates accounts with: the token, the secret or the client. It creates
	// nothing. It returns what to do where that is refused, "" where it is taken, and an error where it cannot be told.
	Refused(ctx context.Context) (fix string, err error)

	// Answers makes a cheap call, and returns nil if accounts could be created now.
	Answers(ctx context.Context) error
}

// Steps is in which steps an account is made: if that was interrupted, what the account may lack.
type Steps int

const (
	OneStep       Steps = iota // nothing
	NameApart                  // its display name, or it has another one than Create sent
	PasswordApart              // its password, and perhaps its display name
)

// OneCall is of the ways of creating accounts that do it in one call, and may do it to an account that is there.
type OneCall struct{}

func (OneCall) Steps(context.Context) (Steps, error)                     { return OneStep, nil }
func (OneCall) RefusesTaken() bool                                       { return false }
func (OneCall) Finish(context.Context, Account, string, time.Time) error { return nil }

// A State is what a probe found out about one way of creating accounts.
type State int

const (
	Unknown  State = iota // no answer that tells
	Missing               // the homeserver, or a proxy before it, does not know the path
	Disabled              // it is there and switched off
	Present
)

// A Fate is what is known of an account after the call that should have created it failed.
type Fate int

const (
	NotCreated   Fate = iota // no request left this machine, or every one that did was answered with a refusal
	MayBeCreated             // a request left, and failed (5xx, 408) or got no readable answer: the account may be there
	Taken                    // the homeserver says that the account is there already
)

// An Error says why a call to the homeserver failed.
type Error struct {
	Fate       Fate
	Again      bool          // one more try at once may succeed: a kept connection was closed, a nonce was stale
	MayBeOurs  bool          // of a taken account: an earlier send of this attempt got no readable answer
	Hidden     bool          // of a profile: this service may not see it, with any token that it has (401, 403)
	Limited    bool          // it asked for fewer requests (429)
	RetryAfter time.Duration // how long it asked to wait; 0 if it did not say
	Shows      *string       // the display name that a taken account was seen to have, if somebody looked
	Reason     string        // in plain words; nodes may read it
	Cause      error         // for the log alone: the details, and what the operator can do
}

func (e *Error) Error() string {
	if e.Cause == nil {
		return e.Reason
	}
	return fmt.Sprintf("%s: %v", e.Reason, e.Cause)
}

func (e *Error) Unwrap() error { return e.Cause }

// WithoutCause returns the parts of the error that a node may read.
func (e *Error) WithoutCause() *Error {
	return &Error{Limited: e.Limited, RetryAfter: e.RetryAfter, Reason: e.Reason}
}

var (
	ErrNoUser  = errors.New("no such user at the homeserver")
	errUnnamed = errors.New("the account has no display name of its own, and may be an incomplete one of this node: if it is, set its display name to the one that matrix-regservice register prints for the node's key, and the node's next try completes it; if it is not, remove it")
)

// Unnamed is the error for an account that was never given a display name: it may be the node's, half made.
func Unnamed() *Error {
	return &Error{
		Reason: "the homeserver does not say whose the account of this name is",
		Cause:  errUnnamed,
	}
}

// LeftToNode is the failure of a profile that does not say whether the account is there, its name not yet set. The node's next
// try tells.
func LeftToNode() *Error {
	return &Error{
		Hidden: true,
		Reason: "the homeserver does not say whether it has the account",
		Cause:  errors.New("its profile may be that of an account without a display name; the node's next try tells"),
	}
}

// Retried runs a try to create an account, and a second one if its error says Again. If the first request was not answered, it
// may have made the account: an account that the second try finds may be its, and a refusal of the second says nothing about
// the first.
func Retried(try func() (accessToken string, err error)) (string, error) {
	token, err := try()
	first, ok := errors.AsType[*Error](err)
	if !ok || !first.Again {
		return token, err
	}
	token, err = try()
	if second, ok := errors.AsType[*Error](err); ok && first.Fate == MayBeCreated {
		if second.Fate == Taken {
			second.MayBeOurs = true
		} else {
			second.Fate = MayBeCreated
		}
	}
	return token, err
}

// NotSent marks the error of a question that failed before the creating request was sent.
func NotSent(e *Error) *Error {
	e.Fate, e.Again = NotCreated, false
	return e
}

// InStep adds the step that failed to the cause, for the log.
func InStep(step string, e *Error) *Error {
	if e.Cause == nil {
		e.Cause = errors.New(step)
		return e
	}
	e.Cause = fmt.Errorf("%s: %w", step, e.Cause)
	return e
}
