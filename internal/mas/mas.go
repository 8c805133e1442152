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
	"github.com/SmartMeshFoundation/matrix-regservice/internal/recent"
)

// Paths of Matrix Authentication Service.
const (
	ByNamePath   = homeserver.MASUsersPath + "/by-username/"
	passwordPath = "/set-password" // after homeserver.MASUsersPath and the account's id
	sitePath     = "/api/admin/v1/site-config"
	versionPath  = "/api/admin/v1/version"
	tokenPath    = "/oauth2/token"
)

const (
	Scope = "urn:mas:admin"
	spare = homeserver.AttemptTime + 6*time.Second // before it expires a token is fetched anew
)

// What the operator can do about a refusal of this service.
var (
	ErrClient    = errors.New("the client of this service is not known with this secret: write its ID into the clients of Matrix Authentication Service, with client_auth_method: client_secret_basic and the same secret, and restart it")
	ErrScope     = errors.New("the client of this service may not administer: list its ID in policy.data.admin_clients of Matrix Authentication Service, and restart it")
	ErrPasswords = errors.New("passwords are switched off, and nodes log in with one: write passwords: {enabled: true} into the configuration of Matrix Authentication Service, and restart it")
)

// Accounts creates accounts at Matrix Authentication Service.
type Accounts struct {
	*homeserver.Client
	admin   *homeserver.Client // Matrix Authentication Service
	tokens  *tokens
	name    homeserver.KnownName
	version recent.Answer[homeserver.Software]
}

// New returns the way that creates accounts at the admin client, and asks h everything else.
func New(h, admin *homeserver.Client, clientID, clientSecret string) *Accounts {
	return &Accounts{Client: h, admin: admin, tokens: &tokens{admin: admin, clientID: clientID, clientSecret: clientSecret}}
}

// Refused asks for a token, and with it for an account that nobody can have.
func (api *Accounts) Refused(ctx context.Context) (fix string, err error) {
	err = api.Granted(ctx)
	if err == nil {
		if _, err = api.AccountID(ctx, homeserver.UnregistrableName); errors.Is(err, homeserver.ErrNoUser) {
			return "", nil
		}
	}
	for _, refusal := range []error{ErrClient, ErrScope, homeserver.ErrMASMissing} {
		if errors.Is(err, refusal) {
			return refusal.Error(), nil
		}
	}
	return "", err
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
	failed := homeserver.NotSent(homeserver.InStep(step, api.admin.Failure(a, "")))
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
			return homeserver.Answer{}, homeserver.InStep(step, admin.NotReached(err))
		}
		if a.Status != http.StatusUnauthorized || refused != "" {
			return a, nil
		}
		refused = token
	}
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
		return Site{}, homeserver.NotSent(homeserver.InStep(step, api.admin.Failure(a, "")))
	case a.Status != http.StatusOK:
		return Site{}, nil
	}
	json.Unmarshal(a.Body, &said) // what is of another form says nothing
	return said, nil
}

// askVersion asks which version it is. The zero value where it does not tell, as old versions do not.
func (api *Accounts) askVersion(ctx context.Context) (homeserver.Software, error) {
	const step = "read its version"
	a, err := api.ask(ctx, step, homeserver.Request{Within: homeserver.ReadTime, Method: http.MethodGet, Path: versionPath})
	switch {
	case err != nil:
		return homeserver.Software{}, err
	case a.TellsNothing() || a.Cut != nil:
		return homeserver.Software{}, homeserver.NotSent(homeserver.InStep(step, api.admin.Failure(a, "")))
	}
	var said struct{ Version string } // v1.22.0
	if a.Status != http.StatusOK || json.Unmarshal(a.Body, &said) != nil {
		return homeserver.Software{}, nil
	}
	is := homeserver.Software{Version: strings.TrimPrefix(said.Version, "v")}
	if !is.IsRelease() {
		return homeserver.Software{}, nil
	}
	return is, nil
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
