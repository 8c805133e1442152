// soak_test.go owns what a gateway that is killed again and again, under load, may not do: lose a node that it had told
// yes, or leave an account that it knows nothing of.

package e2e

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/crypto"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
)

const (
	soakKills     = 25 // where SOAK_KILLS does not say; make soak does 5000
	longSoakKills = 500
	soakClients   = 6 // each with one request at a time

	killPause   = 250 * time.Millisecond // the longest from a start to the kill
	earlyKills  = 8                      // one of so many does not wait until the gateway serves
	freshKeys   = 3                      // of four registrations so many are of a new node
	givenUp     = 20                     // one of so many broken connections is not tried again
	retryPause  = 5 * time.Millisecond
	mostWaits   = 1200 // seconds that a node waits where it is told 429
	checkedEach = 50   // kills between two looks at the store from end to end
)

// A soakNode is a node and the best that it was told.
type soakNode struct {
	Registration
	userID string

	mu      sync.Mutex
	answers map[int]int // by status; 0 for a connection that broke
}

func (n *soakNode) told(status int) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.answers[status]
}

// isIn tells whether the node was told that it has an account.
func (n *soakNode) isIn() bool { return n.told(http.StatusOK)+n.told(http.StatusConflict) > 0 }

// newSoakNode signs here: a process of the program for each node would take longer than its registration.
func newSoakNode(t *testing.T) *soakNode {
	t.Helper()
	key := must(crypto.GenerateKey())(t)
	localpart := strings.ToLower(crypto.PubkeyToAddress(key.PublicKey).Hex())
	sign := func(text string) string {
		signature := must(crypto.Sign(crypto.Keccak256([]byte(text)), key))(t)
		signature[64] += 27
		return hex.EncodeToString(signature)
	}
	userID := "@" + localpart + ":" + domain
	return &soakNode{
		Registration: Registration{Localpart: localpart, DisplayName: localpart[2:6] + "-" + sign(userID), Password: sign(domain)},
		userID:       userID, answers: make(map[int]int),
	}
}

// A soak is what its clients share.
type soak struct {
	*Deployment
	mu    sync.Mutex
	nodes []*soakNode
}

// node returns a new one, or one that was there before.
func (s *soak) node(t *testing.T, random *rand.Rand) *soakNode {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.nodes) > 0 && random.IntN(4) >= freshKeys {
		return s.nodes[random.IntN(len(s.nodes))]
	}
	n := newSoakNode(t)
	s.nodes = append(s.nodes, n)
	return n
}

// register sends the node's registration once, and tells whether it was answered.
func (s *soak) register(ctx context.Context, n *soakNode) (answered bool) {
	a, err := call(ctx, http.MethodPost, s.Gateway.RegisterURL, "", n.Registration)
	if err != nil {
		a.Status = 0
	}
	n.mu.Lock()
	n.answers[a.Status]++
	n.mu.Unlock()
	return err == nil
}

// load registers nodes, one after the other, until the context ends. Most try again when the connection breaks, as nodes
// do; some do not, so that there is something left for the end.
func (s *soak) load(ctx context.Context, t *testing.T, random *rand.Rand) {
	for ctx.Err() == nil {
		n := s.node(t, random)
		for ctx.Err() == nil && !s.register(context.WithoutCancel(ctx), n) && random.IntN(givenUp) > 0 {
			time.Sleep(retryPause)
		}
	}
}

