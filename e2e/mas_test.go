// mas_test.go owns the deployment behind Matrix Authentication Service: the gateway, nginx and Synapse are real, and the
// service itself is the stand-in of e2e/mas, or a real one that the environment names.

package e2e

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/mas"
	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
)

// masScenes are played behind Matrix Authentication Service: those of every homeserver, and its own.
var masScenes = []struct {
	name string
	play func(*testing.T, *Deployment)
}{
	{"a node enters through nginx", testNodeEnters},
	{"nodes find each other by address", testNodesFindEachOther},
	{"the register command is a node", testRegisterCommand},
	{"sixteen at once make one account", testSixteenAtOnce},
	{"the homeserver is asked to ping", testPing},
	{"nodes talk in a room", testTalk},
	{"a client finds a node by its address", testThirdParty},
	{"a wiped store adopts the account", testWipedStore},
	{"the service answers as it is expected to", testMASAnswers},
	{"a version before 1.18 leaves the display name out", testMASOld},
	{"half an account is finished", testMASHalfMade},
	{"a node logs out with its token in the query", testMASLogout},
	{"an account at the homeserver alone", testMASReserved},
	{"an account that a cut-off creation left at the homeserver alone", testMASCutOff},
	{"an exclusive namespace", testMASExclusive},
	{"a banned node stays out", testBanned},
	{"a deactivated account stays out", testMASDeactivated},
	{"the homeserver lost its database", testMASLostHomeserver},
	{"both lost their databases", testMASLostBoth},
	{"a gateway for the shared secret says so", testMASWrongDoor},
	{"check finds nothing wrong, and what is", testMASCheck},
	{"no log holds a secret", testNoSecretLogged}, // the last: it reads what all others left
}

func TestBehindMAS(t *testing.T) {
	t.Parallel()
	d := deploy(t, BehindMAS())
	must(d.Gateway.WaitForLog(t.Context(), "The homeserver has the API of --matrixurl"))(t)
	for _, scene := range masScenes {
		t.Run(scene.name, func(t *testing.T) { scene.play(t, d) })
	}
}

// A masTarget is a service to hold against the table, with its homeserver.
type masTarget struct {
	url, clientID, clientSecret string
	homeserver, asToken, domain string
	nodeURL                     string                                        // where nodes log in
	compatURL                   string                                        // and where that goes to, without nginx
	set                         func(mas.Settings)                            // nil for a real one, whose settings stay
	at                          func(homeserver mas.Synapse) (restore func()) // likewise: what it takes for its homeserver
}

// testMASAnswers holds the stand-in against the table, before the real Synapse.
func testMASAnswers(t *testing.T, d *Deployment) {
	at := masTarget{
		url: d.MASURL, clientID: d.MAS.ClientID, clientSecret: d.MAS.ClientSecret,
		homeserver: d.Homeserver.URL, asToken: must(d.Gateway.tokens())(t)["as_token"], domain: d.Domain, nodeURL: d.NodeURL,
		compatURL: d.MASURL,
		set:       d.MAS.Set,
		at: func(homeserver mas.Synapse) (restore func()) {
			right := d.MAS.Homeserver
			d.MAS.Homeserver = mas.Synapse{URL: cmp.Or(homeserver.URL, d.Homeserver.URL), Secret: cmp.Or(homeserver.Secret, d.Homeserver.MASSecret)}
			return func() { d.MAS.Homeserver = right }
		},
	}
	at.holdAgainst(t)
	at.letIn(t, filepath.Join(d.Gateway.Dir, "registration.yaml"))
}

