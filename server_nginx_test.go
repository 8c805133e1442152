// server_nginx_test.go owns that every place which shows nginx a location shows the one of internal/nginx, and what the service makes
// of paths that a proxy may have read otherwise.

package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/check"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/nginx"
)

// locationLine begins a location, also one in a comment or on one line.
var locationLine = regexp.MustCompile(`^\s*#?\s*location\s+(.+?)\s*\{(.*)$`)

// readLocations finds every nginx location of a text, commented ones too, with its directives and those of the server.
func readLocations(text string) []nginx.Location {
	var all []nginx.Location
	var server []string
	inside := false
	for line := range strings.Lines(text) {
		directive := strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), "#"))
		found := locationLine.FindStringSubmatch(strings.TrimRight(line, "\n"))
		switch {
		case found != nil:
			all, inside = append(all, nginx.Location{Match: found[1]}), found[2] == ""
		case directive == "}":
			inside = false
		case inside:
			all[len(all)-1].Body = append(all[len(all)-1].Body, directive)
		case strings.HasPrefix(directive, "proxy_set_header"):
			server = append(server, directive)
		}
	}
	for i := range all { // nginx takes over the server's headers only where a location sets none
		if !slices.ContainsFunc(all[i].Body, func(d string) bool { return strings.HasPrefix(d, "proxy_set_header") }) {
			all[i].Body = append(all[i].Body, server...)
		}
	}
	return all
}

// upstream is where a location passes to: every place has its own.
var upstream = regexp.MustCompile(`^proxy_pass http[^/]*//[^/;]+|^proxy_pass \{\{[^}]*\}\}`)

func withoutUpstream(directive string) string {
	return upstream.ReplaceAllString(directive, "proxy_pass http://upstream")
}

// lacks tells what of the directives the location does not have.
func lacks(l, want nginx.Location) string {
	for _, directive := range want.Body {
		if !slices.ContainsFunc(l.Body, func(its string) bool {
			return strings.HasPrefix(withoutUpstream(its), withoutUpstream(directive)) // a comment may follow
		}) {
			return directive
		}
	}
	return ""
}

// Every place that shows nginx a location has those of internal/nginx, with all of their directives, and no other of the service.
func TestNginxPlaces(t *testing.T) {
	matrix, closed, register, logins := nginx.Matrix("http://x"), nginx.Closed(), nginx.Register("http://x", registerPath), nginx.Logins("http://x")
	for file, want := range map[string][]nginx.Location{
		"deploy/nginx.conf":          {matrix, closed, register, logins},
		"README.md":                  {matrix, closed, register},
		"docs/homeservers/mas.md":    {logins},
		"e2e/testdata/nginx.conf":    {matrix, closed, register, logins},
		"e2e/testdata/upstream.conf": {matrix, closed, register},
	} {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		wantLocations(t, file, string(content), want)
	}
	c := config.Config{ServerName: testServerName, Host: "127.0.0.1", Port: 8009, Origin: nginx.GuideHomeserver, Way: homeserver.SharedSecret}
	for apiPath, want := range map[string][]nginx.Location{
		homeserver.CreateUserPath: {matrix, closed, register}, homeserver.SharedSecretPath: {matrix, closed, register}, homeserver.MASUsersPath: {matrix, closed, register, logins},
	} {
		c.Way, c.APIOrigin = wayOf(apiPath), "http://127.0.0.1:8082"
		var out bytes.Buffer
		printSteps(&out, c, "/x", check.Left{})
		wantLocations(t, "genconfig for "+apiPath, out.String(), want)
	}
}

// A location of deploy/nginx.conf that sets one header sets those of the server too.
func TestNginxHeaders(t *testing.T) {
	content, err := os.ReadFile("deploy/nginx.conf")
	if err != nil {
		t.Fatal(err)
	}
	all := readLocations(string(content))
	header := regexp.MustCompile(`^proxy_set_header [^;]*;`)
	headers := func(l nginx.Location) (set []string) {
		for _, d := range l.Body {
			if found := header.FindString(d); found != "" {
				set = append(set, found)
			}
		}
		return set
	}
	register := slices.IndexFunc(all, func(l nginx.Location) bool { return l.Match == "= "+registerPath })
	servers := headers(all[register]) // which it sets none of itself
	if len(servers) < 4 {
		t.Fatalf("the server sets %q", servers)
	}
	for _, l := range all {
		for _, want := range servers {
			if its := headers(l); !slices.Contains(its, want) {
				t.Errorf("location %s sets %q, and not the server's %s", l.Match, its, want)
			}
		}
	}
}

