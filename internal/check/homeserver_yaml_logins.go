// homeserver_yaml_logins.go judges how Synapse logs nodes in: its passwords, and whether Matrix Authentication Service is in charge.

package check

import (
	"fmt"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
)

// needsOfToday are settings that Synapse up to 0.34 does not have, or has other needs of.
func (j judging) needsOfToday() []Finding {
	if j.config.Way.IsMAS {
		return append([]Finding{j.ownPasswords(), j.authenticationService()}, j.rateLimits()...)
	}
	found := append([]Finding{j.passwordLogin()}, j.rateLimits()...)
	if j.isOld() {
		return found
	}
	return append(found, j.authenticationService(), j.bcryptRounds())
}

func (j judging) passwordLogin() Finding {
	subject := j.subject("password_config")
	switch enabled := j.settings.at("password_config", "enabled"); {
	case enabled != nil && enabled != true:
		return problem(subject, j.settings.write("true", "password_config", "enabled"), "enabled is not true: nodes log in with a password")
	case j.settings.at("password_config", "localdb_enabled") == false:
		return problem(subject, j.settings.write("true", "password_config", "localdb_enabled"), "localdb_enabled is false: nodes log in with a password that is kept there")
	}
	return fine(subject, "nodes can log in with a password")
}

func (j judging) authenticationService() Finding {
	subject := j.subject("matrix_authentication_service")
	inCharge := j.settings.isTrue("matrix_authentication_service", "enabled") || j.settings.isTrue("experimental_features", "msc3861", "enabled")
	switch {
	case j.config.Way.IsMAS && !inCharge:
		return problem(subject, homeserver.MASNotInCharge, "it is not in charge, and --%s names it", config.FlagMatrixURL)
	case j.config.Way.IsMAS:
		return fine(subject, "in charge")
	case inCharge:
		do := fmt.Sprintf("run genconfig --%s with --%s %s%s and --%s %s; or delete it from %s"+thenRestart, config.FlagForce, config.FlagMatrixURL, homeserver.GuideMAS, homeserver.MASUsersPath, config.FlagHomeserverURL, j.config.Origin, j.settings.fileOf("matrix_authentication_service"))
		return problem(subject, do, "it is in charge: it switches shared-secret registration and password login off")
	}
	return fine(subject, "not in charge")
}

// ownPasswords judges that the homeserver has no passwords of its own if Matrix Authentication Service is in charge.
func (j judging) ownPasswords() Finding {
	subject := j.subject("password_config")
	if j.settings.isTrue("password_config", "enabled") {
		return problem(subject, "delete enabled: true from password_config in "+j.settings.fileOf("password_config")+thenRestart, "enabled is true, and the homeserver does not start with it behind Matrix Authentication Service")
	}
	return fine(subject, "passwords are left to Matrix Authentication Service")
}

func (j judging) bcryptRounds() Finding {
	subject := j.subject("bcrypt_rounds")
	if rounds := j.settings.number(12, "bcrypt_rounds"); rounds > 6 { // each one more doubles the time
		return warning(subject, j.settings.write("4", "bcrypt_rounds"), "%v, which costs the homeserver up to 200 ms for each registration and login; the passwords are signatures, and 4 is as safe", rounds)
	}
	return fine(subject, "%v", j.settings.number(12, "bcrypt_rounds"))
}
