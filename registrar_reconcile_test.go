// registrar_reconcile_test.go owns what becomes of records that an attempt left pending.

package main

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/ethereum/go-ethereum/common"
)

// setOld brings a node's record into the state, long ago.
func (d *gateway) setOld(n node, s state, age time.Duration) {
	d.t.Helper()
	held := d.claim(n)
	defer held.Release()
	then := time.Now().Add(-age)
	if err := held.Save(record{Localpart: n.Localpart, UserID: n.UserID, DisplayName: n.DisplayName, State: s, Created: then, Updated: then}); err != nil {
		d.t.Fatal(err)
	}
}

// What is reconciled, and how.
func TestReconcile(t *testing.T) { eachStore(t, testReconcile) }

func testReconcile(t *testing.T, fresh func(testing.TB) opener) {
	tests := []struct {
		name   string
		before state
		age    time.Duration
		exists bool
		fault  http.HandlerFunc
		want   state
		asked  string
	}{
		{"the account is there", statePending, 2 * time.Minute, true, nil, stateRegistered, "profile"},
		{"it is not", statePending, 2 * time.Minute, false, nil, "", "profile"},
		{"too young", statePending, 30 * time.Second, false, nil, statePending, ""},
		{"written in the future, the account is there", statePending, -time.Hour, true, nil, stateRegistered, "profile"},
		{"written in the future, it is not", statePending, -time.Hour, false, nil, "", "profile"},
		{"written in the future, 500", statePending, -time.Hour, true, says(500, "{}"), statePending, "profile"},
		{"written by a clock that differs a little", statePending, -30 * time.Second, false, nil, statePending, ""},
		{"registered", stateRegistered, 2 * time.Minute, false, nil, stateRegistered, ""},
		{"an HTML 404", statePending, 2 * time.Minute, false, says(404, "<html>"), statePending, "profile"},
		{"a 404 of another kind", statePending, 2 * time.Minute, false, says(404, `{"errcode":"M_UNRECOGNIZED"}`), statePending, "profile"},
		{"500", statePending, 2 * time.Minute, true, says(500, "{}"), statePending, "profile"},
		{"limited", statePending, 2 * time.Minute, true, says(429, "{}"), statePending, "profile"},
		{"forbidden", statePending, 2 * time.Minute, true, says(403, `{"errcode":"M_FORBIDDEN"}`), statePending, "profile"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			d := newGatewayOn(t, homeserver.CreateUserPath, fresh(t)(t))
			_, n := newProof(t)
			d.setOld(n, test.before, test.age)
			if test.exists {
				d.homeserver.Users[n.UserID] = "any name"
			}
			d.homeserver.Fail(callProfile, test.fault)
			_, err := d.server.registrar.reconcileRound(t.Context())
			if (err != nil) != (test.fault != nil) {
				t.Errorf("got %v", err)
			}
			if after := d.state(n); after != test.want {
				t.Errorf("record: got %q, want %q", after, test.want)
			}
			if asked := d.homeserver.Asked(); asked != test.asked {
				t.Errorf("asked: got %q, want %q", asked, test.asked)
			}
			future := test.age < -time.Minute
			if told := strings.Count(d.log.String(), "a clock is or was wrong"); (told == 1) != future {
				t.Errorf("the log has %d lines of a wrong clock: %s", told, d.log)
			}
			if future && test.want == statePending && d.record(n).Updated.After(time.Now()) {
				t.Error("the record still has the wrong time")
			}
			changed := test.before != test.want
			if lines := strings.Count(d.log.String(), "Reconciled a pending registration"); (lines == 1) != changed {
				t.Errorf("%d lines in the log: %s", lines, d.log)
			}
			if inHand(t, d.store) != 0 {
				t.Error("an address is still claimed")
			}
		})
	}
}

// A record that an attempt holds is left to it.
func TestReconcileLeavesHeld(t *testing.T) { eachStore(t, testReconcileLeavesHeld) }

func testReconcileLeavesHeld(t *testing.T, fresh func(testing.TB) opener) {
	d := newGatewayOn(t, homeserver.CreateUserPath, fresh(t)(t))
	_, held := newProof(t)
	_, free := newProof(t)
	d.setOld(held, statePending, time.Hour)
	d.setOld(free, statePending, time.Hour)
	inHand := d.claim(held)
	if _, err := d.server.registrar.reconcileRound(t.Context()); err != nil {
		t.Fatal(err)
	}
	if d.state(held) != statePending || d.state(free) != "" {
		t.Errorf("held: %q, free: %q", d.state(held), d.state(free))
	}
	inHand.Release()
	if _, err := d.server.registrar.reconcileRound(t.Context()); err != nil || d.state(held) != "" {
		t.Errorf("released: %q, %v", d.state(held), err)
	}
}

