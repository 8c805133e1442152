// store_damaged_test.go owns what the store in BoltDB says where it cannot read or write what is asked: an error, and never that
// there is nothing.

package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ethereum/go-ethereum/common"
	bolt "go.etcd.io/bbolt"
)

// put writes a value as it is.
func put(t *testing.T, s *boltStore, bucket string, key, value []byte) {
	t.Helper()
	if err := s.file.Update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists([]byte(bucket))
		if err != nil {
			return err
		}
		return b.Put(key, value)
	}); err != nil {
		t.Fatal(err)
	}
}

// A record or a ban that cannot be read is an error wherever it is read, and the one does not hide the other.
func TestDamagedEntries(t *testing.T) {
	const garbage, untimed = `{"state":`, `{"user_id":"@x:y"}`
	a := common.Address{1}
	aBan, _ := json.Marshal(ban{"@x:y", time.Now()})
	aRecord, _ := json.Marshal(record{UserID: "@x:y", State: statePending, Updated: time.Now()})
	for _, test := range []struct {
		name    string
		entries map[string]string // by bucket
		pending bool              // it is among the pending ones
	}{
		{"a pending record", map[string]string{buckets[statePending]: garbage}, true},
		{"a registered record", map[string]string{buckets[stateRegistered]: garbage}, false},
		{"a record of an unknown state", map[string]string{buckets[statePending]: `{"state":"sold"}`}, true},
		{"a ban", map[string]string{banBucket: garbage}, false},
		{"a ban without a time", map[string]string{banBucket: untimed}, false},
		{"a ban of a user ID that is no text", map[string]string{banBucket: `{"banned":"2026-11-27T12:00:00Z","user_id":5}`}, false},
		{"a ban of a good pending record", map[string]string{buckets[statePending]: string(aRecord), banBucket: garbage}, true},
		{"a record, and a good ban", map[string]string{buckets[stateRegistered]: garbage, banBucket: string(aBan)}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := openTestStore(t)
			for bucket, value := range test.entries {
				put(t, s, bucket, a.Bytes(), []byte(value))
			}
			fails := func(what string, err error) {
				t.Helper()
				if err == nil || errors.Is(err, errNoRecord) {
					t.Errorf("%s: got %v", what, err)
				}
			}
			_, err := s.Load(t.Context(), a)
			fails("Load", err)
			_, _, err = s.List(t.Context(), "", "")
			fails("List", err)
			_, err = s.verify(t.Context())
			fails("verify", err)
			_, _, err = s.claimIfPending(t.Context(), a, span{})
			fails("claimIfPending", err)
			if _, _, err := s.ClaimPending(t.Context(), span{}); err == nil || errors.Is(err, errNoRecord) == test.pending {
				t.Errorf("ClaimPending: got %v", err)
			}
			if inHand(t, s) != 0 {
				t.Error("the address is still claimed")
			}
		})
	}
}

