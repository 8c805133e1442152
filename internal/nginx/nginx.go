// Package nginx owns the locations that nodes need in nginx, which genconfig prints and check prescribes. It knows only the guide's
// ports, and not where the servers really listen.
package nginx

import (
	"fmt"
	"strings"
)

// Where the servers after nginx listen in the guide.
const (
	GuideHomeserver = "http://127.0.0.1:8007"
	GuideMAS        = "http://127.0.0.1:8080" // the listener for everybody of Matrix Authentication Service
)

// A Location is one location of an nginx server.
type Location struct {
	Match string
	Body  []string
}

// OneLine returns the location on one line, as check prescribes it.
func (l Location) OneLine() string {
	return fmt.Sprintf("location %s { %s }", l.Match, strings.Join(l.Body, " "))
}

// Lines returns the location as in a file of nginx.
func (l Location) Lines(indent string) string {
	const step = "    "
	text := indent + "location " + l.Match + " {\n"
	for _, directive := range l.Body {
		text += indent + step + directive + "\n"
	}
	return text + indent + "}\n"
}

const (
	// Forwards replaces the X-Forwarded-For of a client by the address of the connection.
	Forwards = "proxy_set_header X-Forwarded-For $remote_addr;"

	// noDots refuses dot segments. It is needed if nginx passes the path on as the client wrote it: nginx chooses the location by
	// the decoded and resolved path, so that /_synapse/…/..%2f..%2f_matrix/ is below /_matrix/ for nginx, and not for the homeserver.
	noDots = `if ($request_uri ~* "^[^?]*(/|%2f)(\.|%2e)+(/|%2f|[?#]|$)") { return 404; }`
)

// Matrix passes the homeserver's client and federation APIs on.
func Matrix(homeserver string) Location {
	return Location{"/_matrix/", []string{noDots, "proxy_pass " + homeserver + ";", Forwards}}
}

// Closed blocks the paths below /_matrix/ that make accounts with the shared secret: Synapse up to 0.34.0 has its admin API at
// admin/, and accepts the secret at register as well, under each prefix. Nodes use neither.
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

// Register passes on registrations at the path. proxy_pass has the path as well, so that no other path arrives: without it nginx
// would pass on the path as the client wrote it, such as /regapp/1/transactions/..%2fregister.
func Register(service, path string) Location {
	return Location{"= " + path, []string{"proxy_pass " + service + path + ";", Forwards}}
}
