// mas.go creates accounts at Matrix Authentication Service, which has the accounts and their passwords where it is in
// charge of a homeserver's logins. It takes three calls to make an account, and any of them may be the last.

package main

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

	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
)

// Paths of Matrix Authentication Service.
const (
	masByNamePath   = masUsersPath + "/by-username/"
	masPasswordPath = "/set-password" // behind masUsersPath and the account's id
	masSitePath     = "/api/admin/v1/site-config"
	masTokenPath    = "/oauth2/token"
)

const (
	masScope  = "urn:mas:admin"
	masExists = "User already exists" // the title of a 409; the other title is of a name that only the homeserver has
	masSpare  = 30 * time.Second      // before it expires a token is fetched anew: longer than an attempt
)

// What the operator can do about a refusal. The first of these that is in a failure's cause is the whole of it.
var (
	errMASClient    = errors.New("the client of this service is not known with this secret: write its ID into the clients of Matrix Authentication Service, with client_auth_method: client_secret_basic and the same secret, and restart it")
	errMASScope     = errors.New("the client of this service may not administer: list its ID in policy.data.admin_clients of Matrix Authentication Service, and restart it")
	errMASPasswords = errors.New("passwords are switched off, and nodes log in with one: write passwords: {enabled: true} into the configuration of Matrix Authentication Service, and restart it")
	errMASReserved  = errors.New("the name is free at Matrix Authentication Service and taken at the homeserver: either the account is at the homeserver alone, and has to be brought over, or the name is in an exclusive namespace of an application service: write exclusive: false in its registration.yaml, and restart the homeserver")
	errMASName      = errors.New("the as_token may not set the display name: list this registration.yaml in app_service_config_files, with the nodes in its namespaces, and restart the homeserver")
)

// A masAPI creates accounts at Matrix Authentication Service.
type masAPI struct {
	*homeserver
	door    *homeserver // Matrix Authentication Service
	asToken string
	tokens  *masTokens
	name    knownName
}

func newMASAPI(h, door *homeserver, asToken, clientID, clientSecret string) *masAPI {
	return &masAPI{homeserver: h, door: door, asToken: asToken, tokens: &masTokens{door: door, clientID: clientID, clientSecret: clientSecret}}
}

// inSteps: between two of the calls that make an account it is there and nobody can log in to it.
func (api *masAPI) inSteps() bool { return true }

// create makes the account, sets its password and then its display name.
func (api *masAPI) create(ctx context.Context, n userAccount, recorded func() error) (string, error) {
	if err := api.name.check(ctx, api.homeserver); err != nil {
		return "", err
	}
	if err := recorded(); err != nil {
		return "", err
	}
	id := ""
	_, err := retried(func() (_ string, err error) {
		id, err = api.add(ctx, n)
		return "", err
	})
	if err != nil {
		return "", err
	}
	return "", api.complete(ctx, n, id)
}

// finish does what was left to do of an account. Each step can be done twice.
func (api *masAPI) finish(ctx context.Context, n userAccount, since time.Time) error {
	id, err := api.lookUp(ctx, n.Localpart)
	failed, _ := errors.AsType[*homeserverError](err)
	switch {
	case errors.Is(err, errNoUser):
		failed = &homeserverError{reason: "the homeserver has no account that it said it has", cause: errors.New("look the account up at Matrix Authentication Service")}
	case err == nil && !since.IsZero() && names.ULIDTime(id).Before(since.Add(-clocksDiffer)):
		failed = unnamed()
	case err == nil:
		return api.complete(ctx, n, id)
	}
	failed.fate, failed.again = unanswered, false
	if !since.IsZero() { // whose it is has not been told
		failed.fate = taken
	}
	return failed
}