// A pending record that cannot be read does not keep the walk from those behind it.
func TestWalkPastDamage(t *testing.T) {
	s := openTestStore(t)
	good, err := json.Marshal(record{UserID: "@x:y", State: statePending, Updated: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	for i, value := range [][]byte{[]byte("{"), good, []byte("{"), good} {
		put(t, s, buckets[statePending], common.Address{byte(i)}.Bytes(), value)
	}
	for walk := range 2 {
		for _, readable := range []bool{false, true, false, true} {
			held, _, err := s.ClaimPending(t.Context(), span{})
			if readable != (err == nil) || errors.Is(err, errNoRecord) {
				t.Errorf("walk %d: got %v, readable is %v", walk, err, readable)
			}
			if held != nil {
				held.Release()
			}
		}
		if _, _, err := s.ClaimPending(t.Context(), span{}); !errors.Is(err, errNoRecord) {
			t.Errorf("walk %d does not end: %v", walk, err)
		}
	}
}

// A ban is beside the record: the record's user ID counts, and without a record the ban's own.
func TestBanBesideRecord(t *testing.T) {
	s := openTestStore(t)
	_, n := newProof(t)
	held := claimed(t, s, n.Address)
	defer held.Release()
	since := time.Now().UTC().Truncate(time.Microsecond)
	if err := held.Ban(ban{"@of:the.ban", since}); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		state  state
		userID string
	}{{"", "@of:the.ban"}, {statePending, n.UserID}, {stateRegistered, n.UserID}} {
		if test.state != "" {
			if err := save(held, record{}, n, test.state); err != nil {
				t.Fatal(err)
			}
		}
		loaded, err := held.Load(t.Context())
		page, _, listErr := s.List(t.Context(), stateBanned, "")
		for what, r := range map[string]record{"Load": loaded, "List": slices.Concat(page, []record{{}})[0]} {
			if err != nil || listErr != nil || r.State != test.state || r.UserID != test.userID || r.Localpart != n.Localpart || !r.Banned.Equal(since) {
				t.Errorf("%q: %s: got %+v, %v, %v", test.state, what, r, err, listErr)
			}
		}
	}
	has := func(want storeCounts) {
		t.Helper()
		if counts, err := s.counts(); err != nil || counts[stateBanned] != want[stateBanned] || counts[stateRegistered] != want[stateRegistered] || counts[statePending] != want[statePending] {
			t.Errorf("counts: got %v, %v, want %v", counts, err, want)
		}
	}
	if err := held.Ban(ban{"@again:the.ban", since.Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	if r, err := held.Load(t.Context()); err != nil || !r.Banned.Equal(since) { // the first one stays
		t.Errorf("banned again: got %+v, %v", r, err)
	}
	has(storeCounts{stateBanned: 1, stateRegistered: 1})
	for range 2 {
		if err := held.Unban(); err != nil {
			t.Fatal(err)
		}
		if r, err := held.Load(t.Context()); err != nil || !r.Banned.IsZero() || r.State != stateRegistered {
			t.Errorf("unbanned: got %+v, %v", r, err)
		}
		has(storeCounts{stateRegistered: 1})
	}
}

// Pending records are claimed where nobody has them, and nobody is banned.
func TestClaimIfPendingAlone(t *testing.T) {
	d := newGateway(t, apis[0].path)
	_, n := newProof(t)
	d.setOld(n, statePending, time.Hour)
	claimIt := func() (claim, error) {
		held, _, err := d.bolt().claimIfPending(t.Context(), n.Address, span{time.Now(), time.Now()})
		return held, err
	}
	held, err := claimIt()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := claimIt(); !errors.Is(err, errNoRecord) {
		t.Errorf("claimed: got %v", err)
	}
	if err := held.Ban(ban{n.UserID, time.Now()}); err != nil {
		t.Fatal(err)
	}
	held.Release()
	if _, err := claimIt(); !errors.Is(err, errNoRecord) || inHand(t, d.store) != 0 {
		t.Errorf("banned: got %v, %d are claimed", err, inHand(t, d.store))
	}
}

// A record that cannot be written leaves the one that is there.
func TestUnwritableRecord(t *testing.T) {
	s := openTestStore(t)
	_, n := newProof(t)
	held := claimed(t, s, n.Address)
	defer held.Release()
	if err := save(held, record{}, n, stateRegistered); err != nil {
		t.Fatal(err)
	}
	if err := held.Save(record{State: statePending, Created: time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC)}); err == nil {
		t.Error("a year that JSON has no form for was written")
	}
	if err := held.Ban(ban{n.UserID, time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC)}); err == nil {
		t.Error("a ban in that year was written")
	}
	if r, err := held.Load(t.Context()); err != nil || r.State != stateRegistered || !r.Banned.IsZero() {
		t.Errorf("got %+v, %v", r, err)
	}
}

// A store that was closed says so, whatever it is asked for.
func TestClosedStore(t *testing.T) {
	s, err := openBoltStore(t.TempDir(), testServerName)
	if err != nil {
		t.Fatal(err)
	}
	held := claimed(t, s, common.Address{1})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for what, ask := range map[string]func() error{
		"counts":        func() error { _, err := s.counts(); return err },
		"serverName":    func() error { _, err := s.serverName(); return err },
		"format":        func() error { _, err := s.format(); return err },
		"CheckWritable": s.CheckWritable,
		"Load":          func() error { _, err := s.Load(t.Context(), common.Address{1}); return err },
		"List":          func() error { _, _, err := s.List(t.Context(), "", ""); return err },
		"ClaimPending":  func() error { _, _, err := s.ClaimPending(t.Context(), span{}); return err },
		"Save":          func() error { return held.Save(record{State: statePending}) },
		"Drop":          held.Drop,
		"Ban":           func() error { return held.Ban(ban{}) },
		"Unban":         held.Unban,
	} {
		if err := ask(); err == nil || errors.Is(err, errNoRecord) {
			t.Errorf("%s: got %v", what, err)
		}
	}
}

// Counts of the first format that cannot be read are no counts.
func TestDamagedCounts(t *testing.T) {
	s := openTestStore(t)
	put(t, s, metaBucket, []byte(countsKey), []byte(`{"pending":`))
	if counts, err := s.counts(); err == nil {
		t.Errorf("got %v", counts)
	}
}

// A walk through all records ends with the first error, of a page, of the visitor or of the context, and nothing reads on behind it.
func TestEachRecordEnds(t *testing.T) {
	broken := errors.New("broken")
	pages := []string{"", "a", "b"}
	for _, test := range []struct {
		name    string
		failsAt string // the page after this
		visits  int    // until the visitor fails
		cancels int    // until the context ends
		want    error
		visited int
	}{
		{"all", "-", 9, 9, nil, 3},
		{"the first page", "", 9, 9, broken, 0},
		{"a later page", "a", 9, 9, broken, 1},
		{"the visitor", "-", 2, 9, broken, 2},
		{"the context", "-", 9, 1, context.Canceled, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				var reading atomic.Int32
				list := func(_ context.Context, _ state, after string) ([]record, string, error) {
					reading.Add(1)
					defer reading.Add(-1)
					time.Sleep(20 * time.Millisecond) // so that one that nobody waits for is seen
					i := slices.Index(pages, after)
					switch {
					case after == test.failsAt:
						return []record{{}}, "c", broken // what was read until then is not visited
					case i < 0:
						return nil, "", nil
					}
					return []record{{Localpart: after}}, slices.Concat(pages, []string{"c"})[i+1], nil
				}
				visited := 0
				err := eachRecord(ctx, list, "", func(record) error {
					synctest.Wait() // the next page is being read by now
					if visited++; visited == test.cancels {
						cancel()
					}
					if visited == test.visits {
						return broken
					}
					return nil
				})
				if !errors.Is(err, test.want) || test.want == nil && err != nil || visited != test.visited {
					t.Errorf("got %v after %d, want %v after %d", err, visited, test.want, test.visited)
				}
				if reading.Load() != 0 {
					t.Error("a page is still being read")
				}
			})
		})
	}
}

