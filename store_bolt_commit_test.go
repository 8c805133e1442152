package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// A heldStore is a store whose next commit waits, so that a test decides who is in the group behind it.
type heldStore struct {
	*boltStore
	t  *testing.T
	tx *bolt.Tx
}

func holdCommits(t *testing.T, s *boltStore) *heldStore {
	t.Helper()
	tx, err := s.db.Bolt.Begin(true)
	if err != nil {
		t.Fatal(err)
	}
	return &heldStore{s, t, tx}
}

// begin starts a writer and returns when its change is queued, or it is the first and waits for the store.
func (h *heldStore) begin(all *sync.WaitGroup, write func()) {
	h.t.Helper()
	queued := func() int {
		h.mu.Lock()
		defer h.mu.Unlock()
		if !h.committing {
			return 0
		}
		return 1 + len(h.queue) // who commits has taken its own out
	}
	want := queued() + 1
	all.Go(write)
	for deadline := time.Now().Add(patience); queued() != want; time.Sleep(100 * time.Microsecond) {
		if time.Now().After(deadline) {
			h.t.Fatal("the writer was not queued")
		}
	}
}

// release lets the writers go on, and returns in how many commits they ended.
func (h *heldStore) release(all *sync.WaitGroup) (commits int) {
	h.t.Helper()
	before := lastCommit(h.t, h.boltStore)
	if err := h.tx.Rollback(); err != nil {
		h.t.Fatal(err)
	}
	all.Wait()
	return lastCommit(h.t, h.boltStore) - before
}

func lastCommit(t *testing.T, s *boltStore) (id int) {
	t.Helper()
	if err := s.db.Bolt.View(func(tx *bolt.Tx) error { id = tx.ID(); return nil }); err != nil {
		t.Fatal(err)
	}
	return id
}

// addressOf is the address of a test's record.
func addressOf(i int) address { return common.HexToAddress(testRecord(i, "").Localpart) }

// checkCounted reads the store from end to end: every record in its place, and counted once.
func checkCounted(t *testing.T, s *boltStore, want storeCounts) {
	t.Helper()
	got, err := s.verify(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for state := range buckets {
		if got[state] != want[state] {
			t.Errorf("got %d %s records, want %d", got[state], state, want[state])
		}
	}
}

// Writers that come while a commit waits for the disk share the next one, and each finds its own record there.
func TestCommitTogether(t *testing.T) {
	s := openTestStore(t)
	h := holdCommits(t, s)
	var all sync.WaitGroup
	for i := range 64 {
		h.begin(&all, func() { keepRecord(t, s, testRecord(i, statePending)) })
	}
	if commits := h.release(&all); commits != 2 {
		t.Errorf("%d commits, want the first writer's and one for all others", commits)
	}
	checkCounted(t, s, storeCounts{statePending: 64})
}

// A change that cannot be made costs nobody else, and leaves nothing of itself.
func TestCommitWithoutTheBad(t *testing.T) {
	const count = 64
	isBad := func(i int) bool { return i%7 == 3 || i == count-1 }
	s := openTestStore(t)
	for i := range count {
		keepRecord(t, s, testRecord(i, statePending))
	}
	h := holdCommits(t, s)
	var all sync.WaitGroup
	bad := 0
	for i := range count {
		if !isBad(i) {
			h.begin(&all, func() { keepRecord(t, s, testRecord(i, stateRegistered)) })
			continue
		}
		bad++
		h.begin(&all, func() { // it takes the pending record away, and then has no bucket for the other
			held := claimed(t, s, addressOf(i))
			defer held.Release()
			if err := held.Save(testRecord(i, "nonsense")); !errors.Is(err, bolterrors.ErrBucketNameRequired) {
				t.Errorf("record %d: got %v", i, err)
			}
		})
	}
	h.release(&all)
	for i := range count {
		want := stateRegistered
		if isBad(i) {
			want = statePending
		}
		if r, err := s.Load(t.Context(), addressOf(i)); err != nil || r.State != want {
			t.Errorf("record %d: got %q, %v, want %q", i, r.State, err, want)
		}
	}
	checkCounted(t, s, storeCounts{statePending: bad, stateRegistered: count - bad})
}

// Writers in no order, some of them with changes that cannot be made, leave the store as a model has it.
func TestCommitsCount(t *testing.T) {
	dir := t.TempDir()
	s, err := openBoltStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	const writers, addresses, steps = 16, 40, 60
	model := make([]state, addresses) // each is written by who holds its address
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			random := rand.New(rand.NewPCG(7, uint64(w)))
			for range steps {
				i := random.IntN(addresses)
				held := claimed(t, s, addressOf(i))
				var err error
				switch next := []state{"", statePending, stateRegistered, "nonsense"}[random.IntN(4)]; next {
				case "":
					err, model[i] = held.Drop(), ""
				case "nonsense":
					if held.Save(testRecord(i, next)) == nil {
						err = errors.New("nonsense was kept")
					}
				default:
					err, model[i] = held.Save(testRecord(i, next)), next
				}
				if err != nil {
					t.Error(err)
				}
				if r, err := s.Load(t.Context(), addressOf(i)); err != nil && err != errNoRecord || r.State != model[i] {
					t.Errorf("record %d: got %q, %v, want %q", i, r.State, err, model[i])
				}
				held.Release()
			}
		})
	}
	all.Wait()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = openBoltStore(dir); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	want := storeCounts{}
	for i, state := range model {
		if want[state]++; state == "" {
			continue
		}
		if r, err := s.Load(t.Context(), addressOf(i)); err != nil || r.State != state {
			t.Errorf("record %d: got %q, %v, want %q", i, r.State, err, state)
		}
	}
	checkCounted(t, s, want)
}

