package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
)

// limited is the door with the limits.
func (d *door) limited(l limits) *door {
	d.t.Helper()
	c := config{serverName: testServerName, origin: d.homeserver.URL, apiPath: sharedSecretPath, asToken: testASToken, hsToken: testHSToken, sharedSecret: testSecret, limits: l}
	d.server = newServer(c, d.store)
	d.handler = d.server.handler()
	return d
}

// postAs sends a body by way of a proxy on this machine that saw this client; "" is one that names nobody.
func (d *door) postAs(client, body string) answered {
	d.t.Helper()
	r := httptest.NewRequest(http.MethodPost, registerPath, strings.NewReader(body))
	r.RemoteAddr = "127.0.0.1:5"
	if client != "" {
		r.Header.Set("X-Forwarded-For", client)
	}
	return d.do(r)
}

func mustProxies(t testing.TB, text string) proxies {
	t.Helper()
	p, err := names.ParseNetworks(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

const defaultProxies = "127.0.0.0/8,::1"

// A burst at once, then one in each interval, to the moment.
func TestLimiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(2, 3, 10, "slow down")
		takes := func(key limitKey, want time.Duration) {
			t.Helper()
			err := l.take(key)
			if early := (*limitError)(nil); errors.As(err, &early) != (want > 0) || early != nil && early.wait != want {
				t.Errorf("got %v, want to wait %v", err, want)
			}
		}
		one, other := limitKey{1}, limitKey{2}
		for range 3 {
			takes(one, 0)
		}
		takes(one, time.Second/2)
		takes(one, time.Second/2) // having asked costs nothing
		takes(other, 0)
		time.Sleep(time.Second/2 - time.Nanosecond)
		takes(one, time.Nanosecond)
		time.Sleep(time.Nanosecond)
		takes(one, 0)
		takes(one, time.Second/2)
		time.Sleep(time.Hour)
		for range 3 { // and no more than a burst was saved
			takes(one, 0)
		}
		takes(one, time.Second/2)
	})
	for _, off := range []*limiter{newLimiter(0, 3, 10, ""), newLimiter(2, 0, 10, "")} {
		for range 1000 {
			if err := off.take(limitKey{}); err != nil {
				t.Fatalf("off: got %v", err)
			}
		}
	}
}

// The table holds so many and no more. Whoever asks among them keeps his place, so that only the longest unseen are
// forgotten.
func TestLimiterIsBounded(t *testing.T) {
	l := newLimiter(0.001, 1, clientsKept, "slow down")
	key := func(i int) limitKey { return limitKey{1, byte(i), byte(i >> 8), byte(i >> 16)} }
	first := limitKey{9}
	l.take(first)
	for i := range 2 * clientsKept {
		if err := l.take(key(i)); err != nil {
			t.Fatalf("address %d: %v", i, err)
		}
		if i%1000 == 0 && l.take(first) == nil {
			t.Fatalf("after %d other addresses one that went on asking has a new burst", i)
		}
	}
	if l.full.Len() != clientsKept {
		t.Errorf("the table has %d addresses, want %d", l.full.Len(), clientsKept)
	}
	for i := clientsKept + 100; i < 2*clientsKept; i++ {
		if l.take(key(i)) == nil {
			t.Fatalf("address %d of %d has a new burst", i, 2*clientsKept)
		}
	}
}

// Whoever comes again when he was told is not a moment too early.
func TestRetryRounding(t *testing.T) {
	for wait, want := range map[time.Duration]int64{1: 1, time.Millisecond: 1, time.Millisecond + 1: 2, 0: retryLater.Milliseconds()} {
		if got := tooManyRequests("", wait, nil).RetryAfterMS; got != want {
			t.Errorf("%v: got %d ms, want %d", wait, got, want)
		}
	}
}

