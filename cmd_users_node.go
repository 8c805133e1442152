// cmd_users_node.go owns the look-up of one node: its record, what the homeserver says of its account now, its last attempts, and
// what that means.

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/ethereum/go-ethereum/common"
	"github.com/urfave/cli/v3"
)

// What the homeserver says of a node's account.
const (
	accountIsThere    = "there"   // with the display name that was proven
	accountIsOthers   = "other"   // with another display name, or with none
	accountIsUnproven = "named"   // no name was proven that could be compared
	accountIsGone     = "none"    // it says that there is none
	accountIsUntold   = "unknown" // it does not tell, or was not asked
)

// A lookedUp is all that is known of a node.
type lookedUp struct {
	listedUser
	Account   string    `json:"account"`
	Untold    string    `json:"untold,omitempty"` // why the account is unknown
	Locked    bool      `json:"locked"`
	Retired   bool      `json:"deactivated"`
	NotToldOf string    `json:"standing_untold,omitempty"` // why it is not told whether it is locked or deactivated
	Attempts  []attempt `json:"attempts"`                  // null where no daemon answers
	Meaning   string    `json:"meaning"`
}

// lookUp tells of one node, but for its attempts.
func (n *nodeAdmin) lookUp(ctx context.Context, a common.Address) (lookedUp, error) {
	r, err := n.store.Load(ctx, a)
	if err != nil && !errors.Is(err, errNoRecord) {
		return lookedUp{}, err
	}
	r.UserID = userIDOf(a, n.serverName)
	r.Localpart = fmt.Sprintf("0x%x", a[:])
	found := lookedUp{listedUser: listed(r), Account: accountIsUntold}
	if n.accounts == nil {
		found.Untold = fmt.Sprint(n.unasked)
	} else {
		n.askAccount(ctx, r, &found)
	}
	found.Meaning = found.means()
	return found, nil
}

// askAccount asks the homeserver for the account.
func (n *nodeAdmin) askAccount(ctx context.Context, r record, found *lookedUp) {
	name, err := n.accounts.DisplayName(ctx, r.UserID)
	switch {
	case errors.Is(err, homeserver.ErrNoUser):
		found.Account = accountIsGone
		return
	case err != nil:
		found.Untold = err.Error()
		return
	case r.DisplayName == "":
		found.Account = accountIsUnproven
	case name == r.DisplayName:
		found.Account = accountIsThere
	default:
		found.Account = accountIsOthers
	}
	standing, err := n.accounts.Standing(ctx, r.UserID)
	if err != nil {
		standing.Untold = err.Error()
	}
	found.Locked, found.Retired, found.NotToldOf = standing.Locked, standing.Deactivated, standing.Untold
}

// means says in a line what was found, and what to do.
func (f lookedUp) means() string {
	is := map[state]map[string]string{
		"": {
			accountIsGone:     "it is unknown here and has no account: no valid registration has arrived; refused lists those that were refused",
			accountIsUnproven: "it has an account and no record: the node's next try takes the account over if that shows its display name",
		},
		statePending: {
			accountIsGone:   "the outcome of an attempt is unknown, and there is no account: the node's next try creates it, or the service drops the record within minutes",
			accountIsThere:  "an attempt was interrupted and the account exists: the node's next try completes it, or the service does within minutes",
			accountIsOthers: "an attempt was interrupted, and the account shows another display name: it belongs to somebody else, or is incomplete; the node's next try decides",
		},
		stateRegistered: {
			accountIsGone:   "it is registered and the homeserver has lost its account: the node's next try creates it again",
			accountIsThere:  "it is registered and has its account: if its node cannot log in, another password was set at the homeserver or the account was deactivated there",
			accountIsOthers: "it is registered and the account shows another display name: somebody changed that, or the account is not the node's",
		},
	}
	switch {
	case f.Banned != nil:
		return "it is banned: unban ends the ban"
	case f.Locked, f.Retired:
		return "somebody locked or deactivated the account at the homeserver, without a ban here: unban unlocks a locked one"
	case f.Account == accountIsUntold:
		return "it is not known whether it has an account: see why the homeserver does not say"
	}
	return is[f.record()][f.Account]
}

// record is the state of the record, "" if there is none.
func (f lookedUp) record() state {
	if f.State == stateUnknown {
		return ""
	}
	return f.State
}

// showNode prints all that is known of the node of the command line.
func showNode(ctx context.Context, cmd *cli.Command, c config.Config) error {
	a, given, query, err := nodeOf(cmd)
	if err != nil {
		return err
	}
	format := cmd.String(flagFormat)
	if format != "table" && format != "json" {
		return fmt.Errorf("--%s %q is not one of a single node: give table or json", flagFormat, format)
	}
	var found lookedUp
	res, err := askGateway(ctx, http.MethodGet, c.DataPath, lookUpPath, query)
	switch {
	case errors.Is(err, errNoDaemon):
		found, err = lookUpInStore(ctx, cmd, c.DataPath, a, given)
	case err == nil:
		defer res.Body.Close()
		err = json.NewDecoder(res.Body).Decode(&found)
	}
	if err != nil {
		return err
	}
	return printing(cmd, func(out *bufio.Writer) error {
		if format == "json" {
			return json.NewEncoder(out).Encode(found)
		}
		found.print(out)
		return nil
	})
}

func lookUpInStore(ctx context.Context, cmd *cli.Command, dataPath string, a common.Address, given string) (lookedUp, error) {
	s, err := readStore(ctx, dataPath)
	if err != nil {
		return lookedUp{}, withoutSocket(err)
	}
	defer s.Close()
	n, err := newNodeAdmin(cmd, s, given, ": start a daemon with it once")
	if err != nil {
		return lookedUp{}, err
	}
	return n.lookUp(ctx, a)
}

func (f lookedUp) print(out *bufio.Writer) {
	fmt.Fprintf(out, "%s\n", f.UserID)
	if f.record() == "" {
		fmt.Fprintln(out, "record      none")
	} else {
		fmt.Fprintf(out, "record      %s, created %s, written %s\n", f.State, inSeconds(f.Created), inSeconds(f.Updated))
	}
	if f.Banned != nil {
		fmt.Fprintf(out, "ban         since %s\n", inSeconds(*f.Banned))
	}
	said := map[string]string{
		accountIsThere: "has the account, with the display name that was proven", accountIsOthers: "has an account, with another display name or none",
		accountIsUnproven: "has an account", accountIsGone: "has no account", accountIsUntold: "not known: " + f.Untold,
	}[f.Account]
	switch {
	case f.Locked:
		said += ", locked"
	case f.Retired:
		said += ", deactivated"
	}
	fmt.Fprintf(out, "homeserver  %s\n", said)
	if f.NotToldOf != "" {
		fmt.Fprintf(out, "            %s\n", f.NotToldOf)
	}
	for _, a := range f.Attempts {
		did := a.Outcome
		if a.Errcode != "" {
			did += " " + a.Errcode
		}
		if a.Count > 1 {
			did += fmt.Sprintf(", %d times since %s", a.Count, inSeconds(a.First))
		}
		if a.Reason != "" {
			did += ": " + a.Reason
		}
		fmt.Fprintf(out, "attempt     %s from %s %s\n", inSeconds(a.Last), a.Client, did)
	}
	if f.Attempts == nil {
		fmt.Fprintln(out, "attempts    none that a daemon remembers")
	}
	fmt.Fprintf(out, "%s\n", f.Meaning)
}
