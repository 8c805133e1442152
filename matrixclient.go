// matrixclient.go owns creating users with the as_token, at createUser, which Synapse had up to 0.34.0; and which way of
// creating accounts --matrixurl names.

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/mas"
	"golang.org/x/crypto/bcrypt"
)

// newHomeserverClient returns the client to the homeserver itself. m is nil if nothing is measured.
func newHomeserverClient(c config.Config, m *metrics) *homeserver.Client {
	h := homeserver.NewClient(c.Origin, c.ServerName, c.ASToken, c.HSToken, c.SharedSecret, c.MASClientSecret)
	h.ASToken = c.ASToken
	h.Observe = m.called
	if c.MaxInflight > 0 {
		h.Keep(c.MaxInflight)
	}
	return h
}

// adminClient returns the client to the server that creates accounts: the homeserver, or Matrix Authentication Service.
func adminClient(c config.Config, h *homeserver.Client) *homeserver.Client {
	return h.At(cmp.Or(c.APIOrigin, c.Origin))
}

// newAccounts returns the way of creating accounts that --matrixurl names.
func newAccounts(c config.Config, h *homeserver.Client) (homeserver.Accounts, error) {
	admin := adminClient(c, h)
	switch c.Way {
	case homeserver.CreateUser:
		return &createUserAPI{Client: h, admin: admin, asToken: c.ASToken}, nil
	case homeserver.SharedSecret:
		return homeserver.NewSharedSecretAPI(h, admin, c.SharedSecret), nil
	case homeserver.MAS:
		return mas.New(h, admin, c.MASClientID, c.MASClientSecret), nil
	}
	return nil, fmt.Errorf("--%s names no way of creating accounts that this service has", config.FlagMatrixURL)
}

// createUserCost is bcrypt's lowest cost. A higher cost protects passwords that can be guessed. These are 288 bits of a
// signature, so that cost 12 would only take 200 ms in place of 1, here and at the homeserver for each login.
const createUserCost = bcrypt.MinCost

// A createUserAPI creates accounts at createUser.
type createUserAPI struct {
	*homeserver.Client
	homeserver.OneCall
	admin   *homeserver.Client // where --matrixurl is
	asToken string
	name    homeserver.KnownName
}

// Create asks for the profile before each call: createUser answers 200 for a user that is there already as well, and then ends
// the user's sessions, or reactivates a user that was deactivated.
func (api *createUserAPI) Create(ctx context.Context, n homeserver.Account, _ bool, recorded func() error) (string, error) {
	if err := api.name.Check(ctx, api.Client); err != nil {
		return "", err
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(n.Password[:homeserver.BcryptLength]), createUserCost)
	if err != nil {
		return "", &homeserver.Error{Reason: "the password cannot be hashed"}
	}
	return homeserver.Retried(func() (string, error) {
		switch name, err := api.DisplayName(ctx, n.UserID); {
		case err == nil:
			return "", &homeserver.Error{Fate: homeserver.Taken, Shows: &name, Reason: "the homeserver has an account of this name"}
		case !errors.Is(err, homeserver.ErrNoUser):
			return "", err
		}
		if err := recorded(); err != nil {
			return "", err
		}
		a, err := api.admin.Binding().Call(ctx, homeserver.Request{Name: "create", Within: homeserver.CreateTime, Method: http.MethodPost, Path: homeserver.CreateUserPath, Token: api.asToken, Body: map[string]string{
			"localpart": n.Localpart, "displayname": n.DisplayName, "password_hash": string(hash),
		}})
		if err != nil {
			return "", api.NotReached(err)
		}
		return api.CreatedUser(a, n.UserID, createUserHint(a))
	})
}

// createUserHint returns what the operator can do about a refusal.
func createUserHint(a homeserver.Answer) string {
	switch {
	case a.Errcode == errcodeUserInUse:
		return ""
	case a.UnknownPath():
		return homeserver.CreateUserMissing
	case a.Status == http.StatusUnauthorized, a.Status == http.StatusForbidden:
		return otherToken
	}
	return ""
}

// Probe tells whether the homeserver has createUser, and creates nothing: the homeserver checks the token first, and this one is
// wrong.
func (api *createUserAPI) Probe(ctx context.Context) (homeserver.State, error) {
	a, err := api.admin.Call(ctx, homeserver.Request{Name: "create", Within: homeserver.ReadTime, Method: http.MethodPost, Path: homeserver.CreateUserPath, Token: "a-wrong-token-to-ask-for-the-endpoint", Body: struct{}{}})
	switch {
	case err != nil:
		return homeserver.Unknown, api.NotReached(err)
	case a.TellsNothing():
		return homeserver.Unknown, api.Failure(a, "")
	case a.Status/100 == 4 && !a.UnknownPath():
		return homeserver.Present, nil
	}
	return homeserver.Missing, nil
}

// otherToken says what to do if the homeserver does not know the as_token.
const otherToken = "it does not know the as_token: list registration.yaml in its app_service_config_files and restart it"

// Refused asks the homeserver whether it knows the as_token.
func (api *createUserAPI) Refused(ctx context.Context) (fix string, err error) {
	a, err := api.Call(ctx, homeserver.Request{Within: homeserver.ReadTime, Method: http.MethodGet, Path: homeserver.WhoamiPath, Token: api.asToken})
	switch {
	case err != nil:
		return "", api.NotReached(err)
	case a.Status == http.StatusUnauthorized, a.Status == http.StatusForbidden:
		return otherToken, nil
	case a.Status != http.StatusOK:
		return "", api.Failure(a, "")
	}
	return "", nil
}
