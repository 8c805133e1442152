// mas_test.go owns the settings of Matrix Authentication Service, and whether it and the homeserver know each other.

package check

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
)

// behindMAS is the config of a service that creates accounts at Matrix Authentication Service.
var behindMAS = config.Config{
	ServerName: ourServerName, Origin: "http://127.0.0.1:8082", APIOrigin: "http://127.0.0.1:8082", Way: homeserver.MAS,
	ASToken: ourASToken, HSToken: ourHSToken, MASClientID: ourClientID, MASClientSecret: ourClientSecret,
}

// notOK are the findings that are not ok, by the rest of their subjects.
func notOK(found []Finding) map[string]Status {
	got := map[string]Status{}
	for _, f := range found {
		if f.Status != OK {
			subject := strings.TrimPrefix(strings.TrimPrefix(strings.TrimPrefix(f.Subject, subjectMAS+" "), MASFile+" "), subjectProxy+" ")
			got[subject] = f.Status
		}
	}
	return got
}

func sameStatuses(got, want map[string]Status) bool {
	if len(got) != len(want) {
		return false
	}
	for subject, s := range want {
		if got[subject] != s {
			return false
		}
	}
	return true
}

const goodMAS = `
http:
  listeners:
    - name: web
      resources: [{name: discovery}, {name: human}, {name: oauth}, {name: compat}]
      binds: [{address: "[::]:8080"}]
    - name: admin
      resources: [{name: adminapi}, {name: oauth}]
      binds: [{address: "127.0.0.1:8082"}]
matrix: {homeserver: transport02.smartmesh.cn, endpoint: "http://127.0.0.1:8007", secret: mas-and-synapse}
clients:
  - client_id: 01J44RKQYM4G3TNVANTMTDYTX6
    client_auth_method: client_secret_basic
    client_secret: a_client_secret~without^digits
policy: {data: {admin_clients: [01J44RKQYM4G3TNVANTMTDYTX6]}}
passwords: {enabled: true}
rate_limiting: {login: {per_ip: {burst: 50, per_second: 5}}}
`

// knowsMAS plays what Synapse answers to Matrix Authentication Service, with the secret that it knows.
func knowsMAS(t *testing.T, secret string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status, body := http.StatusNotFound, `{"errcode":"M_UNRECOGNIZED","error":"Unrecognized request"}`
		switch {
		case r.URL.Path != "/_synapse/mas/is_localpart_available":
		case r.Header.Get("Authorization") != "Bearer "+secret:
			status, body = http.StatusForbidden, `{"errcode":"M_UNKNOWN","error":"This endpoint must only be called by MAS"}`
		default:
			status, body = http.StatusBadRequest, `{"errcode":"M_INVALID_USERNAME","error":"User ID can only contain characters a-z, 0-9, or '=_-./+'"}`
		}
		w.WriteHeader(status)
		io.WriteString(w, body)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// Whether Matrix Authentication Service and the homeserver know each other is asked, and compared where that does not tell.
func TestCheckMASKnowsHomeserver(t *testing.T) {
	const file, logs = "homeserver.yaml", "server_name: transport02.smartmesh.cn\n"
	another := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(another.Close)
	failing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(502) }))
	t.Cleanup(failing.Close)
	ours := logs + "matrix_authentication_service: {enabled: true, secret: mas-and-synapse}\n"
	other := logs + "matrix_authentication_service: {enabled: true, secret: that-of-the-homeserver}\n"
	inFile := logs + "matrix_authentication_service: {enabled: true, secret_path: its_secret}\n"
	for _, test := range []struct {
		name, matrix, homeserver string
		want                     map[string]Status
	}{
		{"it takes the secret", "endpoint: " + knowsMAS(t, "mas-and-synapse") + "/, secret: mas-and-synapse", ours, map[string]Status{}},
		{"it takes it, and another is written for its next start", "endpoint: " + knowsMAS(t, "mas-and-synapse") + ", secret: mas-and-synapse", other, map[string]Status{"matrix.secret": Warning}},
		{"Synapse accepts the secret, and the file of secret_path cannot be read", "endpoint: " + knowsMAS(t, "mas-and-synapse") + ", secret: mas-and-synapse", logs + "matrix_authentication_service: {enabled: true, secret_path: nowhere}\n", map[string]Status{}},
		{"the secret in a file", "endpoint: " + knowsMAS(t, "that-of-a-file") + ", secret_file: its_secret", logs, map[string]Status{}},
		{"it refuses the secret", "endpoint: " + knowsMAS(t, "that-of-the-homeserver") + ", secret: mas-and-synapse", ours, map[string]Status{"matrix.secret": Problem}},
		{"nothing answers", "endpoint: http://127.0.0.1:1, secret: mas-and-synapse", ours, map[string]Status{"matrix.endpoint": Problem}},
		{"nothing answers, and another secret", "endpoint: http://127.0.0.1:1, secret: mas-and-synapse", other, map[string]Status{"matrix.endpoint": Problem, "matrix.secret": Problem}},
		{"nothing answers, the same in a file", "endpoint: http://127.0.0.1:1, secret: that-of-a-file", inFile, map[string]Status{"matrix.endpoint": Problem}},
		{"nothing answers, and none in homeserver.yaml", "endpoint: http://127.0.0.1:1, secret: mas-and-synapse", logs, map[string]Status{"matrix.endpoint": Problem, "matrix.secret": Problem}},
		{"no homeserver.yaml", "endpoint: http://127.0.0.1:1, secret: mas-and-synapse", "", map[string]Status{"matrix.endpoint": Problem, "matrix.secret": Warning}},
		{"an nginx", "endpoint: " + another.URL + ", secret: mas-and-synapse", ours, map[string]Status{"matrix.endpoint": Problem}},
		{"it fails", "endpoint: " + failing.URL + ", secret: mas-and-synapse", ours, map[string]Status{"matrix.endpoint": Warning}},
		{"a secret that cannot be read", "endpoint: http://127.0.0.1:1, secret_file: nowhere", ours, map[string]Status{"matrix.secret": Warning}},
		{"the old way", "kind: synapse_legacy, endpoint: http://127.0.0.1:1, secret: mas-and-synapse", ours, map[string]Status{"matrix.endpoint": Note}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			for name, content := range map[string]string{MASFile: "matrix: {homeserver: transport02.smartmesh.cn, " + test.matrix + "}\n", "its_secret": "that-of-a-file\n", file: test.homeserver} {
				if content == "" {
					continue
				}
				if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			chk := &checking{Input: Input{Config: behindMAS}, report: &Report{}}
			chk.homeserverSettings(t.Context())
			chk.report.add(chk.masKnowsHomeserver(t.Context(), *readMASSettings(nil))...)
			if got := notOK(chk.report.Findings); !sameStatuses(got, test.want) {
				t.Errorf("got %v, want %v: %+v", got, test.want, chk.report.Findings)
			}
			var printed strings.Builder
			chk.report.Print(&printed, Style{All: true})
			for _, secret := range []string{"mas-and-synapse", "that-of-a-file", "that-of-the-homeserver"} {
				if strings.Contains(printed.String(), secret) {
					t.Errorf("%s is told: %s", secret, &printed)
				}
			}
			for _, f := range chk.report.Findings {
				if f.Status != OK && f.Do == "" && !f.unseen {
					t.Errorf("no cure: %+v", f)
				}
			}
		})
	}
}

