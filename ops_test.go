// ops_test.go owns the tests of the operator's API: lists and backups beside registrations, and --ops-listen.

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/daemon"
	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/log"
	bolt "go.etcd.io/bbolt"
)

// testRecord is the i-th record of a store that is filled by a test.
func testRecord(i int, s state) record {
	var a common.Address
	for j := range 8 { // spread, as addresses are
		a[j] = byte(uint64(i) * 0x9E3779B97F4A7C15 >> (56 - 8*j))
	}
	localpart := "0x" + common.Bytes2Hex(a.Bytes())
	when := time.Date(2018, 9, 1, 12, 0, 0, 0, time.UTC).Add(time.Duration(i) * time.Second)
	return record{Localpart: localpart, UserID: names.UserID(localpart, testServerName), DisplayName: localpart[2:6] + "-" + strings.Repeat("ab", signatureDigits/2), State: s, Created: when, Updated: when}
}

// fillStore puts so many records into the store as fast as that goes, one in ten pending.
func fillStore(t testing.TB, s *boltStore, count int) {
	t.Helper()
	const batch = 10_000
	for from := 0; from < count; from += batch {
		if err := s.db.Bolt.Update(func(tx *bolt.Tx) error {
			for i := from; i < min(from+batch, count); i++ {
				r := testRecord(i, stateRegistered)
				if i%10 == 9 {
					r.State = statePending
				}
				bucket, err := tx.CreateBucketIfNotExists([]byte(buckets[r.State]))
				if err != nil {
					return err
				}
				value, _ := json.Marshal(r)
				if err := bucket.Put(common.HexToAddress(r.Localpart).Bytes(), value); err != nil {
					return err
				}
				if err := addToCount(tx, buckets[r.State], 1); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// keepRecord writes a record as a registration does.
func keepRecord(t testing.TB, s store, r record) {
	t.Helper()
	held := claimed(t, s, common.HexToAddress(r.Localpart))
	defer held.Release()
	if err := held.Save(r); err != nil {
		t.Error(err)
	}
}

// awayService is a service whose homeserver does not answer.
func awayService(dir string) service {
	return serviceOf(config.Config{DataPath: dir, ServerName: testServerName, Origin: "http://127.0.0.1:1", Way: homeserver.CreateUser, ASToken: testASToken})
}

// startTestOps serves the operator of a store in a directory of its own.
func startTestOps(t testing.TB) (dir string, s *boltStore) {
	t.Helper()
	captureLog(t)
	dir = t.TempDir()
	s, err := openBoltStore(dir, testServerName)
	if err != nil {
		t.Fatal(err)
	}
	stop, err := startOps(t.Context(), awayService(dir), s, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(); s.Close() })
	return dir, s
}

// Every record is listed once, in order, whatever is registered meanwhile.
func TestListWhileWriting(t *testing.T) {
	_, s := startTestOps(t)
	const count = 3*listPage + 7
	fillStore(t, s, count)
	var all sync.WaitGroup
	all.Go(func() { // every pending one becomes registered while it is listed
		for i := 9; i < count; i += 10 {
			keepRecord(t, s, testRecord(i, stateRegistered))
		}
	})
	listed, last := 0, ""
	if err := eachRecord(t.Context(), s.List, "", func(r record) error {
		if r.Localpart <= last {
			t.Errorf("%s comes behind %s", r.Localpart, last)
		}
		last = r.Localpart
		listed++
		time.Sleep(time.Duration(listed%100/99) * time.Millisecond)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	all.Wait()
	if listed != count {
		t.Errorf("listed %d, want %d", listed, count)
	}
	for of, want := range map[state]int{statePending: 0, stateRegistered: count} {
		got := 0
		if err := eachRecord(t.Context(), s.List, of, func(record) error { got++; return nil }); err != nil || got != want {
			t.Errorf("%s: got %d, %v, want %d", of, got, err, want)
		}
	}
}

// What the socket answers: a list, of a state too, without what a node proves itself with; and how much there is.
func TestOpsAnswers(t *testing.T) {
	dir, s := startTestOps(t)
	fillStore(t, s, 20)
	for query, want := range map[string]int{"": 20, "registered": 18, "pending": 2} {
		got := 0
		err := (selection{of: state(query)}).fromWhereItIs(t.Context(), dir, func(u listedUser) error {
			got++
			if !names.IsLocalpart(u.Localpart) || u.UserID != names.UserID(u.Localpart, testServerName) || u.Created.IsZero() || u.Updated.IsZero() || query != "" && u.State != state(query) {
				t.Errorf("got %+v", u)
			}
			return nil
		})
		if err != nil || got != want {
			t.Errorf("%q: got %d, %v, want %d", query, got, err, want)
		}
	}
	res, err := askDaemon(t.Context(), dir, usersPath, nil)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(res.Body)
	res.Body.Close()
	if bytes.Contains(body, []byte("abab")) || bytes.Contains(body, []byte("displayname")) {
		t.Error("the list holds display names")
	}
	if _, err := askDaemon(t.Context(), dir, usersPath, map[string][]string{"state": {"lost"}}); err == nil || !strings.Contains(err.Error(), "400") {
		t.Errorf("another state: got %v", err)
	}
	res, err = askDaemon(t.Context(), dir, statusPath, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var got daemonStatus
	if err := json.NewDecoder(res.Body).Decode(&got); err != nil || got.Records[stateRegistered] != 18 || got.Records[statePending] != 2 || got.StoreBytes == 0 || got.ServerName != testServerName || got.Version == "" {
		t.Errorf("got %+v, %v", got, err)
	}
}

// A pagingStore lists no page but the first until it may.
type pagingStore struct {
	store
	may chan struct{}
}

func (s pagingStore) List(ctx context.Context, of state, after string) ([]record, string, error) {
	if after != "" {
		<-s.may
	}
	return s.store.List(ctx, of, after)
}

// A list whose first line is known last begins its answer before: no answer at all is that of a daemon that hangs.
func TestListAnswersAtOnce(t *testing.T) {
	captureLog(t)
	dir := t.TempDir()
	s := pagingStore{opened(t, dir), make(chan struct{})}
	fillStore(t, s.store.(*boltStore), listPage+1)
	stop, err := startOps(t.Context(), awayService(dir), s, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	for name, asked := range map[string]selection{"the newest": {newest: true, limit: 1}, "since tomorrow": {since: time.Now().Add(24 * time.Hour)}} {
		res, err := askDaemon(t.Context(), dir, usersPath, asked.query())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		s.may <- struct{}{}                 // the second page
		go func() { s.may <- struct{}{} }() // the end
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || strings.Count(string(body), "\n") != asked.limit {
			t.Errorf("%s: got %q, %v", name, body, err)
		}
	}
}

// A list that breaks off in the middle is not taken for the whole.
func TestListBreaksOff(t *testing.T) {
	dir, s := startTestOps(t)
	fillStore(t, s, 20*listPage)
	last := testRecord(0, stateRegistered)
	for i := range 20 * listPage {
		if r := testRecord(i, stateRegistered); i%10 != 9 && r.Localpart > last.Localpart {
			last = r
		}
	}
	if err := s.db.Bolt.Update(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte(buckets[stateRegistered])).Put(common.HexToAddress(last.Localpart).Bytes(), []byte("{"))
	}); err != nil {
		t.Fatal(err)
	}
	res, err := askDaemon(t.Context(), dir, usersPath, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(res.Body); err == nil {
		t.Error("the answer is a whole one")
	}
	res.Body.Close()
	got := 0
	err = (selection{of: ""}).fromWhereItIs(t.Context(), dir, func(listedUser) error { got++; return nil })
	if err == nil || !strings.Contains(err.Error(), "the list broke off") || got == 0 {
		t.Errorf("got %d users and %v", got, err)
	}
}

// A backup that sixteen writers write beside is whole, and has all that was written before it was asked for. Its
// reader takes its time, which holds up nobody.
func TestBackupWhileWriting(t *testing.T) {
	dir, s := startTestOps(t)
	const before = 2000
	fillStore(t, s, before)
	ctx, stop := context.WithCancel(t.Context())
	var written atomic.Int64
	var all sync.WaitGroup
	for w := range 16 {
		all.Go(func() {
			for i := before + w; ctx.Err() == nil; i += 16 {
				keepRecord(t, s, testRecord(i, statePending))
				keepRecord(t, s, testRecord(i, stateRegistered))
				written.Add(1)
			}
		})
	}
	for round := range 3 {
		atLeast := int(written.Load())
		res, err := askDaemon(t.Context(), dir, backupPath, nil)
		if err != nil {
			t.Fatal(err)
		}
		first := make([]byte, 4096)
		if _, err := io.ReadFull(res.Body, first); err != nil {
			t.Fatal(err)
		}
		paused := written.Load()
		for deadline := time.Now().Add(patience); written.Load() < paused+200; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("a reader that pauses holds up the writers")
			}
		}
		rest, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "copy.db")
		if err := os.WriteFile(path, append(first, rest...), 0o600); err != nil {
			t.Fatal(err)
		}
		counts, err := verifyCopy(t.Context(), path)
		if err != nil || counts[statePending]+counts[stateRegistered] < before+atLeast {
			t.Errorf("round %d: got %v, %v, want at least %d", round, counts, err, before+atLeast)
		}
		restored := filepath.Join(t.TempDir(), "restored")
		if _, got, err := restoreStore(t.Context(), path, restored, false); err != nil || fmt.Sprint(got) != fmt.Sprint(counts) {
			t.Errorf("round %d: restored %v, %v, want %v", round, got, err, counts)
		}
	}
	stop()
	all.Wait()
	if left, _ := filepath.Glob(filepath.Join(dir, ".backup-*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// The operator's own listener failing is logged and is no end of anything; what it cannot do at start is one line.
func TestOpsListenerFails(t *testing.T) {
	captureLog(t)
	lines := make(lineWriter, 100)
	log.SetDefault(log.NewLogger(log.JSONHandler(lines)))
	dir := t.TempDir()
	s := openTestStore(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := config.Config{DataPath: dir, Way: homeserver.CreateUser, OpsListen: listener.Addr().String()}
	stop, err := startOps(t.Context(), measuredOf(t, c), s, listener)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	if _, err := listenOps(config.Config{OpsListen: listener.Addr().String()}); err == nil || !strings.Contains(err.Error(), "--ops-listen") || strings.Contains(err.Error(), "\n") {
		t.Errorf("an address in use: got %v", err)
	}
	res, err := http.Get("http://" + listener.Addr().String() + "/livez")
	if err != nil || res.StatusCode != 200 {
		t.Fatalf("got %v", err)
	}
	res.Body.Close()
	listener.Close()
	for deadline := time.After(patience); ; {
		select {
		case line := <-lines:
			if !strings.Contains(line, "The operator is no longer served") {
				continue
			}
		case <-deadline:
			t.Fatal("nothing was logged")
		}
		break
	}
	if res, err := askDaemon(t.Context(), dir, statusPath, nil); err != nil {
		t.Errorf("the socket: %v", err)
	} else {
		res.Body.Close()
	}
}

// Connections to --ops-listen that are kept open make room for new ones, and take no more files than nodes leave. Without the limit
// some thousand of them used up all files, and nodes got no connection.
func TestOpsConnectionsAreBounded(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := config.Config{DataPath: t.TempDir(), Way: homeserver.CreateUser, OpsListen: listener.Addr().String()}
	stop, err := startOps(t.Context(), service{Config: c, metrics: newMetrics(c)}, openTestStore(t), listener)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	const asking = "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
	peers := make([]*peer, opsConnections+1)
	for i := range peers {
		peers[i] = newPeer(t, c.OpsListen)
		peers[i].asks(asking, 200)
	}
	closed := 0 // the first, or one that the server saw idle before it
	for _, p := range peers {
		io.WriteString(p, asking)
		res, err := http.ReadResponse(p.in, nil)
		if err != nil {
			closed++
			continue
		}
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
	}
	if closed != 1 {
		t.Errorf("%d of %d connections were closed, want 1", closed, len(peers))
	}
}

// A lineWriter passes on what is logged.
type lineWriter chan string

func (w lineWriter) Write(p []byte) (int, error) {
	select {
	case w <- string(p):
	default:
	}
	return len(p), nil
}

// A list of 100,000 users while nodes register: what the whole costs in anonymous memory is logged.
func BenchmarkUsersStream(b *testing.B) {
	dir, s := startTestOps(b)
	const count = 100_000
	fillStore(b, s, count)
	ctx, stop := context.WithCancel(b.Context())
	var all sync.WaitGroup
	var written atomic.Int64
	all.Go(func() {
		for i := count; ctx.Err() == nil; i++ {
			keepRecord(b, s, testRecord(i, stateRegistered))
			written.Add(1)
		}
	})
	before, most := ownMemory(b), int64(0)
	b.ReportAllocs()
	for b.Loop() {
		res, err := askDaemon(b.Context(), dir, usersPath, nil)
		if err != nil {
			b.Fatal(err)
		}
		lines := bufio.NewScanner(res.Body)
		got := 0
		for lines.Scan() {
			if got++; got%10_000 == 0 {
				most = max(most, ownMemory(b))
			}
		}
		res.Body.Close()
		if got < count {
			b.Fatalf("%d lines", got)
		}
	}
	b.StopTimer()
	stop()
	all.Wait()
	b.ReportMetric(float64(most-before)/(1<<20), "MiB-anon-more")
	b.ReportMetric(float64(written.Load())/b.Elapsed().Seconds(), "writes/s")
}

// ownMemory is this process's anonymous memory in bytes.
func ownMemory(b *testing.B) int64 {
	b.Helper()
	bytes, err := daemon.AnonymousMemory(os.Getpid())
	need.All(b, err)
	return bytes
}

// A copy ends with the context, so that it does not hold up the store's closing.
func TestBackupEndsWithContext(t *testing.T) {
	s := openTestStore(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Backup(ctx, io.Discard); err == nil || !strings.Contains(err.Error(), "context canceled") {
		t.Errorf("got %v", err)
	}
}
