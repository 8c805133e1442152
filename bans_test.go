// bans_test.go owns what banning an address has to do, in the store and at the homeserver, and what the commands say of it.

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
	"github.com/ethereum/go-ethereum/common"
)

// nodeAdmin acts on the gateway's store and homeserver.
func (d *gateway) nodeAdmin() *nodeAdmin {
	return &nodeAdmin{store: d.store, serverName: testServerName, accounts: d.server.registrar.accounts}
}

// A staleStore answers without a claim as a copy that is behind does: the address is still banned.
type staleStore struct{ *boltStore }

func (s staleStore) Load(ctx context.Context, a common.Address) (record, error) {
	r, err := s.boltStore.Load(ctx, a)
	if errors.Is(err, errNoRecord) {
		err = nil
	}
	r.Banned = testBanTime
	return r, err
}

func (s staleStore) Claim(ctx context.Context, a common.Address) (claim, error) {
	c, err := s.boltStore.Claim(ctx, a)
	return freshClaim{c, s.boltStore, a}, err
}

type freshClaim struct {
	claim
	store *boltStore
	a     common.Address
}

func (c freshClaim) Load(ctx context.Context) (record, error) { return c.store.Load(ctx, c.a) }

// Whether an address is banned is read where it is claimed: a copy that is behind, and has a ban that ended, keeps no ban from
// being written.
func TestBanReadsItsClaim(t *testing.T) {
	s := openTestStore(t)
	_, n := newProof(t)
	got, err := (&nodeAdmin{store: staleStore{s}, serverName: testServerName}).ban(t.Context(), n.Address)
	if err != nil || got.Before {
		t.Errorf("got %+v, %v, want a ban that was not there before", got, err)
	}
	if r, err := s.Load(t.Context(), n.Address); err != nil || r.Banned.IsZero() {
		t.Errorf("got %+v, %v, want a ban", r, err)
	}
}

// A ban is on disk before the homeserver is asked, stands whatever that answers, and can be repeated.
func TestBan(t *testing.T) { eachStore(t, testBan) }

func testBan(t *testing.T, fresh func(testing.TB) opener) {
	for _, api := range apis {
		acts := callDeactivate
		if api.path == homeserver.MASUsersPath {
			acts = callLock
		}
		t.Run(api.name, func(t *testing.T) {
			d := newGatewayOn(t, api.path, fresh(t)(t))
			b := d.nodeAdmin()
			proof, n := newProof(t)
			if got := d.send(proof); got.status != 200 {
				t.Fatalf("got %d %s", got.status, got.body)
			}
			isOut := func() bool {
				d.homeserver.Mu.Lock()
				out := d.homeserver.Deactivated[n.UserID]
				d.homeserver.Mu.Unlock()
				standing, err := b.accounts.Standing(t.Context(), n.UserID)
				if err != nil {
					t.Fatal(err)
				}
				return out || standing.Locked
			}
			for _, fault := range []string{"500", "broken", "none", "none"} {
				d.homeserver.Fail(acts, nil)
				switch fault {
				case "500":
					d.homeserver.Fail(acts, says(500, "{}"))
				case "broken":
					d.homeserver.Fail(acts, breaks)
				}
				got, err := b.ban(t.Context(), n.Address)
				if err != nil || got.UserID != n.UserID || got.Since.IsZero() || got.Before != (fault != "500") || got.State != stateRegistered || (got.Failed != "") != (fault != "none") || got.Left != "" {
					t.Errorf("%s: got %+v, %v", fault, got, err)
				}
				if isOut() != (fault == "none") {
					t.Errorf("%s: at the homeserver it is out: %v", fault, isOut())
				}
				if r := d.record(n); !r.Banned.Equal(got.Since) || r.State != stateRegistered {
					t.Errorf("%s: got %+v", fault, r)
				}
				if got := d.send(proof); got.status != 403 {
					t.Errorf("%s: got %d %s", fault, got.status, got.body)
				}
			}
			got, err := b.unban(t.Context(), n.Address)
			if err != nil || !got.Before || !got.Since.IsZero() || got.Failed != "" {
				t.Errorf("got %+v, %v", got, err)
			}
			if byHand := api.path != homeserver.MASUsersPath; (got.Left != "") != byHand || byHand != strings.Contains(got.Left, n.UserID) || isOut() != byHand {
				t.Errorf("got %+v, out: %v", got, isOut())
			}
			if got := d.send(proof); got.status != 409 {
				t.Errorf("got %d %s", got.status, got.body)
			}
			if inHand(t, d.store) != 0 {
				t.Error("an address is still claimed")
			}
		})
	}
}

