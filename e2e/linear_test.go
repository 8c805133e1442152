// linear_test.go owns three gateways on one record while gateways are frozen beyond their leases and killed, and PostgreSQL
// fails over: what all nodes were told meanwhile has to be what one register for each address would have said, one call after
// the other. linear_model_test.go says what that is.

package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
	"github.com/SmartMeshFoundation/matrix-regservice/e2e/standin"
)

const (
	linearClients = 10 // each with one call at a time
	linearHot     = 6  // nodes that are registered at one time
	linearCalls   = 12 // to a node, until another takes its place
	linearOld     = 6  // one of so many calls is to a node whose place another has taken

	linearDatabase = "regservice"
	standbyName    = "follower"
	leaseLine      = "it took longer than its lease" // in a gateway's log, where it did not write
	frozenAtLeast  = 12
)

// A linearCluster is several gateways with one record before one homeserver, and those who register there.
type linearCluster struct {
	homeserver *linearHomeserver
	program    *Program
	dir        string
	all        []*Gateway
	hsTokens   []string
	seed       uint64
	history    *linearHistory
	quiet      atomic.Int32 // odd while nobody asks for users, since what a standby lacks can be read then

	mu    sync.Mutex
	hot   []*linearNode
	nodes []*linearNode // all that ever were
}

// A linearNode is a node, and how often it was asked for.
type linearNode struct {
	*soakNode
	calls int
}

// newLinearCluster makes the gateways, which do not run yet, for the record at the URL.
func newLinearCluster(t *testing.T, storeURL string) *linearCluster {
	t.Helper()
	seed := rand.Uint64()
	if text := os.Getenv("LINEAR_SEED"); text != "" {
		seed = must(strconv.ParseUint(text, 10, 64))(t)
	}
	t.Logf("LINEAR_SEED=%d: what clients and the homeserver choose comes from it, and not what the machine makes of that", seed)
	c := &linearCluster{homeserver: newLinearHomeserver(t, rand.New(rand.NewPCG(seed, 0))), dir: t.TempDir(), seed: seed, history: newLinearHistory()}
	bin := filepath.Join(c.dir, "bin")
	store := filepath.Join(c.dir, "store_url")
	if err := errors.Join(os.Mkdir(bin, 0o700), os.WriteFile(store, []byte(storeURL+"\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	c.program = must(Build(t.Context(), bin))(t)
	lastLine := regexp.MustCompile(`(?m)^exec .*$`)
	for i, port := range must(freePorts(gateways))(t) {
		dir := filepath.Join(c.dir, fmt.Sprintf("gateway%d", i))
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		g := newGateway(c.program, domain, c.homeserver.URL+SharedSecretPath, dir, dir+".log", port, "--datapath-file", store, "--sharesecret", standin.Secret)
		must(g.Genconfig(t.Context()))(t)
		run := filepath.Join(dir, "run.sh")
		command := lastLine.Find(must(os.ReadFile(run))(t))
		if err := edit(run, lastLine, string(command)+" --rate-limit 0 --total-rate-limit 0"); err != nil { // all nodes here have one address
			t.Fatal(err)
		}
		c.all, c.hsTokens = append(c.all, g), append(c.hsTokens, must(g.tokens())(t)["hs_token"])
	}
	t.Cleanup(func() {
		for _, g := range c.all {
			if t.Failed() {
				t.Logf("--- the end of %s ---\n%s", g.LogFile, logTail(g.LogFile))
			}
			if g.process != nil {
				g.Thaw()
			}
			if _, err := g.Stop(); err != nil {
				t.Error(err)
			}
		}
	})
	return c
}

// start starts all gateways.
func (c *linearCluster) start(t *testing.T) {
	t.Helper()
	for _, g := range c.all {
		if err := g.Start(t.Context()); err != nil {
			t.Fatalf("%v\n%s", err, logTail(g.LogFile))
		}
	}
}

// stop ends all gateways as an operator does: no attempt runs after that.
func (c *linearCluster) stop(t *testing.T) {
	t.Helper()
	for _, g := range c.all {
		if code, err := g.Stop(); err != nil || code != 0 {
			t.Errorf("%s ended with exit code %d, %v", g.Dir, code, err)
		}
	}
}

// node returns a node that is registered now, one that takes its place, or one from before.
func (c *linearCluster) node(t *testing.T, random *rand.Rand) *linearNode {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.nodes) > linearHot && random.IntN(linearOld) == 0 {
		return c.nodes[random.IntN(len(c.nodes))]
	}
	i := random.IntN(linearHot)
	if len(c.hot) < linearHot {
		c.hot, i = append(c.hot, nil), len(c.hot)
	}
	if c.hot[i] == nil || c.hot[i].calls >= linearCalls {
		c.hot[i] = &linearNode{soakNode: newSoakNode(t)}
		c.nodes = append(c.nodes, c.hot[i])
	}
	c.hot[i].calls++
	return c.hot[i]
}

// load makes calls until the context ends.
func (c *linearCluster) load(ctx context.Context, t *testing.T, client int) {
	random := rand.New(rand.NewPCG(c.seed, uint64(client)+1))
	for ctx.Err() == nil {
		n, gateway := c.node(t, random), random.IntN(len(c.all))
		patience := 4 * time.Second
		if random.IntN(4) == 0 {
			patience = time.Duration(50+random.IntN(450)) * time.Millisecond
		}
		pause := time.Duration(random.IntN(20)) * time.Millisecond
		if random.IntN(5) < 3 {
			if status := c.register(client, gateway, n, patience); status == 0 || status == http.StatusServiceUnavailable {
				pause *= 10
			}
		} else {
			c.askForUser(client, gateway, n, patience)
		}
		time.Sleep(pause)
	}
}

// register sends the node's registration once, notes what came of it, and returns the status, 0 where there was no answer.
func (c *linearCluster) register(client, gateway int, n *linearNode, patience time.Duration) (status int) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	began := c.history.now()
	a, err := call(ctx, http.MethodPost, c.all[gateway].RegisterURL, "", n.Registration)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED): // nobody got it
		return 0
	case err != nil:
		a.Status = 0
	}
	c.history.add(client, gateway, n.Localpart, callRegister, began, a.Status, meaning(callRegister, a.Status))
	return a.Status
}

