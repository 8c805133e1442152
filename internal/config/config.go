// config.go owns the Config that a command runs with: how it is made of the flags, and checked.

// Package config owns the settings: it reads the flags of its table, the environment, run.sh and registration.yaml, checks them,
// and makes one value of plain data. Nothing else reads a flag of the table, or the environment. It knows no client, store or
// log, and prints nothing.
package config

import (
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
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
	RegistrationFile = "registration.yaml" // the application service's registration, in the homeserver's directory
	HomeserverFile   = "homeserver.yaml"   // the homeserver's own configuration, beside it
	RunFile          = "run.sh"            // which starts the service; genconfig writes it
)

// A Config is everything a command runs with, checked.
type Config struct {
	ServerName string          // the homeserver's server_name
	MatrixURL  string          // where accounts are created: an origin and the path of Way
	Origin     string          // scheme, host and port of the homeserver's client API
	APIOrigin  string          // the origin of --matrixurl; empty if it is the homeserver's
	Way        *homeserver.Way // of creating accounts

	AppServiceID     string // of registration.yaml; empty without it
	ASToken          string
	HSToken          string
	SharedSecret     string
	SharedSecretFile string // where SharedSecret came from; empty if it was given itself

	MASClientID         string
	MASClientSecret     string
	MASClientSecretFile string

	Host      string
	Port      int
	DataPath  string // a directory, or a PostgreSQL URL
	Verbosity int
	LogFormat string

	OpsListen       string // address of health and metrics; empty for none
	OpsListenPublic bool

	Limits

	AdmitFile  string   // the list of who may register; empty for everybody
	EthRPC     string   // the URL of an Ethereum node, which may hold a key; empty where no balance is asked for
	EthRPCFile string   // where EthRPC came from; empty if it was given itself
	MinBalance *big.Int // in wei; nil where no balance is asked for

	DataPathFile string // where DataPath came from; empty if it was given itself

	RegistrationPath   string // the file's name
	homeserverURL      string // Origin as it is given; empty if --matrixurl gives it
	minBalanceText     string // MinBalance as it is given
	trustedProxiesText string // TrustedProxies as they are given

	UnknownVariables []string // of the environment, that have this program's prefix and mean nothing

	SecretFiles []string          // every file that a secret was read from
	SecretArgs  map[string]string // flags that have a secret in the command line, and the flags of a file in their place
}

// Limits are the limits on clients and connections. 0 is no limit.
type Limits struct {
	Rate, TotalRate   float64 // a second
	Burst, TotalBurst int
	TrustedProxies    []netip.Prefix
	MaxInflight       int
	MaxConnections    int
}

// Read makes the Config of the values, and checks it. It does not read the files of secrets.
func Read(s Values) (Config, error) {
	unknown, err := checkEnvironment()
	if err != nil {
		return Config{}, err
	}
	c := Config{UnknownVariables: unknown, SecretArgs: map[string]string{}}
	if err := s.into(&c); err != nil {
		return Config{}, err
	}
	if err := CheckServerName(c.ServerName); err != nil {
		return Config{}, err
	}
	if err := c.readMatrixURL(); err != nil {
		return Config{}, err
	}
	if err := c.readHomeserverURL(c.homeserverURL); err != nil {
		return Config{}, err
	}
	if err := c.checkMASFlags(); err != nil {
		return Config{}, err
	}
	if err := c.checkOpsListen(); err != nil {
		return Config{}, err
	}
	if err := c.readDataPath(); err != nil {
		return Config{}, err
	}
	if err := c.readMinBalance(c.minBalanceText); err != nil {
		return Config{}, err
	}
	if c.TrustedProxies, err = names.ParseNetworks(c.trustedProxiesText); err != nil {
		return Config{}, fmt.Errorf("%s: %w", s.spell(flagTrustedProxies), err)
	}
	switch {
	case !names.IsHost(c.Host):
		return Config{}, fmt.Errorf("%s %q is not an address or a host name: give one without a port, such as 127.0.0.1", s.spell(FlagHost), redact.Mask(c.Host))
	case !slices.Contains(logFormats, c.LogFormat):
		return Config{}, fmt.Errorf("%s %q is not a format: give terminal, logfmt or json", s.spell(flagLogFormat), redact.Mask(c.LogFormat))
	case !c.Way.TakesSecret && c.SharedSecret+c.SharedSecretFile != "":
		return Config{}, fmt.Errorf("a shared secret is given, but --%s names %s, which takes none: use --%s http://127.0.0.1:8007%s", FlagMatrixURL, c.Way.Name, FlagMatrixURL, homeserver.SharedSecretPath)
	}
	for name, token := range map[string]string{FlagASToken: c.ASToken, FlagHSToken: c.HSToken} {
		if !names.IsToken(token) {
			return Config{}, fmt.Errorf("%s has characters that no token has: give visible ASCII without spaces", s.spell(name))
		}
	}
	c.findArguments(s)
	return c, nil
}

