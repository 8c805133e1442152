// config_flags.go owns the table of the flags that every command accepts: from it come the command line, the help, the names in
// the environment, what run.sh is made of and what check reads of it.

package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/urfave/cli/v3"
)

// program is what this program is called.
const program = "matrix-regservice"

const (
	flagMatrixDomain        = "matrixdomain"
	flagMatrixURL           = "matrixurl"
	flagASToken             = "astoken"
	flagHSToken             = "hstoken"
	flagRegistration        = "registration"
	flagShareSecret         = "sharesecret"
	flagShareSecretFile     = "sharesecret-file"
	flagHomeserverURL       = "homeserver-url"
	flagMASClientID         = "mas-client-id"
	flagMASClientSecretFile = "mas-client-secret-file"
	flagHost                = "host"
	flagPort                = "port"
	flagDataPath            = "datapath"
	flagDataPathFile        = "datapath-file"
	flagVerbosity           = "verbosity"
	flagOpsListen           = "ops-listen"
	flagOpsListenPublic     = "ops-listen-public"
	flagLogFormat           = "log-format"
	flagAdmitFile           = "admit-file"
	flagEthRPC              = "eth-rpc"
	flagEthRPCFile          = "eth-rpc-file"
	flagMinBalance          = "min-balance"
	flagRateLimit           = "rate-limit"
	flagRateBurst           = "rate-burst"
	flagTotalRateLimit      = "total-rate-limit"
	flagTotalRateBurst      = "total-rate-burst"
	flagTrustedProxies      = "trusted-proxies"
	flagMaxInflight         = "max-inflight"
	flagMaxConnections      = "max-connections"
)

// A flagKind is what the value of a flag is.
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

// A flagRow is all that is known of a flag.
type flagRow struct {
	name   string
	kind   flagKind
	value  string // the default
	usage  string // with the name of the value in backticks
	readBy []string
	script scriptUse
	empty  emptyUse

	key     string // of registration.yaml, whose value the flag repeats
	instead string // the flag in whose place this one can be given
	onlyFor string // the path of --matrixurl with which alone it is of use

	least, most float64 // of a number; 0 is allowed too
	form        string  // of a number, and what to give

	at func(*config) any // where the value goes: a *string, *int, *float64 or *bool
}

var (
	byConfigured = []string{program, "genconfig", "check"}
	byAll        = append([]string{"register"}, byConfigured...)
	byStore      = append([]string{"users", "backup", "restore"}, byConfigured...)
	byRunning    = []string{program, "check"}
	byLogging    = []string{program, "genconfig"}
)

// Bounds of the numbers, and what to say of one beyond them.
const (
	slowestRate = 0.001 // a second: one in a quarter of an hour
	fastestRate = 1e6
	mostAtOnce  = 1_000_000

	portBounds = "a port: give one from 1 to 65535, or 0 for any free one"
	levelForm  = "a level: give one from 0 (silent but for crashes) to 5 (everything)"
	rateForm   = "a rate: give one from 0.001 to 1000000 a second, or 0 for no limit"
	atOnceForm = "a number of them: give one from 1 to 1000000, or 0 for no limit"
)

