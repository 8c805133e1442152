// server_log_test.go owns the tests that many refusals neither flood the log nor hide other lines.

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/admission"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/limit"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/log"
)

// A limitedLog is a daemon's log with a clock that the test sets, and with room for one line of each kind at once.
type limitedLog struct {
	mu    sync.Mutex
	text  bytes.Buffer
	clock atomic.Int64 // in nanoseconds
}

func newLimitedLog(t *testing.T, verbosity int, format string) *limitedLog {
	l := &limitedLog{}
	rules := lineRulesOfLog
	rules.AtOnce, rules.Clock = 1, func() time.Time { return time.Unix(0, l.clock.Load()) }
	logger := newLoggerBy(l, config.Config{Verbosity: verbosity, LogFormat: format}, rules)
	before := log.Root()
	log.SetDefault(logger)
	t.Cleanup(func() { log.SetDefault(before) })
	return l
}

func (l *limitedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// since returns what was logged since it was last called.
func (l *limitedLog) since() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.text.Reset()
	return l.text.String()
}

// A badStore fails or panics on demand.
type badStore struct {
	store
	how atomic.Value // a string; "" for a good one
}

func (s *badStore) Load(ctx context.Context, a common.Address) (record, error) {
	return s.load(func() (record, error) { return s.store.Load(ctx, a) })
}

func (s *badStore) Claim(ctx context.Context, a common.Address) (claim, error) {
	claimed, err := s.store.Claim(ctx, a)
	return badClaim{claimed, s}, err
}

type badClaim struct {
	claim
	store *badStore
}

func (c badClaim) Load(ctx context.Context) (record, error) {
	return c.store.load(func() (record, error) { return c.claim.Load(ctx) })
}

func (s *badStore) load(well func() (record, error)) (record, error) {
	switch how, _ := s.how.Load().(string); how {
	case "":
		return well()
	case "panics":
		panic(how)
	default:
		return record{}, errors.New(how)
	}
}

func (s *badStore) List(context.Context, state, string) ([]record, string, error) {
	return nil, "", errors.New("no list")
}
func (s *badStore) counts() (storeCounts, error) { return nil, errors.New("no counts") }
func (s *badStore) size() (int64, error)         { return 0, errors.New("no size") }

// A caused is a line that somebody else can cause.
type caused struct {
	name  string
	lines []string // what is in the line, as JSON
	by    func()
}

const longText = 3000 // characters that a client sends where some are read

