// store_disk_linux_test.go owns what a store keeps when the disk is full, at its making and at any point of a commit.

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/disk"
	"github.com/ethereum/go-ethereum/common"
)

// Wherever in a commit the room runs out, what was not saved is as before, what was is there, the next write that has room
// succeeds, and no page of the file is lost.
func TestDiskFullAnywhere(t *testing.T) {
	dir := disk.Mount(t, 2<<20)
	for free := range 24 {
		sub := filepath.Join(dir, fmt.Sprint(free))
		s, err := openBoltStore(sub, testServerName)
		if err != nil {
			t.Fatal(err)
		}
		put := func(i int) error {
			held := claimed(t, s, common.Address{byte(i >> 8), byte(i)})
			defer held.Release()
			r := testRecord(i, stateRegistered)
			r.Localpart = strings.ToLower(common.Address{byte(i >> 8), byte(i)}.Hex())
			return held.Save(r)
		}
		saved := 0
		for round := range 3 {
			empty := disk.Fill(t, dir, int64(free)*4096)
			failed := 0
			for failed < 3 && saved < 4000 {
				switch err := put(saved); {
				case err == nil:
					saved++
				case errors.Is(err, syscall.ENOSPC):
					failed++
					if _, err := s.Load(t.Context(), common.Address{byte(saved >> 8), byte(saved)}); !errors.Is(err, errNoRecord) {
						t.Errorf("%d pages free: what was not saved: %v", free, err)
					}
				default:
					t.Fatalf("%d pages free: %v", free, err)
				}
			}
			if failed == 0 {
				t.Fatalf("%d pages free: the disk was never full", free)
			}
			empty()
			for range 5 * (round + 1) {
				if err := put(saved); err != nil {
					t.Fatalf("%d pages free, room again: %v", free, err)
				}
				saved++
			}
		}
		if counts, err := s.counts(); err != nil || counts[stateRegistered] != saved {
			t.Errorf("%d pages free: %v, %v, want %d", free, counts, err, saved)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if counts := checkWhole(t, filepath.Join(sub, storeFile)); counts[stateRegistered] != saved {
			t.Errorf("%d pages free, read again: %v, want %d", free, counts, saved)
		}
		os.RemoveAll(sub)
	}
}

// Where there is no room for a store, a first start leaves none behind that the next would refuse.
func TestDiskFullNewStore(t *testing.T) {
	dir := disk.Mount(t, 1<<20)
	for free := range 10 {
		sub := filepath.Join(dir, "store")
		os.Mkdir(sub, 0o700)
		empty := disk.Fill(t, dir, int64(free)*4096)
		s, err := openBoltStore(sub, testServerName)
		if err == nil {
			s.Close()
		} else {
			if !errors.Is(err, syscall.ENOSPC) || strings.Contains(err.Error(), ".register") {
				t.Errorf("%d pages free: got %v", free, err)
			}
			if left, _ := os.ReadDir(sub); len(left) > 0 {
				t.Errorf("%d pages free: left behind: %v", free, left)
			}
		}
		if free == 0 && err == nil {
			t.Error("a store was made where there is no room")
		}
		empty()
		if s, err = openBoltStore(sub, testServerName); err != nil {
			t.Fatalf("%d pages free, room again: %v", free, err)
		}
		s.Close()
		os.RemoveAll(sub)
	}
}
