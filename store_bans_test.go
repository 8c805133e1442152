// store_bans_test.go owns what a store has to do with bans: they are beside the record, survive whatever the record does, and go
// where the records go.

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/pgdb"
	"github.com/ethereum/go-ethereum/common"
	bolt "go.etcd.io/bbolt"
)

// testBanTime is when the addresses of these tests were banned, to the microsecond, as PostgreSQL keeps it.
var testBanTime = time.Date(2026, 11, 27, 12, 0, 0, 1000, time.UTC)

// banned bans the address of the record.
func banned(t testing.TB, s store, r record) {
	t.Helper()
	held := claimed(t, s, common.HexToAddress(r.Localpart))
	defer held.Release()
	if err := held.Ban(ban{r.UserID, testBanTime}); err != nil {
		t.Fatal(err)
	}
}

// A ban is beside the record: whatever is done with one leaves the other as it was, for an address without a record too.
func TestStoreBans(t *testing.T) { eachStore(t, testStoreBans) }

func testStoreBans(t *testing.T, fresh func(testing.TB) opener) {
	open := fresh(t)
	s := open(t)
	r := testRecord(1, statePending)
	a := common.HexToAddress(r.Localpart)
	registered := r
	registered.State = stateRegistered
	for i, step := range []struct {
		do     func(claim) error
		state  state // of the record after
		banned bool
	}{
		{func(c claim) error { return c.Unban() }, "", false},
		{func(c claim) error { return c.Ban(ban{r.UserID, testBanTime}) }, "", true},
		{func(c claim) error { return c.Save(r) }, statePending, true},
		{func(c claim) error { return c.Ban(ban{"@another:name", testBanTime.Add(time.Hour)}) }, statePending, true},
		{func(c claim) error { return c.Save(registered) }, stateRegistered, true},
		{func(c claim) error { return c.Drop() }, "", true},
		{func(c claim) error { return c.Save(registered) }, stateRegistered, true},
		{func(c claim) error { return c.Unban() }, stateRegistered, false},
		{func(c claim) error { return c.Unban() }, stateRegistered, false},
		{func(c claim) error { return c.Ban(ban{r.UserID, testBanTime}) }, stateRegistered, true},
	} {
		held := claimed(t, s, a)
		if err := step.do(held); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
		held.Release()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open(t)
		got, err := s.Load(t.Context(), a)
		if none := step.state == "" && !step.banned; none != errors.Is(err, errNoRecord) || !none && err != nil {
			t.Fatalf("step %d: got %v", i, err)
		}
		want := time.Time{}
		if step.banned {
			want = testBanTime
		}
		if got.State != step.state || !got.Banned.Equal(want) || step.state+state(fmt.Sprint(step.banned)) != "false" && (got.Localpart != r.Localpart || got.UserID != r.UserID) {
			t.Errorf("step %d: got %+v", i, got)
		}
		counts, err := s.counts()
		if err != nil || counts[stateBanned] != map[bool]int{true: 1}[step.banned] || counts[step.state] != map[bool]int{true: 1}[step.state != ""] {
			t.Errorf("step %d: got %v, %v", i, counts, err)
		}
		for of, want := range map[state]bool{"": step.banned || step.state != "", stateBanned: step.banned, stateRegistered: step.state == stateRegistered, statePending: step.state == statePending} {
			page, _, err := s.List(t.Context(), of, "")
			if err != nil || len(page) != map[bool]int{true: 1}[want] || want && page[0] != got {
				t.Errorf("step %d: list %q: got %+v, %v", i, of, page, err)
			}
		}
	}
}

// A listing has each address once, with its ban, also where bans and records fill several pages in turns.
func TestListBans(t *testing.T) { eachStore(t, testListBans) }

