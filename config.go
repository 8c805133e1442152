// config.go owns the flags and makes one validated config of them. Nothing else reads a flag or the environment.

package main

import (
	"fmt"
	"math/big"
	"net"
	"net/url"
	"strconv"
	"strings"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/files"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/pgdb"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/redact"
	"github.com/urfave/cli/v3"
)

const (
	registrationFile = "registration.yaml" // the application service's registration, in the homeserver's directory
	homeserverFile   = "homeserver.yaml"   // the homeserver's own configuration, beside it
)

// A config is everything a command runs with, checked.
type config struct {
	serverName string          // the homeserver's server_name
	matrixURL  string          // apiOrigin and the path of way
	origin     string          // the homeserver's, where its client API is
	apiOrigin  string          // of --matrixurl; empty where it is the homeserver's own
	way        *homeserver.Way // of creating accounts

	appServiceID     string // of registration.yaml; empty without it
	asToken          string
	hsToken          string
	sharedSecret     string
	sharedSecretFile string // where sharedSecret came from; empty when it was given itself

	masClientID         string
	masClientSecret     string
	masClientSecretFile string

	host      string
	port      int
	dataPath  string // a directory, or a PostgreSQL URL
	verbosity int
	logFormat string

	opsListen       string // address of health and metrics; empty for none
	opsListenPublic bool

	limits

	admitFile  string   // the list of who may register; empty for everybody
	ethRPC     string   // the URL of an Ethereum node, which may hold a key; empty where no balance is asked for
	ethRPCFile string   // where ethRPC came from; empty when it was given itself
	minBalance *big.Int // in wei; nil where no balance is asked for

	dataPathFile string // where dataPath came from; empty when it was given itself

	registration       string // the file's name
	homeserverURL      string // origin, as it is given where it is not that of matrixURL
	minBalanceText     string // minBalance, as it is given
	trustedProxiesText string // trustedProxies, as they are given

	unknownVariables []string // of the environment, that have this program's prefix and mean nothing

	secretFiles []string          // every file that a secret was read from
	secretArgs  map[string]string // flags that have a secret in the command line, and the flags of a file in their place
}

// readConfig checks what the command was given; the secrets are up to the command.
func readConfig(s flagValues) (config, error) {
	unknown, err := checkEnvironment()
	if err != nil {
		return config{}, err
	}
	c := config{unknownVariables: unknown, secretArgs: map[string]string{}}
	if err := s.into(&c); err != nil {
		return config{}, err
	}
	if err := checkServerName(c.serverName); err != nil {
		return config{}, err
	}
	if err := c.readMatrixURL(); err != nil {
		return config{}, err
	}
	if err := c.readHomeserverURL(c.homeserverURL); err != nil {
		return config{}, err
	}
	if err := c.checkMASFlags(); err != nil {
		return config{}, err
	}
	if err := c.checkOpsListen(); err != nil {
		return config{}, err
	}
	if err := c.readDataPath(); err != nil {
		return config{}, err
	}
	if err := c.readMinBalance(c.minBalanceText); err != nil {
		return config{}, err
	}
	if c.trustedProxies, err = names.ParseNetworks(c.trustedProxiesText); err != nil {
		return config{}, fmt.Errorf("%s: %w", s.spell(flagTrustedProxies), err)
	}
	switch {
	case !names.IsHost(c.host):
		return config{}, fmt.Errorf("%s %q is not an address or a host name: give one without a port, such as 127.0.0.1", s.spell(flagHost), redact.Mask(c.host))
	case c.logFormat != "terminal" && c.logFormat != "logfmt" && c.logFormat != "json":
		return config{}, fmt.Errorf("%s %q is not a format: give terminal, logfmt or json", s.spell(flagLogFormat), redact.Mask(c.logFormat))
	case !c.way.TakesSecret && c.sharedSecret+c.sharedSecretFile != "":
		return config{}, fmt.Errorf("a shared secret is given, but --%s names %s, which takes none: use --%s http://127.0.0.1:8007%s", flagMatrixURL, c.way.Name, flagMatrixURL, homeserver.SharedSecretPath)
	}
	for name, token := range map[string]string{flagASToken: c.asToken, flagHSToken: c.hsToken} {
		if !names.IsToken(token) {
			return config{}, fmt.Errorf("%s has characters that no token has: give visible ASCII without spaces", s.spell(name))
		}
	}
	c.findArguments(s)
	return c, nil
}

