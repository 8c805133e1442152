// registrar_rounds_test.go owns what a round of reconciling does besides the records that it settles: what it logs, and where it
// stops.

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
	"github.com/ethereum/go-ethereum/common"
)

// The log warns of an account that is somebody else's, and of no other.
func TestReconcileWarnsOfForeign(t *testing.T) {
	for _, api := range apis[:2] { // behind MAS only the node's next try tells
		for name, warns := range map[string]bool{"": false, "somebody": true} {
			d := newGateway(t, api.path)
			_, n := newProof(t)
			d.setOld(n, statePending, time.Hour)
			d.homeserver.Users[n.UserID] = name
			if name == "" {
				d.homeserver.Users[n.UserID] = n.DisplayName
			}
			if _, err := d.server.registrar.reconcileRound(t.Context()); err != nil || d.state(n) != stateRegistered {
				t.Errorf("%s: got %v, record %q", api.name, err, d.state(n))
			}
			if strings.Count(d.log.String(), `"msg":"`+lineReconciled+`","outcome":"registered"`) != 1 {
				t.Errorf("%s, %q: log: %s", api.name, name, d.log)
			}
			if warned := strings.Contains(d.log.String(), "does not show this node's display name"); warned != warns {
				t.Errorf("%s, %q: warned: %t, want %t: %s", api.name, name, warned, warns, d.log)
			}
		}
	}
}

// A homeserver that fails is asked once a round, and one that hides an account is asked for the next.
func TestRoundStops(t *testing.T) {
	for _, test := range []struct {
		name    string
		fault   http.HandlerFunc
		lookUps int
		want    string // in the error
	}{
		{"fails", says(500, "{}"), 1, "500"},
		{"limits", says(429, "{}"), 1, "fewer requests"},
		{"hides", says(403, `{"errcode":"M_FORBIDDEN"}`), reconcileAtMost, "403"},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := newGateway(t, homeserver.CreateUserPath)
			for i := range reconcileAtMost + 3 {
				d.setOld(node{Address: common.Address{byte(i)}, Account: homeserver.Account{UserID: "@x:" + testServerName}}, statePending, time.Hour)
			}
			d.homeserver.Fail(callProfile, test.fault)
			looked, err := d.server.registrar.reconcileRound(t.Context())
			if looked != test.lookUps || err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %d and %v, want %d and %s", looked, err, test.lookUps, test.want)
			}
			if asked := strings.Count(d.homeserver.Asked(), callProfile); asked != test.lookUps {
				t.Errorf("%d look-ups, want %d", asked, test.lookUps)
			}
		})
	}
}