// A client has a bucket of its own, before its body is read; who cannot be told has none.
func TestClientLimit(t *testing.T) {
	d := newDoor(t, sharedSecretPath).limited(limits{rate: 1, burst: 2, trustedProxies: mustProxies(t, defaultProxies)})
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
	d := newDoor(t, sharedSecretPath).limited(limits{rate: 1, burst: 1})
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
	d := newDoor(t, sharedSecretPath).limited(limits{totalRate: 0.001, totalBurst: 2})
	known, n := newProof(t)
	_, pendingNode := newProof(t)
	d.setState(n, stateRegistered)
	d.homeserver.users[n.UserID] = n.DisplayName
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
		d.homeserver.asked()
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
		if d.state(n) != "" || d.homeserver.asked() != "" {
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

func TestClientAddress(t *testing.T) {
	tests := []struct {
		name, peer string
		forwarded  []string
		want       string
		wantKnown  bool
	}{
		{"direct", "203.0.113.9:5", nil, "203.0.113.9", true},
		{"forged from outside", "203.0.113.9:5", []string{"198.51.100.1"}, "203.0.113.9", true},
		{"behind nginx", "127.0.0.1:5", []string{"203.0.113.9"}, "203.0.113.9", true},
		{"behind nginx, IPv6", "[::1]:5", []string{"2001:db8::1"}, "2001:db8::1", true},
		{"behind nginx, seen by IPv6", "[::ffff:127.0.0.1]:5", []string{"203.0.113.9"}, "203.0.113.9", true},
		{"behind nginx, forged", "127.0.0.1:5", []string{"198.51.100.1, 203.0.113.9"}, "203.0.113.9", true},
		{"behind nginx, forged in a header of its own", "127.0.0.1:5", []string{"198.51.100.1", "203.0.113.9"}, "203.0.113.9", true},
		{"behind two", "127.0.0.1:5", []string{"198.51.100.1, 203.0.113.9, 10.0.0.7"}, "203.0.113.9", true},
		{"behind two, in two headers", "127.0.0.1:5", []string{"198.51.100.1, 203.0.113.9", "10.0.0.7"}, "203.0.113.9", true},
		{"from a proxy itself", "127.0.0.1:5", []string{"10.0.0.8, 10.0.0.7"}, "10.0.0.8", true},
		{"from this machine", "127.0.0.1:5", []string{"127.0.0.1"}, "127.0.0.1", true},
		{"nonsense left of the client", "127.0.0.1:5", []string{"who knows, 203.0.113.9"}, "203.0.113.9", true},
		{"mapped", "127.0.0.1:5", []string{"::ffff:203.0.113.9"}, "203.0.113.9", true},
		{"a zone", "127.0.0.1:5", []string{"fe80::1%eth0"}, "fe80::1", true},
		{"a zone of the peer", "[fe80::1%eth0]:5", nil, "fe80::1", true},
		{"with a port", "127.0.0.1:5", []string{"203.0.113.9:1234"}, "203.0.113.9", true},
		{"IPv6 with a port", "127.0.0.1:5", []string{"[2001:db8::1]:1234"}, "2001:db8::1", true},
		{"IPv6 in brackets", "127.0.0.1:5", []string{"[2001:db8::1]"}, "2001:db8::1", true},
		{"empty entries", "127.0.0.1:5", []string{"203.0.113.9, ,", ""}, "203.0.113.9", true},
		{"no header", "127.0.0.1:5", nil, "127.0.0.1", false},
		{"an empty header", "127.0.0.1:5", []string{""}, "127.0.0.1", false},
		{"nonsense", "127.0.0.1:5", []string{"who knows"}, "127.0.0.1", false},
		{"nonsense left of a proxy", "127.0.0.1:5", []string{"203.0.113.9, who knows, 10.0.0.7"}, "127.0.0.1", false},
		{"no peer", "@", []string{"203.0.113.9"}, "invalid IP", false},
	}
	trusted := mustProxies(t, defaultProxies+", 10.0.0.0/8")
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := httptest.NewRequest("POST", registerPath, nil)
			r.RemoteAddr = test.peer
			for _, value := range test.forwarded {
				r.Header.Add("X-Forwarded-For", value)
			}
			if got, known := trusted.client(r); got.String() != test.want || known != test.wantKnown {
				t.Errorf("got %s, %v, want %s, %v", got, known, test.want, test.wantKnown)
			}
		})
	}
}

