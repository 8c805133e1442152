// check_run.go owns what check is given to judge, and its rules in their order.

package main

import (
	"context"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
)

// Flags of check itself, which its cures name.
const (
	flagHomeserverConfig = "homeserver-config"
	flagPublicURL        = "public-url"
	flagMASConfig        = "mas-config"
)

// A checkInput is what there is to judge, and whom to ask of what only the program knows.
type checkInput struct {
	config       config.Config // from the flags, and from run.sh what they leave out; without what its files hold
	script       config.Script // run.sh
	scriptErr    error         // of reading it
	contradicted []string      // the flags that were given and that run.sh has with other values
	public       string        // the URL where nodes reach homeserver and service

	homeserverConfig []string // the homeserver's settings; those that are here where it is empty
	masConfig        []string // those of Matrix Authentication Service, likewise

	accounts func(config.Config, *homeserver.Client) (homeserver.Accounts, error) // the way of creating accounts that the config names
	daemon   daemonAPI

	storeName string                                      // what a finding may call the store
	readStore func(context.Context) (storeReading, error) // its error is errCheckNoStore or errCheckStoreLocked where that is so
	askStatus func(context.Context) (storeReading, error) // asks the daemon that has the store to itself
}

// A daemonAPI is what the service serves and says, as others see it.
type daemonAPI struct {
	base     string // the path that the url of registration.yaml ends in
	modern   string // below it, where the application-service API is by the specification
	register string // where nodes register

	// forged makes a registration of the right form that nobody can have signed, of the node with this localpart.
	forged func(localpart string) any

	isForged  func(errcode string) bool          // whether it refuses the signature
	isLimited func(errcode string) bool          // whether it asks for fewer requests
	isOurs    func(errcode, message string) bool // whether no other program refuses a call without a token so
}

// A checkRule is a part of the check.
type checkRule struct {
	of    string
	judge func(*liveCheck, context.Context) []finding
}

// checkRules are in the order of their findings. What one rule learns, such as which homeserver it is, those after it use.
var checkRules = []checkRule{
	{"the homeserver: it answers, and is fit", (*liveCheck).homeserverItself},
	{"its settings", (*liveCheck).homeserverSettings},
	{"the settings of Matrix Authentication Service", (*liveCheck).masSettings},
	{"registration.yaml", (*liveCheck).registration},
	{"run.sh", (*liveCheck).runScript},
	{"the secret that accounts are created with", (*liveCheck).secret},
	{"the homeserver takes our token and our secret", (*liveCheck).homeserverAccepts},
	{"Matrix Authentication Service lets us create accounts", (*liveCheck).authenticationService},
	{"the service runs, and the homeserver reaches it", (*liveCheck).service},
	{"nginx passes on what nodes need, and nothing else", (*liveCheck).door},
	{"who can read the store's URL", (*liveCheck).dataPathFile},
	{"the store", (*liveCheck).store},
	{"who is admitted", (*liveCheck).admitted},
}

// runCheck judges everything. It reads and asks; it changes nothing, and creates no user.
func runCheck(ctx context.Context, in checkInput) *checkReport {
	l := newLiveCheck(in)
	for _, rule := range checkRules {
		l.report.add(rule.judge(l, ctx)...)
	}
	return l.report
}

// newLiveCheck reads the tokens and the secret, which the rules need, and asks nobody yet.
func newLiveCheck(in checkInput) *liveCheck {
	l := &liveCheck{checkInput: in, report: &checkReport{Findings: []finding{}}}
	flags := in.script.Flags
	l.report.keepSecret(l.config.ASToken, l.config.HSToken, l.config.SharedSecret, flags[config.FlagASToken], flags[config.FlagHSToken], flags[config.FlagShareSecret])
	registered, err := config.ReadRegistration(l.config.RegistrationPath)
	l.registered = registered
	l.ofRegistration = append(checkRegistrationFile(l.config.RegistrationPath, registered, err), l.takeRegistration(registered, err)...)
	l.ofSecret = l.takeSecret()
	l.report.keepSecret(l.config.ASToken, l.config.HSToken, l.config.SharedSecret, l.config.MASClientSecret)
	l.connect()
	return l
}

func (l *liveCheck) homeserverSettings(context.Context) []finding {
	var found []finding
	for _, s := range readAllSettings(l.homeserverConfig, l.server) {
		l.report.keepSecret(s.secrets()...)
		found = append(found, l.judging(s).findings()...)
	}
	return found
}

func (l *liveCheck) masSettings(context.Context) []finding {
	s := readMASSettings(l.masConfig)
	if s == nil || !l.config.Way.IsApart {
		return nil
	}
	l.report.keepSecret(s.masSecrets()...)
	return l.judging(*s).masFindings()
}

func (l *liveCheck) judging(s settingsFile) judging {
	return judging{settings: s, config: l.config, server: l.server, registration: l.config.RegistrationPath, public: l.public}
}

func (l *liveCheck) registration(context.Context) []finding { return l.ofRegistration }

func (l *liveCheck) runScript(context.Context) []finding {
	return judgeScript(l.script, l.scriptErr, l.contradicted, l.registered)
}

func (l *liveCheck) secret(context.Context) []finding { return l.ofSecret }
