// createuser.go creates accounts with the as_token at createUser, which Synapse had up to 0.34.0.

package main

import (
	"context"
	"errors"
	"net/http"

	"golang.org/x/crypto/bcrypt"
)

const createUserPath = "/_matrix/client/api/v1/createUser"

// createUserCost is bcrypt's lowest. Stretching protects passwords that can be guessed; these are 288 bits of a
// signature, so that cost 12 would only take 200 ms here, and again at the homeserver for every login, where
// this takes 1.
const createUserCost = bcrypt.MinCost

// createUserMissing is for the operator whose homeserver does not have createUser.
const createUserMissing = "only Synapse up to 0.34.0 has createUser, and only on Python 2; for Synapse 1.23.0 or later use --matrixurl http://127.0.0.1:8007" + sharedSecretPath + " (the homeserver's own port, not nginx's) with --sharesecret-file"

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
func (api *createUserAPI) create(ctx context.Context, n node, recorded func() error) (string, error) {
	if err := api.name.check(ctx, api.homeserver); err != nil {
		return "", err
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(passwordPart(createUserPath, software{}, n.Password)), createUserCost)
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
		a, err := api.door.binding().call(ctx, createTime, http.MethodPost, createUserPath, api.asToken, map[string]string{
			"localpart": n.Localpart, "displayname": n.DisplayName, "password_hash": string(hash),
		})
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
	a, err := api.door.call(ctx, lookUpTime, http.MethodPost, createUserPath, "a-wrong-token-to-ask-for-the-endpoint", struct{}{})
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