// At most so many attempts ask the homeserver, as many wait, not for long, and the next is told to come again. One
// key that sends many requests has one slot.
func TestSlots(t *testing.T) {
	store := openTestStore(t)
	synctest.Test(t, func(t *testing.T) {
		slow := &slowAccounts{takes: 5 * time.Second}
		r := newRegistrar(slow, store)
		r.slots = newSlots(3)
		_, greedy := newProof(t)
		var mu sync.Mutex
		count := map[error]int{}
		register := func(n node) {
			start := time.Now()
			_, _, err := r.register(t.Context(), n)
			if took := time.Since(start); errors.Is(err, errCrowded) && took != 0 && took != slotTime {
				t.Errorf("told to come again after %v", took)
			}
			if record, _ := store.Load(context.Background(), n.Address); errors.Is(err, errCrowded) && record.State != "" {
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
		if count[errCrowded] != 7 {
			t.Errorf("%d of ten are turned away at once, want 7", count[errCrowded])
		}
		mu.Unlock()
		all.Wait()
		if slow.most != 3 || count[errCrowded] != 10 || count[nil] < 3 {
			t.Errorf("at most %d at once, want 3; ended %v", slow.most, count)
		}
		if len(r.slots.running)+len(r.slots.waiting) != 0 {
			t.Error("a slot is still taken")
		}
	})
}

// Who waits for a slot when shutdown begins starts nothing.
func TestSlotsAtShutdown(t *testing.T) {
	store := openTestStore(t)
	synctest.Test(t, func(t *testing.T) {
		r := newRegistrar(&slowAccounts{takes: 5 * time.Second}, store)
		r.slots = newSlots(1)
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
	d := newDoor(t, sharedSecretPath).limited(limits{maxInflight: 1})
	_, old := newProof(t)
	d.setOld(old, statePending, time.Hour)
	d.server.registrar.slots.running <- struct{}{}
	d.server.registrar.slots.waiting <- struct{}{}
	proof, n := newProof(t)
	if got := d.send(proof); got.status != 429 || got.Errcode != "M_LIMIT_EXCEEDED" || got.RetryMS == 0 || got.header.Get("Retry-After") == "" || d.state(n) != "" {
		t.Errorf("got %d %s, state %q", got.status, got.body, d.state(n))
	}
	if err := d.server.registrar.reconcileRound(t.Context()); err != nil || d.state(old) != "" {
		t.Errorf("settling: %v, %q", err, d.state(old))
	}
}

// As many connections to the homeserver are kept as attempts may run.
func TestKeptConnections(t *testing.T) {
	for most, want := range map[int]int{0: keptConns, 7: 7} {
		h := config{limits: limits{maxInflight: most}}.homeserver()
		if got := h.http.Transport.(*watchedTransport).kept.MaxIdleConnsPerHost; got != want {
			t.Errorf("--max-inflight %d: %d are kept, want %d", most, got, want)
		}
	}
}

// A countingAccounts homeserver has everybody, and counts who asks.
type countingAccounts struct {
	accounts
	lookUps int
}

func (c *countingAccounts) displayName(context.Context, string) (string, error) {
	c.lookUps++
	return "", nil
}

// A node that restarts in a loop costs the homeserver a look-up a minute, and no slot in between.
func TestRestartingNode(t *testing.T) {
	store := openTestStore(t)
	synctest.Test(t, func(t *testing.T) {
		counting := &countingAccounts{}
		r := newRegistrar(counting, store)
		r.slots = newSlots(1)
		d := &door{t: t, store: store}
		_, n := newProof(t)
		d.setState(n, stateRegistered)
		for range 180 {
			if _, _, err := r.register(t.Context(), n); !errors.Is(err, errRegistered) {
				t.Fatalf("got %v", err)
			}
			if counting.lookUps == 3 {
				r.slots.running <- struct{}{} // all are taken
				_, _, err := r.register(t.Context(), n)
				if <-r.slots.running; !errors.Is(err, errRegistered) {
					t.Fatalf("without a slot: got %v", err)
				}
			}
			time.Sleep(time.Second)
		}
		if counting.lookUps != 3 {
			t.Errorf("%d look-ups in three minutes, want 3", counting.lookUps)
		}
	})
}

// The look-ups that are remembered are bounded, however many nodes are registered: when there are too many no more
// are made, until a minute is over.
func TestLookUpsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistrar(nil, nil)
		made := 0
		for i := range 10 * lookUpsKept {
			a := address{byte(i), byte(i >> 8), byte(i >> 16)}
			if r.remembered(a) == nil {
				r.remember(a, errRegistered)
				made++
			}
		}
		if made != lookUpsKept || len(r.lookUps) != lookUpsKept {
			t.Errorf("%d look-ups, %d remembered, want %d", made, len(r.lookUps), lookUpsKept)
		}
		early := (*limitError)(nil)
		if err := r.remembered(address{0xff, 0xff, 0xff, 1}); !errors.As(err, &early) || errors.Is(err, errRegistered) { // nobody looked
			t.Errorf("without room: got %v", err)
		}
		time.Sleep(lookUpPeriod)
		if r.remembered(address{1}) != nil || len(r.lookUps) != 0 {
			t.Errorf("a minute later %d are remembered", len(r.lookUps))
		}
	})
}
