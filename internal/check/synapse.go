// synapse.go judges the larger settings of homeserver.yaml: where Synapse listens, and how it logs nodes in. It also judges
// dendrite.yaml, which has the same settings under other names.

package check

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
)

// A synapseListener is one of the listeners of Synapse that serve HTTP.
type synapseListener struct {
	port      int
	addresses []string
	forwarded bool
	resources []string
	socket    string // the path of a unix socket, in the place of a port
}

// httpListeners returns the listeners that serve HTTP.
func (s settingsFile) httpListeners() []synapseListener {
	var all []synapseListener
	list, _ := s.keys["listeners"].([]any)
	for _, item := range list {
		its := settingsFile{}
		its.keys, _ = item.(map[any]any)
		if its.Text("type") != "http" {
			continue
		}
		_, forwardedSet := its.at("x_forwarded").(bool)
		l := synapseListener{port: int(its.number(0, "port")), addresses: texts(its.at("bind_addresses")), socket: its.Text("path")}
		l.forwarded = its.isTrue("x_forwarded") || l.socket != "" && !forwardedSet
		if one := its.Text("bind_address"); one != "" {
			l.addresses = append(l.addresses, one)
		}
		resources, _ := its.at("resources").([]any)
		for _, resource := range resources {
			names, _ := resource.(map[any]any)
			l.resources = append(l.resources, texts(names["names"])...)
		}
		all = append(all, l)
	}
	return all
}

// texts are the strings of a list.
func texts(value any) []string {
	list, _ := value.([]any)
	var all []string
	for _, item := range list {
		if text, ok := item.(string); ok {
			all = append(all, text)
		}
	}
	return all
}

// exampleListener is what this service needs of the homeserver.
const exampleListener = "{port: 8007, type: http, tls: false, x_forwarded: true, bind_addresses: ['127.0.0.1'], resources: [{names: [client, federation], compress: false}]}"

// unixSocket is the one that the homeserver's clients have to use, or "" where there is a port for them.
func (chk *checking) unixSocket() string {
	socket := ""
	for _, s := range chk.readAllSettings() {
		for _, l := range s.httpListeners() {
			if !slices.Contains(l.resources, "client") {
				continue
			}
			if l.socket == "" {
				return ""
			}
			socket = l.socket
		}
	}
	return socket
}

// listeners judges where the homeserver listens: for nginx, and for nobody else.
func (j judging) listeners() []Finding {
	subject := func(what string) string { return j.subject("listeners " + what) }
	example := j.settings.write("["+exampleListener+"]", "listeners")
	var clients []synapseListener
	hasWebClient := j.settings.isTrue("web_client")
	for _, l := range j.settings.httpListeners() {
		hasWebClient = hasWebClient || slices.Contains(l.resources, "webclient")
		if slices.Contains(l.resources, "client") {
			clients = append(clients, l)
		}
	}
	webClient := fine(subject("webclient"), "not there")
	if hasWebClient {
		do := "take webclient out of the resources in " + j.settings.fileOf("listeners") + ", and web_client: True" + thenRestart
		webClient = j.since(1, 53, warning(webClient.Subject, do, "it serves a web client, and the guide has it out"), problem(webClient.Subject, do, "it does not start with webclient"))
	}
	if len(clients) == 0 {
		return []Finding{problem(subject("port"), example, "none serves the resource client over http"), webClient}
	}
	return []Finding{j.listenerPort(subject("port"), clients), j.listenerAddresses(subject("bind_addresses"), clients), j.listenerForwarded(subject("x_forwarded"), clients), webClient}
}

func (j judging) listenerPort(subject string, clients []synapseListener) Finding {
	do := "write port: 8007 in the place of %[1]d in " + j.settings.fileOf("listeners") + ", and let nginx listen on %[1]d" + thenRestart
	var ports, sockets []string
	reached := false
	for _, l := range clients {
		if l.socket != "" {
			reached, sockets = true, append(sockets, l.socket)
			continue
		}
		if l.port == names.URLPort(j.public) && isLocal(j.public) {
			return problem(subject, fmt.Sprintf(do, l.port), "it listens on %d, where nodes expect nginx (--%s)", l.port, FlagPublicURL)
		}
		reached = reached || l.port == names.URLPort(j.config.Origin)
		ports = append(ports, fmt.Sprint(l.port))
	}
	if j.config.Way.IsMAS && isLocal(j.config.Origin) && !reached {
		return problem(subject, setFlag(config.FlagHomeserverURL, "http://127.0.0.1:"+ports[0]),
			"it listens on %s, and --%s names port %d", strings.Join(ports, ", "), config.FlagHomeserverURL, names.URLPort(j.config.Origin)).follows(subjectHomeserver)
	}
	if j.config.Way.TakesSecret && isLocal(j.config.Origin) && !reached {
		return problem(subject, setFlag(config.FlagMatrixURL, "http://127.0.0.1:"+ports[0]+j.config.Way.Path),
			"it listens on %s, and --%s names port %d", strings.Join(ports, ", "), config.FlagMatrixURL, names.URLPort(j.config.Origin)).follows(subjectHomeserver)
	}
	return fine(subject, "%s", strings.Join(append(ports, sockets...), ", "))
}

func (j judging) listenerAddresses(subject string, clients []synapseListener) Finding {
	for _, l := range clients {
		open := len(l.addresses) == 0 && l.socket == ""
		for _, address := range l.addresses {
			open = open || !names.IsLoopback(address)
		}
		if open {
			return warning(subject, fmt.Sprintf("write for port %d in %s: "+paste("bind_addresses: ['127.0.0.1', '::1']")+thenRestart, l.port, j.settings.fileOf("listeners")),
				"port %d is open to other machines, which go past nginx there, to /_synapse/admin too", l.port)
		}
	}
	return fine(subject, "this machine alone")
}

