// nginx.go owns what is written in nginx for nodes: the locations that genconfig prints and check prescribes, and that
// README, deploy/nginx.conf and the end-to-end tests are held against.

package main

import (
	"fmt"
	"strings"
)

// A nginxLocation is one location of an nginx server.
type nginxLocation struct {
	match string
	body  []string
}

// oneLine is how check prescribes it.
func (l nginxLocation) oneLine() string {
	return fmt.Sprintf("location %s { %s }", l.match, strings.Join(l.body, " "))
}

// lines is how it stands in a file.
func (l nginxLocation) lines(indent string) string {
	const step = "    "
	text := indent + "location " + l.match + " {\n"
	for _, directive := range l.body {
		text += indent + step + directive + "\n"
	}
	return text + indent + "}\n"
}

const (
	// nginxForwards puts the address of who connected in the place of whatever a client says of itself.
	nginxForwards = "proxy_set_header X-Forwarded-For $remote_addr;"

	// nginxNoDots is needed where the path goes on as the client wrote it. nginx chooses the location by the path that it
	// has decoded and resolved, so that /_synapse/…/..%2f..%2f_matrix/ is under /_matrix/ to it, and not to the homeserver.
	nginxNoDots = `if ($request_uri ~* "^[^?]*(/|%2f)(\.|%2e)+(/|%2f|[?#]|$)") { return 404; }`
)

// nginxMatrix passes the homeserver's client and federation APIs on.
func nginxMatrix(homeserver string) nginxLocation {
	return nginxLocation{"/_matrix/", []string{nginxNoDots, "proxy_pass " + homeserver + ";", nginxForwards}}
}

// nginxClosed keeps from outside what makes accounts with the shared secret: Synapse up to 0.34.0 has its admin API under
// admin/, and takes the secret at register too, under each prefix. Nodes use neither.
func nginxClosed() nginxLocation {
	return nginxLocation{`~ ^/_matrix/client/(api/)?[^/]+/(register|admin)(/|$)`, []string{"return 404;"}}
}

// nginxLogins passes logins on to Matrix Authentication Service.
func nginxLogins(mas string) nginxLocation {
	return nginxLocation{`~ ^/_matrix/client/(api/)?[^/]+/(login|logout|refresh)(/|$)`, []string{nginxNoDots, "proxy_pass " + mas + ";", nginxForwards}}
}

// nginxRegister passes registrations on. The path stands in proxy_pass, so that it is the only one that arrives: without
// it nginx sends on what the client wrote, such as /regapp/1/transactions/..%2fregister.
func nginxRegister(service string) nginxLocation {
	return nginxLocation{"= " + registerPath, []string{"proxy_pass " + service + registerPath + ";", nginxForwards}}
}
