// daemon.go judges what the running service says of itself: whether it could register a node now.

package check

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"

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
	Socket     string            // where it was asked
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

// untold says why the running service does not tell who may register; "" where it does, or none runs.
func (chk *checking) untold(ctx context.Context) string {
	said, err := chk.daemon(ctx)
	switch {
	case !chk.runs, err == nil && said.PID != 0:
		return ""
	case err == nil:
		err = ErrOldDaemon
	}
	return err.Error()
}

// readiness judges whether the daemon could register a node now.
func (chk *checking) readiness(ctx context.Context) Finding {
	const subject = subjectService + " readiness"
	wrong, err := chk.AskReadiness(ctx)
	switch {
	case errors.Is(err, ErrNoDaemon) && names.IsPostgres(chk.Config.DataPath):
		return unseen(subject, "no service with this store is found here: one tells it in the directory that it was started in, or at --%s", config.FlagOpsListen)
	case errors.Is(err, ErrNoDaemon), errors.Is(err, ErrOldDaemon):
		return unseen(subject, "%v", err)
	case errors.Is(err, os.ErrPermission):
		return unseen(subject, "%v: %s", err, RunAs(err))
	case err != nil:
		return warning(subject, "see the service's log", "it is unknown: %v", err)
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