// readDataPath is all that a command needs which only looks into the store.
func readDataPath(cmd *cli.Command) (config, error) {
	s := readValues(cmd)
	c := config{secretArgs: map[string]string{}}
	if err := s.into(&c); err != nil {
		return config{}, err
	}
	err := c.readDataPath()
	c.findArguments(s)
	return c, err
}

// readDataPath reads the URL of the store from its file, and checks what names the store.
func (c *config) readDataPath() error {
	if file := c.dataPathFile; file != "" {
		var err error
		if c.dataPath, err = files.ReadSecret(file, "the URL of the store"); err != nil {
			return err
		}
		if !names.IsPostgres(c.dataPath) { // it would be a directory, whose name is logged, and the file was to hold a password
			return fmt.Errorf("--%s: %s holds no PostgreSQL URL: write one such as postgres://USER:PASSWORD@HOST/DATABASE, or give the directory of the store with --%s", flagDataPathFile, file, flagDataPath)
		}
	}
	return checkDataPath(c.dataPath)
}

// checkDataPath refuses what is neither a directory nor a URL that is known. It may hold a password, and is not quoted.
func checkDataPath(dataPath string) error {
	const what = "give a directory, or a URL such as postgres://USER@HOST/DATABASE"
	switch scheme, _, isURL := strings.Cut(dataPath, "://"); {
	case dataPath == "":
		return fmt.Errorf("--%s is empty: give the directory of the store, such as .matrix", flagDataPath)
	case names.IsPostgres(dataPath):
		return pgdb.CheckURL(dataPath)
	case isURL && !strings.Contains(scheme, "/"):
		return fmt.Errorf("--%s is a URL that is not PostgreSQL's: give a directory, or one that begins with postgres://", flagDataPath)
	case names.IsNearlyPostgres(dataPath):
		return fmt.Errorf("--%s looks like a way to PostgreSQL and is no URL of it: %s, with a password's special characters percent-encoded; if a directory is meant, begin its name with ./", flagDataPath, what)
	case dataPath[0] == '~':
		return fmt.Errorf("--%s begins with ~, which no shell has replaced: give the whole path, or ./%s if that is meant", flagDataPath, "~…")
	}
	return nil
}

// checkOpsListen keeps the metrics from other machines unless that was said twice: they tell what a homeserver does.
func (c *config) checkOpsListen() error {
	if c.opsListen == "" {
		return nil
	}
	host, port, err := net.SplitHostPort(c.opsListen)
	if err != nil || !names.IsPort(port) && !names.IsAnyPort(port) || host != "" && !names.IsHost(host) {
		return fmt.Errorf("--%s %q is not an address and a port: give such as 127.0.0.1:8010", flagOpsListen, c.opsListen)
	}
	if !names.IsLoopback(host) && !c.opsListenPublic {
		return fmt.Errorf("--%s %q can be reached from other machines: give an address such as 127.0.0.1:8010, or --%s if that is meant", flagOpsListen, c.opsListen, flagOpsListenPublic)
	}
	return nil
}

// refuseAnyPort refuses port 0, which is another port at each start, where a port has to be known beforehand.
func refuseAnyPort(port int, opsListen string) error {
	if port == 0 {
		return fmt.Errorf("--%s 0 is another port at each start, and the homeserver and nginx have to be told one: give one from 1 to 65535", flagPort)
	}
	if _, opsPort, err := net.SplitHostPort(opsListen); err == nil && names.IsAnyPort(opsPort) {
		return fmt.Errorf("--%s %q is another port at each start, and Prometheus has to be told one: give such as 127.0.0.1:8010", flagOpsListen, opsListen)
	}
	return nil
}

