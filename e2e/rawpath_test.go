// rawpath_test.go owns what arrives behind nginx of the paths that clients write: nothing at the service but the one
// path, whatever a path looks like, and nothing at the homeserver that makes accounts with the shared secret.

package e2e

import (
	"bufio"
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
)

// rawTargets are some thousand ways to write a path that may be one of the service's, or one that is closed.
func rawTargets() []string {
	all := map[string]bool{}
	add := func(targets ...string) {
		for _, target := range targets {
			all[target] = true
		}
	}
	dots := []string{".", "..", "%2e", "%2E", "%2e%2e", ".%2E", "%2e.", "%252e%252e", "...", "..;", ".;x=y"}
	slashes := []string{"/", "//", "%2f", "%2F", "%252f", "\\", "%5c", ";/"}
	befores := []string{"transactions", "users", "rooms", "_matrix/app/v1/transactions", "_matrix/app/v1/ping", "_matrix/app/v1/thirdparty/user", "_matrix/app/unstable/thirdparty/location", "register", "x"}
	for _, dot := range dots {
		for _, slash := range slashes {
			for _, before := range befores {
				up := strings.Repeat(slash+dot, strings.Count(before, "/")+1)
				add("/regapp/1/"+before+up+slash+"register", "/regapp/1/"+before+slash+"1"+up+slash+dot+slash+"register", "/regapp/1/register"+slash+dot+slash+before)
			}
			add("/_matrix"+slash+dot+slash+"regapp/1/register", "/_synapse/admin/v1/reset_password/x"+strings.Repeat(slash+dot, 5)+slash+"_matrix"+slash+"x",
				"/_matrix/client/r0/admin/whois/x"+strings.Repeat(slash+dot, 6)+slash+"_matrix"+slash+"x", "/_matrix/client/r0"+slash+dot+slash+"r0"+slash+"register",
				"/regapp/1/users/x"+strings.Repeat(slash+dot, 4)+slash+"_matrix"+slash+"x", "/_matrix"+slash+dot+slash+"_synapse/admin/v1/register",
				"/regapp"+slash+"1"+slash+dot+slash+"1"+slash+"register", slash+"regapp/1/register"+slash+dot)
		}
	}
	// Every letter of the path encoded, and in the other case.
	for _, path := range []string{registerPath, "/_matrix/client/r0/register", "/_synapse/admin/v1/register"} {
		for i := range path {
			one := path[i : i+1]
			add(path[:i]+fmt.Sprintf("%%%02x", path[i])+path[i+1:], path[:i]+fmt.Sprintf("%%%02X", path[i])+path[i+1:],
				path[:i]+fmt.Sprintf("%%25%02x", path[i])+path[i+1:], path[:i]+strings.ToUpper(one)+path[i+1:], path[:i]+one+one+path[i+1:], path[:i]+path[i+1:])
		}
		for c := range 256 {
			add(fmt.Sprintf("%s%%%02x", path, c), fmt.Sprintf("%s%%%02x/x", path, c), fmt.Sprintf("/%%%02x%s", c, path))
		}
		for _, tail := range []string{"", "/", "?", "?access_token=x", "?/../..", "?%2f..%2f", "#", "#/..", ";", ";x=y", ";/..", "%3fx", "%23", ".", "/.", "/..", "/../register", "%00", "*"} {
			add(path+tail, "http://"+domain+path+tail, "HTTPS://other.example"+path+tail, "/"+path+tail, path+path+tail)
		}
	}
	for _, prefix := range []string{"r0", "v1", "v2_alpha", "v3", "unstable", "api/v1", "r1"} {
		for _, path := range []string{"register", "register/", "register/available", "admin/register", "admin/whois/x", "%72egister", "register%2f"} {
			add("/_matrix/client/"+prefix+"/"+path, "//_matrix//client/"+prefix+"//"+path, "/_matrix/client/"+prefix+"/x/../"+path, "/_matrix/client%2f"+prefix+"%2f"+path)
		}
	}
	add("/_matrix/client/versions", "/_matrix/client/r0/rooms/%21a%3Ab/state/m.room.member/register", "/regapp/1/transactions/1", "*")
	targets := make([]string, 0, len(all))
	for target := range all {
		targets = append(targets, target)
	}
	slices.Sort(targets)
	return targets
}

// An arrivals is a server that notes the paths that arrive, as they were written.
type arrivals struct {
	mu    sync.Mutex
	paths map[string]int
	url   string
}

