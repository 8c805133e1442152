// store_open_test.go owns the tests of which file is accepted as a store.

package main

import (
	"bytes"
	"encoding/binary"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/asdine/storm/v3"
	stormgob "github.com/asdine/storm/v3/codec/gob"
	"github.com/ethereum/go-ethereum/common"
	bolt "go.etcd.io/bbolt"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/boltfile"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
)

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
		}, "it has format 4 and this version knows up to 3"},
		{"cut short", func(t *testing.T, path string) {
			makeStore(t, path)
			if err := os.Truncate(path, 3*int64(os.Getpagesize())); err != nil {
				t.Fatal(err)
			}
		}, " are there: put a backup in its place"},
		{"a directory", func(t *testing.T, path string) { os.Mkdir(path, 0o700) }, "not a regular file: give another --datapath"},
		{"a pipe", func(t *testing.T, path string) { syscall.Mkfifo(path, 0o600) }, "not a regular file: give another --datapath"},
		{"a device", func(t *testing.T, path string) { os.Symlink("/dev/zero", path) }, "not a regular file: give another --datapath"},
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
			s, err := openBoltStore(dir, testServerName)
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
		s, err := openBoltStore(dir, testServerName)
		if err != nil {
			refused++
			if errors.Is(err, errStoreLocked) {
				t.Fatalf("page %d: %v", at/page, err)
			}
			continue
		}
		for i := range 50 {
			if _, err := s.Load(t.Context(), common.Address{byte(i)}); err != nil {
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
	s, err := openBoltStore(dir, testServerName)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Load(t.Context(), common.Address{1}); !errors.Is(err, boltfile.ErrDamaged) {
		t.Errorf("load: got %v", err)
	}
	held := claimed(t, s, common.Address{1})
	defer held.Release()
	if err := save(held, record{}, node{}, statePending); !errors.Is(err, boltfile.ErrDamaged) {
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
			s, err := openBoltStore(dir, testServerName)
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

// What is read of a path without a store, and of what is none; and the file is free for a daemon then.
func TestReadStore(t *testing.T) {
	for _, test := range []struct {
		name string
		make func(t *testing.T, path string)
		none bool // there is no store yet
		want string
	}{
		{"nothing", func(*testing.T, string) {}, true, ""},
		{"an empty file", func(t *testing.T, path string) { os.WriteFile(path, nil, 0o600) }, true, ""},
		{"no bucket yet", func(t *testing.T, path string) { withBolt(t, path, func(*bolt.Tx) error { return nil }) }, true, ""},
		{"no format yet", func(t *testing.T, path string) {
			db, err := storm.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			db.Close()
		}, true, ""},
		{"a store", makeStore, false, ""},
		{"an empty device", func(t *testing.T, path string) { os.Symlink(os.DevNull, path) }, false, "not a regular file"},
		{"a link to itself", func(t *testing.T, path string) { os.Symlink(storeFile, path) }, false, syscall.ELOOP.Error()},
		{"text", func(t *testing.T, path string) { os.WriteFile(path, []byte("text"), 0o600) }, false, "not a store of matrix-regservice"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			test.make(t, filepath.Join(dir, storeFile))
			if got := storeName(dir); got != dir {
				t.Errorf("it is called %s", got)
			}
			s, err := readStore(t.Context(), dir)
			if errors.Is(err, errNoStore) != test.none || (err != nil) != (test.none || test.want != "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got %v", err)
			}
			if err == nil {
				s.Close()
			}
			if test.want == "" {
				opened(t, dir)
			}
		})
	}
}

// A directory that cannot be made is the error, such as a link to a disk that is not there.
func TestStoreWithoutDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(filepath.Join(t.TempDir(), "away"), dir); err != nil {
		t.Fatal(err)
	}
	if _, err := openBoltStore(dir, testServerName); err == nil || !strings.Contains(err.Error(), "mkdir "+dir) {
		t.Errorf("got %v", err)
	}
}

// Of several that make a store at once one has it, the others are told so, and nothing else is left.
func TestStoreMadeAtOnce(t *testing.T) {
	dir := t.TempDir()
	var all sync.WaitGroup
	for i := range 4 {
		for range 8 {
			all.Go(func() {
				s, err := openBoltStore(filepath.Join(dir, fmt.Sprint(i)), testServerName)
				if err == nil {
					t.Cleanup(func() { s.Close() })
				} else if !errors.Is(err, errStoreLocked) {
					t.Error(err)
				}
			})
		}
	}
	all.Wait()
	for i := range 4 {
		left, err := os.ReadDir(filepath.Join(dir, fmt.Sprint(i)))
		if err != nil || len(left) != 1 || left[0].Name() != storeFile {
			t.Errorf("got %v, %v", left, err)
		}
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
		return errors.Join(meta.Put([]byte(formatKey), []byte("1")), meta.Put([]byte(countsKey), value), meta.Delete([]byte(serverNameKey)))
	})
}

