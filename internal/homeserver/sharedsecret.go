// sharedsecret.go creates accounts with the homeserver's registration_shared_secret, at today's Synapse and at
// Dendrite.

package homeserver

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
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/recent"
)

const (
	dendriteUnnamed    = "if it is Dendrite it has to be recognized, since it accepts only 72 characters of a password: set global.disable_federation to false in dendrite.yaml, so that it answers /_matrix/federation/v1/version"
	sharedSecretTooOld = "Synapse 1.23.0 or later is needed, since older ones leave the display name out; " + createUserInstead
)

// A SharedSecretAPI creates accounts with the shared secret.
type SharedSecretAPI struct {
	*Client
	admin  *Client // where accounts are created
	secret string

	name       KnownName
	software   recent.Answer[Software]
	namesShown recent.Answer[bool] // a homeserver that does not say what it is gave an account exactly its display name
}

// A sharedSecretBody is the request that creates an account.
type sharedSecretBody struct {
	Nonce        string `json:"nonce"`
	Username     string `json:"username"`
	DisplayName  string `json:"displayname,omitempty"`
	Password     string `json:"password"`
	Admin        bool   `json:"admin"`
	MAC          string `json:"mac"`
	InhibitLogin bool   `json:"inhibit_login"`
}

// NewSharedSecretAPI returns the way that creates accounts at the admin client, and asks h everything else.
func NewSharedSecretAPI(h, admin *Client, secret string) *SharedSecretAPI {
	return &SharedSecretAPI{Client: h, admin: admin, secret: secret}
}

// RefusesTaken is true: the answer for an account that is there is M_USER_IN_USE, also for a deactivated one.
func (api *SharedSecretAPI) RefusesTaken() bool { return true }

// Create asks for a nonce and registers the node with it.
func (api *SharedSecretAPI) Create(ctx context.Context, n Account, _ bool, recorded func() error) (string, error) {
	server, err := api.knownSoftware(ctx)
	if err != nil {
		return "", err
	}
	password := n.Password
	if server.Name == Dendrite { // it refuses more than bcrypt reads; Synapse may hash with something that reads all
		password = password[:BcryptLength]
	}
	token, err := Retried(func() (string, error) {
		nonce, err := api.nonce(ctx)
		if err != nil {
			return "", err
		}
		if err := recorded(); err != nil {
			return "", err
		}
		a, err := api.admin.Binding().Call(ctx, Request{Name: "create", Within: CreateTime, Method: http.MethodPost, Path: SharedSecretPath, Body: sharedSecretBody{
			Nonce: nonce, Username: n.Localpart, DisplayName: n.DisplayName, Password: password,
			MAC: api.mac(nonce, n.Localpart, password), InhibitLogin: true,
		}})
		switch {
		case err != nil:
			return "", api.NotReached(err)
		case isStaleNonce(a):
			stale := api.Failure(a, "its nonce was used up or forgotten")
			stale.Fate, stale.Again = NotCreated, true
			return "", stale
		}
		return api.CreatedUser(a, n.UserID, sharedSecretHint(a))
	})
	if failed := (*Error)(nil); errors.As(err, &failed) && failed.Fate == MayBeCreated {
		api.software.Forget(func(Software) bool { return true }) // another homeserver may be in its place
		api.name.Forget()
	}
	if err != nil {
		return "", err
	}
	return token, api.ensureName(ctx, server, n)
}

// knownSoftware returns which homeserver this is. It refuses one where accounts would be wrong: without their display names, or
// under another server name than the one that is signed. It asks once a minute.
func (api *SharedSecretAPI) knownSoftware(ctx context.Context) (Software, error) {
	server, err := Recently(ctx, &api.software, func(ctx context.Context) (Software, time.Duration, error) {
		server, err := api.Software(ctx)
		if err == nil && isOldSynapse(server) {
			err = &Error{Reason: "the homeserver is too old", Cause: fmt.Errorf("it is %v: %s", server, sharedSecretTooOld)}
		}
		return server, ifGood(err, knownTime), err
	})
	if err != nil {
		return Software{}, err
	}
	return server, api.name.Check(ctx, api.Client)
}

// nonce fetches the nonce that the mac of the next request needs. Without it no creating request is sent.
func (api *SharedSecretAPI) nonce(ctx context.Context) (string, error) {
	a, err := api.admin.Binding().Call(ctx, Request{Name: "nonce", Within: ReadTime, Method: http.MethodGet, Path: SharedSecretPath})
	if err != nil {
		return "", NotSent(api.NotReached(err))
	}
	var given struct {
		Nonce string `json:"nonce"`
	}
	if a.Status == http.StatusOK && a.Cut == nil && json.Unmarshal(a.Body, &given) == nil && given.Nonce != "" && names.IsToken(given.Nonce) {
		return given.Nonce, nil
	}
	return "", NotSent(api.Failure(a, sharedSecretHint(a)))
}