// TestRealMAS holds a real service against the same table, and lets a node in there. It makes users that stay.
func TestRealMAS(t *testing.T) {
	at := masTarget{
		url: os.Getenv("E2E_MAS_URL"), clientID: os.Getenv("E2E_MAS_CLIENT_ID"), clientSecret: os.Getenv("E2E_MAS_CLIENT_SECRET"),
		homeserver: os.Getenv("E2E_MAS_HOMESERVER_URL"), domain: os.Getenv("E2E_MAS_DOMAIN"), nodeURL: cmp.Or(os.Getenv("E2E_MAS_NODE_URL"), os.Getenv("E2E_MAS_URL")),
		compatURL: cmp.Or(os.Getenv("E2E_MAS_COMPAT_URL"), os.Getenv("E2E_MAS_URL")),
	}
	registration := os.Getenv("E2E_MAS_REGISTRATION")
	if at.url == "" || at.clientID == "" || at.clientSecret == "" || at.homeserver == "" || at.domain == "" || registration == "" {
		need.Skip(t, need.Missing{What: "a real Matrix Authentication Service", Cure: "set E2E_MAS_URL and the others that CONTRIBUTING.md has under Tests"})
	}
	file := must(os.ReadFile(registration))(t)
	for line := range strings.Lines(string(file)) {
		if token, ok := strings.CutPrefix(line, "as_token:"); ok {
			at.asToken = strings.Trim(strings.TrimSpace(token), `"'`)
		}
	}
	at.holdAgainst(t)
	at.letIn(t, registration)
}

