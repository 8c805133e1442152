package main

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/asdine/storm/v3"
	stormgob "github.com/asdine/storm/v3/codec/gob"
	bolt "go.etcd.io/bbolt"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
)

// The file is its owner's alone, and holds the display name but not the password.
func TestStoreFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	_, n := newProof(t)
	s, err := openBoltStore(dir)
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

// A file that is not a store is refused, by its name, and left as it was.
func TestStoreRefuses(t *testing.T) {
	write := func(content string) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	tests := []struct {
		name string
		make func(*testing.T, string)
		want string
	}{
		{"text", write(strings.Repeat("not a database\n", 1000)), "not a store of matrix-regservice, or it is damaged"},
		{"short text", write("hello"), "not a store of matrix-regservice, or it is damaged"},
		{"zeros", write(strings.Repeat("\x00", 65536)), "not a store of matrix-regservice, or it is damaged"},
		{"SQLite, as the 2018 program from November on", write("SQLite format 3\x00" + strings.Repeat("\x00", 4080)), "it is an SQLite file"},
		{"the 2018 program", make2018, "it is the store of the 2018 program"},
		{"another program's BoltDB", func(t *testing.T, path string) {
			withBolt(t, path, func(tx *bolt.Tx) error { _, err := tx.CreateBucket([]byte("widgets")); return err })
		}, "BoltDB file of another program"},
		{"another program's meta", func(t *testing.T, path string) {
			withBolt(t, path, func(tx *bolt.Tx) error { _, err := tx.CreateBucket([]byte(metaBucket)); return err })
		}, "BoltDB file of another program"},
		{"a later format", func(t *testing.T, path string) {
			makeStore(t, path)
			withBolt(t, path, func(tx *bolt.Tx) error {
				return tx.Bucket([]byte(metaBucket)).Put([]byte(formatKey), []byte(fmt.Sprint(storeFormat+1)))
			})
		}, "it has format 3 and this version knows up to 2"},
		{"cut short", func(t *testing.T, path string) {
			makeStore(t, path)
			if err := os.Truncate(path, 3*int64(os.Getpagesize())); err != nil {
				t.Fatal(err)
			}
		}, "cut short"},
		{"a directory", func(t *testing.T, path string) { os.Mkdir(path, 0o700) }, "not a regular file"},
		{"a pipe", func(t *testing.T, path string) { syscall.Mkfifo(path, 0o600) }, "not a regular file"},
		{"a device", func(t *testing.T, path string) { os.Symlink("/dev/zero", path) }, "not a regular file"},
		{"one page", func(t *testing.T, path string) { makeStore(t, path); os.Truncate(path, 4096) }, "or it is damaged"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, storeFile)
			test.make(t, path)
			var before []byte
			if stat, err := os.Stat(path); err == nil && stat.Mode().IsRegular() {
				before, _ = os.ReadFile(path)
			}
			s, err := openBoltStore(dir)
			if err == nil {
				s.Close()
				t.Fatal("opened")
			}
			if !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %q, want one line with %q", err, test.want)
			}
			if before == nil {
				return
			}
			if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
				t.Error("the file was changed")
			}
		})
	}
}

