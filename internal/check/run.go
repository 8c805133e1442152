// Package check owns what the check command judges: its rules, each with a subject, what was found, how bad that is and what to
// do about it, and the report of them. It reads and asks; it changes nothing, and creates no user. It does not know what the
// service's API looks like or how its store is kept: who runs it hands both in.
//
// run.go owns what is given to judge, and the rules in their order.
package check

import (
	"context"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
)

// Flags of check itself, which its cures name.
const (
	FlagHomeserverConfig = "homeserver-config"
	FlagPublicURL        = "public-url"
	FlagMASConfig        = "mas-config"
)

// An Input is what there is to judge, and whom to ask of what only the program knows.
type Input struct {
	Config       config.Config // from the flags, and from run.sh what they leave out; without what its files hold
	Script       config.Script // run.sh
	ScriptErr    error         // of reading it
	Contradicted []string      // the flags that were given and that run.sh has with other values
	Public       string        // the URL where nodes reach homeserver and service

	HomeserverConfig []string // the homeserver's settings; those that are here where it is empty
	MASConfig        []string // those of Matrix Authentication Service, likewise

	Accounts func(config.Config, *homeserver.Client) (homeserver.Accounts, error) // the way of creating accounts that the config names
	Daemon   DaemonAPI

	StoreName string                                      // what a finding may call the store
	ReadStore func(context.Context) (StoreReading, error) // its error is ErrNoStore or ErrStoreLocked where that is so
	AskStatus func(context.Context) (StoreReading, error) // asks the daemon that has the store to itself
}

// A DaemonAPI is what the service serves and says, as others see it.
type DaemonAPI struct {
	Base     string // the path that the url of registration.yaml ends in
	Modern   string // below it, where the application-service API is by the specification
	Register string // where nodes register

	// Forged makes a registration of the right form that nobody can have signed, of the node with this localpart.
	Forged func(localpart string) any

	IsForged  func(errcode string) bool          // whether it refuses the signature
	IsLimited func(errcode string) bool          // whether it asks for fewer requests
	IsOurs    func(errcode, message string) bool // whether no other program refuses a call without a token so
}

// A rule is a part of the check.
type rule struct {
	of    string
	judge func(*checking, context.Context) []Finding
}

// rules are in the order of their findings. What one rule learns, such as which homeserver it is, those after it use.
var rules = []rule{
	{"the homeserver: it answers, and is fit", (*checking).homeserverItself},
	{"its settings", (*checking).homeserverSettings},
	{"the settings of Matrix Authentication Service", (*checking).masSettings},
	{"registration.yaml", (*checking).registration},
	{"run.sh", (*checking).runScript},
	{"the secret that accounts are created with", (*checking).secret},
	{"the homeserver takes our token and our secret", (*checking).homeserverAccepts},
	{"Matrix Authentication Service lets us create accounts", (*checking).authenticationService},
	{"the service runs, and the homeserver reaches it", (*checking).service},
	{"nginx passes on what nodes need, and nothing else", (*checking).door},
	{"who can read the store's URL", (*checking).dataPathFile},
	{"the store", (*checking).store},
	{"who is admitted", (*checking).admitted},
}

// Run judges everything. It reads and asks; it changes nothing, and creates no user.
func Run(ctx context.Context, in Input) *Report {
	l := newChecking(in)
	for _, rule := range rules {
		l.report.add(rule.judge(l, ctx)...)
	}
	return l.report
}

// newChecking reads the tokens and the secret, which the rules need, and asks nobody yet.
func newChecking(in Input) *checking {
	l := &checking{Input: in, report: &Report{Findings: []Finding{}}}
	flags := in.Script.Flags
	l.report.keepSecret(l.Config.ASToken, l.Config.HSToken, l.Config.SharedSecret, flags[config.FlagASToken], flags[config.FlagHSToken], flags[config.FlagShareSecret])
	registered, err := config.ReadRegistration(l.Config.RegistrationPath)
	l.registered = registered
	l.ofRegistration = append(judgeRegistrationFile(l.Config.RegistrationPath, registered, err), l.takeRegistration(registered, err)...)
	l.ofSecret = l.takeSecret()
	l.report.keepSecret(l.Config.ASToken, l.Config.HSToken, l.Config.SharedSecret, l.Config.MASClientSecret)
	l.connect()
	return l
}

func (l *checking) homeserverSettings(context.Context) []Finding {
	var found []Finding
	for _, s := range readAllSettings(l.HomeserverConfig, l.server) {
		l.report.keepSecret(s.secrets()...)
		found = append(found, l.judging(s).findings()...)
	}
	return found
}

func (l *checking) masSettings(context.Context) []Finding {
	s := readMASSettings(l.MASConfig)
	if s == nil || !l.Config.Way.IsApart {
		return nil
	}
	l.report.keepSecret(s.masSecrets()...)
	return l.judging(*s).masFindings()
}

func (l *checking) judging(s settingsFile) judging {
	return judging{settings: s, config: l.Config, server: l.server, registration: l.Config.RegistrationPath, public: l.Public}
}

func (l *checking) registration(context.Context) []Finding { return l.ofRegistration }

func (l *checking) runScript(context.Context) []Finding {
	return judgeScript(l.Script, l.ScriptErr, l.Contradicted, l.registered)
}

func (l *checking) secret(context.Context) []Finding { return l.ofSecret }
