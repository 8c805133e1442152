// dendrite_yaml.go judges dendrite.yaml, which has the settings of homeserver.yaml under other names.

package check

import "github.com/SmartMeshFoundation/matrix-regservice/internal/config"

const DendriteFile = "dendrite.yaml" // Dendrite's configuration

// ofDendrite judges dendrite.yaml.
func (j judging) ofDendrite() []Finding {
	s := j.settings
	found := []Finding{fine(DendriteFile, "read %s", s.path), j.serverName(j.subject("global.server_name"), "global", "server_name")}
	add := func(subject string, bad bool, f func(string, line, string, ...any) Finding, do line, reason, good string) {
		if bad {
			found = append(found, f(j.subject(subject), do, "%s", reason))
			return
		}
		found = append(found, fine(j.subject(subject), "%s", good))
	}
	add("global.disable_federation", s.isTrue("global", "disable_federation"), problem, s.write("false", "global", "disable_federation"),
		"it is true: Dendrite then does not say which homeserver it is, and gets passwords longer than it takes", "off")
	add("client_api.registration_disabled", s.at("client_api", "registration_disabled") == false, problem, s.write("true", "client_api", "registration_disabled"),
		"it is false: anybody can make accounts, without a proof", "registration is off")
	found = append(found, j.compareSecret(j.subject("client_api.registration_shared_secret"), s.Text("client_api", "registration_shared_secret"),
		s.write("the secret of this service's --"+config.FlagShareSecretFile, "client_api", "registration_shared_secret").String()))
	limited := s.at("client_api", "rate_limiting", "enabled") != false && s.number(5, "client_api", "rate_limiting", "threshold") < 100
	add("client_api.rate_limiting", limited, warning, s.write("{enabled: false}", "client_api", "rate_limiting"),
		"few requests from one address are let through, and all nodes behind nginx may be one", "off, or raised")
	found = append(found, j.registrationListed("app_service_api", "config_files"))
	add("user_api.bcrypt_cost", s.number(10, "user_api", "bcrypt_cost") > 6, warning, s.write("4", "user_api", "bcrypt_cost"),
		"a registration or login costs up to 60 ms; the passwords are signatures, and 4 is as safe", "low")
	return found
}
