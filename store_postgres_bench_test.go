// store_postgres_bench_test.go owns the figures of docs/scaling.md that the store in PostgreSQL has as it grows: make bench-postgres takes them.

package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	loadplay "github.com/SmartMeshFoundation/matrix-regservice/e2e/load"
	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
	"github.com/ethereum/go-ethereum/common"
)

// The store as it grows: BENCH_ROWS has the numbers of records, with commas between them, in the order of size.
func BenchmarkPostgresGrowth(b *testing.B) {
	rows := os.Getenv("BENCH_ROWS")
	if rows == "" {
		need.Skip(b, need.Missing{What: "BENCH_ROWS, how large it shall grow", Cure: "make bench-postgres"})
	}
	p := ownPostgres(b, "shared_buffers = 512MB", "max_wal_size = 8GB")
	sql(b, p, "postgres", "CREATE DATABASE growth")
	s := openedPostgres(b, p.URL("postgres", "growth"))
	there := 0
	for word := range strings.SplitSeq(rows, ",") {
		count, err := strconv.Atoi(word)
		if err != nil {
			b.Fatal(err)
		}
		start := time.Now()
		for ; there < count; there = min(there+1_000_000, count) {
			sql(b, p, "growth", fmt.Sprintf(`INSERT INTO matrix_regservice.records
				SELECT decode(md5(n::text) || left(md5('x' || n), 8), 'hex'),
					'@0x' || md5(n::text) || left(md5('x' || n), 8) || ':%s', left(md5(n::text), 4) || '-' || repeat(md5(n::text), 4) || '1c',
					CASE WHEN n %% 10000 = 0 THEN 'pending' ELSE 'registered' END, now(), now() FROM generate_series(%d, %d) AS n`, testServerName, there+1, min(there+1_000_000, count)))
		}
		sql(b, p, "growth", "VACUUM ANALYZE; CHECKPOINT")
		b.Logf("%d rows were there after %v", count, time.Since(start).Round(time.Second))
		b.Run(word, func(b *testing.B) { measureGrowth(b, s) })
	}
}

var growthNodes atomic.Int64

func measureGrowth(b *testing.B, s *postgresStore) {
	for _, writers := range []int{1, 16} {
		took := make([]time.Duration, b.N)
		var next atomic.Int64
		var all sync.WaitGroup
		for range writers {
			all.Go(func() {
				for i := next.Add(1) - 1; i < int64(b.N); i = next.Add(1) - 1 {
					r := testRecord(int(growthNodes.Add(1)), statePending)
					start := time.Now()
					a := common.HexToAddress(r.Localpart)
					held := claimed(b, s, a)
					s.Load(b.Context(), a)
					for _, r.State = range []state{statePending, stateRegistered} {
						if err := held.Save(r); err != nil {
							b.Error(err)
						}
					}
					held.Release()
					took[i] = time.Since(start)
				}
			})
		}
		all.Wait()
		(&loadplay.Figures{Latencies: took}).ReportTimes(b, fmt.Sprintf("registration-by-%d-", writers))
	}
	timed := func(what string, do func() error) {
		do() // the first prepares the statement
		start := time.Now()
		if err := do(); err != nil {
			b.Error(err)
		}
		b.ReportMetric(float64(time.Since(start).Microseconds())/1000, what+"-ms")
	}
	timed("counts", func() error { _, err := s.counts(); return err })
	timed("list-page", func() error { _, _, err := s.List(b.Context(), "", string([]byte{0x80})); return err })
	timed("claim-pending", func() error {
		held, _, err := s.ClaimPending(b.Context(), span{from: time.Now(), to: time.Now()})
		if err == nil {
			held.Release()
		}
		if errors.Is(err, errNoRecord) { // behind the last
			err = nil
		}
		return err
	})
	var table, index float64
	if err := s.pool.Conns.QueryRow(b.Context(), "SELECT pg_table_size('matrix_regservice.records')::float8, pg_indexes_size('matrix_regservice.records')::float8").Scan(&table, &index); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(table/1e6, "table-MB")
	b.ReportMetric(index/1e6, "index-MB")
}