// Damage in the middle is an error of the opening or of reading a record, never a crash.
func TestStoreDamaged(t *testing.T) {
	path := filepath.Join(t.TempDir(), storeFile)
	makeStore(t, path)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var refused int
	page := os.Getpagesize()
	for at := 0; at < len(whole); at += page {
		dir := t.TempDir() // a new one each: bbolt keeps the lock of a file that it panicked over
		broken := bytes.Clone(whole)
		for i := at; i < at+page; i++ {
			broken[i] = 0xA5
		}
		if err := os.WriteFile(filepath.Join(dir, storeFile), broken, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := openBoltStore(dir)
		if err != nil {
			refused++
			if errors.Is(err, errStoreLocked) {
				t.Fatalf("page %d: %v", at/page, err)
			}
			continue
		}
		for i := range 50 {
			if _, err := s.Load(t.Context(), address{byte(i)}); err != nil {
				refused++
			}
		}
		s.Close()
	}
	if refused == 0 {
		t.Error("no damage was noticed")
	}
}

// A page that leads out of the file is an error, not the end of the process.
func TestStoreLeadsAstray(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, storeFile)
	makeStore(t, path)
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// A bucket's root page, 8 bytes, stands behind the bucket's name in its parent's page.
	name := []byte(buckets[stateRegistered])
	changed := false
	for at := 0; ; {
		i := bytes.Index(content[at:], name)
		if i < 0 {
			break
		}
		at += i + len(name)
		if content[at] == '"' { // a record's state
			continue
		}
		copy(content[at:], []byte{0xa0, 0x86, 1, 0, 0, 0, 0, 0}) // page 100,000
		changed = true
	}
	if !changed {
		t.Fatal("the bucket was not found")
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := openBoltStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Load(t.Context(), address{1}); !errors.Is(err, errDamaged) {
		t.Errorf("load: got %v", err)
	}
	held := claimed(t, s, address{1})
	defer held.Release()
	if err := save(held, record{}, node{}, statePending); !errors.Is(err, errDamaged) {
		t.Errorf("save: got %v", err)
	}
}

// A store whose making was interrupted is made again.
func TestStoreInterrupted(t *testing.T) {
	for name, make := range map[string]func(string){
		"empty file": func(path string) { os.WriteFile(path, nil, 0o600) },
		"no format yet": func(path string) {
			db, err := storm.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			db.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			make(filepath.Join(dir, storeFile))
			s, err := openBoltStore(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if counts, err := s.counts(); err != nil || len(counts) != 0 {
				t.Errorf("got %v, %v", counts, err)
			}
		})
	}
}

// asFormat1 makes a store's file what it was in format 1, which kept the counts under a key of their own.
func asFormat1(t *testing.T, path string, counts storeCounts) {
	t.Helper()
	withBolt(t, path, func(tx *bolt.Tx) error {
		for _, name := range buckets {
			if bucket := tx.Bucket([]byte(name)); bucket != nil {
				bucket.SetSequence(0)
			}
		}
		meta := tx.Bucket([]byte(metaBucket))
		value, _ := json.Marshal(counts)
		return errors.Join(meta.Put([]byte(formatKey), []byte("1")), meta.Put([]byte(countsKey), value))
	})
}

// A store of an earlier format is read as it is, checked as it is where a copy is restored, and brought up to date by
// whoever opens it to write.
func TestStoreOfFormat1(t *testing.T) {
	for _, want := range []storeCounts{{}, {stateRegistered: 3}, {statePending: 1, stateRegistered: 9}} {
		t.Run(fmt.Sprint(want), func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, storeFile)
			check := func(s *boltStore, err error, want storeCounts) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				counts, err := s.verify(t.Context())
				if err != nil || counts[statePending] != want[statePending] || counts[stateRegistered] != want[stateRegistered] {
					t.Errorf("got %v, %v, want %v", counts, err, want)
				}
			}
			s, err := openBoltStore(dir)
			if err != nil {
				t.Fatal(err)
			}
			fillStore(t, s, want[statePending]+want[stateRegistered])
			s.Close()
			asFormat1(t, path, want)

			s, err = readBoltStore(path)
			check(s, err, want)
			s, err = openBoltStore(dir)
			if err == nil {
				keepRecord(t, s, testRecord(1000, statePending))
				keepRecord(t, s, testRecord(1000, stateRegistered))
			}
			after := storeCounts{statePending: want[statePending], stateRegistered: want[stateRegistered] + 1}
			check(s, err, after)
			s, err = openBoltStore(dir)
			check(s, err, after)
			withBolt(t, path, func(tx *bolt.Tx) error {
				meta := tx.Bucket([]byte(metaBucket))
				if format := string(meta.Get([]byte(formatKey))); format != fmt.Sprint(storeFormat) || meta.Get([]byte(countsKey)) != nil {
					t.Errorf("format %q, counts %q", format, meta.Get([]byte(countsKey)))
				}
				return nil
			})
		})
	}
}

// A second instance is told so, soon.
func TestStoreLocked(t *testing.T) {
	dir := t.TempDir()
	s, err := openBoltStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	start := time.Now()
	if _, err := openBoltStore(dir); !errors.Is(err, errStoreLocked) {
		t.Errorf("got %v", err)
	}
	t.Logf("refused after %v", time.Since(start)) // 0.5 s; the contract allows 2
}

func TestStoreReadOnlyDirectory(t *testing.T) {
	if os.Geteuid() == 0 {
		need.Skip(t, need.Missing{What: "a user other than root, who writes everywhere", Cure: "run the tests as another user"})
	}
	dir := filepath.Join(t.TempDir(), "read-only")
	if err := os.Mkdir(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	if _, err := openBoltStore(dir); !errors.Is(err, os.ErrPermission) {
		t.Errorf("got %v", err)
	}
}

// makeStore makes a store of several pages.
func makeStore(t *testing.T, path string) {
	t.Helper()
	s, err := openBoltStore(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		held := claimed(t, s, address{byte(i)})
		if err := save(held, record{}, node{DisplayName: strings.Repeat("x", 135)}, stateRegistered); err != nil {
			t.Fatal(err)
		}
		held.Release()
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// make2018 makes a store as the 2018 program did: storm's Save of a User, in gob.
func make2018(t *testing.T, path string) {
	t.Helper()
	type User struct {
		UserName string `storm:"id"`
		Password string
	}
	gob.Register(User{})
	db, err := storm.Open(path, storm.Codec(stormgob.Codec))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Save(&User{"0x6d12d262a2fe4fd9c714ad3521acbea52adb4aaf", "password"}); err != nil {
		t.Fatal(err)
	}
}

func withBolt(t *testing.T, path string, do func(*bolt.Tx) error) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Update(do); err != nil {
		t.Fatal(err)
	}
}
