package main

import (
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	masplay "github.com/SmartMeshFoundation/matrix-regservice/e2e/mas"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/mas"
)

// masConfig is the config of a service before the stand-in, Matrix Authentication Service included.
func masConfig(origin string) config.Config {
	return config.Config{ServerName: testServerName, Origin: origin, APIOrigin: origin, Way: homeserver.MAS, ASToken: testASToken, HSToken: testHSToken, MASClientID: testMASClientID, MASClientSecret: testMASSecret}
}

// notOK are the findings that are not ok, by the rest of their subjects.
func notOK(found []finding) map[string]status {
	got := map[string]status{}
	for _, f := range found {
		if f.Status != statusOK {
			subject := strings.TrimPrefix(strings.TrimPrefix(strings.TrimPrefix(f.Subject, subjectMAS+" "), masFile+" "), subjectDoor+" ")
			got[subject] = f.Status
		}
	}
	return got
}

func sameStatuses(got, want map[string]status) bool {
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

// What it answers, and what the homeserver says of it.
func TestCheckMASLive(t *testing.T) {
	for _, test := range []struct {
		name     string
		settings masplay.Settings
		issuer   string // "" for its own
		faults   map[string]http.HandlerFunc
		change   func(*config.Config)
		want     map[string]status
	}{
		{name: "all right", want: map[string]status{}},
		{name: "1.3", settings: masplay.Settings{Old: true}, want: map[string]status{}},
		{name: "bad secret", change: func(c *config.Config) { c.MASClientSecret = "x" }, want: map[string]status{"client": statusProblem}},
		{name: "not admin", settings: masplay.Settings{NotAdmin: true}, want: map[string]status{"scope": statusProblem}},
		{name: "no oauth", faults: map[string]http.HandlerFunc{callToken: says(404, "")}, want: map[string]status{"client": statusProblem}},
		{name: "down", faults: map[string]http.HandlerFunc{callToken: says(502, "")}, want: map[string]status{"client": statusProblem}},
		{name: "no admin API", settings: masplay.Settings{NoAdminAPI: true}, want: map[string]status{"admin API": statusProblem}},
		{name: "admin API fails", faults: map[string]http.HandlerFunc{callLookUp: says(500, "{}")}, want: map[string]status{"admin API": statusProblem}},
		{name: "passwords off", settings: masplay.Settings{PasswordsOff: true}, want: map[string]status{"passwords": statusProblem}},
		{name: "open registration", settings: masplay.Settings{Registration: true}, want: map[string]status{"registration": statusProblem}},
		{name: "another server name", change: func(c *config.Config) { c.ServerName = "example.org" }, want: map[string]status{"server name": statusProblem}},
		{name: "not in charge", issuer: "none", want: map[string]status{"homeserver logins": statusProblem}},
		{name: "another in charge", issuer: "https://auth.example.org/", want: map[string]status{"homeserver logins": statusProblem}},
		{name: "it does not tell", faults: map[string]http.HandlerFunc{callIssuer: says(500, "{}")}, want: map[string]status{"homeserver logins": statusWarning}},
		{name: "on another machine", change: func(c *config.Config) { c.APIOrigin = "http://192.0.2.1:1" }, want: map[string]status{"client": statusProblem, "listener": statusWarning}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.name == "on another machine" && testing.Short() {
				t.Skip("waits for a machine that is not there")
			}
			h := newStandIn(t)
			h.issuer = map[string]string{"": h.URL + "/", "none": ""}[test.issuer]
			if len(test.issuer) > 4 {
				h.issuer = test.issuer
			}
			h.mas.Set(test.settings)
			for call, fault := range test.faults {
				h.fail(call, fault)
			}
			c := masConfig(h.URL)
			if test.change != nil {
				test.change(&c)
			}
			found := liveCheckOf(c, h.URL).authenticationService(t.Context())
			if got := notOK(found); !sameStatuses(got, test.want) {
				t.Errorf("got %v, want %v: %+v", got, test.want, found)
			}
			for _, f := range found {
				if f.Status != statusOK && f.Do == "" || strings.Contains(f.Found+f.Do, testMASSecret) {
					t.Errorf("got %+v", f)
				}
			}
			if len(h.users) != 0 {
				t.Error("it made an account")
			}
		})
	}
}

// The admin API is looked for at every address of this machine.
func TestCheckMASListener(t *testing.T) {
	h := newStandIn(t)
	everywhere := httptest.NewUnstartedServer(h)
	everywhere.Listener.Close()
	if everywhere.Listener = listenEverywhere(t); everywhere.Listener == nil {
		t.Skip("this machine has no address but loopback")
	}
	everywhere.Start()
	t.Cleanup(everywhere.Close)
	c := masConfig(h.URL)
	if f := liveCheckOf(c, h.URL).masListener(t.Context()); f.Status != statusOK {
		t.Errorf("on loopback: got %+v", f)
	}
	c.APIOrigin = "http://127.0.0.1:" + everywhere.URL[strings.LastIndex(everywhere.URL, ":")+1:]
	if f := liveCheckOf(c, h.URL).masListener(t.Context()); f.Status != statusProblem || !strings.Contains(f.Do, "binds: [{address: '127.0.0.1:") {
		t.Errorf("everywhere: got %+v", f)
	}
}

