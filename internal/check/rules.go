// rules.go owns the table of the rules, and the run through it. A rule's judge is in the file that is named after what it reads:
// an answer of homeserver.go, service.go, daemon.go, mas.go or reverse_proxy*.go, or a file's contents (homeserver_yaml*.go,
// dendrite_yaml.go, mas_yaml*.go, registration_yaml*.go, run_script.go, secrets.go, admission.go, store.go).

package check

import (
	"context"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
)

// A rule judges one subject. Its verdicts and its cures are in judge.
type rule struct {
	subject string
	reading string                   // what it reads, or whom it asks
	needs   []string                 // subjects: where one of them stops what follows, this one is not looked at
	when    func(config.Config) bool // nil for always
	unless  string                   // a subject that is measured: where it is ok, what was read here is no problem

	// judge returns what it finds on this subject, and on those of the rules after it that have none of their own. It returns
	// nothing where there is nothing to judge.
	judge func(*checking, context.Context) []Finding
}

// one makes a judge of a function that finds one thing.
func one(judge func(*checking, context.Context) Finding) func(*checking, context.Context) []Finding {
	return func(chk *checking, ctx context.Context) []Finding { return []Finding{judge(chk, ctx)} }
}

// When there is something to judge.
func takesSecret(c config.Config) bool { return c.Way.TakesSecret }
func isMAS(c config.Config) bool       { return c.Way.IsMAS }

// What rules need.
var (
	theHomeserver = []string{subjectHomeserver}
	theService    = []string{subjectService}
	thePublic     = []string{subjectProxy}
	theClient     = []string{subjectMAS + " client", subjectMAS + " scope", subjectMAS + " admin API"}
)

