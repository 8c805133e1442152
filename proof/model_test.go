// model_test.go owns the random test: what can happen to a gateway in any order, and what holds whatever happened.
//
// The invariants are: no 200 without the account and its password; nothing acknowledged is lost, and after an older copy of
// the store the account is adopted and never called another's; nobody has an account without both proofs; an account that
// others made is never taken over; createUser is never called for an account that is there; nothing stays pending once all
// is quiet, behind Matrix Authentication Service until its node's next try; no secret in the log.

package proof

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e"
	"github.com/SmartMeshFoundation/matrix-regservice/e2e/daemon"
	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
)

// How long the random test is: runs of each combination of an API with a store, and steps of each run.
const (
	shortRuns, shortSteps = 1, 16
	longRuns, longSteps   = 6, 24
)

// modelLength is the seed of the first run, and how many there are. MODEL_SEED, MODEL_RUNS and MODEL_STEPS say otherwise: with
// the seed that a failure prints the same steps are drawn again. What the machine makes of them is another matter: processes
// are killed, and calls overtake each other.
func modelLength(t *testing.T) (seed uint64, runs, steps int) {
	t.Helper()
	seed, runs, steps = rand.Uint64N(1e9), shortRuns, shortSteps
	if need.Long() {
		runs, steps = longRuns, longSteps
	}
	for name, set := range map[string]func(string) error{
		"MODEL_SEED":  func(text string) (err error) { seed, err = strconv.ParseUint(text, 10, 64); return err },
		"MODEL_RUNS":  func(text string) (err error) { runs, err = strconv.Atoi(text); return err },
		"MODEL_STEPS": func(text string) (err error) { steps, err = strconv.Atoi(text); return err },
	} {
		if text := os.Getenv(name); text != "" {
			if err := set(text); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
	t.Logf("MODEL_SEED=%d MODEL_RUNS=%d MODEL_STEPS=%d", seed, runs, steps)
	return seed, runs, steps
}

// TestModel runs every combination of an API with a store.
func TestModel(t *testing.T) {
	seed, runs, steps := modelLength(t)
	if _, err := withClock(); err != nil {
		t.Fatal(err)
	}
	for _, api := range []struct{ name, path string }{{"createUser", createUser}, {"shared secret", sharedSecret}, {"MAS", masUsers}} {
		t.Run(api.name+"/BoltDB", func(t *testing.T) {
			t.Parallel()
			eachRun(t, seed, runs, steps, func(t *testing.T) plan {
				return plan{api: api.path, store: newBoltFiles(t.TempDir())}
			})
		})
		t.Run(api.name+"/PostgreSQL", func(t *testing.T) {
			t.Parallel()
			need.All(t, e2e.PostgresInstalled())
			eachRun(t, seed, runs, steps, func(t *testing.T) plan {
				store, err := newPostgresTables(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				return plan{api: api.path, store: store}
			})
		})
	}
}

// eachRun makes a world for each run, and ends with the first that fails.
func eachRun(t *testing.T, seed uint64, runs, steps int, newPlan func(*testing.T) plan) {
	t.Helper()
	counts := map[string]int{}
	combination := fnv.New64() // so that each draws steps of its own
	io.WriteString(combination, t.Name())
	for i := range runs {
		seed := seed + uint64(i)
		if ok := t.Run(strconv.Itoa(i), func(t *testing.T) {
			defer func() {
				if t.Failed() {
					name := strings.TrimSuffix(t.Name(), "/"+strconv.Itoa(i))
					t.Logf("again: MODEL_SEED=%d MODEL_RUNS=1 MODEL_STEPS=%d go test -race -count=1 -run '%s' ./proof", seed, steps, name)
				}
			}()
			maps.Copy(counts, runModel(t, rand.New(rand.NewPCG(seed, combination.Sum64())), steps, newPlan(t), counts))
		}); !ok {
			break
		}
	}
	var figures []string
	for what, count := range counts {
		figures = append(figures, fmt.Sprintf("%d %s", count, what))
	}
	slices.Sort(figures)
	t.Log(strings.Join(figures, ", "))
}

// runModel is one run: steps in a random order, and then quiet. It returns the counts with what happened added to them.
func runModel(t *testing.T, random *rand.Rand, steps int, p plan, counts map[string]int) map[string]int {
	t.Helper()
	switch p.api {
	case sharedSecret:
		p.dendrite = random.IntN(4) == 0
	case masUsers:
		p.oldMAS = random.IntN(4) == 0
	}
	m := &model{world: newWorld(t, p), random: random}
	weighed := []struct {
		weight int
		step   func()
	}{
		{2, func() { m.nodesCome(1, 0) }},
		{2, func() { m.nodesCome(4, 0) }},
		{5, func() { m.nodesCome(2, 2) }},
		{5, func() { m.nodesCome(5, 6) }},
		{1, m.impostors},
		{1, m.restarted},
		{2, m.clockSet},
		{2, m.othersRegister},
		{3, m.operatorChanges},
		{1, m.copies},
		{2, m.restores},
		{1, m.forgetTokens},
	}
	var all []func()
	for _, w := range weighed {
		for range w.weight {
			all = append(all, w.step)
		}
	}
	for range steps {
		pick(random, all)()
		m.judged()
	}
	m.quiet()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.counts["nodes"] = len(m.nodes)
	for what, count := range counts {
		m.counts[what] += count
	}
	return m.counts
}

func pick[E any](random *rand.Rand, of []E) E { return of[random.IntN(len(of))] }

// A model is a world to which things happen.
type model struct {
	*world
	random     *rand.Rand
	clockMoved bool // it was wrong by more than a minute
}

// slowShare is one of how many storms of faults has one that takes seconds.
const slowShare = 10

// callsToFail are calls that a fault can meet, some of them more often.
func (m *model) callsToFail() []call {
	switch m.api {
	case createUser:
		return []call{callCreate, callProfile, callCreate, callProfile, callKey}
	case sharedSecret:
		return []call{callRegister, callNonce, callProfile, callRegister, callVersion, callKey}
	}
	return []call{callAdd, callPassword, callSetName, callProfile, callByName, callToken, callAdd, callPassword, callKey}
}

// drawNode draws one of the nodes, or a new one.
func (m *model) drawNode() *node {
	if i := m.random.IntN(len(m.nodes) + 2); i < len(m.nodes) {
		return m.nodes[i]
	}
	return m.newNode()
}

// nodesCome has nodes register, several at once and each several times, perhaps with faults and a kill meanwhile.
func (m *model) nodesCome(mostNodes, mostFaults int) {
	var coming []*node
	for range 1 + m.random.IntN(mostNodes) {
		n := m.drawNode()
		for range pick(m.random, []int{1, 1, 1, 2, 5}) {
			coming = append(coming, n)
		}
	}
	m.come(coming, mostFaults)
}

// come has these nodes register at once. A node without an answer tries again. One that finds no gateway starts
// one.
func (m *model) come(coming []*node, mostFaults int) {
	var faults []plannedFault
	killAt := time.Duration(-1)
	if mostFaults > 0 {
		for range 1 + m.random.IntN(mostFaults) {
			f := plannedFault{pick(m.random, m.callsToFail()), pick(m.random, quickFaults)}
			if f.at == callAdd && m.random.IntN(4) == 0 {
				f.fault = cutBetween
			}
			faults = append(faults, f)
		}
		if m.random.IntN(slowShare) == 0 {
			faults[0].fault = pick(m.random, slowFaults)
		}
		if m.random.IntN(4) == 0 {
			killAt = time.Duration(m.random.IntN(100)) * time.Millisecond
		}
	}
	m.tell("%d registrations of %d nodes at once; faults: %v; killed after %v", len(coming), len(slices.Compact(slices.Clone(coming))), faults, killAt)
	m.faults(faults)
	m.must(m.up())
	var all sync.WaitGroup
	if killAt >= 0 {
		all.Go(func() {
			time.Sleep(killAt)
			m.fakeHomeserver.kill()
		})
	}
	failed := make(chan error, len(coming))
	for _, n := range coming {
		all.Go(func() {
			for range 3 {
				if err := m.up(); err != nil {
					failed <- err
					return
				}
				if m.send(n).status != 0 {
					return
				}
			}
		})
	}
	all.Wait()
	m.faults(nil)
	close(failed)
	for err := range failed {
		m.must(err)
	}
	m.settle()
	if m.gateway.process() == nil {
		m.checkRecords()
	}
}

// impostors ask for an account without its key, in every way: of an address that nobody proved, or of a node that is there.
func (m *model) impostors() {
	of := m.drawNode()
	m.must(m.up())
	for _, how := range slices.Sorted(maps.Keys(impostures)) {
		body, _ := json.Marshal(impostures[how](of.Registration, of.key, keyOf(-1)))
		a := m.gateway.post(context.Background(), body)
		m.tell("%s as %s was answered %d %s", how, of.Localpart, a.status, a.Errcode)
		if a.status != 400 {
			m.fails("nobody has an account without both proofs: %s as %s was answered %d %s", how, of.Localpart, a.status, a.body)
		}
	}
	m.settle()
}

// restarted stops the gateway, or kills it.
func (m *model) restarted() {
	m.end()
	m.checkRecords()
	m.judged()
	m.must(m.restart())
}

// end ends the gateway, in one way or the other.
func (m *model) end() {
	if m.random.IntN(2) == 0 {
		m.tell("the gateway is killed")
		m.gateway.kill()
		return
	}
	m.tell("the gateway is stopped")
	m.must(m.gateway.stop())
}

// wrongClocks are by how much the clock is wrong. Up to a minute is what the gateway says it can stand, where it compares its
// clock with another's.
var wrongClocks = []time.Duration{-5 * 365 * 24 * time.Hour, -2 * time.Hour, -90 * time.Second, -5 * time.Second, 0, 5 * time.Second, 90 * time.Second, 2 * time.Hour, 5 * 365 * 24 * time.Hour}

// clockSet sets the clock, while the gateway runs.
func (m *model) clockSet() {
	clocks := wrongClocks
	if m.plan.oldMAS {
		// There an account that shows no name may be the node's, half made, and its age tells, which is held against the
		// record's: with a clock that is slow by more than that age, it would be the node's.
		clocks = clocks[3:]
	}
	by := pick(m.random, clocks)
	m.tell("the clock is wrong by %v", by)
	m.clockMoved = m.clockMoved || by.Abs() > time.Minute
	m.must(m.clock.set(by))
}

// othersRegister has others make an account under the name of a node that has not come yet, and perhaps comes now.
func (m *model) othersRegister() {
	n := m.newNode()
	names := []string{"", n.Localpart, "somebody", n.DisplayName + " ", strings.ToUpper(n.DisplayName), m.nodes[0].DisplayName}
	if n == m.nodes[0] {
		names = names[:5]
	}
	name := pick(m.random, names)
	where := atBoth
	if m.api == masUsers {
		where = pick(m.random, []halves{atBoth, atMASAlone, atHomeserverAlone})
	}
	m.tell("others make the account of %s, with the display name %q (%d)", n.Localpart, name, where)
	m.others(n.Localpart, name, where, time.Now().Add(-time.Hour))
	if m.random.IntN(2) == 0 {
		m.come([]*node{n}, 4)
	}
}

// operatorChanges has the operator do something to accounts that this service made, or the homeserver lose them.
func (m *model) operatorChanges() {
	what := pick(m.random, []string{"forgets one", "forgets one", "forgets all", "renames", "deactivates", "locks"})
	var changed []*node
	for _, n := range m.nodes {
		if a, there := m.account(n.Localpart); there && !a.othersMade {
			changed = append(changed, n)
		}
	}
	if len(changed) == 0 {
		return
	}
	if what != "forgets all" {
		changed = []*node{pick(m.random, changed)}
	}
	for _, n := range changed {
		m.tell("the homeserver %s: %s", what, n.Localpart)
		switch what {
		case "renames":
			m.change(n.Localpart, func(a *account) { a.name, a.renamed = "a better name", true })
		case "deactivates":
			m.change(n.Localpart, func(a *account) {
				a.deactivated, a.hash, a.password = true, "", "none"
				a.profile = m.api != masUsers // which has it erased
			})
		case "locks":
			m.change(n.Localpart, func(a *account) { a.locked = true })
		default:
			m.forget(n.Localpart)
		}
	}
}

// copies makes a copy of the store, while the gateway runs or not.
func (m *model) copies() {
	if m.random.IntN(2) == 0 {
		m.end()
	}
	before := m.records()
	m.must(m.store.copy(context.Background(), m.gateway.program))
	after := m.records() // the gateway may have been reconciling
	m.copied = map[string]bool{}
	for localpart, record := range before {
		if record.State == "registered" && after[localpart].State == "registered" {
			m.copied[localpart] = true
		}
	}
	m.tell("the store is copied, with %d registered", len(m.copied))
	m.must(m.up())
}

// restores puts the older copy in the store's place.
func (m *model) restores() {
	if m.copied == nil {
		m.copies()
		return
	}
	m.end()
	m.tell("the older copy is restored")
	m.must(m.store.restore(context.Background(), m.gateway.program))
	for _, n := range m.nodes {
		n.told, n.lapsed = m.copied[n.Localpart], n.told && !m.copied[n.Localpart] || n.lapsed
		if a, there := m.account(n.Localpart); there && !a.othersMade && !n.told {
			n.lapsed = true // an attempt may have begun since
		}
	}
	m.checkRecords()
	m.judged()
	m.must(m.restart())
}

// quiet ends a run: nothing goes wrong any more, every node that ever came tries again, and all has to be well.
func (m *model) quiet() {
	m.t.Helper()
	m.tell("quiet")
	m.waitIdle()
	m.must(m.gateway.stop())
	later := -2 * wrongClocks[0] // than every record, or long before: what is pending can be reconciled
	if !m.plan.oldMAS && m.random.IntN(2) == 0 {
		later = -later
	}
	m.must(m.clock.set(later))
	m.must(m.restart())
	if m.api != masUsers {
		for begun := time.Now(); m.pending() > 0; time.Sleep(50 * time.Millisecond) {
			if time.Since(begun) > daemon.Patience {
				m.fails("nothing stays pending once all is quiet: %d are", m.pending())
			}
		}
	}
	m.settle()
	records := m.checkRecords()
	untold := map[string]bool{}
	for _, n := range m.nodes {
		if _, came := m.proven[n.Localpart]; came {
			untold[n.Localpart] = !m.triesInQuiet(n, records[n.Localpart].State)
		}
	}
	m.settle()
	m.must(m.gateway.stop())
	for localpart, record := range m.checkRecords() {
		if record.State != "registered" && !untold[localpart] {
			m.fails("nothing stays pending once all is quiet: %s is %s", localpart, record.State)
		}
	}
	m.mu.Lock()
	secrets := maps.Clone(m.secrets)
	m.mu.Unlock()
	for _, found := range findSecrets(secrets, m.gateway.log()) {
		m.fails("no secret in the log: %s", found)
	}
	m.judged()
}

// triesInQuiet has the node register, holds the answer against what is true, and tells whether the service could tell whose
// the account is.
func (m *model) triesInQuiet(n *node, state string) (told bool) {
	m.t.Helper()
	want := m.wantInQuiet(n, state)
	got := answer{}
	for range 10 { // a busy machine's homeserver may be too slow for a while
		if got = m.send(n); slices.Contains(want, got.status) || got.status != 429 && got.status != 502 && got.status != 503 {
			break
		}
		m.must(m.gateway.stop()) // which forgets what look-ups said
		m.must(m.restart())
	}
	if !slices.Contains(want, got.status) {
		a, there := m.account(n.Localpart)
		m.fails("once all is quiet: %s was answered %d %s, want %v; its record was %q, its account (%v) is %+v", n.Localpart, got.status, got.body, want, state, there, a)
	}
	return got.status != 502
}

// wantInQuiet is what the table of docs/design.md has for the node.
func (m *model) wantInQuiet(n *node, state string) []int {
	a, there := m.account(n.Localpart)
	shown := a.name
	if !a.profile {
		shown = ""
	}
	isOwn, isPending := shown == n.DisplayName, state == "pending"
	isUnnamed := m.api == masUsers && (shown == "" || shown == n.Localpart)
	switch {
	case !there:
		return []int{200}
	case state == "registered":
		return []int{409}
	case m.api == masUsers && a.id == "" && isPending && isOwn: // cut off between its halves
		return []int{200}
	case m.api == masUsers && a.id == "": // the homeserver has it alone: reserved
		return []int{502}
	case isOwn:
		return []int{200}
	case isUnnamed && isPending && (a.othersMade || a.deactivated):
		return []int{502}
	case isUnnamed && isPending && m.clockMoved: // the account's age is held against the record's, by two clocks
		return []int{200, 502}
	case isUnnamed && isPending:
		return []int{200}
	case m.api == masUsers && shown == n.Localpart: // its record is lost
		return []int{502}
	}
	return []int{409}
}
