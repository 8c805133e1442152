// cmd_check_live_test.go owns what check says of servers that answer: the homeserver, the reverse proxy, the store of a daemon.

package main

import (
	"io"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/check"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
)

// The secret is told by a request that can make no account: its name is one that nobody can have.
func TestProvesSecret(t *testing.T) {
	// As captured from Synapse 1.163.2 and Dendrite 0.15.2.
	const (
		goodSynapse  = `{"errcode":"M_INVALID_USERNAME","error":"User ID can only contain characters a-z, 0-9, or '=_-./+'"}`
		goodDendrite = `{"errcode":"M_INVALID_USERNAME","error":"username can only contain characters a-z, 0-9, or '_+-./='"}`
	)
	for name, test := range map[string]struct {
		fault  http.HandlerFunc
		secret string
		proves bool
		told   bool
	}{
		"Synapse, right":  {says(400, goodSynapse), testSecret, true, true},
		"Dendrite, right": {says(400, goodDendrite), testSecret, true, true},
		"Synapse, wrong":  {nil, "another", false, true},
		"Dendrite, wrong": {says(403, `{"errcode":"M_FORBIDDEN","error":"bad mac"}`), "another", false, true},
		"a stale nonce":   {says(400, `{"errcode":"M_UNKNOWN","error":"unrecognised nonce"}`), testSecret, false, false},
		"a proxy's 403":   {says(403, "<html>"), testSecret, false, false},
		"failing":         {says(500, "{}"), testSecret, false, false},
		"broken":          {breaks, testSecret, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			h := newStandIn(t)
			if test.fault != nil {
				h.Fail(callRegister, test.fault)
			}
			c := config.Config{Origin: h.URL, ServerName: testServerName, Way: homeserver.SharedSecret, SharedSecret: test.secret}
			proves, err := accountsOf(c).(*homeserver.SharedSecretAPI).ProvesSecret(t.Context())
			if proves != test.proves || (err == nil) != test.told {
				t.Errorf("got %v, %v", proves, err)
			}
			if len(h.Users) > 0 {
				t.Errorf("made %v", h.Users)
			}
		})
	}
}

// A front is nginx as far as the checks see it: what it lets through, and whether it replaces the client's header.
func front(t *testing.T, backend, service string, through func(path string) bool, replaces bool) string {
	t.Helper()
	proxyTo := func(to string) http.Handler {
		target, _ := url.Parse(to)
		return &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			if replaces {
				r.Out.Header.Set("X-Forwarded-For", "192.0.2.9")
			} else {
				r.Out.Header["X-Forwarded-For"] = r.In.Header["X-Forwarded-For"]
			}
		}, ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }}
	}
	toHomeserver, toService := proxyTo(backend), proxyTo(service)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !through(r.URL.Path) && !through(r.RequestURI):
			w.WriteHeader(http.StatusNotFound)
			io.WriteString(w, "<html>")
		case strings.HasPrefix(r.URL.Path, appServicePath):
			toService.ServeHTTP(w, r)
		default:
			toHomeserver.ServeHTTP(w, r)
		}
	}))
	s.Start()
	t.Cleanup(func() { s.Config.Close() }) // s.Close would wait for a connection that net/http ends half a second after its answer
	return s.URL
}

// checked returns what a check of the config finds, by subject, with nodes that come in at the URL.
func checked(t *testing.T, c config.Config, public string) map[string]check.Finding {
	t.Helper()
	in := newCheckInput(c)
	in.Public = public
	found := map[string]check.Finding{}
	for _, f := range check.Run(t.Context(), in).Findings {
		found[f.Subject] = f
	}
	return found
}

