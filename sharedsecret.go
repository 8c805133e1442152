// sharedsecret.go creates accounts with the homeserver's registration_shared_secret, at today's Synapse and at
// Dendrite.

package main

import (
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
)

const (
	dendriteUnnamed    = "if it is Dendrite it has to say so, since it takes only 72 characters of a password: set global.disable_federation to false in dendrite.yaml, so that it answers /_matrix/federation/v1/version"
	sharedSecretTooOld = "Synapse 1.23.0 or later is needed, since older ones leave the display name out; " + createUserInstead
)

// A sharedSecretAPI creates accounts with the shared secret.
type sharedSecretAPI struct {
	*homeserver
	oneCall
	door   *homeserver // where accounts are created
	secret string

	server     atomic.Pointer[knownServer] // which it is; asked anew after a while, and after a creation that went wrong
	namesShown atomic.Bool                 // an account of this run has its display name, so all will
}

// A knownServer is a homeserver that was found fit.
type knownServer struct {
	software
	until time.Time
}

func newSharedSecretAPI(h, door *homeserver, secret string) *sharedSecretAPI {
	return &sharedSecretAPI{homeserver: h, door: door, secret: secret}
}

// create asks for a nonce and registers the node with it.
func (api *sharedSecretAPI) create(ctx context.Context, n userAccount, recorded func() error) (string, error) {
	server, err := api.knownSoftware(ctx)
	if err != nil {
		return "", err
	}
	password := n.Password
	if server.Name == dendrite { // it refuses more than bcrypt reads; Synapse may hash with something that reads all
		password = password[:bcryptLength]
	}
	token, err := retried(func() (string, error) {
		nonce, err := api.nonce(ctx)
		if err != nil {
			return "", err
		}
		if err := recorded(); err != nil {
			return "", err
		}
		a, err := api.door.binding().call(ctx, request{name: "create", within: createTime, method: http.MethodPost, path: sharedSecretPath, body: map[string]any{
			"nonce": nonce, "username": n.Localpart, "displayname": n.DisplayName, "password": password,
			"admin": false, "mac": api.mac(nonce, n.Localpart, password), "inhibit_login": true,
		}})
		switch {
		case err != nil:
			return "", api.notReached(err)
		case isStaleNonce(a):
			stale := api.failure(a, "its nonce was used up or forgotten")
			stale.fate, stale.again = notCreated, true
			return "", stale
		}
		return api.createdUser(a, n.UserID, sharedSecretHint(a))
	})
	if failed := (*homeserverError)(nil); errors.As(err, &failed) && failed.fate == unanswered {
		api.server.Store(nil)
	}
	if err != nil {
		return "", err
	}
	return token, api.checkName(ctx, server, n)
}

// knownSoftware asks now and then which homeserver this is, and whether accounts made there will be whole: with
// their display names, and under the server name that every signature is over.
func (api *sharedSecretAPI) knownSoftware(ctx context.Context) (software, error) {
	if known := api.server.Load(); known != nil && time.Now().Before(known.until) {
		return known.software, nil
	}
	server, err := api.software(ctx)
	if err != nil {
		return software{}, err
	}
	if isOldSynapse(server) {
		return software{}, &homeserverError{reason: "the homeserver is too old", cause: fmt.Errorf("it is %v: %s", server, sharedSecretTooOld)}
	}
	if err := api.checkServerName(ctx); err != nil {
		return software{}, err
	}
	api.server.Store(&knownServer{server, time.Now().Add(knownTime)})
	return server, nil
}

// nonce fetches what makes the next request's mac good for one use. Without it nothing that creates is sent.
func (api *sharedSecretAPI) nonce(ctx context.Context) (string, error) {
	a, err := api.door.binding().call(ctx, request{name: "nonce", within: lookUpTime, method: http.MethodGet, path: sharedSecretPath})
	if err != nil {
		return "", notSent(api.notReached(err))
	}
	var given struct {
		Nonce string `json:"nonce"`
	}
	if a.status == http.StatusOK && a.cut == nil && json.Unmarshal(a.body, &given) == nil && given.Nonce != "" && names.IsToken(given.Nonce) {
		return given.Nonce, nil
	}
	return "", notSent(api.failure(a, sharedSecretHint(a)))
}

