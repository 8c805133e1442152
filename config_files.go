// config_files.go owns what is said of the files and arguments that secrets are in.

package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
	"github.com/ethereum/go-ethereum/log"
)

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
