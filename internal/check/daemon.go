// daemon.go judges what the running service says of itself: whether it could register a node now, and whom it admits.

package check

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/admission"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
)

// A DaemonStatus is what the daemon says of itself.
type DaemonStatus struct {
	Store      StoreReading
	PID        int               // 0 of an older version, which does not say what follows either
	Admitted   *admission.Loaded // the list of who may register; nil where there is none
	MinBalance string            // in wei; "" where no balance is asked for
}

// Errors of Input.AskStatus and Input.AskReadiness.
var (
	ErrNoDaemon  = errors.New("no running service can be asked")
	ErrOldDaemon = errors.New("the running service is of an older version, which does not tell")
)

// An Unready is a reason of the daemon why no node could register now.
type Unready struct {
	Of     UnreadyOf
	Reason string
	Cause  string // "" where it is not told
}

// An UnreadyOf is whose fault it is.
type UnreadyOf int

const (
	UnreadyElse UnreadyOf = iota
	UnreadyStore
	UnreadyHomeserver
	UnreadyChain
)

// daemonSaid is the answer of the daemon, or why there is none.
type daemonSaid struct {
	status DaemonStatus
	err    error
}

// daemon asks the daemon once.
func (chk *checking) daemon(ctx context.Context) (DaemonStatus, error) {
	if chk.said == nil {
		status, err := chk.AskStatus(ctx)
		chk.said = &daemonSaid{status, err}
	}
	return chk.said.status, chk.said.err
}

// readiness judges whether the daemon could register a node now.
func (chk *checking) readiness(ctx context.Context) Finding {
	const subject = subjectService + " readiness"
	wrong, err := chk.AskReadiness(ctx)
	switch {
	case errors.Is(err, ErrNoDaemon) && names.IsPostgres(chk.Config.DataPath):
		return unseen(subject, "a service with PostgreSQL tells it at --%s alone, which is not given here", config.FlagOpsListen)
	case errors.Is(err, ErrNoDaemon), errors.Is(err, ErrOldDaemon):
		return unseen(subject, "%v", err)
	case errors.Is(err, os.ErrPermission):
		return unseen(subject, "%v: %s", err, RunAs(err))
	case err != nil:
		return warning(subject, "see the service's log", "it cannot be told: %v", err)
	case len(wrong) == 0:
		return fine(subject, "it could register a node now")
	}
	var reasons []string
	for _, its := range wrong {
		reason := its.Reason
		if its.Cause != "" {
			reason += " (" + its.Cause + ")"
		}
		reasons = append(reasons, reason)
	}
	f := problem(subject, "see the service's log", "it can register no node now: %s", strings.Join(reasons, "; "))
	switch ofStore := slices.ContainsFunc(wrong, func(its Unready) bool { return its.Of == UnreadyStore }); {
	case ofStore && names.IsPostgres(chk.Config.DataPath):
		f.Do = "see that PostgreSQL runs, and that its disk has room"
	case ofStore:
		f.Do = "make room on its disk, and see that it can be written: " + paste("df -h "+chk.Config.DataPath)
	default:
		f = f.follows(subjectHomeserver, subjectHomeserver+" server_name", subjectMAS+" client", subjectMAS+" admin API", "Ethereum node")
	}
	return f
}

// admitFile judges the list of who may register, and whether it is the one that the running service has.
func (chk *checking) admitFile(ctx context.Context) []Finding {
	const subject = "admit file"
	path := chk.Config.AdmitFile
	said, err := chk.daemon(ctx)
	isKnown := err == nil && said.PID != 0
	if path == "" {
		if !isKnown || said.Admitted == nil {
			return nil
		}
		return []Finding{warning(subject, setFlag(config.FlagAdmitFile, said.Admitted.File), "the running service admits the %s of %s, and %s does not name that: after a start with it everybody may register", count(said.Admitted.Addresses, "address"), said.Admitted.File, config.RunFile)}
	}
	list, readErr := admission.ReadList(path)
	switch {
	case readErr != nil:
		return []Finding{problem(subject, cureOf(readErr, "repair it; then restart the service, or have it read the file again with SIGHUP"), "%v", readErr)}
	case isKnown && said.Admitted == nil:
		return []Finding{problem(subject, "restart the service with "+paste("--"+config.FlagAdmitFile+" "+path), "the running service has no list: everybody may register")}
	case isKnown && said.Admitted.Digest != admission.Digest(list):
		return []Finding{problem(subject, "have it read the file: "+paste(fmt.Sprintf("kill -HUP %d", said.PID)), "the running service has another list than %s: %s, read from %s at %s, and here are %s",
			path, count(said.Admitted.Addresses, "address"), said.Admitted.File, said.Admitted.Since.Format(time.RFC3339), count(len(list), "address"))}
	case len(list) == 0:
		return []Finding{warning(subject, "write the addresses that may register into it, one a line", "%s lists no address: nobody can register", path)}
	}
	found := fine(subject, "%s admits %s", path, count(len(list), "node"))
	switch {
	case isKnown:
		found.Found += ", and the running service has it since " + said.Admitted.Since.Format(time.RFC3339)
	case chk.runs:
		found.Found += "; whether the running service has it was " + notLookedAt + "it does not tell"
	}
	return []Finding{found}
}
