// config_files.go owns the files that a config is made of: registration.yaml and those of secrets.

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/files"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
	"github.com/ethereum/go-ethereum/log"
)

// readRegistration takes the tokens from registration.yaml, which a flag may repeat but not contradict.
func (c *config) readRegistration(path string, required bool) error {
	file, err := files.ReadYAML(path)
	if errors.Is(err, os.ErrNotExist) && !required {
		return nil
	}
	if err != nil {
		return err
	}
	for _, token := range []struct {
		key, flag string
		given     *string
	}{{"as_token", flagASToken, &c.asToken}, {"hs_token", flagHSToken, &c.hsToken}} {
		value, err := file.Text(token.key)
		switch {
		case err != nil:
			return err
		case value == "":
			return fmt.Errorf("%s has no %s: write it anew with genconfig, or repair it", path, token.key)
		case !names.IsToken(value):
			return fmt.Errorf("%s: %s has characters that no token has: write visible ASCII without spaces", path, token.key)
		case *token.given != "" && *token.given != value:
			return fmt.Errorf("--%s is not the %s of %s, which the homeserver goes by: leave the flag out, or give the same", token.flag, token.key, path)
		}
		*token.given = value
	}
	c.appServiceID, err = file.Text("id")
	return err
}

// sharedSecretInFile is what the file of --sharesecret-file holds.
const sharedSecretInFile = "the homeserver's registration_shared_secret"

// findSecretFiles notes where the secrets of the daemon are.
func (c *config) findSecretFiles() {
	for _, path := range []string{c.registration, c.sharedSecretFile, c.masClientSecretFile, c.ethRPCFile, c.dataPathFile} {
		if path != "" {
			c.secretFiles = append(c.secretFiles, path)
		}
	}
}

// findArguments notes which secrets are in the command line.
func (c *config) findArguments(s flagValues) {
	u, err := names.ParseEthereumURL(c.ethRPC)
	for _, arg := range []struct {
		flag, file string
		isSecret   bool
	}{
		{flagDataPath, flagDataPathFile, c.dataPathFile == "" && names.HasPassword(c.dataPath)},
		{flagShareSecret, flagShareSecretFile, c.sharedSecretFile == "" && c.sharedSecret != ""},
		{flagEthRPC, flagEthRPCFile, c.ethRPCFile == "" && err == nil && names.MayHoldKey(u)},
	} {
		if arg.isSecret && s.inCommandLine(arg.flag) {
			c.secretArgs[arg.flag] = arg.file
		}
	}
}

// printWarnings says at a command that has no log what warnOfReaders says in the daemon's.
func (c config) printWarnings(w io.Writer) {
	for flag, file := range c.secretArgs {
		fmt.Fprintf(w, "%s: warning: a secret is in the command line (--%s), which every user of this machine can see: write it into a file of mode 0600 and give --%s FILE\n", programName, flag, file)
	}
}

// warnOfReaders says which secrets everybody on this machine can read. The tokens of the guide's run.sh are not among
// them: that has a form of its own.
func (c config) warnOfReaders() {
	if len(c.unknownVariables) > 0 {
		log.Warn("The environment has variables with the prefix of this service that mean nothing: correct their names, or unset them", "variables", strings.Join(c.unknownVariables, " "))
	}
	for flag, file := range c.secretArgs {
		log.Warn("A secret is in the command line, which every user of this machine can see: write it into a file of mode 0600 and name that",
			"flag", "--"+flag, "instead", "--"+file)
	}
	for _, path := range c.secretFiles {
		if stat, err := os.Stat(path); err == nil && stat.Mode().Perm()&0o004 != 0 {
			log.Warn("Every user of this machine can read a file of secrets: chmod 0600", "file", path, "mode", fmt.Sprintf("%04o", stat.Mode().Perm()))
		}
	}
}