// Opening a store brings it up to date, writes down the name of the daemon that opens it first, and stops at what it cannot read.
func TestInitialize(t *testing.T) {
	_, n := newProof(t)
	good, _ := json.Marshal(record{Localpart: n.Localpart, UserID: n.UserID, State: stateRegistered})
	foreign, _ := json.Marshal(record{Localpart: n.Localpart, UserID: "@" + n.Localpart + ":other.org", State: stateRegistered})
	const format1 = "1"
	for _, test := range []struct {
		name       string
		record     []byte
		format     string // "" for today's
		counts     string // of format 1
		first, as  string // server names that it is opened with
		want       string // the server name then
		fails      bool
		registered int
	}{
		{name: "a daemon's, by a command", first: testServerName, want: testServerName},
		{name: "nobody's, by a command", record: good},
		{name: "nobody's, by its daemon", record: good, as: testServerName, want: testServerName},
		{name: "nobody's, empty", as: testServerName, want: testServerName},
		{name: "nobody's, by another's daemon", record: foreign, as: testServerName, fails: true},
		{name: "another's", record: foreign, first: "other.org", as: testServerName, fails: true},
		{name: "a record that cannot be read", record: []byte("{"), as: testServerName, fails: true},
		{name: "format 2, by a command", record: good, format: "2"},
		{name: "format 1", record: good, format: format1, counts: `{"pending":0,"registered":7}`, registered: 7},
		{name: "format 1, and its counts cannot be read", record: good, format: format1, counts: `{`, fails: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			s, err := openBoltStore(dir, test.first)
			if err != nil {
				t.Fatal(err)
			}
			if test.record != nil {
				put(t, s, buckets[stateRegistered], n.Address.Bytes(), test.record)
			}
			if test.format != "" {
				put(t, s, metaBucket, []byte(formatKey), []byte(test.format))
			}
			if test.counts != "" {
				put(t, s, metaBucket, []byte(countsKey), []byte(test.counts))
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s, err = openBoltStore(dir, test.as)
			if (err != nil) != test.fails {
				t.Fatalf("got %v", err)
			}
			if err != nil {
				return
			}
			defer s.Close()
			name, err := s.serverName()
			format, formatErr := s.format()
			counts, countsErr := s.counts()
			if err := errors.Join(err, formatErr, countsErr); err != nil || name != test.want || format != storeFormat || counts[stateRegistered] != test.registered {
				t.Errorf("got %q, format %d, %v, %v, want %q, %d and %d registered", name, format, counts, err, test.want, storeFormat, test.registered)
			}
		})
	}
}

