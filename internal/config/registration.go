// registration.go owns registration.yaml, the application service's registration: one type, which genconfig writes, and the
// daemon and check read.

package config

import (
	"errors"
	"fmt"
	"os"
	"regexp"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/files"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
)

// A Registration is the contents of registration.yaml. The order of its keys is the order in the file.
type Registration struct {
	ID              string     `yaml:"id"`
	HSToken         string     `yaml:"hs_token"`
	ASToken         string     `yaml:"as_token"`
	URL             string     `yaml:"url"`
	SenderLocalpart string     `yaml:"sender_localpart"`
	Protocols       []string   `yaml:"protocols"`
	Namespaces      Namespaces `yaml:"namespaces"`

	Path   string           `yaml:"-"` // the file that it was read from
	faults map[string]error // of the values in that file, by key; none quotes a value
}

// Namespaces are the users, aliases and rooms that the homeserver tells the application service about.
type Namespaces struct {
	Users   []Namespace `yaml:"users"`
	Aliases []Namespace `yaml:"aliases"`
	Rooms   []Namespace `yaml:"rooms"`
}

// A Namespace is one pattern of them.
type Namespace struct {
	Exclusive bool   `yaml:"exclusive"`
	Regex     string `yaml:"regex"`
}

// NodesAlone is the pattern of the users that nodes are, and nobody else: it serves all that this service does.
func NodesAlone(serverName string) string {
	return fmt.Sprintf("^@0x[0-9a-f]{%d}:%s$", names.AddressDigits, regexp.QuoteMeta(serverName))
}

// ReadRegistration reads the file. A value that should be a string and is not is a fault of its key and not an error, so that a
// command fails only for the keys that it needs.
func ReadRegistration(path string) (Registration, error) {
	r := Registration{Path: path, faults: map[string]error{}}
	file, err := files.ReadYAML(path)
	if err != nil {
		return r, err
	}
	for key, to := range map[string]*string{"id": &r.ID, "hs_token": &r.HSToken, "as_token": &r.ASToken, "url": &r.URL, "sender_localpart": &r.SenderLocalpart} {
		if *to, err = file.Text(key); err != nil {
			r.faults[key] = err
		}
	}
	spaces, _ := file.Keys["namespaces"].(map[any]any)
	r.Namespaces = Namespaces{Users: readNamespaces(spaces["users"]), Aliases: readNamespaces(spaces["aliases"]), Rooms: readNamespaces(spaces["rooms"])}
	return r, nil
}

// readNamespaces reads a list of namespaces. The Regex is empty if it is not a string.
func readNamespaces(list any) (read []Namespace) {
	spaces, _ := list.([]any)
	for _, space := range spaces {
		keys, _ := space.(map[any]any)
		var n Namespace
		n.Regex, _ = keys["regex"].(string)
		n.Exclusive, _ = keys["exclusive"].(bool)
		read = append(read, n)
	}
	return read
}

// Text returns the string under the key, which is "" where there is none.
func (r Registration) Text(key string) (string, error) {
	return map[string]string{"id": r.ID, "hs_token": r.HSToken, "as_token": r.ASToken, "url": r.URL, "sender_localpart": r.SenderLocalpart}[key], r.faults[key]
}

// readTokens takes the tokens from registration.yaml, which a flag may repeat but not contradict.
func (c *Config) readTokens(path string, required bool) error {
	file, err := ReadRegistration(path)
	if errors.Is(err, os.ErrNotExist) && !required {
		return nil
	}
	if err != nil {
		return err
	}
	for _, token := range []struct {
		key, flag string
		given     *string
	}{{"as_token", FlagASToken, &c.ASToken}, {"hs_token", FlagHSToken, &c.HSToken}} {
		value, err := file.Text(token.key)
		switch {
		case err != nil:
			return err
		case value == "":
			return fmt.Errorf("%s has no %s: write it anew with genconfig, or repair it", path, token.key)
		case !names.IsToken(value):
			return fmt.Errorf("%s: %s has characters that no token has: write visible ASCII without spaces", path, token.key)
		case *token.given != "" && *token.given != value:
			return fmt.Errorf("--%s is not the %s of %s, which the homeserver uses: leave the flag out, or give the same", token.flag, token.key, path)
		}
		*token.given = value
	}
	c.AppServiceID, err = file.Text("id")
	return err
}
