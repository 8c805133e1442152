// harness_test.go owns what the tests of several files share: a whole service before a stand-in of the homeserver, what it
// logs, and how long a test waits.

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/log"
	"golang.org/x/crypto/bcrypt"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/daemon"
	"github.com/SmartMeshFoundation/matrix-regservice/e2e/standin"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/redact"
)

// The words of the stand-in, which the tests of this package use on each page.
const (
	testServerName = standin.ServerName
	testASToken    = standin.ASToken
	testHSToken    = standin.HSToken
	testSecret     = standin.Secret

	testMASClientID = standin.MASClientID
	testMASSecret   = standin.MASSecret

	callVersion    = standin.Version
	callProfile    = standin.Profile
	callCreateUser = standin.CreateUser
	callNonce      = standin.Nonce
	callRegister   = standin.Register
	callKey        = standin.Key
	callVersions   = standin.Versions
	callWhoami     = standin.Whoami
	callIssuer     = standin.Issuer
	callToken      = standin.Token
	callMASCreate  = standin.MASCreate
	callLookUp     = standin.LookUp
	callPassword   = standin.Password
	callSetName    = standin.SetName
	callSite       = standin.Site
	callMASVersion = standin.MASVersion
	callDiscovery  = standin.Discovery
	callDeactivate = standin.Deactivate
	callLock       = standin.Lock
	callLogin      = standin.Login
	callLogout     = standin.Logout
)

var (
	newStandIn    = standin.New
	says          = standin.Says
	breaks        = standin.Breaks
	doesAndBreaks = standin.DoesAndBreaks
)

const patience = daemon.Patience

// apis are the ways of creating accounts, each with the call of a stand-in that creates.
var apis = []struct{ name, path, creates string }{
	{"createUser", homeserver.CreateUserPath, callCreateUser},
	{"shared secret", homeserver.SharedSecretPath, callRegister},
	{"MAS", homeserver.MASUsersPath, callMASCreate},
}

// A gateway is a whole service in front of a stand-in, on a store of its own.
type gateway struct {
	t          testing.TB
	homeserver *standin.Homeserver
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
	if got := w.Header().Get("X-Content-Type-Options"); got != "nosniff" {
		d.t.Errorf("%d: X-Content-Type-Options: got %q", w.Code, got)
	}
	if waits := w.Header().Get("Retry-After") != ""; waits != (a.status == 429) {
		d.t.Errorf("%d: Retry-After: got %q", w.Code, w.Header().Get("Retry-After"))
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

// checkWhole reads the store from end to end.
func checkWhole(t *testing.T, path string) storeCounts {
	t.Helper()
	counts, err := verifyCopy(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	return counts
}

// begin serves the gateway on TCP, and gives what serving returned once it has stopped.
func (d *gateway) begin() (address string, stop func(), served <-chan error) {
	d.t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		d.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	d.t.Cleanup(stop)
	done := make(chan error, 1)
	go func() { done <- d.server.serve(ctx, listener) }()
	return listener.Addr().String(), stop, done
}

// served serves the gateway on TCP until the test ends.
func (d *gateway) served() (address string) {
	d.t.Helper()
	address, stop, served := d.begin()
	d.t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			d.t.Error(err)
		}
	})
	return address
}