// causes are what clients, the homeserver and the operator can do to have a line written, where the gateway's store is a bad one.
func (d *gateway) causes(t *testing.T) []caused {
	bad := d.store.(*badStore)
	long := strings.Repeat("x", longText)
	known, _ := newProof(t)
	if got := d.send(known); got.status != 200 {
		t.Fatalf("got %d %s", got.status, got.body)
	}
	unsigned := known
	other, _ := newProof(t)
	unsigned.Password = other.Password
	failing := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, fmt.Sprintf(`{"errcode":"M_UNKNOWN","error":"%s"}`, strings.Repeat("word ", longText)), 500)
	})
	asks := func(method, path, token string) func() {
		return func() {
			r := httptest.NewRequest(method, path, nil)
			if token != "" {
				r.Header.Set("Authorization", "Bearer "+token)
			}
			d.do(r)
		}
	}
	withStore := func(how string, do func()) func() {
		return func() {
			bad.how.Store(how)
			do()
			bad.how.Store("")
		}
	}
	newcomer := func() {
		proof, _ := newProof(t)
		d.send(proof)
	}

	c := config.Config{ServerName: testServerName, Origin: d.homeserver.URL, Way: homeserver.SharedSecret, DataPath: t.TempDir()}
	made := measuredOf(t, c)
	made.metrics.watch(bad)
	o := &ops{service: made, store: bad, health: newHealth(t.Context(), made, bad)}
	operator := func(h http.Handler, path string) func() {
		return func() { h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, path, nil)) }
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	panicking := serveOps(listener, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(long) }))
	t.Cleanup(func() { panicking.Close() })

	const refused, asked = `"msg":"Refused registration"`, `"msg":"Refused the homeserver"`
	network := appServicePath + "/_matrix/app/v1/thirdparty/protocol/"
	return []caused{
		{"no JSON", []string{refused, `"status":400`, "M_NOT_JSON"}, func() { d.post(long) }},
		{"other JSON", []string{refused, "M_BAD_JSON"}, func() { d.post(`{"localpart":1}`) }},
		{"too much", []string{refused, "M_TOO_LARGE"}, func() { d.post(strings.Repeat("x", bodyLimit+1)) }},
		{"other media", []string{refused, `"status":415`}, func() { d.postMedia("text/"+long, nil) }},
		{"no address", []string{refused, "M_INVALID_USERNAME"}, func() { d.send(registration{Localpart: long, DisplayName: "x", Password: "x"}) }},
		{"no proof", []string{refused, "M_INVALID_SIGNATURE"}, func() { d.send(unsigned) }},
		{"registered already", []string{refused, `"lvl":"info"`, "M_USER_IN_USE"}, func() { d.send(known) }},
		{"homeserver fails", []string{refused, `"status":502`}, func() {
			d.homeserver.Fail(callNonce, failing)
			newcomer()
			d.homeserver.Fail(callNonce, nil)
		}},
		{"store fails", []string{refused, `"status":503`}, withStore(strings.Repeat("no store ", longText), newcomer)},
		{"request panics", []string{`"msg":"A request panicked"`}, withStore("panics", newcomer)},
		{"no token", []string{asked, "M_MISSING_TOKEN", `"kind":"user"`}, asks("GET", appServicePath+"/users/"+long, "")},
		{"wrong token", []string{asked, "M_FORBIDDEN", `"kind":"user"`}, asks("GET", appServicePath+"/users/"+long+"?access_token="+long, long)},
		{"unknown protocol", []string{asked, "M_NOT_FOUND", `"kind":"protocol"`}, asks("GET", network+long, "")},
		{"unknown user", []string{asked, "M_NOT_FOUND", `"kind":"user"`}, asks("GET", appServicePath+"/users/"+long, testHSToken)},
		{"protocol", []string{`"msg":"Answered the homeserver"`, `"kind":"protocol"`}, asks("GET", network+protocolID(testServerName), "")},
		{"transaction", []string{`"msg":"Answered the homeserver"`, `"kind":"transaction"`}, asks("PUT", appServicePath+"/transactions/"+long, testHSToken)},
		{"list fails", []string{`"msg":"A request of the operator failed"`}, operator(o.socketHandler(), usersPath+"?x="+long)},
		{"scrape fails", []string{`"msg":"A scrape of the metrics is incomplete"`}, operator(o.healthHandler(), "/metrics")},
		{"net/http complains", []string{`"msg":"The HTTP server reports an error"`}, func() {
			newErrorLog().Printf("http: Accept error: %s; retrying in 5ms", long)
		}},
		{"operator's handler panics", []string{`"msg":"A handler panicked"`}, func() {
			if res, err := http.Get("http://" + listener.Addr().String()); err == nil {
				res.Body.Close()
				t.Error("it did not panic")
			}
		}},
	}
}

// Whatever anybody sends to whatever is served, at every verbosity, the log grows by few bytes a second, and quotes
// little of it.
func TestFloodedLog(t *testing.T) {
	const (
		repeats      = 2
		perSecond    = 2 << 10          // bytes
		lineInterval = 10 * time.Second // until there is one more line of a kind
	)
	long := strings.Repeat("x", longText)
	for verbosity := range 6 {
		formats := []string{""}
		if verbosity == 5 {
			formats = append(formats, "logfmt", "json")
		}
		for _, format := range formats {
			t.Run(fmt.Sprintf("verbosity %d %s", verbosity, format), func(t *testing.T) {
				d := newGatewayOn(t, homeserver.SharedSecretPath, &badStore{store: opened(t, t.TempDir())})
				address := d.serveLimited(config.Limits{MaxConnections: 100})
				causes := d.causes(t)
				tokens := []string{"", "Bearer " + long, "Bearer " + testHSToken}
				flood := func() {
					for range repeats {
						for _, c := range causes {
							c.by()
						}
						for _, route := range d.server.appService.routes() {
							for _, token := range tokens {
								r := httptest.NewRequest(route.HttpMethod, strings.ReplaceAll(route.PathExp, "*id", long+"%00%0a")+"?a="+long, strings.NewReader(long))
								r.Header.Set("Authorization", token)
								d.handler.ServeHTTP(httptest.NewRecorder(), r)
							}
						}
						for _, sent := range []string{
							"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + long, "\x00\xff" + long + "\r\n\r\n", long + " / HTTP/1.1\r\n\r\n", "GET /" + long + " HTTP/9\r\n\r\n",
							"GET / HTTP/1.1\r\nHost: " + long + "\x01\r\n\r\n", "GET /;" + long + "?;" + long + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + long,
							hostileHead + strings.Repeat("X: "+long+"\r\n", 4) + "\r\n", hostileHead + "Content-Length: 9\r\n\r\nx",
						} {
							conn, err := net.Dial("tcp", address)
							if err != nil {
								t.Fatal(err)
							}
							io.WriteString(conn, sent)
							conn.(*net.TCPConn).CloseWrite()
							io.Copy(io.Discard, conn)
							conn.Close()
						}
					}
				}
				lines := newLimitedLog(t, verbosity, format)
				flood()
				first := lines.since()
				flood()
				if more := lines.since(); more != "" {
					t.Errorf("a second flood in the same moment is logged: %.1000s", more)
				}
				lines.clock.Add(int64(lineInterval))
				flood()
				later := lines.since()
				if most := perSecond * int(lineInterval/time.Second); len(later) > most {
					t.Errorf("in %v %d bytes are logged, want at most %d", lineInterval, len(later), most)
				}
				t.Logf("%d bytes at first, then %d a second", len(first), len(later)*int(time.Second)/int(lineInterval))
				if strings.Contains(first, strings.Repeat("x", 101)) {
					t.Error("the log quotes more than a client's first characters")
				}
				if verbosity >= 3 && !strings.Contains(later, "unlogged") {
					t.Errorf("no line says how many were left out: %s", later)
				}
			})
		}
	}
}

