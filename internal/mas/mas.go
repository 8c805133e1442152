// Package mas creates accounts at Matrix Authentication Service, which keeps the accounts and their passwords if it is in charge
// of a homeserver's logins. An account takes three calls, and the attempt may end after any of them. The package knows neither
// nodes nor records, and no flags.
package mas

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
)

// Paths of Matrix Authentication Service.
const (
	ByNamePath   = homeserver.MASUsersPath + "/by-username/"
	passwordPath = "/set-password" // after homeserver.MASUsersPath and the account's id
	sitePath     = "/api/admin/v1/site-config"
	tokenPath    = "/oauth2/token"
)

const (
	Scope  = "urn:mas:admin"
	exists = "User already exists" // the title of a 409; the other title is of a name that only the homeserver has
	spare  = 30 * time.Second      // before it expires a token is fetched anew: longer than an attempt
)

// What the operator can do about a refusal.
var (
	ErrClient    = errors.New("the client of this service is not known with this secret: write its ID into the clients of Matrix Authentication Service, with client_auth_method: client_secret_basic and the same secret, and restart it")
	ErrScope     = errors.New("the client of this service may not administer: list its ID in policy.data.admin_clients of Matrix Authentication Service, and restart it")
	ErrPasswords = errors.New("passwords are switched off, and nodes log in with one: write passwords: {enabled: true} into the configuration of Matrix Authentication Service, and restart it")
	errReserved  = errors.New("the name is free at Matrix Authentication Service and taken at the homeserver: either the account is at the homeserver alone, and has to be brought over, or the name is in an exclusive namespace of an application service: write exclusive: false in its registration.yaml, and restart the homeserver")
	errName      = errors.New("the as_token may not set the display name: list this registration.yaml in app_service_config_files, with the nodes in its namespaces, and restart the homeserver")
)

// Accounts creates accounts at Matrix Authentication Service.
type Accounts struct {
	*homeserver.Client
	admin   *homeserver.Client // Matrix Authentication Service
	asToken string
	tokens  *tokens
	name    homeserver.KnownName
}

// New returns the way that creates accounts at the admin client, and asks h everything else.
func New(h, admin *homeserver.Client, asToken, clientID, clientSecret string) *Accounts {
	return &Accounts{Client: h, admin: admin, asToken: asToken, tokens: &tokens{admin: admin, clientID: clientID, clientSecret: clientSecret}}
}

// Steps returns that the password is set apart: between two of the calls the account is there, and nobody can log in to it.
func (api *Accounts) Steps(context.Context) (homeserver.Steps, error) {
	return homeserver.PasswordApart, nil
}

// RefusesTaken is true: the answer for a name that is there is 409, also for that of a deactivated user, and for one that only
// the homeserver has.
func (api *Accounts) RefusesTaken() bool { return true }

// Create makes the account, sets its password and then its display name.
func (api *Accounts) Create(ctx context.Context, n homeserver.Account, recorded func() error) (string, error) {
	if err := api.name.Check(ctx, api.Client); err != nil {
		return "", err
	}
	if err := recorded(); err != nil {
		return "", err
	}
	id := ""
	_, err := homeserver.Retried(func() (_ string, err error) {
		id, err = api.add(ctx, n)
		return "", err
	})
	if err != nil {
		return "", err
	}
	return "", api.complete(ctx, n, id)
}

// Finish completes an account. Each step can be done twice.
func (api *Accounts) Finish(ctx context.Context, n homeserver.Account, since time.Time) error {
	id, err := api.AccountID(ctx, n.Localpart)
	failed, _ := errors.AsType[*homeserver.Error](err)
	switch {
	case errors.Is(err, homeserver.ErrNoUser):
		failed = &homeserver.Error{Reason: "the homeserver has no account that it said it has", Cause: errors.New("look the account up at Matrix Authentication Service")}
	case err == nil && !since.IsZero() && names.ULIDTime(id).Before(since.Add(-clocksDiffer)):
		failed = homeserver.Unnamed()
	case err == nil:
		return api.complete(ctx, n, id)
	}
	failed.Fate, failed.Again = homeserver.Unanswered, false
	if !since.IsZero() { // whose it is has not been told
		failed.Fate = homeserver.Taken
	}
	return failed
}