// ReadStore returns the Config of a command that only reads the store.
func ReadStore(cmd *cli.Command) (Config, error) {
	s := ReadValues(cmd)
	c := Config{SecretArgs: map[string]string{}}
	if err := s.into(&c); err != nil {
		return Config{}, err
	}
	err := c.readDataPath()
	c.findArguments(s)
	return c, err
}

// socketDirs are where the operator's socket of a daemon with its store in PostgreSQL may be, if systemd names no directory.
var socketDirs = []string{".matrix", "/run/" + Program}

// SocketDirs returns the directories that may hold the operator's socket. The daemon makes it in the first.
func SocketDirs(dataPath string) []string {
	if !names.IsPostgres(dataPath) {
		return []string{dataPath}
	}
	if dir, _, _ := strings.Cut(os.Getenv("RUNTIME_DIRECTORY"), ":"); dir != "" {
		return []string{dir}
	}
	return socketDirs
}

// readDataPath reads the URL of the store from its file, if there is one, and checks the path.
func (c *Config) readDataPath() error {
	if file := c.DataPathFile; file != "" {
		var err error
		if c.DataPath, err = files.ReadSecret(file, "the URL of the store"); err != nil {
			return err
		}
		if !names.IsPostgres(c.DataPath) { // it would be a directory, whose name is logged, and the file was to hold a password
			return fmt.Errorf("--%s: %s holds no PostgreSQL URL: write one such as postgres://USER:PASSWORD@HOST/DATABASE, or give the directory of the store with --%s", FlagDataPathFile, file, FlagDataPath)
		}
	}
	return checkDataPath(c.DataPath)
}

// checkDataPath refuses a path that is neither a directory nor a PostgreSQL URL. It does not quote it: it may hold a password.
func checkDataPath(dataPath string) error {
	const what = "give a directory, or a URL such as postgres://USER@HOST/DATABASE"
	switch scheme, _, isURL := strings.Cut(dataPath, "://"); {
	case dataPath == "":
		return fmt.Errorf("--%s is empty: give the directory of the store, such as .matrix", FlagDataPath)
	case names.IsPostgres(dataPath):
		return pgdb.CheckURL(dataPath)
	case isURL && !strings.Contains(scheme, "/"):
		return fmt.Errorf("--%s is a URL that is not PostgreSQL's: give a directory, or one that begins with postgres://", FlagDataPath)
	case names.IsNearlyPostgres(dataPath):
		return fmt.Errorf("--%s looks like a PostgreSQL URL but is not a valid one: %s, with a password's special characters percent-encoded; if a directory is meant, begin its name with ./", FlagDataPath, what)
	case dataPath[0] == '~':
		return fmt.Errorf("--%s begins with ~, which no shell has replaced: give the whole path, or ./%s if that is meant", FlagDataPath, "~…")
	}
	return nil
}

// checkOpsListen refuses an address that other machines reach, unless a second flag allows it: metrics tell what a homeserver
// does.
func (c *Config) checkOpsListen() error {
	if c.OpsListen == "" {
		return nil
	}
	host, port, err := net.SplitHostPort(c.OpsListen)
	if err != nil || !names.IsPort(port) && !names.IsAnyPort(port) || host != "" && !names.IsHost(host) {
		return fmt.Errorf("--%s %q is not an address and a port: give such as 127.0.0.1:8010", FlagOpsListen, c.OpsListen)
	}
	if !names.IsLoopback(host) && !c.OpsListenPublic {
		return fmt.Errorf("--%s %q can be reached from other machines: give an address such as 127.0.0.1:8010, or --%s if that is meant", FlagOpsListen, c.OpsListen, flagOpsListenPublic)
	}
	return nil
}

// RefuseAnyPort refuses port 0, for commands that have to know the port: it is another port at each start.
func RefuseAnyPort(port int, opsListen string) error {
	if port == 0 {
		return fmt.Errorf("--%s 0 is another port at each start, and the homeserver and nginx need a fixed one: give one from 1 to 65535", FlagPort)
	}
	if _, opsPort, err := net.SplitHostPort(opsListen); err == nil && names.IsAnyPort(opsPort) {
		return fmt.Errorf("--%s %q is another port at each start, and Prometheus needs a fixed one: give such as 127.0.0.1:8010", FlagOpsListen, opsListen)
	}
	return nil
}

