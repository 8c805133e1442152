// homeserver_yaml_service.go judges what homeserver.yaml has of this service: its registration.yaml in the list of application
// services, and the shared secret.

package check

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/files"
)

// registrationListed judges whether registration.yaml is among the application services of the homeserver.
func (j judging) registrationListed(path ...string) Finding {
	subject := j.subject(strings.Join(path, "."))
	value := j.settings.at(path...)
	list, isList := value.([]any)
	do := j.settings.write(j.listWithOurs(list), path...)
	switch {
	case value == nil:
		return problem(subject, do, "not set: the homeserver does not know this service")
	case !isList:
		return problem(subject, do, "it is not a list, and the homeserver does not start")
	}
	var byDirectory, unseen string
	for _, listed := range list {
		name, isText := listed.(string)
		if !isText {
			return problem(subject, do, "something in it is not the name of a file, and the homeserver does not start; put names in quotes")
		}
		at := j.locate(name)
		_, err := files.Read(at.path)
		switch {
		case isCopy(at.path, j.registration) && at.relativeToStart:
			byDirectory = name
		case isCopy(at.path, j.registration):
			return fine(subject, "%s is listed", j.registration)
		case err != nil && at.isSeen && !errors.Is(err, os.ErrPermission):
			return problem(subject, do, "%v, and the homeserver does not start", err)
		case err != nil:
			unseen = name
		}
	}
	switch {
	case byDirectory != "":
		return warning(subject, do, "%s is relative to the directory that the homeserver is started in%s", byDirectory, j.startedIn())
	case unseen != "":
		return warning(subject, do, "it is unknown whether %s is this %s", unseen, config.RegistrationFile)
	}
	return problem(subject, do, "this %s is not listed: the homeserver does not know this service", config.RegistrationFile)
}

// listWithOurs is the list as YAML with our registration in it, and those of other services that the homeserver can load.
func (j judging) listWithOurs(list []any) string {
	var all []string
	for _, listed := range list {
		name, _ := listed.(string)
		at := j.locate(name)
		if _, err := files.Read(at.path); name != "" && !isCopy(at.path, j.registration) && (err == nil || !at.isSeen || errors.Is(err, os.ErrPermission)) {
			all = append(all, strconv.Quote(name))
		}
	}
	return "[" + strings.Join(append(all, strconv.Quote(whole(j.registration))), ", ") + "]"
}

// whole is the path from the root on.
func whole(path string) string {
	if absolute, err := filepath.Abs(path); err == nil {
		return absolute
	}
	return path
}

// isCopy tells whether both are one file, or have the same content: a service under systemd has a registration.yaml of its own.
func isCopy(a, b string) bool {
	if files.IsSame(a, b) {
		return true
	}
	contentA, errA := files.Read(a)
	contentB, errB := files.Read(b)
	return errA == nil && errB == nil && len(contentA) > 0 && bytes.Equal(contentA, contentB)
}

// A location is where a file is that the settings name.
type location struct {
	path            string
	relativeToStart bool // its name is relative to the directory that the homeserver is started in
	isSeen          bool // where that is; else the path is a guess
}

// locate finds the file that the settings name. For Dendrite a name is relative to the directory of its settings.
func (j judging) locate(name string) location {
	beside := filepath.Join(filepath.Dir(j.settings.path), name)
	switch {
	case filepath.IsAbs(name):
		return location{name, false, true}
	case j.settings.isDendrite():
		return location{beside, false, true}
	case j.started != "":
		return location{filepath.Join(j.started, name), true, true}
	}
	return location{beside, true, false}
}

// startedIn says where that was, if it is seen.
func (j judging) startedIn() string {
	if j.started == "" {
		return ", which is not seen"
	}
	return ", which is " + j.started + " now"
}

// sharedSecret compares the homeserver's secret with the service's, if accounts are made with it. With createUser the homeserver
// needs none.
func (j judging) sharedSecret(subject string) []Finding {
	const key = "registration_shared_secret"
	switch {
	case j.config.Way.IsMAS:
		return nil
	case !j.config.Way.TakesSecret && j.settings.at(key) != nil && j.settings.at(key) != "":
		return []Finding{warning(subject, "delete it from "+j.settings.fileOf(key)+thenRestart,
			"set, and %s needs none: anyone who has it can create accounts without a proof, at %s too", j.config.Way.Name, oldRegisterPaths[0])}
	case !j.config.Way.TakesSecret:
		return []Finding{fine(subject, "not set, and not needed")}
	}
	writeOurs := j.settings.write("the secret of this service's --"+config.FlagShareSecretFile, key).String() // no text to paste
	inline, path := j.settings.Text(key), j.settings.Text(key+"_path")
	switch {
	case j.settings.isNoText(key):
		return []Finding{problem(subject, writeOurs, "%s", noText)}
	case j.settings.isNoText(key + "_path"):
		return []Finding{problem(subject, "put it in quotes in "+j.settings.fileOf(key+"_path")+thenRestart, "%s_path is not a text", key)}
	case path != "" && inline != "":
		return []Finding{problem(subject, "delete "+key+" from "+j.settings.fileOf(key)+thenRestart, "both %s and %s_path are set, and the homeserver does not start", key, key)}
	case path != "" && j.server.IsSynapse() && j.server.Before(1, 67):
		return []Finding{problem(subject, j.settings.write("the secret itself", key), "%s_path is not known before Synapse 1.67", key)}
	case path == "":
		return []Finding{j.compareSecret(subject, inline, writeOurs)}
	}
	at := j.locate(path)
	writeWhole := j.settings.write(strconv.Quote(whole(at.path)), key+"_path")
	secret, err := files.ReadSecret(at.path, config.SharedSecretInFile)
	switch {
	case errors.Is(err, os.ErrPermission):
		return []Finding{warning(subject, RunAs(err), "it is unknown: %v", err)}
	case err != nil && !at.isSeen:
		return []Finding{warning(subject, j.settings.write("the whole path", key+"_path"), "%s is relative to the directory that the homeserver is started in%s", path, j.startedIn())}
	case err != nil:
		return []Finding{problem(subject, "write the secret into that file"+thenRestart, "%v", err)}
	}
	found := j.compareSecret(subject, secret, "write the secret of this service's --"+config.FlagShareSecretFile+" into "+at.path+thenRestart)
	if found.Status == OK && at.relativeToStart {
		found = warning(subject, writeWhole, "%s is relative to the directory that the homeserver is started in%s", path, j.startedIn())
	}
	return []Finding{found}
}

func (j judging) compareSecret(subject, secret, do string) Finding {
	switch {
	case secret == "":
		return problem(subject, do, "not set: the homeserver makes no account for this service")
	case j.config.SharedSecret == "":
		return fine(subject, "set; this service has none to compare it with")
	case secret != j.config.SharedSecret:
		return problem(subject, do+"; or put the homeserver's into that file and restart the service", "it is another than this service has")
	}
	return fine(subject, "the one that this service has")
}
