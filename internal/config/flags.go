// flags.go owns the table of the flags that every command accepts. The command line, the help, the names in the environment, the
// contents of run.sh and check's reading of it all come from the table. A further limit, too, is a row of it, and a field of Limits.

package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/urfave/cli/v3"
)

// Program is what this program is called.
const Program = "matrix-regservice"

const (
	FlagForce     = "force"      // of the commands that replace files
	FlagNewTokens = "new-tokens" // of genconfig

	FlagMatrixDomain        = "matrixdomain"
	FlagMatrixURL           = "matrixurl"
	FlagASToken             = "astoken"
	FlagHSToken             = "hstoken"
	FlagRegistration        = "registration"
	FlagShareSecret         = "sharesecret"
	FlagShareSecretFile     = "sharesecret-file"
	FlagHomeserverURL       = "homeserver-url"
	FlagMASClientID         = "mas-client-id"
	FlagMASClientSecretFile = "mas-client-secret-file"
	FlagHost                = "host"
	FlagPort                = "port"
	FlagDataPath            = "datapath"
	FlagDataPathFile        = "datapath-file"
	FlagVerbosity           = "verbosity"
	FlagOpsListen           = "ops-listen"
	flagOpsListenPublic     = "ops-listen-public"
	flagLogFormat           = "log-format"
	FlagAdmitFile           = "admit-file"
	FlagEthRPC              = "eth-rpc"
	FlagEthRPCFile          = "eth-rpc-file"
	flagMinBalance          = "min-balance"
	flagRateLimit           = "rate-limit"
	flagRateBurst           = "rate-burst"
	flagTotalRateLimit      = "total-rate-limit"
	flagTotalRateBurst      = "total-rate-burst"
	flagTrustedProxies      = "trusted-proxies"
	flagMaxInflight         = "max-inflight"
	FlagMaxConnections      = "max-connections"
)

// A flagKind is the kind of a flag's value.
type flagKind int

const (
	kindText  flagKind = iota
	kindCount          // a whole number, in decimal
	kindRate           // a number, 0 or within bounds
	kindYes            // needs no value on the command line
)

// A scriptUse is how genconfig treats a flag in run.sh.
type scriptUse int

const (
	notInScript   scriptUse = iota // genconfig never writes it
	inScript                       // where the value is not the default
	alwaysInGuide                  // always, in the place that the guide of 2018 has for it
)

// An emptyUse is what an empty value of a flag means.
type emptyUse int

const (
	emptyIsDefault  emptyUse = iota // in the environment, and for a text on the command line too
	emptyIsMistake                  // on the command line; the default in the environment
	emptyOpensAGate                 // an error wherever it stands: without a value everybody may register
)

// A Row is all that is known of a flag.
type Row struct {
	Name   string
	kind   flagKind
	Value  string // the default
	usage  string // with the name of the value in backticks
	ReadBy []string
	script scriptUse
	empty  emptyUse

	key     string // of registration.yaml, whose value the flag repeats
	instead string // the flag in whose place this one can be given
	onlyFor string // the path of --matrixurl with which alone it is of use

	least, most float64 // of a number; 0 is allowed too
	form        string  // of a number, and what to give

	choices []string // where it has few

	at func(*Config) any // where the value goes: a *string, *int, *float64 or *bool
}

var (
	byConfigured = []string{Program, "genconfig", "check"}
	byAll        = append([]string{"register", "ban", "unban"}, byConfigured...)
	byStore      = append([]string{"users", "ban", "unban", "refused", "backup", "restore"}, byConfigured...)
	byRunning    = []string{Program, "check"}
	byLogging    = []string{Program, "genconfig"}
)

// Bounds of the numbers, and the texts for a number beyond them.
const (
	slowestRate = 0.001 // a second: one in a quarter of an hour
	fastestRate = 1e6
	mostAtOnce  = 1_000_000

	portBounds = "a port: give one from 1 to 65535, or 0 for any free one"
	levelForm  = "a level: give one from 0 (silent but for crashes) to 5 (everything)"
	rateForm   = "a rate: give one from 0.001 to 1000000 a second, or 0 for no limit"
	atOnceForm = "a count: give one from 1 to 1000000, or 0 for no limit"
)