// An address that never registered can be banned, and Dendrite's accounts are put out by an administrator.
func TestBanWithoutAct(t *testing.T) {
	d := newGateway(t, homeserver.SharedSecretPath)
	_, n := newProof(t)
	if got, err := d.nodeAdmin().ban(t.Context(), n.Address); err != nil || !got.NoAccount || got.State != "" {
		t.Errorf("never registered: got %+v, %v", got, err)
	}
	if got, err := d.nodeAdmin().unban(t.Context(), n.Address); err != nil || !got.NoAccount || !got.Before {
		t.Errorf("never registered: got %+v, %v", got, err)
	}
	d.homeserver.Version = `{"server":{"name":"Dendrite","version":"0.15.2"}}`
	proof, n := newProof(t)
	d.send(proof)
	d.homeserver.Asked()
	got, err := d.nodeAdmin().ban(t.Context(), n.Address)
	if err != nil || !strings.Contains(got.Left, "/_dendrite/admin/resetPassword/"+n.UserID) {
		t.Errorf("Dendrite: got %+v, %v", got, err)
	}
	if asked := d.homeserver.Asked(); strings.Contains(asked, callDeactivate) {
		t.Errorf("Dendrite was asked %s", asked)
	}
	d.homeserver.Version = `{"server":{"name":"Synapse","version":"0.34.0"}}`
	if got, err := d.nodeAdmin().unban(t.Context(), n.Address); err != nil || !strings.Contains(got.Left, "/_matrix/client/r0/admin/reset_password/"+n.UserID) {
		t.Errorf("an old Synapse: got %+v, %v", got, err)
	}
	b := &nodeAdmin{store: d.store, serverName: testServerName, unasked: errors.New("it is not known")}
	if got, err := b.ban(t.Context(), n.Address); err != nil || got.Failed != "it is not known" || got.Since.IsZero() {
		t.Errorf("without a homeserver: got %+v, %v", got, err)
	}
	d.store.Close()
	if got, err := b.unban(t.Context(), n.Address); err == nil {
		t.Errorf("without a store: got %+v", got)
	}
}

// What may be typed for a node.
func TestParseNode(t *testing.T) {
	const lower = "0x6d12d262a2fe4fd9c714ad3521acbea52adb4aaf"
	sum := common.HexToAddress(lower).Hex()
	for text, want := range map[string]string{
		lower: "", lower[2:]: "", sum: "", sum[2:]: "", "0X" + lower[2:]: "", "0x" + strings.ToUpper(lower[2:]): "", strings.ToUpper(lower): "",
		"@" + lower + ":" + testServerName: testServerName, "@" + lower + ":[::1]:8448": "[::1]:8448",
	} {
		a, serverName, err := parseNode(text)
		if err != nil || a != common.HexToAddress(lower) || serverName != want {
			t.Errorf("%s: got %v, %q, %v", text, a, serverName, err)
		}
	}
	wrong := strings.ToLower(sum[:20]) + strings.ToUpper(sum[20:])
	for _, text := range []string{"", "0x", lower[:41], lower + "0", wrong, "@" + lower, "@" + lower + ":", "alice", "@alice:" + testServerName, "Geheim0815", lower + ":" + testServerName} {
		if _, _, err := parseNode(text); err == nil || len(text) > 2 && strings.Contains(err.Error(), text) {
			t.Errorf("%s: got %v", text, err)
		}
	}
}