// add creates the account and returns its id. Whether a name is taken has two answers that do not say it: a name that
// is being created elsewhere is refused as the homeserver's, or fails. Then a look-up tells.
func (api *masAPI) add(ctx context.Context, n userAccount) (id string, err error) {
	const step = "create the account"
	a, err := api.askAt(ctx, api.door.binding(), step, request{name: "create", within: createTime, method: http.MethodPost, path: masUsersPath, body: map[string]string{"username": n.Localpart, "displayname": n.DisplayName}})
	if err != nil {
		return "", err
	}
	if id := a.userNamed(n.Localpart); id != "" && a.status/100 == 2 {
		return id, nil
	}
	failed := inStep(step, api.door.failure(a, ""))
	conflict := a.status == http.StatusConflict && a.title != ""
	switch {
	case conflict && a.title == masExists:
		failed.fate = taken
	case conflict:
		_, err := api.lookUp(ctx, n.Localpart)
		if err == nil {
			failed.fate = taken
		}
		if errors.Is(err, errNoUser) {
			failed.cause = fmt.Errorf("%w: %w", errMASReserved, failed.cause)
		}
	case a.status == http.StatusInternalServerError:
		if _, err := api.lookUp(ctx, n.Localpart); err == nil {
			failed.fate, failed.mayBeOurs = taken, true // by this request or by another
		}
	}
	return "", failed
}

// complete sets the password and the display name of the account that has the id. Whatever fails, the account is there
// and half made.
func (api *masAPI) complete(ctx context.Context, n userAccount, id string) (err error) {
	defer func() {
		if failed := (*homeserverError)(nil); errors.As(err, &failed) {
			failed.fate, failed.again = unanswered, false
		}
	}()
	if _, err := retried(func() (string, error) { return "", api.setPassword(ctx, n, id) }); err != nil {
		return err
	}
	_, err = retried(func() (string, error) { return "", api.setName(ctx, n) })
	return err
}

// setPassword sets all 130 characters. The complexity check is for what people think of, and counts words.
func (api *masAPI) setPassword(ctx context.Context, n userAccount, id string) error {
	const step = "set the password"
	a, err := api.ask(ctx, step, request{name: "password", within: createTime, method: http.MethodPost, path: masUsersPath + "/" + id + masPasswordPath, body: map[string]any{"password": n.Password, "skip_password_check": true}})
	switch {
	case err != nil:
		return err
	case a.status == http.StatusNoContent:
		return nil
	}
	failed := inStep(step, api.door.failure(a, ""))
	if a.status == http.StatusForbidden && a.title != "" {
		failed.cause = fmt.Errorf("%w: %w", errMASPasswords, failed.cause)
	}
	return failed
}

// setName sets the display name at the homeserver, as the user: Matrix Authentication Service before 1.18 leaves out
// the one it was given.
func (api *masAPI) setName(ctx context.Context, n userAccount) error {
	const step = "set the display name"
	user := url.PathEscape(n.UserID)
	a, err := api.call(ctx, request{name: "name", within: lookUpTime, method: http.MethodPut, path: setProfilePath + user + "/displayname?user_id=" + user, token: api.asToken, body: map[string]string{"displayname": n.DisplayName}})
	switch {
	case err != nil:
		return inStep(step, api.notReached(err))
	case a.status == http.StatusOK && a.cut == nil && isObject(a.body):
		return nil
	}
	failed := inStep(step, api.failure(a, ""))
	if a.status == http.StatusUnauthorized || a.status == http.StatusForbidden {
		failed.cause = fmt.Errorf("%w: %w", errMASName, failed.cause)
	}
	return failed
}

// displayName asks the homeserver, and where that has no such user Matrix Authentication Service as well. An account
// may be there alone: not yet or no longer provided at the homeserver, or erased there when it was deactivated. It has
// no name then, but it is there.
func (api *masAPI) displayName(ctx context.Context, userID string) (string, error) {
	name, err := api.homeserver.displayName(ctx, userID)
	if !errors.Is(err, errNoUser) {
		return name, err
	}
	localpart, _, _ := strings.Cut(strings.TrimPrefix(userID, "@"), ":")
	_, err = api.lookUp(ctx, localpart)
	return "", err
}

