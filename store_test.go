// store_test.go owns what every store has to do: most of the tests here run on BoltDB, on a real PostgreSQL and on one
// behind a pooler alike, and so do those of registrar_test.go and registrar_reconcile_test.go that begin with eachStore. The others
// are of the store in BoltDB alone.

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
	"github.com/ethereum/go-ethereum/common"
)

// An opener opens one store, which it closes when the test ends. Opened again it is the same.
type opener func(testing.TB) store

// eachStore runs the test on each kind of store. Each call of its function makes one that is empty.
func eachStore(t *testing.T, test func(t *testing.T, fresh func(testing.TB) opener)) {
	t.Helper()
	eachEngine(t, test)
	t.Run("PgBouncer", func(t *testing.T) { atPooler(t, test) })
}

// eachStoreOfMany is eachStore for a table of so many rows that make test leaves the pooler out.
func eachStoreOfMany(t *testing.T, test func(t *testing.T, fresh func(testing.TB) opener)) {
	t.Helper()
	eachEngine(t, test)
	t.Run("PgBouncer", func(t *testing.T) {
		need.OnlyLong(t)
		atPooler(t, test)
	})
}

func eachEngine(t *testing.T, test func(t *testing.T, fresh func(testing.TB) opener)) {
	t.Helper()
	t.Run("BoltDB", func(t *testing.T) {
		test(t, func(t testing.TB) opener {
			dir := t.TempDir()
			return func(t testing.TB) store { return opened(t, dir) }
		})
	})
	t.Run("PostgreSQL", func(t *testing.T) {
		url := newDatabase(t)
		test(t, func(t testing.TB) opener {
			clearDatabase(t, url)
			return func(t testing.TB) store { return opened(t, url) }
		})
	})
}

func atPooler(t *testing.T, test func(t *testing.T, fresh func(testing.TB) opener)) {
	direct := newDatabase(t)
	url := newPooler(t, "transaction").URL(databaseOf(direct))
	test(t, func(t testing.TB) opener {
		clearDatabase(t, direct)
		return func(t testing.TB) store { return opened(t, url) }
	})
}

