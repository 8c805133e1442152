// homeserver_yaml.go judges homeserver.yaml for the Synapse that answers: its name, and who can register and be found. The other
// homeserver_yaml_*.go judge its larger settings. They read files and make no calls.

package check

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
)

// homeserverSettings judges every file of the homeserver's settings.
func (chk *checking) homeserverSettings(context.Context) []Finding {
	var found []Finding
	chk.settings = chk.readAllSettings()
	for _, s := range chk.settings {
		chk.report.keepSecret(s.secrets()...)
		found = append(found, chk.judging(s).findings()...)
	}
	return found
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
	return j.withoutHidden(slices.Concat(
		j.filesRead(),
		[]Finding{j.serverName(j.subject("server_name"), "server_name"), j.enableRegistration(), j.userDirectory(), j.expireAccessToken(), j.identityServers()},
		j.listeners(),
		[]Finding{j.registrationListed("app_service_config_files")},
		j.sharedSecret(j.subject("registration_shared_secret")),
		j.needsOfToday(),
	))
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
	before, since := fine(subject, "true"), fine(subject, "not set, and unknown to this version")
	switch on := j.settings.isTrue("expire_access_token"); {
	case on:
		since = warning(subject, "delete expire_access_token; session_lifetime ends sessions", "it has no effect any more")
	default:
		before = warning(subject, j.settings.write("True", "expire_access_token"), "not set, and the guide has it set")
	}
	return j.since(1, 3, before, since)
}

func (j judging) identityServers() Finding {
	const key = "trusted_third_party_id_servers"
	subject := j.subject(key)
	before, since := fine(subject, "none"), fine(subject, "not set, and unknown to this version")
	switch list, isList := j.settings.at(key).([]any); {
	case isList && len(list) > 0:
		before = warning(subject, j.settings.write("[]", key), "it trusts %s, and the guide has them all deleted", count(len(list), "identity server"))
		since = warning(subject, "delete "+key, "it has no effect any more")
	case !isList:
		before = warning(subject, j.settings.write("[]", key), "not set: the default trusts matrix.org and vector.im, and the guide has them all deleted")
	}
	return j.since(1, 4, before, since)
}

func (chk *checking) judging(s settingsFile) judging {
	return judging{settings: s, config: chk.Config, server: chk.server, registration: chk.Config.RegistrationPath, started: chk.process.Dir, public: chk.Public}
}
