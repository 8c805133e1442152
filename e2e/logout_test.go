// logout_test.go owns that a node's logout reaches Matrix Authentication Service with its token, through every nginx that
// the project shows.

package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
)

// uncommented matches the location for logins of deploy/nginx.conf, which stands there in comments.
var uncommented = regexp.MustCompile(`(?s)    #location ~ \^/_matrix/client/.*?    #\}\n`)

// loginSites are the places that show the location for logins: what is shipped, what the guide shows, what genconfig prints,
// what check prescribes, what the other tests use. Logins of each go to the URL.
func loginSites(t *testing.T, logins, dir, socket string) []rawSite {
	t.Helper()
	root := must(moduleRoot(t.Context()))(t)
	read := func(name string) string { return string(must(os.ReadFile(filepath.Join(root, name)))(t)) }
	server := func(locations string) string {
		return "server { listen unix:" + socket + ";\n" + strings.ReplaceAll(locations, "http://127.0.0.1:8080", logins) + "\n}"
	}

	d := &Deployment{Plan: Plan{Domain: domain}, Gateway: &Gateway{URL: "http://127.0.0.1:1"}, Homeserver: &Homeserver{URL: "http://127.0.0.1:1"}}
	shipped := read("deploy/nginx.conf")
	changes := frontDoorChanges(d, dir, 1, 2)
	for i := 0; i < len(changes); i += 2 {
		shipped = strings.ReplaceAll(shipped, changes[i], changes[i+1])
	}
	shipped = onSocket(uncommented.ReplaceAllStringFunc(shipped, func(location string) string {
		return strings.ReplaceAll(strings.ReplaceAll(location, "    #", "    "), "http://127.0.0.1:8080", logins)
	}), socket)

	shown := regexp.MustCompile(`(?s)        location ~ [^\n]*\(login\|logout\|refresh\).*?\n        \}\n`)
	guide := shown.FindString(read("docs/homeservers/mas.md"))
	used := strings.ReplaceAll(shown.FindString(read("e2e/testdata/nginx.conf")), "{{.Login}}", logins)

	program := must(Build(t.Context(), t.TempDir()))(t)
	flags := []string{"--matrixdomain", domain, "--matrixurl", "http://127.0.0.1:1" + MASPath, "--homeserver-url", "http://127.0.0.1:1"}
	home := t.TempDir()
	printed := must(program.Run(t.Context(), home, append(flags, "genconfig")...))(t)
	steps := regexp.MustCompile(`(?s) +location ~ [^\n]*\(login\|logout\|refresh\).*?\n +\}\n`).FindString(printed.Stdout)

	nothing := httptest.NewServer(http.NotFoundHandler()) // an nginx without any of the locations
	defer nothing.Close()
	said := must(program.Run(t.Context(), home, append(flags, "check", "--json", "--public-url", nothing.URL)...))(t)
	var report struct{ Findings []checkFinding }
	if err := json.Unmarshal([]byte(said.Stdout), &report); err != nil {
		t.Fatalf("%v\n%s%s", err, said.Stdout, said.Stderr)
	}
	cure := ""
	for _, f := range report.Findings {
		if at := strings.Index(f.Do, "location ~ "); at >= 0 && strings.Contains(f.Do, "(login|logout|refresh)") {
			cure = f.Do[at : strings.LastIndex(f.Do, "}")+1]
		}
	}
	return []rawSite{
		{"deploy", shipped, true}, {"docs/homeservers/mas.md", server(guide), false}, {"genconfig", server(steps), false},
		{"check", server(cure), false}, {"testdata", server(used), false},
	}
}

// A token goes on in the header, wherever the node wrote it, and is in no log of deploy/nginx.conf.
func TestLogoutLocation(t *testing.T) {
	need.All(t, NginxInstalled())
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	door := &frontDoor{nginx: &nginx{dir: dir}}
	door.certify(t)
	const token = "mct_aBcD0123456789_x1Y2z3"
	arrivals := make(chan *http.Request, 1)
	logins := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { arrivals <- r }))
	t.Cleanup(logins.Close)
	for _, site := range loginSites(t, logins.URL, dir, socket) {
		t.Run(site.name, func(t *testing.T) {
			dial := serveSite(t, door, site, socket)
			for _, test := range []struct{ path, header, want string }{
				{"r0/logout?access_token=" + token, "", "Bearer " + token},
				{"r0/logout?x=1&access_token=" + token, "", "Bearer " + token},
				{"v3/logout", "Authorization: Bearer " + token + "\r\n", "Bearer " + token},
				{"r0/logout/all?access_token=" + token, "", "Bearer " + token},
				{"r0/logout", "", ""},
				{"r0/login", "", ""},
			} {
				if status := post(t, dial, "/_matrix/client/"+test.path, test.header); status != http.StatusOK {
					t.Errorf("%s: got %d", test.path, status)
					continue
				}
				arrived := <-arrivals
				if got := arrived.Header.Values("Authorization"); strings.Join(got, ",") != test.want {
					t.Errorf("%s: the Authorization header is %q, want %q", test.path, got, test.want)
				}
				if _, unnamed := arrived.Header["X-Forwarded-For"]; !unnamed {
					t.Errorf("%s: the client's address does not arrive", test.path)
				}
				if site.name == "deploy" && (arrived.Host != domain || arrived.Header.Get("X-Forwarded-Proto") != "https") {
					t.Errorf("%s: Host %s, X-Forwarded-Proto %s", test.path, arrived.Host, arrived.Header.Get("X-Forwarded-Proto"))
				}
			}
		})
	}
	log := string(must(os.ReadFile(filepath.Join(dir, "access.log")))(t))
	if !strings.Contains(log, "/_matrix/client/r0/logout") || strings.Contains(log+string(must(os.ReadFile(door.logFile()))(t)), token) {
		t.Errorf("the log of deploy/nginx.conf: %s", log)
	}
}

// post sends one request without a body, and returns the status.
func post(t *testing.T, dial func() (net.Conn, error), target, header string) int {
	t.Helper()
	conn := must(dial())(t)
	defer conn.Close()
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s\r\n%sConnection: close\r\nContent-Length: 2\r\n\r\n{}", target, domain, header)
	res := must(http.ReadResponse(bufio.NewReader(conn), nil))(t)
	res.Body.Close()
	return res.StatusCode
}
