// commit_test.go owns the tests of commits in groups: one write that fails does not fail the others.

package boltfile

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

var testBucket = []byte("bucket")

// anything fits.
func anything(*bolt.Tx) error { return nil }

func openTest(t testing.TB, path string) *File {
	t.Helper()
	f, err := Open(path, anything)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func newTest(t testing.TB) *File {
	t.Helper()
	return openTest(t, filepath.Join(t.TempDir(), "file.db"))
}

// key is the i-th in the order of a bucket.
func key(i int) []byte { return fmt.Appendf(nil, "key %06d", i) }

// value is one that is there once in a file.
func value(i int) []byte {
	return fmt.Appendf(nil, "value %06d %s", i, bytes.Repeat([]byte("ab"), 100))
}

// put returns a change that sets a key.
func put(i int) func(*bolt.Tx) error {
	return func(tx *bolt.Tx) error {
		bucket, err := tx.CreateBucketIfNotExists(testBucket)
		if err != nil {
			return err
		}
		return bucket.Put(key(i), value(i))
	}
}

func get(f *File, i int) (found []byte, err error) {
	err = f.View(func(tx *bolt.Tx) error {
		if bucket := tx.Bucket(testBucket); bucket != nil {
			found = bytes.Clone(bucket.Get(key(i)))
		}
		return nil
	})
	return found, err
}

// fill sets so many keys in one commit.
func fill(t testing.TB, f *File, count int) {
	t.Helper()
	if err := f.Update(func(tx *bolt.Tx) error {
		for i := range count {
			if err := put(i)(tx); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// checkKeys verifies the file, which has to hold these keys and no others.
func checkKeys(t *testing.T, f *File, want func(i int) bool, count int) {
	t.Helper()
	if err := f.Verify(func(tx *bolt.Tx) error {
		found := 0
		for i := range count {
			if got := tx.Bucket(testBucket).Get(key(i)); want(i) && !bytes.Equal(got, value(i)) || !want(i) && got != nil {
				t.Errorf("key %d: got %q", i, got)
			}
			if want(i) {
				found++
			}
		}
		if all := tx.Bucket(testBucket).Stats().KeyN; all != found {
			t.Errorf("there are %d keys, want %d", all, found)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// A heldFile is a file whose next commit waits, so that a test decides who is in the group after it.
type heldFile struct {
	*File
	t  *testing.T
	tx *bolt.Tx
}

func holdCommits(t *testing.T, f *File) *heldFile {
	t.Helper()
	tx, err := f.db.Begin(true)
	if err != nil {
		t.Fatal(err)
	}
	return &heldFile{f, t, tx}
}

// begin starts a writer and returns when its change is queued, or it is the first and waits for the file.
func (h *heldFile) begin(all *sync.WaitGroup, write func()) {
	h.t.Helper()
	queued := func() int {
		h.group.mu.Lock()
		defer h.group.mu.Unlock()
		if !h.group.committing {
			return 0
		}
		return 1 + len(h.group.queue) // who commits has taken its own out
	}
	want := queued() + 1
	all.Go(write)
	for deadline := time.Now().Add(5 * time.Minute); queued() != want; time.Sleep(100 * time.Microsecond) {
		if time.Now().After(deadline) {
			h.t.Fatal("the writer was not queued")
		}
	}
}

// release lets the writers go on, and returns in how many commits they ended.
func (h *heldFile) release(all *sync.WaitGroup) (commits int) {
	h.t.Helper()
	before := lastCommit(h.t, h.File)
	if err := h.tx.Rollback(); err != nil {
		h.t.Fatal(err)
	}
	all.Wait()
	return lastCommit(h.t, h.File) - before
}

func lastCommit(t *testing.T, f *File) (id int) {
	t.Helper()
	if err := f.db.View(func(tx *bolt.Tx) error { id = tx.ID(); return nil }); err != nil {
		t.Fatal(err)
	}
	return id
}

func everyKey(int) bool { return true }

// Writers that come while a commit waits for the disk share the next one, and each finds its own change there.
func TestCommitTogether(t *testing.T) {
	f := newTest(t)
	h := holdCommits(t, f)
	var all sync.WaitGroup
	for i := range 64 {
		h.begin(&all, func() {
			if err := f.Update(put(i)); err != nil {
				t.Error(err)
			}
			if got, err := get(f, i); err != nil || !bytes.Equal(got, value(i)) {
				t.Errorf("key %d: got %q, %v", i, got, err)
			}
		})
	}
	if commits := h.release(&all); commits != 2 {
		t.Errorf("%d commits, want the first writer's and one for all others", commits)
	}
	checkKeys(t, f, everyKey, 64)
}

// A change that cannot be made costs nobody else, and leaves nothing of itself.
func TestCommitWithoutTheBad(t *testing.T) {
	const count = 64
	errBad := errors.New("bad")
	isBad := func(i int) bool { return i%7 == 3 || i == count-1 }
	f := newTest(t)
	h := holdCommits(t, f)
	var all sync.WaitGroup
	for i := range count {
		h.begin(&all, func() {
			err := f.Update(func(tx *bolt.Tx) error {
				if err := put(i)(tx); err != nil || !isBad(i) {
					return err
				}
				return errBad // once something of it is there
			})
			if isBad(i) && err != errBad || !isBad(i) && err != nil {
				t.Errorf("key %d: got %v", i, err)
			}
		})
	}
	h.release(&all)
	checkKeys(t, f, func(i int) bool { return !isBad(i) }, count)
}

// A damaged page is the misfortune of those whose keys are in it. bbolt panics over it when their changes are made.
func TestCommitAroundDamage(t *testing.T) {
	const at, around = 450, 40
	f := newTest(t)
	fill(t, f, 1000)
	path, page := f.path, os.Getpagesize()
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Count(content, value(at)) != 1 {
		t.Fatal("the value is in the file more than once")
	}
	leaf := bytes.Index(content, value(at)) / page * page
	copy(content[leaf:leaf+page], bytes.Repeat([]byte{0xA5}, page))
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	f = openTest(t, path)
	errs := make([]error, 2*around)
	h := holdCommits(t, f)
	var all sync.WaitGroup
	for k := range errs {
		h.begin(&all, func() { errs[k] = f.Update(put(at - around + k)) })
	}
	h.release(&all)
	lost := 0
	for k, written := range errs {
		_, read := get(f, at-around+k)
		if read != nil {
			lost++
		}
		if !errors.Is(written, read) {
			t.Errorf("key %d: written: %v, read: %v", at-around+k, written, read)
		}
	}
	if lost == 0 || lost > around/2 {
		t.Errorf("%d of %d are in the damaged page", lost, len(errs))
	}
}

// When there is no room, each writer is told so; when there is room again, the file works again.
func TestCommitFails(t *testing.T) {
	f := newTest(t)
	fill(t, f, 1)
	size, err := f.Size()
	if err != nil {
		t.Fatal(err)
	}
	f.db.MaxSize = int(size)
	h := holdCommits(t, f)
	var all sync.WaitGroup
	for i := 1; i < 300; i++ {
		h.begin(&all, func() {
			if err := f.Update(put(i)); i > 1 && err == nil { // the first has a commit of its own, and room
				t.Error("kept, without room")
			}
		})
	}
	h.release(&all)
	f.db.MaxSize = 0
	for i := range 300 {
		if err := f.Update(put(i)); err != nil {
			t.Fatal(err)
		}
	}
	checkKeys(t, f, everyKey, 300)
}

// Closing waits for changes that are queued; later ones are refused.
func TestCloseWaits(t *testing.T) {
	f := newTest(t)
	h := holdCommits(t, f)
	var all sync.WaitGroup
	for i := range 32 {
		h.begin(&all, func() {
			if err := f.Update(put(i)); err != nil {
				t.Error(err)
			}
		})
	}
	closed := make(chan error, 1)
	go func() { closed <- f.Close() }()
	for deadline := time.Now().Add(5 * time.Minute); f.writers.TryRLock(); time.Sleep(100 * time.Microsecond) {
		f.writers.RUnlock() // it waits for the writers as soon as nobody else gets in
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
	if err := f.Update(put(99)); !errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
		t.Errorf("a later writer: got %v", err)
	}
	checkKeys(t, openTest(t, f.path), everyKey, 32)
}

// bbolt is not told that it need not wait for the disk.
func TestCommitWaitsForDisk(t *testing.T) {
	if f := newTest(t); f.db.NoSync || f.db.NoGrowSync || f.db.NoFreelistSync {
		t.Error("a commit is over before it is on disk")
	}
}