var logFormats = []string{"terminal", "logfmt", "json"}

// Choices are the values of the flag, where it has few.
func Choices(flag string) []string {
	if at := slices.IndexFunc(Table, func(row Row) bool { return row.Name == flag }); at >= 0 {
		return Table[at].choices
	}
	return nil
}

// Table is every flag of the root, in the order of the help. For the reasons of the limits see docs/operating.md.
var Table = []Row{
	{Name: FlagMatrixDomain, usage: "server_name of the homeserver, a `NAME` that every signature is over (required)", ReadBy: byAll, script: alwaysInGuide,
		at: func(c *Config) any { return &c.ServerName }},
	{Name: FlagMatrixURL, Value: "http://127.0.0.1:8008" + homeserver.CreateUserPath, usage: "`URL` that creates users; its path says which API: " + homeserver.CreateUserPath + " (Synapse up to 0.34.0), " + homeserver.SharedSecretPath + " (Synapse 1.23.0 or later, Dendrite) or " + homeserver.MASUsersPath + " (Matrix Authentication Service)", ReadBy: byConfigured, script: alwaysInGuide,
		at: func(c *Config) any { return &c.MatrixURL }},
	{Name: FlagASToken, usage: "as_token of " + RegistrationFile + ", a `TOKEN`; better left to the file", ReadBy: byConfigured, script: alwaysInGuide, key: "as_token",
		at: func(c *Config) any { return &c.ASToken }},
	{Name: FlagHSToken, usage: "hs_token of " + RegistrationFile + ", a `TOKEN`; better left to the file", ReadBy: byConfigured, script: alwaysInGuide, key: "hs_token",
		at: func(c *Config) any { return &c.HSToken }},
	{Name: FlagRegistration, Value: RegistrationFile, usage: "`FILE` that as_token and hs_token are read from; the default need not be there", ReadBy: byRunning,
		at: func(c *Config) any { return &c.RegistrationPath }},
	{Name: FlagShareSecret, usage: "registration_shared_secret of the homeserver, a `SECRET`; better in a file", ReadBy: byConfigured, onlyFor: homeserver.SharedSecretPath,
		at: func(c *Config) any { return &c.SharedSecret }},
	{Name: FlagShareSecretFile, usage: "`FILE` that holds the homeserver's registration_shared_secret", ReadBy: byConfigured, script: inScript, instead: FlagShareSecret, onlyFor: homeserver.SharedSecretPath,
		at: func(c *Config) any { return &c.SharedSecretFile }},
	{Name: FlagHomeserverURL, usage: "`URL` of the homeserver's client API, where --" + FlagMatrixURL + " is not the homeserver's but Matrix Authentication Service's", ReadBy: byConfigured, script: inScript,
		at: func(c *Config) any { return &c.homeserverURL }},
	{Name: FlagMASClientID, usage: "`ID` of this service's client at Matrix Authentication Service, a ULID", ReadBy: byConfigured, script: inScript, onlyFor: homeserver.MASUsersPath,
		at: func(c *Config) any { return &c.MASClientID }},
	{Name: FlagMASClientSecretFile, usage: "`FILE` that holds that client's secret", ReadBy: byConfigured, script: inScript, onlyFor: homeserver.MASUsersPath,
		at: func(c *Config) any { return &c.MASClientSecretFile }},
	{Name: FlagHost, Value: "127.0.0.1", usage: "`ADDRESS` to listen on", ReadBy: byConfigured, script: alwaysInGuide,
		at: func(c *Config) any { return &c.Host }},
	{Name: FlagPort, kind: kindCount, Value: "8009", usage: "`PORT` to listen on; 0 is any free one, which the log names", ReadBy: byConfigured, script: alwaysInGuide, most: 65535, form: portBounds,
		at: func(c *Config) any { return &c.Port }},
	{Name: FlagDataPath, Value: ".matrix", usage: "`DIRECTORY` of the store, or its PostgreSQL URL", ReadBy: byStore, script: alwaysInGuide, empty: emptyIsMistake,
		at: func(c *Config) any { return &c.DataPath }},
	{Name: FlagDataPathFile, usage: "`FILE` that holds the PostgreSQL URL of the store, password and all", ReadBy: byStore, script: inScript, empty: emptyIsMistake, instead: FlagDataPath,
		at: func(c *Config) any { return &c.DataPathFile }},
	{Name: FlagVerbosity, kind: kindCount, Value: "3", usage: "`LEVEL` of the log: 0 crit, 1 error, 2 warn, 3 info, 4 debug, 5 trace", ReadBy: byLogging, script: alwaysInGuide, most: 5, form: levelForm, choices: []string{"0", "1", "2", "3", "4", "5"},
		at: func(c *Config) any { return &c.Verbosity }},
	{Name: FlagOpsListen, usage: "`ADDRESS` of /livez, /readyz and /metrics, such as 127.0.0.1:8010; off when empty; port 0 is any free one, which the log names", ReadBy: byConfigured, script: inScript,
		at: func(c *Config) any { return &c.OpsListen }},
	{Name: flagOpsListenPublic, kind: kindYes, Value: "false", usage: "allow an address for --" + FlagOpsListen + " that other machines reach", ReadBy: byConfigured, script: inScript, form: "true or false",
		at: func(c *Config) any { return &c.OpsListenPublic }},
	{Name: flagLogFormat, Value: "terminal", usage: "`FORM` of a log line: terminal, logfmt or json", ReadBy: byLogging, script: inScript, choices: logFormats,
		at: func(c *Config) any { return &c.LogFormat }},
	{Name: FlagAdmitFile, usage: "`FILE` of the addresses that may register, one a line; read again on SIGHUP; without it everybody may", ReadBy: byConfigured, script: inScript, empty: emptyOpensAGate,
		at: func(c *Config) any { return &c.AdmitFile }},
	{Name: FlagEthRPC, usage: "`URL` of an Ethereum node, which tells whether an address holds --" + flagMinBalance + "; one with a key better in a file", ReadBy: byConfigured, script: inScript, empty: emptyOpensAGate,
		at: func(c *Config) any { return &c.EthRPC }},
	{Name: FlagEthRPCFile, usage: "`FILE` that holds that URL", ReadBy: byConfigured, script: inScript, empty: emptyOpensAGate, instead: FlagEthRPC,
		at: func(c *Config) any { return &c.EthRPCFile }},
	{Name: flagMinBalance, usage: "`WEI` that an address must hold on chain to register", ReadBy: byConfigured, script: inScript, empty: emptyOpensAGate,
		at: func(c *Config) any { return &c.minBalanceText }},
	{Name: flagRateLimit, kind: kindRate, Value: "1", usage: "registrations a second, a `RATE` that a client address may ask for; 0: no limit", ReadBy: byConfigured, script: inScript, least: slowestRate, most: fastestRate, form: rateForm,
		at: func(c *Config) any { return &c.Rate }},
	{Name: flagRateBurst, kind: kindCount, Value: "60", usage: "`NUMBER` of them that it may ask for at once; 0: no limit", ReadBy: byConfigured, script: inScript, most: mostAtOnce, form: atOnceForm,
		at: func(c *Config) any { return &c.Burst }},
	{Name: flagTotalRateLimit, kind: kindRate, Value: "10", usage: "new nodes a second in all, a `RATE` counted when their proof holds; 0: no limit", ReadBy: byConfigured, script: inScript, least: slowestRate, most: fastestRate, form: rateForm,
		at: func(c *Config) any { return &c.TotalRate }},
	{Name: flagTotalRateBurst, kind: kindCount, Value: "300", usage: "`NUMBER` of them at once; 0: no limit", ReadBy: byConfigured, script: inScript, most: mostAtOnce, form: atOnceForm,
		at: func(c *Config) any { return &c.TotalBurst }},
	{Name: flagTrustedProxies, Value: "127.0.0.0/8,::1", usage: "`ADDRESSES` and networks whose X-Forwarded-For is trusted, separated by commas", ReadBy: byConfigured, script: inScript,
		at: func(c *Config) any { return &c.trustedProxiesText }},
	{Name: flagMaxInflight, kind: kindCount, Value: "64", usage: "`NUMBER` of attempts that ask the homeserver at once; 0: no limit", ReadBy: byConfigured, script: inScript, most: mostAtOnce, form: atOnceForm,
		at: func(c *Config) any { return &c.MaxInflight }},
	{Name: FlagMaxConnections, kind: kindCount, Value: "2000", usage: "`NUMBER` of open connections; 0: no limit", ReadBy: byConfigured, script: inScript, most: mostAtOnce, form: atOnceForm,
		at: func(c *Config) any { return &c.MaxConnections }},
}