func wantLocations(t *testing.T, place, text string, all []nginx.Location) {
	t.Helper()
	found := readLocations(text)
	for _, want := range all {
		at := slices.IndexFunc(found, func(l nginx.Location) bool { return l.Match == want.Match })
		if at < 0 {
			t.Errorf("%s has no location %s", place, want.Match)
		} else if lacks := lacks(found[at], want); lacks != "" {
			t.Errorf("%s, location %s: no %s", place, want.Match, lacks)
		}
	}
}

// Whatever file of the project shows a proxy_pass to the service names the one path in it.
func TestNginxNamesThePath(t *testing.T) {
	seen := 0
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "synapse-0.34"):
			return fs.SkipDir
		case d.IsDir() || !slices.Contains([]string{".md", ".conf", ".txtar", ".example", ".yml"}, filepath.Ext(path)) || path == "CHANGELOG.md":
			return nil
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for i, line := range strings.Split(string(content), "\n") {
			for _, pass := range regexp.MustCompile(`proxy_pass [^;]*;?`).FindAllString(line, -1) {
				to := strings.ToLower(pass)
				if !strings.Contains(to, ":8009") && !strings.Contains(to, "regservice") && !strings.Contains(to, "gateway") && !strings.Contains(to, "31252") {
					continue
				}
				seen++
				if !strings.HasSuffix(pass, registerPath+";") {
					t.Errorf("%s:%d sends on what the client wrote: %s", path, i+1, pass)
				}
			}
		}
		return nil
	})
	if err != nil || seen < 6 {
		t.Errorf("%d seen, %v", seen, err)
	}
}

// What a proxy may have taken for another path is refused before a token is looked at, right or wrong, and is not
// counted as a wrong token.
func TestUncleanPaths(t *testing.T) {
	d := newGateway(t, homeserver.SharedSecretPath)
	var unclean []string
	for _, dots := range []string{".", "..", "%2e", "%2E", "%2e%2e", ".%2e", "%2E."} {
		for _, slash := range []string{"/", "%2f", "%2F"} {
			unclean = append(unclean, "/transactions/"+dots+slash+"register", "/transactions/x"+slash+dots, "/users"+"/x"+slash+dots+slash+"y",
				"/_matrix/app/v1/transactions/"+dots+slash+"1", "/_matrix/app/v1/thirdparty/protocol/"+dots, slash+dots+slash+"register")
		}
	}
	unclean = append(unclean, "/transactions//1", "/users/x//y", "/rooms/a//", "///transactions/1", "//register//", "/_matrix//app/v1/transactions/1")
	for _, path := range unclean {
		for _, token := range []string{testHSToken, "wrong", ""} {
			got := d.ask("PUT", path, token, token, "{}")
			if got.status != 404 || got.Errcode != errcodeUnrecognized {
				t.Errorf("%s, token %q: got %d %s", path, token, got.status, got.body)
			}
		}
		if got := d.ask("GET", path, "", testHSToken, ""); got.status != 404 || got.Message != errUncleanPath.Error() {
			t.Errorf("GET %s: got %d %s", path, got.status, got.body)
		}
	}
	if log := d.log.String(); strings.Contains(log, "Refused the homeserver") {
		t.Errorf("a token was looked at: %s", log)
	}
	n := d.registeredNode()
	for _, clean := range []struct{ method, path string }{
		{"PUT", "//transactions/1"}, {"PUT", "//_matrix/app/v1/transactions/1"}, {"POST", "//_matrix/app/v1/ping"}, {"GET", "//users/" + n.UserID},
		{"GET", "//users/" + strings.NewReplacer("@", "%40", ":", "%3A").Replace(n.UserID)},
		{"PUT", "/transactions/a%2Fb"}, {"PUT", "/transactions/a/b"}, {"PUT", "/transactions/..."}, {"PUT", "/transactions/.a"}, {"PUT", "/transactions/a.."},
		{"PUT", "/transactions/%252e%252e"}, {"PUT", "/transactions/a;b=.."}, {"PUT", "/transactions/1?x=/../"}, {"PUT", "/transactions/a%2F%2Fb"}, {"PUT", "//transactions/a%2F%2Fb"},
	} {
		if got := d.ask(clean.method, clean.path, "", testHSToken, "{}"); got.status != 200 {
			t.Errorf("%s %s: got %d %s", clean.method, clean.path, got.status, got.body)
		}
		if got := d.ask(clean.method, clean.path, "", "wrong", "{}"); got.status != 403 {
			t.Errorf("%s %s with a wrong token: got %d %s", clean.method, clean.path, got.status, fmt.Sprint(got.body))
		}
	}
}
