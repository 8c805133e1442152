// untried.go owns what accounts need at a homeserver that this service was never run with: it may change display names, or make
// an account before it sets the name. Each display name is checked, and set if it is not the node's. An account without a name
// is recognised by its password.

package homeserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Paths of a session, as nodes use them.
const (
	LoginPath  = "/_matrix/client/r0/login"
	LogoutPath = "/_matrix/client/r0/logout"
)

// Untried is what the start and check say about such a homeserver.
const Untried = "this service was never tested with this homeserver, so it checks the display name of each new account, and sets the node's with the as_token if the account shows another"

var errOtherName = errors.New("its display name is not the one that the node proved: have the homeserver add nothing to display names (new_user_displayname_suffix in Tuwunel), or list this registration.yaml there, with the nodes in its namespaces, so that the as_token may set them")

// Steps returns OneStep for a homeserver that was tried. One that does not say which it is counts as Synapse once an account has
// its display name.
func (api *SharedSecretAPI) Steps(ctx context.Context) (Steps, error) {
	server, err := api.knownSoftware(ctx)
	if err != nil || !api.checksNames(server) {
		return OneStep, err
	}
	return NameApart, nil
}

// checksNames reports whether display names have to be checked.
func (api *SharedSecretAPI) checksNames(server Software) bool {
	_, shown := api.namesShown.Known()
	return server.IsUntried() || server.Name == "" && !shown
}

// Finish sets the node's display name. If since is not zero, the account shows no name: it is the node's only if it accepts the
// node's password, a signature that nobody else can make.
func (api *SharedSecretAPI) Finish(ctx context.Context, n Account, _ string, since time.Time) error {
	server, err := api.knownSoftware(ctx)
	if err == nil && !since.IsZero() {
		var takes bool
		if takes, err = api.takesPassword(ctx, n); err == nil && !takes {
			err = Unnamed()
		}
	}
	if failed, ok := errors.AsType[*Error](err); ok {
		failed.Fate, failed.Again = MayBeCreated, false
		if !since.IsZero() { // whose it is has not been told
			failed.Fate = Taken
		}
		return failed
	}
	return api.ensureName(ctx, server, n)
}

// ensureName checks that the account shows exactly the node's display name, and sets it if it does not. A homeserver that does
// not say which it is counts as Synapse if it does not show the profile either.
func (api *SharedSecretAPI) ensureName(ctx context.Context, server Software, n Account) error {
	if !api.checksNames(server) {
		return nil
	}
	shows, err := api.shows(ctx, n)
	if err == nil && shows {
		api.namesShown.Learn(true, knownTime)
		return nil
	}
	if err != nil && server.Name == "" {
		return nil
	}
	hidden, _ := errors.AsType[*Error](err)
	if hidden == nil || hidden.Hidden {
		if err = api.SetDisplayName(ctx, n); err == nil {
			shows, err = api.shows(ctx, n)
		}
	}
	if err == nil && shows {
		return nil
	}
	failed := &Error{Reason: "the homeserver does not show the account with this node's display name", Cause: errOtherName}
	if server.Name == "" {
		failed.Cause = fmt.Errorf("%w; or, if it is Synapse, %s", failed.Cause, sharedSecretTooOld)
	}
	if why, ok := errors.AsType[*Error](err); ok {
		failed.Limited, failed.RetryAfter = why.Limited, why.RetryAfter
		failed.Cause = fmt.Errorf("%w: %w", failed.Cause, err)
	}
	failed.Fate = MayBeCreated // the account is there, and its name is left to do
	return failed
}

// shows reports whether the account shows the node's display name. A user without one may be answered like no user.
func (api *SharedSecretAPI) shows(ctx context.Context, n Account) (bool, error) {
	name, err := api.DisplayName(ctx, n.UserID)
	if errors.Is(err, ErrNoUser) {
		return false, nil
	}
	return name == n.DisplayName, err
}

// takesPassword reports whether the account accepts the node's password: it logs in as the node does, and out again. Only
// 403 M_FORBIDDEN is a no. Every answer that is neither yes nor no is an *Error.
func (api *SharedSecretAPI) takesPassword(ctx context.Context, n Account) (bool, error) {
	a, err := api.Call(ctx, Request{Name: "login", Within: ReadTime, Method: http.MethodPost, Path: LoginPath, Body: map[string]string{
		"type": "m.login.password", "user": n.Localpart, "password": n.Password,
	}})
	if err != nil {
		return false, api.NotReached(err)
	}
	var session struct {
		UserID      string `json:"user_id"`
		AccessToken string `json:"access_token"`
	}
	switch {
	case a.Status == http.StatusForbidden && a.Errcode == codeForbidden:
		return false, nil
	case a.Status != http.StatusOK || a.Cut != nil || json.Unmarshal(a.Body, &session) != nil || session.UserID != n.UserID || session.AccessToken == "":
		return false, api.Failure(a, "it is unknown whether the account accepts the node's password")
	}
	// If the logout fails the session stays open, and nobody has its token.
	api.Call(ctx, Request{Name: "logout", Within: ReadTime, Method: http.MethodPost, Path: LogoutPath, Token: session.AccessToken, Body: struct{}{}})
	return true, nil
}
