// mas.go owns the flags for homeservers with Matrix Authentication Service: where the homeserver itself is, and the client that
// makes accounts.

package config

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/files"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
)

// readHomeserverURL checks --homeserver-url, for a homeserver whose client API is not where accounts are created.
func (c *Config) readHomeserverURL(given string) error {
	if given == "" && c.Way.IsMAS {
		return fmt.Errorf("--%s is missing: --%s is of Matrix Authentication Service, so give the homeserver's own URL as well, such as http://127.0.0.1:8007", FlagHomeserverURL, FlagMatrixURL)
	}
	if given == "" {
		return nil
	}
	u, err := url.Parse(given)
	if err != nil || !names.IsHTTP(u) || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.Trim(u.Path, "/") != "" {
		return fmt.Errorf("--%s is not the http or https URL of a homeserver: give scheme, host and port alone, such as http://127.0.0.1:8007", FlagHomeserverURL)
	}
	c.APIOrigin, c.Origin = c.Origin, u.Scheme+"://"+u.Host
	c.homeserverURL = c.Origin
	return nil
}

// checkMASFlags refuses the flags of Matrix Authentication Service if --matrixurl names another way.
func (c Config) checkMASFlags() error {
	switch {
	case !c.Way.IsMAS && c.MASClientID+c.MASClientSecretFile != "":
		return fmt.Errorf("--%s and --%s are for Matrix Authentication Service, but --%s names %s: use --%s %s%s", FlagMASClientID, FlagMASClientSecretFile, FlagMatrixURL, c.Way.Name, FlagMatrixURL, homeserver.GuideMAS, homeserver.MASUsersPath)
	case c.MASClientID != "" && !names.IsULID(c.MASClientID):
		return fmt.Errorf("--%s is not a ULID: give the client_id of 26 letters and digits that stands in its configuration", FlagMASClientID)
	}
	return nil
}

// ReadMASSecret reads the secret of this service's client at Matrix Authentication Service.
func ReadMASSecret(path string) (string, error) {
	secret, err := files.ReadSecret(path, "the client secret of Matrix Authentication Service")
	if err == nil && !names.IsToken(secret) {
		return "", fmt.Errorf("%s has characters that a client secret cannot have: write visible ASCII without spaces, in one line", path)
	}
	return secret, err
}

// UseMAS returns what to type if Matrix Authentication Service is in charge of the homeserver's accounts.
func (c Config) UseMAS(issuer string) string {
	return "Matrix Authentication Service is in charge (" + issuer + "): use --matrixurl " + homeserver.GuideMAS + homeserver.MASUsersPath + ", with the port of its own listener for adminapi and oauth, --homeserver-url " + c.Origin + ", --mas-client-id and --mas-client-secret-file"
}
