// homeserver_yaml_listeners.go judges where Synapse listens: for nginx, and for nobody else.

package check

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
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
			return j.since(1, 0, warning(subject, do, "it takes all nodes for nginx"), problem(subject, do, "it takes all nodes for nginx, and limits the logins of all of them together"))
		}
	}
	return fine(subject, "true")
}

// isLocal reports whether a URL leads to this machine.
func isLocal(text string) bool {
	u, err := url.Parse(text)
	return err == nil && names.IsLoopback(u.Hostname())
}
