package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/log"
	"golang.org/x/crypto/bcrypt"

	masplay "github.com/SmartMeshFoundation/matrix-regservice/e2e/mas"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/mas"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/redact"
)

const (
	testASToken = "LODE52N2CKVXMOURUMAWLEEEXMWB4DKIKRI246XD"
	testHSToken = "RNI4CGEDTKC4WJTB4RZWRK4NOKA7M4PREUW6F2GZ"
	testSecret  = "rather_secret~with^symbols"

	testMASClientID = "01J44RKQYM4G3TNVANTMTDYTX6"
	testMASSecret   = "a_client_secret~without^digits"
)

// A standIn plays a homeserver where a fault is wanted that no real one makes on demand. Its right answers are
// those captured from Synapse 0.34.0 (createUser) and 1.163.2 (the rest), and of Matrix Authentication Service those of
// e2e/mas.
type standIn struct {
	*httptest.Server

	mu     sync.Mutex
	users  map[string]string // display names by user ID
	hashed map[string]string // what createUser was given as password_hash, by user ID
	whole  map[string]string // what the shared-secret API was given as password, by user ID
	nonces map[string]bool
	calls  []string                    // what was asked, in order
	faults map[string]http.HandlerFunc // answers in place of its own, by call
	server string                      // the body of its version; "" for none
	name   string                      // its server_name
	issuer string                      // who logs users in; "" for itself
	mas    *masplay.Service            // Matrix Authentication Service, at the same origin
}

const (
	callVersion    = "version"
	callProfile    = "profile"
	callCreateUser = "createUser"
	callNonce      = "nonce"
	callRegister   = "register"
	callKey        = "key"
	callVersions   = "versions"
	callWhoami     = "whoami"
	callIssuer     = "issuer"
	callToken      = "token"
	callMASCreate  = "masCreate"
	callLookUp     = "lookUp"
	callPassword   = "password"
	callSetName    = "setName"
	callSite       = "site"
	callDiscovery  = "discovery"
)

func newStandIn(t testing.TB) *standIn {
	s := startStandIn()
	t.Cleanup(s.Close)
	return s
}

func startStandIn() *standIn {
	s := &standIn{
		users: map[string]string{}, hashed: map[string]string{}, whole: map[string]string{}, nonces: map[string]bool{},
		faults: map[string]http.HandlerFunc{},
		server: `{"server":{"name":"Synapse","version":"1.163.2"}}`,
		name:   testServerName,
	}
	s.mas = masplay.New(testServerName, testMASClientID, testMASSecret, masHalf{s})
	s.Server = httptest.NewServer(s)
	return s
}

// masHalf is the stand-in as Matrix Authentication Service sees it.
type masHalf struct{ s *standIn }

func (h masHalf) Available(localpart string) (bool, error) {
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	_, there := h.s.users[names.UserID(localpart, testServerName)]
	return !there, nil
}

func (h masHalf) Provision(localpart, displayName string) error {
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	h.s.users[names.UserID(localpart, testServerName)] = cmp.Or(displayName, localpart)
	return nil
}

func (h masHalf) AddDevice(string, string) error { return nil }

func (h masHalf) Delete(localpart string) error {
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	delete(h.s.users, names.UserID(localpart, testServerName))
	return nil
}

// fail answers the call with the handler from now on; with nil, rightly again.
func (s *standIn) fail(call string, handler http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[call] = handler
}

// failOnce answers the next such call with the handler.
func (s *standIn) failOnce(call string, handler http.HandlerFunc) {
	s.fail(call, func(w http.ResponseWriter, r *http.Request) {
		s.fail(call, nil)
		handler(w, r)
	})
}

// asked returns the calls made since it was last asked.
func (s *standIn) asked() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	calls := strings.Join(s.calls, " ")
	s.calls = nil
	return calls
}