// lookUp returns the id of the account with the name: errNoUser where there is none.
func (api *masAPI) lookUp(ctx context.Context, localpart string) (id string, err error) {
	const step = "look the account up"
	absent := func(a answer) bool { return a.title != "" }
	a, err := api.ask(ctx, step, request{name: "lookup", within: lookUpTime, method: http.MethodGet, path: masByNamePath + url.PathEscape(localpart), absent: absent})
	if failed := (*homeserverError)(nil); errors.As(err, &failed) {
		return "", notSent(failed)
	}
	if id := a.userNamed(localpart); id != "" && a.status == http.StatusOK {
		return id, nil
	}
	if a.status == http.StatusNotFound && absent(a) {
		return "", errNoUser
	}
	failed := notSent(inStep(step, api.door.failure(a, "")))
	if a.unknownPath() && a.title == "" {
		failed.cause = fmt.Errorf("%w: %w", errMASMissing, failed.cause)
	}
	return "", failed
}

// clocksDiffer is how far the clocks of this service and of Matrix Authentication Service may be apart.
const clocksDiffer = time.Minute

// userNamed is the id of the account that an answer is about, where it is the one with this name.
func (a answer) userNamed(localpart string) (id string) {
	var said struct {
		Data struct {
			ID         string
			Attributes struct{ Username string }
		}
	}
	if a.cut != nil || json.Unmarshal(a.body, &said) != nil || said.Data.Attributes.Username != localpart || !names.IsULID(said.Data.ID) {
		return ""
	}
	return said.Data.ID
}

// ask makes one call with an access token, and one more with a fresh token where the first was refused. Its error is a
// *homeserverError.
func (api *masAPI) ask(ctx context.Context, step string, r request) (answer, error) {
	return api.askAt(ctx, api.door, step, r)
}

// askAt does so with that client to it.
func (api *masAPI) askAt(ctx context.Context, door *homeserver, step string, r request) (answer, error) {
	refused := ""
	for {
		token, err := api.tokens.get(ctx, refused)
		if err != nil {
			return answer{}, err
		}
		r.token = token
		a, err := door.call(ctx, r)
		if err != nil {
			return answer{}, inStep(step, door.notReached(err))
		}
		if a.status != http.StatusUnauthorized || refused != "" {
			return a, nil
		}
		refused = token
	}
}

// inStep says for the log which step failed.
func inStep(step string, e *homeserverError) *homeserverError {
	if e.cause == nil {
		e.cause = errors.New(step)
		return e
	}
	e.cause = fmt.Errorf("%s: %w", step, e.cause)
	return e
}

// A masSite is what Matrix Authentication Service says of its own configuration.
type masSite struct {
	ServerName           string `json:"server_name"`
	PasswordLogin        *bool  `json:"password_login_enabled"`
	PasswordRegistration *bool  `json:"password_registration_enabled"`
}

// site asks for it. The zero value where it does not tell, as old versions do not.
func (api *masAPI) site(ctx context.Context) (said masSite, err error) {
	const step = "read its site-config"
	a, err := api.ask(ctx, step, request{within: lookUpTime, method: http.MethodGet, path: masSitePath})
	switch {
	case err != nil:
		return masSite{}, err
	case a.tellsNothing() || a.cut != nil:
		return masSite{}, notSent(inStep(step, api.door.failure(a, "")))
	case a.status != http.StatusOK:
		return masSite{}, nil
	}
	json.Unmarshal(a.body, &said) // what is of another form says nothing
	return said, nil
}

// probe tells whether accounts can be made, without making one: it looks up a name that nobody can have. What is
// switched off is its error.
func (api *masAPI) probe(ctx context.Context) (apiState, error) {
	_, err := api.lookUp(ctx, unregistrableName)
	for _, known := range []struct {
		err   error
		state apiState
	}{{errMASMissing, apiMissing}, {errMASClient, apiDisabled}, {errMASScope, apiDisabled}} {
		if errors.Is(err, known.err) {
			return known.state, known.err
		}
	}
	if !errors.Is(err, errNoUser) {
		return apiUnknown, cmp.Or(err, errors.New("it has an account of a name that it does not allow"))
	}
	if site, err := api.site(ctx); err == nil && site.PasswordLogin != nil && !*site.PasswordLogin {
		return apiDisabled, errMASPasswords
	}
	return apiPresent, nil
}

// answers asks both, the other for a name that nobody can have.
func (api *masAPI) answers(ctx context.Context) error {
	if err := api.homeserver.answers(ctx); err != nil {
		return err
	}
	_, err := api.lookUp(ctx, unregistrableName)
	if errors.Is(err, errNoUser) {
		return nil
	}
	return err
}
