// create.go owns the calls that make an account, and what each of their failures says of it.

package mas

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
)

// Titles of errors that are told apart. They decide what the log says; but for exists, what becomes of the account is
// asked for.
const (
	exists    = "User already exists"                                 // the other title of a 409 is of a name that only the homeserver has
	refused   = "Failed to query localpart availability from Synapse" // Synapse answered, and did not say
	unreached = "Failed to check localpart availability from Synapse" // it did not answer
)

// What the operator can do where an account cannot be made.
var (
	errReserved  = errors.New("the name is free at Matrix Authentication Service and taken at the homeserver: import the account with mas-cli syn2mas; or, if an application service has the name in an exclusive namespace, write exclusive: false in its registration.yaml, and restart the homeserver")
	errExclusive = errors.New("the homeserver has no such account and reserves the name for an exclusive namespace of an application service: write exclusive: false in its registration.yaml, and restart the homeserver")
	ErrSecret    = errors.New("the homeserver rejects the secret of Matrix Authentication Service: write the same secret into matrix.secret there and into matrix_authentication_service.secret of homeserver.yaml, and restart both")
	ErrEndpoint  = errors.New("the homeserver does not answer Matrix Authentication Service: start the homeserver, or write its own URL, such as http://127.0.0.1:8007, into matrix.endpoint of Matrix Authentication Service, and restart that")
)

// half is what the operator can do with an account that is at the homeserver alone, and has no display name of its own: Matrix
// Authentication Service before 1.18 leaves it so where a creation is cut off, and so may others. Once it has its other half, the
// node's next try finds that younger than its record, and completes it. The command can be copied from a log that writes \" for
// each quotation mark.
func (api *Accounts) half(localpart string) error {
	return fmt.Errorf("the account exists only at the homeserver, and has no display name: Matrix Authentication Service before 1.18 leaves it so when a creation is interrupted; if nobody else can have created it, "+
		`type: curl -H @token -H Content-Type:application/json -d $'{"username":"%s","skip_homeserver_check":true}' %s with an Authorization header for its admin API in the file token, and the node's next try completes it`,
		localpart, api.admin.Origin+homeserver.MASUsersPath)
}

// Steps returns that the password is set apart: between two of the calls the account is there, and nobody can log in to it.
func (api *Accounts) Steps(context.Context) (homeserver.Steps, error) {
	return homeserver.PasswordApart, nil
}

// RefusesTaken is true: the answer for a name that is there is 409, also for that of a deactivated user, and for one that only
// the homeserver has.
func (api *Accounts) RefusesTaken() bool { return true }

// Create makes the account, sets its password, and then its display name where it does not have that yet.
func (api *Accounts) Create(ctx context.Context, n homeserver.Account, begun bool, recorded func() error) (string, error) {
	if err := api.name.Check(ctx, api.Client); err != nil {
		return "", err
	}
	if err := recorded(); err != nil {
		return "", err
	}
	id, err := api.added(ctx, n, false)
	if begun && errors.Is(err, errReserved) {
		return "", api.bringOver(ctx, n, err)
	}
	if err != nil {
		return "", err
	}
	isNamed, _ := api.setsNames(ctx) // if that cannot be told, the name is set once more
	return "", api.complete(ctx, n, id, isNamed)
}

// bringOver makes the other half of an account that an earlier attempt left at the homeserver alone: the homeserver makes its
// half first, and a creation that is cut off then leaves nothing else. Without this the node is locked out for good.
//
// The homeserver's word is overridden only where an earlier attempt of this service had begun, Matrix Authentication Service
// knows no such user, and the homeserver shows exactly this node's display name.
func (api *Accounts) bringOver(ctx context.Context, n homeserver.Account, reserved error) error {
	name, err := api.Client.DisplayName(ctx, n.UserID)
	failed, _ := errors.AsType[*homeserver.Error](reserved)
	switch {
	case errors.Is(err, homeserver.ErrNoUser):
		failed.Cause = errExclusive
		return failed
	case err != nil:
		return err
	case name == "" || name == n.Localpart:
		failed.Cause = api.half(n.Localpart)
		return failed
	case name != n.DisplayName:
		return reserved
	}
	if _, err := api.added(ctx, n, true); err != nil {
		return err
	}
	return &homeserver.Error{Fate: homeserver.Taken, MayBeOurs: true, Shows: &name, Reason: "the homeserver has an account of this name"}
}

// Finish completes an account. Each step can be done twice. A name that is shown is not set again: that would need an as_token
// which the homeserver knows.
func (api *Accounts) Finish(ctx context.Context, n homeserver.Account, shown string, since time.Time) error {
	id, err := api.AccountID(ctx, n.Localpart)
	failed, _ := errors.AsType[*homeserver.Error](err)
	switch {
	case errors.Is(err, homeserver.ErrNoUser):
		failed = &homeserver.Error{Reason: "the homeserver has no account that it said it has", Cause: errors.New("look the account up at Matrix Authentication Service")}
	case err == nil:
		if failed = api.checkUnnamed(ctx, id, since); failed == nil {
			return api.complete(ctx, n, id, shown == n.DisplayName)
		}
	}
	failed.Fate, failed.Again = homeserver.MayBeCreated, false
	if !since.IsZero() { // whose it is has not been told
		failed.Fate = homeserver.Taken
	}
	return failed
}