// flagTable is every flag of the root, in the order of the help. For the reasons of the limits see docs/deployment.md.
var flagTable = []flagRow{
	{name: flagMatrixDomain, usage: "server_name of the homeserver, a `NAME` that every signature is over (required)", readBy: byAll, script: alwaysInGuide,
		at: func(c *config) any { return &c.serverName }},
	{name: flagMatrixURL, value: "http://127.0.0.1:8008" + homeserver.CreateUserPath, usage: "`URL` that creates users; its path says which API: " + homeserver.CreateUserPath + " (Synapse up to 0.34.0), " + homeserver.SharedSecretPath + " (Synapse 1.23.0 or later, Dendrite) or " + homeserver.MASUsersPath + " (Matrix Authentication Service)", readBy: byConfigured, script: alwaysInGuide,
		at: func(c *config) any { return &c.matrixURL }},
	{name: flagASToken, usage: "as_token of " + registrationFile + ", a `TOKEN`; better left to the file", readBy: byConfigured, script: alwaysInGuide, key: "as_token",
		at: func(c *config) any { return &c.asToken }},
	{name: flagHSToken, usage: "hs_token of " + registrationFile + ", a `TOKEN`; better left to the file", readBy: byConfigured, script: alwaysInGuide, key: "hs_token",
		at: func(c *config) any { return &c.hsToken }},
	{name: flagRegistration, value: registrationFile, usage: "`FILE` that as_token and hs_token are read from; the default need not be there", readBy: byRunning,
		at: func(c *config) any { return &c.registration }},
	{name: flagShareSecret, usage: "registration_shared_secret of the homeserver, a `SECRET`; better in a file", readBy: byConfigured, onlyFor: homeserver.SharedSecretPath,
		at: func(c *config) any { return &c.sharedSecret }},
	{name: flagShareSecretFile, usage: "`FILE` that holds the homeserver's registration_shared_secret", readBy: byConfigured, script: inScript, instead: flagShareSecret, onlyFor: homeserver.SharedSecretPath,
		at: func(c *config) any { return &c.sharedSecretFile }},
	{name: flagHomeserverURL, usage: "`URL` of the homeserver's client API, where --" + flagMatrixURL + " is not the homeserver's but Matrix Authentication Service's", readBy: byConfigured, script: inScript,
		at: func(c *config) any { return &c.homeserverURL }},
	{name: flagMASClientID, usage: "`ID` of this service's client at Matrix Authentication Service, a ULID", readBy: byConfigured, script: inScript, onlyFor: homeserver.MASUsersPath,
		at: func(c *config) any { return &c.masClientID }},
	{name: flagMASClientSecretFile, usage: "`FILE` that holds that client's secret", readBy: byConfigured, script: inScript, onlyFor: homeserver.MASUsersPath,
		at: func(c *config) any { return &c.masClientSecretFile }},
	{name: flagHost, value: "127.0.0.1", usage: "`ADDRESS` to listen on", readBy: byConfigured, script: alwaysInGuide,
		at: func(c *config) any { return &c.host }},
	{name: flagPort, kind: kindCount, value: "8009", usage: "`PORT` to listen on; 0 is any free one, which the log names", readBy: byConfigured, script: alwaysInGuide, most: 65535, form: portBounds,
		at: func(c *config) any { return &c.port }},
	{name: flagDataPath, value: ".matrix", usage: "`DIRECTORY` of the store, or its PostgreSQL URL", readBy: byStore, script: alwaysInGuide, empty: emptyIsMistake,
		at: func(c *config) any { return &c.dataPath }},
	{name: flagDataPathFile, usage: "`FILE` that holds the PostgreSQL URL of the store, password and all", readBy: byStore, script: inScript, empty: emptyIsMistake, instead: flagDataPath,
		at: func(c *config) any { return &c.dataPathFile }},
	{name: flagVerbosity, kind: kindCount, value: "3", usage: "`LEVEL` of the log: 0 crit, 1 error, 2 warn, 3 info, 4 debug, 5 trace", readBy: byLogging, script: alwaysInGuide, most: 5, form: levelForm,
		at: func(c *config) any { return &c.verbosity }},
	{name: flagOpsListen, usage: "`ADDRESS` of /livez, /readyz and /metrics, such as 127.0.0.1:8010; off when empty; port 0 is any free one, which the log names", readBy: byConfigured, script: inScript,
		at: func(c *config) any { return &c.opsListen }},
	{name: flagOpsListenPublic, kind: kindYes, value: "false", usage: "allow an address for --" + flagOpsListen + " that other machines reach", readBy: byConfigured, script: inScript, form: "true or false",
		at: func(c *config) any { return &c.opsListenPublic }},
	{name: flagLogFormat, value: "terminal", usage: "`FORM` of a log line: terminal, logfmt or json", readBy: byLogging, script: inScript,
		at: func(c *config) any { return &c.logFormat }},
	{name: flagAdmitFile, usage: "`FILE` of the addresses that may register, one a line; read again on SIGHUP; without it everybody may", readBy: byConfigured, script: inScript, empty: emptyOpensAGate,
		at: func(c *config) any { return &c.admitFile }},
	{name: flagEthRPC, usage: "`URL` of an Ethereum node, which tells whether an address holds --" + flagMinBalance + "; one with a key better in a file", readBy: byConfigured, script: inScript, empty: emptyOpensAGate,
		at: func(c *config) any { return &c.ethRPC }},
	{name: flagEthRPCFile, usage: "`FILE` that holds that URL", readBy: byConfigured, script: inScript, empty: emptyOpensAGate, instead: flagEthRPC,
		at: func(c *config) any { return &c.ethRPCFile }},
	{name: flagMinBalance, usage: "`WEI` that an address must hold on chain to register", readBy: byConfigured, script: inScript, empty: emptyOpensAGate,
		at: func(c *config) any { return &c.minBalanceText }},
	{name: flagRateLimit, kind: kindRate, value: "1", usage: "registrations a second, a `RATE` that a client address may ask for; 0: no limit", readBy: byConfigured, script: inScript, least: slowestRate, most: fastestRate, form: rateForm,
		at: func(c *config) any { return &c.rate }},
	{name: flagRateBurst, kind: kindCount, value: "60", usage: "`NUMBER` of them that it may ask for at once; 0: no limit", readBy: byConfigured, script: inScript, most: mostAtOnce, form: atOnceForm,
		at: func(c *config) any { return &c.burst }},
	{name: flagTotalRateLimit, kind: kindRate, value: "10", usage: "new nodes a second in all, a `RATE` counted when their proof holds; 0: no limit", readBy: byConfigured, script: inScript, least: slowestRate, most: fastestRate, form: rateForm,
		at: func(c *config) any { return &c.totalRate }},
	{name: flagTotalRateBurst, kind: kindCount, value: "300", usage: "`NUMBER` of them at once; 0: no limit", readBy: byConfigured, script: inScript, most: mostAtOnce, form: atOnceForm,
		at: func(c *config) any { return &c.totalBurst }},
	{name: flagTrustedProxies, value: "127.0.0.0/8,::1", usage: "`ADDRESSES` and networks whose X-Forwarded-For is believed, with commas between", readBy: byConfigured, script: inScript,
		at: func(c *config) any { return &c.trustedProxiesText }},
	{name: flagMaxInflight, kind: kindCount, value: "64", usage: "`NUMBER` of attempts that ask the homeserver at once; 0: no limit", readBy: byConfigured, script: inScript, most: mostAtOnce, form: atOnceForm,
		at: func(c *config) any { return &c.maxInflight }},
	{name: flagMaxConnections, kind: kindCount, value: "2000", usage: "`NUMBER` of connections that are held at once; 0: no limit", readBy: byConfigured, script: inScript, most: mostAtOnce, form: atOnceForm,
		at: func(c *config) any { return &c.maxConnections }},
}

