// config_files.go owns the files that a config is made of: registration.yaml, the file of a secret, and how any YAML is
// read without quoting what stands in it.

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"syscall"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
	"github.com/ethereum/go-ethereum/log"
	"gopkg.in/yaml.v2"
)

// readRegistration takes the tokens from registration.yaml, which a flag may repeat but not contradict.
func (c *config) readRegistration(path string, required bool) error {
	file, err := readYAML(path)
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
		value, err := file.text(token.key)
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
	c.appServiceID, err = file.text("id")
	return err
}

// fileLimit bounds what is read of a file of settings or of a secret, in bytes.
const fileLimit = 1 << 20

// readFile reads a small file whole.
func readFile(path string) ([]byte, error) {
	f, _, err := openRegular(path, fileLimit)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, fileLimit))
}

// openRegular opens a file of at most so many bytes. What is not a regular file is refused: it may have no end, or no
// beginning.
func openRegular(path string, limit int64) (f *os.File, size int64, err error) {
	f, err = os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe would otherwise wait for its writer
	if err != nil {
		return nil, 0, err
	}
	stat, err := f.Stat()
	switch {
	case err != nil:
	case !stat.Mode().IsRegular():
		err = fmt.Errorf("%s is not a regular file", path)
	case stat.Size() > limit:
		err = fmt.Errorf("%s is over %d bytes", path, limit)
	default:
		return f, stat.Size(), nil
	}
	f.Close()
	return nil, 0, err
}

// sharedSecretInFile is what the file of --sharesecret-file holds.
const sharedSecretInFile = "the homeserver's registration_shared_secret"

// readSecret reads a file that holds one secret, as Synapse reads it: without the space around it.
func readSecret(path, holds string) (string, error) {
	content, err := readFile(path)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", holds, err)
	}
	secret := strings.TrimSpace(string(content))
	if secret == "" {
		return "", fmt.Errorf("%s is empty: it should hold %s", path, holds)
	}
	return secret, nil
}

var yamlLineForm = regexp.MustCompile(`line [0-9]+`)

// A yamlFile is a YAML mapping and where it came from, for errors that name the key but never quote a value.
type yamlFile struct {
	path string
	keys map[any]any
}

// readYAML reads a file of settings. The library's own errors quote what stands in the file, a token too, so
// that only their line numbers are passed on.
func readYAML(path string) (yamlFile, error) {
	content, err := readFile(path)
	if err != nil {
		return yamlFile{}, err
	}
	file := yamlFile{path: path}
	if err := yaml.Unmarshal(content, &file.keys); err != nil {
		where := yamlLineForm.FindString(err.Error())
		if where == "" {
			where = "it"
		}
		return yamlFile{}, fmt.Errorf("%s is not a YAML mapping of settings: %s cannot be read", path, where)
	}
	return file, nil
}

// text returns the string under the key, or "" where there is none.
func (f yamlFile) text(key string) (string, error) {
	switch value := f.keys[key].(type) {
	case nil:
		return "", nil
	case string:
		return value, nil
	}
	return "", fmt.Errorf("%s: %s must be a string: put it in quotes", f.path, key)
}

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
