// store_bench_test.go owns figures of docs/performance.md: the store in BoltDB, and what depends on how much it holds. bench/ makes
// the table of them.

package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e"
	loadplay "github.com/SmartMeshFoundation/matrix-regservice/e2e/load"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/ethereum/go-ethereum/common"
	bolt "go.etcd.io/bbolt"
)

// The first durable write of a registration, with so many writers at once.
func BenchmarkReserve(b *testing.B) {
	for _, writers := range []int{1, 16, 128} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			s, err := openBoltStore(b.TempDir(), testServerName)
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { s.Close() })
			reserveRounds(b, s, writers, 0)
		})
	}
}

// reserveRounds has the writers reserve ten addresses each a round, from the given one on.
func reserveRounds(b *testing.B, s store, writers, next int) {
	b.Helper()
	const each = 10
	var f loadplay.Figures
	var mu sync.Mutex
	b.ReportAllocs()
	for b.Loop() {
		var all sync.WaitGroup
		start := time.Now()
		for w := range writers {
			all.Go(func() {
				for i := range each {
					n := benchNode(next + w*each + i)
					began := time.Now()
					held, err := s.Claim(b.Context(), n.Address)
					if err == nil {
						_, err = s.Load(b.Context(), n.Address)
					}
					if err != errNoRecord {
						b.Errorf("the address should be new: %v", err)
						return
					}
					if err := save(held, record{}, n, statePending); err != nil {
						b.Error(err)
					}
					held.Release()
					mu.Lock()
					f.Latencies = append(f.Latencies, time.Since(began))
					mu.Unlock()
				}
			})
		}
		all.Wait()
		f.Took += time.Since(start)
		next += writers * each
	}
	b.ReportMetric(float64(len(f.Latencies))/f.Took.Seconds(), "reserve/s")
	b.ReportMetric(f.P50().Seconds()*1e3, "p50-ms")
}

// benchNode is the node of a test's record.
func benchNode(i int) node {
	r := testRecord(i, statePending)
	return node{common.HexToAddress(r.Localpart), homeserver.Account{Localpart: r.Localpart, UserID: r.UserID, DisplayName: r.DisplayName}}
}

// What depends on how much the store holds, and should not.
func BenchmarkSize(b *testing.B) {
	program, err := e2e.Build(b.Context(), b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	sizes := []int{1_000, 100_000, 1_000_000}
	if testing.Short() {
		sizes = []int{1_000, 10_000}
	}
	for _, size := range sizes {
		b.Run(fmt.Sprintf("records=%d", size), func(b *testing.B) {
			dir := b.TempDir()
			fillSorted(b, dir, size)
			b.Run("open", func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					s, err := openBoltStore(dir, testServerName)
					if err != nil {
						b.Fatal(err)
					}
					s.Close()
				}
			})
			b.Run("reserve", func(b *testing.B) {
				s, err := openBoltStore(dir, testServerName)
				if err != nil {
					b.Fatal(err)
				}
				defer s.Close()
				reserveRounds(b, s, 1, size)
			})
			b.Run("start", func(b *testing.B) { // from the program's start to its first answer
				h := loadplay.StartHomeserver(b)
				var f loadplay.Figures
				var memory float64
				for b.Loop() {
					g := loadplay.Start(b, program.Path(), dir, h.URL, homeserver.SharedSecretPath)
					f.Latencies, memory = append(f.Latencies, g.Ready), g.Memory(b)
					g.Stop(b)
				}
				b.ReportMetric(f.P50().Seconds()*1e3, "p50-ms")
				b.ReportMetric(memory, "MiB")
			})
			b.Run("register", func(b *testing.B) {
				g := loadplay.Start(b, program.Path(), dir, loadplay.StartHomeserver(b).URL, homeserver.SharedSecretPath)
				g.Register(b, 1, false)
				b.ReportMetric(g.Memory(b), "MiB")
			})
		})
	}
}

// fillSorted puts so many registered nodes into a new store, in the order of their addresses: a million in seconds.
func fillSorted(b *testing.B, dir string, size int) {
	b.Helper()
	s, err := openBoltStore(dir, testServerName)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	order := make([]int, size)
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(i, j int) int { return cmp.Compare(testRecord(i, "").Localpart, testRecord(j, "").Localpart) })
	const each = 50_000 // a commit
	for some := range slices.Chunk(order, each) {
		if err := s.db.Bolt.Update(func(tx *bolt.Tx) error {
			bucket, err := tx.CreateBucketIfNotExists([]byte(buckets[stateRegistered]))
			if err != nil {
				return err
			}
			bucket.FillPercent = 0.7 // as full as pages are that were filled in no order
			for _, i := range some {
				r := testRecord(i, stateRegistered)
				value, err := json.Marshal(r)
				if err != nil {
					return err
				}
				if err := bucket.Put(common.HexToAddress(r.Localpart).Bytes(), value); err != nil {
					return err
				}
			}
			return addToCount(tx, buckets[stateRegistered], len(some))
		}); err != nil {
			b.Fatal(err)
		}
	}
}