// guideOrder is the order of the flags in the guide's run.sh. The others follow in the table's.
var guideOrder = []string{flagASToken, flagHSToken, flagMatrixURL, flagHost, flagPort, flagDataPath, flagMatrixDomain, flagVerbosity}

// rowOf returns the row of the flag, or nil.
func rowOf(name string) *flagRow {
	for i := range flagTable {
		if flagTable[i].name == name {
			return &flagTable[i]
		}
	}
	return nil
}

// variable is the flag's name in the environment.
func (r *flagRow) variable() string {
	return environmentPrefix + strings.ToUpper(strings.ReplaceAll(r.name, "-", "_"))
}

// isReadBy tells whether the command reads the flag. All accept it.
func (r *flagRow) isReadBy(command string) bool { return slices.Contains(r.readBy, command) }

// rootFlags are the flags of the table, for one run: they work before the subcommand's name and after it.
func rootFlags() []cli.Flag {
	last := new(int)
	var flags []cli.Flag
	for i := range flagTable {
		row := &flagTable[i]
		flag := &cli.GenericFlag{
			Name:    row.name,
			Usage:   row.usage,
			Value:   &argument{row: row, last: last},
			Sources: cli.ValueSourceChain{Chain: []cli.ValueSource{shownVariable(row.variable())}},
		}
		switch {
		case row.kind == kindYes:
			flags = append(flags, yesFlag{flag})
			continue
		case row.kind == kindText && row.value != "":
			flag.DefaultText = strconv.Quote(row.value)
		default:
			flag.DefaultText = row.value
		}
		flags = append(flags, flag)
	}
	return flags
}

// helpTemplate is the library's help of a command that has no commands of its own, with those flags of the table alone that the
// command reads. The library would show all, since all are accepted.
func helpTemplate(command string) string {
	const all = `{{if .VisiblePersistentFlags}}

GLOBAL OPTIONS:{{template "visiblePersistentFlagTemplate" .}}{{end}}`
	var lines strings.Builder
	for i, flag := range rootFlags() {
		if flagTable[i].isReadBy(command) {
			lines.WriteString("\n   " + flag.String())
		}
	}
	shown := ""
	if lines.Len() > 0 {
		shown = "\n\nGLOBAL OPTIONS:" + lines.String()
	}
	return strings.Replace(cli.CommandHelpTemplate, all, shown, 1)
}

// A yesFlag is shown without a value.
type yesFlag struct{ *cli.GenericFlag }

func (yesFlag) TakesValue() bool { return false }
func (f yesFlag) String() string { return cli.FlagStringer(f) }

// An argument is what a flag was given on the command line. It takes everything: values are checked by the command that reads
// them, and no other.
type argument struct {
	row   *flagRow
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

// A shownVariable names a variable in the help. The library finds nothing in it: that a flag is set means the command line.
type shownVariable string

func (shownVariable) Lookup() (string, bool) { return "", false }
func (shownVariable) IsFromEnv() bool        { return true }
func (v shownVariable) Key() string          { return string(v) }
func (v shownVariable) String() string       { return "environment variable " + strconv.Quote(string(v)) }
func (v shownVariable) GoString() string     { return fmt.Sprintf("shownVariable(%q)", string(v)) }
