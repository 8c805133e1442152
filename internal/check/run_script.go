// run_script.go judges run.sh, which genconfig wrote and people may have changed since.

package check

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
)

// judgeScript judges run.sh beside the registration.yaml that the homeserver loads.
func judgeScript(s config.Script, err error, contradicted []string, registered config.Registration) []Finding {
	anew := "write it anew with genconfig --" + config.FlagForce + ", which keeps the tokens; then restart the service"
	switch {
	case errors.Is(err, os.ErrNotExist):
		return []Finding{fine(subjectRun, "there is none here, as where systemd starts the service")}
	case errors.Is(err, os.ErrPermission):
		return []Finding{problem(subjectRun, RunAs(err), "it is there and cannot be read: %v", err)}
	case err != nil:
		return []Finding{problem(subjectRun, anew, "%v", err)}
	}
	found := []Finding{judgeMode(subjectRun, s.Path, 0o700)}
	if !s.PassesOn {
		found = append(found, warning(subjectRun+" arguments", "end its last line in "+paste("\"$@\""), "%s does not pass on its arguments: --%s after it, for instance, has no effect, and everybody may register", s.Path, config.FlagAdmitFile))
	}
	if s.PassesOn {
		found = append(found, fine(subjectRun+" arguments", "%s passes on what it is given", s.Path))
	}
	found = append(found, judgeScriptTokens(s, registered))
	if len(contradicted) == 0 {
		return append(found, fine(subjectRun+" flags", "the flags that were given here are the same there"))
	}
	return append(found, problem(subjectRun+" flags", "leave them out, or change them in "+s.Path, "%s and the flags that were given here differ in %s", s.Path, strings.Join(contradicted, ", ")))
}

// judgeScriptTokens compares the tokens of run.sh, where there are any, with those that the homeserver loads.
func judgeScriptTokens(s config.Script, registered config.Registration) Finding {
	for _, token := range []struct{ flag, key string }{{config.FlagASToken, "as_token"}, {config.FlagHSToken, "hs_token"}} {
		itsOwn, ok := s.Flags[token.flag]
		if of, err := registered.Text(token.key); ok && err == nil && of != "" && of != itsOwn {
			return problem(subjectRun+" tokens", fmt.Sprintf("take --%s and --%s out of %s: the service reads them from %s", config.FlagASToken, config.FlagHSToken, s.Path, registered.Path),
				"its --%s is not the %s of %s", token.flag, token.key, registered.Path)
		}
	}
	return fine(subjectRun+" tokens", "none but those of %s", config.RegistrationFile)
}

func (chk *checking) runScript(context.Context) []Finding {
	return judgeScript(chk.Script, chk.ScriptErr, chk.Contradicted, chk.registered)
}