// Where it cannot be told in which steps an account is made, a record stays: its account may be there without its name yet.
func TestRoundNeedsSteps(t *testing.T) {
	d := newGateway(t, homeserver.SharedSecretPath)
	_, n := newProof(t)
	d.setOld(n, statePending, time.Hour)
	d.homeserver.FailOnce(callVersion, says(500, "{}"))
	if _, err := d.server.registrar.reconcileRound(t.Context()); err == nil || d.state(n) != statePending {
		t.Errorf("got %v, record %q, want an error and pending", err, d.state(n))
	}
	for range 2 { // the first comes to the end of the walk
		if _, err := d.server.registrar.reconcileRound(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if d.state(n) != "" {
		t.Errorf("once it tells: record %q, want none", d.state(n))
	}
}

// Where the name is set apart, a round that leaves a record to its node says so, and says a failure as what it is.
func TestRoundLeavesToNode(t *testing.T) {
	for _, test := range []struct {
		name  string
		fault http.HandlerFunc
		want  string
	}{
		{"without a profile", nil, "the node's next try tells"},
		{"500", says(500, "{}"), "500"},
	} {
		d := newUntried(t, losesNames, showings[0].shows)
		_, n := newProof(t)
		d.setOld(n, statePending, time.Hour)
		d.homeserver.Fail(callProfile, test.fault)
		if _, err := d.server.registrar.reconcileRound(t.Context()); err == nil || !strings.Contains(err.Error(), test.want) || d.state(n) != statePending {
			t.Errorf("%s: got %v, record %q, want %q and pending", test.name, err, d.state(n), test.want)
		}
	}
}

// A lostStore has lost its disk.
type lostStore struct{ store }

var errLost = errors.New("no such device")

func (lostStore) ClaimPending(context.Context, span) (claim, record, error) {
	return nil, record{}, errLost
}
func (lostStore) Claim(context.Context, common.Address) (claim, error) { return nil, errLost }

// An unwrittenStore reads and does not write.
type unwrittenStore struct{ store }

type unwrittenClaim struct{ claim }

func (s unwrittenStore) ClaimPending(ctx context.Context, recent span) (claim, record, error) {
	held, r, err := s.store.ClaimPending(ctx, recent)
	return unwrittenClaim{held}, r, err
}

func (unwrittenClaim) Save(record) error { return errLost }
func (unwrittenClaim) Drop() error       { return errLost }

// A store that fails is an error of the store, at once, and is logged as any other.
func TestRoundWithoutStore(t *testing.T) {
	d := newGateway(t, homeserver.CreateUserPath)
	r := d.server.registrar
	r.store = lostStore{d.store}
	looked, err := r.reconcileRound(t.Context())
	if looked != 0 || !errors.Is(err, errStore) || !errors.Is(err, errLost) {
		t.Errorf("got %d, %v", looked, err)
	}
	_, n := newProof(t)
	for _, made := range []bool{false, true} { // its record is to be dropped, or kept as registered
		d.setOld(n, statePending, time.Hour)
		if made {
			d.homeserver.Users[n.UserID] = n.DisplayName
		}
		r.store = unwrittenStore{d.store}
		if looked, err := r.reconcileRound(t.Context()); looked != 1 || !errors.Is(err, errStore) || !errors.Is(err, errLost) {
			t.Errorf("made %t: got %d, %v", made, looked, err)
		}
		r.store = d.store
		r.reconcileRound(t.Context()) // to the end of the walk
	}
	r.store = lostStore{d.store}
	if said := r.logRound(looked, err, ""); said != err.Error() || strings.Count(d.log.String(), "could not be reconciled") != 1 {
		t.Errorf("said %q: %s", said, d.log)
	}
	if _, _, err := r.register(t.Context(), node{}); !errors.Is(err, errStore) || !errors.Is(err, errLost) {
		t.Errorf("register: got %v", err)
	}
}

// Rounds that go on for an hour say once why a record stays.
func TestRoundsSayItOnce(t *testing.T) {
	store := openTestStore(t)
	lines := captureLog(t)
	d := gateway{t: t, store: store}
	synctest.Test(t, func(t *testing.T) {
		d.t = t
		d.setOld(node{Address: common.Address{1}, Account: homeserver.Account{UserID: "@x:" + testServerName}}, statePending, time.Hour)
		r := newRegistrar(new(lookUpCounter), store)
		var all sync.WaitGroup
		all.Go(r.reconcileAll)
		time.Sleep(time.Hour)
		r.stop()
		all.Wait()
	})
	if got := strings.Count(lines.String(), "could not be reconciled"); got != 1 {
		t.Errorf("said %d times: %s", got, lines)
	}
}

// A damaged record is passed over, named in the log once, and keeps the round from none of the others.
func TestRoundsPassOverDamage(t *testing.T) {
	s := openTestStore(t)
	lines := captureLog(t)
	d := gateway{t: t, store: s}
	for i := range 3 {
		d.setOld(node{Address: common.Address{byte(i)}, Account: homeserver.Account{UserID: "@x:" + testServerName}}, statePending, time.Hour)
	}
	put(t, s, buckets[statePending], common.Address{}.Bytes(), []byte("{"))
	r := newRegistrar(new(lookUpCounter), s)
	said := ""
	for round := range 3 {
		looked, err := r.reconcileRound(t.Context())
		if looked != 3 || !errors.Is(err, errDamagedRecord) || !errors.Is(err, errStore) {
			t.Errorf("round %d: got %d, %v", round, looked, err)
		}
		said = r.logRound(looked, err, said)
	}
	if got := lines.String(); strings.Count(got, "could not be reconciled") != 1 || !strings.Contains(got, names.Localpart(common.Address{}.Bytes())) {
		t.Errorf("log: %s", got)
	}
}

// A claim that comes at the last moment is used, and one that comes after shutdown began is given back.
func TestClaimAtTheLast(t *testing.T) {
	d := newGateway(t, homeserver.CreateUserPath)
	r := d.server.registrar
	ctx, leave := context.WithCancel(t.Context())
	r.store = &lateStore{store: d.store, before: leave}
	held, err := r.claim(ctx, common.Address{1})
	if err != nil {
		t.Fatalf("the client has gone: got %v", err)
	}
	held.Release()
	r.store = &lateStore{store: d.store, before: r.stop}
	if _, err := r.claim(t.Context(), common.Address{1}); !errors.Is(err, errStopping) {
		t.Errorf("shutdown has begun: got %v", err)
	}
	if count := inHand(t, d.store); count != 0 {
		t.Errorf("%d addresses are still claimed", count)
	}
}

// A lateStore has something happen while an address is being claimed, and claims it all the same.
type lateStore struct {
	store
	before func()
}

func (s *lateStore) Claim(_ context.Context, a common.Address) (claim, error) {
	s.before()
	return s.store.Claim(context.Background(), a)
}

// What is remembered of a look-up says why in the words for nodes: the cause is long, for the log alone, and was logged.
func TestRememberedWithoutCause(t *testing.T) {
	r := newRegistrar(nil, nil)
	for i, limited := range []bool{false, true} {
		a := common.Address{byte(i)}
		r.remember(a, &homeserver.Error{Limited: limited, Reason: "it failed", Cause: fmt.Errorf("%s", strings.Repeat("x", 10_000))})
		for range 2 {
			if err := r.remembered(a); err == nil || err.Error() != "it failed" {
				t.Errorf("got %.40v, want the reason alone", err)
			}
		}
		if kept := r.profileLookUps[a].err; kept.Error() != "it failed" {
			t.Errorf("kept: %.40v, want the reason alone", kept)
		}
	}
}

// An account that is gone takes no room among the look-ups that are remembered.
func TestGoneIsNotRemembered(t *testing.T) {
	for _, api := range apis {
		d := newGateway(t, api.path)
		proof, n := newProof(t)
		d.setState(n, stateRegistered)
		if got := d.send(proof); got.status != 200 || len(d.server.registrar.profileLookUps) != 0 {
			t.Errorf("%s: got %d %s, and %d look-ups are remembered", api.name, got.status, got.body, len(d.server.registrar.profileLookUps))
		}
	}
}