func TestSoak(t *testing.T) {
	kills, seed := soakKills, rand.Uint64()
	if need.Long() {
		kills = longSoakKills
	}
	for name, set := range map[string]func(string) error{
		"SOAK_KILLS": func(text string) (err error) { kills, err = strconv.Atoi(text); return err },
		"SOAK_SEED":  func(text string) (err error) { seed, err = strconv.ParseUint(text, 10, 64); return err },
	} {
		if text := os.Getenv(name); text != "" {
			if err := set(text); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
	recipe := Recipes[0]
	need.All(t, recipe.Installed(t.Context()))
	s := &soak{Deployment: startSoak(t, recipe)}
	t.Logf("SOAK_SEED=%d SOAK_KILLS=%d", seed, kills)

	loaded, endLoad := context.WithCancel(t.Context())
	defer endLoad()
	var clients sync.WaitGroup
	for i := range uint64(soakClients) {
		clients.Go(func() {
			s.load(loaded, t, rand.New(rand.NewPCG(seed, i+1)))
		})
	}
	start := time.Now()
	s.kill(t, kills, rand.New(rand.NewPCG(seed, 0)))
	endLoad()
	clients.Wait()

	registered := s.checkKilled(t)
	s.figures(t, kills, time.Since(start), registered)
	s.checkSettled(t)
}

// startSoak starts a homeserver and prepares a gateway without limits, since all clients have one address.
func startSoak(t *testing.T, recipe Recipe) *Deployment {
	t.Helper()
	d := prepare(t, Plan{Recipe: recipe, Domain: domain, Dir: t.TempDir()})
	must(d.Genconfig(t.Context()))(t)
	lastLine := regexp.MustCompile(`(?m)^exec .*$`)
	run := filepath.Join(d.Gateway.Dir, "run.sh")
	command := lastLine.Find(must(os.ReadFile(run))(t))
	if err := edit(run, lastLine, string(command)+" --rate-limit 0 --total-rate-limit 0"); err != nil {
		t.Fatal(err)
	}
	if err := d.Homeserver.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return d
}

// kill starts the gateway and kills it, again and again.
func (s *soak) kill(t *testing.T, kills int, random *rand.Rand) {
	t.Helper()
	for i := range kills {
		start := s.Gateway.Start                   // which fails where the store does not open
		if random.IntN(earlyKills) == 0 && i > 0 { // the first makes the store
			start = s.Gateway.Launch
		}
		if err := start(t.Context()); err != nil {
			t.Fatalf("kill %d: %v", i, err)
		}
		time.Sleep(time.Duration(random.Int64N(int64(killPause))))
		if err := s.Gateway.Kill(); err != nil {
			t.Fatalf("kill %d: %v", i, err)
		}
		if i%checkedEach == 0 {
			s.readStore(t)
		}
	}
}

// readStore has the program read the store from end to end, which a backup is, and returns its states by localpart.
func (s *soak) readStore(t *testing.T) map[string]string {
	t.Helper()
	backup := filepath.Join(t.TempDir(), "backup.db")
	must(s.Program.mustRun(t.Context(), s.Gateway.Dir, "backup", backup))(t)
	states := make(map[string]string)
	list := must(s.Program.mustRun(t.Context(), s.Gateway.Dir, "users", "--format", "json"))(t)
	for line := range strings.Lines(list) {
		var user struct{ Localpart, State string }
		if err := json.Unmarshal([]byte(line), &user); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		states[user.Localpart] = user.State
	}
	return states
}

// accounts are the user IDs of all accounts that the homeserver's own database has, each as often as it is there.
func (s *soak) accounts(t *testing.T) map[string]int {
	t.Helper()
	out := must(s.Homeserver.command(t.Context(), "python", "-c", `import sqlite3
for name, in sqlite3.connect("file:homeserver.db?mode=ro", uri=True, timeout=30).execute("SELECT name FROM users WHERE name LIKE '@0x%'"): print(name)`).Output())(t)
	accounts := make(map[string]int)
	for name := range strings.FieldsSeq(string(out)) {
		accounts[name]++
	}
	return accounts
}

// checkKilled looks at what the last kill left: every node that was told so is registered and has its account, and there
// is no account without a record. It returns how many are registered.
func (s *soak) checkKilled(t *testing.T) (registered int) {
	t.Helper()
	accounts := s.accounts(t) // before the records: the homeserver may still be at what the gateway asked for
	states := s.readStore(t)
	for _, n := range s.nodes {
		state, has := states[n.Localpart], accounts[n.userID]
		if n.isIn() && (state != "registered" || has != 1) {
			t.Errorf("%s was told %v, has %d accounts, and its record is %q", n.userID, n.answers, has, state)
		}
		if state == "registered" {
			registered++
			if has != 1 {
				t.Errorf("%s is registered and has %d accounts", n.userID, has)
			}
		}
		if has > 0 && state == "" {
			t.Errorf("%s has an account and no record", n.userID)
		}
		delete(states, n.Localpart)
		delete(accounts, n.userID)
	}
	if len(states)+len(accounts) > 0 {
		t.Errorf("of nobody's: records %v, accounts %v", states, accounts)
	}
	return registered
}

// checkSettled lets every node try until it is in, as nodes do, and looks again. Synapse answers one profile look-up a second
// after the first 500 (rc_profile), and completing an attempt takes one: a node that is told 429 waits a second, as nodes do. One
// that is registered already is told so from memory for a minute, and may come last: so it waits longer than all look-ups take.
func (s *soak) checkSettled(t *testing.T) {
	t.Helper()
	if err := s.Gateway.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	waiting := make(chan *soakNode)
	var clients sync.WaitGroup
	for range soakClients {
		clients.Go(func() {
			for n := range waiting {
				for tries, waits := 0, 0; tries < 5 && waits < mostWaits && !n.isIn(); {
					before := n.told(http.StatusTooManyRequests)
					s.register(t.Context(), n)
					if n.told(http.StatusTooManyRequests) == before {
						tries++
						continue
					}
					waits++
					time.Sleep(time.Second)
				}
			}
		})
	}
	for _, n := range s.nodes {
		waiting <- n
	}
	close(waiting)
	clients.Wait()
	if code, err := s.Gateway.Stop(); err != nil || code != 0 {
		t.Errorf("the gateway ended with %d, %v", code, err)
	}
	for _, n := range s.nodes {
		if !n.isIn() {
			t.Errorf("%s is not in: it was told %v", n.userID, n.answers)
		}
	}
	if registered := s.checkKilled(t); registered != len(s.nodes) {
		t.Errorf("%d of %d nodes are registered", registered, len(s.nodes))
	}
	for _, n := range s.nodes[:min(len(s.nodes), 10)] {
		a := must(call(t.Context(), http.MethodPost, s.NodeURL+"/_matrix/client/r0/login", "", map[string]string{
			"type": "m.login.password", "user": n.Localpart, "password": n.Password,
		}))(t)
		want(t, a, http.StatusOK, "")
	}
}

// figures tells what was done.
func (s *soak) figures(t *testing.T, kills int, took time.Duration, registered int) {
	t.Helper()
	answers, requests, completed := make(map[int]int), 0, 0
	for _, n := range s.nodes {
		for status, count := range n.answers {
			answers[status] += count
			requests += count
		}
	}
	log := must(s.Gateway.Log())(t)
	completed = strings.Count(log, "outcome=completed")
	t.Logf("%d kills in %v; %d nodes sent %d registrations; answers by status (0: the connection broke): %v; %d are registered, %d attempts completed an earlier one, %d were reconciled by the gateway",
		kills, took.Round(time.Second), len(s.nodes), requests, answers, registered, completed, strings.Count(log, "Reconciled a pending registration"))
}
