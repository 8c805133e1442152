// settings.go judges homeserver.yaml for the Synapse that answers: the settings of the old guide, and those that today's Synapse
// needs so that nodes get in. It reads files and makes no calls.

package check

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/files"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
)

// at returns the value under the path of keys, or nil.
func (s settingsFile) at(path ...string) any {
	var value any = s.keys
	for _, key := range path {
		mapping, _ := value.(map[any]any)
		value = mapping[key]
	}
	return value
}

// isTrue reports whether the value is there and true.
func (s settingsFile) isTrue(path ...string) bool { value, _ := s.at(path...).(bool); return value }

func (s settingsFile) Text(path ...string) string { text, _ := s.at(path...).(string); return text }

// isNoText tells whether something else than a text is there: a number, a date, a truth value.
func (s settingsFile) isNoText(path ...string) bool {
	value := s.at(path...)
	_, isText := value.(string)
	return value != nil && !isText
}

// noText is what is wrong with a value that the homeserver reads as something else.
const noText = "the homeserver does not read it as a text: put it in quotes"

// number returns the value, or the default if there is none.
func (s settingsFile) number(otherwise float64, path ...string) float64 {
	switch value := s.at(path...).(type) {
	case int:
		return float64(value)
	case float64:
		return value
	}
	return otherwise
}

// A line is a setting to write.
type line struct {
	file    string
	path    []string // of keys
	value   string
	isInKey bool   // the first of the keys is in the file already
	and     string // a second line
}

// write is the cure that writes the value under the path of keys.
func (s settingsFile) write(value string, path ...string) line {
	_, isInKey := s.from[path[0]]
	return line{file: s.fileOf(path[0]), path: path, value: value, isInKey: isInKey}
}

// String says in which file, and where in it.
func (l line) String() string {
	under, last := l.path[:len(l.path)-1], l.path[len(l.path)-1]
	where := l.file
	if len(under) > 0 {
		where += ", under " + strings.Join(under, ".")
	}
	text := "write in " + where + ": " + paste(last+": "+l.value)
	if l.and != "" {
		text += " and, on a line of its own, " + paste(l.and)
	}
	return text + thenRestart
}

const thenRestart = "; then restart the homeserver"

// fileOf returns the file that has the key, or should have it.
func (s settingsFile) fileOf(key string) string {
	if from, ok := s.from[key]; ok {
		return from
	}
	return s.path
}

// isDendrite tells Dendrite's settings from Synapse's.
func (s settingsFile) isDendrite() bool {
	_, hasGlobal := s.keys["global"].(map[any]any)
	return hasGlobal || filepath.Base(s.path) == DendriteFile
}

// secrets are the secrets in the settings, which no finding may hold.
func (s settingsFile) secrets() []string {
	return []string{s.Text("registration_shared_secret"), s.Text("client_api", "registration_shared_secret"), s.Text("macaroon_secret_key"), s.Text("form_secret"), s.Text("matrix_authentication_service", "secret")}
}

// A judging is the settings, with everything that is needed to judge them.
type judging struct {
	settings     settingsFile
	config       config.Config
	server       homeserver.Software // that answers; the zero value where none does
	registration string              // the path of registration.yaml
	started      string              // the directory that the homeserver was started in; "" where that is not seen
	public       string              // where nodes reach the homeserver
}

// findings judges every setting that matters.
func (j judging) findings() []Finding {
	switch {
	case j.settings.err != nil:
		return []Finding{j.unreadable()}
	case j.settings.isDendrite():
		return j.ofDendrite()
	}
	return slices.Concat(
		j.filesRead(),
		[]Finding{j.serverName(j.subject("server_name"), "server_name"), j.enableRegistration(), j.userDirectory(), j.expireAccessToken(), j.identityServers()},
		j.listeners(),
		[]Finding{j.registrationListed("app_service_config_files")},
		j.sharedSecret(j.subject("registration_shared_secret")),
		j.needsOfToday(),
	)
}

// subject names a setting.
func (j judging) subject(setting string) string {
	if j.settings.isDendrite() {
		return DendriteFile + " " + setting
	}
	return config.HomeserverFile + " " + setting
}

// since picks one of two readings of a setting by the Synapse that answers. Where none does, --matrixurl tells which it can be:
// createUser is of 0.34 and older, all else of 1.23 and newer. Where that does not tell either, it says both.
func (j judging) since(major, minor int, before, since Finding) Finding {
	oldest := homeserver.Software{Name: homeserver.Synapse, Version: "1.23.0"}
	switch {
	case j.server.IsSynapse() && j.server.Before(major, minor), j.isOld():
		return before
	case j.server.IsSynapse(), before == since, !oldest.Before(major, minor):
		return since
	}
	worse := since
	if rank := []Status{OK, Warning, Problem}; slices.Index(rank, before.Status) > slices.Index(rank, since.Status) {
		worse = before
	}
	if before.Found != since.Found {
		worse.Found = fmt.Sprintf("before Synapse %d.%d: %s; since then: %s", major, minor, before.Found, since.Found)
	}
	return worse
}