// What its configuration says, each thing broken once.
func TestCheckMASFile(t *testing.T) {
	for _, test := range []struct {
		name, from, to string
		want           map[string]Status
	}{
		{name: "all right", want: map[string]Status{}},
		{name: "admin API everywhere", from: "127.0.0.1:8082", to: "[::]:8082", want: map[string]Status{"http.listeners": Problem}},
		{name: "admin API in the public listener", from: "{name: compat}", to: "{name: compat}, {name: adminapi}", want: map[string]Status{"http.listeners": Problem}},
		{name: "host without loopback", from: `{address: "127.0.0.1:8082"}`, to: `{host: 0.0.0.0, port: 8082}`, want: map[string]Status{"http.listeners": Problem}},
		{name: "localhost", from: `{address: "127.0.0.1:8082"}`, to: `{host: localhost, port: 8082}`, want: map[string]Status{}},
		{name: "no adminapi", from: "{name: adminapi}, ", to: "", want: map[string]Status{"http.listeners": Problem}},
		{name: "no oauth beside it", from: "{name: adminapi}, {name: oauth}", to: "{name: adminapi}", want: map[string]Status{"http.listeners": Problem}},
		{name: "another client", from: "client_id: 01J44RKQYM4G3TNVANTMTDYTX6", to: "client_id: 01J44RKQYM4G3TNVANTMTDYTX7", want: map[string]Status{"clients": Problem}},
		{name: "another method", from: "client_secret_basic", to: "client_secret_post", want: map[string]Status{"clients": Problem}},
		{name: "another secret", from: "a_client_secret~without^digits", to: "a-secret-of-somebody-else", want: map[string]Status{"clients": Problem}},
		{name: "not admin", from: "admin_clients: [01J44RKQYM4G3TNVANTMTDYTX6]", to: "admin_clients: []", want: map[string]Status{"policy.data.admin_clients": Problem}},
		{name: "another name", from: "homeserver: transport02.smartmesh.cn", to: "homeserver: example.org", want: map[string]Status{"matrix.homeserver": Problem}},
		{name: "passwords off", from: "passwords: {enabled: true}", to: "passwords: {enabled: false}", want: map[string]Status{"passwords": Problem}},
		{name: "open registration", from: "passwords: {enabled: true}", to: "account: {password_registration_enabled: true}", want: map[string]Status{"account": Problem}},
		{name: "the default limit", from: "rate_limiting: {login: {per_ip: {burst: 50, per_second: 5}}}", to: "", want: map[string]Status{"rate_limiting.login.per_ip": Problem}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			if err := os.WriteFile(MASOwnFile, []byte(strings.Replace(goodMAS, test.from, test.to, 1)), 0o600); err != nil {
				t.Fatal(err)
			}
			s := readMASSettings(nil)
			if s == nil {
				t.Fatal("it is not found")
			}
			report := &Report{}
			report.keepSecret(s.masSecrets()...)
			for _, secret := range []string{"mas-and-synapse", s.masList("clients")[0].Text("client_secret")} {
				if !slices.Contains(report.secrets, secret) {
					t.Errorf("%s is not kept from what is printed", secret)
				}
			}
			report.add(judging{settings: *s, config: behindMAS}.masFindings()...)
			if got := notOK(report.Findings); !sameStatuses(got, test.want) {
				t.Errorf("got %v, want %v: %+v", got, test.want, report.Findings)
			}
			var printed strings.Builder
			report.Print(&printed, Style{All: true})
			for _, secret := range []string{ourClientSecret, "mas-and-synapse", "a-secret-of-somebody-else"} {
				if strings.Contains(printed.String(), secret) {
					t.Errorf("%s is told: %s", secret, &printed)
				}
			}
		})
	}
}

