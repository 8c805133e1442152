// server_limit_test.go owns the tests of the limits of requests: by rate, and at once.

package main

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/limit"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
	"github.com/ethereum/go-ethereum/common"
)

// limited is the gateway with the limits.
func (d *gateway) limited(l config.Limits) *gateway {
	d.t.Helper()
	c := config.Config{ServerName: testServerName, Origin: d.homeserver.URL, Way: homeserver.SharedSecret, ASToken: testASToken, HSToken: testHSToken, SharedSecret: testSecret, Limits: l}
	d.server = newServer(serviceOf(c), d.store)
	d.handler = d.server.handler()
	return d
}

// postAs sends a body by way of a proxy on this machine that saw this client; "" is one that names nobody.
func (d *gateway) postAs(client, body string) answered {
	d.t.Helper()
	r := httptest.NewRequest(http.MethodPost, registerPath, strings.NewReader(body))
	r.RemoteAddr = "127.0.0.1:5"
	if client != "" {
		r.Header.Set("X-Forwarded-For", client)
	}
	return d.do(r)
}

func mustProxies(t testing.TB, text string) limit.Proxies {
	t.Helper()
	p, err := names.ParseNetworks(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

const defaultProxies = "127.0.0.0/8,::1"

// A client that comes back after retry_after_ms is not a moment too early.
func TestRetryRounding(t *testing.T) {
	for wait, want := range map[time.Duration]int64{1: 1, time.Millisecond: 1, time.Millisecond + 1: 2, 0: retryLater.Milliseconds()} {
		if got := tooManyRequests("", wait).RetryAfterMS; got != want {
			t.Errorf("%v: got %d ms, want %d", wait, got, want)
		}
	}
}

// A client has a bucket of its own, before its body is read; who cannot be told has none.
func TestClientLimit(t *testing.T) {
	d := newGateway(t, homeserver.SharedSecretPath).limited(config.Limits{Rate: 1, Burst: 2, TrustedProxies: mustProxies(t, defaultProxies)})
	spend := func(client string) answered {
		for range 2 {
			if got := d.postAs(client, "x"); got.status != 400 {
				t.Errorf("%s: got %d", client, got.status)
			}
		}
		return d.postAs(client, strings.Repeat("x", bodyLimit+1))
	}
	got := spend("203.0.113.9")
	seconds, _ := strconv.Atoi(got.header.Get("Retry-After"))
	if got.status != 429 || got.Errcode != "M_LIMIT_EXCEEDED" || got.RetryMS < 1 || got.RetryMS > 1000 || seconds != 1 {
		t.Errorf("got %d %s, Retry-After %d", got.status, got.body, seconds)
	}
	if got := d.postAs("203.0.113.10", "x"); got.status != 400 {
		t.Errorf("another client: got %d", got.status)
	}
	if got := d.postAs("::ffff:203.0.113.9", "x"); got.status != 429 {
		t.Errorf("the same client in IPv6's spelling: got %d", got.status)
	}
	spend("2001:db8:1:2::3")
	if got := d.postAs("2001:db8:1:2:ffff::4", "x"); got.status != 429 {
		t.Errorf("the same /64: got %d", got.status)
	}
	if got := d.postAs("2001:db8:1:3::3", "x"); got.status != 400 {
		t.Errorf("another /64: got %d", got.status)
	}

	for i := range 10 {
		for _, client := range []string{"", "who knows", "unknown, 127.0.0.1"} {
			if got := d.postAs(client, "x"); got.status != 400 {
				t.Fatalf("X-Forwarded-For %q, request %d: got %d, and every node has that bucket", client, i, got.status)
			}
		}
	}
	if lines := strings.Count(d.log.String(), "A proxy does not name its client"); lines != 1 {
		t.Errorf("%d lines in the log, want one", lines)
	}
}

// 415 comes before the limit, and so do 404 and 405; 413 and 400 come after it.
func TestClientLimitOrder(t *testing.T) {
	d := newGateway(t, homeserver.SharedSecretPath).limited(config.Limits{Rate: 1, Burst: 1})
	d.post("x")
	for _, test := range []struct {
		method, path, media, body string
		want                      int
	}{
		{"POST", registerPath + "s", "", "x", 404},
		{"GET", registerPath, "", "x", 405},
		{"POST", registerPath, "text/plain", "x", 415},
		{"POST", registerPath, "", "x", 429},
		{"POST", registerPath, "", strings.Repeat("x", bodyLimit+1), 429},
	} {
		r := httptest.NewRequest(test.method, test.path, strings.NewReader(test.body))
		if test.media != "" {
			r.Header.Set("Content-Type", test.media)
		}
		if got := d.do(r); got.status != test.want {
			t.Errorf("%s %s %s: got %d, want %d", test.method, test.path, test.media, got.status, test.want)
		}
	}
}

// Only proven registrations of new addresses count, and they leave nothing when it is too many.
func TestTotalLimit(t *testing.T) {
	d := newGateway(t, homeserver.SharedSecretPath).limited(config.Limits{TotalRate: 0.001, TotalBurst: 2})
	known, n := newProof(t)
	_, pendingNode := newProof(t)
	d.setState(n, stateRegistered)
	d.homeserver.Users[n.UserID] = n.DisplayName
	d.setState(pendingNode, statePending)
	for range 10 {
		bad := known
		bad.Password = strings.Repeat("0", signatureDigits)
		d.send(bad)
		if got := d.send(known); got.status != 409 {
			t.Errorf("registered: got %d", got.status)
		}
	}
	for i, want := range []int{200, 200, 429} {
		proof, n := newProof(t)
		d.homeserver.Asked()
		got := d.send(proof)
		if got.status != want {
			t.Errorf("new node %d: got %d, want %d", i, got.status, want)
		}
		if want != 429 {
			continue
		}
		if got.RetryMS < 999_000 || got.RetryMS > 1_000_000 || got.Errcode != "M_LIMIT_EXCEEDED" {
			t.Errorf("got %s", got.body)
		}
		if d.state(n) != "" || d.homeserver.Asked() != "" {
			t.Error("who was refused has a record, or cost the homeserver something")
		}
	}
	body, _ := json.Marshal(registration{pendingNode.Localpart, pendingNode.DisplayName, pendingNode.Password})
	if got := d.post(string(body)); got.status != 200 {
		t.Errorf("pending: got %d", got.status)
	}
	if got := d.send(known); got.status != 409 {
		t.Errorf("registered, behind the limit: got %d", got.status)
	}
}

// At most so many attempts ask the homeserver, as many wait, not for long, and the next is told to come again. One
// key that sends many requests has one slot.
func TestSlots(t *testing.T) {
	store := openTestStore(t)
	synctest.Test(t, func(t *testing.T) {
		slow := &slowAccounts{takes: 5 * time.Second}
		r := newRegistrar(slow, store)
		r.slots = limit.NewSlots(3)
		_, greedy := newProof(t)
		var mu sync.Mutex
		count := map[error]int{}
		register := func(n node) {
			start := time.Now()
			_, _, err := r.register(t.Context(), n)
			if took := time.Since(start); errors.Is(err, limit.ErrCrowded) && took != 0 && took != 2*time.Second {
				t.Errorf("told to come again after %v", took)
			}
			if record, _ := store.Load(context.Background(), n.Address); errors.Is(err, limit.ErrCrowded) && record.State != "" {
				t.Errorf("turned away, and left a record: %q", record.State)
			}
			mu.Lock()
			defer mu.Unlock()
			count[err]++
		}
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() { register(greedy) })
		}
		synctest.Wait()
		for range 2 { // the greedy one has a slot of the three
			_, n := newProof(t)
			all.Go(func() { register(n) })
		}
		synctest.Wait()
		slow.mu.Lock()
		if slow.inHand != 3 {
			t.Errorf("%d attempts run, want 3", slow.inHand)
		}
		slow.mu.Unlock()
		for range 10 {
			_, n := newProof(t)
			all.Go(func() { register(n) })
		}
		synctest.Wait()
		mu.Lock()
		if count[limit.ErrCrowded] != 7 {
			t.Errorf("%d of ten are turned away at once, want 7", count[limit.ErrCrowded])
		}
		mu.Unlock()
		all.Wait()
		if slow.most != 3 || count[limit.ErrCrowded] != 10 || count[nil] < 3 {
			t.Errorf("at most %d at once, want 3; ended %v", slow.most, count)
		}
		for range 3 { // all are free again
			start := time.Now()
			if _, err := r.slots.Take(t.Context(), t.Context()); err != nil || time.Since(start) != 0 {
				t.Errorf("a slot is still taken: %v", err)
			}
		}
		for range 3 { // and so are the places of who waits
			go func() {
				if _, err := r.slots.Take(t.Context(), t.Context()); err == nil {
					t.Error("there was a fourth slot")
				}
			}()
		}
		start := time.Now()
		synctest.Wait()
		if _, err := r.slots.Take(t.Context(), t.Context()); !errors.Is(err, limit.ErrCrowded) || time.Since(start) != 0 {
			t.Errorf("a fourth that would wait: got %v", err)
		}
	})
}