// mac is the proof of the shared secret. "notadmin" is part of it: this service makes no admins.
func (api *SharedSecretAPI) mac(nonce, username, password string) string {
	mac := hmac.New(sha1.New, []byte(api.secret))
	mac.Write([]byte(strings.Join([]string{nonce, username, password, "notadmin"}, "\x00")))
	return hex.EncodeToString(mac.Sum(nil))
}

// isOldSynapse reports whether it is a Synapse before 1.23.0, which ignores the display name in this call.
func isOldSynapse(s Software) bool { return s.IsSynapse() && s.Before(1, 23) }

// isStaleNonce reports whether the nonce was no longer valid: by Synapse's answer, or by Dendrite's 500 without an errcode.
func isStaleNonce(a Answer) bool {
	return a.Status == http.StatusBadRequest && strings.Contains(a.Message, "unrecognised nonce") ||
		a.Status == http.StatusInternalServerError && strings.Contains(a.Message, "incorrect or expired nonce")
}

// sharedSecretHint returns what the operator can do about a refusal.
func sharedSecretHint(a Answer) string {
	switch {
	case a.Errcode == codeUserInUse:
		return ""
	case isSharedSecretOff(a):
		return SharedSecretOff
	case strings.Contains(a.Message, "failed to set display name"): // Dendrite's answer to the whole password
		return dendriteUnnamed
	case a.UnknownPath():
		return sharedSecretMissing
	case a.Status == http.StatusForbidden:
		return "the shared secret is not the homeserver's registration_shared_secret"
	}
	return ""
}

func isSharedSecretOff(a Answer) bool {
	return a.Status == http.StatusBadRequest && strings.Contains(a.Message, "Shared secret registration is not enabled")
}

// Probe tells whether the homeserver has shared-secret registration: fetching a nonce creates nothing.
func (api *SharedSecretAPI) Probe(ctx context.Context) (State, error) {
	a, err := api.admin.Call(ctx, Request{Name: "nonce", Within: ReadTime, Method: http.MethodGet, Path: SharedSecretPath})
	switch {
	case err != nil:
		return Unknown, api.NotReached(err)
	case a.Status == http.StatusOK && strings.Contains(string(a.Body), `"nonce"`):
		return Present, nil
	case isSharedSecretOff(a):
		return Disabled, errors.New(SharedSecretOff)
	case a.TellsNothing():
		return Unknown, api.Failure(a, "")
	}
	return Missing, nil
}

// UnregistrableName is a user name and a password that both Synapse and Dendrite refuse, after they have checked the mac.
const UnregistrableName = "!"

// ProvesSecret reports whether the homeserver has the same secret. It creates nothing: a request for a name that nobody can have
// is refused for the name if its mac is right, and for the mac otherwise.
func (api *SharedSecretAPI) ProvesSecret(ctx context.Context) (bool, error) {
	nonce, err := api.nonce(ctx)
	if err != nil {
		return false, err
	}
	a, err := api.admin.Call(ctx, Request{Name: "create", Within: CreateTime, Method: http.MethodPost, Path: SharedSecretPath, Body: sharedSecretBody{
		Nonce: nonce, Username: UnregistrableName, Password: UnregistrableName,
		MAC: api.mac(nonce, UnregistrableName, UnregistrableName), InhibitLogin: true,
	}})
	switch {
	case err != nil:
		return false, api.NotReached(err)
	case a.Status == http.StatusBadRequest && a.Errcode == codeInvalidUsername:
		return true, nil
	case a.Status == http.StatusForbidden && (a.Message == "HMAC incorrect" || a.Message == "bad mac"): // Synapse's and Dendrite's
		return false, nil
	}
	return false, api.Failure(a, "")
}

// OtherSecret is what to do where the homeserver has another secret.
const OtherSecret = "put the homeserver's registration_shared_secret into the file of the service's shared secret and restart the service; or restart the homeserver, if its settings were changed since it started"

// Refused asks whether the homeserver has another secret.
func (api *SharedSecretAPI) Refused(ctx context.Context) (fix string, err error) {
	if proves, err := api.ProvesSecret(ctx); err != nil || proves {
		return "", err
	}
	return OtherSecret, nil
}