// add creates the account and returns its id. Two answers do not say whether the name is taken: if another request is creating the
// name, this one is refused as if the name were the homeserver's, or fails. Then add asks for the account.
func (api *Accounts) add(ctx context.Context, n homeserver.Account) (id string, err error) {
	const step = "create the account"
	a, err := api.askAt(ctx, api.admin.Binding(), step, homeserver.Request{Name: "create", Within: homeserver.CreateTime, Method: http.MethodPost, Path: homeserver.MASUsersPath, Body: map[string]string{"username": n.Localpart, "displayname": n.DisplayName}})
	if err != nil {
		return "", err
	}
	if id := userNamed(a, n.Localpart); id != "" && a.Status/100 == 2 {
		return id, nil
	}
	failed := inStep(step, api.admin.Failure(a, ""))
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
		}
	}
	return "", failed
}

// complete sets the password and the display name of the account with the id. If it fails, the account is there and half made.
func (api *Accounts) complete(ctx context.Context, n homeserver.Account, id string) (err error) {
	defer func() {
		if failed := (*homeserver.Error)(nil); errors.As(err, &failed) {
			failed.Fate, failed.Again = homeserver.Unanswered, false
		}
	}()
	if _, err := homeserver.Retried(func() (string, error) { return "", api.setPassword(ctx, n, id) }); err != nil {
		return err
	}
	_, err = homeserver.Retried(func() (string, error) { return "", api.setName(ctx, n) })
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
	failed := inStep(step, api.admin.Failure(a, ""))
	if a.Status == http.StatusForbidden && a.Title != "" {
		failed.Cause = fmt.Errorf("%w: %w", ErrPasswords, failed.Cause)
	}
	return failed
}

// setName sets the display name at the homeserver, as the user: Matrix Authentication Service before 1.18 ignores the one in
// the call that creates the account.
func (api *Accounts) setName(ctx context.Context, n homeserver.Account) error {
	const step = "set the display name"
	user := url.PathEscape(n.UserID)
	a, err := api.Call(ctx, homeserver.Request{Name: "name", Within: homeserver.ReadTime, Method: http.MethodPut, Path: homeserver.SetProfilePath + user + "/displayname?user_id=" + user, Token: api.asToken, Body: map[string]string{"displayname": n.DisplayName}})
	switch {
	case err != nil:
		return inStep(step, api.NotReached(err))
	case a.Status == http.StatusOK && a.Cut == nil && homeserver.IsObject(a.Body):
		return nil
	}
	failed := inStep(step, api.Failure(a, ""))
	if a.Status == http.StatusUnauthorized || a.Status == http.StatusForbidden {
		failed.Cause = fmt.Errorf("%w: %w", errName, failed.Cause)
	}
	return failed
}

// DisplayName asks the homeserver, and where that has no such user Matrix Authentication Service as well. An account
// may be there alone: not yet or no longer provided at the homeserver, or erased there when it was deactivated. It has
// no name then, but it is there.
func (api *Accounts) DisplayName(ctx context.Context, userID string) (string, error) {
	name, err := api.Client.DisplayName(ctx, userID)
	if !errors.Is(err, homeserver.ErrNoUser) {
		return name, err
	}
	localpart, _, _ := strings.Cut(strings.TrimPrefix(userID, "@"), ":")
	_, err = api.AccountID(ctx, localpart)
	return "", err
}

// AccountID returns the id of the account with the name, and homeserver.ErrNoUser if there is none.
func (api *Accounts) AccountID(ctx context.Context, localpart string) (id string, err error) {
	const step = "look the account up"
	absent := func(a homeserver.Answer) bool { return a.Title != "" }
	a, err := api.ask(ctx, step, homeserver.Request{Name: "lookup", Within: homeserver.ReadTime, Method: http.MethodGet, Path: ByNamePath + url.PathEscape(localpart), Absent: absent})
	if failed := (*homeserver.Error)(nil); errors.As(err, &failed) {
		return "", homeserver.NotSent(failed)
	}
	if id := userNamed(a, localpart); id != "" && a.Status == http.StatusOK {
		return id, nil
	}
	if a.Status == http.StatusNotFound && absent(a) {
		return "", homeserver.ErrNoUser
	}
	failed := homeserver.NotSent(inStep(step, api.admin.Failure(a, "")))
	if a.UnknownPath() && a.Title == "" {
		failed.Cause = fmt.Errorf("%w: %w", homeserver.ErrMASMissing, failed.Cause)
	}
	return "", failed
}