// Who waits for a slot when shutdown begins starts nothing.
func TestSlotsAtShutdown(t *testing.T) {
	store := openTestStore(t)
	synctest.Test(t, func(t *testing.T) {
		r := newRegistrar(&slowAccounts{takes: 5 * time.Second}, store)
		r.slots = limit.NewSlots(1)
		ends := make(chan error, 2)
		for range 2 {
			_, n := newProof(t)
			go func() { _, _, err := r.register(t.Context(), n); ends <- err }()
			synctest.Wait()
		}
		r.stop()
		if err := <-ends; !errors.Is(err, errStopping) {
			t.Errorf("who waited: got %v", err)
		}
		if err := <-ends; err != nil {
			t.Errorf("who ran: got %v", err)
		}
	})
}

// Too many attempts is 429, and a settling round needs no slot.
func TestCrowded(t *testing.T) {
	d := newGateway(t, homeserver.SharedSecretPath).limited(config.Limits{MaxInflight: 1})
	_, old := newProof(t)
	d.setOld(old, statePending, time.Hour)
	if _, err := d.server.registrar.slots.Take(t.Context(), t.Context()); err != nil {
		t.Fatal(err)
	}
	proof, n := newProof(t)
	if got := d.send(proof); got.status != 429 || got.Errcode != "M_LIMIT_EXCEEDED" || got.RetryMS == 0 || got.header.Get("Retry-After") == "" || d.state(n) != "" {
		t.Errorf("got %d %s, state %q", got.status, got.body, d.state(n))
	}
	if _, err := d.server.registrar.reconcileRound(t.Context()); err != nil || d.state(old) != "" {
		t.Errorf("settling: %v, %q", err, d.state(old))
	}
}

