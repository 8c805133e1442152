// settings.go judges homeserver.yaml for the Synapse that answers: the settings of the old guide, and those that today's Synapse
// needs so that nodes get in. It reads files and makes no calls.

package check

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/files"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/shell"
)

const DendriteFile = "dendrite.yaml" // Dendrite's configuration

// A settingsFile is the homeserver's configuration, of one file or of several.
type settingsFile struct {
	path string // the first file, for a key that is in none
	keys map[any]any
	from map[any]string // the file whose value of the key counts
	err  error          // why it cannot be judged
}

// readAllSettings reads the files that were named as one configuration. If none was named, it reads the ones in this directory,
// except those of another homeserver software than the one that answers.
func readAllSettings(paths []string, server homeserver.Software) []settingsFile {
	if len(paths) > 0 {
		return []settingsFile{readSettings(paths)}
	}
	var all []settingsFile
	for _, its := range []struct{ file, other string }{{config.HomeserverFile, homeserver.Dendrite}, {DendriteFile, homeserver.Synapse}} {
		if _, err := os.Stat(its.file); err == nil && server.Name != its.other {
			all = append(all, readSettings([]string{its.file}))
		}
	}
	if len(all) == 0 {
		return []settingsFile{{path: config.HomeserverFile, err: fmt.Errorf("there is no %s here", config.HomeserverFile)}}
	}
	return all
}

// readSettings reads the files as Synapse does: those of a directory in the order of their names. A key of a later file replaces
// the whole key of an earlier one.
func readSettings(paths []string) settingsFile {
	s := settingsFile{path: paths[0], keys: map[any]any{}, from: map[any]string{}}
	var found []string
	for _, path := range paths {
		if stat, err := os.Stat(path); err == nil && stat.IsDir() {
			inside, _ := filepath.Glob(filepath.Join(path, "*.yaml")) // sorted; the pattern is a good one
			found = append(found, inside...)
			continue
		}
		found = append(found, path)
	}
	for _, path := range found {
		file, err := files.ReadYAML(path)
		if err != nil {
			s.err = err
			return s
		}
		for key, value := range file.Keys {
			s.keys[key], s.from[key] = value, path
		}
	}
	return s
}

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

// write is the cure that writes the value under the path of keys.
func (s settingsFile) write(value string, path ...string) string {
	under, last := path[:len(path)-1], path[len(path)-1]
	where := s.fileOf(path[0])
	if len(under) > 0 {
		where += ", under " + strings.Join(under, ".")
	}
	return "write in " + where + ": " + last + ": " + value + thenRestart
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
	return []string{s.Text("registration_shared_secret"), s.Text("client_api", "registration_shared_secret"), s.Text("macaroon_secret_key"), s.Text("form_secret")}
}

// A judging is the settings, with everything that is needed to judge them.
type judging struct {
	settings     settingsFile
	config       config.Config
	server       homeserver.Software // that answers; the zero value where none does
	registration string              // the path of registration.yaml
	public       string              // where nodes reach the homeserver
}

// findings judges every setting that matters.
func (j judging) findings() []Finding {
	switch {
	case j.settings.err != nil:
		return []Finding{problem(filepath.Base(j.settings.path), "run this in the homeserver's directory, or name the file with --"+FlagHomeserverConfig, "%v", j.settings.err)}
	case j.settings.isDendrite():
		return j.ofDendrite()
	}
	return slices.Concat(
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

// since chooses between two findings by the version of the Synapse that answers. If none answers, it says both.
func (j judging) since(major, minor int, before, since Finding) Finding {
	switch {
	case j.server.IsSynapse() && j.server.Before(major, minor):
		return before
	case j.server.IsSynapse(), before == since:
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
	case name == j.config.ServerName:
		return fine(subject, "%s, as --%s", name, config.FlagMatrixDomain)
	case name == "":
		return problem(subject, j.settings.write(strconv.Quote(j.config.ServerName), path...), "there is none")
	default:
		return problem(subject, "run genconfig --"+config.FlagForce+" with the homeserver's own name: --"+config.FlagMatrixDomain+" "+shell.Quote(name),
			"it is %q and --%s is %q: every signature is over that name", name, config.FlagMatrixDomain, j.config.ServerName)
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
	whole, err := filepath.Abs(j.registration)
	if err != nil {
		whole = j.registration
	}
	do := j.settings.write("["+strconv.Quote(whole)+"]", path...)
	value := j.settings.at(path...)
	list, isList := value.([]any)
	switch {
	case value == nil:
		return problem(subject, do, "not set: the homeserver does not know this service")
	case !isList:
		return problem(subject, do, "it is not a list, and the homeserver does not start")
	}
	dir := filepath.Dir(j.settings.path)
	for _, listed := range list {
		name, isText := listed.(string)
		if !isText {
			return problem(subject, do, "something in it is not the name of a file, and the homeserver does not start")
		}
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		if files.IsSame(name, j.registration) {
			return fine(subject, "%s is listed", j.registration)
		}
		if _, err := files.Read(name); err != nil {
			return problem(subject, do, "%v, and the homeserver does not start", err)
		}
	}
	return problem(subject, do, "this %s is not listed: the homeserver does not know this service", config.RegistrationFile)
}

// sharedSecret compares the homeserver's secret with the service's, if accounts are made with it. With createUser the homeserver
// needs none.
func (j judging) sharedSecret(subject string) []Finding {
	const key = "registration_shared_secret"
	switch {
	case j.config.Way.IsApart:
		return nil
	case !j.config.Way.TakesSecret && j.settings.at(key) != nil && j.settings.at(key) != "":
		return []Finding{warning(subject, "delete it from "+j.settings.fileOf(key)+thenRestart,
			"set, and %s needs none: whoever has it makes accounts without a proof, at %s too", j.config.Way.Name, oldRegisterPaths[0])}
	case !j.config.Way.TakesSecret:
		return []Finding{fine(subject, "not set, and not needed")}
	}
	inline, path := j.settings.Text(key), j.settings.Text(key+"_path")
	if path != "" && inline != "" {
		return []Finding{problem(subject, "delete "+key+" from "+j.settings.fileOf(key)+thenRestart, "both %s and %s_path are set, and the homeserver does not start", key, key)}
	}
	secret := inline
	if path != "" {
		if j.server.IsSynapse() && j.server.Before(1, 67) {
			return []Finding{problem(subject, j.settings.write("the secret itself", key), "%s_path is not known before Synapse 1.67", key)}
		}
		if !filepath.IsAbs(path) {
			path = filepath.Join(filepath.Dir(j.settings.path), path)
		}
		var err error
		if secret, err = files.ReadSecret(path, config.SharedSecretInFile); err != nil {
			return []Finding{problem(subject, "write the secret into that file"+thenRestart, "%v", err)}
		}
	}
	return []Finding{j.compareSecret(subject, secret, j.settings.write("the secret of this service's --"+config.FlagShareSecretFile, key))}
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
