// bench_test.go owns the figures of docs/performance.md: the program itself under load, as a process of its own before a
// homeserver that answers at once, and its store. bench/ makes the table of them.

package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/log"
	bolt "go.etcd.io/bbolt"
)

// A whole registration through the served program: real HTTP, both records on disk. Rounds of requests that are signed
// beforehand; the processor time is the gateway's alone.
func BenchmarkRegister(b *testing.B) {
	binary := buildGateway(b)
	for _, api := range apis {
		for _, conns := range benchConns() {
			b.Run(fmt.Sprintf("api=%s/conns=%d", strings.ReplaceAll(api.name, " ", ""), conns), func(b *testing.B) {
				g := startGateway(b, binary, b.TempDir(), startInstantHomeserver(b).url, api.path)
				g.register(b, conns)
			})
		}
	}
}

func benchConns() []int {
	if testing.Short() {
		return []int{1, 64}
	}
	return []int{1, 2, 4, 8, 16, 32, 64, 128}
}

// register measures rounds of registrations over so many connections.
func (g *benchGateway) register(b *testing.B, conns int) {
	b.Helper()
	perConn := 20
	if conns == 1 {
		perConn = 100
	}
	g.send(b, conns, aim{status: "200"}, newRequests(b, conns)) // connections and memory as they are when it has run a while
	var all figures
	for b.Loop() {
		b.StopTimer()
		requests := newRequests(b, conns*perConn)
		b.StartTimer()
		all.add(g.send(b, conns, aim{status: "200"}, requests))
	}
	all.report(b, "registration")
}

// Requests that are refused before anything is asked or written, at the handler and at the served program.
func BenchmarkReject(b *testing.B) {
	good, other := newSigned(b), newSigned(b)
	badForm, badSignature := good, good
	badForm.Password = strings.ToUpper(good.Password)
	badSignature.Password = other.Password // of the second signature, so that both are looked at
	refused := []struct {
		name  string
		proof registration
	}{{"form", badForm}, {"signature", badSignature}}

	for _, r := range refused {
		b.Run("handler/"+r.name, func(b *testing.B) {
			d := newGateway(b, homeserver.SharedSecretPath)
			log.SetDefault(newLogger(io.Discard, config.Config{Verbosity: 3})) // newGateway puts it back
			body, err := json.Marshal(r.proof)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				request := httptest.NewRequest(http.MethodPost, registerPath, strings.NewReader(string(body)))
				request.Header.Set("Content-Type", "application/json")
				w := httptest.NewRecorder()
				if d.handler.ServeHTTP(w, request); w.Code != 400 {
					b.Fatal(w.Code)
				}
			}
		})
	}
	binary := buildGateway(b)
	for _, kept := range []bool{true, false} {
		for _, r := range refused {
			name, headers := "kept/", []string(nil)
			if !kept {
				name, headers = "closed/", []string{"Connection: close"}
			}
			b.Run(name+r.name, func(b *testing.B) {
				g := startGateway(b, binary, b.TempDir(), startInstantHomeserver(b).url, homeserver.SharedSecretPath)
				requests := make([][]byte, 5000)
				for i := range requests {
					requests[i] = registerMessage(b, r.proof, headers...)
				}
				var all figures
				for b.Loop() {
					all.add(g.send(b, 16, aim{status: "400", dialEach: !kept}, requests))
				}
				all.report(b, "request")
			})
		}
	}
}

