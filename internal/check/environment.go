// environment.go judges the variables of the environment.

package check

import (
	"context"
	"strings"
)

// environment names the variables that have this program's prefix and mean nothing. The service's own environment is not seen.
func (chk *checking) environment(context.Context) []Finding {
	const subject = "environment"
	if unknown := chk.Config.UnknownVariables; len(unknown) > 0 {
		return []Finding{warning(subject, "correct the names, or type: "+paste("unset "+strings.Join(unknown, " ")), "variables with the prefix of this service that mean nothing: %s", strings.Join(unknown, ", "))}
	}
	return []Finding{fine(subject, "no variable is unknown")}
}