func newArrivals(t *testing.T) *arrivals {
	a := &arrivals{paths: map[string]int{}}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		path, _, _ := strings.Cut(r.RequestURI, "?")
		a.mu.Lock()
		a.paths[path]++
		a.mu.Unlock()
		io.WriteString(w, "{}")
	}))
	t.Cleanup(s.Close)
	a.url = s.URL
	return a
}

// sendRaw sends every target as it stands, and returns how many got an answer.
func sendRaw(t *testing.T, dial func() (net.Conn, error), targets []string) (answered int) {
	t.Helper()
	var conn net.Conn
	var reader *bufio.Reader
	for _, target := range targets {
		for _, method := range []string{"PUT", "POST"} {
			if conn == nil {
				conn = must(dial())(t)
				reader = bufio.NewReader(conn)
			}
			fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: %s\r\nContent-Length: 2\r\n\r\n{}", method, target, domain)
			res, err := http.ReadResponse(reader, nil)
			if err != nil {
				t.Fatalf("%s %s: %v", method, target, err)
			}
			io.Copy(io.Discard, res.Body)
			answered++
			if res.Close {
				conn.Close()
				conn = nil
			}
		}
	}
	return answered
}

// A rawSite is a server of nginx, whose text is from one of the places that show it.
type rawSite struct {
	name, text string
	tls        bool
}

// rawSites are all places: what is shipped, what README shows, what genconfig prints, what check prescribes, what the other
// tests use.
func rawSites(t *testing.T, service, homeserver *arrivals, dir, socket string) []rawSite {
	t.Helper()
	root := must(moduleRoot(t.Context()))(t)
	read := func(name string) string { return string(must(os.ReadFile(filepath.Join(root, name)))(t)) }
	server := func(locations string) string {
		locations = strings.NewReplacer("http://127.0.0.1:8007", homeserver.url, "http://127.0.0.1:8008", homeserver.url, "http://127.0.0.1:8009", service.url).Replace(locations)
		return "server { listen unix:" + socket + ";\n" + locations + "\n}"
	}
	d := &Deployment{Plan: Plan{Domain: domain}, Gateway: &Gateway{URL: service.url}, Homeserver: &Homeserver{URL: homeserver.url}}
	shipped := read("deploy/nginx.conf")
	changes := frontDoorChanges(d, dir, 1, 2)
	for i := 0; i < len(changes); i += 2 {
		shipped = strings.ReplaceAll(shipped, changes[i], changes[i+1])
	}
	shipped = onSocket(shipped, socket)

	readme := regexp.MustCompile(`(?s)    server \{\n        listen 8008;\n(.*?)\n    \}\n`).FindStringSubmatch(read("README.md"))
	if readme == nil {
		t.Fatal("README.md shows no server of nginx")
	}

	program := must(Build(t.Context(), t.TempDir()))(t)
	printed := must(program.Run(t.Context(), t.TempDir(), "--matrixdomain", domain, "--matrixurl", "http://127.0.0.1:8007"+CreateUserPath, "genconfig"))(t)
	_, steps, _ := strings.Cut(printed.Stdout, "2. In nginx")
	_, steps, _ = strings.Cut(steps, "\n")
	steps, _, found := strings.Cut(steps, "3. Start")
	if !found {
		t.Fatalf("genconfig prints no step for nginx:\n%s%s", printed.Stdout, printed.Stderr)
	}

	nothing := httptest.NewServer(http.NotFoundHandler()) // an nginx without any of the locations
	defer nothing.Close()
	said := must(program.Run(t.Context(), t.TempDir(), "--matrixdomain", domain, "--matrixurl", "http://127.0.0.1:8007"+CreateUserPath, "check", "--json", "--public-url", nothing.URL))(t)
	var report struct{ Findings []checkFinding }
	if err := json.Unmarshal([]byte(said.Stdout), &report); err != nil {
		t.Fatalf("%v\n%s%s", err, said.Stdout, said.Stderr)
	}
	var cures []string
	for _, f := range report.Findings {
		if at := strings.Index(f.Do, "location "); at >= 0 && strings.HasPrefix(f.Subject, "public URL ") && f.Status == "problem" {
			cures = append(cures, f.Do[at:strings.LastIndex(f.Do, "}")+1])
		}
	}
	if len(cures) != 2 {
		t.Fatalf("check prescribes %q", cures)
	}

	used := regexp.MustCompile(`(?s)listen 127\.0\.0\.1:\{\{\.Port\}\};\n(.*)\n    \}\n\}`).FindStringSubmatch(read("e2e/testdata/nginx.conf"))
	used[1] = strings.NewReplacer("{{.Homeserver}}", homeserver.url, "{{.Gateway}}", service.url, "{{.Login}}", homeserver.url, "{{- if .Login}}", "", "{{- end}}", "").Replace(used[1])
	return []rawSite{
		{"deploy", shipped, true}, {"README", server(readme[1]), false}, {"genconfig", server(steps), false},
		{"check", server(strings.Join(cures, "\n")), false}, {"testdata", server(used[1]), false},
	}
}

