// homeserver_yaml_access.go judges whether Synapse's user may read the files that Synapse is told to read.

package check

import (
	"context"
	"errors"
	"strings"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/shell"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/synapse"
)

// homeserverReads looks at its settings, at the registrations that they list, and at the secret's file. What keeps a homeserver
// that takes our as_token from them keeps it from its next start.
func (chk *checking) homeserverReads(context.Context) []Finding {
	const subject = config.HomeserverFile + " access"
	var found []Finding
	for _, s := range chk.settings {
		if s.err != nil || len(s.ofSynapse.Files) == 0 || !isLocal(chk.Config.Origin) {
			continue
		}
		user := s.ofSynapse.ReadBy(chk.process)
		if !user.IsKnown() {
			found = append(found, unseen(subject, "it is unknown which user runs Synapse"))
			continue
		}
		found = append(found, chk.judgeReader(subject, user, chk.judging(s).filesOfSynapse()))
	}
	return found
}

// filesOfSynapse are the files that it reads, as far as it is seen where they are.
func (j judging) filesOfSynapse() []string {
	paths := append([]string{}, j.settings.ofSynapse.Files...)
	for _, name := range append(texts(j.settings.at("app_service_config_files")), j.settings.Text("registration_shared_secret_path")) {
		if at := j.locate(name); name != "" && at.isSeen {
			paths = append(paths, at.path)
		}
	}
	return paths
}

func (chk *checking) judgeReader(subject string, user synapse.User, paths []string) Finding {
	var unseen []string
	for _, path := range paths {
		err := user.MayRead(path)
		its := synapse.ModeError{}
		switch {
		case err == nil:
			continue
		case !errors.As(err, &its):
			unseen = append(unseen, err.Error())
			continue
		}
		do := "type: " + paste("chown "+shell.Quote(user.Name())+" "+shell.Quote(its.Path)) + thenRestart
		if its.IsAbove {
			do = "keep the file where " + user.Name() + " may enter, or type: " + paste("chmod o+x "+shell.Quote(its.Path)) + thenRestart
		}
		if chk.accepts {
			return warning(subject, do, "%s may not read %s: %v; the homeserver, which has read it, does not start again (%s)", user.Name(), path, err, user.Why)
		}
		return problem(subject, do, "%s may not read %s: %v; the homeserver does not start (%s)", user.Name(), path, err, user.Why)
	}
	if len(unseen) > 0 {
		return fine(subject, "%s may read all that was checked (%s); unknown: %s", user.Name(), user.Why, strings.Join(unseen, "; "))
	}
	return fine(subject, "%s may read %s (%s)", user.Name(), count(len(paths), "file"), user.Why)
}