// A store of an earlier format is read as it is, checked as it is where a copy is restored, and upgraded when it is
// opened to write.
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
			s, err := openBoltStore(dir, testServerName)
			if err != nil {
				t.Fatal(err)
			}
			fillStore(t, s, want[statePending]+want[stateRegistered])
			s.Close()
			asFormat1(t, path, want)

			s, err = readBoltStore(path)
			check(s, err, want)
			s, err = openBoltStore(dir, testServerName)
			if err == nil {
				keepRecord(t, s, testRecord(1000, statePending))
				keepRecord(t, s, testRecord(1000, stateRegistered))
			}
			after := storeCounts{statePending: want[statePending], stateRegistered: want[stateRegistered] + 1}
			check(s, err, after)
			s, err = openBoltStore(dir, testServerName)
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
	s, err := openBoltStore(dir, testServerName)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	start := time.Now()
	if _, err := openBoltStore(dir, testServerName); !errors.Is(err, errStoreLocked) {
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
	if _, err := openBoltStore(dir, testServerName); !errors.Is(err, os.ErrPermission) {
		t.Errorf("got %v", err)
	}
}

// makeStore makes a store of several pages.
func makeStore(t *testing.T, path string) {
	t.Helper()
	s, err := openBoltStore(filepath.Dir(path), testServerName)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		held := claimed(t, s, common.Address{byte(i)})
		if err := save(held, record{}, node{Account: homeserver.Account{DisplayName: strings.Repeat("x", 135)}}, stateRegistered); err != nil {
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

// edited is the store's file with edits: each four bytes set the byte at an offset, and the last eight bytes of a meta
// page, its checksum, are made right again if wanted, or bbolt would take the other one.
func edited(file, edits []byte, size uint32, sealed bool) []byte {
	file = bytes.Clone(file)
	for ; len(edits) >= 4; edits = edits[4:] {
		file[int(binary.BigEndian.Uint32(edits)>>8)%len(file)] = edits[3]
	}
	if sealed {
		for page := range 2 {
			meta := file[page*os.Getpagesize()+16:] // behind the page's header
			sum := fnv.New64a()
			sum.Write(meta[:56])
			binary.NativeEndian.PutUint64(meta[56:], sum.Sum64())
		}
	}
	return file[:min(int(size), len(file))]
}

// smallStore is the file of a store with 40 registered records, in leaves and a branch above them, and two pending ones.
// It has the same bytes each time, since bbolt writes one bucket a transaction.
func smallStore(f *testing.F) []byte {
	dir := f.TempDir()
	s, err := openBoltStore(dir, testServerName)
	if err != nil {
		f.Fatal(err)
	}
	counts := storeCounts{statePending: 2, stateRegistered: 40}
	for _, of := range []state{statePending, stateRegistered} {
		if err := s.db.Bolt.Update(func(tx *bolt.Tx) error {
			bucket, err := tx.CreateBucketIfNotExists([]byte(buckets[of]))
			for i := 0; err == nil && i < counts[of]; i++ {
				r := testRecord(i+len(of), of)
				value, _ := json.Marshal(r)
				err = bucket.Put(common.HexToAddress(r.Localpart).Bytes(), value)
			}
			return errors.Join(err, addToCount(tx, buckets[of], counts[of]))
		}); err != nil {
			f.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		f.Fatal(err)
	}
	file, err := os.ReadFile(filepath.Join(dir, storeFile))
	if err != nil {
		f.Fatal(err)
	}
	return file
}

// Whatever became of the store's file, those who read it get records or an error.
func FuzzStoreFile(f *testing.F) {
	defer debug.SetMaxStack(debug.SetMaxStack(16 << 20)) // endless recursion shall not take the machine's memory first
	file := smallStore(f)
	dir := f.TempDir()
	path := filepath.Join(dir, storeFile)
	whole := uint32(len(file))
	f.Add([]byte{}, whole, true)
	f.Add([]byte{}, whole-4096, true)
	f.Add([]byte{}, uint32(100), false)
	f.Add([]byte{}, uint32(0), false)
	for page := range byte(whole / 4096) {
		for _, offset := range []byte{8, 10, 12, 15, 16, 20, 24, 28} { // flags, count, overflow, and the first element
			f.Add([]byte{page >> 4, page << 4, offset, 0xff}, whole, true)
			f.Add([]byte{page >> 4, page << 4, offset, page}, whole, true) // in a branch, a pointer to itself
		}
	}
	for offset := byte(0); offset < 56; offset += 8 { // of both meta pages
		f.Add([]byte{0, 0, 16 + offset, 1, 0, 16, 16 + offset, 1}, whole, true)
		f.Add([]byte{0, 0, 23 + offset, 1, 0, 16, 23 + offset, 1}, whole, true)
	}
	f.Fuzz(func(t *testing.T, edits []byte, size uint32, sealed bool) {
		if err := os.WriteFile(path, edited(file, edits, size, sealed), 0o600); err != nil {
			t.Fatal(err)
		}
		defer os.Remove(path)
		counts, err := verifyCopy(t.Context(), path)
		if err == nil && (counts[statePending] < 0 || counts[stateRegistered] < 0) {
			t.Errorf("verified: %v", counts)
		}
		if err != nil {
			return // an unverified file may lead its reader in a circle
		}
		s, err := readBoltStore(path)
		if err != nil {
			t.Fatalf("verified, and cannot be read: %v", err)
		}
		defer s.Close()
		s.counts()
		s.Load(t.Context(), common.HexToAddress(testRecord(7, stateRegistered).Localpart))
		count := 0
		eachRecord(t.Context(), s.List, "", func(record) error {
			if count++; count > 1000 {
				t.Error("the listing has no end")
				return errors.New("enough")
			}
			return nil
		})
		if held, _, err := s.ClaimPending(t.Context(), span{}); err == nil {
			held.Release()
		}
	})
}
