// cmd_users_bench_test.go owns what a listing costs. USERS=1000000 go test -run x -bench BenchmarkUsers -benchtime 1x . makes a million
// records in each store once, and lists them in every way.

package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
	"github.com/jackc/pgx/v5"
	bolt "go.etcd.io/bbolt"
)

// BenchmarkUsers types the command users, which asks a daemon in this process where the store is BoltDB. The floor is the same
// records read and not looked at.
func BenchmarkUsers(b *testing.B) {
	count := 100_000
	fmt.Sscan(os.Getenv("USERS"), &count)
	b.Run("BoltDB", func(b *testing.B) {
		captureLog(b)
		dir := b.TempDir()
		fillSorted(b, dir, count)
		s := opened(b, dir).(*boltStore)
		stop, err := startOps(b.Context(), awayService(dir), s, nil)
		if err != nil {
			b.Fatal(err)
		}
		defer stop()
		benchUsers(b, dir, func() error {
			bytes := 0
			return s.file.View(func(tx *bolt.Tx) error {
				return tx.Bucket([]byte(buckets[stateRegistered])).ForEach(func(key, value []byte) error {
					bytes += len(key) + len(value)
					return nil
				})
			})
		})
	})
	b.Run("PostgreSQL", func(b *testing.B) {
		url := newDatabase(b)
		opened(b, url) // makes the schema
		sql(b, postgresServer(b), databaseOf(url), fmt.Sprintf(`INSERT INTO matrix_regservice.records
			SELECT substring(sha256(i::text::bytea) FOR 20), '@0x%s:%s', repeat('x', 135), 'registered', now() - i * interval '1 s', now() FROM generate_series(1, %d) AS i`,
			strings.Repeat("0", names.AddressDigits), testServerName, count))
		sql(b, postgresServer(b), databaseOf(url), "VACUUM ANALYZE")
		conn, err := pgx.Connect(b.Context(), url)
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Close(b.Context())
		benchUsers(b, url, func() error {
			_, err := conn.PgConn().CopyTo(b.Context(), io.Discard, "COPY (SELECT * FROM matrix_regservice.records ORDER BY address) TO STDOUT")
			return err
		})
	})
}

func benchUsers(b *testing.B, dataPath string, floor func() error) {
	if err := floor(); err != nil { // from the disk
		b.Fatal(err)
	}
	for _, args := range []string{"--format table", "--format csv", "--format json", "--newest"} {
		b.Run(args, func(b *testing.B) {
			start := time.Now()
			if err := floor(); err != nil {
				b.Fatal(err)
			}
			lowest := time.Since(start)
			words := append([]string{programName, "--datapath", dataPath, "users"}, strings.Fields(args)...)
			used := processorTime()
			for b.Loop() {
				var errs strings.Builder
				if code := run(words, io.Discard, &errs); code != 0 {
					b.Fatalf("exit %d: %s", code, &errs)
				}
			}
			b.ReportMetric((processorTime()-used).Seconds()/float64(b.N), "cpu-s/op") // a busy machine takes longer, and little more of this
			b.ReportMetric(b.Elapsed().Seconds()/float64(b.N), "s/op")
			b.ReportMetric(lowest.Seconds(), "floor-s")
			b.ReportMetric(b.Elapsed().Seconds()/float64(b.N)/lowest.Seconds(), "x-floor")
		})
	}
}

// processorTime is how much of it this process has used.
func processorTime() time.Duration {
	var used syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &used)
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