// Transactions of a hundred events, 400 kB, drained by the served program, and by how much they raise its anonymous
// memory, in MiB.
func BenchmarkTransaction(b *testing.B) {
	g := startGateway(b, buildGateway(b), b.TempDir(), startInstantHomeserver(b).url, homeserver.SharedSecretPath)
	event := `{"type":"m.room.message","content":{"body":"` + strings.Repeat("x", 4000) + `"}},`
	body := `{"events":[` + strings.TrimSuffix(strings.Repeat(event, 100), ",") + `]}`
	requests := make([][]byte, 200)
	for i := range requests {
		requests[i] = httpMessage("PUT", modernPath+"/transactions/"+strconv.Itoa(i), body, "Authorization: Bearer "+testHSToken)
	}
	before := g.rssAnon(b)
	var all figures
	for b.Loop() {
		all.add(g.send(b, 1, aim{status: "200"}, requests)) // a homeserver sends one at a time
	}
	all.report(b, "transaction")
	b.ReportMetric(all.cpu.Seconds()*1e9/float64(len(body)*len(all.latencies)), "cpu-ns/B")
	b.ReportMetric(g.rssAnon(b)-before, "MiB-more")
}

// The first durable write of a registration, with so many writers at once.
func BenchmarkReserve(b *testing.B) {
	for _, writers := range []int{1, 16, 128} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			s, err := openBoltStore(b.TempDir())
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
	var f figures
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
					f.latencies = append(f.latencies, time.Since(began))
					mu.Unlock()
				}
			})
		}
		all.Wait()
		f.took += time.Since(start)
		next += writers * each
	}
	b.ReportMetric(float64(len(f.latencies))/f.took.Seconds(), "reserve/s")
	b.ReportMetric(f.p50().Seconds()*1e3, "p50-ms")
}

// benchNode is the node of a test's record.
func benchNode(i int) node {
	r := testRecord(i, statePending)
	return node{common.HexToAddress(r.Localpart), homeserver.Account{Localpart: r.Localpart, UserID: r.UserID, DisplayName: r.DisplayName}}
}

// What depends on how much the store holds, and should not.
func BenchmarkSize(b *testing.B) {
	binary := buildGateway(b)
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
					s, err := openBoltStore(dir)
					if err != nil {
						b.Fatal(err)
					}
					s.Close()
				}
			})
			b.Run("reserve", func(b *testing.B) {
				s, err := openBoltStore(dir)
				if err != nil {
					b.Fatal(err)
				}
				defer s.Close()
				reserveRounds(b, s, 1, size)
			})
			b.Run("start", func(b *testing.B) { // from the program's start to its first answer
				h := startInstantHomeserver(b)
				var f figures
				var memory float64
				for b.Loop() {
					g := startGateway(b, binary, dir, h.url, homeserver.SharedSecretPath)
					f.latencies, memory = append(f.latencies, g.ready), g.rssAnon(b)
					g.stop(b)
				}
				b.ReportMetric(f.p50().Seconds()*1e3, "p50-ms")
				b.ReportMetric(memory, "MiB")
			})
			b.Run("register", func(b *testing.B) {
				g := startGateway(b, binary, dir, startInstantHomeserver(b).url, homeserver.SharedSecretPath)
				g.register(b, 1)
				b.ReportMetric(g.rssAnon(b), "MiB")
			})
		})
	}
}

// fillSorted puts so many registered nodes into a new store, in the order of their addresses: a million in seconds.
func fillSorted(b *testing.B, dir string, size int) {
	b.Helper()
	s, err := openBoltStore(dir)
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
			return addToCount(tx, stateRegistered, len(some))
		}); err != nil {
			b.Fatal(err)
		}
	}
}

// The program's anonymous memory: at rest, and after very many registrations.
func BenchmarkMemory(b *testing.B) {
	const conns = 64
	rounds := 100_000 / (conns * 20)
	if testing.Short() {
		rounds = 1
	}
	binary := buildGateway(b)
	for b.Loop() {
		g := startGateway(b, binary, b.TempDir(), startInstantHomeserver(b).url, homeserver.SharedSecretPath)
		idle := g.rssAnon(b)
		var all figures
		for range rounds {
			all.add(g.send(b, conns, aim{status: "200"}, newRequests(b, conns*20)))
		}
		all.report(b, "registration")
		b.ReportMetric(idle, "MiB-idle")
		b.ReportMetric(g.rssAnon(b), "MiB-after")
		g.stop(b)
	}
}