// clocksDiffer is how much the clocks of this service and of Matrix Authentication Service may differ.
const clocksDiffer = time.Minute

// userNamed returns the id of the account in the answer, or "" if the account does not have this name.
func userNamed(a homeserver.Answer, localpart string) (id string) {
	var said struct {
		Data struct {
			ID         string
			Attributes struct{ Username string }
		}
	}
	if a.Cut != nil || json.Unmarshal(a.Body, &said) != nil || said.Data.Attributes.Username != localpart || !names.IsULID(said.Data.ID) {
		return ""
	}
	return said.Data.ID
}

// ask makes one call with an access token, and one more with a fresh token if the first was refused. The error is a
// *homeserver.Error.
func (api *Accounts) ask(ctx context.Context, step string, r homeserver.Request) (homeserver.Answer, error) {
	return api.askAt(ctx, api.admin, step, r)
}

// askAt is ask with a given client.
func (api *Accounts) askAt(ctx context.Context, admin *homeserver.Client, step string, r homeserver.Request) (homeserver.Answer, error) {
	refused := ""
	for {
		token, err := api.tokens.get(ctx, refused)
		if err != nil {
			return homeserver.Answer{}, err
		}
		r.Token = token
		a, err := admin.Call(ctx, r)
		if err != nil {
			return homeserver.Answer{}, inStep(step, admin.NotReached(err))
		}
		if a.Status != http.StatusUnauthorized || refused != "" {
			return a, nil
		}
		refused = token
	}
}

// inStep adds the step that failed to the cause, for the log.
func inStep(step string, e *homeserver.Error) *homeserver.Error {
	if e.Cause == nil {
		e.Cause = errors.New(step)
		return e
	}
	e.Cause = fmt.Errorf("%s: %w", step, e.Cause)
	return e
}

// Granted returns nil if there is an access token, or why Matrix Authentication Service gives none.
func (api *Accounts) Granted(ctx context.Context) error {
	_, err := api.tokens.get(ctx, "")
	return err
}

// A Site is what Matrix Authentication Service tells about its own configuration.
type Site struct {
	ServerName           string `json:"server_name"`
	PasswordLogin        *bool  `json:"password_login_enabled"`
	PasswordRegistration *bool  `json:"password_registration_enabled"`
}

// Site asks for the configuration. It returns the zero value if it is not told: old versions do not tell it.
func (api *Accounts) Site(ctx context.Context) (said Site, err error) {
	const step = "read its site-config"
	a, err := api.ask(ctx, step, homeserver.Request{Within: homeserver.ReadTime, Method: http.MethodGet, Path: sitePath})
	switch {
	case err != nil:
		return Site{}, err
	case a.TellsNothing() || a.Cut != nil:
		return Site{}, homeserver.NotSent(inStep(step, api.admin.Failure(a, "")))
	case a.Status != http.StatusOK:
		return Site{}, nil
	}
	json.Unmarshal(a.Body, &said) // what is of another form says nothing
	return said, nil
}

// Probe tells whether accounts can be made, without making one: it asks for a name that nobody can have. Its error says what is
// switched off.
func (api *Accounts) Probe(ctx context.Context) (homeserver.State, error) {
	_, err := api.AccountID(ctx, homeserver.UnregistrableName)
	for _, known := range []struct {
		err   error
		state homeserver.State
	}{{homeserver.ErrMASMissing, homeserver.Missing}, {ErrClient, homeserver.Disabled}, {ErrScope, homeserver.Disabled}} {
		if errors.Is(err, known.err) {
			return known.state, known.err
		}
	}
	if !errors.Is(err, homeserver.ErrNoUser) {
		return homeserver.Unknown, cmp.Or(err, errors.New("it has an account of a name that it does not allow"))
	}
	if site, err := api.Site(ctx); err == nil && site.PasswordLogin != nil && !*site.PasswordLogin {
		return homeserver.Disabled, ErrPasswords
	}
	return homeserver.Present, nil
}

// Answers asks the homeserver and Matrix Authentication Service, the latter for a name that nobody can have.
func (api *Accounts) Answers(ctx context.Context) error {
	if err := api.Client.Answers(ctx); err != nil {
		return err
	}
	_, err := api.AccountID(ctx, homeserver.UnregistrableName)
	if errors.Is(err, homeserver.ErrNoUser) {
		return nil
	}
	return err
}