func (j judging) listenerForwarded(subject string, clients []synapseListener) Finding {
	for _, l := range clients {
		if !l.forwarded {
			do := fmt.Sprintf("write for port %d in %s: "+paste("x_forwarded: true")+thenRestart, l.port, j.settings.fileOf("listeners"))
			return j.since(1, 0, warning(subject, do, "it takes every node for nginx"), problem(subject, do, "it takes every node for nginx, and limits the logins of all of them as one's"))
		}
	}
	return fine(subject, "true")
}

// needsOfToday are settings that Synapse up to 0.34 does not have, or has other needs of.
func (j judging) needsOfToday() []Finding {
	if j.config.Way.IsMAS {
		return append([]Finding{j.ownPasswords(), j.authenticationService()}, j.rateLimits()...)
	}
	found := append([]Finding{j.passwordLogin()}, j.rateLimits()...)
	if j.isOld() {
		return found
	}
	return append(found, j.authenticationService(), j.bcryptRounds())
}

func (j judging) passwordLogin() Finding {
	subject := j.subject("password_config")
	switch enabled := j.settings.at("password_config", "enabled"); {
	case enabled != nil && enabled != true:
		return problem(subject, j.settings.write("true", "password_config", "enabled"), "enabled is not true: nodes log in with a password")
	case j.settings.at("password_config", "localdb_enabled") == false:
		return problem(subject, j.settings.write("true", "password_config", "localdb_enabled"), "localdb_enabled is false: nodes log in with a password that is kept there")
	}
	return fine(subject, "nodes can log in with a password")
}

func (j judging) authenticationService() Finding {
	subject := j.subject("matrix_authentication_service")
	inCharge := j.settings.isTrue("matrix_authentication_service", "enabled") || j.settings.isTrue("experimental_features", "msc3861", "enabled")
	switch {
	case j.config.Way.IsMAS && !inCharge:
		return problem(subject, homeserver.MASNotInCharge, "it is not in charge, and --%s names it", config.FlagMatrixURL)
	case j.config.Way.IsMAS:
		return fine(subject, "in charge")
	case inCharge:
		do := fmt.Sprintf("run genconfig --%s with --%s %s%s and --%s %s; or delete it from %s"+thenRestart, config.FlagForce, config.FlagMatrixURL, homeserver.GuideMAS, homeserver.MASUsersPath, config.FlagHomeserverURL, j.config.Origin, j.settings.fileOf("matrix_authentication_service"))
		return problem(subject, do, "it is in charge: it switches shared-secret registration and password login off")
	}
	return fine(subject, "not in charge")
}

// ownPasswords judges that the homeserver has no passwords of its own if Matrix Authentication Service is in charge.
func (j judging) ownPasswords() Finding {
	subject := j.subject("password_config")
	if j.settings.isTrue("password_config", "enabled") {
		return problem(subject, "delete enabled: true from password_config in "+j.settings.fileOf("password_config")+thenRestart, "enabled is true, and the homeserver does not start with it behind Matrix Authentication Service")
	}
	return fine(subject, "passwords are left to Matrix Authentication Service")
}

func (j judging) bcryptRounds() Finding {
	subject := j.subject("bcrypt_rounds")
	if rounds := j.settings.number(12, "bcrypt_rounds"); rounds > 6 { // each one more doubles the time
		return warning(subject, j.settings.write("4", "bcrypt_rounds"), "%v, which costs the homeserver up to 200 ms for each registration and login; the passwords are signatures, and 4 is as safe", rounds)
	}
	return fine(subject, "%v", j.settings.number(12, "bcrypt_rounds"))
}

// ofDendrite judges dendrite.yaml.
func (j judging) ofDendrite() []Finding {
	s := j.settings
	found := []Finding{fine(DendriteFile, "read %s", s.path), j.serverName(j.subject("global.server_name"), "global", "server_name")}
	add := func(subject string, bad bool, f func(string, line, string, ...any) Finding, do line, reason, good string) {
		if bad {
			found = append(found, f(j.subject(subject), do, "%s", reason))
			return
		}
		found = append(found, fine(j.subject(subject), "%s", good))
	}
	add("global.disable_federation", s.isTrue("global", "disable_federation"), problem, s.write("false", "global", "disable_federation"),
		"it is true: Dendrite then does not say which homeserver it is, and gets passwords longer than it takes", "off")
	add("client_api.registration_disabled", s.at("client_api", "registration_disabled") == false, problem, s.write("true", "client_api", "registration_disabled"),
		"it is false: anybody can make accounts, without a proof", "registration is off")
	found = append(found, j.compareSecret(j.subject("client_api.registration_shared_secret"), s.Text("client_api", "registration_shared_secret"),
		s.write("the secret of this service's --"+config.FlagShareSecretFile, "client_api", "registration_shared_secret").String()))
	limited := s.at("client_api", "rate_limiting", "enabled") != false && s.number(5, "client_api", "rate_limiting", "threshold") < 100
	add("client_api.rate_limiting", limited, warning, s.write("{enabled: false}", "client_api", "rate_limiting"),
		"few requests from one address are let through, and all nodes behind nginx may be one", "off, or raised")
	found = append(found, j.registrationListed("app_service_api", "config_files"))
	add("user_api.bcrypt_cost", s.number(10, "user_api", "bcrypt_cost") > 6, warning, s.write("4", "user_api", "bcrypt_cost"),
		"a registration or login costs up to 60 ms; the passwords are signatures, and 4 is as safe", "low")
	return found
}

// isLocal reports whether a URL leads to this machine.
func isLocal(text string) bool {
	u, err := url.Parse(text)
	return err == nil && names.IsLoopback(u.Hostname())
}
