// metrics_test.go owns the tests of the metrics and of readiness.

package main

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	masplay "github.com/SmartMeshFoundation/matrix-regservice/e2e/mas"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
)

// measured gives the gateway metrics, as --ops-listen does.
func (d *gateway) measured(c config.Config) *metrics {
	d.t.Helper()
	s := measuredOf(d.t, c)
	s.metrics.watch(d.store)
	d.server = newServer(s, d.store)
	d.handler = d.server.handler()
	return s.metrics
}

func sharedSecretConfig(origin string) config.Config {
	return config.Config{ServerName: testServerName, Origin: origin, Way: homeserver.SharedSecret, HSToken: testHSToken, ASToken: testASToken, SharedSecret: testSecret}
}

func scrape(t testing.TB, m *metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != 200 {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	return w.Body.String()
}

// checkLines holds the metrics against lines that must be among them.
func checkLines(t testing.TB, got string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if !strings.Contains("\n"+got, "\n"+line) {
			name, _, _ := strings.Cut(line, "{")
			t.Errorf("no line %q among\n%s", line, strings.Join(regexp.MustCompile(`(?m)^`+regexp.QuoteMeta(name)+`.*$`).FindAllString(got, 20), "\n"))
		}
	}
}

// Each metric, by its name and its labels, after what it measures.
func TestMetrics(t *testing.T) {
	d := newGateway(t, homeserver.SharedSecretPath)
	m := d.measured(sharedSecretConfig(d.homeserver.URL))
	proof, n := newProof(t)
	d.send(proof)
	d.send(proof)
	proof.Password = strings.Repeat("0", signatureDigits)
	d.send(proof)
	d.post("{")
	other, _ := newProof(t)
	d.homeserver.FailOnce(callRegister, says(500, "{}"))
	d.send(other)
	d.send(other)
	third, _ := newProof(t)
	d.homeserver.FailOnce(callNonce, says(429, `{"errcode":"M_LIMIT_EXCEEDED"}`))
	d.send(third)
	d.homeserver.Fail(callNonce, breaks) // more than once: net/http itself tries again
	d.send(third)
	d.homeserver.Fail(callNonce, nil)
	d.homeserver.FailOnce(callRegister, says(403, `{"errcode":"M_UNKNOWN"}`))
	d.send(third)
	for _, r := range []struct{ method, path, token string }{
		{"PUT", "/transactions/1", testHSToken}, {"PUT", "/transactions/2", ""}, {"GET", "/users/" + n.UserID, testHSToken},
		{"GET", "/users/@nobody:x", "wrong"}, {"GET", "/rooms/x", testHSToken}, {"GET", "/thirdparty/protocol/x", testHSToken},
		{"GET", "/thirdparty/user?userid=x", testHSToken}, {"POST", "/ping", testHSToken}, {"POST", "/nothing", testHSToken},
	} {
		req := httptest.NewRequest(r.method, modernPath+r.path, strings.NewReader("{}"))
		if r.token != "" {
			req.Header.Set("Authorization", "Bearer "+r.token)
		}
		d.handler.ServeHTTP(httptest.NewRecorder(), req)
	}
	d.do(httptest.NewRequest("GET", registerPath, nil))

	got := scrape(t, m)
	checkLines(t, got,
		`matrix_regservice_registrations_total{errcode="",outcome="created"} 2`,
		`matrix_regservice_registrations_total{errcode="",outcome="completed"} 0`,
		`matrix_regservice_registrations_total{errcode="M_USER_IN_USE",outcome="refused"} 1`,
		`matrix_regservice_registrations_total{errcode="M_INVALID_SIGNATURE",outcome="refused"} 1`,
		`matrix_regservice_registrations_total{errcode="M_NOT_JSON",outcome="refused"} 1`,
		`matrix_regservice_registrations_total{errcode="M_LIMIT_EXCEEDED",outcome="refused"} 1`,
		`matrix_regservice_registrations_in_flight 0`,
		`matrix_regservice_homeserver_call_seconds_count{api="sharedsecret",call="create",result="ok"} 2`,
		`matrix_regservice_homeserver_call_seconds_count{api="sharedsecret",call="create",result="failed"} 1`,
		`matrix_regservice_homeserver_call_seconds_count{api="sharedsecret",call="create",result="refused"} 1`,
		`matrix_regservice_homeserver_call_seconds_count{api="sharedsecret",call="nonce",result="limited"} 1`,
		`matrix_regservice_homeserver_call_seconds_count{api="sharedsecret",call="nonce",result="unanswered"} 1`,
		`matrix_regservice_homeserver_call_seconds_count{api="sharedsecret",call="version",result="ok"} `,
		`matrix_regservice_homeserver_call_seconds_count{api="sharedsecret",call="key",result="ok"} `,
		`matrix_regservice_homeserver_call_seconds_count{api="sharedsecret",call="profile",result="ok"} 1`,
		`matrix_regservice_verification_seconds_count 8`,
		`matrix_regservice_store_seconds_count{operation="load"} `,
		`matrix_regservice_store_seconds_count{operation="save"} `,
		`matrix_regservice_store_seconds_count{operation="drop"} 3`,
		`matrix_regservice_store_seconds_count{operation="list"} 0`,
		`matrix_regservice_store_bytes `,
		`matrix_regservice_records{state="registered"} 2`,
		`matrix_regservice_records{state="pending"} 0`,
		`matrix_regservice_appservice_requests_total{kind="transaction",status="200"} 1`,
		`matrix_regservice_appservice_requests_total{kind="transaction",status="401"} 1`,
		`matrix_regservice_appservice_requests_total{kind="user",status="200"} 1`,
		`matrix_regservice_appservice_requests_total{kind="user",status="403"} 1`,
		`matrix_regservice_appservice_requests_total{kind="alias",status="404"} 1`,
		`matrix_regservice_appservice_requests_total{kind="protocol",status="404"} 1`,
		`matrix_regservice_appservice_requests_total{kind="thirdparty",status="200"} 1`,
		`matrix_regservice_appservice_requests_total{kind="ping",status="200"} 1`,
		`matrix_regservice_build_info{commit="`,
		`go_goroutines `,
		`process_open_fds `,
	)
	if strings.Contains(got, "M_UNRECOGNIZED") || strings.Contains(got, n.Localpart) || strings.Contains(got, testServerName) {
		t.Error("a label holds what it should not")
	}
}