// letIn runs the gateway before the service, and a node at it.
func (at masTarget) letIn(t *testing.T, registration string) {
	dir := t.TempDir()
	program := must(Build(t.Context(), dir))(t)
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte(at.clientSecret), 0o600); err != nil {
		t.Fatal(err)
	}
	port := must(freePorts(1))(t)[0]
	gateway := fmt.Sprintf("http://127.0.0.1:%d", port)
	p := must(startProcess("the gateway", filepath.Join(dir, "gateway.log"), program.command(context.WithoutCancel(t.Context()), dir,
		"--matrixdomain", at.domain, "--matrixurl", at.url+MASPath, "--homeserver-url", at.homeserver, "--registration", registration,
		"--mas-client-id", at.clientID, "--mas-client-secret-file", secret, "--port", fmt.Sprint(port), "--datapath", filepath.Join(dir, "store"))))(t)
	t.Cleanup(func() { p.stop() })
	if err := p.ready(t.Context(), func(ctx context.Context) bool {
		a, err := call(ctx, http.MethodGet, gateway+registerPath, "", nil)
		return err == nil && a.Status == http.StatusMethodNotAllowed
	}); err != nil {
		t.Fatal(err)
	}
	r := must(program.Run(t.Context(), dir, "register", "--matrixdomain", at.domain, "--server", at.nodeURL,
		"--register-url", gateway+registerPath, "--generate", filepath.Join(dir, "node.key")))(t)
	if r.Code != 0 {
		t.Errorf("exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
}

// holdAgainst asks each case of the table that can be brought about.
func (at masTarget) holdAgainst(t *testing.T) {
	asked := map[mas.Case]bool{}
	for _, row := range at.rows(t) {
		asked[row.is] = true
		if row.ask == nil {
			t.Logf("%s cannot be brought about from here", row.is)
			continue
		}
		t.Run(string(row.is), func(t *testing.T) {
			got, want := row.ask(), mas.Answers[row.is]
			if got.status != want.Status || !want.IsTitle(got.title()) || want.Error != "" && got.field("error") != want.Error || want.Errcode != "" && got.field("errcode") != want.Errcode {
				t.Errorf("got %d %s, want %+v", got.status, got.body, want)
			}
			if chain, _ := got.field("errors").([]any); want.Caused && len(chain) < 2 {
				t.Errorf("the cause is not told: %s", got.body)
			}
			if isHTML := strings.HasPrefix(got.contentType, "text/html"); isHTML != want.IsHTML {
				t.Errorf("it comes as %q", got.contentType)
			}
			for _, path := range want.Fields {
				if got.field(path) == nil {
					t.Errorf("there is no %s in %s", path, got.body)
				}
			}
		})
	}
	for is := range mas.Answers {
		if !asked[is] {
			t.Errorf("nobody asks for %s", is)
		}
	}
}

// A masRow is one case, and how it is brought about: nil where it cannot be.
type masRow struct {
	is  mas.Case
	ask func() masAnswer
}

func (at masTarget) rows(t *testing.T) []masRow {
	name := fmt.Sprintf("0x%040x", time.Now().UnixNano())
	nobody, password, token, id, session := "01000000000000000000000000", strings.Repeat("5a", 65), "", "", ""
	with := func(s mas.Settings, ask func() masAnswer) func() masAnswer {
		if at.set == nil {
			return nil
		}
		return func() masAnswer {
			at.set(s)
			defer at.set(mas.Settings{})
			return ask()
		}
	}
	withHomeserver := func(homeserver mas.Synapse, ask func() masAnswer) func() masAnswer {
		if at.at == nil {
			return nil
		}
		return func() masAnswer {
			defer at.at(homeserver)()
			return ask()
		}
	}
	look := func(name string) func() masAnswer {
		return func() masAnswer { return at.admin(t, http.MethodGet, mas.ByNamePath+name, token, nil) }
	}
	add := func(name string) func() masAnswer {
		return func() masAnswer {
			return at.admin(t, http.MethodPost, mas.UsersPath, token, map[string]string{"username": name})
		}
	}
	step := func(id *string, path string) func() masAnswer {
		return func() masAnswer {
			return at.admin(t, http.MethodPost, mas.UsersPath+"/"+*id+path, token, map[string]any{"password": password, "skip_password_check": true})
		}
	}
	login := func(name, password string) func() masAnswer {
		return func() masAnswer {
			return at.client(t, "login", "", map[string]any{"type": "m.login.password", "user": name, "password": password})
		}
	}
	fresh := "0x" + strings.Repeat("0", 40)
	return []masRow{
		{mas.TokenBadSecret, func() masAnswer { return at.token(t, "not-"+at.clientSecret) }},
		{mas.TokenNotAdmin, with(mas.Settings{NotAdmin: true}, func() masAnswer { return at.token(t, at.clientSecret) })},
		{mas.TokenGranted, func() masAnswer {
			a := at.token(t, at.clientSecret)
			token, _ = a.field("access_token").(string)
			return a
		}},
		{mas.NoHeader, func() masAnswer { return at.admin(t, http.MethodGet, mas.ByNamePath+name, "", nil) }},
		{mas.NoToken, func() masAnswer { return at.admin(t, http.MethodGet, mas.ByNamePath+name, "mat_expired", nil) }},
		{mas.NoAdminAPI, with(mas.Settings{NoAdminAPI: true}, look(name))},
		{mas.NotFound, look(name)},
		{mas.Created, add(name)},
		{mas.Exists, add(name)},
		{mas.BadName, add("NOT A NAME")},
		{mas.Found, func() masAnswer {
			a := look(name)()
			id, _ = a.field("data.id").(string)
			return a
		}},
		{mas.PasswordSet, step(&id, mas.PasswordPath)},
		{mas.PasswordSet, step(&id, mas.PasswordPath)}, // repeatable
		{mas.PasswordNobody, step(&nobody, mas.PasswordPath)},
		{mas.PasswordsOff, with(mas.Settings{PasswordsOff: true}, step(&id, mas.PasswordPath))},
		{mas.Reserved, func() masAnswer { return add(at.homeserverAlone(t))() }},
		{mas.CutOff, with(mas.Settings{}, func() masAnswer { return add(at.cutOff(t, token))() })},
		{mas.Forced, func() masAnswer {
			return at.admin(t, http.MethodPost, mas.UsersPath, token, map[string]any{"username": at.homeserverAlone(t), "skip_homeserver_check": true})
		}},
		{mas.Unreached, withHomeserver(mas.Synapse{URL: "http://127.0.0.1:1"}, add(fresh))},
		{mas.Refused, withHomeserver(mas.Synapse{Secret: "another"}, add(fresh))},
		{mas.SiteConfig, func() masAnswer { return at.admin(t, http.MethodGet, mas.SitePath, token, nil) }},
		{mas.VersionTold, func() masAnswer { return at.admin(t, http.MethodGet, mas.VersionPath, token, nil) }},

		{mas.LoginNobody, login(fresh, password)},
		{mas.LoginWrong, login(name, "another")},
		{mas.LoginSwitched, with(mas.Settings{PasswordsOff: true}, login(name, password))},
		{mas.Locked, step(&id, mas.LockPath)},
		{mas.LoginLocked, login(name, password)},
		{mas.Unlocked, step(&id, mas.UnlockPath)},
		{mas.LoggedIn, func() masAnswer {
			a := login(name, password)()
			session, _ = a.field("access_token").(string)
			return a
		}},
		{mas.LogoutNoHeader, func() masAnswer { return at.client(t, "logout?access_token="+session, "", struct{}{}) }},
		{mas.LoggedOut, func() masAnswer { return at.client(t, "logout", session, struct{}{}) }},
		{mas.LogoutAgain, func() masAnswer { return at.client(t, "logout", session, struct{}{}) }},
		{mas.LoginLimited, with(mas.Settings{Logins: mas.DefaultLogins}, func() masAnswer {
			for range int(mas.DefaultLogins.Burst) {
				login(fresh, password)() // which counts nothing
				if a := login(name, password)(); a.status != http.StatusOK {
					t.Errorf("within the limit: got %d %s", a.status, a.body)
				}
			}
			return login(name, password)()
		})},
	}
}

// cutOff has a user made whose making is cut off when the homeserver has its half, and returns its name.
func (at masTarget) cutOff(t *testing.T, token string) string {
	t.Helper()
	at.set(mas.Settings{Keep: func(context.Context) error { return errors.New("killed") }})
	defer at.set(mas.Settings{})
	name := fmt.Sprintf("0x%040x", time.Now().UnixNano())
	if res, err := http.DefaultClient.Do(at.adminRequest(t, http.MethodPost, mas.UsersPath, token, map[string]string{"username": name})); err == nil {
		res.Body.Close()
		t.Errorf("got %d, want no answer", res.StatusCode)
	}
	return name
}

// homeserverAlone makes a user that the service does not know, as an application service may, and returns its name.
func (at masTarget) homeserverAlone(t *testing.T) string {
	t.Helper()
	name := fmt.Sprintf("0x%040x", time.Now().UnixNano())
	a := must(call(t.Context(), http.MethodPost, at.homeserver+"/_matrix/client/v3/register", at.asToken,
		map[string]any{"type": "m.login.application_service", "username": name, "inhibit_login": true}))(t)
	want(t, a, http.StatusOK, "")
	return name
}

// A masAnswer is what the service said.
type masAnswer struct {
	status      int
	body        string
	contentType string
}

// field is the value under the path of keys, or nil.
func (a masAnswer) field(path string) any {
	var value any
	json.Unmarshal([]byte(a.body), &value) // what is of another form has no field
	for key := range strings.SplitSeq(path, ".") {
		object, _ := value.(map[string]any)
		value = object[key]
	}
	return value
}

// title is that of the first error.
func (a masAnswer) title() string {
	chain, _ := a.field("errors").([]any)
	if len(chain) == 0 {
		return ""
	}
	first, _ := chain[0].(map[string]any)
	title, _ := first["title"].(string)
	return title
}

func (at masTarget) token(t *testing.T, secret string) masAnswer {
	t.Helper()
	form := url.Values{"grant_type": {"client_credentials"}, "scope": {mas.AdminScope}}
	req := must(http.NewRequestWithContext(t.Context(), http.MethodPost, at.url+mas.TokenPath, strings.NewReader(form.Encode())))(t)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(at.clientID, secret)
	return ask(t, req)
}

func (at masTarget) admin(t *testing.T, method, path, token string, body any) masAnswer {
	t.Helper()
	return ask(t, at.adminRequest(t, method, path, token, body))
}

// adminRequest is a request to the admin API. Without a token it has no header for one.
func (at masTarget) adminRequest(t *testing.T, method, path, token string, body any) *http.Request {
	t.Helper()
	return request(t, method, at.url+path, token, body)
}

// client asks what nodes ask, without the nginx before it.
func (at masTarget) client(t *testing.T, path, token string, body any) masAnswer {
	t.Helper()
	return ask(t, request(t, http.MethodPost, at.compatURL+"/_matrix/client/r0/"+path, token, body))
}

func request(t *testing.T, method, url, token string, body any) *http.Request {
	t.Helper()
	payload := must(json.Marshal(body))(t)
	req := must(http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(payload)))(t)
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return req
}