// As many connections to the homeserver are kept as attempts may run: a second round of calls opens none.
func TestKeptConnections(t *testing.T) {
	const most = 80 // more than are kept where nothing is said
	var opened atomic.Int32
	var asking sync.WaitGroup
	answer := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asking.Done()
		asking.Wait() // so that each call of a round has a connection of its own
	}))
	answer.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			opened.Add(1)
		}
	}
	answer.Start()
	defer answer.Close()
	h := newHomeserverClient(config.Config{Origin: answer.URL, Limits: config.Limits{MaxInflight: most}}, nil).Binding()
	for range 3 {
		asking.Add(most)
		var calls sync.WaitGroup
		for range most {
			calls.Go(func() {
				if _, err := h.Call(t.Context(), homeserver.Request{Within: homeserver.ReadTime, Method: http.MethodGet, Path: "/"}); err != nil {
					t.Error(err)
				}
			})
		}
		calls.Wait()
	}
	if got := opened.Load(); got != most {
		t.Errorf("%d connections were opened, want %d", got, most)
	}
}

// A countingAccounts homeserver has everybody, and counts who asks.
type countingAccounts struct {
	homeserver.Accounts
	profileLookUps int
}

func (c *countingAccounts) DisplayName(context.Context, string) (string, error) {
	c.profileLookUps++
	return "", nil
}