func testListBans(t *testing.T, fresh func(testing.TB) opener) {
	s := fresh(t)(t)
	const count = listPage + listPage/2
	for i := range count { // one third each: a record, a ban, both
		r := testRecord(i, stateRegistered)
		if i%3 != 1 {
			keepRecord(t, s, r)
		}
		if i%3 != 0 {
			banned(t, s, r)
		}
	}
	for of, want := range map[state][3]int{"": {count, 2 * count / 3, 2 * count / 3}, stateBanned: {2 * count / 3, 2 * count / 3, count / 3}, stateRegistered: {2 * count / 3, count / 3, 2 * count / 3}} {
		var got [3]int // all, banned, with a record
		before := ""
		if err := eachRecord(t.Context(), s.List, of, func(r record) error {
			got[0]++
			got[1] += map[bool]int{true: 1}[!r.Banned.IsZero()]
			got[2] += map[bool]int{true: 1}[r.State != ""]
			if r.Localpart <= before {
				t.Errorf("%q: %s follows %s", of, r.Localpart, before)
			}
			before = r.Localpart
			return nil
		}); err != nil || got != want {
			t.Errorf("%q: got %v, %v, want %v", of, got, err, want)
		}
	}
}

// Bans go into a backup, out of it, and into PostgreSQL.
func TestBansAreCopied(t *testing.T) {
	dir := filepath.Dir(makeCopy(t, 20))
	s, err := openBoltStore(dir, testServerName)
	if err != nil {
		t.Fatal(err)
	}
	banned(t, s, testRecord(3, "")) // which has a record
	bare := testRecord(1000, "")
	banned(t, s, bare)
	s.Close()

	copied := filepath.Join(t.TempDir(), "copy.db")
	if code, said := runs(t, "--datapath", dir, "backup", copied); code != 0 || !strings.Contains(said, "18 registered, 2 pending, 2 banned") {
		t.Errorf("exit %d: %s", code, said)
	}
	restored := t.TempDir()
	if code, said := runs(t, "--datapath", restored, "restore", copied); code != 0 || !strings.Contains(said, "18 registered, 2 pending, 2 banned") {
		t.Errorf("exit %d: %s", code, said)
	}
	url := newDatabase(t)
	for _, want := range []string{"copied 2 bans, and 0 were there already", "copied 0 bans, and 2 were there already"} {
		if code, said := runs(t, "migrate", "--from", restored, "--to", url); code != 0 || !strings.Contains(said, want) {
			t.Errorf("exit %d, want %q: %s", code, want, said)
		}
	}
	for _, dataPath := range []string{restored, url} {
		to := opened(t, dataPath)
		for _, i := range []int{3, 1000} {
			if r, err := to.Load(t.Context(), common.HexToAddress(testRecord(i, "").Localpart)); err != nil || !r.Banned.Equal(testBanTime) {
				t.Errorf("%d: got %+v, %v", i, r, err)
			}
		}
		if name, err := to.serverName(); err != nil || name != testServerName {
			t.Errorf("got %q, %v", name, err)
		}
	}

	to := openedPostgres(t, url)
	held := claimed(t, to, common.HexToAddress(bare.Localpart))
	if err := held.Unban(); err != nil {
		t.Fatal(err)
	}
	held.Release()
	from, err := readBoltStore(copied)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	if found, err := compareStores(t.Context(), from, to, newProgress(new(strings.Builder), "compared", 21)); err != nil || found.wrong != 1 || found.firstWrong != bare.Localpart {
		t.Errorf("a ban is missing: got %+v, %v", found, err)
	}
}

// A copy whose bans are not where they are read, or are miscounted, is not restored.
func TestRestoreRefusesBans(t *testing.T) {
	r := testRecord(3, "")
	key := common.HexToAddress(r.Localpart).Bytes()
	for name, change := range map[string]func(*bolt.Bucket) error{
		"of another address": func(b *bolt.Bucket) error {
			return b.Put(key, []byte(`{"user_id":"`+names.UserID(testRecord(4, "").Localpart, testServerName)+`","banned":"2026-11-27T12:00:00Z"}`))
		},
		"without a time": func(b *bolt.Bucket) error { return b.Put(key, []byte(`{"user_id":"`+r.UserID+`"}`)) },
		"not JSON":       func(b *bolt.Bucket) error { return b.Put(key, []byte(`{`)) },
		"miscounted":     func(b *bolt.Bucket) error { return b.SetSequence(7) },
		"of a short key": func(b *bolt.Bucket) error {
			return errors.Join(b.Put([]byte{1, 2, 3}, []byte(`{"user_id":"`+names.UserID("0x010203", testServerName)+`","banned":"2026-11-27T12:00:00Z"}`)), b.SetSequence(2))
		},
	} {
		dir := filepath.Dir(makeCopy(t, 20))
		s, err := openBoltStore(dir, testServerName)
		if err != nil {
			t.Fatal(err)
		}
		banned(t, s, r)
		s.Close()
		path := filepath.Join(dir, storeFile)
		withBolt(t, path, func(tx *bolt.Tx) error { return change(tx.Bucket([]byte(banBucket))) })
		into := t.TempDir()
		if code, said := runs(t, "--datapath", into, "restore", path); code != 1 || !strings.Contains(said, "cannot be restored") {
			t.Errorf("%s: exit %d: %s", name, code, said)
		}
		if left, _ := os.ReadDir(into); len(left) != 0 {
			t.Errorf("%s: left behind: %v", name, left)
		}
	}
}

