// secrets.go judges the files of secrets: whether they are there, and who can read them.

package check

import (
	"context"
	"fmt"
	"os"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/files"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/shell"
)

// takeSecret reads the secret that accounts are made with.
func (chk *checking) takeSecret() []Finding {
	const subject = "shared secret"
	c := &chk.Config
	if c.Way.IsMAS {
		return chk.takeMASSecret()
	}
	if !c.Way.TakesSecret {
		return nil
	}
	if c.SharedSecretFile == "" {
		if c.SharedSecret == "" {
			return []Finding{problem(subject, "start the service with --"+config.FlagShareSecretFile+" FILE, the file that holds the homeserver's registration_shared_secret", "this service has none, and makes no account without")}
		}
		if c.SecretArgs[config.FlagShareSecret] == "" {
			return []Finding{fine(subject, "it is in the environment")}
		}
		return []Finding{warning(subject, "write it into a file of mode 0600 and give --"+config.FlagShareSecretFile+" FILE instead", "it is in the command line, which other users of the machine see")}
	}
	var err error
	if c.SharedSecret, err = files.ReadSecret(c.SharedSecretFile, config.SharedSecretInFile); err != nil {
		return []Finding{problem(subject, cureOf(err, "name the file that holds the homeserver's registration_shared_secret with --"+config.FlagShareSecretFile), "%v", err)}
	}
	return []Finding{judgeMode(subject, c.SharedSecretFile, 0o600)}
}

// takeMASSecret reads the secret of the client at Matrix Authentication Service.
func (chk *checking) takeMASSecret() []Finding {
	const subject = "client secret"
	c := &chk.Config
	do := "write them into " + config.RunFile + ", or the service's environment: genconfig --" + config.FlagForce + " makes both"
	if c.MASClientID == "" || c.MASClientSecretFile == "" {
		return []Finding{problem(subject, do, "this service has no --%s or no --%s, and makes no account without", config.FlagMASClientID, config.FlagMASClientSecretFile)}
	}
	var err error
	if c.MASClientSecret, err = config.ReadMASSecret(c.MASClientSecretFile); err != nil {
		return []Finding{problem(subject, cureOf(err, "name the file that holds the client's secret with --"+config.FlagMASClientSecretFile), "%v", err)}
	}
	return []Finding{judgeMode(subject, c.MASClientSecretFile, 0o600)}
}

// judgeMode compares the mode of a file of secrets with the mode that it should have.
func judgeMode(subject, path string, want os.FileMode) Finding {
	stat, err := os.Stat(path)
	if err != nil {
		return problem(subject, cureOf(err, "see that it is there"), "%v", err)
	}
	do := "type: " + paste(fmt.Sprintf("chmod %04o %s", want, shell.Quote(path)))
	switch mode := stat.Mode().Perm(); {
	case mode&0o007 != 0:
		return problem(subject, do, "%s has mode %04o: everybody on this machine can read its secrets", path, mode)
	case mode&want&0o700 != want:
		return problem(subject, do, "%s has mode %04o: its owner cannot use it", path, mode)
	case mode&0o070 != 0:
		return warning(subject, do+", unless the homeserver reads it as a member of its group", "%s has mode %04o: its group can read its secrets", path, mode)
	default:
		return fine(subject, "%s has mode %04o", path, mode)
	}
}

func (chk *checking) secret(context.Context) []Finding {
	path := chk.Config.SharedSecretFile
	if chk.Config.Way.IsMAS {
		path = chk.Config.MASClientSecretFile
	}
	return chk.keptFrom(path, chk.ofSecret)
}
