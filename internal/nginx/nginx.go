// Package nginx owns what is written in nginx for nodes: the locations that genconfig prints and check prescribes. It does
// not know where anything listens, but for the guide's ports.
package nginx

import (
	"fmt"
	"strings"
)

// Where the guide has what nginx passes on to.
const (
	GuideHomeserver = "http://127.0.0.1:8007"
	GuideMAS        = "http://127.0.0.1:8080" // the listener for everybody of Matrix Authentication Service
)

// A Location is one location of an nginx server.
type Location struct {
	Match string
	Body  []string
}

// OneLine is how check prescribes it.
func (l Location) OneLine() string {
	return fmt.Sprintf("location %s { %s }", l.Match, strings.Join(l.Body, " "))
}

// Lines is how it stands in a file.
func (l Location) Lines(indent string) string {
	const step = "    "
	text := indent + "location " + l.Match + " {\n"
	for _, directive := range l.Body {
		text += indent + step + directive + "\n"
	}
	return text + indent + "}\n"
}

const (
	// Forwards puts the address of who connected in the place of whatever a client says of itself.
	Forwards = "proxy_set_header X-Forwarded-For $remote_addr;"

	// noDots is needed where the path goes on as the client wrote it. nginx chooses the location by the path that it
	// has decoded and resolved, so that /_synapse/…/..%2f..%2f_matrix/ is under /_matrix/ to it, and not to the homeserver.
	noDots = `if ($request_uri ~* "^[^?]*(/|%2f)(\.|%2e)+(/|%2f|[?#]|$)") { return 404; }`
)

// Matrix passes the homeserver's client and federation APIs on.
func Matrix(homeserver string) Location {
	return Location{"/_matrix/", []string{noDots, "proxy_pass " + homeserver + ";", Forwards}}
}

// Closed keeps from outside what makes accounts with the shared secret: Synapse up to 0.34.0 has its admin API under
// admin/, and takes the secret at register too, under each prefix. Nodes use neither.
func Closed() Location {
	return Location{`~ ^/_matrix/client/(api/)?[^/]+/(register|admin)(/|$)`, []string{"return 404;"}}
}

// Logins passes logins on to Matrix Authentication Service. That reads an access token from the header alone, and Photon
// logs out with its own in the query: without the three lines of bearer each of its logouts is 401 and its session stays.
func Logins(mas string) Location {
	return Location{`~ ^/_matrix/client/(api/)?[^/]+/(login|logout|refresh)(/|$)`, append([]string{noDots, "proxy_pass " + mas + ";", Forwards}, bearer...)}
}

var bearer = []string{
	"set $bearer $http_authorization;",
	`if ($arg_access_token) { set $bearer "Bearer $arg_access_token"; }`,
	"proxy_set_header Authorization $bearer;",
}

// Register passes registrations, which come to the path, on. The path stands in proxy_pass, so that it is the only one that arrives: without
// it nginx sends on what the client wrote, such as /regapp/1/transactions/..%2fregister.
func Register(service, path string) Location {
	return Location{"= " + path, []string{"proxy_pass " + service + path + ";", Forwards}}
}