// onSocket is deploy/nginx.conf, as frontDoorChanges leave it for the ports 1 and 2, at one socket and without its rates.
func onSocket(shipped, socket string) string {
	return strings.NewReplacer("listen 127.0.0.1:1 ssl;", "listen unix:"+socket+" ssl;", "listen 127.0.0.1:2 ssl;", "",
		"rate=1r/s", "rate=100000r/s", "rate=50r/s", "rate=100000r/s", "burst=60", "burst=100000", "burst=200", "burst=100000").Replace(shipped)
}

func TestRawPaths(t *testing.T) {
	need.All(t, NginxInstalled())
	targets := rawTargets()
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	service, homeserver := newArrivals(t), newArrivals(t)
	door := &frontDoor{nginx: &nginx{dir: dir}}
	door.certify(t)
	for _, site := range rawSites(t, service, homeserver, dir, socket) {
		t.Run(site.name, func(t *testing.T) {
			clear(service.paths)
			clear(homeserver.paths)
			dial := serveSite(t, door, site, socket)
			t.Logf("%d request lines, %d paths at the homeserver", sendRaw(t, dial, targets), len(homeserver.paths))
			if len(service.paths) != 1 || service.paths[registerPath] < 100 {
				t.Errorf("at the service arrived %v, want %s alone", service.paths, registerPath)
			}
			if homeserver.paths["/_matrix/client/versions"] == 0 || len(homeserver.paths) < 10 {
				t.Errorf("at the homeserver arrived %v: does anything?", homeserver.paths)
			}
			for path := range homeserver.paths {
				if bad := closedPath(path, site.name == "check"); bad != "" {
					t.Errorf("at the homeserver arrived %s: %s", path, bad)
				}
			}
		})
	}
}

// serveSite runs nginx with the site until the test ends, and returns how to connect to it.
func serveSite(t *testing.T, door *frontDoor, site rawSite, socket string) (dial func() (net.Conn, error)) {
	t.Helper()
	os.Remove(socket)
	around := "daemon off; master_process off; pid nginx.pid; error_log stderr crit;\nevents { worker_connections 512; }\n" +
		"http { access_log off; client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi; keepalive_requests 100000;\n" + site.text + "\n}\n"
	if err := os.WriteFile(filepath.Join(door.dir, "nginx.conf"), []byte(around), 0o600); err != nil {
		t.Fatal(err)
	}
	process := must(startProcess("nginx", door.logFile(), exec.Command(must(findNginx())(t), "-p", door.dir, "-c", "nginx.conf")))(t)
	t.Cleanup(func() { process.stop() })
	dial = func() (net.Conn, error) {
		if site.tls {
			return (&tls.Dialer{Config: &tls.Config{RootCAs: door.pool, ServerName: "localhost"}}).DialContext(t.Context(), "unix", socket)
		}
		return net.Dial("unix", socket)
	}
	if err := process.ready(t.Context(), func(context.Context) bool {
		conn, err := dial()
		if err == nil {
			conn.Close()
		}
		return err == nil
	}); err != nil {
		t.Fatal(err, logTail(door.logFile()))
	}
	return dial
}

// closedPath tells what is wrong with a path that arrived at the homeserver. Check prescribes to close register only where
// it was seen to be open.
func closedPath(path string, withoutClosed bool) string {
	decoded, err := url.PathUnescape(path)
	if err != nil {
		return "it cannot be decoded"
	}
	for segment := range strings.SplitSeq(decoded, "/") {
		if segment == "." || segment == ".." {
			return "a dot segment"
		}
	}
	switch {
	case !strings.HasPrefix(strings.TrimLeft(decoded, "/"), "_matrix/"):
		return "not under /_matrix/"
	case !withoutClosed && regexp.MustCompile(`^/+_matrix/+client/+(api/+)?[^/]+/+(register|admin)(/|$)`).MatchString(decoded):
		return "that is closed"
	}
	return ""
}