func (s *standIn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	call, answer := "", (func(http.ResponseWriter, *http.Request))(nil)
	switch path := r.URL.EscapedPath(); {
	case path == "/_matrix/federation/v1/version":
		call, answer = callVersion, s.version
	case path == "/_matrix/key/v2/server":
		call, answer = callKey, says(200, fmt.Sprintf(`{"server_name":%q,"verify_keys":{}}`, s.name))
	case path == "/_matrix/client/versions":
		call, answer = callVersions, says(200, `{"versions":["r0.6.1","v1.12"]}`)
	case path == "/_matrix/client/r0/account/whoami":
		call, answer = callWhoami, whoami
	case strings.HasPrefix(path, "/_matrix/client/r0/profile/") && strings.HasSuffix(path, "/displayname"):
		call, answer = callProfile, s.profile
	case path == homeserver.CreateUserPath:
		call, answer = callCreateUser, s.createUser
	case path == homeserver.SharedSecretPath && r.Method == http.MethodGet:
		call, answer = callNonce, s.nonce
	case path == homeserver.SharedSecretPath:
		call, answer = callRegister, s.register
	case path == homeserver.AuthMetadataPath || path == homeserver.AuthMetadataUnstablePath:
		call, answer = callIssuer, s.authMetadata
	case strings.HasPrefix(path, homeserver.SetProfilePath) && r.Method == http.MethodPut:
		call, answer = callSetName, s.setName
	case path == "/.well-known/openid-configuration":
		call, answer = callDiscovery, s.mas.ServeHTTP
	case path == mas.TokenPath:
		call, answer = callToken, s.mas.ServeHTTP
	case path == homeserver.MASUsersPath:
		call, answer = callMASCreate, s.mas.ServeHTTP
	case strings.HasPrefix(path, mas.ByNamePath):
		call, answer = callLookUp, s.mas.ServeHTTP
	case strings.HasSuffix(path, mas.PasswordPath):
		call, answer = callPassword, s.mas.ServeHTTP
	case path == mas.SitePath:
		call, answer = callSite, s.mas.ServeHTTP
	}
	s.mu.Lock()
	s.calls = append(s.calls, call)
	fault := s.faults[call]
	s.mu.Unlock()
	switch {
	case fault != nil:
		fault(w, r)
	case answer == nil:
		says(404, `{"errcode":"M_UNRECOGNIZED","error":"Unrecognized request"}`)(w, r)
	default:
		answer(w, r)
	}
}

func (s *standIn) version(w http.ResponseWriter, r *http.Request) {
	if s.server == "" {
		says(404, `{"errcode":"M_UNRECOGNIZED","error":"Unrecognized request"}`)(w, r)
		return
	}
	says(200, s.server)(w, r)
}

func whoami(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer "+testASToken {
		says(401, `{"errcode":"M_UNKNOWN_TOKEN","error":"Invalid access token passed."}`)(w, r)
		return
	}
	says(200, `{"user_id":"@transport02.smartmesh.cn:transport02.smartmesh.cn","is_guest":false}`)(w, r)
}

func (s *standIn) authMetadata(w http.ResponseWriter, r *http.Request) {
	if s.issuer == "" {
		says(404, `{"errcode":"M_UNRECOGNIZED","error":"Unrecognized request"}`)(w, r)
		return
	}
	says(200, fmt.Sprintf(`{"issuer":%q}`, s.issuer))(w, r)
}

// setName sets the display name of the user that the application service acts for.
func (s *standIn) setName(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer "+testASToken {
		says(401, `{"errcode":"M_UNKNOWN_TOKEN","error":"Unrecognised access token"}`)(w, r)
		return
	}
	var body struct{ DisplayName string }
	json.NewDecoder(r.Body).Decode(&body)
	s.mu.Lock()
	defer s.mu.Unlock()
	userID := strings.Split(r.URL.Path, "/")[5]
	if _, ok := s.users[userID]; !ok || r.FormValue("user_id") != userID {
		says(403, `{"errcode":"M_FORBIDDEN","error":"Application service has not registered this user"}`)(w, r)
		return
	}
	s.users[userID] = body.DisplayName
	says(200, "{}")(w, r)
}

func (s *standIn) profile(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	name, ok := s.users[strings.Split(r.URL.Path, "/")[5]]
	s.mu.Unlock()
	if !ok {
		says(404, `{"errcode":"M_NOT_FOUND","error":"Profile was not found"}`)(w, r)
		return
	}
	json.NewEncoder(w).Encode(map[string]string{"displayname": name})
}

func (s *standIn) createUser(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer "+testASToken || r.URL.RawQuery != "" {
		says(403, `{"errcode":"M_UNKNOWN","error":"Invalid application service token."}`)(w, r)
		return
	}
	var body map[string]any
	json.NewDecoder(r.Body).Decode(&body)
	userID := names.UserID(body["localpart"].(string), testServerName)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(body) != 3 {
		says(400, `{"errcode":"M_UNKNOWN","error":"unexpected fields"}`)(w, r)
		return
	}
	s.users[userID] = body["displayname"].(string) // of an account that is there, too
	if s.hashed[userID] == "" {
		s.hashed[userID] = body["password_hash"].(string)
	}
	fmt.Fprintf(w, `{"user_id":%q,"access_token":"MDAyOGxvY2F0aW9uIHRva2VuMTIzNDU2Nzg5","home_server":%q}`, userID, testServerName)
}