// ReadServing returns the Config of the daemon, with the secrets, also to a command that does in a daemon's place what it would do.
func ReadServing(cmd *cli.Command) (Config, error) {
	s := readValuesOf(cmd, Program)
	c, err := Read(s)
	if err != nil {
		return Config{}, err
	}
	if err := c.readTokens(c.RegistrationPath, s.IsGiven(FlagRegistration)); err != nil {
		return Config{}, err
	}
	if c.SharedSecretFile != "" {
		if c.SharedSecret, err = files.ReadSecret(c.SharedSecretFile, SharedSecretInFile); err != nil {
			return Config{}, err
		}
	}
	if c.MASClientSecretFile != "" {
		if c.MASClientSecret, err = ReadMASSecret(c.MASClientSecretFile); err != nil {
			return Config{}, err
		}
	}
	if c.EthRPCFile != "" {
		if err := c.ReadEthRPC(); err != nil {
			return Config{}, err
		}
	}
	c.findSecretFiles()
	missing := func(flag, what string) error {
		return fmt.Errorf("--%s is missing: %s", flag, what)
	}
	const fromFile = "start in the directory of " + RegistrationFile + ", or name the file with --" + FlagRegistration + "; genconfig writes one"
	switch {
	case c.HSToken == "":
		return Config{}, missing(FlagHSToken, fromFile)
	case c.Way.TakesToken && c.ASToken == "":
		return Config{}, missing(FlagASToken, fromFile)
	case c.Way.IsMAS && c.MASClientID == "":
		return Config{}, missing(FlagMASClientID, "give the client_id, a ULID, that Matrix Authentication Service has for this service; genconfig makes one")
	case c.Way.IsMAS && c.MASClientSecret == "":
		return Config{}, missing(FlagMASClientSecretFile, "name the file that holds the secret of that client; genconfig makes one")
	case c.Way.TakesSecret && c.SharedSecret == "":
		return Config{}, missing(FlagShareSecretFile, "name the file that holds the homeserver's registration_shared_secret")
	}
	return c, nil
}

// Address is the address for the daemon's listener. With port 0 only the listener knows the real one.
func (c Config) Address() string { return net.JoinHostPort(c.Host, strconv.Itoa(c.Port)) }

// CheckServerName checks --matrixdomain.
func CheckServerName(name string) error {
	if name == "" {
		return fmt.Errorf("--%s is missing: give the server_name of %s", FlagMatrixDomain, HomeserverFile)
	}
	if err := names.CheckServerName(name); err != nil {
		return fmt.Errorf("--%s %w", FlagMatrixDomain, err)
	}
	return nil
}

// readMatrixURL takes --matrixurl apart.
func (c *Config) readMatrixURL() error {
	u, err := url.Parse(c.MatrixURL)
	var unknown error
	if err == nil {
		c.Way, unknown = homeserver.WayAt(u.Path)
	}
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		return fmt.Errorf("--%s is not an absolute http or https URL: give one such as http://127.0.0.1:8008%s", FlagMatrixURL, homeserver.CreateUserPath)
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return fmt.Errorf("--%s has a user, a query or a fragment: give scheme, host, port and path alone; tokens have flags of their own", FlagMatrixURL)
	case unknown != nil:
		return fmt.Errorf("--%s has a path that no API has: %w", FlagMatrixURL, unknown)
	case !names.IsHost(u.Hostname()) || u.Port() != "" && !names.IsPort(u.Port()):
		return fmt.Errorf("--%s has a host or a port that cannot be: give one such as http://127.0.0.1:8008%s", FlagMatrixURL, homeserver.CreateUserPath)
	}
	c.Origin = u.Scheme + "://" + u.Host
	c.MatrixURL = c.Origin + c.Way.Path
	return nil
}

// IsPlainRemote reports whether tokens and passwords would cross a network in the clear.
func (c Config) IsPlainRemote() bool {
	for _, origin := range []string{c.Origin, c.APIOrigin} {
		if u, err := url.Parse(origin); err == nil && origin != "" && names.IsPlainRemote(u) {
			return true
		}
	}
	return false
}

// OtherWays returns the Config once for each way of the homeserver itself that --matrixurl does not name.
func (c Config) OtherWays() []Config {
	var others []Config
	for _, w := range homeserver.Ways {
		if w != c.Way && !w.IsMAS {
			other := c
			other.APIOrigin, other.Way = "", w
			others = append(others, other)
		}
	}
	return others
}