// On Synapse 0.34.0 who has the shared secret makes accounts at register, straight. Through nginx nobody gets there.
func TestSharedSecretClosed(t *testing.T) {
	recipe := must(RecipeNamed("synapse-0.34.0"))(t)
	need.All(t, recipe.Installed(t.Context()), NginxInstalled())
	d := must(Prepare(t.Context(), Plan{Recipe: recipe, Domain: domain, Nginx: true, Dir: t.TempDir()}))(t)
	door := newFrontDoor(t, d)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(d.LogTails())
		}
		if door.process != nil {
			door.process.stop()
		}
		d.Close()
	})
	const secret = "a-shared-secret-of-0.34.0"
	settings := filepath.Join(d.Gateway.Dir, "homeserver.yaml")
	content := must(os.ReadFile(settings))(t)
	if err := os.WriteFile(settings, append(content, "registration_shared_secret: "+secret+"\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	must(d.Genconfig(t.Context()))(t)
	if err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	door.process = must(startProcess("nginx", door.logFile(), exec.Command(must(findNginx())(t), "-p", door.dir, "-c", "nginx.conf")))(t)
	if err := door.process.ready(t.Context(), func(ctx context.Context) bool {
		a, _, err := door.ask(ctx, http.MethodGet, versionsPath, nil)
		return err == nil && a.Status == http.StatusOK
	}); err != nil {
		t.Fatal(err)
	}
	for _, prefix := range []string{"r0", "v2_alpha", "unstable"} {
		path := "/_matrix/client/" + prefix + "/register"
		body := func() (name string, body []byte) {
			n := newNode(t, d)
			name = n.Registration.Localpart
			mac := hmac.New(sha1.New, []byte(secret))
			mac.Write([]byte(name))
			return name, must(json.Marshal(map[string]string{"username": name, "password": "x", "mac": hex.EncodeToString(mac.Sum(nil))}))(t)
		}
		name, stolen := body()
		if a, _, err := door.ask(t.Context(), http.MethodPost, path, stolen); err != nil || a.Status != http.StatusNotFound {
			t.Errorf("deploy/nginx.conf, %s: got %d %s, %v", path, a.Status, a.Body, err)
		}
		if a := must(call(t.Context(), http.MethodPost, d.NodeURL+path, "", json.RawMessage(stolen)))(t); a.Status != http.StatusNotFound {
			t.Errorf("nginx, %s: got %d %s", path, a.Status, a.Body)
		}
		if made := must(d.Homeserver.Count(t.Context(), d.Recipe.count, "@"+name+":"+domain))(t); made != 0 {
			t.Errorf("%s through nginx made an account", path)
		}
		if a := must(call(t.Context(), http.MethodPost, d.Homeserver.URL+path, "", json.RawMessage(stolen)))(t); a.Status != http.StatusOK { // so that it is seen to be closed by nginx
			t.Errorf("straight, %s: got %d %s", path, a.Status, a.Body)
		}
	}
	// Check tells it by the homeserver's own answer, or by nginx's answers alone where --matrixurl is nginx's.
	straight := d.Homeserver.URL + CreateUserPath
	withoutNginx := strings.Replace(d.Homeserver.URL, "127.0.0.1", "localhost", 1)
	for _, test := range []struct{ matrixURL, public, want string }{
		{d.NodeURL + CreateUserPath, d.NodeURL, "ok"}, {straight, d.NodeURL, "ok"}, {straight, withoutNginx, "warning"}, {straight, d.Homeserver.URL, "warning"},
	} {
		run := runCheck(t, d, d.Gateway.Dir, "--matrixurl", test.matrixURL, "--public-url", test.public)
		if got := run.findings["public URL client register"]; got.Status != test.want {
			t.Errorf("--matrixurl %s --public-url %s: got %+v, want %s", test.matrixURL, test.public, got, test.want)
		}
		if got := run.findings["homeserver.yaml registration_shared_secret"]; got.Status != "warning" || !strings.Contains(got.Found, "createUser needs none") {
			t.Errorf("got %+v", got)
		}
	}
}