func TestReverseProxy(t *testing.T) {
	onlyNodes := func(path string) bool { return path == registerPath || strings.HasPrefix(path, "/_matrix/") }
	for _, test := range []struct {
		name     string
		through  func(string) bool
		replaces bool
		want     map[string]check.Status
	}{
		{"only what nodes need", onlyNodes, true, map[string]check.Status{}},
		{"no register path", func(p string) bool { return p != registerPath && onlyNodes(p) }, true, map[string]check.Status{registerPath: check.Problem, "X-Forwarded-For": check.Warning}}, // the stand-in takes headers of any size
		{"no homeserver", func(p string) bool { return p == registerPath }, true, map[string]check.Status{"/_matrix": check.Problem}},
		{"the whole service", func(p string) bool { return onlyNodes(p) || strings.HasPrefix(p, appServicePath) }, true, map[string]check.Status{"application-service API": check.Warning}},
		{"the path as the client wrote it", func(p string) bool { return onlyNodes(p) || p == appServicePath+"/transactions/..%2fregister" }, true, map[string]check.Status{"application-service API": check.Warning}},
		{"the new paths alone", func(p string) bool { return onlyNodes(p) || strings.HasPrefix(p, modernPath) }, true, map[string]check.Status{"application-service API": check.Warning}},
		{"the admin API", func(p string) bool { return onlyNodes(p) || strings.HasPrefix(p, "/_synapse") }, true, map[string]check.Status{"/_synapse/admin": check.Problem}},
		{"the client's own header", onlyNodes, false, map[string]check.Status{"X-Forwarded-For": check.Problem}},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := newGateway(t, homeserver.SharedSecretPath)
			service := httptest.NewUnstartedServer(d.handler)
			service.Config.MaxHeaderBytes = 8 << 10 // as serve has it
			service.Start()
			t.Cleanup(service.Close)
			c := config.Config{ServerName: testServerName, Origin: d.homeserver.URL, Way: homeserver.SharedSecret, Host: "127.0.0.1", Port: names.URLPort(service.URL), HSToken: testHSToken}
			found := checked(t, c, front(t, d.homeserver.URL, service.URL, test.through, test.replaces))
			if found["service"].Status != check.OK || found["service hs_token"].Status != check.OK {
				t.Errorf("service: got %+v and %+v", found["service"], found["service hs_token"])
			}
			got := map[string]check.Status{}
			for subject, f := range found {
				if of, isProxy := strings.CutPrefix(subject, "public URL "); isProxy && f.Status != check.OK {
					got[of] = f.Status
				}
			}
			if !maps.Equal(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
			if calls := d.homeserver.Asked(); strings.Contains(calls, callRegister) {
				t.Errorf("the homeserver was asked to create: %s", calls)
			}
		})
	}
}

// Whether profiles are shown to this service is asked, whatever the settings say, and the cure is the setting that hides them.
func TestCheckProfiles(t *testing.T) {
	for _, api := range apis {
		for _, of := range showings {
			for _, hasToken := range []bool{true, false} {
				h := newStandIn(t)
				h.Shows = of.shows
				c := masConfig(h.URL)
				c.Way, c.SharedSecret = wayOf(api.path), testSecret
				c.RegistrationPath = "nowhere.yaml"
				if !hasToken {
					c.ASToken = ""
				}
				want, cure := check.OK, ""
				switch {
				case !of.shows.WithToken:
				case !hasToken:
					want, cure = check.Warning, "list that in app_service_config_files"
				case of.shows.NoService: // which is the as_token's finding
					want = check.Note
				case of.shows.ToSharing:
					want, cure = check.Warning, "write limit_profile_requests_to_users_who_share_rooms: false"
				}
				if want == check.Warning && api.path == homeserver.CreateUserPath {
					want = check.Problem
				}
				found := checked(t, c, "http://127.0.0.1:1")
				if got := found["homeserver profiles"]; got.Status != want || !strings.Contains(got.Do, cure) {
					t.Errorf("%s, %s, a token %v: got %+v, want %q and %q", api.name, of.name, hasToken, got, want, cure)
				}
				if got := found["homeserver as_token"].Status; want == check.Note && got != check.Problem {
					t.Errorf("%s, %s: nothing says that the token is unknown", api.name, of.name)
				}
			}
		}
	}
	h := newStandIn(t)
	for _, fault := range []http.HandlerFunc{says(429, `{"errcode":"M_LIMIT_EXCEEDED"}`), says(500, "{}"), says(403, "<html>")} {
		h.Fail(callProfile, fault)
		c := config.Config{ServerName: testServerName, Origin: h.URL, Way: homeserver.SharedSecret}
		if got := checked(t, c, "http://127.0.0.1:1")["homeserver profiles"]; got.Status != check.Warning {
			t.Errorf("got %+v", got)
		}
	}
	c := config.Config{ServerName: "elsewhere.example", Origin: h.URL, Way: homeserver.SharedSecret}
	h.Asked()
	if got := checked(t, c, "http://127.0.0.1:1")["homeserver profiles"]; got.Status != check.Note || strings.Contains(h.Asked(), callProfile) {
		t.Error("a homeserver of another name is asked for a profile of ours, which it would ask ours for")
	}
}