// checkUnnamed returns nil where an account that shows no name may be one that an attempt since that time left half made, and
// for an account that shows the node's name, whose time is zero. From 1.18 on no account is left without a name: one that shows
// none is somebody else's. Before that its age tells, by the clock there and the clock here.
func (api *Accounts) checkUnnamed(ctx context.Context, id string, since time.Time) *homeserver.Error {
	switch {
	case since.IsZero():
		return nil
	case names.ULIDTime(id).Before(since.Add(-clocksDiffer)):
		return homeserver.Unnamed()
	}
	setsNames, err := api.setsNames(ctx)
	if failed, ok := errors.AsType[*homeserver.Error](err); ok {
		return failed
	}
	if setsNames {
		return homeserver.Unnamed()
	}
	return nil
}

// added creates the account, with one more try where a kept connection had been closed, and returns its id.
func (api *Accounts) added(ctx context.Context, n homeserver.Account, unchecked bool) (id string, err error) {
	_, err = homeserver.Retried(func() (_ string, err error) {
		id, err = api.add(ctx, n, unchecked)
		return "", err
	})
	return id, err
}

// add creates the account and returns its id. Unchecked has it made although the homeserver says that the name is taken.
//
// Two answers do not say whether the name is taken: if another request is creating the name, this one is refused as if the name
// were the homeserver's, or fails. Then add asks for the account.
func (api *Accounts) add(ctx context.Context, n homeserver.Account, unchecked bool) (id string, err error) {
	const step = "create the account"
	body := map[string]any{"username": n.Localpart, "displayname": n.DisplayName}
	if unchecked {
		body["skip_homeserver_check"] = true
	}
	a, err := api.askAt(ctx, api.admin.Binding(), step, homeserver.Request{Name: "create", Within: homeserver.ProvisionTime, Method: http.MethodPost, Path: homeserver.MASUsersPath, Body: body})
	if err != nil {
		return "", err
	}
	if id := userNamed(a, n.Localpart); id != "" && a.Status/100 == 2 {
		return id, nil
	}
	failed := homeserver.InStep(step, api.admin.Failure(a, ""))
	conflict := a.Status == http.StatusConflict && a.Title != ""
	switch {
	case conflict && a.Title == exists:
		failed.Fate = homeserver.Taken
	case conflict:
		_, err := api.AccountID(ctx, n.Localpart)
		if err == nil {
			failed.Fate = homeserver.Taken
		}
		if errors.Is(err, homeserver.ErrNoUser) {
			failed.Cause = fmt.Errorf("%w: %w", errReserved, failed.Cause)
		}
	case a.Status == http.StatusInternalServerError:
		if _, err := api.AccountID(ctx, n.Localpart); err == nil {
			failed.Fate, failed.MayBeOurs = homeserver.Taken, true // by this request or by another
			break
		}
		switch a.Title {
		case refused:
			failed.Cause = fmt.Errorf("%w: %w", ErrSecret, failed.Cause)
		case unreached:
			failed.Cause = fmt.Errorf("%w: %w", ErrEndpoint, failed.Cause)
		}
	}
	return "", failed
}

// complete sets the password of the account with the id, and its display name unless it is named. If it fails, the account is
// there and half made.
func (api *Accounts) complete(ctx context.Context, n homeserver.Account, id string, isNamed bool) (err error) {
	defer func() {
		if failed := (*homeserver.Error)(nil); errors.As(err, &failed) {
			failed.Fate, failed.Again = homeserver.MayBeCreated, false
		}
	}()
	if _, err := homeserver.Retried(func() (string, error) { return "", api.setPassword(ctx, n, id) }); err != nil || isNamed {
		return err
	}
	_, err = homeserver.Retried(func() (string, error) { return "", api.SetDisplayName(ctx, n) })
	return err
}

// setPassword sets the whole password of 130 characters. It skips the complexity check, which is for passwords that people choose.
func (api *Accounts) setPassword(ctx context.Context, n homeserver.Account, id string) error {
	const step = "set the password"
	a, err := api.ask(ctx, step, homeserver.Request{Name: "password", Within: homeserver.CreateTime, Method: http.MethodPost, Path: homeserver.MASUsersPath + "/" + id + passwordPath, Body: map[string]any{"password": n.Password, "skip_password_check": true}})
	switch {
	case err != nil:
		return err
	case a.Status == http.StatusNoContent:
		return nil
	}
	failed := homeserver.InStep(step, api.admin.Failure(a, ""))
	if a.Status == http.StatusForbidden && a.Title != "" {
		failed.Cause = fmt.Errorf("%w: %w", ErrPasswords, failed.Cause)
	}
	return failed
}

// versionTime is how long Matrix Authentication Service is taken for the version that it was.
const versionTime = time.Minute

// setsNames tells whether it sets the display name of a new user, as it does from 1.18 on: its answer does not say so. It is
// asked once a minute, and where it does not tell, it does not.
func (api *Accounts) setsNames(ctx context.Context) (bool, error) {
	version, err := homeserver.Recently(ctx, &api.version, func(ctx context.Context) (homeserver.Software, time.Duration, error) {
		version, err := api.askVersion(ctx)
		if err != nil {
			return homeserver.Software{}, 0, err
		}
		return version, versionTime, nil
	})
	return err == nil && version.Version != "" && !version.Before(1, 18), err
}