// rules are in the order of cause: what follows from a problem stands after it. The path is where nodes register.
func rules(register string) []rule {
	inSynapse := func(setting string) string { return config.HomeserverFile + " " + setting }
	inDendrite := func(setting string) string { return DendriteFile + " " + setting }
	all := []rule{
		{subject: "environment", reading: "the variables of this command", judge: (*checking).environment},

		{subject: subjectHomeserver, reading: "GET " + versionsPath, judge: one((*checking).homeserverItself)},
		{subject: subjectHomeserver + " server_name", reading: "its key", needs: theHomeserver, judge: one((*checking).homeserverName)},

		{subject: config.HomeserverFile, reading: "the homeserver's settings, for what follows too", judge: (*checking).homeserverSettings},
		{subject: inSynapse("files passed over")},
		{subject: inSynapse("server_name"), unless: subjectHomeserver + " server_name"},
		{subject: inSynapse("enable_registration")},
		{subject: inSynapse("user_directory")},
		{subject: inSynapse("expire_access_token")},
		{subject: inSynapse("trusted_third_party_id_servers")},
		{subject: inSynapse("listeners port"), unless: subjectHomeserver},
		{subject: inSynapse("listeners bind_addresses")},
		{subject: inSynapse("listeners x_forwarded")},
		{subject: inSynapse("listeners webclient")},
		{subject: inSynapse("app_service_config_files"), unless: subjectHomeserver + " as_token"},
		{subject: inSynapse("registration_shared_secret"), unless: subjectHomeserver + " shared secret"},
		{subject: inSynapse("password_config")},
		{subject: inSynapse("matrix_authentication_service"), unless: subjectHomeserver + " registration"},
		{subject: inSynapse("bcrypt_rounds")},
		{subject: inSynapse("limit_usage_by_mau")},
		{subject: inSynapse(homeserver.ProfileLimit.Name())},
		{subject: inSynapse(homeserver.OldMessageLimit.Name())},
	}
	for _, l := range homeserver.RateLimits {
		all = append(all, rule{subject: inSynapse(l.Name())})
	}
	return append(all, []rule{
		{subject: DendriteFile},
		{subject: inDendrite("global.server_name"), unless: subjectHomeserver + " server_name"},
		{subject: inDendrite("global.disable_federation")},
		{subject: inDendrite("client_api.registration_disabled")},
		{subject: inDendrite("client_api.registration_shared_secret"), unless: subjectHomeserver + " shared secret"},
		{subject: inDendrite("client_api.rate_limiting")},
		{subject: inDendrite("app_service_api.config_files"), unless: subjectHomeserver + " as_token"},
		{subject: inDendrite("user_api.bcrypt_cost")},

		{subject: MASFile, reading: "the settings of Matrix Authentication Service, for what follows too", when: isMAS, judge: (*checking).masSettings},
		{subject: MASFile + " clients", unless: subjectMAS + " client"},
		{subject: MASFile + " policy.data.admin_clients", unless: subjectMAS + " scope"},
		{subject: MASFile + " matrix.homeserver", unless: subjectMAS + " server name"},
		{subject: MASFile + " matrix.endpoint"},
		{subject: MASFile + " matrix.secret"},
		{subject: MASFile + " passwords", unless: subjectMAS + " passwords"},
		{subject: MASFile + " account", unless: subjectMAS + " registration"},
		{subject: MASFile + " rate_limiting.login.per_ip"},
		{subject: MASFile + " http.listeners"},

		{subject: subjectAccess, reading: "the modes of what the service reads", unless: subjectService, judge: (*checking).serviceReads},

		{subject: subjectRegistration, reading: "registration.yaml, for what follows too", judge: (*checking).registration},
		{subject: subjectRegistration + " tokens"},
		{subject: subjectRegistration + " namespace"},
		{subject: subjectRegistration + " as Synapse loads it"},

		{subject: subjectRun, reading: "run.sh, for what follows too", judge: (*checking).runScript},
		{subject: subjectRun + " arguments"},
		{subject: subjectRun + " tokens"},
		{subject: subjectRun + " flags"},

		{subject: "shared secret", reading: "its file", judge: (*checking).secret},
		{subject: "client secret"},

		{subject: subjectHomeserver + " registration", reading: "each way of creating accounts", needs: theHomeserver, judge: one((*checking).endpoints)},
		{subject: subjectHomeserver + " as_token", reading: "GET " + homeserver.WhoamiPath, needs: theHomeserver, judge: one((*checking).asToken)},
		{subject: subjectHomeserver + " profiles", reading: "the profile of a user who is not there", needs: theHomeserver, judge: one((*checking).profiles)},
		{subject: config.HomeserverFile + " access", reading: "the modes of what the homeserver reads", judge: (*checking).homeserverReads},
		{subject: subjectHomeserver + " shared secret", reading: "a registration that cannot be made", needs: theHomeserver, when: takesSecret, judge: one((*checking).provedSecret)},

		{subject: subjectMAS + " client", reading: "its token, for the next two too", when: isMAS, judge: (*checking).masClient},
		{subject: subjectMAS + " scope"},
		{subject: subjectMAS + " admin API"},
		{subject: subjectMAS + " passwords", reading: "its site-config, for the next two too", needs: theClient, when: isMAS, judge: (*checking).masSite},
		{subject: subjectMAS + " registration"},
		{subject: subjectMAS + " server name"},
		{subject: subjectHomeserver + " logins", reading: "who logs users in", needs: theHomeserver, when: isMAS, judge: one((*checking).masInCharge)},
		{subject: subjectMAS + " listener", reading: "its admin API at other addresses", when: isMAS, judge: one((*checking).masListener)},

		{subject: subjectService, reading: "a registration that nobody signed", judge: one((*checking).service)},
		{subject: subjectService + " hs_token", reading: "a ping as the homeserver sends it", needs: theService, unless: subjectHomeserver + " ping", judge: one((*checking).hsToken)},
		{subject: subjectRegistration + " url", reading: "the file; what is there; the homeserver's ping", judge: one((*checking).registrationURL)},
		{subject: subjectHomeserver + " ping", reading: "a ping that the homeserver is asked for", needs: []string{subjectHomeserver, subjectHomeserver + " as_token", subjectService}, judge: one((*checking).homeserverPing)},
		{subject: "Ethereum node URL", reading: "the URL, for the next too", judge: (*checking).ethereumNode},
		{subject: "Ethereum node"},
		{subject: subjectService + " readiness", reading: "the daemon's status", needs: theService, judge: one((*checking).readiness)},

		{subject: subjectProxy, reading: "GET " + versionsPath + " at --" + FlagPublicURL, judge: one((*checking).publicDoor)},
		{subject: subjectProxy + " " + register, reading: "a registration that nobody signed", needs: thePublic, judge: one((*checking).proxyRegister)},
		{subject: subjectProxy + " /_matrix", reading: "GET " + versionsPath, needs: thePublic, judge: one((*checking).proxyMatrix)},
		{subject: subjectProxy + " application-service API", reading: "its paths, without a token", needs: thePublic, judge: one((*checking).proxyAppService)},
		{subject: subjectProxy + " /_synapse/admin", reading: "the nonce, there and at the homeserver", needs: thePublic, judge: one((*checking).proxyAdmin)},
		{subject: subjectProxy + " client register", reading: "its paths, there and at the homeserver", needs: thePublic, judge: one((*checking).proxyClientRegister)},
		{subject: subjectProxy + " X-Forwarded-For", reading: "questions with a large header", needs: thePublic, judge: one((*checking).proxyForwarded)},
		{subject: subjectProxy + " released nodes", reading: "a handshake, and plain HTTP", needs: thePublic, judge: (*checking).released},
		{subject: subjectProxy + " login", reading: "which logins there are", needs: thePublic, when: isMAS, judge: one((*checking).proxyLogin)},
		{subject: subjectProxy + " logout", reading: "a logout of nobody", needs: thePublic, when: isMAS, judge: one((*checking).proxyLogout)},
		{subject: subjectProxy + " /api/admin", reading: "a question without a token", needs: thePublic, when: isMAS, judge: one((*checking).proxyMASAdmin)},

		{subject: "store's URL", reading: "its file, and the command line", judge: (*checking).dataPathFile},
		{subject: "store", reading: "the store, or the daemon's status", judge: (*checking).store},

		{subject: "admit file", reading: "the file, and the daemon's status", judge: (*checking).admitFile},
	}...)
}

// Subjects are those of the rules, in their order.
func Subjects(register string) []string {
	var all []string
	for _, r := range rules(register) {
		all = append(all, r.subject)
	}
	return all
}

// Run judges everything. It reads and asks; it changes nothing, and creates no user.
func Run(ctx context.Context, in Input) *Report {
	chk := newChecking(in)
	table := rules(in.Daemon.Register)
	for at, r := range table {
		if r.judge == nil || r.when != nil && !r.when(chk.Config) {
			continue
		}
		if cause, blocked := chk.report.blocked(r.needs); blocked {
			chk.report.add(unseen(r.subject, "of %s", cause).follows(cause))
			for _, its := range table[at+1:] {
				if its.judge != nil {
					break
				}
				chk.report.add(unseen(its.subject, "of %s", cause).follows(cause))
			}
			continue
		}
		chk.report.add(r.judge(chk, ctx)...)
	}
	chk.report.overrule(table)
	chk.report.finish()
	return chk.report
}

// blocked returns the first of the subjects that leaves nothing to ask, or that was not looked at itself because of one.
func (r *Report) blocked(needs []string) (cause string, blocked bool) {
	for _, need := range needs {
		if f, ok := r.of(need); ok && (f.stops || f.unseen && f.causes != "") {
			return need, true
		}
	}
	return "", false
}