func (s *standIn) nonce(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	nonce := fmt.Sprintf("%0128x", len(s.calls))
	s.nonces[nonce] = true
	fmt.Fprintf(w, `{"nonce":%q}`, nonce)
}

func (s *standIn) register(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Nonce, Username, DisplayName, Password, Mac string
		Admin                                       *bool
		InhibitLogin                                bool `json:"inhibit_login"`
	}
	json.NewDecoder(r.Body).Decode(&body)
	s.mu.Lock()
	defer s.mu.Unlock()
	mac := hmac.New(sha1.New, []byte(testSecret))
	fmt.Fprintf(mac, "%s\x00%s\x00%s\x00notadmin", body.Nonce, body.Username, body.Password)
	userID := names.UserID(body.Username, testServerName)
	switch _, exists := s.users[userID]; {
	case !s.nonces[body.Nonce]:
		says(400, `{"errcode":"M_UNKNOWN","error":"unrecognised nonce"}`)(w, r)
		return
	case body.Mac != hex.EncodeToString(mac.Sum(nil)), body.Admin == nil || *body.Admin, !body.InhibitLogin:
		says(403, `{"errcode":"M_UNKNOWN","error":"HMAC incorrect"}`)(w, r)
		return
	case exists:
		says(400, `{"errcode":"M_USER_IN_USE","error":"User ID already taken."}`)(w, r)
		return
	}
	delete(s.nonces, body.Nonce)
	s.users[userID], s.whole[userID] = body.DisplayName, body.Password
	fmt.Fprintf(w, `{"user_id":%q,"home_server":%q}`, userID, testServerName)
}

// says is an answer with this status and body.
func says(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(body, "{") {
			w.Header().Set("Content-Type", "application/json")
		}
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

// breaks closes the connection without an answer.
func breaks(w http.ResponseWriter, _ *http.Request) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err == nil {
		conn.Close()
	}
}

// doesAndBreaks does what was asked and loses the answer.
func doesAndBreaks(do http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		do(httptest.NewRecorder(), r)
		breaks(w, r)
	}
}

// apis are the ways of creating accounts, each with the call of a stand-in that creates.
var apis = []struct{ name, path, creates string }{
	{"createUser", homeserver.CreateUserPath, callCreateUser},
	{"shared secret", homeserver.SharedSecretPath, callRegister},
	{"MAS", homeserver.MASUsersPath, callMASCreate},
}

// creates is the right answer to the call that creates.
func (s *standIn) creates(call string) http.HandlerFunc {
	return map[string]http.HandlerFunc{callCreateUser: s.createUser, callRegister: s.register, callMASCreate: s.mas.ServeHTTP}[call]
}

// A gateway is a whole service in front of a stand-in, on a store of its own.
type gateway struct {
	t          testing.TB
	homeserver *standIn
	store      store
	server     *server
	handler    http.Handler
	log        *bytes.Buffer
}

func newGateway(t testing.TB, apiPath string) *gateway {
	t.Helper()
	return newGatewayOn(t, apiPath, opened(t, t.TempDir()))
}

// newGatewayOn makes one on that store.
func newGatewayOn(t testing.TB, apiPath string, store store) *gateway {
	t.Helper()
	lines := captureLog(t)
	backend := newStandIn(t)
	d := newGatewayBetween(t, backend.URL, apiPath, store)
	d.homeserver, d.log = backend, lines
	return d
}

// newGatewayTo makes one in front of whatever is there, whose log is nobody's: it may be one of several at a time.
func newGatewayTo(t testing.TB, origin, apiPath string) *gateway {
	t.Helper()
	return newGatewayBetween(t, origin, apiPath, opened(t, t.TempDir()))
}

func newGatewayBetween(t testing.TB, origin, apiPath string, store store) *gateway {
	t.Helper()
	d := &gateway{t: t, store: store}
	c := config.Config{ServerName: testServerName, Origin: origin, Way: wayOf(apiPath), ASToken: testASToken, HSToken: testHSToken}
	switch apiPath {
	case homeserver.SharedSecretPath:
		c.SharedSecret = testSecret
	case homeserver.MASUsersPath:
		c.MASClientID, c.MASClientSecret = testMASClientID, testMASSecret
	}
	d.server = newServer(serviceOf(c), store)
	d.handler = d.server.handler()
	return d
}

