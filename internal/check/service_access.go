// service_access.go judges whether the user of this service may read the files that the service is told to read. Who runs check may
// be another: root reads what the service cannot.

package check

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/files"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/shell"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/synapse"
)

const subjectAccess = subjectService + " access"

// serviceReads judges it where run.sh starts the service. systemd reads files as root, and passes them on.
func (chk *checking) serviceReads(ctx context.Context) []Finding {
	if chk.ScriptErr != nil {
		return nil
	}
	user := chk.serviceUser(ctx)
	if !user.IsKnown() {
		return []Finding{unseen(subjectAccess, "it is unknown which user runs this service")}
	}
	_, notAsked := chk.daemon(ctx)
	its := reading{who: "the service", user: user, hasRead: notAsked == nil, do: func(kept synapse.ModeError, path string) string {
		return chk.letServiceRead(user, kept, path) + "; then restart the service"
	}}
	paths := chk.filesOfService()
	for _, path := range paths {
		if kept := (synapse.ModeError{}); errors.As(user.MayRead(path), &kept) {
			chk.kept = append(chk.kept, path)
		}
	}
	return []Finding{its.judge(subjectAccess, paths)}
}

// serviceUser is the user that the service runs as: the one of the daemon that answers, whose the store is, or else whose run.sh is.
// A store of root's does not tell: root may have been the first to start the service.
func (chk *checking) serviceUser(ctx context.Context) synapse.User {
	if said, err := chk.daemon(ctx); err == nil {
		owner := synapse.OwnerOf(said.Socket)
		const why = "the running service is its"
		if process := synapse.UserOfProcess(said.PID, why); process.IsKnown() && process.UID == owner.UID { // else it is in a container
			return process
		}
		if owner.IsKnown() {
			owner.Why = why
		}
		return owner
	}
	if !names.IsPostgres(chk.Config.DataPath) {
		if owner := synapse.OwnerOf(chk.Config.DataPath); owner.IsKnown() && owner.UID != 0 {
			return owner
		}
	}
	return synapse.OwnerOf(chk.Script.Path)
}

// filesOfService are the files that the service reads, as far as they are there.
func (chk *checking) filesOfService() []string {
	c := chk.Config
	var paths []string
	for _, path := range []string{c.RegistrationPath, c.SharedSecretFile, c.MASClientSecretFile, c.EthRPCFile, c.DataPathFile, c.AdmitFile, chk.storePath()} {
		if path == "" {
			continue
		}
		if _, err := os.Stat(path); err == nil || errors.Is(err, os.ErrPermission) {
			paths = append(paths, path)
		}
	}
	return paths
}

// storePath is the file of the store, or "" where it is in PostgreSQL.
func (chk *checking) storePath() string {
	if names.IsPostgres(chk.Config.DataPath) {
		return ""
	}
	return chk.StoreName
}

// letServiceRead is the command that lets the service read the file. The homeserver, which reads registration.yaml too, may go on with that.
func (chk *checking) letServiceRead(user synapse.User, kept synapse.ModeError, path string) string {
	theirs := synapse.User{}
	for _, s := range chk.settings {
		if theirs = s.ofSynapse.ReadBy(chk.process); theirs.IsKnown() {
			break
		}
	}
	switch {
	case path == chk.storePath():
		return "type: " + paste("chown -R "+shell.Quote(user.Name())+" "+shell.Quote(filepath.Dir(path)))
	case !kept.IsAbove && files.IsSame(path, chk.Config.RegistrationPath) && theirs.IsKnown() && theirs.UID != user.UID && theirs.UID != 0 && len(theirs.GIDs) > 0:
		return "type: " + paste(fmt.Sprintf("chown %s:%d %[3]s && chmod 0640 %[3]s", shell.Quote(user.Name()), theirs.GIDs[0], shell.Quote(kept.Path)))
	}
	return letRead(user, kept)
}

// keptFrom has findings on a file that this user may not read follow from that the service may not either.
func (chk *checking) keptFrom(path string, found []Finding) []Finding {
	for i, f := range found {
		if f.Status == Problem && slices.Contains(chk.kept, path) {
			found[i] = f.follows(subjectAccess)
		}
	}
	return found
}