// Whose a register path is, is told by what it answers.
func TestAskRegister(t *testing.T) {
	d := newGateway(t, homeserver.SharedSecretPath)
	ours := httptest.NewServer(d.handler)
	defer ours.Close()
	other := httptest.NewServer(says(404, `{"errcode":"M_UNRECOGNIZED"}`))
	defer other.Close()
	limited := httptest.NewServer(says(429, `{"errcode":"M_LIMIT_EXCEEDED","error":"too many requests from this address","retry_after_ms":1}`))
	defer limited.Close()
	for _, test := range []struct {
		origin, serverName string
		want               string
	}{
		{ours.URL, testServerName, "it answers at"},
		{ours.URL, "elsewhere.example", "serves another --matrixdomain"},
		{other.URL, testServerName, "is another program's"},
		{limited.URL, testServerName, "asks for fewer requests"},
		{"http://127.0.0.1:1", testServerName, "nothing answers"},
	} {
		c := config.Config{ServerName: test.serverName, Origin: "http://127.0.0.1:1", Way: homeserver.SharedSecret, Host: "127.0.0.1", Port: names.URLPort(test.origin)}
		if got := checked(t, c, "http://127.0.0.1:1")["service"]; !strings.Contains(got.Found, test.want) {
			t.Errorf("%s for %s: got %+v, want %q", test.origin, test.serverName, got, test.want)
		}
	}
}

func TestCheckStore(t *testing.T) {
	d := newGateway(t, homeserver.SharedSecretPath) // which has another store open
	running := httptest.NewServer(d.handler)
	defer running.Close()
	checkStore := func(dir string, serviceRuns bool) check.Finding {
		c := config.Config{ServerName: testServerName, Origin: "http://127.0.0.1:1", Way: homeserver.SharedSecret, Host: "127.0.0.1", Port: 1, DataPath: dir}
		if serviceRuns {
			c.Port = names.URLPort(running.URL)
		}
		return checked(t, c, "http://127.0.0.1:1")["store"]
	}
	dir := t.TempDir()
	if got := checkStore(dir+"/nowhere", true); got.Status != check.OK || !strings.Contains(got.Found, "not there yet") {
		t.Errorf("none: got %+v", got)
	}
	store, err := openBoltStore(dir, testServerName)
	if err != nil {
		t.Fatal(err)
	}
	d.store = store
	_, one := newProof(t)
	_, two := newProof(t)
	d.setState(one, stateRegistered)
	d.setState(two, statePending)
	for runs, want := range map[bool]check.Status{true: check.OK, false: check.Warning} {
		if got := checkStore(dir, runs); got.Status != want {
			t.Errorf("in use, %v: got %+v", runs, got)
		}
	}
	stop, err := startOps(t.Context(), service{Config: config.Config{DataPath: dir, ServerName: testServerName}}, store, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := checkStore(dir, true); got.Status != check.OK || !strings.Contains(got.Found, "in use by a running service: 1 registered, 1 pending") {
		t.Errorf("asked: got %+v", got)
	}
	stop()
	store.Close()
	if got := checkStore(dir, false); got.Status != check.OK || !strings.Contains(got.Found, ": 1 registered, 1 pending") {
		t.Errorf("free: got %+v", got)
	}
}

// What the running service does not tell is not taken for what was checked.
func TestCheckUntold(t *testing.T) {
	for _, test := range []struct {
		name string
		do   func(*deployment)
		want string
	}{
		{"asked", func(*deployment) {}, ""},
		{"not asked", stops("ops"), "; whether the running service asks for that was not checked, because no running service can be asked"},
		{"not running", stops("ops", "service"), ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := newDeployment(t, "")
			d.admits = d.node.asks(big.NewInt(7))
			d.flags = append(d.flags, "--eth-rpc", "ETHNODE", "--min-balance", "7")
			test.do(d)
			_, found := d.check()
			if got := found["Ethereum node"]; got.Status != check.OK || !strings.HasSuffix(got.Found, "an address must hold 7 wei"+test.want) {
				t.Errorf("got %+v", got)
			}
		})
	}
}

// Where the socket does not tell whether nodes can register, --ops-listen does.
func TestAskReadiness(t *testing.T) {
	ready := httptest.NewServer(says(503, "store cannot be written\n"))
	t.Cleanup(ready.Close)
	dir := t.TempDir()
	socket, err := net.Listen("unix", filepath.Join(dir, socketFile))
	if err != nil {
		t.Fatal(err)
	}
	failing := &http.Server{Handler: says(500, "no")}
	go failing.Serve(socket)
	t.Cleanup(func() { failing.Close() })
	c := config.Config{DataPath: dir}
	if _, err := askReadiness(t.Context(), c); err == nil || !strings.Contains(err.Error(), "answers 500") {
		t.Errorf("the socket: got %v", err)
	}
	c.OpsListen = ready.Listener.Addr().String()
	if wrong, err := askReadiness(t.Context(), c); err != nil || len(wrong) != 1 || wrong[0].Reason != "store cannot be written" {
		t.Errorf("--ops-listen: got %v, %v", wrong, err)
	}
	c.OpsListen = "127.0.0.1:1"
	if _, err := askReadiness(t.Context(), c); err == nil || !strings.Contains(err.Error(), "answers 500") {
		t.Errorf("nobody there: got %v", err)
	}
}
