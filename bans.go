// bans.go owns banning an address. The ban is on disk before the homeserver is asked to disable the account, and stands even if that
// fails.

package main

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/log"
)

// banTime is how long a ban may take: the wait for the address, the entry and the homeserver.
const banTime = waitTime + attemptTime + 2*time.Second

var errUnasked = errors.New("the homeserver was not asked")

// A nodeAdmin acts on one node for the operator: it bans the address, ends the ban, or looks the node up.
type nodeAdmin struct {
	store      store
	serverName string
	accounts   homeserver.Accounts // nil if the homeserver cannot be asked
	unasked    error               // why it cannot
}

// A banResult is the outcome of a ban or an unban. The entry is as the operator asked.
type banResult struct {
	UserID string    `json:"user_id"`
	Since  time.Time `json:"since,omitzero"` // of the ban; zero if there is none any more
	Before bool      `json:"before"`         // the address was banned before
	State  state     `json:"state"`          // of the record

	NoAccount bool   `json:"no_account,omitempty"` // the homeserver has none of this name
	Left      string `json:"left,omitempty"`       // what an administrator of the homeserver has to do
	Failed    string `json:"failed,omitempty"`     // why nothing was done there
}

// ban bans the address. The error says that there is no ban.
func (n *nodeAdmin) ban(ctx context.Context, a common.Address) (banResult, error) {
	return n.set(ctx, a, true)
}

// unban ends the ban. The error says that it stands.
func (n *nodeAdmin) unban(ctx context.Context, a common.Address) (banResult, error) {
	return n.set(ctx, a, false)
}

// set claims the address, so that an attempt in flight ends first and no other begins before the homeserver has answered.
func (n *nodeAdmin) set(ctx context.Context, a common.Address, banned bool) (result banResult, err error) {
	claimed, err := claimInTime(ctx, context.Background(), n.store, a)
	if err != nil {
		return banResult{}, err
	}
	defer claimed.Release()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), attemptTime) // the operator's command may end before
	defer cancel()

	before, err := claimed.Load(ctx)
	if err != nil && !errors.Is(err, errNoRecord) {
		return banResult{}, err
	}
	result = banResult{UserID: userIDOf(a, n.serverName), Before: !before.Banned.IsZero(), State: before.State}
	if banned {
		if result.Since = before.Banned; !result.Before {
			result.Since = time.Now().UTC().Truncate(time.Microsecond)
			err = claimed.Ban(ban{result.UserID, result.Since})
		}
	} else {
		err = claimed.Unban()
	}
	if err != nil {
		return banResult{}, err
	}
	n.act(ctx, &result, banned)
	log.Info("The operator set a ban", "user_id", result.UserID, "banned", banned, "before", result.Before, "left", result.Left != "" || result.Failed != "")
	return result, nil
}

// act disables or enables the account, as far as the homeserver lets this service do that.
func (n *nodeAdmin) act(ctx context.Context, result *banResult, banned bool) {
	var err error
	switch {
	case n.accounts == nil:
		err = cmp.Or(n.unasked, errUnasked)
	case banned:
		err = n.accounts.Ban(ctx, result.UserID)
	default:
		err = n.accounts.Unban(ctx, result.UserID)
	}
	byHand, isByHand := errors.AsType[*homeserver.ByHandError](err)
	switch {
	case err == nil:
	case errors.Is(err, homeserver.ErrNoUser):
		result.NoAccount = true
	case isByHand:
		result.Left = byHand.Error()
	default:
		result.Failed = err.Error()
	}
}

// userIDOf is the user ID of the node with the address.
func userIDOf(a common.Address, serverName string) string {
	return names.UserID(names.Localpart(a.Bytes()), serverName)
}
