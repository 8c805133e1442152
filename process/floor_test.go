// floor_test.go owns the floors: what nothing built on these libraries can be faster than, on this machine.

package process

import (
	"encoding/binary"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/load"
	"github.com/SmartMeshFoundation/matrix-regservice/e2e/standin"
	"github.com/ethereum/go-ethereum/crypto"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/crypto/bcrypt"
)

// What nothing built on these libraries can be faster than.
func BenchmarkFloor(b *testing.B) {
	b.Run("ecrecover", func(b *testing.B) {
		digest, signature := signedDigest(b)
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
			if _, err := bcrypt.GenerateFromPassword(password, bcrypt.MinCost); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("commit", func(b *testing.B) { // one record, on disk
		db := openBareBolt(b)
		value, i := []byte(strings.Repeat("x", 350)), 0
		var f load.Figures
		b.ReportAllocs()
		for b.Loop() {
			i++
			start := time.Now()
			if err := db.Update(func(tx *bolt.Tx) error { return tx.Bucket([]byte("b")).Put(addressOf(i), value) }); err != nil {
				b.Fatal(err)
			}
			f.Latencies = append(f.Latencies, time.Since(start))
		}
		b.ReportMetric(f.P50().Seconds()*1e3, "p50-ms")
	})
	b.Run("get", func(b *testing.B) {
		db := openBareBolt(b)
		if err := db.Update(func(tx *bolt.Tx) error {
			for i := range 1000 {
				if err := tx.Bucket([]byte("b")).Put(addressOf(i), []byte(strings.Repeat("x", 350))); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			b.Fatal(err)
		}
		key := addressOf(500)
		b.ReportAllocs()
		for b.Loop() {
			if err := db.View(func(tx *bolt.Tx) error { tx.Bucket([]byte("b")).Get(key); return nil }); err != nil {
				b.Fatal(err)
			}
		}
	})
	for _, api := range apis { // what the homeserver's own answers take, asked without a gateway
		b.Run("homeserver="+strings.ReplaceAll(api.name, " ", ""), func(b *testing.B) {
			h, localpart := load.StartHomeserver(b), fmt.Sprintf("0x%x", addressOf(1))
			calls := [][]byte{load.Message("GET", standin.SharedSecretPath, ""), load.Message("POST", standin.SharedSecretPath, `{"username":"`+localpart+`"}`)}
			if api.path == standin.CreateUserPath {
				calls = [][]byte{load.Message("GET", "/_matrix/client/r0/profile/", ""), load.Message("POST", standin.CreateUserPath, `{"localpart":"`+localpart+`"}`)}
			}
			client := load.Client{Aim: load.Aim{Address: h.Addr().String()}}
			defer client.Close()
			var f load.Figures
			for b.Loop() {
				start := time.Now()
				for _, call := range calls {
					if err := client.Ask(call); err != nil {
						b.Fatal(err)
					}
				}
				f.Latencies = append(f.Latencies, time.Since(start))
			}
			b.ReportMetric(f.P50().Seconds()*1e3, "p50-ms")
		})
	}
}

func signedDigest(b *testing.B) (digest, signature []byte) {
	b.Helper()
	key, err := crypto.GenerateKey()
	if err != nil {
		b.Fatal(err)
	}
	digest = crypto.Keccak256([]byte(standin.ServerName))
	signature, err = crypto.Sign(digest, key)
	if err != nil {
		b.Fatal(err)
	}
	return digest, signature
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

// addressOf is the address of a test's record: they are spread, as addresses are.
func addressOf(i int) []byte {
	address := make([]byte, 20)
	binary.BigEndian.PutUint64(address, uint64(i)*0x9E3779B97F4A7C15)
	return address
}
