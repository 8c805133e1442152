// load_test.go owns figures of docs/performance.md and docs/scaling.md: the program under load, before a homeserver that answers at
// once. bench/ makes the table of them.

package process

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e"
	"github.com/SmartMeshFoundation/matrix-regservice/e2e/daemon"
	"github.com/SmartMeshFoundation/matrix-regservice/e2e/load"
	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
	"github.com/SmartMeshFoundation/matrix-regservice/e2e/standin"
)

// apis are the ways of creating accounts.
var apis = []struct{ name, path string }{{"createUser", standin.CreateUserPath}, {"shared secret", standin.SharedSecretPath}, {"MAS", standin.MASPath}}

// A whole registration through the served program: real HTTP, both records on disk. Rounds of requests that are signed
// beforehand; the processor time is the gateway's alone.
func BenchmarkRegister(b *testing.B) {
	binary := plainProgram(b)
	for _, api := range apis {
		for _, kept := range []bool{false, true} {
			if kept && api.path != standin.SharedSecretPath { // one way shows what connections cost
				continue
			}
			for _, conns := range benchConns() {
				b.Run(fmt.Sprintf("api=%s/%s/conns=%d", strings.ReplaceAll(api.name, " ", ""), keptName[kept], conns), func(b *testing.B) {
					g := load.Start(b, binary, b.TempDir(), load.StartHomeserver(b).URL, api.path)
					g.Register(b, conns, kept)
				})
			}
		}
	}
}

var keptName = map[bool]string{true: "kept", false: "close"}

func benchConns() []int {
	if testing.Short() {
		return []int{1, 64}
	}
	return []int{1, 2, 4, 8, 16, 32, 64, 128}
}

// Transactions of a hundred events, 400 kB, drained by the served program, and by how much they raise its anonymous
// memory, in MiB.
func BenchmarkTransaction(b *testing.B) {
	g := load.Start(b, plainProgram(b), b.TempDir(), load.StartHomeserver(b).URL, standin.SharedSecretPath)
	event := `{"type":"m.room.message","content":{"body":"` + strings.Repeat("x", 4000) + `"}},`
	body := `{"events":[` + strings.TrimSuffix(strings.Repeat(event, 100), ",") + `]}`
	requests := make([][]byte, 200)
	for i := range requests {
		requests[i] = load.Message("PUT", appServicePath+"/_matrix/app/v1"+"/transactions/"+strconv.Itoa(i), body, "Authorization: Bearer "+standin.HSToken)
	}
	before := g.Memory(b)
	var all load.Figures
	for b.Loop() {
		all.Add(g.Send(b, 1, load.Aim{Status: "200"}, requests)) // a homeserver sends one at a time
	}
	all.Report(b, "transaction")
	b.ReportMetric(all.CPU.Seconds()*1e9/float64(len(body)*len(all.Latencies)), "cpu-ns/B")
	b.ReportMetric(g.Memory(b)-before, "MiB-more")
}

// The program's anonymous memory: at rest, and after very many registrations.
func BenchmarkMemory(b *testing.B) {
	const conns = 64
	rounds := 100_000 / (conns * 20)
	if testing.Short() {
		rounds = 1
	}
	binary := plainProgram(b)
	for b.Loop() {
		g := load.Start(b, binary, b.TempDir(), load.StartHomeserver(b).URL, standin.SharedSecretPath)
		idle := g.Memory(b)
		var all load.Figures
		for range rounds {
			all.Add(g.Send(b, conns, load.Aim{Status: "200"}, load.NewRequests(b, conns*20, true)))
		}
		all.Report(b, "registration")
		b.ReportMetric(idle, "MiB-idle")
		b.ReportMetric(g.Memory(b), "MiB-after")
		g.Stop(b)
	}
}

const benchConnections = 64

// Nodes register at one, two and three gateways, each a process of its own, before a homeserver that answers at once:
// what is measured is this service and its store, with the nodes and the homeserver on the same processors.
func BenchmarkGateways(all *testing.B) {
	var postgres *e2e.Postgres // once it is needed
	databases := 0
	for _, test := range []struct {
		name     string
		postgres bool
		count    int
	}{{"BoltDB/1", false, 1}, {"PostgreSQL/1", true, 1}, {"PostgreSQL/2", true, 2}, {"PostgreSQL/3", true, 3}} {
		all.Run(test.name, func(b *testing.B) {
			if test.postgres {
				need.All(b, e2e.PostgresInstalled())
				if postgres == nil {
					postgres = startPostgres(all)
				}
			}
			dataPath := b.TempDir()
			var walBefore int
			lsn := func() (at int) {
				fmt.Sscan(sql(b, postgres, "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint"), &at)
				return at
			}
			backend := standin.New(b)
			if test.postgres {
				databases++
				name := fmt.Sprintf("gateways%d", databases)
				sql(b, postgres, "CREATE DATABASE "+name)
				dataPath = postgres.URL("postgres", name)
				_, end := startBenchedGateway(b, backend.URL, dataPath) // makes the tables
				end()
				walBefore = lsn()
			}
			var urls []string
			var stop []func() time.Duration
			for range test.count {
				url, end := startBenchedGateway(b, backend.URL, dataPath)
				urls, stop = append(urls, url), append(stop, end)
			}
			bodies := make([][]byte, b.N)
			for i := range bodies {
				bodies[i], _ = json.Marshal(daemon.NewNode(b))
			}
			client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: benchConnections}}
			took := make([]time.Duration, b.N)
			var next atomic.Int64
			var senders sync.WaitGroup
			b.ResetTimer()
			for range benchConnections {
				senders.Go(func() {
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
			senders.Wait()
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "registrations/s")
			(&load.Figures{Latencies: took}).ReportTimes(b, "")
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
	dir := b.TempDir()
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte(standin.Secret), 0o600); err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(plainProgram(b), "--matrixdomain", standin.ServerName, "--matrixurl", backend+standin.SharedSecretPath, "--hstoken", standin.HSToken,
		"--sharesecret-file", secret, "--port", "0", "--datapath", dataPath, "--verbosity", "2", "--rate-limit", "0", "--total-rate-limit", "0")
	cmd.Dir = dir
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
	return "http://" + nodes + daemon.RegisterPath, end
}

// startPostgres starts one, until the benchmark ends.
func startPostgres(b *testing.B) *e2e.Postgres {
	b.Helper()
	p, err := e2e.StartPostgres(b.Context())
	if p != nil {
		b.Cleanup(func() {
			if err := p.Close(); err != nil {
				b.Error(err)
			}
		})
	}
	if err != nil {
		b.Fatal(err)
	}
	return p
}

// sql runs a statement as the superuser.
func sql(b *testing.B, p *e2e.Postgres, statement string) string {
	b.Helper()
	out, err := p.SQL(b.Context(), "postgres", statement)
	if err != nil {
		b.Fatal(err)
	}
	return out
}