// Which login the public door leads to, and what else.
func TestCheckMASDoor(t *testing.T) {
	own := says(200, `{"flows":[{"type":"m.login.password"}]}`)
	for _, test := range []struct {
		name     string
		settings masplay.Settings
		login    http.HandlerFunc // nil for Matrix Authentication Service's
		admin    bool
		want     map[string]status
	}{
		{name: "all right", want: map[string]status{}},
		{name: "the homeserver's own login", login: own, want: map[string]status{"login": statusProblem}},
		{name: "none, as Synapse has it then", login: says(404, `{"errcode":"M_UNRECOGNIZED","error":"Unrecognized request"}`), want: map[string]status{"login": statusProblem}},
		{name: "nginx cannot reach it", login: says(502, "<html>"), want: map[string]status{"login": statusProblem}},
		{name: "passwords off", settings: masplay.Settings{PasswordsOff: true}, want: map[string]status{"login": statusProblem}},
		{name: "the admin API", admin: true, want: map[string]status{"/api/admin": statusWarning}},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newStandIn(t)
			h.mas.Set(test.settings)
			front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch {
				case strings.HasSuffix(r.URL.Path, "/login") && test.login != nil:
					test.login(w, r)
				case strings.HasSuffix(r.URL.Path, "/login"), test.admin:
					h.mas.ServeHTTP(w, r)
				default:
					says(404, "<html>")(w, r)
				}
			}))
			t.Cleanup(front.Close)
			l := liveCheckOf(masConfig(h.URL), front.URL)
			at := homeserver.NewClient(front.URL, testServerName)
			if got := notOK([]finding{l.doorLogin(t.Context(), at), l.doorMASAdmin(t.Context(), at)}); !sameStatuses(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

const goodMAS = `
http:
  listeners:
    - name: web
      resources: [{name: discovery}, {name: human}, {name: oauth}, {name: compat}]
      binds: [{address: "[::]:8080"}]
    - name: admin
      resources: [{name: adminapi}, {name: oauth}]
      binds: [{address: "127.0.0.1:8081"}]
matrix: {homeserver: transport02.smartmesh.cn, endpoint: "http://127.0.0.1:8007", secret: mas-and-synapse}
clients:
  - client_id: 01J44RKQYM4G3TNVANTMTDYTX6
    client_auth_method: client_secret_basic
    client_secret: a_client_secret~without^digits
policy: {data: {admin_clients: [01J44RKQYM4G3TNVANTMTDYTX6]}}
passwords: {enabled: true}
rate_limiting: {login: {per_ip: {burst: 50, per_second: 5}}}
`

// What its configuration says, each thing broken once.
func TestCheckMASFile(t *testing.T) {
	for _, test := range []struct {
		name, from, to string
		want           map[string]status
	}{
		{name: "all right", want: map[string]status{}},
		{name: "admin API everywhere", from: "127.0.0.1:8081", to: "[::]:8081", want: map[string]status{"http.listeners": statusProblem}},
		{name: "admin API in the public listener", from: "{name: compat}", to: "{name: compat}, {name: adminapi}", want: map[string]status{"http.listeners": statusProblem}},
		{name: "host without loopback", from: `{address: "127.0.0.1:8081"}`, to: `{host: 0.0.0.0, port: 8081}`, want: map[string]status{"http.listeners": statusProblem}},
		{name: "localhost", from: `{address: "127.0.0.1:8081"}`, to: `{host: localhost, port: 8081}`, want: map[string]status{}},
		{name: "no adminapi", from: "{name: adminapi}, ", to: "", want: map[string]status{"http.listeners": statusProblem}},
		{name: "no oauth beside it", from: "{name: adminapi}, {name: oauth}", to: "{name: adminapi}", want: map[string]status{"http.listeners": statusProblem}},
		{name: "another client", from: "client_id: 01J44RKQYM4G3TNVANTMTDYTX6", to: "client_id: 01J44RKQYM4G3TNVANTMTDYTX7", want: map[string]status{"clients": statusProblem}},
		{name: "another method", from: "client_secret_basic", to: "client_secret_post", want: map[string]status{"clients": statusProblem}},
		{name: "another secret", from: "a_client_secret~without^digits", to: "a-secret-of-somebody-else", want: map[string]status{"clients": statusProblem}},
		{name: "not admin", from: "admin_clients: [01J44RKQYM4G3TNVANTMTDYTX6]", to: "admin_clients: []", want: map[string]status{"policy.data.admin_clients": statusProblem}},
		{name: "another name", from: "homeserver: transport02.smartmesh.cn", to: "homeserver: example.org", want: map[string]status{"matrix.homeserver": statusProblem}},
		{name: "passwords off", from: "passwords: {enabled: true}", to: "passwords: {enabled: false}", want: map[string]status{"passwords": statusProblem}},
		{name: "open registration", from: "passwords: {enabled: true}", to: "account: {password_registration_enabled: true}", want: map[string]status{"account": statusProblem}},
		{name: "the default limit", from: "rate_limiting: {login: {per_ip: {burst: 50, per_second: 5}}}", to: "", want: map[string]status{"rate_limiting.login.per_ip": statusProblem}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			if err := os.WriteFile(masOwnFile, []byte(strings.Replace(goodMAS, test.from, test.to, 1)), 0o600); err != nil {
				t.Fatal(err)
			}
			s := readMASSettings(nil)
			if s == nil {
				t.Fatal("it is not found")
			}
			report := &checkReport{}
			report.keepSecret(s.masSecrets()...)
			for _, secret := range []string{"mas-and-synapse", s.masList("clients")[0].Text("client_secret")} {
				if !slices.Contains(report.secrets, secret) {
					t.Errorf("%s is not kept from what is printed", secret)
				}
			}
			report.add(judging{settings: *s, config: masConfig("http://127.0.0.1:8081")}.masFindings()...)
			if got := notOK(report.Findings); !sameStatuses(got, test.want) {
				t.Errorf("got %v, want %v: %+v", got, test.want, report.Findings)
			}
			var printed strings.Builder
			report.print(&printed)
			for _, secret := range []string{testMASSecret, "mas-and-synapse", "a-secret-of-somebody-else"} {
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
	os.WriteFile(masOwnFile, []byte("title: something else\n"), 0o600)
	if s := readMASSettings(nil); s != nil {
		t.Errorf("of another program: got %+v", s)
	}
	if s := readMASSettings([]string{filepath.Join("nowhere", masFile)}); s == nil || s.err == nil {
		t.Errorf("a named file that is not there: got %+v", s)
	}
}

// homeserver.yaml is judged by who has the passwords.
func TestJudgeBehindMAS(t *testing.T) {
	const inCharge = "matrix_authentication_service: {enabled: true, endpoint: http://127.0.0.1:8080, secret: x}\n"
	for _, test := range []struct {
		name, text, api string
		want            status
	}{
		{"in charge", inCharge, homeserver.MASUsersPath, statusOK},
		{"not in charge", "", homeserver.MASUsersPath, statusProblem},
		{"passwords of its own", inCharge + "password_config: {enabled: true}\n", homeserver.MASUsersPath, statusProblem},
		{"in charge, and not named", inCharge, homeserver.SharedSecretPath, statusProblem},
	} {
		path := filepath.Join(t.TempDir(), config.HomeserverFile)
		if err := os.WriteFile(path, []byte(test.text), 0o600); err != nil {
			t.Fatal(err)
		}
		c := masConfig("http://127.0.0.1:8007")
		c.Way = wayOf(test.api)
		j := judging{settings: readSettings([]string{path}), config: c, server: homeserver.Software{Name: homeserver.Synapse, Version: "1.163.2"}}
		worst := statusOK
		for _, f := range j.needsOfToday() {
			if f.Status == statusProblem && (strings.Contains(f.Subject, "authentication_service") || test.api == homeserver.MASUsersPath) {
				worst = statusProblem
			}
		}
		if worst != test.want {
			t.Errorf("%s: got %s, want %s", test.name, worst, test.want)
		}
	}
}

// listenEverywhere listens at all addresses, if one of them is another machine's way here.
func listenEverywhere(t *testing.T) net.Listener {
	t.Helper()
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range addresses {
		if n, ok := address.(*net.IPNet); ok && !n.IP.IsLoopback() && !n.IP.IsLinkLocalUnicast() {
			listener, err := net.Listen("tcp", ":0")
			if err != nil {
				t.Fatal(err)
			}
			return listener
		}
	}
	return nil
}

// What its site-config does not tell is not taken for well.
func TestCheckMASSite(t *testing.T) {
	for _, test := range []struct {
		name  string
		fault http.HandlerFunc
		want  map[string]status
	}{
		{"it tells", nil, map[string]status{}},
		{"an old version", says(404, ""), map[string]status{}},
		{"it fails", says(500, "{}"), map[string]status{"passwords": statusWarning}},
		{"lost", breaks, map[string]status{"passwords": statusWarning}},
		{"half of it", says(200, `{"server_name":"`+testServerName+`","password_login_enabled":true}`), map[string]status{"registration": statusWarning}},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newStandIn(t)
			h.fail(callSite, test.fault)
			c := masConfig(h.URL)
			l := liveCheckOf(c, h.URL)
			if got := notOK(l.masSite(t.Context(), accountsOf(c).(*mas.Accounts))); !sameStatuses(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

// liveCheckOf is a check of what the config names, with nodes that come in at the URL.
func liveCheckOf(c config.Config, public string) *liveCheck {
	in := newCheckInput(c)
	in.public = public
	return newLiveCheck(in)
}
