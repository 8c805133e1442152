// bans.go owns what keeps an account out at Matrix Authentication Service: its lock.

package mas

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
)

const (
	lockPath   = "/lock" // after homeserver.MASUsersPath and the account's id
	unlockPath = "/unlock"
)

// Ban locks the account, whose logins are refused then. It can be done twice.
func (api *Accounts) Ban(ctx context.Context, userID string) error {
	return api.setLock(ctx, userID, "lock the account", lockPath)
}

// Unban unlocks the account.
func (api *Accounts) Unban(ctx context.Context, userID string) error {
	return api.setLock(ctx, userID, "unlock the account", unlockPath)
}

func (api *Accounts) setLock(ctx context.Context, userID, step, path string) error {
	localpart := localpartOf(userID)
	id, err := api.AccountID(ctx, localpart)
	if err != nil {
		return err
	}
	a, err := api.ask(ctx, step, homeserver.Request{Name: "lock", Within: homeserver.CreateTime, Method: http.MethodPost, Path: homeserver.MASUsersPath + "/" + id + path})
	switch {
	case err != nil:
		return err
	case a.Status == http.StatusOK && userNamed(a, localpart) == id:
		return nil
	}
	return homeserver.InStep(step, api.admin.Failure(a, ""))
}

// Standing reads the account's lock. It returns homeserver.ErrNoUser if there is no such account.
func (api *Accounts) Standing(ctx context.Context, userID string) (homeserver.Standing, error) {
	const step = "look the account up"
	localpart := localpartOf(userID)
	if _, err := api.AccountID(ctx, localpart); err != nil {
		return homeserver.Standing{}, err
	}
	a, err := api.ask(ctx, step, homeserver.Request{Name: "lookup", Within: homeserver.ReadTime, Method: http.MethodGet, Path: ByNamePath + url.PathEscape(localpart)})
	if err != nil {
		return homeserver.Standing{}, err
	}
	var said struct {
		Data struct {
			Attributes struct {
				LockedAt      json.RawMessage `json:"locked_at"`
				DeactivatedAt json.RawMessage `json:"deactivated_at"`
			}
		}
	}
	if userNamed(a, localpart) == "" || json.Unmarshal(a.Body, &said) != nil {
		return homeserver.Standing{}, homeserver.InStep(step, api.admin.Failure(a, ""))
	}
	isSet := func(at json.RawMessage) bool { return len(at) > 0 && string(at) != "null" }
	return homeserver.Standing{Locked: isSet(said.Data.Attributes.LockedAt), Deactivated: isSet(said.Data.Attributes.DeactivatedAt)}, nil
}

func localpartOf(userID string) string {
	localpart, _, _ := strings.Cut(strings.TrimPrefix(userID, "@"), ":")
	return localpart
}