// No flood of lines of one kind hides a line of another, least of all a success or the warning of a foreign account.
func TestFloodHidesNothingElse(t *testing.T) {
	d := newGatewayOn(t, homeserver.SharedSecretPath, &badStore{store: opened(t, t.TempDir())})
	causes := append(d.causes(t),
		caused{"success", []string{`"msg":"Registered node"`}, func() {
			proof, _ := newProof(t)
			d.send(proof)
		}},
		caused{"foreign account", []string{`"msg":"Refused registration"`, `"lvl":"warn"`, "does not show"}, func() {
			proof, n := newProof(t)
			d.homeserver.Mu.Lock()
			d.homeserver.Users[n.UserID] = "somebody"
			d.homeserver.Mu.Unlock()
			d.send(proof)
		}})
	for _, flood := range causes {
		t.Run(flood.name, func(t *testing.T) {
			lines := newLimitedLog(t, 5, "json")
			for range 3 {
				flood.by()
			}
			said := lines.since()
			if got := countLines(said, flood.lines); got != 1 && flood.name != "success" {
				t.Errorf("three left %d lines, want 1: %.3000s", got, said)
			} else if flood.name == "success" && got != 3 {
				t.Errorf("three successes left %d lines", got)
			}
			for _, other := range causes {
				if other.name == flood.name {
					continue
				}
				other.by()
				if said := lines.since(); countLines(said, other.lines) != 1 {
					t.Errorf("%s left no line: %.1000s", other.name, said)
				}
			}
		})
	}
}

// Refusals with the same status and errcode are of several kinds, too: the store's, and those with a proof and without.
func TestRefusalsHideNoOther(t *testing.T) {
	d := newGateway(t, homeserver.SharedSecretPath)
	_, n := newProof(t)
	refusals := map[string]func(){}
	for name, err := range map[string]error{"store": errStore, "balance": admission.ErrUntold, "foreign": errForeign, "registered": errRegistered, "limit": &limit.EarlyError{}} {
		refusals[name] = func() { d.server.audit(netip.Addr{}, n, "", err, 0) }
	}
	refusals["limit without a proof"] = func() { d.server.audit(netip.Addr{}, node{}, "", &limit.EarlyError{}, 0) }
	for name, flood := range refusals {
		lines := newLimitedLog(t, 5, "json")
		for range 3 {
			flood()
		}
		if said := lines.since(); strings.Count(said, "\n") != 1 {
			t.Errorf("%s: three left %s, want one line", name, said)
		}
		for other, refuse := range refusals {
			if other == name {
				continue
			}
			if refuse(); strings.Count(lines.since(), "\n") != 1 {
				t.Errorf("many of %s hide %s", name, other)
			}
		}
	}
}

// countLines counts the lines that have all of it.
func countLines(text string, all []string) (count int) {
lines:
	for line := range strings.Lines(text) {
		for _, part := range all {
			if !strings.Contains(line, part) {
				continue lines
			}
		}
		count++
	}
	return count
}

// A line of net/http's may quote a client: what looks like a secret is masked.
func TestErrorLogMasks(t *testing.T) {
	lines := captureLog(t)
	newErrorLog().Printf("http: panic serving 127.0.0.1: access_token=%s", testHSToken)
	newErrorLog().Printf("http: panic serving 127.0.0.1: access_token=%s\ngoroutine 1 [running]:", testHSToken)
	if got := lines.String(); strings.Contains(got, testHSToken) || strings.Count(got, "\n") != 2 {
		t.Errorf("log: %s", got)
	}
}