// A damaged page is the misfortune of those whose records are in it. bbolt panics over it when their changes are made.
func TestCommitAroundDamage(t *testing.T) {
	const at, around = 450, 40 // in the order of the addresses
	s, order := damagedStore(t, at)
	errs := make([]error, 2*around)
	h := holdCommits(t, s)
	var all sync.WaitGroup
	for k, i := range order[at-around : at+around] {
		h.begin(&all, func() {
			held := claimed(t, s, addressOf(i))
			defer held.Release()
			errs[k] = held.Save(testRecord(i, stateRegistered))
		})
	}
	h.release(&all)
	lost := 0
	for k, i := range order[at-around : at+around] {
		_, read := s.Load(t.Context(), addressOf(i))
		if read != nil {
			lost++
		}
		if !errors.Is(errs[k], read) {
			t.Errorf("record %d: written: %v, read: %v", i, errs[k], read)
		}
	}
	if lost == 0 || lost > around/2 {
		t.Errorf("%d of %d are in the damaged page", lost, 2*around)
	}
}

// damagedStore opens a store of registered nodes of which one page is damaged, that of the given record in the order of
// the addresses, which is returned too.
func damagedStore(t *testing.T, at int) (s *boltStore, order []int) {
	t.Helper()
	dir := t.TempDir()
	s, err := openBoltStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	fillStore(t, s, 1000)
	for i := range 1000 {
		if i%10 != 9 { // which fillStore leaves pending
			order = append(order, i)
		}
	}
	slices.SortFunc(order, func(i, j int) int { return addressOf(i).Cmp(addressOf(j)) })
	page := leafOf(t, s, addressOf(order[at]))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(s.path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(bytes.Repeat([]byte{0xA5}, os.Getpagesize()), int64(page*os.Getpagesize())); err != nil {
		t.Fatal(err)
	}
	if s, err = openBoltStore(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, order
}

// leafOf is the number of the page that holds a registered record.
func leafOf(t *testing.T, s *boltStore, a address) int {
	t.Helper()
	content, err := os.ReadFile(s.path)
	if err != nil {
		t.Fatal(err)
	}
	var value []byte
	if err := s.db.Bolt.View(func(tx *bolt.Tx) error {
		value = bytes.Clone(tx.Bucket([]byte(buckets[stateRegistered])).Get(a.Bytes()))
		return nil
	}); err != nil || value == nil {
		t.Fatalf("got %q, %v", value, err)
	}
	if bytes.Count(content, value) != 1 {
		t.Fatal("the record is in the file more than once")
	}
	return bytes.Index(content, value) / os.Getpagesize()
}

// When the disk is full, each writer is told so; when it has room again, the store works again.
func TestCommitFails(t *testing.T) {
	s := openTestStore(t)
	keepRecord(t, s, testRecord(0, stateRegistered))
	stat, err := os.Stat(s.path)
	if err != nil {
		t.Fatal(err)
	}
	s.db.Bolt.MaxSize = int(stat.Size())
	h := holdCommits(t, s)
	var all sync.WaitGroup
	for i := 1; i < 300; i++ {
		h.begin(&all, func() {
			held := claimed(t, s, addressOf(i))
			defer held.Release()
			if err := held.Save(testRecord(i, statePending)); i > 1 && err == nil { // the first has a commit of its own, and room
				t.Error("kept, without room")
			}
		})
	}
	h.release(&all)
	s.db.Bolt.MaxSize = 0
	for i := range 300 {
		keepRecord(t, s, testRecord(i, stateRegistered))
	}
	checkCounted(t, s, storeCounts{stateRegistered: 300})
}

// Closing waits for whoever has a change queued; who comes later is refused.
func TestCloseWaits(t *testing.T) {
	dir := t.TempDir()
	s, err := openBoltStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	h := holdCommits(t, s)
	var all sync.WaitGroup
	for i := range 32 {
		h.begin(&all, func() { keepRecord(t, s, testRecord(i, statePending)) })
	}
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	for deadline := time.Now().Add(patience); s.writers.TryRLock(); time.Sleep(100 * time.Microsecond) {
		s.writers.RUnlock() // it waits for the writers as soon as nobody else gets in
		if time.Now().After(deadline) {
			t.Fatal("it does not wait for the writers")
		}
	}
	if err := h.tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	all.Wait()
	if err := <-closed; err != nil {
		t.Fatal(err)
	}
	held := claimed(t, s, addressOf(99))
	defer held.Release()
	if err := held.Save(testRecord(99, statePending)); !errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
		t.Errorf("a later writer: got %v", err)
	}
	if s, err = openBoltStore(dir); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	checkCounted(t, s, storeCounts{statePending: 32})
}

// What a registration leaves is in the file before the homeserver is asked to create the account, and before the node is
// answered, however long writing takes. That what is in the file is on disk as well is bbolt's doing, unless it is told
// otherwise.
func TestOnDiskBeforeAndAfter(t *testing.T) {
	for _, api := range apis {
		t.Run(api.name, func(t *testing.T) {
			d := newDoor(t, api.path)
			if bolt := d.bolt().db.Bolt; bolt.NoSync || bolt.NoGrowSync {
				t.Error("bbolt is told not to wait for the disk")
			}
			d.server.registrar.store = slowStore(d.bolt())
			proof, n := newProof(t)
			seen := make(map[string]state)
			rightly := d.homeserver.creates(api.creates)
			d.homeserver.fail(api.creates, func(w http.ResponseWriter, r *http.Request) {
				seen["creation"] = stateInFile(t, d.bolt().path, n.Address)
				rightly(w, r)
			})
			body, err := json.Marshal(proof)
			if err != nil {
				t.Fatal(err)
			}
			w := &watchedAnswer{ResponseRecorder: httptest.NewRecorder(), begun: func() { seen["answer"] = stateInFile(t, d.bolt().path, n.Address) }}
			d.handler.ServeHTTP(w, httptest.NewRequest(http.MethodPost, registerPath, bytes.NewReader(body)))
			if want := map[string]state{"creation": statePending, "answer": stateRegistered}; w.Code != http.StatusOK || !maps.Equal(seen, want) {
				t.Errorf("got %d, %v, want %v", w.Code, seen, want)
			}
		})
	}
}

// A watchedAnswer tells when an answer begins.
type watchedAnswer struct {
	*httptest.ResponseRecorder
	begun func()
}

func (w *watchedAnswer) WriteHeader(status int) {
	w.begun()
	w.ResponseRecorder.WriteHeader(status)
}

// stateInFile reads a record from a copy of the file, as whoever starts after a crash finds it.
func stateInFile(t *testing.T, path string, a address) state {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
	}
	found := filepath.Join(t.TempDir(), storeFile)
	if err := os.WriteFile(found, content, 0o600); err != nil {
		t.Error(err)
	}
	s, err := readBoltStore(found)
	if err != nil {
		t.Error(err)
		return ""
	}
	defer s.Close()
	r, err := s.Load(t.Context(), a)
	if err != nil && !errors.Is(err, errNoRecord) {
		t.Error(err)
	}
	return r.State
}