// What is measured has the third API's name and each of its calls, and what a record in PostgreSQL holds; a database that
// is away is not ready.
func TestMetricsOfOthers(t *testing.T) {
	d := newGatewayOn(t, homeserver.MASUsersPath, openedPostgres(t, newDatabase(t)))
	c := masConfig(d.homeserver.URL)
	m := d.measured(c)
	d.homeserver.MAS.Set(masplay.Settings{Version: masplay.Old}) // with which each of the calls is made
	proof, _ := newProof(t)
	d.send(proof)
	other, _ := newProof(t)
	d.homeserver.MAS.Add(other.Localpart)
	d.send(other)
	got := scrape(t, m)
	for _, call := range []string{"token", "create", "lookup", "password", "name", "key"} {
		result := map[string]string{"create": "refused"}[call] // of the one that is there
		checkLines(t, got, `matrix_regservice_homeserver_call_seconds_count{api="mas",call="`+call+`",result="`+cmp.Or(result, "ok")+`"} 1`)
	}
	checkLines(t, got, `matrix_regservice_homeserver_call_seconds_count{api="mas",call="create",result="ok"} 1`,
		`matrix_regservice_records{state="registered"} 2`, `matrix_regservice_records{state="pending"} 0`, `matrix_regservice_store_bytes `,
		`matrix_regservice_store_seconds_count{operation="save"} 4`)

	for _, want := range []int{200, 503} {
		w := httptest.NewRecorder()
		newHealth(t.Context(), serviceOf(c), d.store).ready(w, httptest.NewRequest("GET", "/readyz", nil))
		if w.Code != want {
			t.Errorf("got %d %s, want %d", w.Code, w.Body, want)
		}
		d.store.Close()
	}
}

// A store whose writes fail, as on a full disk.
type fullDisk struct {
	*boltStore
	broken atomic.Bool
}

func (s *fullDisk) CheckWritable() error {
	if s.broken.Load() {
		return errors.New("no space left on device")
	}
	return s.boltStore.CheckWritable()
}

