// homeserver_yaml_limits.go judges the homeserver's rate limits by what a hub needs.

package check

import (
	"fmt"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
)

// isOld tells whether the settings are of a Synapse up to 0.34: the one that answers is, or none answers and --matrixurl names
// what only such a one has.
func (j judging) isOld() bool {
	if j.server.IsSynapse() {
		return j.server.Before(1, 0)
	}
	return !j.config.Way.TakesSecret && !j.config.Way.IsMAS
}

// rateLimits judges each limit that the homeserver has. Behind Matrix Authentication Service logins are limited there.
func (j judging) rateLimits() []Finding {
	if j.isOld() {
		return []Finding{j.oldMessageLimit(), j.monthlyUsers()}
	}
	var found []Finding
	for _, l := range homeserver.RateLimits {
		if l.IsOf(j.server) && !(l.OfLogins && j.config.Way.IsMAS) {
			found = append(found, j.rateLimit(l))
		}
	}
	return append(found, j.profileLimit(), j.monthlyUsers())
}

// monthlyUsers judges the limit on all users together, which is not one of rates.
func (j judging) monthlyUsers() Finding {
	const key = "limit_usage_by_mau"
	if j.settings.isTrue(key) {
		return warning(j.subject(key), j.settings.write("false", key).String()+"; or raise max_mau_value to more than there will be nodes",
			"true: beyond %s users in a month a node registers, and its login is refused (403 M_RESOURCE_LIMIT_EXCEEDED)", number(j.settings.number(0, "max_mau_value")))
	}
	return fine(j.subject(key), "off")
}

func (j judging) rateLimit(l homeserver.RateLimit) Finding {
	rate := j.rateAt(l.Default, l.Path...)
	if l.Path[0] == "rc_message" && j.settings.at(l.Path...) == nil {
		rate = j.oldMessageRate()
	}
	return judgeRate(j.subject(l.Name()), l, rate, j.settings.write(l.Set.String(), l.Path...))
}

// rateAt reads a rate, of which each number that is not there is the default's.
func (j judging) rateAt(otherwise homeserver.Rate, path ...string) homeserver.Rate {
	its := func(number string) []string { return append(path[:len(path):len(path)], number) }
	return homeserver.Rate{
		PerSecond: j.settings.number(otherwise.PerSecond, its("per_second")...),
		Burst:     j.settings.number(otherwise.Burst, its("burst_count")...),
	}
}

// profileLimit judges the limit that this service itself meets.
func (j judging) profileLimit() Finding {
	l := homeserver.ProfileLimit
	is := j.rateAt(l.Default, l.Path...)
	found := fmt.Sprintf("%s: %s at once, and then %s a second; nodes whose record was lost get in at that pace", l.Of, number(is.Burst), number(is.PerSecond))
	if is.IsBelow(l.Needed) {
		return warning(j.subject(l.Name()), j.settings.write(l.Set.String(), l.Path...), "%s", found)
	}
	return fine(j.subject(l.Name()), "%s", found)
}

func (j judging) oldMessageRate() homeserver.Rate {
	return homeserver.Rate{
		PerSecond: j.settings.number(homeserver.OldMessageLimit.Default.PerSecond, homeserver.OldMessageRate),
		Burst:     j.settings.number(homeserver.OldMessageLimit.Default.Burst, homeserver.OldMessageBurst),
	}
}

func (j judging) oldMessageLimit() Finding {
	l := homeserver.OldMessageLimit
	do := j.settings.write(number(l.Set.PerSecond), homeserver.OldMessageRate)
	do.and = homeserver.OldMessageBurst + ": " + number(l.Set.Burst)
	return judgeRate(j.subject(l.Name()), l, j.oldMessageRate(), do)
}

// judgeRate tells whether a limit has room for a hub, and a limit on logins for nodes that start together.
func judgeRate(subject string, l homeserver.RateLimit, is homeserver.Rate, do line) Finding {
	switch {
	case !is.IsBelow(l.Needed):
		return fine(subject, "%s at once, and then %s a second", number(is.Burst), number(is.PerSecond))
	case l.LocksOut:
		return problem(subject, do, "%s: %s at once, and then %s a second: nodes that start together are locked out", l.Of, number(is.Burst), number(is.PerSecond))
	}
	return warning(subject, do, "%s: %s at once, and then %s a second; a hub with %d channels needs %s and %s",
		l.Of, number(is.Burst), number(is.PerSecond), homeserver.HubChannels, number(l.Needed.Burst), number(l.Needed.PerSecond))
}