// askForUser asks the gateway for the node's user, as the homeserver does. What is not answered changes nothing.
func (c *linearCluster) askForUser(client, gateway int, n *linearNode, patience time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	quiet := c.quiet.Load()
	if quiet%2 == 1 {
		return
	}
	began := c.history.now()
	a, err := call(ctx, http.MethodGet, c.all[gateway].URL+"/regapp/1/_matrix/app/v1/users/@"+n.Localpart+":"+domain, c.hsTokens[gateway], nil)
	if err != nil || c.quiet.Load() != quiet {
		return
	}
	if said := meaning(callUser, a.Status); said != "" {
		c.history.add(client, gateway, n.Localpart, callUser, began, a.Status, said)
	}
}

// under runs what is done to the cluster while clients make calls.
func (c *linearCluster) under(t *testing.T, run func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	for client := range linearClients {
		clients.Go(func() { c.load(ctx, t, client) })
	}
	defer clients.Wait()
	defer cancel()
	run()
}

// freeze freezes a gateway until its leases are over: for longer than they last, or until the database says so.
func (c *linearCluster) freeze(t *testing.T, gateway int, primary *Postgres, longer bool) {
	t.Helper()
	g := c.all[gateway]
	if err := g.Freeze(); err != nil {
		t.Fatal(err)
	}
	pause := 150 * time.Millisecond
	if longer {
		left := must(primary.SQL(t.Context(), linearDatabase, "SELECT coalesce(ceil(extract(epoch FROM max(expires) - clock_timestamp())), 0) FROM matrix_regservice.claims"))(t)
		pause += time.Duration(must(strconv.Atoi(left))(t)) * time.Second
		t.Logf("gateway %d is frozen until its leases are over, in %v", gateway, pause)
	} else if _, err := primary.SQL(t.Context(), linearDatabase, "UPDATE matrix_regservice.claims SET expires = clock_timestamp() - interval '1 ms'"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(pause) // others may take what it has
	if err := g.Thaw(); err != nil {
		t.Fatal(err)
	}
}

// leasesLost counts the lines of all gateways that say so.
func (c *linearCluster) leasesLost(t *testing.T) (lost int) {
	t.Helper()
	for _, g := range c.all {
		lost += strings.Count(must(g.Log())(t), leaseLine)
	}
	return lost
}

// freezeOften freezes one gateway after the other for a moment, until one of them has lost a lease and found that out.
func (c *linearCluster) freezeOften(t *testing.T, primary *Postgres) {
	t.Helper()
	c.homeserver.leasesEnd()
	before := c.leasesLost(t)
	for i := range 100 {
		c.freeze(t, i%len(c.all), primary, false)
		if i+1 >= frozenAtLeast && c.leasesLost(t) > before {
			t.Logf("%d were frozen, and %d leases were lost", i+1, c.leasesLost(t)-before)
			return
		}
	}
	t.Error("no gateway lost a lease, however often they were frozen")
}

// restart kills a gateway and starts it again.
func (c *linearCluster) restart(t *testing.T, gateway int) {
	t.Helper()
	if err := c.all[gateway].Kill(); err != nil {
		t.Fatal(err)
	}
	if err := c.all[gateway].Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// reachable waits until each gateway has answered a registration with something else than that the store fails, and says how
// long that took from the time on.
func (c *linearCluster) reachable(t *testing.T, since int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startTime)
	defer cancel()
	for i := range c.all {
		n := &linearNode{soakNode: newSoakNode(t)}
		c.mu.Lock()
		c.nodes = append(c.nodes, n)
		c.mu.Unlock()
		for {
			status := c.register(linearClients+i, i, n, callTime)
			if status != 0 && status != http.StatusServiceUnavailable {
				break
			}
			if ctx.Err() != nil {
				t.Fatalf("gateway %d still answers %d", i, status)
			}
			time.Sleep(pollPause)
		}
	}
	for i := range c.all {
		last, first, failed := c.history.outage(i, since)
		t.Logf("gateway %d answered 503 %d times, the last time after %v, and otherwise after %v", i, failed, last.Round(time.Millisecond), first.Round(time.Millisecond))
	}
}

// outage is how long after the time the gateway's last 503 to a registration began, when after that its first other answer came,
// and how many were 503.
func (h *linearHistory) outage(gateway int, since int64) (last, first time.Duration, failed int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var others []linearOp
	for _, op := range h.ops {
		switch {
		case op.gateway != gateway || op.Call < since || op.Input.(linearInput).Call != callRegister || op.status == 0:
		case op.status == http.StatusServiceUnavailable:
			last, failed = max(last, time.Duration(op.Call-since)), failed+1
		default:
			others = append(others, op)
		}
	}
	first = time.Duration(1<<63 - 1)
	for _, op := range others {
		if at := time.Duration(op.Call - since); at >= last {
			first = min(first, time.Duration(op.Return-since))
		}
	}
	return last, first, failed
}

// read notes what the record has of each node. No attempt may run.
func (c *linearCluster) read(t *testing.T, primary *Postgres) map[register]int {
	t.Helper()
	began := c.history.now()
	list := must(primary.SQL(t.Context(), linearDatabase, "SELECT '0x' || encode(address, 'hex') || ' ' || state FROM matrix_regservice.records"))(t)
	states := make(map[string]register)
	for line := range strings.Lines(list) {
		address, state, _ := strings.Cut(strings.TrimSpace(line), " ")
		states[address] = map[string]register{"pending": regPending, "registered": regDone}[state]
	}
	counts := make(map[register]int)
	for _, n := range c.nodes {
		state := regNone
		if s, there := states[n.Localpart]; there {
			state = s
		}
		counts[state]++
		c.history.add(0, -1, n.Localpart, callRead, began, 0, state)
		delete(states, n.Localpart)
	}
	if len(states) > 0 {
		t.Errorf("the record has %d addresses of nobody", len(states))
	}
	return counts
}

// settle has each node try until it is in, as nodes do.
func (c *linearCluster) settle(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startTime)
	defer cancel()
	waiting := make(chan *linearNode)
	var clients sync.WaitGroup
	for client := range linearClients {
		clients.Go(func() {
			for n := range waiting {
				for i := 0; ; i++ {
					status := c.register(client, (client+i)%len(c.all), n, callTime)
					if status == http.StatusOK || status == http.StatusConflict {
						break
					}
					if ctx.Err() != nil {
						t.Errorf("%s is still not in: %d", n.userID, status)
						break
					}
					time.Sleep(4 * pollPause)
				}
			}
		})
	}
	for _, n := range c.nodes {
		waiting <- n
	}
	close(waiting)
	clients.Wait()
}

