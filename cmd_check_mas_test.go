package main

import (
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	masplay "github.com/SmartMeshFoundation/matrix-regservice/e2e/mas"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
)

// masConfig is the config of a service before the stand-in, Matrix Authentication Service included.
func masConfig(origin string) config.Config {
	return config.Config{ServerName: testServerName, Origin: origin, APIOrigin: origin, Way: homeserver.MAS, ASToken: testASToken, HSToken: testHSToken, MASClientID: testMASClientID, MASClientSecret: testMASSecret}
}

// aboutMAS begins the subject of what Matrix Authentication Service itself is asked.
const aboutMAS = "Matrix Authentication Service "

// notOKOf are the findings that are not ok, by the rest of their subjects: of those that begin so, and that other one.
func notOKOf(found map[string]finding, begins, other string) map[string]status {
	got := map[string]status{}
	for subject, f := range found {
		if of, isOne := strings.CutPrefix(subject, begins); (isOne || subject == other) && f.Status != statusOK {
			got[of] = f.Status
		}
	}
	return got
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
			found := checked(t, c, h.URL)
			if got := notOKOf(found, aboutMAS, "homeserver logins"); !maps.Equal(got, test.want) {
				t.Errorf("got %v, want %v: %+v", got, test.want, found)
			}
			for subject, f := range found {
				isOne := strings.HasPrefix(subject, aboutMAS) || subject == "homeserver logins"
				if isOne && f.Status != statusOK && f.Do == "" || strings.Contains(f.Found+f.Do, testMASSecret) {
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
	if f := checked(t, c, h.URL)[aboutMAS+"listener"]; f.Status != statusOK {
		t.Errorf("on loopback: got %+v", f)
	}
	c.APIOrigin = "http://127.0.0.1:" + everywhere.URL[strings.LastIndex(everywhere.URL, ":")+1:]
	if f := checked(t, c, h.URL)[aboutMAS+"listener"]; f.Status != statusProblem || !strings.Contains(f.Do, "binds: [{address: '127.0.0.1:") {
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
			found := checked(t, masConfig(h.URL), front.URL)
			if got := notOKOf(map[string]finding{"login": found["public door login"], "/api/admin": found["public door /api/admin"]}, "", ""); !maps.Equal(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
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
			h.issuer = h.URL + "/"
			h.fail(callSite, test.fault)
			if got := notOKOf(checked(t, masConfig(h.URL), h.URL), aboutMAS, "homeserver logins"); !maps.Equal(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}
