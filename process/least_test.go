// least_test.go owns the ratios of docs/performance.md: the program beside bench/least, the least that does the same, in turns so
// short that whatever else the machine does falls on both.

package process

import (
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e"
	"github.com/SmartMeshFoundation/matrix-regservice/e2e/daemon"
	"github.com/SmartMeshFoundation/matrix-regservice/e2e/load"
	"github.com/SmartMeshFoundation/matrix-regservice/e2e/mas"
	"github.com/SmartMeshFoundation/matrix-regservice/e2e/standin"
	"github.com/ethereum/go-ethereum/crypto"
	"golang.org/x/sys/unix"
)

// least is the path of the least, built.
var least = sync.OnceValues(func() (string, error) {
	path := filepath.Join(built, "least")
	if out, err := exec.Command("go", "build", "-o", path, "../bench/least").CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

// A rival is one of the programs that are measured in turn.
type rival struct {
	name string // before those of its figures
	*load.Gateway
}

// startRivals starts the program, the least, and the least with what the program promises besides, each with a store of its own,
// before the same homeserver.
func startRivals(b *testing.B) []rival {
	b.Helper()
	path, err := least()
	if err != nil {
		b.Fatal(err)
	}
	h := load.StartHomeserver(b)
	return []rival{
		{"", load.Start(b, plainProgram(b), b.TempDir(), h.URL, standin.SharedSecretPath)},
		{"least-", load.StartLeast(b, path, b.TempDir(), h.URL, standin.Secret)},
		{"promises-", load.StartLeast(b, path, b.TempDir(), h.URL, standin.Secret, "promises")},
	}
}

// turns is how often each of those that are compared has its turn.
func turns() int {
	if testing.Short() {
		return 1
	}
	return 41
}

// A series is what each figure was in each turn.
type series map[string][]float64

func (s series) add(name string, value float64) { s[name] = append(s[name], value) }

// report tells the median of each, and of a ratio the quartiles too.
func (s series) report(b *testing.B) {
	b.ReportMetric(0, "ns/op") // of all turns, which says nothing
	for name, values := range s {
		slices.Sort(values)
		b.ReportMetric(values[len(values)/2], name)
		if strings.Contains(name, "/") {
			b.ReportMetric(values[len(values)/4], name+"-low")
			b.ReportMetric(values[len(values)*3/4], name+"-high")
		}
	}
}

// Registrations at the program and at the least, by one node, by 8 and by 64 at once.
func BenchmarkBeside(b *testing.B) {
	for _, kept := range []bool{false, true} {
		b.Run(keptName[kept], func(b *testing.B) {
			rivals := startRivals(b)
			aim := load.Aim{Status: "200", DialEach: !kept}
			warm := load.NewRequests(b, 640, kept)
			for _, r := range rivals {
				r.Send(b, 64, aim, warm)
			}
			all := make(series)
			for b.Loop() {
				for turn := range turns() {
					at8 := besides(b, all, turn, rivals, 8, 20, aim)
					at64 := besides(b, all, turn, rivals, 64, 6, aim)
					besides(b, all, turn, rivals, 1, 60, aim)
					for i, r := range rivals {
						all.add(r.name+"cpu-8/64", at8[i]/at64[i])
					}
				}
			}
			all.report(b)
		})
	}
}

// besides has each send the same requests, each first by turns, and returns the processor time of a registration at each. The second is
// what the others are held against.
func besides(b *testing.B, all series, turn int, rivals []rival, conns, each int, aim load.Aim) (cpu []float64) {
	b.Helper()
	requests := load.NewRequests(b, conns*each, !aim.DialEach)
	n := float64(len(requests))
	seen := make([]map[string]float64, len(rivals))
	for i := range rivals {
		at := (i + turn) % len(rivals)
		f := rivals[at].Send(b, conns, aim, requests)
		seen[at] = map[string]float64{"cpu-ms": f.CPU.Seconds() * 1e3 / n, "rate": n / f.Took.Seconds(), "p50-ms": f.P50().Seconds() * 1e3}
	}
	for i, r := range rivals {
		cpu = append(cpu, seen[i]["cpu-ms"])
		for what, value := range seen[i] {
			all.add(fmt.Sprintf("%s%s-%d", r.name, what, conns), value)
			if i != 1 {
				all.add(fmt.Sprintf("%s%s/least-%d", r.name, what, conns), value/seen[1][what])
			}
		}
	}
	return cpu
}

// Requests that are refused before anything is asked or written. Anybody can send a good display name, which is shown, with a
// password of another: one signature is looked at. Only who has the key can send a good password with a bad display name.
func BenchmarkReject(b *testing.B) {
	good, other := daemon.NewNode(b), daemon.NewNode(b)
	badForm, badPassword, badName := good, good, good
	badForm.Password = good.Password[2:]
	badPassword.Password = other.Password
	badName.DisplayName = good.DisplayName[:5] + other.DisplayName[5:]
	for _, kept := range []bool{false, true} {
		for _, r := range []struct {
			name string
			node e2e.Registration
		}{{"form", badForm}, {"password", badPassword}, {"name", badName}} {
			b.Run(keptName[kept]+"/"+r.name, func(b *testing.B) {
				rivals := startRivals(b)
				requests := make([][]byte, 1000)
				for i := range requests {
					requests[i] = load.RegisterMessage(b, r.node, kept)
				}
				all := make(series)
				for b.Loop() {
					for range turns() {
						recover2 := 2 * recoverTime(b)
						for _, g := range rivals {
							refused := g.Send(b, 16, load.Aim{Status: "400", DialEach: !kept}, requests)
							each := refused.CPU.Seconds() * 1e3 / float64(len(requests))
							all.add(g.name+"cpu-ms", each)
							all.add(g.name+"cpu/ecrecovers", each/recover2)
						}
					}
				}
				all.report(b)
			})
		}
	}
}

// recoverTime is the processor time of an ecrecover, in ms, at this moment.
func recoverTime(b *testing.B) float64 {
	b.Helper()
	digest, signature := signedDigest(b)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const times = 500
	before := threadTime(b)
	for range times {
		if _, err := crypto.Ecrecover(digest, signature); err != nil {
			b.Fatal(err)
		}
	}
	return (threadTime(b) - before).Seconds() * 1e3 / times
}

// threadTime is the processor time of the caller's thread.
func threadTime(b *testing.B) time.Duration {
	b.Helper()
	var used unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Nano())
}

// Registrations by 8 nodes at once behind Matrix Authentication Service, through the program, through the least, and by the same
// calls without either. The stand-in takes as long as a real one was measured to.
func BenchmarkMAS(b *testing.B) {
	h := standin.New(b)
	for call, takes := range map[string]time.Duration{standin.MASCreate: 15 * time.Millisecond, standin.Password: 25 * time.Millisecond} {
		h.Fail(call, func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(takes)
			h.Right(call)(w, r)
		})
	}
	const conns, each = 8, 6
	path, err := least()
	if err != nil {
		b.Fatal(err)
	}
	token := h.MAS.Token()
	program := load.Start(b, plainProgram(b), b.TempDir(), h.URL, standin.MASPath)
	leasts := load.StartLeast(b, path, b.TempDir(), h.URL, token, "mas")
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: conns}}
	ask := func(path, body string, want int) string {
		req, err := http.NewRequest(http.MethodPost, h.URL+path, strings.NewReader(body))
		if err != nil {
			b.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		res, err := client.Do(req)
		if err != nil {
			b.Error(err)
			return ""
		}
		defer res.Body.Close()
		said, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != want {
			b.Errorf("%s: got %d %s, %v", path, res.StatusCode, said, err)
		}
		return string(said)
	}
	through := func(g *load.Gateway) func() time.Duration {
		return func() time.Duration {
			return g.Send(b, conns, load.Aim{Status: "200", DialEach: true}, load.NewRequests(b, conns*each, false)).Took
		}
	}
	without := func() time.Duration {
		var nodes sync.WaitGroup
		var signed [conns * each]e2e.Registration
		for i := range signed {
			signed[i] = daemon.NewNode(b)
		}
		start := time.Now()
		for mine := range slices.Chunk(signed[:], each) {
			nodes.Go(func() {
				for _, node := range mine {
					said := ask(standin.MASPath, fmt.Sprintf(`{"username":%q,"displayname":%q}`, node.Localpart, node.DisplayName), 201)
					_, id, _ := strings.Cut(said, `"id":"`)
					id, _, _ = strings.Cut(id, `"`)
					ask(standin.MASPath+"/"+id+mas.PasswordPath, fmt.Sprintf(`{"password":%q,"skip_password_check":true}`, node.Password), 204)
				}
			})
		}
		nodes.Wait()
		return time.Since(start)
	}
	rivals := []func() time.Duration{through(program), through(leasts), without}
	for _, register := range rivals {
		register()
	}
	all := make(series)
	for b.Loop() {
		for turn := range turns() {
			took := make([]time.Duration, len(rivals))
			for i := range rivals {
				at := (i + turn) % len(rivals)
				took[at] = rivals[at]()
			}
			all.add("through/without", took[2].Seconds()/took[0].Seconds())
			all.add("least-through/without", took[2].Seconds()/took[1].Seconds())
			all.add("registration/s", conns*each/took[0].Seconds())
		}
	}
	all.report(b)
}