// exchange gives the two entries of a small bucket, which are in its parent's page, each the other's place.
func exchange(t *testing.T, path, bucket string) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	exchanged := false
	for at := 0; ; {
		i := bytes.Index(content[at:], []byte(bucket))
		if i < 0 {
			break
		}
		at += i + len(bucket)
		page := content[at:] // the bucket's root page, 0, its sequence number, and the head of the page that follows
		if len(page) < 64 || binary.NativeEndian.Uint64(page) != 0 || binary.NativeEndian.Uint16(page[26:]) != 2 {
			continue
		}
		const size = 16 // of an element, which has where its key is, from its own beginning
		first, second := bytes.Clone(page[32:][:size]), bytes.Clone(page[32+size:][:size])
		binary.NativeEndian.PutUint32(first[4:], binary.NativeEndian.Uint32(first[4:])-size)
		binary.NativeEndian.PutUint32(second[4:], binary.NativeEndian.Uint32(second[4:])+size)
		copy(page[32:], second)
		copy(page[32+size:], first)
		exchanged = true
	}
	if !exchanged {
		t.Fatalf("no bucket %s of two entries was found", bucket)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// An entry that a walk comes by, and that Load does not find since the keys are not in their order, is noticed.
func TestVerifyOrder(t *testing.T) {
	for _, bucket := range []string{buckets[statePending], buckets[stateRegistered], banBucket} {
		t.Run(bucket, func(t *testing.T) {
			dir := t.TempDir()
			s, err := openBoltStore(dir, testServerName)
			if err != nil {
				t.Fatal(err)
			}
			for i := range 2 {
				r := testRecord(i, state(bucket))
				r.DisplayName = ""
				if bucket == banBucket {
					banned(t, s, r)
				} else {
					keepRecord(t, s, r)
				}
			}
			s.Close()
			path := filepath.Join(dir, storeFile)
			checkWhole(t, path)
			exchange(t, path, bucket)
			if _, err := verifyCopy(t.Context(), path); err == nil || !strings.Contains(err.Error(), "is not in its place") {
				t.Errorf("got %v", err)
			}
		})
	}
}

// The check of a whole store ends with its context, and needs counts that can be read.
func TestVerifyEnds(t *testing.T) {
	s := openTestStore(t)
	_, n := newProof(t)
	held := claimed(t, s, n.Address)
	defer held.Release()
	stopped, stop := context.WithCancel(t.Context())
	stop()
	for _, write := range []func() error{func() error { return save(held, record{}, n, statePending) }, func() error { return errors.Join(held.Drop(), held.Ban(ban{n.UserID, time.Now()})) }} {
		if err := write(); err != nil {
			t.Fatal(err)
		}
		if _, err := s.verify(t.Context()); err != nil {
			t.Errorf("got %v", err)
		}
		if _, err := s.verify(stopped); !errors.Is(err, context.Canceled) {
			t.Errorf("stopped: got %v", err)
		}
	}
	if err := held.Unban(); err != nil { // an empty store, which has the counts that are not there
		t.Fatal(err)
	}
	put(t, s, metaBucket, []byte(countsKey), []byte("{"))
	if _, err := s.verify(t.Context()); err == nil {
		t.Error("without counts: no error")
	}
}