// readServeConfig is the config of the daemon, secrets included.
func readServeConfig(cmd *cli.Command) (config, error) {
	s := readValues(cmd)
	c, err := readConfig(s)
	if err != nil {
		return config{}, err
	}
	if err := c.readTokens(c.registration, s.isGiven(flagRegistration)); err != nil {
		return config{}, err
	}
	if c.sharedSecretFile != "" {
		if c.sharedSecret, err = files.ReadSecret(c.sharedSecretFile, sharedSecretInFile); err != nil {
			return config{}, err
		}
	}
	if c.masClientSecretFile != "" {
		if c.masClientSecret, err = readMASSecret(c.masClientSecretFile); err != nil {
			return config{}, err
		}
	}
	if c.ethRPCFile != "" {
		if err := c.readEthRPC(); err != nil {
			return config{}, err
		}
	}
	c.findSecretFiles()
	missing := func(flag, what string) error {
		return fmt.Errorf("--%s is missing: %s", flag, what)
	}
	const fromFile = "start in the directory of " + registrationFile + ", or name the file with --" + flagRegistration + "; genconfig writes one"
	switch {
	case c.hsToken == "":
		return config{}, missing(flagHSToken, fromFile)
	case c.way.TakesToken && c.asToken == "":
		return config{}, missing(flagASToken, fromFile)
	case c.way.IsApart && c.masClientID == "":
		return config{}, missing(flagMASClientID, "give the client_id, a ULID, that Matrix Authentication Service has for this service; genconfig makes one")
	case c.way.IsApart && c.masClientSecret == "":
		return config{}, missing(flagMASClientSecretFile, "name the file that holds the secret of that client; genconfig makes one")
	case c.way.TakesSecret && c.sharedSecret == "":
		return config{}, missing(flagShareSecretFile, "name the file that holds the homeserver's registration_shared_secret")
	}
	return c, nil
}

// address is where the daemon is to listen; with port 0 its listener alone knows where it does.
func (c config) address() string { return net.JoinHostPort(c.host, strconv.Itoa(c.port)) }

// checkServerName checks --matrixdomain.
func checkServerName(name string) error {
	if name == "" {
		return fmt.Errorf("--%s is missing: give the server_name of %s", flagMatrixDomain, homeserverFile)
	}
	if err := names.CheckServerName(name); err != nil {
		return fmt.Errorf("--%s %w", flagMatrixDomain, err)
	}
	return nil
}

// readMatrixURL takes --matrixurl apart.
func (c *config) readMatrixURL() error {
	u, err := url.Parse(c.matrixURL)
	var unknown error
	if err == nil {
		c.way, unknown = homeserver.WayAt(u.Path)
	}
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		return fmt.Errorf("--%s is not an absolute http or https URL: give one such as http://127.0.0.1:8008%s", flagMatrixURL, homeserver.CreateUserPath)
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return fmt.Errorf("--%s has a user, a query or a fragment: give scheme, host, port and path alone; tokens have flags of their own", flagMatrixURL)
	case unknown != nil:
		return fmt.Errorf("--%s has a path that no API has: %w", flagMatrixURL, unknown)
	case !names.IsHost(u.Hostname()) || u.Port() != "" && !names.IsPort(u.Port()):
		return fmt.Errorf("--%s has a host or a port that cannot be: give one such as http://127.0.0.1:8008%s", flagMatrixURL, homeserver.CreateUserPath)
	}
	c.origin = u.Scheme + "://" + u.Host
	c.matrixURL = c.origin + c.way.Path
	return nil
}

// isPlainRemote tells whether tokens and passwords would cross a network in the clear.
func (c config) isPlainRemote() bool {
	for _, origin := range []string{c.origin, c.apiOrigin} {
		if u, err := url.Parse(origin); err == nil && origin != "" && names.IsPlainRemote(u) {
			return true
		}
	}
	return false
}
