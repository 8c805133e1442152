// cmd_check_mas_test.go owns what check says of a Matrix Authentication Service that answers.

package main

import (
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	masplay "github.com/SmartMeshFoundation/matrix-regservice/e2e/mas"
	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/check"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
)

// masConfig is the config of a service before the stand-in, Matrix Authentication Service included.
func masConfig(origin string) config.Config {
	return config.Config{ServerName: testServerName, Origin: origin, APIOrigin: origin, Way: homeserver.MAS, ASToken: testASToken, HSToken: testHSToken, MASClientID: testMASClientID, MASClientSecret: testMASSecret}
}

// aboutMAS begins the subject of what Matrix Authentication Service itself is asked.
const aboutMAS = "Matrix Authentication Service "

// notOKOf are the findings that are not ok and were looked at, by the rest of their subjects: of those that begin so, and that other one.
func notOKOf(found map[string]check.Finding, begins, other string) map[string]check.Status {
	got := map[string]check.Status{}
	for subject, f := range found {
		if of, isOne := strings.CutPrefix(subject, begins); (isOne || subject == other) && f.Status != check.OK && f.Status != check.Note {
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
		want     map[string]check.Status
	}{
		{name: "all right", want: map[string]check.Status{}},
		{name: "1.3", settings: masplay.Settings{Version: masplay.Old}, want: map[string]check.Status{}},
		{name: "bad secret", change: func(c *config.Config) { c.MASClientSecret = "x" }, want: map[string]check.Status{"client": check.Problem}},
		{name: "not admin", settings: masplay.Settings{NotAdmin: true}, want: map[string]check.Status{"scope": check.Problem}},
		{name: "no oauth", faults: map[string]http.HandlerFunc{callToken: says(404, "")}, want: map[string]check.Status{"client": check.Problem}},
		{name: "down", faults: map[string]http.HandlerFunc{callToken: says(502, "")}, want: map[string]check.Status{"client": check.Problem}},
		{name: "no admin API", settings: masplay.Settings{NoAdminAPI: true}, want: map[string]check.Status{"admin API": check.Problem}},
		{name: "admin API fails", faults: map[string]http.HandlerFunc{callLookUp: says(500, "{}")}, want: map[string]check.Status{"admin API": check.Problem}},
		{name: "passwords off", settings: masplay.Settings{PasswordsOff: true}, want: map[string]check.Status{"passwords": check.Problem}},
		{name: "open registration", settings: masplay.Settings{Registration: true}, want: map[string]check.Status{"registration": check.Problem}},
		{name: "another server name", change: func(c *config.Config) { c.ServerName = "example.org" }, want: map[string]check.Status{"server name": check.Problem}},
		{name: "not in charge", issuer: "none", want: map[string]check.Status{"homeserver logins": check.Problem}},
		{name: "another in charge", issuer: "https://auth.example.org/", want: map[string]check.Status{"homeserver logins": check.Problem}},
		{name: "it does not tell", faults: map[string]http.HandlerFunc{callIssuer: says(500, "{}")}, want: map[string]check.Status{"homeserver logins": check.Warning}},
		{name: "on another machine", change: func(c *config.Config) { c.APIOrigin = "http://192.0.2.1:1" }, want: map[string]check.Status{"client": check.Problem, "listener": check.Warning}},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newStandIn(t)
			h.Issuer = map[string]string{"": h.URL + "/", "none": ""}[test.issuer]
			if len(test.issuer) > 4 {
				h.Issuer = test.issuer
			}
			h.MAS.Set(test.settings)
			for call, fault := range test.faults {
				h.Fail(call, fault)
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
				if isOne && f.Status != check.OK && f.Status != check.Note && f.Do == "" || strings.Contains(f.Found+f.Do, testMASSecret) {
					t.Errorf("got %+v", f)
				}
			}
			if len(h.Users) != 0 {
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
		need.Skip(t, need.Missing{What: "an address beside loopback", Cure: "run the tests on a machine with a network"})
	}
	everywhere.Start()
	t.Cleanup(everywhere.Close)
	c := masConfig(h.URL)
	if f := checked(t, c, h.URL)[aboutMAS+"listener"]; f.Status != check.OK {
		t.Errorf("on loopback: got %+v", f)
	}
	c.APIOrigin = "http://127.0.0.1:" + everywhere.URL[strings.LastIndex(everywhere.URL, ":")+1:]
	if f := checked(t, c, h.URL)[aboutMAS+"listener"]; f.Status != check.Problem || !strings.Contains(f.Do, "binds: [{address: '127.0.0.1:") {
		t.Errorf("everywhere: got %+v", f)
	}
}

// Which login the public URL leads to, and what else.
func TestCheckMASReverseProxy(t *testing.T) {
	own := says(200, `{"flows":[{"type":"m.login.password"}]}`)
	for _, test := range []struct {
		name     string
		settings masplay.Settings
		login    http.HandlerFunc // nil for Matrix Authentication Service's
		admin    bool
		inQuery  bool // a token in the query stays there
		want     map[string]check.Status
	}{
		{name: "all right", want: map[string]check.Status{}},
		{name: "a token in the query stays there", inQuery: true, want: map[string]check.Status{"logout": check.Warning}},
		{name: "the homeserver's own login", login: own, want: map[string]check.Status{"login": check.Problem}},
		{name: "none, as Synapse has it then", login: says(404, `{"errcode":"M_UNRECOGNIZED","error":"Unrecognized request"}`), want: map[string]check.Status{"login": check.Problem}},
		{name: "nginx cannot reach it", login: says(502, "<html>"), want: map[string]check.Status{"login": check.Problem}},
		{name: "passwords off", settings: masplay.Settings{PasswordsOff: true}, want: map[string]check.Status{"login": check.Problem}},
		{name: "the admin API", admin: true, want: map[string]check.Status{"/api/admin": check.Warning}},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newStandIn(t)
			h.MAS.Set(test.settings)
			front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch {
				case strings.HasSuffix(r.URL.Path, "/login") && test.login != nil:
					test.login(w, r)
				case strings.HasSuffix(r.URL.Path, "/logout") && test.login == nil:
					if token := r.FormValue("access_token"); token != "" && !test.inQuery {
						r.Header.Set("Authorization", "Bearer "+token)
					}
					h.MAS.ServeHTTP(w, r)
				case strings.HasSuffix(r.URL.Path, "/login"), test.admin:
					h.MAS.ServeHTTP(w, r)
				default:
					says(404, "<html>")(w, r)
				}
			}))
			t.Cleanup(front.Close)
			found := checked(t, masConfig(h.URL), front.URL)
			asked := map[string]check.Finding{"login": found["public URL login"], "/api/admin": found["public URL /api/admin"]}
			if f, ok := found["public URL logout"]; ok { // where logins reach it
				asked["logout"] = f
				if test.inQuery && !strings.Contains(f.Do, "proxy_set_header Authorization $bearer;") {
					t.Errorf("got %+v", f)
				}
			}
			if got := notOKOf(asked, "", ""); !maps.Equal(got, test.want) {
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
		want  map[string]check.Status
	}{
		{"it tells", nil, map[string]check.Status{}},
		{"an old version", says(404, ""), map[string]check.Status{}},
		{"it fails", says(500, "{}"), map[string]check.Status{"passwords": check.Warning}},
		{"lost", breaks, map[string]check.Status{"passwords": check.Warning}},
		{"half of it", says(200, `{"server_name":"`+testServerName+`","password_login_enabled":true}`), map[string]check.Status{"registration": check.Warning}},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newStandIn(t)
			h.Issuer = h.URL + "/"
			h.Fail(callSite, test.fault)
			if got := notOKOf(checked(t, masConfig(h.URL), h.URL), aboutMAS, "homeserver logins"); !maps.Equal(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}
