// registrar_bans_test.go owns that a banned address is refused: after its proof, before the homeserver is asked, and by nobody
// reconciled.

package main

import (
	"net/http"
	"testing"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
)

// setBanned bans the node's address, or ends its ban.
func (d *gateway) setBanned(n node, is bool) {
	d.t.Helper()
	held := d.claim(n)
	defer held.Release()
	end := held.Unban
	if is {
		end = func() error { return held.Ban(ban{n.UserID, testBanTime}) }
	}
	if err := end(); err != nil {
		d.t.Fatal(err)
	}
}

func TestBannedIsRefused(t *testing.T) { eachStore(t, testBannedIsRefused) }

func testBannedIsRefused(t *testing.T, fresh func(testing.TB) opener) {
	for _, api := range apis {
		for _, before := range []state{"", statePending, stateRegistered} {
			t.Run(api.name+" "+string(before), func(t *testing.T) {
				d := newGatewayOn(t, api.path, fresh(t)(t))
				proof, n := newProof(t)
				if before != "" {
					d.setOld(n, before, time.Hour)
				}
				was := d.record(n)
				d.setBanned(n, true)
				if got := d.send(proof); got.status != http.StatusForbidden || got.Errcode != errcodeForbidden || got.Message != errBanned.Error() {
					t.Errorf("got %d %s", got.status, got.body)
				}
				unproven := proof
				other, _ := newProof(t)
				unproven.Password = other.Password
				if got := d.send(unproven); got.status != http.StatusBadRequest {
					t.Errorf("without a proof: got %d %s", got.status, got.body)
				}
				if _, err := d.server.registrar.reconcileRound(t.Context()); err != nil {
					t.Error(err)
				}
				for _, path := range []string{"/users/", "/_matrix/app/v1/users/"} {
					if got := d.ask("GET", path+n.UserID, testHSToken, "", ""); got.status != http.StatusNotFound || got.Errcode != errcodeNotFound {
						t.Errorf("the user query: got %d %s", got.status, got.body)
					}
				}
				if got := d.ask("GET", "/_matrix/app/v1/thirdparty/user?userid="+n.UserID, testHSToken, "", ""); got.status != http.StatusOK || got.body != "[]" {
					t.Errorf("the third-party network: got %d %s", got.status, got.body)
				}
				if asked := d.homeserver.Asked(); asked != "" {
					t.Errorf("the homeserver was asked: %s", asked)
				}
				d.setBanned(n, false)
				if is := d.record(n); is != was {
					t.Errorf("got %+v, want %+v", is, was)
				}
				if inHand(t, d.store) != 0 {
					t.Error("an address is still claimed")
				}
				if got := d.send(proof); got.status != http.StatusOK {
					t.Errorf("after the ban: got %d %s", got.status, got.body)
				}
			})
		}
	}
}

// An attempt in flight ends first, and what waits after it meets the ban.
func TestBanWaits(t *testing.T) { eachStore(t, testBanWaits) }

func testBanWaits(t *testing.T, fresh func(testing.TB) opener) {
	d := newGatewayOn(t, homeserver.SharedSecretPath, fresh(t)(t))
	proof, n := newProof(t)
	asked, goOn := make(chan struct{}), make(chan struct{})
	d.homeserver.Fail(callNonce, func(w http.ResponseWriter, r *http.Request) {
		close(asked)
		<-goOn
		d.homeserver.Fail(callNonce, nil)
		d.homeserver.ServeHTTP(w, r)
	})
	first, second, done := make(chan answered, 1), make(chan answered, 1), make(chan struct{})
	go func() { first <- d.send(proof) }()
	<-asked
	go func() { defer close(done); d.setBanned(n, true) }()
	select {
	case <-done:
		t.Error("banned while an attempt ran")
	case <-time.After(50 * time.Millisecond): // of a store that lets it through at once
	}
	close(goOn)
	if got := <-first; got.status != http.StatusOK {
		t.Errorf("the attempt: got %d %s", got.status, got.body)
	}
	<-done
	go func() { second <- d.send(proof) }()
	if got := <-second; got.status != http.StatusForbidden {
		t.Errorf("got %d %s", got.status, got.body)
	}
	if r := d.record(n); r.State != stateRegistered || r.Banned.IsZero() {
		t.Errorf("got %+v", r)
	}
}