// asFormat2 makes a store's file what it was in format 2, which had neither bans nor a server name.
func asFormat2(t *testing.T, path string) {
	t.Helper()
	withBolt(t, path, func(tx *bolt.Tx) error {
		meta := tx.Bucket([]byte(metaBucket))
		return errors.Join(meta.Put([]byte(formatKey), []byte("2")), meta.Delete([]byte(serverNameKey)))
	})
}

// A store in BoltDB remembers its server name and refuses another, unless it has neither a record nor a ban: a first start with a
// wrong name leaves such a store. A store of an earlier format goes to the server name of the
// nodes in it, or to any if it is empty.
func TestStoreServerName(t *testing.T) {
	const other = "example.org"
	foreign := testRecord(1001, stateRegistered)
	foreign.UserID = names.UserID(foreign.Localpart, other)
	for _, test := range []struct {
		name    string
		records []record
		old     bool
		opens   string
		refused bool
	}{
		{"its own", nil, false, testServerName, false},
		{"another's", []record{testRecord(1, statePending)}, false, other, true},
		{"another's, with a ban alone", nil, false, other, true},
		{"another's, without a record or a ban", nil, false, other, false},
		{"old and empty", nil, true, other, false},
		{"old, its own", []record{testRecord(1, stateRegistered)}, true, testServerName, false},
		{"old, another's", []record{testRecord(1, statePending)}, true, other, true},
		{"old, of both", []record{testRecord(1, stateRegistered), foreign}, true, other, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, storeFile)
			s, err := openBoltStore(dir, testServerName)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range test.records {
				keepRecord(t, s, r)
			}
			if strings.HasSuffix(test.name, "with a ban alone") {
				banned(t, s, testRecord(1, ""))
			}
			s.Close()
			if test.old {
				asFormat2(t, path)
			}
			before, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			s, err = openBoltStore(dir, test.opens)
			if test.refused {
				if err == nil || !strings.Contains(err.Error(), "it belongs to "+testServerName+", and --matrixdomain is "+other) {
					t.Fatalf("got %v", err)
				}
				if after, _ := os.ReadFile(path); string(after) != string(before) {
					t.Error("the file was changed")
				}
				if s, err = openBoltStore(dir, testServerName); err != nil { // which a lock that was left would keep from it
					t.Fatal(err)
				}
				s.Close()
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if name, err := s.serverName(); err != nil || name != test.opens {
				t.Errorf("got %q, %v", name, err)
			}
			if format, err := s.format(); err != nil || format != storeFormat {
				t.Errorf("got format %d, %v", format, err)
			}
			s.Close()
			checkWhole(t, path)
		})
	}
}

// A role that could read and write records before the table of bans existed can do so with bans: every registration reads both.
func TestPostgresBansAreGranted(t *testing.T) {
	p, url := postgresServer(t), newDatabase(t)
	pool, err := pgdb.Open(t.Context(), url, programName)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	first := postgresSchema
	first.Steps = first.Steps[:1]
	if err := pool.Prepare(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	role := "daemon_" + databaseOf(url)
	sql(t, p, databaseOf(url), "CREATE ROLE "+role+` LOGIN;
		GRANT USAGE ON SCHEMA matrix_regservice TO `+role+`; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA matrix_regservice TO `+role)
	openedPostgres(t, url).Close()
	s := openedPostgres(t, p.URL(role, databaseOf(url)))
	r := testRecord(1, stateRegistered)
	keepRecord(t, s, r)
	banned(t, s, r)
	if got, err := s.Load(t.Context(), common.HexToAddress(r.Localpart)); err != nil || got.Banned.IsZero() {
		t.Errorf("got %+v, %v", got, err)
	}
}