// What changed between finding a record and holding it counts.
func TestClaimIfPending(t *testing.T) {
	d := newGateway(t, homeserver.CreateUserPath)
	for _, test := range []struct {
		before state
		age    time.Duration
		want   error
	}{
		{statePending, time.Hour, nil},
		{statePending, 0, errNoRecord}, // begun anew meanwhile
		{statePending, -time.Hour, nil},
		{stateRegistered, time.Hour, errNoRecord},
		{"", 0, errNoRecord},
	} {
		_, n := newProof(t)
		if test.before != "" {
			d.setOld(n, test.before, test.age)
		}
		held, _, err := d.bolt().claimIfPending(t.Context(), n.Address, span{time.Now().Add(-reconcileAfter), time.Now().Add(reconcileAfter)})
		if !errors.Is(err, test.want) {
			t.Errorf("%q of %v: got %v, want %v", test.before, test.age, err, test.want)
		}
		if err == nil {
			held.Release()
		}
	}
	if inHand(t, d.store) != 0 {
		t.Error("an address is still claimed")
	}
}

// A homeserver that does not tell of one record costs the others nothing but time: each round goes on behind it.
func TestReconcileGoesRound(t *testing.T) { eachStore(t, testReconcileGoesRound) }

func testReconcileGoesRound(t *testing.T, fresh func(testing.TB) opener) {
	d := newGatewayOn(t, homeserver.CreateUserPath, fresh(t)(t))
	nodes := make([]node, 5)
	for i := range nodes {
		_, nodes[i] = newProof(t)
		d.setOld(nodes[i], statePending, time.Hour)
	}
	stuck := nodes[2].UserID
	d.homeserver.Fail(callProfile, func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, stuck) {
			says(500, "{}")(w, r)
			return
		}
		d.homeserver.Right(callProfile)(w, r)
	})
	for range 3 {
		d.server.registrar.reconcileRound(t.Context())
	}
	for i, n := range nodes {
		want := state("")
		if i == 2 {
			want = statePending
		}
		if got := d.state(n); got != want {
			t.Errorf("node %d: got %q, want %q", i, got, want)
		}
	}
}

// A lookUpCounter homeserver shows an account of a node's name to each look-up, and counts them.
type lookUpCounter struct {
	slowAccounts
	lookUps atomic.Int64
}

func (c *lookUpCounter) DisplayName(context.Context, string) (string, error) {
	c.lookUps.Add(1)
	return "", &homeserver.Error{Hidden: true, Reason: "hidden"}
}

// Synapse's rc_profile has 500 look-ups and then one a second for this service, nodes' own registrations included: of that
// reconciling takes half at most, however many records there are and for however long.
func TestReconcileStaysBelowRateLimit(t *testing.T) {
	store := openTestStore(t)
	d := gateway{t: t, store: store}
	synctest.Test(t, func(t *testing.T) {
		d.t = t
		for i := range 2 * reconcileAtMost {
			d.setOld(node{Address: common.Address{byte(i)}, Account: homeserver.Account{UserID: "@x:" + testServerName}}, statePending, time.Hour)
		}
		accounts := new(lookUpCounter)
		r := newRegistrar(accounts, store)
		start := time.Now()
		var all sync.WaitGroup
		all.Go(r.reconcileAll)
		for range 100 {
			synctest.Wait()
			took := time.Since(start)
			if got, most := accounts.lookUps.Load(), int64(took/(2*time.Second))+reconcileAtMost; got > most || got < most/2 {
				t.Fatalf("%d look-ups in %v, want half of one a second, and no more than %d at once", got, took, reconcileAtMost)
			}
			time.Sleep(reconcilePeriod / 3)
		}
		r.stop()
		all.Wait()
	})
}

// A round is bounded.
func TestReconcileAtMost(t *testing.T) { eachStore(t, testReconcileAtMost) }

func testReconcileAtMost(t *testing.T, fresh func(testing.TB) opener) {
	d := newGatewayOn(t, homeserver.CreateUserPath, fresh(t)(t))
	for i := range reconcileAtMost + 20 {
		d.setOld(node{Address: common.Address{byte(i), byte(i >> 8)}, Account: homeserver.Account{UserID: "@x:" + testServerName}}, statePending, time.Hour)
	}
	if _, err := d.server.registrar.reconcileRound(t.Context()); err != nil {
		t.Fatal(err)
	}
	if counts, err := d.store.counts(); err != nil || counts[statePending] != 20 {
		t.Errorf("got %v, %v, want 20 left", counts, err)
	}
}

// Two that reconcile at once share the records, and a node's own try meets what they left.
func TestReconcileAtOnce(t *testing.T) { eachStore(t, testReconcileAtOnce) }