func opened(t testing.TB, dataPath string) store {
	t.Helper()
	s, err := openStore(t.Context(), dataPath, testServerName)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// inHand counts the addresses that somebody holds or waits for.
func inHand(t testing.TB, s store) (count int) {
	t.Helper()
	switch s := s.(type) {
	case *boltStore:
		return len(s.claims.turns)
	case *postgresStore:
		if err := s.pool.Conns.QueryRow(t.Context(), "SELECT count(*) FROM matrix_regservice.claims").Scan(&count); err != nil {
			t.Fatal(err)
		}
		count += len(s.claims.turns)
	}
	return count
}

func claimed(t testing.TB, s store, a common.Address) claim {
	t.Helper()
	held, err := s.Claim(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	return held
}

// A record lasts from one opening of the store to the next, and is counted once.
func TestStoreKeeps(t *testing.T) { eachStore(t, testStoreKeeps) }

func testStoreKeeps(t *testing.T, fresh func(testing.TB) opener) {
	open := fresh(t)
	_, n := newProof(t)
	s := open(t)
	steps := []struct {
		do   func(claim) error
		want state
	}{
		{func(c claim) error { return nil }, ""},
		{func(c claim) error { return save(c, record{}, n, statePending) }, statePending},
		{func(c claim) error { return save(c, record{}, n, statePending) }, statePending},
		{func(c claim) error { return c.Drop() }, ""},
		{func(c claim) error { return c.Drop() }, ""},
		{func(c claim) error { return save(c, record{}, n, statePending) }, statePending},
		{func(c claim) error { return save(c, record{}, n, stateRegistered) }, stateRegistered},
		{func(c claim) error { return save(c, record{}, n, stateRegistered) }, stateRegistered},
	}
	for i, step := range steps {
		held := claimed(t, s, n.Address)
		if err := step.do(held); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
		held.Release()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open(t)
		r, err := s.Load(t.Context(), n.Address)
		if step.want == "" && !errors.Is(err, errNoRecord) || step.want != "" && err != nil || r.State != step.want {
			t.Errorf("step %d: got %q, %v, want %q", i, r.State, err, step.want)
		}
		counts, err := s.counts()
		if err != nil || counts[stateRegistered]+counts[statePending] != min(len(step.want), 1) || step.want != "" && counts[step.want] != 1 {
			t.Errorf("step %d: counts: got %v, %v", i, counts, err)
		}
	}
}

// The first attempt's time stays with the record.
func TestSaveKeepsCreated(t *testing.T) { eachStore(t, testSaveKeepsCreated) }

func testSaveKeepsCreated(t *testing.T, fresh func(testing.TB) opener) {
	s := fresh(t)(t)
	_, n := newProof(t)
	held := claimed(t, s, n.Address)
	defer held.Release()
	long := time.Date(2018, 9, 1, 12, 0, 0, 0, time.UTC)
	if err := save(held, record{Created: long}, n, stateRegistered); err != nil {
		t.Fatal(err)
	}
	if r, err := s.Load(t.Context(), n.Address); err != nil || !r.Created.Equal(long) || time.Since(r.Updated) > time.Minute {
		t.Errorf("got %+v, %v", r, err)
	}
}

// A record that is saved again is the later one in each of its fields.
func TestSaveReplaces(t *testing.T) { eachStore(t, testSaveReplaces) }

func testSaveReplaces(t *testing.T, fresh func(testing.TB) opener) {
	s := fresh(t)(t)
	first := testRecord(1, statePending)
	second := testRecord(2, stateRegistered)
	second.Localpart = first.Localpart
	for _, r := range []record{first, second} {
		keepRecord(t, s, r)
		if got, err := s.Load(t.Context(), addressOf(1)); err != nil || got != r {
			t.Errorf("got %+v, %v, want %+v", got, err, r)
		}
	}
}

// An address is held once, by one who waits at a time, and forgotten when nobody has it.
func TestClaim(t *testing.T) { eachStore(t, testClaim) }

func testClaim(t *testing.T, fresh func(testing.TB) opener) {
	s := fresh(t)(t)
	a, b := common.Address{1}, common.Address{2}
	first := claimed(t, s, a)
	claimed(t, s, b).Release() // another address is free

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := s.Claim(ctx, a); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("second claim: got %v", err)
	}
	first.Release()

	holders, most, total := 0, 0, 0
	var mu sync.Mutex
	var all sync.WaitGroup
	for range usersAtMost {
		all.Go(func() {
			for range 4 {
				held := claimed(t, s, a)
				mu.Lock()
				holders++
				total++
				most = max(most, holders)
				mu.Unlock()
				mu.Lock()
				holders--
				mu.Unlock()
				held.Release()
			}
		})
	}
	all.Wait()
	if most != 1 || total != 4*usersAtMost {
		t.Errorf("%d holders at once, %d in all", most, total)
	}
	if left := inHand(t, s); left != 0 {
		t.Errorf("%d addresses are still claimed", left)
	}
}

// Writers at once lose no record.
func TestStoreCountsWriters(t *testing.T) { eachStore(t, testStoreCountsWriters) }

func testStoreCountsWriters(t *testing.T, fresh func(testing.TB) opener) {
	s := fresh(t)(t)
	var all sync.WaitGroup
	for i := range 64 {
		all.Go(func() {
			held := claimed(t, s, common.Address{byte(i)})
			defer held.Release()
			if err := save(held, record{}, node{}, statePending); err != nil {
				t.Error(err)
			}
			if err := save(held, record{}, node{}, stateRegistered); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if counts, err := s.counts(); err != nil || counts[stateRegistered] != 64 || counts[statePending] != 0 {
		t.Errorf("got %v, %v", counts, err)
	}
	for i := range 64 {
		if r, err := s.Load(t.Context(), common.Address{byte(i)}); err != nil || r.State != stateRegistered {
			t.Errorf("record %d: got %q, %v", i, r.State, err)
		}
	}
}

// A listing has every record once, in the order of the addresses, a page at a time.
func TestList(t *testing.T) { eachStore(t, testList) }

func testList(t *testing.T, fresh func(testing.TB) opener) {
	s := fresh(t)(t)
	const count = 2*listPage + 7
	var all sync.WaitGroup
	for part := range 8 {
		all.Go(func() {
			for i := part; i < count; i += 8 {
				keepRecord(t, s, testRecord(i, []state{statePending, stateRegistered}[i%2]))
			}
		})
	}
	all.Wait()
	for of, want := range map[state]int{"": count, statePending: (count + 1) / 2, stateRegistered: count / 2} {
		got, before := 0, ""
		if err := eachRecord(t.Context(), s.List, of, func(r record) error {
			if r.Localpart <= before || of != "" && r.State != of {
				t.Errorf("%q: %s %s behind %s", of, r.Localpart, r.State, before)
			}
			before = r.Localpart
			got++
			return nil
		}); err != nil || got != want {
			t.Errorf("%q: got %d, %v, want %d", of, got, err, want)
		}
	}
	want := testRecord(3, stateRegistered)
	if got, err := s.Load(t.Context(), common.HexToAddress(want.Localpart)); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	if counts, err := s.counts(); err != nil || counts[statePending] != (count+1)/2 || counts[stateRegistered] != count/2 {
		t.Errorf("counts: got %v, %v", counts, err)
	}
	if size, err := s.size(); err != nil || size < count*200 {
		t.Errorf("size: got %d, %v", size, err)
	}
	if err := s.CheckWritable(); err != nil {
		t.Error(err)
	}
	if after, err := s.counts(); err != nil || after[stateRegistered] != count/2 {
		t.Errorf("counts after a check: got %v, %v", after, err)
	}
}

// Pending records are given out one after the other, each once, claimed, young and banned ones not, and from the
// beginning again after the last.
func TestClaimPending(t *testing.T) { eachStore(t, testClaimPending) }

func testClaimPending(t *testing.T, fresh func(testing.TB) opener) {
	s := fresh(t)(t)
	long := time.Now().Add(-time.Hour)
	for i := range 8 {
		r := testRecord(i, statePending)
		switch r.Updated = long; i {
		case 1:
			r.State = stateRegistered
		case 2:
			r.Updated = time.Now()
		case 7:
			r.Updated = time.Now().Add(time.Hour) // by a clock that was set back since
		}
		keepRecord(t, s, r)
	}
	inHand := claimed(t, s, common.HexToAddress(testRecord(3, "").Localpart))
	banned(t, s, testRecord(6, ""))
	for round := range 2 {
		got := map[string]bool{}
		for before := ""; ; {
			held, r, err := s.ClaimPending(t.Context(), span{time.Now().Add(-time.Minute), time.Now().Add(time.Minute)})
			if errors.Is(err, errNoRecord) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if r.Localpart <= before || r.State != statePending {
				t.Errorf("round %d: %+v behind %s", round, r, before)
			}
			got[r.Localpart], before = true, r.Localpart
			held.Release()
		}
		if len(got) != 4 || !got[testRecord(7, "").Localpart] || got[testRecord(3, "").Localpart] || got[testRecord(6, "").Localpart] {
			t.Errorf("round %d: got %v", round, got)
		}
	}
	inHand.Release()
}

// The file is its owner's alone, and holds the display name but not the password.
func TestStoreFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	_, n := newProof(t)
	s, err := openBoltStore(dir, testServerName)
	if err != nil {
		t.Fatal(err)
	}
	held := claimed(t, s, n.Address)
	if err := save(held, record{}, n, stateRegistered); err != nil {
		t.Fatal(err)
	}
	held.Release()
	s.Close()

	for path, want := range map[string]os.FileMode{dir: 0o700 | os.ModeDir, filepath.Join(dir, storeFile): 0o600} {
		if stat, err := os.Stat(path); err != nil || stat.Mode() != want {
			t.Errorf("%s: got %v, %v, want %v", path, stat.Mode(), err, want)
		}
	}
	content, err := os.ReadFile(filepath.Join(dir, storeFile))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(content, []byte(n.DisplayName)) || bytes.Contains(content, []byte(n.Password[:40])) {
		t.Error("the file should hold the display name and not the password")
	}
}

// addressOf is the address of a test's record.
func addressOf(i int) common.Address { return common.HexToAddress(testRecord(i, "").Localpart) }

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

// Writers in no order, some of them with changes that cannot be made, leave the store as a model has it.
func TestCommitsCount(t *testing.T) {
	dir := t.TempDir()
	s, err := openBoltStore(dir, testServerName)
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
	if s, err = openBoltStore(dir, testServerName); err != nil {
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

// What a registration leaves is in the file before the homeserver is asked to create the account, and before the node is
// answered, however long writing takes. That what is in the file is on disk as well is
// boltfile's to test.
func TestOnDiskBeforeAndAfter(t *testing.T) {
	for _, api := range apis {
		t.Run(api.name, func(t *testing.T) {
			d := newGateway(t, api.path)
			d.server.registrar.store = slowStore(d.bolt())
			proof, n := newProof(t)
			seen := make(map[string]state)
			rightly := d.homeserver.Right(api.creates)
			d.homeserver.Fail(api.creates, func(w http.ResponseWriter, r *http.Request) {
				seen["creation"] = stateInFile(t, d.bolt().db.Bolt.Path(), n.Address)
				rightly(w, r)
			})
			body, err := json.Marshal(proof)
			if err != nil {
				t.Fatal(err)
			}
			w := &watchedAnswer{ResponseRecorder: httptest.NewRecorder(), begun: func() { seen["answer"] = stateInFile(t, d.bolt().db.Bolt.Path(), n.Address) }}
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

// stateInFile reads a record from a copy of the file, as the next start after a crash finds it.
func stateInFile(t *testing.T, path string, a common.Address) state {
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

// What is decoded is a whole record: written again it is read as the same.
func FuzzDecodeRecord(f *testing.F) {
	for i, s := range []state{statePending, stateRegistered, "gone", ""} {
		value, err := json.Marshal(testRecord(i, s))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(value)
	}
	f.Add([]byte(`null`))
	f.Add([]byte(`{"state":"pending","created":"2026-02-30T24:00:00+99:99"}`))
	f.Add([]byte(`{"state":"pending","user_id":"a\u0062"}`))
	f.Add([]byte(`{"state":"pending","localpart":"` + "\xe9" + `"}`))
	f.Add([]byte(`{"state":"pending","created":"2026-11-27T15:00:00+01:00","created":"2026-11-27T15:00:00Z"}`))
	f.Fuzz(func(t *testing.T, value []byte) {
		if quick, isPlain := plainRecord(value); isPlain {
			var whole record
			if err := json.Unmarshal(value, &whole); err != nil || !reflect.DeepEqual(quick, whole) {
				t.Errorf("got %+v, and encoding/json has %+v, %v", quick, whole, err)
			}
		}
		r, err := decodeRecord(value)
		if err != nil {
			return
		}
		if r.State != statePending && r.State != stateRegistered {
			t.Errorf("a record of state %q is taken", r.State)
		}
		again, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		second, err := decodeRecord(again)
		if err != nil || !second.Created.Equal(r.Created) || !second.Updated.Equal(r.Updated) {
			t.Errorf("got %+v, %v, want %+v", second, err, r)
		}
		second.Created, second.Updated = r.Created, r.Updated
		if second != r {
			t.Errorf("got %+v, want %+v", second, r)
		}
	})
}

// What a claim wrote is there although the process was killed right after.
func TestStoreKilled(t *testing.T) {
	kinds := map[string]func(*testing.T) string{
		"BoltDB":     func(t *testing.T) string { return t.TempDir() },
		"PostgreSQL": func(t *testing.T) string { return newDatabase(t) },
	}
	for name, place := range kinds {
		t.Run(name, func(t *testing.T) {
			dataPath := place(t)
			for range 3 {
				path, err := exec.LookPath(storeWriter)
				if err != nil {
					t.Fatal(err)
				}
				cmd := exec.Command(path, dataPath)
				cmd.Stderr = os.Stderr
				out, err := cmd.StdoutPipe()
				if err != nil {
					t.Fatal(err)
				}
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				said := new(strings.Builder)
				for piece := make([]byte, 4096); strings.Count(said.String(), "\n") < 30; {
					n, err := out.Read(piece)
					if err != nil {
						t.Fatalf("the writer ended: %v", err)
					}
					said.Write(piece[:n])
				}
				cmd.Process.Kill()
				cmd.Wait()
				s := opened(t, dataPath)
				lines := strings.Split(said.String(), "\n")
				for _, line := range lines[:len(lines)-1] {
					localpart, want, _ := strings.Cut(line, " ")
					if r, err := s.Load(t.Context(), common.HexToAddress(localpart)); err != nil || r.State != stateRegistered && string(r.State) != want {
						t.Errorf("%s: got %q, %v, want %s or later", localpart, r.State, err, want)
					}
				}
				found := storeCounts{}
				if err := eachRecord(t.Context(), s.List, "", func(r record) error { found[r.State]++; return nil }); err != nil {
					t.Fatal(err)
				}
				if counts, err := s.counts(); err != nil || counts[statePending] != found[statePending] || counts[stateRegistered] != found[stateRegistered] {
					t.Errorf("counts: got %v, %v, want %v", counts, err, found)
				}
				s.Close()
			}
		})
	}
}

// storeWriter is a program that registers in the store of its argument, and says each thing that is done.
const storeWriter = "store-writer"

func writeStore() {
	s, err := openStore(context.Background(), os.Args[1], testServerName)
	for i := os.Getpid() * 1000; err == nil; i++ {
		r := testRecord(i, "")
		held, claimErr := s.Claim(context.Background(), common.HexToAddress(r.Localpart))
		if err = claimErr; err != nil {
			break
		}
		for _, r.State = range []state{statePending, stateRegistered} {
			if err = held.Save(r); err == nil {
				fmt.Println(r.Localpart, r.State)
			}
		}
		held.Release()
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
