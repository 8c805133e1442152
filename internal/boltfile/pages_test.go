// pages_test.go owns the tests of the page checker: bbolt's format, and pages with wrong references.

package boltfile

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// The check of pages repeats bbolt's format. For another version of bbolt, compare its internal/common/{page,
// meta,inode,bucket}.go and internal/freelist with pages.go first, and then write that version here.
func TestFormatIsOfThisBbolt(t *testing.T) {
	const checked = "v1.5.0"
	module, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if got := regexp.MustCompile(`(?m)\bgo\.etcd\.io/bbolt (.*)$`).FindAllSubmatch(module, -1); len(got) != 1 || string(got[0][1]) != checked {
		t.Errorf("pages.go was compared with bbolt %s, and go.mod has %q", checked, got)
	}
}

// A page that leads bbolt astray without end is found before it is followed.
func TestEndless(t *testing.T) {
	f := newTest(t)
	fill(t, f, 5000)
	if err := f.Update(func(tx *bolt.Tx) error { return tx.Bucket(testBucket).Delete(key(7)) }); err != nil { // so that pages are free
		t.Fatal(err)
	}
	size := os.Getpagesize()
	kinds := map[string]int64{} // a page of each that is in use
	if err := f.View(func(tx *bolt.Tx) error {
		for id := 2; id < int(tx.Size())/size; id++ {
			info, err := tx.Page(id)
			if err != nil {
				return err
			}
			kinds[info.Type] = int64(id)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(f.path)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, kind string
		change     func(page []byte, id int64)
	}{
		{"a leaf of two thousand million pages", "leaf", func(page []byte, _ int64) { binary.NativeEndian.PutUint32(page[12:], 2_000_000_000) }},
		{"a branch of two thousand million pages", "branch", func(page []byte, _ int64) { binary.NativeEndian.PutUint32(page[12:], 2_000_000_000) }},
		{"a free list of two thousand million pages", "freelist", func(page []byte, _ int64) { binary.NativeEndian.PutUint32(page[12:], 2_000_000_000) }},
		{"a free list of two thousand million ids", "freelist", func(page []byte, _ int64) {
			binary.NativeEndian.PutUint16(page[10:], freelistCounted)
			binary.NativeEndian.PutUint64(page[16:], 2_000_000_000)
		}},
		{"a branch that leads to itself", "branch", func(page []byte, id int64) { binary.NativeEndian.PutUint64(page[16+8:], uint64(id)) }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			id, broken := kinds[test.kind], bytes.Clone(whole)
			if id == 0 {
				t.Fatalf("there is no %s page: %v", test.kind, kinds)
			}
			test.change(broken[id*int64(size):], id)
			path := filepath.Join(t.TempDir(), "broken.db")
			if err := os.WriteFile(path, broken, 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := OpenReadOnly(path, anything)
			if err == nil {
				defer f.Close()
				err = f.Verify(anything)
			}
			if err == nil {
				t.Error("taken")
			} else {
				t.Log(err)
			}
		})
	}
}
