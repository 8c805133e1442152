// bans.go owns what keeps an account out at the homeserver itself: what a ban does there, what is left to an administrator, and
// what is told of it.

package homeserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
)

const (
	// deactivatePath ends an account for good. Synapse up to 0.34.0 has it under r0 and not under v3, today's under both.
	deactivatePath = "/_matrix/client/r0/account/deactivate?user_id="

	reactivatePath    = "/_synapse/admin/v2/users/"
	oldPasswordPath   = "/_matrix/client/r0/admin/reset_password/"
	dendriteResetPath = "/_dendrite/admin/resetPassword/"
)

// A Standing is whether something keeps an account out, as far as the server that keeps the accounts tells.
type Standing struct {
	Locked, Deactivated bool
	Untold              string // why it is not told; empty where the other two say it
}

// A ByHandError says that only an administrator of the homeserver can do it, and how.
type ByHandError struct{ Why, Call string }

func (e *ByHandError) Error() string { return e.Why + ":\n" + e.Call }

var (
	errBanToken   = errors.New("this service has no as_token: start it in the directory of registration.yaml, or name that file")
	errBanRefused = errors.New("the as_token may not act for this user: list registration.yaml in app_service_config_files, with the nodes in its namespaces, and restart the homeserver")
)

// Ban deactivates the account, which can be done twice. It returns ErrNoUser if there is none, a *ByHandError where the homeserver
// lets only an administrator do it, and an *Error if it failed.
func (h *Client) Ban(ctx context.Context, userID string) error {
	is, err := h.softwareWith(ctx, userID)
	if err != nil {
		return err
	}
	if is.Name == Dendrite {
		return &ByHandError{"Dendrite lets only the owner deactivate an account: as an administrator give it a password that nobody knows, and end its sessions",
			h.curl(http.MethodPost, dendriteResetPath+userID, `{"password": "SOMETHING LONG AND RANDOM", "logout_devices": true}`)}
	}
	if h.ASToken == "" {
		return &Error{Reason: "the homeserver was not asked", Cause: errBanToken}
	}
	a, err := h.Call(ctx, Request{Name: "deactivate", Within: CreateTime, Method: http.MethodPost, Path: deactivatePath + url.QueryEscape(userID), Token: h.ASToken, Body: struct{}{}})
	switch {
	case err != nil:
		return h.NotReached(err)
	case a.Status == http.StatusOK && a.Cut == nil && IsObject(a.Body):
		return nil
	}
	failed := h.Failure(a, "")
	if a.Status == http.StatusUnauthorized || a.Status == http.StatusForbidden {
		failed.Cause = fmt.Errorf("%w: %w", errBanRefused, failed.Cause)
	}
	return failed
}

// Unban returns ErrNoUser if there is no account, and what an administrator does if there is one: an as_token activates no account.
func (h *Client) Unban(ctx context.Context, userID string) error {
	is, err := h.softwareWith(ctx, userID)
	if err != nil {
		return err
	}
	const why = "as an administrator set the node's password again, which its owner prints with the command register (docs/banning.md)"
	switch {
	case is.Name == Dendrite:
		return &ByHandError{why + ", and of it the first 72 characters", h.curl(http.MethodPost, dendriteResetPath+userID, `{"password": "PASSWORD", "logout_devices": false}`)}
	case isOldSynapse(is):
		return &ByHandError{why + ", at the homeserver's own port, not nginx's; before 0.99.3 Synapse writes the password into its log: delete that line (new_password)", h.curl(http.MethodPost, oldPasswordPath+userID, `{"new_password": "PASSWORD"}`)}
	}
	return &ByHandError{why + "; a Synapse on a new database answers 500 in its first minutes: then type it again", h.curl(http.MethodPut, reactivatePath+userID, `{"deactivated": false, "password": "PASSWORD"}`)}
}

// softwareWith returns the software of the homeserver, and ErrNoUser if it has no such user. A profile that cannot be read does not
// keep an account from being banned.
func (h *Client) softwareWith(ctx context.Context, userID string) (Software, error) {
	if _, err := h.DisplayName(ctx, userID); errors.Is(err, ErrNoUser) {
		return Software{}, err
	}
	return h.Software(ctx)
}

// curl is a call as an administrator types it. The user IDs of nodes have no character that a path or a shell would change.
func (h *Client) curl(method, path, body string) string {
	return fmt.Sprintf("curl -X %s -H 'Authorization: Bearer ADMIN_TOKEN' -H 'Content-Type: application/json' -d '%s' '%s%s'", method, body, h.Origin, path)
}

// Standing is not told: Synapse and Dendrite answer for a deactivated account as for any other.
func (h *Client) Standing(context.Context, string) (Standing, error) {
	return Standing{Untold: "the homeserver does not say to this service whether an account is deactivated"}, nil
}