func testReconcileAtOnce(t *testing.T, fresh func(testing.TB) opener) {
	d := newGatewayOn(t, homeserver.SharedSecretPath, fresh(t)(t))
	proofs := make([]registration, 20)
	for i := range proofs {
		var n node
		proofs[i], n = newProof(t)
		d.setOld(n, statePending, time.Hour)
		d.homeserver.Users[n.UserID] = n.DisplayName
	}
	var all sync.WaitGroup
	for range 2 {
		all.Go(func() {
			if _, err := d.server.registrar.reconcileRound(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	for _, proof := range proofs {
		all.Go(func() {
			if got := d.send(proof); got.status != 200 && got.status != 409 {
				t.Errorf("got %d %s", got.status, got.body)
			}
		})
	}
	all.Wait()
	if counts, err := d.store.counts(); err != nil || counts[statePending] != 0 || counts[stateRegistered] != len(proofs) {
		t.Errorf("got %v, %v", counts, err)
	}
	if lines := strings.Count(d.log.String(), "Reconciled a pending registration"); lines > len(proofs) {
		t.Errorf("%d reconciled, of %d", lines, len(proofs))
	}
}

// Settling begins at once and ends with the service, before the store is closed.
func TestReconcileAllStops(t *testing.T) {
	d := newGateway(t, homeserver.CreateUserPath)
	_, n := newProof(t)
	d.setOld(n, statePending, time.Hour)
	asked := make(chan bool)
	d.homeserver.Fail(callProfile, func(w http.ResponseWriter, r *http.Request) {
		asked <- true
		<-r.Context().Done() // the homeserver never answers; shutdown breaks the look-up off
	})
	done := make(chan bool)
	go func() { d.server.registrar.reconcileAll(); close(done) }()
	<-asked
	d.server.registrar.stop()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("still settling")
	}
	if d.state(n) != statePending {
		t.Errorf("record: got %q", d.state(n))
	}
	if strings.Contains(d.log.String(), "could not be reconciled") {
		t.Errorf("stopping is logged as a failure: %s", d.log)
	}
}

// What the homeserver answers to the request to ping, as captured, and what the operator is told.
func TestPing(t *testing.T) {
	tests := []struct {
		name   string
		answer http.HandlerFunc
		want   string // in the error; "" for none
		noPing bool
	}{
		{"reaches us", says(200, `{"duration_ms":3}`), "", false},
		{"as_token unknown", says(401, `{"errcode":"M_UNKNOWN_TOKEN","error":"Unrecognised access token"}`), "does not know the as_token", false},
		{"another id", says(403, `{"errcode":"M_FORBIDDEN","error":"Mismatching application service ID in path"}`), "under another id", false},
		{"hs_token differs", says(502, `{"errcode":"M_BAD_STATUS","error":"HTTP 403 Forbidden","status":403,"body":"{}"}`), "another hs_token", false},
		{"another program", says(502, `{"errcode":"M_BAD_STATUS","error":"HTTP 404 Not Found","status":404,"body":"<html>"}`), "answered 404", false},
		{"nobody there", says(502, `{"errcode":"M_CONNECTION_FAILED","error":"ConnectionRefusedError"}`), "cannot reach the url", false},
		{"times out", says(504, `{"errcode":"M_CONNECTION_TIMEOUT","error":"timed out"}`), "cannot reach the url", false},
		{"Synapse 1.67", says(400, `{"errcode":"M_UNRECOGNIZED","error":"Unrecognized request"}`), "no ping", true},
		{"Synapse 0.34.0", says(404, "<html><body>No Such Resource</body></html>"), "no ping", true},
		{"Dendrite", says(404, `{"errcode":"M_UNRECOGNIZED","error":"Unrecognized request"}`), "no ping", true},
		{"a proxy without homeserver", says(502, "<html>"), "failed (502)", false},
		{"200 HTML", says(200, "<html>"), "not the expected one", false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			d := newGateway(t, homeserver.SharedSecretPath)
			d.homeserver.Fail("", test.answer)
			took, err := homeserver.NewClient(d.homeserver.URL, testServerName).Ping(t.Context(), "ID-x", testASToken, appServicePath)
			if test.want == "" && (err != nil || took != 3*time.Millisecond) {
				t.Errorf("got %v, %v", took, err)
			}
			if test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) || errors.Is(err, homeserver.ErrNoPing) != test.noPing {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

// Without the registration file's id there is nothing to ask.
func TestPingNeedsTheFile(t *testing.T) {
	lines := captureLog(t)
	pingHomeserver(context.Background(), config.Config{ASToken: testASToken}, nil)
	if !strings.Contains(lines.String(), "takes the id") {
		t.Errorf("log: %s", lines)
	}
}

// A stubbornAccounts homeserver answers a look-up when it is told to, whatever the context says.
type stubbornAccounts struct {
	slowAccounts
	asked, answer chan bool
}

func (s *stubbornAccounts) DisplayName(context.Context, string) (string, error) {
	s.asked <- true
	<-s.answer
	return "", nil
}

// The service does not end, and have its store closed, while a record is being reconciled.
func TestServeWaitsForReconciling(t *testing.T) {
	d := newGateway(t, homeserver.CreateUserPath)
	_, n := newProof(t)
	d.setOld(n, statePending, time.Hour)
	stubborn := &stubbornAccounts{asked: make(chan bool), answer: make(chan bool)}
	d.server.registrar.accounts = stubborn
	_, stop, served := d.begin()
	<-stubborn.asked
	stop()
	select {
	case <-served:
		t.Error("it ended while a record was being reconciled")
	case <-time.After(300 * time.Millisecond):
		defer func() { <-served }()
	}
	stubborn.answer <- true
}
