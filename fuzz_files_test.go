package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"hash/fnv"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/common"
	bolt "go.etcd.io/bbolt"
)

// What is read from files, fuzzed.

var lineNumber = regexp.MustCompile(`line [0-9]+`)

// A registration.yaml gives two tokens or an error, and the error is one of few sentences: nothing in them is out of
// the file.
func FuzzReadRegistration(f *testing.F) {
	path := filepath.Join(f.TempDir(), registrationFile)
	read := func(t testing.TB, content []byte) (c config, said string) {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		err := c.readRegistration(path, true)
		if err == nil {
			return c, ""
		}
		return c, lineNumber.ReplaceAllString(err.Error(), "line N")
	}
	fixed := map[string]bool{"": true}
	for _, content := range []string{
		"id: regapp\nurl: http://127.0.0.1:8009/regapp/1\nas_token: sekrit1\nhs_token: sekrit2\nsender_localpart: sekrit3\nnamespaces:\n  users:\n  - exclusive: true\n    regex: '@.*'\n  aliases: []\n",
		"as_token: sekrit1\n", "hs_token: sekrit1\n", "", "- sekrit1\n", "sekrit1", "as_token: &a [*a]\n", "as_token: !!binary sekrit1\n",
		"as_token: [sekrit1]\nhs_token: sekrit2\n", "as_token: sekrit1\nhs_token: {sekrit2: 0x10}\n", "as_token: sekrit1\nhs_token: sekrit2\nid: 1.5\n",
		"as_token: sekrit1\n\ths_token: sekrit2\n", "as_token: \"sekrit1\\nX: y\"\nhs_token: sekrit2\n", "as_token: sekrit1\nhs_token: 'sekrit 2'\n",
		"a: &a {x: sekrit1}\n<<: *a\nas_token: sekrit1\nhs_token: sekrit2\n", "%YAML 9\n---\nsekrit1: !<\n", "\xff\xfe", "? [sekrit1]\n: 1\n",
	} {
		f.Add([]byte(content))
		_, said := read(f, []byte(content))
		if strings.Contains(said, "sekrit") {
			f.Fatalf("quotes the file: %s", said)
		}
		fixed[said] = true
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		c, said := read(t, content)
		if !fixed[said] {
			t.Errorf("this is not one of the fixed errors: %s", said)
		}
		for _, token := range []string{c.asToken, c.hsToken} {
			if said == "" && token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
				t.Errorf("taken for a token: %q", token)
			}
		}
	})
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
	f.Fuzz(func(t *testing.T, value []byte) {
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
	s, err := openBoltStore(dir)
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
			return errors.Join(err, addToCount(tx, of, counts[of]))
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
			return // what is not verified may lead whoever follows it in a circle
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