// guideOrder is the order of the flags in the guide's run.sh. The others follow in the table's.
var guideOrder = []string{FlagASToken, FlagHSToken, FlagMatrixURL, FlagHost, FlagPort, FlagDataPath, FlagMatrixDomain, FlagVerbosity}

// rowOf returns the row of the flag, or nil.
func rowOf(name string) *Row {
	for i := range Table {
		if Table[i].Name == name {
			return &Table[i]
		}
	}
	return nil
}

// Variable is the flag's name in the environment.
func (r *Row) Variable() string {
	return environmentPrefix + strings.ToUpper(strings.ReplaceAll(r.Name, "-", "_"))
}

// IsReadBy tells whether the command reads the flag. All accept it.
func (r *Row) IsReadBy(command string) bool { return slices.Contains(r.ReadBy, command) }

// Flags are the flags of the table, for one run: they work before the subcommand's name and after it.
func Flags() []cli.Flag {
	last := new(int)
	var flags []cli.Flag
	for i := range Table {
		row := &Table[i]
		flag := &cli.GenericFlag{
			Name:    row.Name,
			Usage:   row.usage,
			Value:   &argument{row: row, last: last},
			Sources: cli.ValueSourceChain{Chain: []cli.ValueSource{shownVariable(row.Variable())}},
		}
		switch {
		case row.kind == kindYes:
			flags = append(flags, yesFlag{flag})
			continue
		case row.kind == kindText && row.Value != "":
			flag.DefaultText = strconv.Quote(row.Value)
		default:
			flag.DefaultText = row.Value
		}
		flags = append(flags, flag)
	}
	return flags
}

