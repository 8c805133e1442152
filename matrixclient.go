// matrixclient.go owns creating users with the as_token, at createUser, which Synapse had up to 0.34.0; and which way of
// creating accounts --matrixurl names.

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"

	"golang.org/x/crypto/bcrypt"
)

// newHomeserverClient is the client to the homeserver itself. m is nil where nothing is measured.
func newHomeserverClient(c config, m *metrics) *homeserver {
	h := newHomeserver(c.origin, c.serverName, c.asToken, c.hsToken, c.sharedSecret, c.masClientSecret)
	if m != nil {
		h.observe = m.called
	}
	if c.maxInflight > 0 {
		h.keep(c.maxInflight)
	}
	return h
}

// doorTo is the client to what creates accounts, where that is.
func doorTo(c config, h *homeserver) *homeserver { return h.at(cmp.Or(c.apiOrigin, c.origin)) }

// newAccounts is the way of creating accounts that --matrixurl names, at the homeserver with this client.
func newAccounts(c config, h *homeserver) (accounts, error) {
	door := doorTo(c, h)
	switch c.way {
	case createUserWay:
		return &createUserAPI{homeserver: h, door: door, asToken: c.asToken}, nil
	case sharedSecretWay:
		return newSharedSecretAPI(h, door, c.sharedSecret), nil
	case masWay:
		return newMASAPI(h, door, c.asToken, c.masClientID, c.masClientSecret), nil
	}
	return nil, fmt.Errorf("--%s names no way of creating accounts that this service has", flagMatrixURL)
}

// otherWays are the configurations with the ways of the homeserver itself that --matrixurl does not name.
func otherWays(c config) []config {
	var others []config
	for _, w := range ways {
		if w != c.way && !w.IsApart {
			other := c
			other.apiOrigin, other.way = "", w
			others = append(others, other)
		}
	}
	return others
}

// createUserCost is bcrypt's lowest. Stretching protects passwords that can be guessed; these are 288 bits of a
// signature, so that cost 12 would only take 200 ms here, and again at the homeserver for every login, where
// this takes 1.
const createUserCost = bcrypt.MinCost

// A createUserAPI creates accounts at createUser.
type createUserAPI struct {
	*homeserver
	oneCall
	door    *homeserver // where --matrixurl is
	asToken string
	name    knownName
}

// create asks for the profile before every call: createUser answers 200 for a user that is there too, and then
// throws its sessions out, or revives it when it was deactivated.
func (api *createUserAPI) create(ctx context.Context, n userAccount, recorded func() error) (string, error) {
	if err := api.name.check(ctx, api.homeserver); err != nil {
		return "", err
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(n.Password[:bcryptLength]), createUserCost)
	if err != nil {
		return "", &homeserverError{reason: "the password cannot be hashed"}
	}
	return retried(func() (string, error) {
		switch name, err := api.displayName(ctx, n.UserID); {
		case err == nil:
			return "", &homeserverError{fate: taken, shows: &name, reason: "the homeserver has an account of this name"}
		case !errors.Is(err, errNoUser):
			return "", err
		}
		if err := recorded(); err != nil {
			return "", err
		}
		a, err := api.door.binding().call(ctx, request{name: "create", within: createTime, method: http.MethodPost, path: createUserPath, token: api.asToken, body: map[string]string{
			"localpart": n.Localpart, "displayname": n.DisplayName, "password_hash": string(hash),
		}})
		if err != nil {
			return "", api.notReached(err)
		}
		return api.createdUser(a, n.UserID, createUserHint(a))
	})
}

// createUserHint is what the operator can do about a refusal.
func createUserHint(a answer) string {
	switch {
	case a.errcode == errcodeUserInUse:
		return ""
	case a.unknownPath():
		return createUserMissing
	case a.status == http.StatusUnauthorized, a.status == http.StatusForbidden:
		return "it does not know the as_token: list registration.yaml in its app_service_config_files and restart it"
	}
	return ""
}

// probe tells whether the homeserver has createUser, without creating anything: it looks at the token first,
// and this one is wrong.
func (api *createUserAPI) probe(ctx context.Context) (apiState, error) {
	a, err := api.door.call(ctx, request{name: "create", within: lookUpTime, method: http.MethodPost, path: createUserPath, token: "a-wrong-token-to-ask-for-the-endpoint", body: struct{}{}})
	switch {
	case err != nil:
		return apiUnknown, api.notReached(err)
	case a.tellsNothing():
		return apiUnknown, api.failure(a, "")
	case a.status/100 == 4 && !a.unknownPath():
		return apiPresent, nil
	}
	return apiMissing, nil
}
