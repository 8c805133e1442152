// cmd_backup_test.go owns the tests of backup and restore: a copy is restored whole or not at all, and never over a newer store.

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/files"
	bolt "go.etcd.io/bbolt"
)

// makeCopy makes a store with so many records, which a test takes for a backup.
func makeCopy(t testing.TB, count int) (path string) {
	t.Helper()
	dir := t.TempDir()
	s, err := openBoltStore(dir, testServerName)
	if err != nil {
		t.Fatal(err)
	}
	fillStore(t, s, count)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, storeFile)
}

// countsIn opens the store in the directory as the daemon does.
func countsIn(t testing.TB, dir string) storeCounts {
	t.Helper()
	s, err := openBoltStore(dir, testServerName)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	counts, err := s.counts()
	if err != nil {
		t.Fatal(err)
	}
	return counts
}

func TestRestore(t *testing.T) {
	backup := makeCopy(t, 100)
	for name, test := range map[string]struct {
		there    int // records of the store that is there; -1 for none
		force    bool
		wantKept bool
	}{
		"no store":      {there: -1},
		"empty store":   {there: 0, wantKept: true},
		"forced":        {there: 30, force: true, wantKept: true},
		"forced, empty": {there: 0, force: true, wantKept: true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "new")
			if test.there >= 0 {
				dir = filepath.Dir(makeCopy(t, test.there))
			}
			kept, counts, err := restoreStore(t.Context(), backup, dir, test.force)
			if err != nil || counts[stateRegistered] != 90 || counts[statePending] != 10 || (kept != "") != test.wantKept {
				t.Fatalf("got %q, %v, %v", kept, counts, err)
			}
			if got := countsIn(t, dir); got[stateRegistered] != 90 {
				t.Errorf("the store has %v", got)
			}
			if stat, err := os.Stat(filepath.Join(dir, storeFile)); err != nil || stat.Mode() != 0o600 {
				t.Errorf("got %v, %v", stat.Mode(), err)
			}
			if test.wantKept {
				old, err := readBoltStore(kept)
				if err != nil {
					t.Fatal(err)
				}
				defer old.Close()
				if counts, err := old.counts(); err != nil || counts[stateRegistered]+counts[statePending] != test.there {
					t.Errorf("kept: %v, %v", counts, err)
				}
			}
			if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// What is refused leaves every file as it was.
func TestRestoreRefuses(t *testing.T) {
	good := makeCopy(t, 100)
	whole, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	changed := func(change func(tx *bolt.Tx) error) string {
		path := filepath.Join(t.TempDir(), "copy.db")
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
		withBolt(t, path, change)
		return path
	}
	content := func(content []byte) string {
		path := filepath.Join(t.TempDir(), "copy.db")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	registered := []byte(buckets[stateRegistered])
	firstKey := func(tx *bolt.Tx) []byte {
		return bytes.Clone(walkFrom(tx.Bucket(registered), nil).key)
	}
	program2018 := filepath.Join(t.TempDir(), "2018.db")
	make2018(t, program2018)
	pipe := filepath.Join(t.TempDir(), "pipe")
	syscall.Mkfifo(pipe, 0o600)
	tests := []struct{ name, file, want string }{
		{"no file", filepath.Join(t.TempDir(), "nothing"), "no such file"},
		{"empty", content(nil), "there is no store yet"},
		{"a pipe", pipe, "not a regular file"},
		{"text", content([]byte(strings.Repeat("diary", 5000))), "cannot be restored: it is not a store of matrix-regservice, or it is damaged"},
		{"cut short", content(whole[:len(whole)/2]), "it is cut short"},
		{"the 2018 program's", program2018, "store of the 2018 program"},
		{"another program's", changed(func(tx *bolt.Tx) error { return tx.DeleteBucket([]byte(metaBucket)) }), "another program"},
		{"a later format", changed(func(tx *bolt.Tx) error { return tx.Bucket([]byte(metaBucket)).Put([]byte(formatKey), []byte("9")) }), "it has format 9"},
		{"a record that is none", changed(func(tx *bolt.Tx) error { return tx.Bucket(registered).Put(firstKey(tx), []byte("{")) }), "decode the record"},
		{"a record of another address", changed(func(tx *bolt.Tx) error {
			return tx.Bucket(registered).Put(firstKey(tx), []byte(`{"localpart":"0x6d12d262a2fe4fd9c714ad3521acbea52adb4aaf","state":"registered"}`))
		}), "is not in its place"},
		{"a record of another state", changed(func(tx *bolt.Tx) error {
			key := firstKey(tx)
			value := bytes.Replace(tx.Bucket(registered).Get(key), []byte(`"registered"`), []byte(`"pending"`), 1)
			return tx.Bucket(registered).Put(key, value)
		}), "is not in its place"},
		{"a record whose localpart has another form", changed(func(tx *bolt.Tx) error {
			w := walkFrom(tx.Bucket(registered), firstKey(tx)) // the first has only zeros
			key := bytes.Clone(w.key)
			return tx.Bucket(registered).Put(key, fmt.Appendf(nil, `{"localpart":"0x%X","state":"registered"}`, key))
		}), "is not in its place"},
		{"a record that is lost", changed(func(tx *bolt.Tx) error { return tx.Bucket(registered).Delete(firstKey(tx)) }), "it has 89 registered records and says that it has 90"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			store := makeCopy(t, 30)
			dir := filepath.Dir(store)
			before, _ := os.ReadFile(store)
			if _, _, err := restoreStore(t.Context(), test.file, dir, true); err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want one line with %q", err, test.want)
			}
			checkUntouched(t, store, before)
		})
	}
	t.Run("a store with records", func(t *testing.T) {
		store := makeCopy(t, 30)
		before, _ := os.ReadFile(store)
		if _, _, err := restoreStore(t.Context(), good, filepath.Dir(store), false); err == nil || !strings.Contains(err.Error(), "has records, 27 registered, 3 pending: use --force") {
			t.Errorf("got %v", err)
		}
		checkUntouched(t, store, before)
	})
	t.Run("an earlier .bak", func(t *testing.T) {
		store := makeCopy(t, 30)
		before, _ := os.ReadFile(store)
		os.WriteFile(store+files.BackupTail, []byte("older"), 0o600)
		if _, _, err := restoreStore(t.Context(), good, filepath.Dir(store), true); err == nil || !strings.Contains(err.Error(), "exists already: move it away first") {
			t.Errorf("got %v", err)
		}
		os.Remove(store + files.BackupTail)
		checkUntouched(t, store, before)
	})
	t.Run("a daemon", func(t *testing.T) {
		dir, s := startTestOps(t)
		fillStore(t, s, 30)
		if _, _, err := restoreStore(t.Context(), good, dir, true); err == nil || !strings.Contains(err.Error(), "stop it first") {
			t.Errorf("got %v", err)
		}
		os.Remove(filepath.Join(dir, socketFile)) // and one that cannot be asked has the lock
		if _, _, err := restoreStore(t.Context(), good, dir, true); err == nil || !strings.Contains(err.Error(), "stop it first") {
			t.Errorf("without a socket: got %v", err)
		}
		if counts, err := s.counts(); err != nil || counts[stateRegistered] != 27 {
			t.Errorf("got %v, %v", counts, err)
		}
		if left, _ := filepath.Glob(filepath.Join(dir, "*"+files.BackupTail)); len(left) != 0 {
			t.Errorf("left behind: %v", left)
		}
	})
}

func checkUntouched(t *testing.T, store string, before []byte) {
	t.Helper()
	if after, _ := os.ReadFile(store); !bytes.Equal(before, after) {
		t.Error("the store was changed")
	}
	if entries, _ := os.ReadDir(filepath.Dir(store)); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
}

// Damage anywhere in a copy is refused or harmless: what is restored has every record.
func TestRestoreDamaged(t *testing.T) {
	whole, err := os.ReadFile(makeCopy(t, 500))
	if err != nil {
		t.Fatal(err)
	}
	refused, tried, page := 0, 0, os.Getpagesize()
	step := page / 2
	if !need.Long() {
		step *= 5 // beginnings and middles of pages in turn
	}
	for at := 0; at < len(whole); at += step {
		tried++
		broken := bytes.Clone(whole)
		for i := at; i < at+16; i++ {
			broken[i] ^= 0xA5
		}
		path := filepath.Join(t.TempDir(), "copy.db")
		if err := os.WriteFile(path, broken, 0o600); err != nil {
			t.Fatal(err)
		}
		counts, err := verifyCopy(t.Context(), path)
		if err != nil {
			refused++
		} else if counts[stateRegistered] != 450 || counts[statePending] != 50 {
			t.Errorf("byte %d: taken, with %v", at, counts)
		}
	}
	t.Logf("%d of %d refused", refused, tried)
	if refused < tried/4 {
		t.Error("damage is not noticed")
	}
}

// Wherever a restore is interrupted, the store's name has a whole store, the old one has a name, and to restore again
// succeeds. Interrupted is between the steps on the directory: each is one system call.
func TestRestoreInterrupted(t *testing.T) {
	backup := makeCopy(t, 100)
	store := makeCopy(t, 30)
	if err := files.Keep(store, store+files.BackupTail); err != nil { // the first step was taken, the second not
		t.Fatal(err)
	}
	dir := filepath.Dir(store)
	if got := countsIn(t, dir); got[stateRegistered] != 27 {
		t.Errorf("interrupted: the store has %v", got)
	}
	kept, _, err := restoreStore(t.Context(), backup, dir, true)
	if err != nil {
		t.Fatal(err)
	}
	if got := countsIn(t, dir); got[stateRegistered] != 90 {
		t.Errorf("again: the store has %v", got)
	}
	old, err := readBoltStore(kept)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	if got, err := old.counts(); err != nil || got[stateRegistered] != 27 {
		t.Errorf("kept: %v, %v", got, err)
	}
}

// The old store has its second name before its first is given away: it can be found at any moment.
func TestRestoreNeverLoses(t *testing.T) {
	for range 50 {
		store := makeCopy(t, 0)
		old, err := os.Stat(store)
		if err != nil {
			t.Fatal(err)
		}
		draft, err := files.Draft(filepath.Dir(store), storeFile, func(*os.File) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		is := func(path string) (there, isOld bool) {
			stat, err := os.Stat(path)
			return err == nil, err == nil && os.SameFile(stat, old)
		}
		ctx, stop := context.WithCancel(t.Context())
		var looking sync.WaitGroup
		looking.Go(func() {
			for ctx.Err() == nil {
				there, isOld := is(store)
				if _, isKept := is(store + files.BackupTail); !there || !isOld && !isKept { // in this order
					t.Error("the old store has no name")
					return
				}
			}
		})
		if _, err := replaceStore(draft, store); err != nil {
			t.Fatal(err)
		}
		stop()
		looking.Wait()
	}
}