// HelpTemplate is the library's help of a command without subcommands. Of the table it shows only the flags that the command
// reads. The library would show all, since a command accepts all.
func HelpTemplate(command string) string {
	const all = `{{if .VisiblePersistentFlags}}

GLOBAL OPTIONS:{{template "visiblePersistentFlagTemplate" .}}{{end}}`
	var lines strings.Builder
	for i, flag := range Flags() {
		if Table[i].IsReadBy(command) {
			lines.WriteString("\n   " + flag.String())
		}
	}
	shown := ""
	if lines.Len() > 0 {
		shown = "\n\nGLOBAL OPTIONS:" + lines.String() + "\n   " + EnvironmentFlag().String()
	}
	return strings.Replace(cli.CommandHelpTemplate, all, shown, 1)
}

// A yesFlag is shown without a value.
type yesFlag struct{ *cli.GenericFlag }

func (yesFlag) TakesValue() bool { return false }
func (f yesFlag) String() string { return cli.FlagStringer(f) }

// An argument is the value of a flag on the command line. It accepts any text: the command that reads a value checks it, and no
// other command does.
type argument struct {
	row   *Row
	last  *int // place of the last one on the command line
	text  string
	place int // on the command line, from 1; 0 when it is not there
}

func (a *argument) Set(text string) error {
	*a.last++
	a.text, a.place = text, *a.last
	return nil
}

func (a *argument) String() string   { return "" } // the help shows the default, never the value
func (a *argument) Get() any         { return *a }
func (a *argument) IsBoolFlag() bool { return a.row.kind == kindYes }

// A shownVariable names a variable in the help. The library never reads it, so that a flag that is set was in the command line.
type shownVariable string

func (shownVariable) Lookup() (string, bool) { return "", false }
func (shownVariable) IsFromEnv() bool        { return true }
func (v shownVariable) Key() string          { return string(v) }
func (v shownVariable) String() string       { return "environment variable " + strconv.Quote(string(v)) }
func (v shownVariable) GoString() string     { return fmt.Sprintf("shownVariable(%q)", string(v)) }