// A config.yaml of another program is none of its.
func TestReadMASSettings(t *testing.T) {
	t.Chdir(t.TempDir())
	if s := readMASSettings(nil); s != nil {
		t.Errorf("in an empty directory: got %+v", s)
	}
	os.WriteFile(MASOwnFile, []byte("title: something else\n"), 0o600)
	if s := readMASSettings(nil); s != nil {
		t.Errorf("of another program: got %+v", s)
	}
	if s := readMASSettings([]string{filepath.Join("nowhere", MASFile)}); s == nil || s.err == nil {
		t.Errorf("a named file that is not there: got %+v", s)
	}
}

// homeserver.yaml is judged by who has the passwords.
func TestJudgeBehindMAS(t *testing.T) {
	const inCharge = "matrix_authentication_service: {enabled: true, endpoint: http://127.0.0.1:8080, secret: x}\n"
	for _, test := range []struct {
		name, text, api string
		want            Status
	}{
		{"in charge", inCharge, homeserver.MASUsersPath, OK},
		{"not in charge", "", homeserver.MASUsersPath, Problem},
		{"passwords of its own", inCharge + "password_config: {enabled: true}\n", homeserver.MASUsersPath, Problem},
		{"in charge, and not named", inCharge, homeserver.SharedSecretPath, Problem},
	} {
		path := filepath.Join(t.TempDir(), config.HomeserverFile)
		if err := os.WriteFile(path, []byte(test.text), 0o600); err != nil {
			t.Fatal(err)
		}
		c := behindMAS
		c.Way, _ = homeserver.WayAt(test.api)
		j := judging{settings: readSettings([]string{path}), config: c, server: homeserver.Software{Name: homeserver.Synapse, Version: "1.163.2"}}
		worst := OK
		for _, f := range j.needsOfToday() {
			if f.Status == Problem && (strings.Contains(f.Subject, "authentication_service") || test.api == homeserver.MASUsersPath) {
				worst = Problem
			}
		}
		if worst != test.want {
			t.Errorf("%s: got %s, want %s", test.name, worst, test.want)
		}
	}
}

// A fault in a file has another cure than a file that is not there; and a file that nobody named is not checked.
func TestMASUnreadable(t *testing.T) {
	t.Chdir(t.TempDir())
	chk := &checking{Input: Input{Config: behindMAS}, report: &Report{}}
	if found := chk.masSettings(t.Context()); len(found) != 1 || !found[0].unseen || found[0].Subject != MASFile {
		t.Errorf("none: got %+v", found)
	}
	os.WriteFile("broken.yaml", []byte("a: b\nmatrix: secret: hunter2\n"), 0o600)
	for path, want := range map[string][2]string{
		"broken.yaml":  {"broken.yaml, line 2: mapping values are not allowed in this context", "repair it there; then restart Matrix Authentication Service"},
		"nowhere.yaml": {"nowhere.yaml", "name the configuration of Matrix Authentication Service with --mas-config"},
	} {
		chk.MASConfig = []string{path}
		if found := chk.masSettings(t.Context()); len(found) != 1 || found[0].Status != Problem || !strings.Contains(found[0].Found, want[0]) || found[0].Do != want[1] || strings.Contains(found[0].Found, "hunter2") {
			t.Errorf("%s: got %+v, want %q", path, found, want)
		}
	}
}
