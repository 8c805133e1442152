// secrets.go owns in which files and arguments the secrets are.

package config

import (
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
)

// SharedSecretInFile says in errors what the file of --sharesecret-file holds.
const SharedSecretInFile = "the homeserver's registration_shared_secret"

// findSecretFiles fills SecretFiles.
func (c *Config) findSecretFiles() {
	for _, path := range []string{c.RegistrationPath, c.SharedSecretFile, c.MASClientSecretFile, c.EthRPCFile, c.DataPathFile} {
		if path != "" {
			c.SecretFiles = append(c.SecretFiles, path)
		}
	}
}

// findArguments fills SecretArgs: the secrets that are in the command line.
func (c *Config) findArguments(s Values) {
	u, err := names.ParseEthereumURL(c.EthRPC)
	for _, arg := range []struct {
		flag, file string
		isSecret   bool
	}{
		{FlagDataPath, FlagDataPathFile, c.DataPathFile == "" && names.HasPassword(c.DataPath)},
		{FlagShareSecret, FlagShareSecretFile, c.SharedSecretFile == "" && c.SharedSecret != ""},
		{FlagEthRPC, FlagEthRPCFile, c.EthRPCFile == "" && err == nil && names.MayHoldKey(u)},
	} {
		if arg.isSecret && s.inCommandLine(arg.flag) {
			c.SecretArgs[arg.flag] = arg.file
		}
	}
}
