// looping_linux_test.go owns what nodes cost that are refused and come again each second for ever, as released Photon nodes do, and
// whether an honest one gets in meanwhile. What it prints stands in docs/operating.md. No verdict comes from the clock.

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
)

const (
	loopers     = 1000
	loopTime    = time.Minute // at least: the load goes on until the honest node is in
	photonPause = time.Second // before a node begins anew, whatever it was answered
)

func TestLoopingNodes(t *testing.T) {
	need.OnlyLong(t)
	recipe := Recipes[0]
	need.All(t, recipe.Installed(t.Context()), NginxInstalled())
	for _, test := range []struct {
		name    string
		refused int
		deploy  func(t *testing.T, honest *photon, nodes []*photon) *Deployment
	}{
		{"who is not admitted", http.StatusForbidden, deployAdmitting},
		{"whose password the homeserver does not have", http.StatusConflict, deployRegistered},
	} {
		t.Run(test.name, func(t *testing.T) {
			var answers, honestAnswers counts
			nodes := make([]*photon, loopers)
			for i := range nodes {
				nodes[i] = newPhoton(t, i, &answers)
			}
			honest := newPhoton(t, loopers, &honestAnswers)
			d := test.deploy(t, honest, nodes)
			l := looping{Deployment: d, nodes: nodes, honest: honest}
			before := l.cost(t)
			answers.by = nil // of the preparations
			took, tries := l.play(t)
			cost := l.cost(t)
			t.Logf("%d nodes for %v, the honest one in after %d tries:\n%v\nthe honest one:\n%v", loopers, took.Round(time.Second), tries, &answers, &honestAnswers)
			loops := answers.of(0, "register") // each with a GET of the versions and a login before
			for name, now := range cost {
				used := now.cpu - before[name].cpu
				t.Logf("%s: %v of CPU for %d loops: %.0f %% of a core, %.2f ms a loop; %d MiB", name, used, loops,
					100*used.Seconds()/took.Seconds(), used.Seconds()*1000/float64(max(1, loops)), now.memory>>20)
			}
			if answers.of(test.refused, "register") == 0 || answers.of(http.StatusOK, "login") > 0 {
				t.Errorf("that is not what the nodes were to be answered")
			}
		})
	}
}

// deployAdmitting starts a homeserver whose gateway admits the honest node alone.
func deployAdmitting(t *testing.T, honest *photon, nodes []*photon) *Deployment {
	list := filepath.Join(t.TempDir(), "admit")
	if err := os.WriteFile(list, []byte(honest.Localpart+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := deployWithLimits(t, Recipes[0], guideLimits(t, "deploy/synapse.yaml"), "--admit-file", list, "--verbosity", "3")
	for _, n := range append(nodes, honest) {
		n.server = d.NodeURL
	}
	return d
}

// deployRegistered starts a homeserver where all but the honest node are registered, and log in with another password.
func deployRegistered(t *testing.T, honest *photon, nodes []*photon) *Deployment {
	const unlimited = " --total-rate-limit 0"
	d := deployWithLimits(t, Recipes[0], guideLimits(t, "deploy/synapse.yaml"), "--verbosity", "3")
	script := filepath.Join(d.Gateway.Dir, "run.sh")
	restart := func(from, to string) {
		if err := d.Gateway.Restart(t.Context(), func() error { return edit(script, regexp.MustCompile(from), to) }); err != nil {
			t.Fatal(err)
		}
	}
	restart(` "\$@"`, unlimited+` "$@"`)
	queue := make(chan *photon)
	var workers sync.WaitGroup
	for range 8 {
		workers.Go(func() {
			for n := range queue {
				for n.ask(t.Context(), "register", http.MethodPost, registerPath, n.Registration).Status != http.StatusOK && t.Context().Err() == nil {
					time.Sleep(retryPause)
				}
				n.loginPassword = strings.Repeat("0", len(n.Password))
			}
		})
	}
	for _, n := range append(nodes, honest) {
		if n.server = d.NodeURL; n != honest {
			queue <- n
		}
	}
	close(queue)
	workers.Wait()
	restart(unlimited, "")
	return d
}

// looping is such nodes at a deployment.
type looping struct {
	*Deployment
	nodes  []*photon
	honest *photon
}

// play has all nodes loop, and after half of the time the honest one come. It ends when that is in, and the time is over.
func (l looping) play(t *testing.T) (took time.Duration, tries int) {
	ctx, end := context.WithCancel(t.Context())
	defer end()
	var looping sync.WaitGroup
	start := time.Now()
	for i, n := range l.nodes {
		looping.Go(func() {
			time.Sleep(photonPause * time.Duration(i) / loopers)
			for ctx.Err() == nil {
				n.login(ctx)
				sleep(ctx, photonPause)
			}
		})
	}
	sleep(ctx, loopTime/2)
	within, cancel := context.WithTimeout(ctx, startTime) // no machine is so busy
	defer cancel()
	for tries = 1; !l.honest.start(within, domain); tries++ {
		if sleep(within, photonPause); within.Err() != nil {
			t.Errorf("the honest node does not get in: %v", l.honest.answers)
			break
		}
	}
	sleep(ctx, time.Until(start.Add(loopTime)))
	took = time.Since(start)
	end()
	looping.Wait()
	return took, tries
}

func sleep(ctx context.Context, pause time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(pause):
	}
}

// A cost is what a process has used.
type cost struct {
	cpu    time.Duration
	memory int64
}

// cost reads what each process has used so far.
func (l looping) cost(t *testing.T) map[string]cost {
	t.Helper()
	all := map[string]cost{}
	for name, p := range map[string]*process{"gateway": l.Gateway.process, "homeserver": l.Homeserver.process, "nginx": l.nginx.process} {
		all[name] = readCost(t, p.cmd.Process.Pid)
	}
	return all
}

// residentLine is the memory of a process, in /proc.
var residentLine = regexp.MustCompile(`(?m)^VmRSS:\s+(\d+) kB$`)

func readCost(t *testing.T, pid int) cost {
	t.Helper()
	const ticks = 100 // a second, on every Linux that Go runs on
	stat := string(must(os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)))(t))
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	user, system := must(strconv.Atoi(fields[11]))(t), must(strconv.Atoi(fields[12]))(t)
	resident := residentLine.FindStringSubmatch(string(must(os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)))(t)))
	return cost{time.Duration(user+system) * time.Second / ticks, int64(must(strconv.Atoi(resident[1]))(t)) << 10}
}
