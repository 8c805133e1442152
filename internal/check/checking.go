// Package check owns what the check command judges: the rules, each with a subject, a reading, a verdict and a cure, and the
// report. It reads and asks; it changes nothing, and creates no user. It does not know the API of the service, nor how its store
// is kept: the Input brings both.
//
// checking.go owns the Input, and the reading of what the rules need.
package check

import (
	"cmp"
	"context"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/synapse"
)

// Flags of check itself, which its cures name.
const (
	FlagHomeserverConfig = "homeserver-config"
	FlagPublicURL        = "public-url"
	FlagMASConfig        = "mas-config"
)

// An Input is what there is to judge, and functions for what only the program knows.
type Input struct {
	Config       config.Config // from the flags and, for flags that are not given, from run.sh; the files that it names are not read
	Script       config.Script // run.sh
	ScriptErr    error         // of reading it
	Contradicted []string      // flags that were given and have other values in run.sh
	Public       string        // the URL where nodes reach homeserver and service

	HomeserverConfig []string // the homeserver's settings; those that are here where it is empty
	MASConfig        []string // those of Matrix Authentication Service, likewise

	Accounts func(config.Config, *homeserver.Client) (homeserver.Accounts, error) // the way of creating accounts that the config names
	Daemon   DaemonAPI

	StoreName string                                      // what a finding may call the store
	ReadStore func(context.Context) (StoreReading, error) // its error is ErrNoStore or ErrStoreLocked where that is so

	AskStatus    func(context.Context) (DaemonStatus, error) // asks the daemon that serves the store; ErrNoDaemon where there is none
	AskReadiness func(context.Context) ([]Unready, error)    // likewise, or where it serves health; ErrOldDaemon where it does not tell
}

// A DaemonAPI is the API of the service, as its clients see it.
type DaemonAPI struct {
	Base     string // the path that the url of registration.yaml ends in
	Modern   string // below it, where the application-service API is by the specification
	Register string // where nodes register

	// Forged makes a registration of the right form that nobody can have signed, of the node with this localpart.
	Forged func(localpart string) any

	IsForged  func(errcode string) bool          // whether it refuses the signature
	IsLimited func(errcode string) bool          // whether it asks for fewer requests
	IsOurs    func(errcode, message string) bool // whether only this service refuses a call without a token in this way
}

// newChecking reads the tokens and the secret, which the rules need, and asks nobody yet.
func newChecking(in Input) *checking {
	chk := &checking{Input: in, report: &Report{Findings: []Finding{}}}
	flags := in.Script.Flags
	chk.report.keepSecret(chk.Config.ASToken, chk.Config.HSToken, chk.Config.SharedSecret, flags[config.FlagASToken], flags[config.FlagHSToken], flags[config.FlagShareSecret])
	registered, err := config.ReadRegistration(chk.Config.RegistrationPath)
	chk.registered, chk.registeredErr = registered, err
	chk.ofRegistration = append(judgeRegistrationFile(chk.Config.RegistrationPath, registered, err), chk.takeRegistration(registered, err)...)
	chk.ofSecret = chk.takeSecret()
	chk.report.keepSecret(chk.Config.ASToken, chk.Config.HSToken, chk.Config.SharedSecret, chk.Config.MASClientSecret)
	chk.connect()
	chk.process, chk.processErr = synapse.ListeningAt(chk.Config.Origin)
	return chk
}

// A checking is one run of check: its input, and what it has found out so far.
type checking struct {
	Input // its config with the tokens and the secret

	report         *Report
	registered     config.Registration // registration.yaml
	registeredErr  error
	ofRegistration []Finding // what was found when it was read
	ofSecret       []Finding
	kept           []string // the files that the service's user may not read

	settings   []settingsFile  // of the homeserver
	process    synapse.Process // the Synapse that listens where --matrixurl says, as far as it is seen
	processErr error

	homeserver *homeserver.Client
	admin      *homeserver.Client // where accounts are created
	server     homeserver.Software
	answers    bool // the homeserver answers
	isNamed    bool // the homeserver says no other server_name than ours
	accepts    bool // the homeserver accepts the as_token
	runs       bool // a service runs
	atService  registerFound
	pinged     *pinged
	said       *daemonSaid
}

// connect makes the clients.
func (chk *checking) connect() {
	c := chk.Config
	chk.homeserver = homeserver.NewClient(c.Origin, c.ServerName, c.ASToken, c.HSToken, c.SharedSecret, c.MASClientSecret)
	chk.homeserver.ASToken = c.ASToken
	chk.admin = chk.homeserver.At(cmp.Or(c.APIOrigin, c.Origin))
}