// mac is the proof of the shared secret. "notadmin" is part of it: this service makes no admins.
func (api *sharedSecretAPI) mac(nonce, username, password string) string {
	mac := hmac.New(sha1.New, []byte(api.secret))
	mac.Write([]byte(strings.Join([]string{nonce, username, password, "notadmin"}, "\x00")))
	return hex.EncodeToString(mac.Sum(nil))
}

// checkName looks, where the version is not known, whether a first account has its display name. Where the profile does
// not tell, the next account is asked for.
func (api *sharedSecretAPI) checkName(ctx context.Context, server software, n userAccount) error {
	if server.Name != "" || api.namesShown.Load() {
		return nil
	}
	name, err := api.displayName(ctx, n.UserID)
	if err == nil && name == "" || errors.Is(err, errNoUser) {
		return &homeserverError{fate: unanswered, reason: "the homeserver is too old", cause: fmt.Errorf("%s: %s", n.UserID, sharedSecretTooOld)}
	}
	api.namesShown.Store(err == nil)
	return nil
}

// isOldSynapse tells a Synapse that ignores the display name of this call: one before 1.23.0.
func isOldSynapse(s software) bool { return s.isSynapse() && s.before(1, 23) }

// isStaleNonce knows the answers to a nonce that is no longer good: Synapse's, and Dendrite's 500 without an errcode.
func isStaleNonce(a answer) bool {
	return a.status == http.StatusBadRequest && strings.Contains(a.message, "unrecognised nonce") ||
		a.status == http.StatusInternalServerError && strings.Contains(a.message, "incorrect or expired nonce")
}

// sharedSecretHint is what the operator can do about a refusal.
func sharedSecretHint(a answer) string {
	switch {
	case a.errcode == codeUserInUse:
		return ""
	case isSharedSecretOff(a):
		return sharedSecretOff
	case strings.Contains(a.message, "failed to set display name"): // Dendrite's answer to the whole password
		return dendriteUnnamed
	case a.unknownPath():
		return sharedSecretMissing
	case a.status == http.StatusForbidden:
		return "the shared secret is not the homeserver's registration_shared_secret"
	}
	return ""
}

func isSharedSecretOff(a answer) bool {
	return a.status == http.StatusBadRequest && strings.Contains(a.message, "Shared secret registration is not enabled")
}

// probe tells whether the homeserver has shared-secret registration: fetching a nonce creates nothing.
func (api *sharedSecretAPI) probe(ctx context.Context) (apiState, error) {
	a, err := api.door.call(ctx, request{name: "nonce", within: lookUpTime, method: http.MethodGet, path: sharedSecretPath})
	switch {
	case err != nil:
		return apiUnknown, api.notReached(err)
	case a.status == http.StatusOK && strings.Contains(string(a.body), `"nonce"`):
		return apiPresent, nil
	case isSharedSecretOff(a):
		return apiDisabled, errors.New(sharedSecretOff)
	case a.tellsNothing():
		return apiUnknown, api.failure(a, "")
	}
	return apiMissing, nil
}

// unregistrableName is a user name and a password that neither Synapse nor Dendrite takes; both look at the mac first.
const unregistrableName = "!"

// provesSecret tells, without creating anything, whether the homeserver takes our secret for its own: a request with
// a good mac for a name that nobody can have is refused for the name, and one with a bad mac for the mac.
func (api *sharedSecretAPI) provesSecret(ctx context.Context) (bool, error) {
	nonce, err := api.nonce(ctx)
	if err != nil {
		return false, err
	}
	a, err := api.door.call(ctx, request{name: "create", within: createTime, method: http.MethodPost, path: sharedSecretPath, body: map[string]any{
		"nonce": nonce, "username": unregistrableName, "password": unregistrableName,
		"admin": false, "mac": api.mac(nonce, unregistrableName, unregistrableName), "inhibit_login": true,
	}})
	switch {
	case err != nil:
		return false, api.notReached(err)
	case a.status == http.StatusBadRequest && a.errcode == codeInvalidUsername:
		return true, nil
	case a.status == http.StatusForbidden && (a.message == "HMAC incorrect" || a.message == "bad mac"): // Synapse's and Dendrite's
		return false, nil
	}
	return false, api.failure(a, "")
}