func ask(t *testing.T, req *http.Request) masAnswer {
	t.Helper()
	res := must(http.DefaultClient.Do(req))(t)
	defer res.Body.Close()
	return masAnswer{res.StatusCode, string(must(io.ReadAll(res.Body))(t)), res.Header.Get("Content-Type")}
}

// displayNameOf is what the homeserver shows of a node.
func displayNameOf(t *testing.T, d *Deployment, n *Node) Answer {
	t.Helper()
	_, token := newMember(t, d)
	return must(n.DisplayNameOf(t.Context(), token, n.UserID))(t)
}

func testMASOld(t *testing.T, d *Deployment) {
	d.MAS.Set(mas.Settings{Version: mas.Old})
	defer d.MAS.Set(mas.Settings{})
	n, _ := newMember(t, d)
	if a := displayNameOf(t, d, n); a.DisplayName != n.DisplayName {
		t.Errorf("its display name is %q, want %q", a.DisplayName, n.DisplayName)
	}
}

// The account is there and has no password: the node's next try sets it, though the service was restarted meanwhile and
// the record had its minute to be reconciled in.
func testMASHalfMade(t *testing.T, d *Deployment) {
	n := newNode(t, d)
	d.MAS.Set(mas.Settings{PasswordsOff: true})
	want(t, must(n.Register(t.Context()))(t), http.StatusBadGateway, "M_UNKNOWN")
	d.MAS.Set(mas.Settings{})
	must(d.Gateway.WaitForLog(t.Context(), "Refused registration", n.UserID, "passwords: {enabled: true}"))(t)
	if accounts := must(d.Homeserver.Accounts(t.Context(), n.UserID))(t); accounts != 1 {
		t.Fatalf("the homeserver has %d accounts, want 1", accounts)
	}
	want(t, must(n.Login(t.Context()))(t), http.StatusForbidden, "M_FORBIDDEN")
	if err := d.Gateway.Restart(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	want(t, must(n.Register(t.Context()))(t), http.StatusOK, "")
	must(d.Gateway.WaitForLog(t.Context(), "Registered node", n.UserID, "completed"))(t)
	loggedIn(t, n)
}

// Photon sends its token in the query, when it logs out too.
func testMASLogout(t *testing.T, d *Deployment) {
	n, token := newMember(t, d)
	logout := func() Answer {
		return must(n.client(t.Context(), http.MethodPost, "logout?access_token="+token, "", struct{}{}))(t)
	}
	want(t, logout(), http.StatusOK, "")
	want(t, logout(), http.StatusUnauthorized, "M_UNKNOWN_TOKEN")
	for _, name := range []string{"access.log", "error.log"} {
		log := must(os.ReadFile(filepath.Join(d.nginx.dir, name)))(t)
		if strings.Contains(string(log), token) || name == "access.log" && !strings.Contains(string(log), "/_matrix/client/r0/logout") {
			t.Errorf("nginx's %s: %s", name, log)
		}
	}
}

// The real Synapse has made its half of an account when the creation is cut off, in each of the ways that there are. The
// node's next try completes it.
func testMASCutOff(t *testing.T, d *Deployment) {
	reached := make(chan bool, 1) // the service is about to keep its half
	for _, way := range []struct {
		name string
		long bool
		keep func(context.Context) error
	}{
		{"the service dies", false, func(context.Context) error { return errors.New("killed") }},
		{"the gateway dies", false, func(ctx context.Context) error {
			reached <- true
			<-ctx.Done()
			return nil
		}},
		{"the gateway has no more patience", true, func(ctx context.Context) error {
			begun := time.Now()
			<-ctx.Done()
			if patience := time.Since(begun); patience < 7*time.Second { // a busy machine only makes it longer
				t.Errorf("it went away after %v", patience)
			}
			return nil
		}},
	} {
		t.Run(way.name, func(t *testing.T) {
			if way.long { // it waits until the gateway does no more
				need.OnlyLong(t)
			}
			n := newNode(t, d)
			d.MAS.Set(mas.Settings{Keep: way.keep})
			defer d.MAS.Set(mas.Settings{})
			answered := make(chan bool)
			go func() {
				n.Register(t.Context()) // whatever nginx makes of it
				close(answered)
			}()
			if way.name == "the gateway dies" {
				<-reached
				if err := d.Gateway.Kill(); err != nil {
					t.Fatal(err)
				}
			}
			<-answered
			d.MAS.Set(mas.Settings{})
			if _, there := d.MAS.Password(n.Localpart); there {
				t.Fatal("the service has the account")
			}
			if accounts := must(d.Homeserver.Accounts(t.Context(), n.UserID))(t); accounts != 1 {
				t.Fatalf("the homeserver has %d accounts, want 1", accounts)
			}
			if way.name == "the gateway dies" {
				if err := d.Gateway.Start(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			want(t, must(n.Register(t.Context()))(t), http.StatusOK, "")
			must(d.Gateway.WaitForLog(t.Context(), "Registered node", n.UserID, "completed"))(t)
			loggedIn(t, n)
			if a := displayNameOf(t, d, n); a.DisplayName != n.DisplayName {
				t.Errorf("its display name is %q, want %q", a.DisplayName, n.DisplayName)
			}
		})
	}
}

func testMASReserved(t *testing.T, d *Deployment) {
	n := newNode(t, d)
	if err := (mas.Synapse{URL: d.Homeserver.URL, Secret: d.Homeserver.MASSecret}).Provision(n.Localpart, "somebody"); err != nil {
		t.Fatal(err)
	}
	want(t, must(n.Register(t.Context()))(t), http.StatusBadGateway, "M_UNKNOWN")
	must(d.Gateway.WaitForLog(t.Context(), "Refused registration", n.UserID, "import the account with mas-cli syn2mas"))(t)
	if _, there := d.MAS.Password(n.Localpart); there {
		t.Error("it was made at Matrix Authentication Service all the same")
	}
}

// An exclusive namespace keeps nodes out; where it is not exclusive any more, they get in.
func testMASExclusive(t *testing.T, d *Deployment) {
	file := filepath.Join(d.Gateway.Dir, "registration.yaml")
	before := must(os.ReadFile(file))(t)
	write := func(content []byte) func() error { return func() error { return os.WriteFile(file, content, 0o600) } }
	if err := d.Homeserver.Restart(t.Context(), write(bytes.Replace(before, []byte("exclusive: false"), []byte("exclusive: true"), 1))); err != nil {
		t.Fatal(err)
	}
	n := newNode(t, d)
	want(t, must(n.Register(t.Context()))(t), http.StatusBadGateway, "M_UNKNOWN")
	must(d.Gateway.WaitForLog(t.Context(), "Refused registration", n.UserID, "exclusive namespace"))(t)
	if err := d.Homeserver.Restart(t.Context(), write(before)); err != nil {
		t.Fatal(err)
	}
	want(t, must(n.Register(t.Context()))(t), http.StatusOK, "")
	loggedIn(t, n)
}

// The service erases at the homeserver whom it deactivates: the profile is gone, and still nobody is let in again.
func testMASDeactivated(t *testing.T, d *Deployment) {
	n, token := newMember(t, d)
	if err := d.MAS.Deactivate(n.Localpart); err != nil {
		t.Fatal(err)
	}
	staysOut := func(when string) {
		t.Helper()
		want(t, must(n.Login(t.Context()))(t), http.StatusForbidden, "M_FORBIDDEN")
		if a := must(n.WhoAmI(t.Context(), token))(t); a.Status != http.StatusUnauthorized {
			t.Errorf("%s, its session is answered with %d %s, want 401", when, a.Status, a.Body)
		}
	}
	staysOut("deactivated")
	want(t, must(n.Register(t.Context()))(t), http.StatusConflict, "M_USER_IN_USE")
	staysOut("registered again")
	if err := d.Gateway.Restart(t.Context(), d.Gateway.WipeStore); err != nil {
		t.Fatal(err)
	}
	want(t, must(n.Register(t.Context()))(t), http.StatusConflict, "M_USER_IN_USE")
	staysOut("registered again with the store wiped")
}

// The account is at the service, which does not have it provided at the homeserver by itself: nothing is made twice.
func testMASLostHomeserver(t *testing.T, d *Deployment) {
	n, _ := newMember(t, d)
	if err := d.Homeserver.Restart(t.Context(), d.Homeserver.WipeDatabase); err != nil {
		t.Fatal(err)
	}
	want(t, must(n.Register(t.Context()))(t), http.StatusConflict, "M_USER_IN_USE")
	if err := d.MAS.Homeserver.Provision(n.Localpart, n.DisplayName); err != nil { // what mas-cli manage provision-all-users does
		t.Fatal(err)
	}
	loggedIn(t, n)
}

func testMASLostBoth(t *testing.T, d *Deployment) {
	n, _ := newMember(t, d)
	if err := d.Homeserver.Restart(t.Context(), d.Homeserver.WipeDatabase); err != nil {
		t.Fatal(err)
	}
	d.MAS.ForgetUsers()
	want(t, must(n.Login(t.Context()))(t), http.StatusForbidden, "M_FORBIDDEN")
	want(t, must(n.Register(t.Context()))(t), http.StatusOK, "")
	must(d.Gateway.WaitForLog(t.Context(), "Registered node", n.UserID, "recreated"))(t)
	loggedIn(t, n)
}

// Where the service is in charge the homeserver has neither of the old ways, and the gateway says what has come in
// their place.
func testMASWrongDoor(t *testing.T, d *Deployment) {
	secret := filepath.Join(d.Dir, "unused_secret")
	if err := os.WriteFile(secret, []byte("not used"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, flags := range map[string][]string{SharedSecretPath: {"--sharesecret-file", secret}, CreateUserPath: nil} {
		g := must(d.AddGateway(t.Context(), "wrong door"+filepath.Base(name), d.Homeserver.URL+name, flags...))(t)
		t.Log(must(g.WaitForLog(t.Context(), "no node can register", "Matrix Authentication Service is in charge", "--homeserver-url "+d.Homeserver.URL))(t))
		if _, err := g.Stop(); err != nil {
			t.Error(err)
		}
	}
}

func testMASCheck(t *testing.T, d *Deployment) {
	dir := checkDir(t, d)
	allRight := runCheck(t, d, dir)
	for subject, f := range allRight.findings {
		if f.Status == "problem" {
			t.Errorf("%s: %s; %s", subject, f.Found, f.Do)
		}
	}
	for _, wrong := range []struct {
		name     string
		settings mas.Settings
		want     map[string]string
	}{
		{"passwords off", mas.Settings{PasswordsOff: true}, map[string]string{"Matrix Authentication Service passwords": "problem", "public URL login": "problem", "public URL logout": "note"}},
		{"not admin", mas.Settings{NotAdmin: true}, map[string]string{
			"Matrix Authentication Service scope": "problem", "Matrix Authentication Service admin API": "", "Matrix Authentication Service passwords": "note",
			"Matrix Authentication Service registration": "note", "Matrix Authentication Service server name": "note",
		}},
	} {
		t.Run(wrong.name, func(t *testing.T) {
			d.MAS.Set(wrong.settings)
			defer d.MAS.Set(mas.Settings{})
			wantChange(t, allRight, runCheck(t, d, dir), wrong.want)
		})
	}
	t.Run("how it knows the homeserver", func(t *testing.T) { testMASCheckFile(t, d, dir) })
	t.Run("login at the homeserver", func(t *testing.T) {
		front := httptest.NewServer(httputil.NewSingleHostReverseProxy(must(url.Parse(d.Homeserver.URL))(t)))
		defer front.Close()
		got := runCheck(t, d, dir, "--public-url", front.URL)
		if f := got.findings["public URL login"]; f.Status != "problem" || !strings.Contains(f.Do, "(login|logout|refresh)") {
			t.Errorf("got %+v", f)
		}
	})
}

// testMASCheckFile has the configuration of the service judged by what the real Synapse says to it.
func testMASCheckFile(t *testing.T, d *Deployment, dir string) {
	const endpoint, secret = "mas.yaml matrix.endpoint", "mas.yaml matrix.secret"
	file := filepath.Join(d.Dir, "mas.yaml")
	for _, test := range []struct{ name, endpoint, secret, wantEndpoint, wantSecret string }{
		{"all right", d.Homeserver.URL, d.Homeserver.MASSecret, "ok", "ok"},
		{"another secret", d.Homeserver.URL, "another-secret", "ok", "problem"},
		{"nginx", d.NodeURL, d.Homeserver.MASSecret, "problem", "ok"},
		{"nothing there, another secret", "http://127.0.0.1:1", "another-secret", "problem", "problem"},
	} {
		content := fmt.Sprintf("matrix: {homeserver: %s, endpoint: %q, secret: %q}\n", d.Domain, test.endpoint, test.secret)
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		got := runCheck(t, d, dir, "--mas-config", file)
		if e, s := got.findings[endpoint], got.findings[secret]; e.Status != test.wantEndpoint || s.Status != test.wantSecret {
			t.Errorf("%s: got %+v and %+v", test.name, e, s)
		}
	}
}