// conclude ends all attempts and looks at what they left, lets every node in, and holds the whole history against the model.
func (c *linearCluster) conclude(t *testing.T, primary *Postgres) {
	t.Helper()
	c.stop(t)
	t.Logf("when no attempt runs, the record has %v", c.read(t, primary))
	c.homeserver.setFaulty(false)
	c.start(t)
	c.settle(t)
	c.stop(t)
	t.Logf("when all are in, the record has %v", c.read(t, primary))

	for _, n := range c.nodes {
		name, password, there := c.homeserver.account(n.userID)
		if !there || name != n.DisplayName || password != n.Password {
			t.Errorf("%s: the account is there: %v, and is not the node's", n.userID, there)
		}
	}
	if crowded := c.homeserver.crowded; len(crowded) > 0 {
		t.Errorf("accounts for these addresses were asked for by two at once: %q", crowded)
	}
	counted := must(primary.SQL(t.Context(), linearDatabase, "SELECT sum(registered) || ' ' || sum(pending) FROM matrix_regservice.counts"))(t)
	if want := fmt.Sprintf("%d 0", len(c.nodes)); counted != want {
		t.Errorf("the counts are %s, want %s", counted, want)
	}
	c.readLogs(t)
}

// readLogs looks for what no gateway may have logged.
func (c *linearCluster) readLogs(t *testing.T) {
	t.Helper()
	for _, g := range c.all {
		log := must(g.Log())(t)
		for kind, words := range map[string]string{
			"calls a node's account another's": "does not show this node's display name", "panicked": "A request panicked",
			"holds the shared secret": standin.Secret, "holds the database's password": PostgresPassword,
		} {
			if i := strings.Index(log, words); i >= 0 {
				t.Errorf("%s %s: …%s…", g.LogFile, kind, log[max(0, i-200):min(len(log), i+200)])
			}
		}
		for _, n := range c.nodes {
			if strings.Contains(log, n.Password) || strings.Contains(log, n.DisplayName) {
				t.Errorf("%s holds a signature of %s", g.LogFile, n.userID)
			}
		}
	}
}

