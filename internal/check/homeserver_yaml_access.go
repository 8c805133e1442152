// homeserver_yaml_access.go judges whether Synapse's user may read the files that Synapse is told to read.

package check

import (
	"context"
	"errors"
	"slices"
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
		its := reading{who: "the homeserver", user: user, hasRead: chk.accepts, do: func(kept synapse.ModeError, _ string) string {
			return letRead(user, kept) + thenRestart
		}}
		found = append(found, its.judge(subject, chk.judging(s).filesOfSynapse()))
	}
	return found
}

// filesOfSynapse are the files that it reads, as far as it is seen where they are.
func (j judging) filesOfSynapse() []string {
	paths := slices.Concat(j.settings.ofSynapse.Files, j.settings.ofSynapse.Hidden)
	for _, name := range append(texts(j.settings.at("app_service_config_files")), j.settings.Text("registration_shared_secret_path")) {
		if at := j.locate(name); name != "" && at.isSeen {
			paths = append(paths, at.path)
		}
	}
	return paths
}

// letRead is the command that lets the user read the file that is kept from it.
func letRead(user synapse.User, kept synapse.ModeError) string {
	if kept.IsAbove {
		return "keep the file where " + user.Name() + " may enter, or type: " + paste("chmod o+x "+shell.Quote(kept.Path))
	}
	return "type: " + paste("chown "+shell.Quote(user.Name())+" "+shell.Quote(kept.Path))
}

// A reading is of a program that reads files when it starts.
type reading struct {
	who     string
	user    synapse.User
	hasRead bool // it runs, so that this counts from its next start on
	do      func(kept synapse.ModeError, path string) (cure string)
}

// judge finds the first of the files that the program's user may not read.
func (r reading) judge(subject string, paths []string) Finding {
	var unseen []string
	for _, path := range paths {
		err := r.user.MayRead(path)
		its := synapse.ModeError{}
		switch {
		case err == nil:
			continue
		case !errors.As(err, &its):
			unseen = append(unseen, err.Error())
			continue
		}
		if r.hasRead {
			return warning(subject, r.do(its, path), "%s may not read %s: %v; %s, which has read it, does not start again (%s)", r.user.Name(), path, err, r.who, r.user.Why)
		}
		return problem(subject, r.do(its, path), "%s may not read %s: %v; %s does not start (%s)", r.user.Name(), path, err, r.who, r.user.Why)
	}
	if len(unseen) > 0 {
		return fine(subject, "%s may read all that was checked (%s); unknown: %s", r.user.Name(), r.user.Why, strings.Join(unseen, "; "))
	}
	return fine(subject, "%s may read %s (%s)", r.user.Name(), count(len(paths), "file"), r.user.Why)
}