// A node that restarts in a loop costs the homeserver a look-up a minute, and no slot in between.
func TestRestartingNode(t *testing.T) {
	store := openTestStore(t)
	synctest.Test(t, func(t *testing.T) {
		counting := &countingAccounts{}
		r := newRegistrar(counting, store)
		r.slots = limit.NewSlots(1)
		d := &gateway{t: t, store: store}
		_, n := newProof(t)
		d.setState(n, stateRegistered)
		for range 180 {
			if _, _, err := r.register(t.Context(), n); !errors.Is(err, errRegistered) {
				t.Fatalf("got %v", err)
			}
			if counting.profileLookUps == 3 {
				release, _ := r.slots.Take(t.Context(), t.Context()) // all are taken
				_, _, err := r.register(t.Context(), n)
				if release(); !errors.Is(err, errRegistered) {
					t.Fatalf("without a slot: got %v", err)
				}
			}
			time.Sleep(time.Second)
		}
		if counting.profileLookUps != 3 {
			t.Errorf("%d look-ups in three minutes, want 3", counting.profileLookUps)
		}
	})
}

// The look-ups that are remembered are bounded, however many nodes are registered: when there are too many no more
// are made, until a minute is over.
func TestLookUpsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistrar(nil, nil)
		made := 0
		for i := range 10 * profileLookUpsKept {
			a := common.Address{byte(i), byte(i >> 8), byte(i >> 16)}
			if r.remembered(a) == nil {
				r.remember(a, errRegistered)
				made++
			}
		}
		if made != profileLookUpsKept || len(r.profileLookUps) != profileLookUpsKept {
			t.Errorf("%d look-ups, %d remembered, want %d", made, len(r.profileLookUps), profileLookUpsKept)
		}
		early := (*limit.EarlyError)(nil)
		if err := r.remembered(common.Address{0xff, 0xff, 0xff, 1}); !errors.As(err, &early) || errors.Is(err, errRegistered) { // nobody looked
			t.Errorf("without room: got %v", err)
		}
		time.Sleep(profileLookUpPeriod)
		if r.remembered(common.Address{1}) != nil || len(r.profileLookUps) != 0 {
			t.Errorf("a minute later %d are remembered", len(r.profileLookUps))
		}
	})
}

// The limit of connections is lowered to what the system allows, and the log says so.
func TestFitFiles(t *testing.T) {
	before := syscall.Rlimit{}
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before) })
	allowed := before
	allowed.Cur = 1000
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &allowed); err != nil {
		t.Fatal(err)
	}
	const beside = filesBeside + 64
	for most, want := range map[int]int{0: 0, 1: 1, 1000 - beside: 1000 - beside, 1001 - beside: 1000 - beside, 2000: 1000 - beside} {
		lines := captureLog(t)
		l := config.Limits{MaxConnections: most, MaxInflight: 64}
		if fitFiles(&l); l.MaxConnections != want {
			t.Errorf("%d: got %d, want %d", most, l.MaxConnections, want)
		}
		if warned := strings.Contains(lines.String(), "LimitNOFILE"); warned != (most != want) {
			t.Errorf("%d: the log has %q", most, lines)
		}
	}
}

func TestConnectionsWithin(t *testing.T) {
	for _, test := range []struct {
		most, inflight int
		files          uint64
		want           int
	}{
		{2000, 64, 1 << 63, 2000},
		{2000, 64, 2192, 2000},
		{2000, 64, 2191, 1999},
		{2000, 64, 1024, 832},
		{2000, 64, 300, 150},
		{2000, 64, 1, 1},
		{0, 64, 1024, 0},
		{0, 64, 100, 0},
		{1_000_000, 1_000_000, 1024, 512},
	} {
		if got := connectionsWithin(config.Limits{MaxConnections: test.most, MaxInflight: test.inflight}, test.files); got != test.want {
			t.Errorf("%+v: got %d", test, got)
		}
	}
}