// judge holds the history against the model.
func (c *linearCluster) judge(t *testing.T) (illegal []string) {
	t.Helper()
	start := time.Now()
	illegal, err := verdict(c.history.operations(true), checkTime)
	if err != nil {
		t.Fatal(err)
	}
	said := make(map[any]int)
	c.history.mu.Lock()
	for _, op := range c.history.ops {
		said[op.Output]++
	}
	c.history.mu.Unlock()
	t.Logf("%d nodes, %d calls, which took %v to check; what was said: %v", len(c.nodes), len(c.history.ops), time.Since(start).Round(time.Millisecond), said)
	for _, output := range []linearAnswer{saidAcknowledged, saidTaken, saidThere, saidNotThere} {
		if said[output] == 0 {
			t.Errorf("nothing was answered with %q: this run shows little", output)
		}
	}
	return illegal
}

// logged is what the gateways logged of the address.
func (c *linearCluster) logged(t *testing.T, address string) string {
	t.Helper()
	var lines strings.Builder
	for i, g := range c.all {
		for line := range strings.Lines(must(g.Log())(t)) {
			if strings.Contains(line, address) {
				fmt.Fprintf(&lines, "  gateway %d: %s", i, line)
			}
		}
	}
	return lines.String()
}

// mustBeLinear fails the test where it is not.
func (c *linearCluster) mustBeLinear(t *testing.T) {
	t.Helper()
	illegal := c.judge(t)
	for i, address := range illegal {
		if i == 3 {
			t.Errorf("and %d more", len(illegal)-i)
			break
		}
		t.Errorf("no order of these calls explains their answers:\n%s\n%s", c.history.describe(address), c.logged(t, address))
	}
}

