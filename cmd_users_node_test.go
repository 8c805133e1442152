// cmd_users_node_test.go owns what is told of one node.

package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
)

// Each record with each answer of the homeserver has a meaning, in both stores.
func TestLookUp(t *testing.T) { eachEngine(t, testLookUp) }

func testLookUp(t *testing.T, fresh func(testing.TB) opener) {
	for _, before := range []state{"", statePending, stateRegistered} {
		for shows, want := range map[string]string{"own": accountIsThere, "other": accountIsOthers, "none": accountIsGone, "away": accountIsUntold} {
			for _, isBanned := range []bool{false, true} {
				d := newGatewayOn(t, homeserver.SharedSecretPath, fresh(t)(t))
				_, n := newProof(t)
				if before != "" {
					d.setOld(n, before, time.Hour)
				} else if want == accountIsThere || want == accountIsOthers {
					want = accountIsUnproven
				}
				if isBanned {
					d.setBanned(n, true)
				}
				switch shows {
				case "own":
					d.homeserver.Users[n.UserID] = n.DisplayName
				case "other":
					d.homeserver.Users[n.UserID] = "other"
				case "away":
					d.homeserver.Fail(callProfile, breaks)
				}
				l := d.nodeAdmin()
				got, err := l.lookUp(t.Context(), n.Address)
				if err != nil || got.UserID != n.UserID || got.record() != before || got.Account != want || got.Meaning == "" || (got.Banned != nil) != isBanned || (got.Untold != "") != (shows == "away") {
					t.Errorf("%q, %s, banned %v: got %+v, %v", before, shows, isBanned, got, err)
				}
				if strings.HasPrefix(got.Meaning, "it is banned") != isBanned || strings.HasPrefix(got.Meaning, "it is registered and has its account:") != (!isBanned && before == stateRegistered && shows == "own") {
					t.Errorf("%q, %s, banned %v: it means %q", before, shows, isBanned, got.Meaning)
				}
			}
		}
	}
}

// Matrix Authentication Service tells of a lock, and a homeserver that cannot be asked is no answer.
func TestLookUpStanding(t *testing.T) {
	d := newGateway(t, homeserver.MASUsersPath)
	proof, n := newProof(t)
	d.send(proof)
	l := d.nodeAdmin()
	if got, err := l.lookUp(t.Context(), n.Address); err != nil || got.Locked || got.NotToldOf != "" || got.Account != accountIsThere {
		t.Errorf("got %+v, %v", got, err)
	}
	if err := l.accounts.Ban(t.Context(), n.UserID); err != nil {
		t.Fatal(err)
	}
	if got, err := l.lookUp(t.Context(), n.Address); err != nil || !got.Locked || !strings.Contains(got.Meaning, "somebody locked or deactivated the account") {
		t.Errorf("locked: got %+v, %v", got, err)
	}
	d.homeserver.Fail(callLookUp, says(500, "{}"))
	if got, err := l.lookUp(t.Context(), n.Address); err != nil || got.Locked || got.NotToldOf == "" {
		t.Errorf("not told: got %+v, %v", got, err)
	}
	l.accounts, l.unasked = nil, errors.New("it is not known")
	if got, err := l.lookUp(t.Context(), n.Address); err != nil || got.Account != accountIsUntold || got.Untold != "it is not known" {
		t.Errorf("not asked: got %+v, %v", got, err)
	}
}