func (j judging) serverName(subject string, path ...string) Finding {
	switch name := j.settings.Text(path...); {
	case j.settings.isNoText(path...):
		return problem(subject, j.settings.write(strconv.Quote(j.config.ServerName), path...), "%s", noText)
	case name == j.config.ServerName:
		return fine(subject, "%s, as --%s", name, config.FlagMatrixDomain)
	case name == "":
		return problem(subject, j.settings.write(strconv.Quote(j.config.ServerName), path...), "there is none")
	default:
		return problem(subject, setFlag(config.FlagMatrixDomain, name),
			"it is %q and --%s is %q: every signature is over that name", name, config.FlagMatrixDomain, j.config.ServerName).follows(subjectHomeserver + " server_name")
	}
}

// enableRegistration judges two settings. The older one, which every Synapse still reads, overrides the other.
func (j judging) enableRegistration() Finding {
	subject := j.subject("enable_registration")
	switch disabled := j.settings.at("disable_registration"); {
	case disabled != nil && !isYes(disabled):
		return problem(subject, "delete disable_registration from "+j.settings.fileOf("disable_registration")+thenRestart, "disable_registration is false: anybody can make accounts, without a proof")
	case disabled == nil && isYes(j.settings.at("enable_registration")):
		return problem(subject, j.settings.write("false", "enable_registration"), "it is true: anybody can make accounts, without a proof")
	}
	return fine(subject, "off")
}

// isYes reports whether Synapse takes the value for true when it reads it as text.
func isYes(value any) bool {
	return slices.Contains([]string{"true", "yes", "y", "on", "t", "1"}, strings.ToLower(fmt.Sprint(value)))
}

func (j judging) userDirectory() Finding {
	subject := j.subject("user_directory")
	if !j.settings.isTrue("user_directory", "search_all_users") {
		return problem(subject, j.settings.write("true", "user_directory", "search_all_users"), "search_all_users is not true: a fresh node is not found by the others")
	}
	if enabled, set := j.settings.at("user_directory", "enabled").(bool); set && !enabled {
		return problem(subject, j.settings.write("true", "user_directory", "enabled"), "enabled is false: no node is found by another")
	}
	return fine(subject, "search_all_users is true")
}

func (j judging) expireAccessToken() Finding {
	subject := j.subject("expire_access_token")
	before, since := fine(subject, "true"), fine(subject, "gone, and not set")
	switch on := j.settings.isTrue("expire_access_token"); {
	case on:
		since = warning(subject, "delete expire_access_token; session_lifetime ends sessions", "it does nothing any more")
	default:
		before = warning(subject, j.settings.write("True", "expire_access_token"), "not set, and the guide has it set")
	}
	return j.since(1, 3, before, since)
}

func (j judging) identityServers() Finding {
	const key = "trusted_third_party_id_servers"
	subject := j.subject(key)
	before, since := fine(subject, "none"), fine(subject, "gone, and none set")
	switch list, isList := j.settings.at(key).([]any); {
	case isList && len(list) > 0:
		before = warning(subject, j.settings.write("[]", key), "it trusts %s, and the guide has them all deleted", count(len(list), "identity server"))
		since = warning(subject, "delete "+key, "it does nothing any more")
	case !isList:
		before = warning(subject, j.settings.write("[]", key), "not set: the default trusts matrix.org and vector.im, and the guide has them all deleted")
	}
	return j.since(1, 4, before, since)
}

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
		case isCopy(at.path, j.registration) && at.goesByStart:
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
		return warning(subject, do, "%s goes by the directory that the homeserver is started in%s", byDirectory, j.startedIn())
	case unseen != "":
		return warning(subject, do, "whether %s is this %s is not seen", unseen, config.RegistrationFile)
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
	path        string
	goesByStart bool // its name is relative, and goes by the directory that the homeserver is started in
	isSeen      bool // where that is; else the path is a guess
}

// locate finds the file that the settings name. Dendrite goes by the directory of its settings.
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
			"set, and %s needs none: whoever has it makes accounts without a proof, at %s too", j.config.Way.Name, oldRegisterPaths[0])}
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
		return []Finding{warning(subject, RunAs(err), "it cannot be told: %v", err)}
	case err != nil && !at.isSeen:
		return []Finding{warning(subject, j.settings.write("the whole path", key+"_path"), "%s goes by the directory that the homeserver is started in%s", path, j.startedIn())}
	case err != nil:
		return []Finding{problem(subject, "write the secret into that file"+thenRestart, "%v", err)}
	}
	found := j.compareSecret(subject, secret, "write the secret of this service's --"+config.FlagShareSecretFile+" into "+at.path+thenRestart)
	if found.Status == OK && at.goesByStart {
		found = warning(subject, writeWhole, "%s goes by the directory that the homeserver is started in%s", path, j.startedIn())
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
