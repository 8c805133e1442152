// bench_floor_test.go owns the floors: what nothing built on these libraries can be faster than, on this machine.

package main

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/ethereum/go-ethereum/crypto"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/crypto/bcrypt"
)

// What nothing built on these libraries can be faster than.
func BenchmarkFloor(b *testing.B) {
	b.Run("ecrecover", func(b *testing.B) {
		key := newKey(b)
		digest := crypto.Keccak256([]byte(testServerName))
		signature, err := crypto.Sign(digest, key)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			if _, err := crypto.Ecrecover(digest, signature); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("bcrypt", func(b *testing.B) {
		password := []byte(strings.Repeat("0123456789ab", 6))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := bcrypt.GenerateFromPassword(password, createUserCost); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("commit", func(b *testing.B) { // one record, on disk
		db := openBareBolt(b)
		value, i := []byte(strings.Repeat("x", 350)), 0
		var f figures
		b.ReportAllocs()
		for b.Loop() {
			i++
			start := time.Now()
			if err := db.Update(func(tx *bolt.Tx) error { return tx.Bucket([]byte("b")).Put(benchNode(i).Address.Bytes(), value) }); err != nil {
				b.Fatal(err)
			}
			f.latencies = append(f.latencies, time.Since(start))
		}
		b.ReportMetric(f.p50().Seconds()*1e3, "p50-ms")
	})
	b.Run("get", func(b *testing.B) {
		db := openBareBolt(b)
		if err := db.Update(func(tx *bolt.Tx) error {
			for i := range 1000 {
				if err := tx.Bucket([]byte("b")).Put(benchNode(i).Address.Bytes(), []byte(strings.Repeat("x", 350))); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			b.Fatal(err)
		}
		key := benchNode(500).Address.Bytes()
		b.ReportAllocs()
		for b.Loop() {
			if err := db.View(func(tx *bolt.Tx) error { tx.Bucket([]byte("b")).Get(key); return nil }); err != nil {
				b.Fatal(err)
			}
		}
	})
	for _, api := range apis { // what the homeserver's own answers take, asked without a gateway
		b.Run("homeserver="+strings.ReplaceAll(api.name, " ", ""), func(b *testing.B) {
			h := startInstantHomeserver(b)
			calls := [][]byte{httpMessage("GET", homeserver.SharedSecretPath, ""), httpMessage("POST", homeserver.SharedSecretPath, `{"username":"`+benchNode(1).Localpart+`"}`)}
			if api.path == homeserver.CreateUserPath {
				calls = [][]byte{httpMessage("GET", homeserver.ProfilePath, ""), httpMessage("POST", homeserver.CreateUserPath, `{"localpart":"`+benchNode(1).Localpart+`"}`)}
			}
			client := benchClient{aim: aim{address: h.Addr().String()}}
			defer client.close()
			var f figures
			for b.Loop() {
				start := time.Now()
				for _, call := range calls {
					if err := client.ask(call); err != nil {
						b.Fatal(err)
					}
				}
				f.latencies = append(f.latencies, time.Since(start))
			}
			b.ReportMetric(f.p50().Seconds()*1e3, "p50-ms")
		})
	}
}

func openBareBolt(b *testing.B) *bolt.DB {
	b.Helper()
	db, err := bolt.Open(filepath.Join(b.TempDir(), "floor.db"), 0o600, &bolt.Options{Timeout: time.Second})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { db.Close() })
	if err := db.Update(func(tx *bolt.Tx) error { _, err := tx.CreateBucket([]byte("b")); return err }); err != nil {
		b.Fatal(err)
	}
	return db
}