// bolt is the store where it is one in BoltDB.
func (d *gateway) bolt() *boltStore { return d.store.(*boltStore) }

// captureLog collects everything that is logged, at every verbosity, until the test ends.
func captureLog(t testing.TB) *bytes.Buffer {
	t.Helper()
	before := log.Root()
	lines := new(bytes.Buffer)
	log.SetDefault(log.NewLogger(redact.Libraries(log.JSONHandlerWithLevel(&lockedWriter{w: lines}, log.LevelTrace))))
	t.Cleanup(func() { log.SetDefault(before) })
	return lines
}

type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// An answered is what a node was answered.
type answered struct {
	status  int
	header  http.Header
	body    string
	UserID  string `json:"user_id"`
	Token   string `json:"access_token"`
	Errcode string `json:"errcode"`
	Message string `json:"error"`
	RetryMS int64  `json:"retry_after_ms"`
}

// post sends a body to the register path.
func (d *gateway) post(body string) answered {
	d.t.Helper()
	r := httptest.NewRequest(http.MethodPost, registerPath, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	return d.do(r)
}

func (d *gateway) do(r *http.Request) answered {
	d.t.Helper()
	w := httptest.NewRecorder()
	d.handler.ServeHTTP(w, r)
	a := answered{status: w.Code, header: w.Header(), body: w.Body.String()}
	if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil || w.Header().Get("Content-Type") != "application/json" {
		d.t.Errorf("%d %s is not a JSON answer: %q", w.Code, w.Header().Get("Content-Type"), w.Body)
	}
	if a.status/100 != 2 && (a.Errcode == "" || a.Message == "") {
		d.t.Errorf("%d without errcode or error: %s", w.Code, w.Body)
	}
	return a
}

// send registers with the proof.
func (d *gateway) send(proof registration) answered {
	d.t.Helper()
	body, err := json.Marshal(proof)
	if err != nil {
		d.t.Fatal(err)
	}
	return d.post(string(body))
}

// state returns what the store has of the node: "" for unknown.
func (d *gateway) state(n node) state {
	d.t.Helper()
	r, err := d.store.Load(d.t.Context(), n.Address)
	if err != nil && err != errNoRecord {
		d.t.Fatal(err)
	}
	return r.State
}

// record returns what the store has of the node, times without what a store leaves out.
func (d *gateway) record(n node) record {
	d.t.Helper()
	r, err := d.store.Load(d.t.Context(), n.Address)
	if err != nil && err != errNoRecord {
		d.t.Fatal(err)
	}
	r.Created, r.Updated = r.Created.UTC().Truncate(time.Microsecond), r.Updated.UTC().Truncate(time.Microsecond)
	return r
}

// setState brings the node's record into the state.
func (d *gateway) setState(n node, s state) {
	d.t.Helper()
	if s == "" {
		return
	}
	held := d.claim(n)
	defer held.Release()
	if err := save(held, record{}, n, s); err != nil {
		d.t.Fatal(err)
	}
}

func (d *gateway) claim(n node) claim {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), patience)
	defer cancel()
	held, err := d.store.Claim(ctx, n.Address)
	if err != nil {
		d.t.Fatal(err)
	}
	return held
}

// checkHash tells whether a password logs in against a hash as a homeserver compares: by its first 72 bytes.
func checkHash(hash, password string) error {
	return bcrypt.CompareHashAndPassword([]byte(hash), []byte(password)[:72])
}

// wayOf is the way that the path names, nil where none does.
func wayOf(path string) *homeserver.Way {
	w, _ := homeserver.WayAt(path)
	return w
}

// serviceOf is the service of the configuration, which admits everybody and measures nothing.
func serviceOf(c config.Config) service {
	return service{Config: c, accounts: accountsOf(c)}
}

// measuredOf is one that measures.
func measuredOf(t testing.TB, c config.Config) service {
	t.Helper()
	s, err := newService(c, nil, true)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// accountsOf are those of the configuration, with a client of their own.
func accountsOf(c config.Config) homeserver.Accounts {
	a, err := newAccounts(c, newHomeserverClient(c, nil))
	if err != nil {
		panic(err)
	}
	return a
}

// probed probes as the daemon does at its start.
func probed(ctx context.Context, c config.Config) {
	probeHomeserver(ctx, c, newHomeserverClient(c, nil), accountsOf(c))
}
