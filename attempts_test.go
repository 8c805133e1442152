// attempts_test.go owns what the daemon may remember of requests, and what the command refused prints of it.

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
)

// Like attempts are counted as one, the last first, and a flood of one kind drives out none of the other.
func TestAttempts(t *testing.T) {
	s := newAttempts()
	client := netip.MustParseAddr("192.0.2.1")
	_, n := newProof(t)
	for range 3 {
		s.note(client, n, "", errRegistered)
	}
	s.note(client, n, outcomeCreated, nil)
	for i := range 3 * attemptsKept {
		s.note(client, node{}, "", badRequest(faultForm, "fault %d", i))
	}
	got := s.list(func(attempt) bool { return true })
	if len(got) != attemptsKept+2 || got[0].Reason != fmt.Sprintf("fault %d", 3*attemptsKept-1) {
		t.Errorf("got %d, the last %+v", len(got), got[0])
	}
	own := s.list(func(a attempt) bool { return a.UserID == n.UserID })
	if len(own) != 2 || own[0].Outcome != string(outcomeCreated) || own[0].Errcode != "" || own[1].Count != 3 || own[1].Errcode != errcodeUserInUse || own[1].First.After(own[1].Last) {
		t.Errorf("got %+v", own)
	}
	s.note(client, n, "", errors.New(strings.Repeat("ä", reasonLength)))
	if reason := s.list(func(a attempt) bool { return a.Errcode == errcodeUnknown })[0].Reason; len(reason) > reasonLength || strings.Trim(reason, "ä") != "" {
		t.Errorf("got %q", reason)
	}
	var none *attempts
	none.note(client, n, "", errRegistered)
	if got := none.list(func(attempt) bool { return true }); got != nil {
		t.Errorf("got %+v", got)
	}
}

// What a daemon remembers has neither a secret nor the name of anybody who did not prove it, and each gateway tells its own, at its
// socket, with the record in PostgreSQL too.
func TestRefused(t *testing.T) {
	eachEngine(t, func(t *testing.T, fresh func(testing.TB) opener) {
		dir := t.TempDir()
		t.Setenv("RUNTIME_DIRECTORY", dir+":/elsewhere")
		dataPath := dir
		if strings.HasSuffix(t.Name(), "PostgreSQL") {
			dataPath = newDatabase(t)
		}
		captureLog(t)
		backend := newStandIn(t)
		c := config.Config{DataPath: dataPath, ServerName: testServerName, Origin: backend.URL, Way: homeserver.SharedSecret, SharedSecret: testSecret, ASToken: testASToken, HSToken: testHSToken}
		made, err := newService(c, nil, false)
		if err != nil {
			t.Fatal(err)
		}
		store := opened(t, dataPath)
		stop, err := startOps(t.Context(), made, store, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer stop()
		d := &gateway{t: t, store: store, server: newServer(made, store)}
		d.handler = d.server.handler()

		proof, n := newProof(t)
		other, _ := newProof(t)
		d.send(proof)
		for range 2 {
			d.send(proof)
		}
		stolen := other
		stolen.DisplayName = other.DisplayName[:5] + proof.DisplayName[5:]
		d.send(stolen)
		d.post("{")
		code, said := runs(t, "--datapath", dataPath, "refused", "--format", "json")
		if code != 0 {
			t.Fatal(said)
		}
		var all []attempt
		for line := range strings.Lines(said) {
			var a attempt
			if err := json.Unmarshal([]byte(line), &a); err != nil {
				t.Fatal(err)
			}
			all = append(all, a)
		}
		if len(all) != 3 || all[0].Errcode != errcodeNotJSON || all[1].Errcode != errcodeInvalidSignature || all[2].UserID != n.UserID || all[2].Count != 2 || all[2].Errcode != errcodeUserInUse {
			t.Errorf("got %s", said)
		}
		for _, secret := range []string{other.Localpart[2:], other.DisplayName[5:], other.Password, proof.Password, proof.DisplayName[5:], testASToken, testSecret} {
			if strings.Contains(said, secret) {
				t.Errorf("it tells %s: %s", secret, said)
			}
		}
		for _, format := range []string{"table", "csv"} {
			if code, said := runs(t, "--datapath", dataPath, "refused", "--format", format); code != 0 || strings.Count(said, "\n") != 4 || !strings.Contains(said, n.UserID) {
				t.Errorf("%s: exit %d: %s", format, code, said)
			}
		}
		if code, said := runs(t, "--datapath", dataPath, "users", n.Localpart); code != 0 || !strings.Contains(said, "refused M_USER_IN_USE, 2 times") || !strings.Contains(said, " created\n") {
			t.Errorf("exit %d: %s", code, said)
		}
		if code, said := runs(t, "--datapath", newDatabase(t), "refused"); code != 1 || !strings.Contains(said, "no daemon answers") {
			t.Errorf("another store: exit %d: %s", code, said)
		}
	})
}