// A postgresPair is a primary and its standby, one or the other of which takes writes.
type postgresPair struct {
	primary, standby *Postgres
	all              []*Postgres // that ever were
}

// newPostgresPair starts both. Commits wait for the standby where that is asked for.
func newPostgresPair(t *testing.T, isSynchronous bool) *postgresPair {
	t.Helper()
	need.All(t, PostgresInstalled())
	p := new(postgresPair)
	t.Cleanup(func() {
		for _, one := range p.all {
			if t.Failed() {
				t.Logf("--- the end of %s ---\n%s", one.LogFile, logTail(one.LogFile))
			}
			if err := one.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	var err error
	if p.primary, err = StartPostgres(t.Context()); p.primary != nil {
		p.all = append(p.all, p.primary)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := p.primary.MakeDatabase(t.Context(), linearDatabase); err != nil {
		t.Fatal(err)
	}
	p.follow(t, nil, isSynchronous)
	return p
}

// follow starts a standby of the primary, in the place of the former one where there is one.
func (p *postgresPair) follow(t *testing.T, former *Postgres, isSynchronous bool) {
	t.Helper()
	var err error
	if p.standby, err = p.primary.StartStandby(t.Context(), standbyName, former); p.standby != nil && former == nil {
		p.all = append(p.all, p.standby)
	}
	if err == nil && isSynchronous {
		err = p.primary.WaitForStandby(t.Context(), standbyName)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// lag has the standby keep for a while what it is sent, and not show it to its readers.
func (p *postgresPair) lag(t *testing.T) {
	t.Helper()
	for _, statement := range []string{"SELECT pg_wal_replay_pause()", "SELECT pg_wal_replay_resume()"} {
		must(p.standby.SQL(t.Context(), "postgres", statement))(t)
		time.Sleep(500 * time.Millisecond)
	}
}

// cutOff has the primary send nothing to its standby any more.
func (p *postgresPair) cutOff(t *testing.T) {
	t.Helper()
	sender := must(p.primary.WalSender(t.Context()))(t)
	if err := sender.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
}

// failOver kills the primary, or has it hang, and promotes the standby. It returns the former primary.
func (p *postgresPair) failOver(t *testing.T, hangs bool) (former *Postgres) {
	t.Helper()
	end := p.primary.Kill
	if hangs {
		end = p.primary.Freeze
	}
	if err := end(); err != nil {
		t.Fatal(err)
	}
	if err := p.standby.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	former, p.primary, p.standby = p.primary, p.standby, nil
	return former
}

// Whatever happens to gateways and to the primary, with a synchronous standby the gateways are one register for each address.
func TestLinearizable(t *testing.T) {
	t.Parallel()
	pair := newPostgresPair(t, true)
	testFailovers(t, pair, FailoverURL(linearDatabase, pair.primary.Address(), pair.standby.Address()))
}

// So they are through a pooler beside each PostgreSQL.
func TestLinearizablePooled(t *testing.T) {
	need.OnlyLong(t)
	need.All(t, PostgresInstalled(), PgBouncerInstalled())
	t.Parallel()
	pair := newPostgresPair(t, true)
	var dirs, ports []string
	for _, p := range []*Postgres{pair.primary, pair.standby} {
		b, err := StartPgBouncer(t.Context(), p, "transaction")
		if b != nil {
			t.Cleanup(func() {
				if err := b.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		if err != nil {
			t.Fatal(err)
		}
		dirs, ports = append(dirs, b.Dir), append(ports, strconv.Itoa(pgBouncerPort))
	}
	testFailovers(t, pair, fmt.Sprintf("postgres://postgres@/%s?host=%s&port=%s&target_session_attrs=read-write",
		linearDatabase, strings.Join(dirs, ","), strings.Join(ports, ",")))
}

// With an asynchronous standby a failover loses what it was not sent yet: that is seen here. What the gateways make of it is
// that each node gets in again, with the account that it had.
func TestAsynchronousFailover(t *testing.T) {
	need.OnlyLong(t)
	t.Parallel()
	pair := newPostgresPair(t, false)
	c := newLinearCluster(t, FailoverURL(linearDatabase, pair.primary.Address(), pair.standby.Address()))
	c.start(t)
	c.homeserver.setFaulty(true)
	c.under(t, func() {
		time.Sleep(500 * time.Millisecond)
		pair.cutOff(t)
		c.acknowledged(t, 10) // of which the standby knows nothing
		c.homeserver.setFaulty(false)
		killed := c.history.now()
		pair.failOver(t, false)
		c.reachable(t, killed)
		c.history.lose(killed)
		c.acknowledged(t, 5)
	})
	c.conclude(t, pair.primary)
	c.mustBeLinear(t) // with the loss
	c.lostNodes(t)
}

// lostNodes looks at what became of the nodes that a failover lost.
func (c *linearCluster) lostNodes(t *testing.T) {
	t.Helper()
	lost := must(verdict(c.history.operations(false), checkTime))(t)
	t.Logf("without a loss no order explains the answers to %d of %d nodes", len(lost), len(c.nodes))
	if len(lost) == 0 {
		t.Error("nothing was lost: this run shows nothing")
	}
	var logs string
	for _, g := range c.all {
		logs += must(g.Log())(t)
	}
	adopted := 0
	for _, n := range c.nodes {
		if c.history.acknowledged(n.Localpart) < 2 {
			continue
		}
		again := regexp.MustCompile(`outcome=(adopted|completed) .*` + n.Localpart).FindStringSubmatch(logs)
		if again == nil {
			t.Errorf("%s was registered twice, and is not said to have had its account:\n%s", n.userID, c.history.describe(n.Localpart))
			continue
		}
		adopted++
	}
	t.Logf("%d nodes that were lost are in again, with the account that they had", adopted)
	if adopted == 0 {
		t.Error("none of them came again")
	}
}

// acknowledged waits until so many more registrations are.
func (c *linearCluster) acknowledged(t *testing.T, more int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startTime)
	defer cancel()
	for before := c.history.acknowledged(""); c.history.acknowledged("") < before+more; time.Sleep(pollPause) {
		if ctx.Err() != nil {
			t.Fatal("nobody is registered any more")
		}
	}
}

// goOn lets a former primary go on that hung, and does not know that another has its place. Gateways have connections to it,
// and it accepts writes from any client, without a standby that would keep them. Then it ends.
func (c *linearCluster) goOn(t *testing.T, former *Postgres) {
	t.Helper()
	if err := former.Thaw(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(5 * time.Second)
	if err := former.Kill(); err != nil {
		t.Fatal(err)
	}
}

// testFailovers has gateways and primaries fail while clients make calls.
func testFailovers(t *testing.T, pair *postgresPair, url string) {
	// New connections all the time, so that a gateway has some to either of two that take writes.
	c := newLinearCluster(t, url+"&pool_max_conn_lifetime=1s&pool_health_check_period=500ms")
	c.start(t)
	c.homeserver.setFaulty(true)
	rounds, cut := 1, time.Second
	if need.Long() {
		rounds, cut = 3, 5*time.Second // gateways give up waiting for the standby after three
	}
	c.under(t, func() {
		for round := range rounds {
			time.Sleep(500 * time.Millisecond)
			pair.lag(t)
			c.freezeOften(t, pair.primary)
			if need.Long() {
				c.freeze(t, round%gateways, pair.primary, true)
			}
			c.restart(t, (round+1)%gateways)
			time.Sleep(500 * time.Millisecond)

			c.quiet.Add(1)
			pair.cutOff(t)
			time.Sleep(cut) // what is acknowledged now has to be at the standby all the same
			hangs, since := round%2 == 1, c.history.now()
			former := pair.failOver(t, hangs)
			c.reachable(t, since)
			if hangs {
				c.goOn(t, former)
			}
			c.quiet.Add(1)
			time.Sleep(time.Second)
			if round+1 < rounds {
				pair.follow(t, former, true)
			}
		}
	})
	c.conclude(t, pair.primary)
	c.mustBeLinear(t)
}
