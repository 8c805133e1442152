// store_postgres_bench_test.go owns the figures of docs/scaling.md: make bench-postgres takes them in one run.

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/daemon"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/ethereum/go-ethereum/common"
)

const benchConnections = 64

// Nodes register at one, two and three gateways, each a process of its own, before a homeserver that answers at once:
// what is measured is this service and its store, with the nodes and the homeserver on the same processors.
func BenchmarkGateways(b *testing.B) {
	for _, test := range []struct {
		name     string
		postgres bool
		count    int
	}{{"BoltDB/1", false, 1}, {"PostgreSQL/1", true, 1}, {"PostgreSQL/2", true, 2}, {"PostgreSQL/3", true, 3}} {
		b.Run(test.name, func(b *testing.B) {
			dataPath := b.TempDir()
			var walBefore int
			lsn := func() (at int) {
				fmt.Sscan(sql(b, postgresServer(b), "postgres", "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint"), &at)
				return at
			}
			if test.postgres {
				dataPath = newDatabase(b)
				openedPostgres(b, dataPath).Close()
				walBefore = lsn()
			}
			backend := newStandIn(b)
			var urls []string
			var stop []func() time.Duration
			for range test.count {
				url, end := startBenchedGateway(b, backend.URL, dataPath)
				urls, stop = append(urls, url), append(stop, end)
			}
			bodies := make([][]byte, b.N)
			for i := range bodies {
				proof, _ := newProof(b)
				bodies[i], _ = json.Marshal(proof)
			}
			client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: benchConnections}}
			took := make([]time.Duration, b.N)
			var next atomic.Int64
			var all sync.WaitGroup
			b.ResetTimer()
			for range benchConnections {
				all.Go(func() {
					for i := next.Add(1) - 1; i < int64(b.N); i = next.Add(1) - 1 {
						start := time.Now()
						res, err := client.Post(urls[i%int64(len(urls))], "application/json", bytes.NewReader(bodies[i]))
						if err != nil {
							b.Error(err)
							return
						}
						res.Body.Close()
						if res.StatusCode != 200 {
							b.Errorf("got %d", res.StatusCode)
						}
						took[i] = time.Since(start)
					}
				})
			}
			all.Wait()
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "registrations/s")
			reportTimes(b, "", took)
			var cpu time.Duration
			for _, end := range stop {
				cpu += end()
			}
			b.ReportMetric(float64(cpu.Microseconds())/float64(b.N), "gateway-µs/registration")
			if test.postgres {
				b.ReportMetric(float64(lsn()-walBefore)/float64(b.N), "WAL-bytes/registration")
			}
		})
	}
}

// startBenchedGateway starts the program and returns where it registers, and what ends it and tells how long it computed.
func startBenchedGateway(b *testing.B, backend, dataPath string) (url string, end func() time.Duration) {
	b.Helper()
	path, err := exec.LookPath(programName)
	if err != nil {
		b.Fatal(err)
	}
	dir := b.TempDir()
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte(testSecret), 0o600); err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(path, "--matrixdomain", testServerName, "--matrixurl", backend+homeserver.SharedSecretPath, "--hstoken", testHSToken,
		"--sharesecret-file", secret, "--port", "0", "--datapath", dataPath, "--verbosity", "2", "--rate-limit", "0", "--total-rate-limit", "0")
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	told := daemon.Announced(b, cmd)
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	end = sync.OnceValue(func() time.Duration {
		cmd.Process.Signal(syscall.SIGTERM)
		<-ended
		return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	})
	b.Cleanup(func() { end() })
	nodes, _ := told(ended)
	return "http://" + nodes + registerPath, end
}

// reportTimes reports the median and the 99th percentile in milliseconds.
func reportTimes(b *testing.B, what string, took []time.Duration) {
	b.Helper()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, what+"p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, what+"p99-ms")
}

// The store as it grows: BENCH_ROWS has the numbers of records, with commas between them, in the order of size.
func BenchmarkPostgresGrowth(b *testing.B) {
	rows := os.Getenv("BENCH_ROWS")
	if rows == "" {
		b.Skip("make bench-postgres says how large it shall grow")
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
		reportTimes(b, fmt.Sprintf("registration-by-%d-", writers), took)
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
