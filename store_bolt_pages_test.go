package main

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// A page that leads bbolt astray without end is found before it is followed.
func TestRestoreEndless(t *testing.T) {
	whole, err := os.ReadFile(makeCopy(t, 5000))
	if err != nil {
		t.Fatal(err)
	}
	size := os.Getpagesize()
	kinds := map[string]int64{} // a page of each that is in use
	withBolt(t, writeCopy(t, whole), func(tx *bolt.Tx) error {
		for id := 2; id < int(tx.Size())/size; id++ {
			info, err := tx.Page(id)
			if err != nil {
				return err
			}
			kinds[info.Type] = int64(id)
		}
		return nil
	})
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
			if _, err := verifyCopy(t.Context(), writeCopy(t, broken)); err == nil {
				t.Error("taken")
			} else {
				t.Log(err)
			}
		})
	}
}

// writeCopy writes a file that a test takes for a backup.
func writeCopy(t *testing.T, content []byte) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "copy.db")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