// Ready is who can write its store and reach its homeserver: not so while either is away, and again after.
func TestReady(t *testing.T) {
	captureLog(t)
	backend := newStandIn(t)
	s := &fullDisk{boltStore: openTestStore(t)}
	stopping, stop := context.WithCancel(t.Context())
	h := newHealth(stopping, serviceOf(sharedSecretConfig(backend.URL)), s)
	h.store.lasts, h.homeserver.lasts = 0, 0
	check := func(when string, wantStatus int, want string) {
		t.Helper()
		w := httptest.NewRecorder()
		h.ready(w, httptest.NewRequest("GET", "/readyz", nil))
		if w.Code != wantStatus || w.Body.String() != want+"\n" {
			t.Errorf("%s: got %d %q, want %d %q", when, w.Code, w.Body, wantStatus, want)
		}
	}
	check("at start", 200, "ok")
	s.broken.Store(true)
	check("with a full disk", 503, "the store cannot be written")
	s.broken.Store(false)
	check("with space again", 200, "ok")
	backend.Fail(callVersion, says(502, "<html>"))
	check("with a homeserver that fails", 503, "the homeserver failed (502)")
	backend.Fail(callVersion, breaks)
	check("with one that breaks off", 503, "the connection to the homeserver broke before it answered")
	backend.Fail(callVersion, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	check("with one that hangs", 503, "the homeserver did not answer in time")
	backend.Fail(callVersion, says(404, "{}"))
	check("with one that does not tell its version", 200, "ok")
	stop()
	check("while it stops", 503, "the service is shutting down")
	s.boltStore.Close()
	check("with a store that is closed", 503, "the service is shutting down\nthe store cannot be written")
}

// However many ask, the store is written and the homeserver asked once in a while.
func TestReadyIsCheap(t *testing.T) {
	captureLog(t)
	backend := newStandIn(t)
	h := newHealth(t.Context(), serviceOf(sharedSecretConfig(backend.URL)), openTestStore(t))
	for range 100 {
		h.ready(httptest.NewRecorder(), httptest.NewRequest("GET", "/readyz", nil))
	}
	if asked := strings.Count(backend.Asked(), callVersion); asked != 1 {
		t.Errorf("asked %d times", asked)
	}
}

// A look that hangs is not waited for.
func TestLookHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		end := make(chan error)
		defer close(end)
		hangs := healthCheck{check: func(context.Context) error { return <-end }}
		start := time.Now()
		if err := hangs.result(t.Context()); !errors.Is(err, errNoResult) || time.Since(start) > 2*healthLimit {
			t.Errorf("got %v after %v", err, time.Since(start))
		}
	})
}

// Only --ops-listen is for everybody on the machine; the list and the copy are not there, and no other method is.
func TestOpsListen(t *testing.T) {
	captureLog(t)
	backend := newStandIn(t)
	c := sharedSecretConfig(backend.URL)
	c.DataPath = t.TempDir()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	stop, err := startOps(t.Context(), measuredOf(t, c), openTestStore(t), listener)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	for path, want := range map[string]int{"/livez": 200, "/readyz": 200, "/metrics": 200, usersPath: 404, backupPath: 404, statusPath: 404, "/": 404} {
		res, err := http.Get("http://" + listener.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("%s: got %d, want %d", path, res.StatusCode, want)
		}
	}
}

// What measuring costs: a whole registration with it and without, in one run.
func BenchmarkRegisterMeasured(b *testing.B) {
	for _, measured := range []bool{false, true} {
		name := "without"
		if measured {
			name = "with"
		}
		b.Run(name, func(b *testing.B) {
			d := newGateway(b, homeserver.SharedSecretPath)
			if measured {
				d.measured(sharedSecretConfig(d.homeserver.URL))
			}
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				proof, _ := newProof(b)
				b.StartTimer()
				if got := d.send(proof); got.status != 200 {
					b.Fatal(got.body)
				}
			}
		})
	}
}

// What measuring a request costs by itself, but for the work that is measured.
func BenchmarkMeasure(b *testing.B) {
	m := newMetrics(config.Config{Way: homeserver.SharedSecret})
	b.ReportAllocs()
	for b.Loop() {
		done := m.registering()
		m.verified(time.Now())
		for _, operation := range []string{storeLoad, storeSave, storeSave} {
			m.storeTook(operation, time.Now())
		}
		m.called("nonce", "ok", time.Millisecond)
		m.called("create", "ok", time.Millisecond)
		done(outcomeCreated, nil)
	}
}
