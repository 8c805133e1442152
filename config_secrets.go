// config_secrets.go owns in which files and arguments the secrets are.

package main

import (
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
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