// The commands by the daemon's socket, and without a daemon, in both stores.
func TestBanCommands(t *testing.T) {
	backend := newStandIn(t)
	matrixURL := backend.URL + homeserver.SharedSecretPath
	secret := t.TempDir() + "/secret"
	if err := os.WriteFile(secret, []byte(testSecret), 0o600); err != nil {
		t.Fatal(err)
	}
	serving := []string{"--matrixdomain", testServerName, "--hstoken", testHSToken, "--astoken", testASToken, "--matrixurl", matrixURL, "--sharesecret-file", secret}
	dir, served := startTestOps(t)
	alone := t.TempDir()
	withRecord := opened(t, alone)
	keepRecord(t, withRecord, testRecord(9, stateRegistered))
	withRecord.Close()
	inPostgres := newDatabase(t)
	opened(t, inPostgres).Close()
	for name, test := range map[string]struct {
		dataPath string
		args     []string
		wantCode int
		want     []string
	}{
		"by the daemon, whose homeserver is away": {dir, nil, 1, []string{"is banned\n", "the ban stands", "the homeserver could not be reached"}},
		"without one, without settings":           {alone, nil, 1, []string{"is banned\n", "the ban stands", "no daemon answers, and this command lacks a setting"}},
		"without one":                             {alone, serving, 0, []string{"is banned", "no account of this name"}},
		"in PostgreSQL":                           {inPostgres, serving, 0, []string{"is banned\n", "no account of this name"}},
		"another homeserver's":                    {alone, []string{"--matrixdomain", "example.org"}, 1, []string{"it belongs to " + testServerName}},
		"no store":                                {t.TempDir(), serving, 1, []string{errNoStore.Error()}},
	} {
		t.Run(name, func(t *testing.T) {
			r := testRecord(7, "")
			if name == "without one, without settings" {
				r = testRecord(8, "")
			}
			args := append([]string{"--datapath", test.dataPath}, test.args...)
			code, said := runs(t, append(args, "ban", common.HexToAddress(r.Localpart).Hex())...)
			for _, want := range test.want {
				if code != test.wantCode || !strings.Contains(said, want) {
					t.Errorf("exit %d, want %d and %q\n%s", code, test.wantCode, want, said)
				}
			}
		})
	}
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"no address":                 {[]string{"ban"}, "ban takes one address"},
		"two":                        {[]string{"unban", testRecord(1, "").Localpart, "x"}, "unban takes one address"},
		"none that is one":           {[]string{"ban", "Geheim0815"}, "that is not an address"},
		"a user of another":          {[]string{"--datapath", dir, "ban", names.UserID(testRecord(1, "").Localpart, "example.org")}, "that user ID is of another homeserver"},
		"a user of another, offline": {[]string{"--datapath", alone, "unban", names.UserID(testRecord(1, "").Localpart, "example.org")}, "that user ID is of another homeserver"},
	} {
		if code, said := runs(t, test.args...); code != 1 || !strings.Contains(said, test.want) || strings.Contains(said, "Geheim0815") {
			t.Errorf("%s: exit %d, want %q\n%s", name, code, test.want, said)
		}
	}
	if r, err := served.Load(t.Context(), common.HexToAddress(testRecord(7, "").Localpart)); err != nil || r.Banned.IsZero() || time.Since(r.Banned) > time.Hour {
		t.Errorf("got %+v, %v", r, err)
	}
	code, said := runs(t, "--datapath", dir, "unban", testRecord(7, "").UserID)
	if code != 1 || !strings.Contains(said, "is no longer banned") || !strings.Contains(said, "the ban has ended") {
		t.Errorf("exit %d\n%s", code, said)
	}
	if counts, err := served.counts(); err != nil || counts[stateBanned] != 0 {
		t.Errorf("got %v, %v", fmt.Sprint(counts), err)
	}
}
