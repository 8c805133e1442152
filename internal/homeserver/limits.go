// limits.go owns Synapse's rate limits that a network of Photon nodes meets: what to set them to, what they are by default, and
// what a hub needs. genconfig, check, the documents and the homeservers of the tests take them from here.

package homeserver

import (
	"fmt"
	"strings"
)

// HubChannels is how many channels a hub has that these limits let work. Photon waits for no retry_after_ms: what is
// limited when a hub starts, it goes without.
const HubChannels = 20

// A Rate allows so many actions at once, and after that so many a second.
type Rate struct {
	PerSecond float64 `yaml:"per_second"`
	Burst     float64 `yaml:"burst_count"`
}

// String is the rate as Synapse reads it.
func (r Rate) String() string {
	return fmt.Sprintf("{per_second: %v, burst_count: %v}", r.PerSecond, r.Burst)
}

// IsBelow tells whether it allows less than the other, in either number.
func (r Rate) IsBelow(other Rate) bool { return r.PerSecond < other.PerSecond || r.Burst < other.Burst }

// LoginsNeeded lets nodes in that start together, or one that starts often.
var LoginsNeeded = Rate{PerSecond: 0.1, Burst: 10}

// MASLoginLimit is what to set the rate_limiting.login.per_ip of Matrix Authentication Service to.
const MASLoginLimit = "{burst: 50, per_second: 5}"

// A RateLimit is one of Synapse's rate limits.
type RateLimit struct {
	Path    []string // in homeserver.yaml
	Of      string   // what it counts
	Set     Rate     // what to set it to
	Default Rate     // of Synapse 1.163.2
	Needed  Rate     // by a hub of HubChannels; of a login, by nodes that start together
	Since   [2]int   // the Synapse that has it first; the zero value is of each that makes accounts with the shared secret

	OfLogins bool // Matrix Authentication Service has its own in the place of it
	LocksOut bool // below what is needed nodes do not get in at all
}

// Name is the path as one text.
func (l RateLimit) Name() string { return strings.Join(l.Path, ".") }

// IsOf tells whether the homeserver has the limit. One whose version nobody knows is taken for today's.
func (l RateLimit) IsOf(s Software) bool { return !s.IsSynapse() || !s.Before(l.Since[0], l.Since[1]) }

// RateLimits are those of today's Synapse, in the order in which they are written.
//
// A hub creates a room for each channel and the discovery room, and joins each; as many nodes as it has channels join the
// discovery room with it, and may each invite it. It sets its presence when it stops and when it starts.
var RateLimits = []RateLimit{
	{Path: []string{"rc_login", "address"}, Of: "logins from an address, refused ones included", OfLogins: true, LocksOut: true,
		Set: Rate{5, 50}, Default: Rate{0.003, 5}, Needed: LoginsNeeded},
	{Path: []string{"rc_login", "account"}, Of: "logins of a node", OfLogins: true, LocksOut: true,
		Set: Rate{1, 10}, Default: Rate{0.003, 5}, Needed: LoginsNeeded},
	{Path: []string{"rc_login", "failed_attempts"}, Of: "refused logins of a node, which tries each second while it is not registered", OfLogins: true,
		Set: Rate{1, 10}, Default: Rate{0.17, 3}, Needed: Rate{1, 3}},
	{Path: []string{"rc_message"}, Of: "messages and new rooms of a node",
		Set: Rate{20, 200}, Default: Rate{0.2, 10}, Needed: Rate{5, 3 * HubChannels}},
	{Path: []string{"rc_room_creation"}, Of: "new rooms of a node", Since: [2]int{1, 133},
		Set: Rate{2, 200}, Default: Rate{0.016, 10}, Needed: Rate{0.016, HubChannels + 1}},
	{Path: []string{"rc_joins", "local"}, Of: "joins of a node",
		Set: Rate{5, 200}, Default: Rate{0.1, 10}, Needed: Rate{0.1, HubChannels + 1}},
	{Path: []string{"rc_joins_per_room"}, Of: "joins of a room, such as the discovery room", Since: [2]int{1, 64},
		Set: Rate{20, 200}, Default: Rate{1, 10}, Needed: Rate{1, HubChannels + 1}},
	{Path: []string{"rc_invites", "per_room"}, Of: "invitations to a room",
		Set: Rate{5, 100}, Default: Rate{0.3, 10}, Needed: Rate{0.3, 2}},
	{Path: []string{"rc_invites", "per_user"}, Of: "invitations that a node gets",
		Set: Rate{1, 200}, Default: Rate{0.003, 5}, Needed: Rate{0.003, HubChannels}},
	{Path: []string{"rc_invites", "per_issuer"}, Of: "invitations that a node sends", Since: [2]int{1, 63},
		Set: Rate{5, 200}, Default: Rate{0.3, 10}, Needed: Rate{0.3, HubChannels}},
	{Path: []string{"rc_presence", "per_user"}, Of: "changes of a node's presence", Since: [2]int{1, 124},
		Set: Rate{1, 10}, Default: Rate{0.1, 1}, Needed: Rate{0.1, 3}},
}

// OldMessageLimit is the one limit of Synapse up to 0.34.0, in two settings, OldMessageRate and OldMessageBurst: it counts
// messages, new rooms and joins alike. Today's Synapse reads the two as well, where there is no rc_message.
var OldMessageLimit = RateLimit{
	Path: []string{OldMessageRate}, Of: "messages, joins and new rooms of a node",
	Set: Rate{20, 200}, Default: Rate{0.2, 10}, Needed: Rate{5, 5 * HubChannels},
}

// ProfileLimit is on look-ups of profiles, of which this service makes one for each account that was there already, and one a
// minute for a registered node that asks again. Synapse's default has room for them; it paces the adoption of many nodes whose
// record was lost. Reconciling keeps below half of it.
var ProfileLimit = RateLimit{
	Path: []string{"rc_profile"}, Of: "look-ups of profiles by this service",
	Set: Rate{10, 500}, Default: Rate{1, 500}, Needed: Rate{1, 500},
}

const (
	OldMessageRate  = "rc_messages_per_second"
	OldMessageBurst = "rc_message_burst_count"
)
