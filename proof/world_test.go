// world_test.go owns one world: a gateway with its store and its clock before a homeserver, the nodes that come to it, and
// what each of them may be told.

package proof

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e"
	"github.com/SmartMeshFoundation/matrix-regservice/e2e/standin"
)

// A plan is what a world is made of.
type plan struct {
	api      string
	store    keptStore
	dendrite bool // the homeserver is one
	oldMAS   bool // Matrix Authentication Service before 1.18
}

// A world is all of it.
type world struct {
	plan
	t *testing.T
	*fakeHomeserver
	gateway *gateway
	clock   clock
	nodes   []*node

	starting sync.Mutex // so that one restarts a gateway that was killed
	history  struct {
		mu    sync.Mutex
		begun time.Time
		lines []string
	}
	copied map[string]bool // whose records are registered in the copy of the store; nil where there is none
	read   int             // bytes of the log that were looked at
}

// newWorld makes one, with a gateway that serves.
func newWorld(t *testing.T, p plan) *world {
	t.Helper()
	program, err := withClock()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(scratch, "world-")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{plan: p, t: t}
	w.history.begun = time.Now()
	w.fakeHomeserver = newFakeHomeserver(newTruth(w.tell))
	w.fakeHomeserver.oldMAS, w.isDendrite = p.oldMAS, p.dendrite
	if p.dendrite {
		w.software = `{"server":{"name":"Dendrite","version":"0.15.2"}}`
	}
	if w.clock, err = newClock(dir); err != nil {
		t.Fatal(err)
	}
	w.gateway = newGateway(t, program, dir, w.URL, p.api, p.store.dataPath())
	w.gateway.env = append(w.gateway.env, clockEnv+"="+w.clock.path)
	w.fakeHomeserver.kill = func() {
		w.tell("  kill -9")
		w.gateway.kill()
	}
	t.Cleanup(func() {
		w.gateway.kill()
		w.fakeHomeserver.Close()
		os.RemoveAll(dir)
	})
	w.start()
	return w
}

// newGateway makes a gateway that has not started, with its secrets in files of the directory.
func newGateway(t *testing.T, program *e2e.Program, dir, origin, api, dataPath string) *gateway {
	t.Helper()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	g := &gateway{program: program, dir: dir, logFile: filepath.Join(dir, "log")}
	g.args = []string{"--matrixdomain", standin.ServerName, "--matrixurl", origin + api, "--port", "0", "--ops-listen", "127.0.0.1:0", "--datapath", dataPath,
		"--rate-limit", "0", "--total-rate-limit", "0", "--verbosity", "5", "--log-format", "json"}
	g.env = []string{"MATRIX_REGSERVICE_HSTOKEN=" + standin.HSToken}
	switch api {
	case sharedSecret:
		g.args = append(g.args, "--sharesecret-file", file("secret", standin.Secret))
	case masUsers:
		g.args = append(g.args, "--homeserver-url", origin, "--mas-client-id", standin.MASClientID, "--mas-client-secret-file", file("secret", standin.MASSecret))
	}
	if api != sharedSecret {
		g.env = append(g.env, "MATRIX_REGSERVICE_ASTOKEN="+standin.ASToken)
	}
	return g
}

// tell adds a line to the history.
func (w *world) tell(format string, args ...any) {
	w.history.mu.Lock()
	defer w.history.mu.Unlock()
	w.history.lines = append(w.history.lines, fmt.Sprintf("%8.3f ", time.Since(w.history.begun).Seconds())+fmt.Sprintf(format, args...))
}

// fails ends the test with the history.
func (w *world) fails(format string, args ...any) {
	w.t.Helper()
	w.history.mu.Lock()
	history := strings.Join(w.history.lines, "\n")
	w.history.mu.Unlock()
	w.t.Fatalf("%s\nWhat happened:\n%s", fmt.Sprintf(format, args...), history)
}

// must fails the test where there is an error.
func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.fails("%v", err)
	}
}

// start starts the gateway.
func (w *world) start() {
	w.t.Helper()
	w.must(w.gateway.start(context.Background()))
}

// restart starts the gateway again after it was killed or stopped. Its claims are over, as they are a little later.
func (w *world) restart() error {
	if err := w.store.endLeases(context.Background()); err != nil {
		return err
	}
	w.tell("the gateway starts")
	return w.gateway.start(context.Background())
}

// up starts the gateway if it was killed.
func (w *world) up() error {
	w.starting.Lock()
	defer w.starting.Unlock()
	if w.gateway.process() != nil {
		return nil
	}
	return w.restart()
}

// newNode is a node that never came.
func (w *world) newNode() *node {
	key := keyOf(len(w.nodes))
	n := &node{Registration: registrationOf(key), key: key}
	w.nodes = append(w.nodes, n)
	return n
}

// send registers the node once.
func (w *world) send(n *node) answer {
	w.proves(n.Registration)
	body, _ := json.Marshal(n.Registration)
	a := w.gateway.post(context.Background(), body)
	w.tell("%s was answered %d %s", n.Localpart, a.status, a.Message)
	w.judge(n, a)
	return a
}

// errcodes are what a node with both proofs may be answered.
var errcodes = map[int]string{409: "M_USER_IN_USE", 429: "M_LIMIT_EXCEEDED", 502: "M_UNKNOWN", 503: "M_UNKNOWN"}

// judge holds an answer against the truth.
func (w *world) judge(n *node, a answer) {
	if a.status == 200 {
		w.checkIn(n.Registration, a.Token)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts[fmt.Sprintf("answers of %d", a.status)]++
	code, known := errcodes[a.status]
	switch {
	case a.status == 0: // it was killed
	case a.status == 200 && a.UserID == userID(n.Localpart), known && a.Errcode == code && a.Message != "":
	default:
		w.breaks("an answer that is none: %d %s", a.status, a.body)
	}
	if a.status == 200 || a.status == 409 {
		n.told, n.lapsed = true, false
	}
}

// records lists the store.
func (w *world) records() map[string]listedRecord {
	w.t.Helper()
	records, err := w.gateway.list(context.Background(), w.store.dataPath())
	if err != nil {
		w.fails("%v", err)
	}
	return records
}

// isMadeInSteps tells whether this service may take more than one call for an account.
func (w *world) isMadeInSteps() bool { return w.api == masUsers || w.isUntold }

// mayBe tells whether the record of a node that was told that it is registered may be in this state. Where an account is made in
// steps, an attempt to create it again begins as a first one does. The record is dropped where that has made nothing. The lock is
// held.
func (w *world) mayBe(localpart, state string) bool {
	begunAnew := w.anew[localpart] && w.isMadeInSteps()
	return state == "registered" || begunAnew && state == "pending" || begunAnew && state == "" && w.accounts[localpart] == nil
}

// checkRecords holds the record against what nodes were told, and against what is true. Nothing is under way.
func (w *world) checkRecords() map[string]listedRecord {
	w.t.Helper()
	records := w.records()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.nodes {
		state, a := records[n.Localpart].State, w.accounts[n.Localpart]
		_, proven := w.proven[n.Localpart]
		if state == "registered" && a.isWhole(w.api) {
			delete(w.anew, n.Localpart)
		}
		switch {
		case n.told && !w.mayBe(n.Localpart, state):
			w.breaks("nothing acknowledged is lost: %s was told that it is registered, and its record is %q", n.Localpart, state)
		case state != "" && !proven:
			w.breaks("%s never proved its address, and has a record", n.Localpart)
		case a != nil && !a.othersMade && state == "" && !n.lapsed:
			w.breaks("no account without a record: %s", n.Localpart)
		}
	}
	return records
}

// A logLine is what is read of a line of the log.
type logLine struct {
	Msg, Reason, Err string
	UserID           string `json:"user_id"`
}

// checkLog looks at what was logged since the last time, for a node whose account was called another's though it is its own.
func (w *world) checkLog() {
	content := w.gateway.log()
	lines := content[w.read:]
	w.read = len(content)
	for line := range strings.Lines(lines) {
		for _, fatal := range []string{"DATA RACE", "panic: ", "fatal error: ", `"lvl":"crit"`, "request panicked"} {
			if strings.Contains(line, fatal) {
				w.mu.Lock()
				w.breaks("the log says: %s", line)
				w.mu.Unlock()
			}
		}
		var said logLine
		if json.Unmarshal([]byte(line), &said) != nil || !strings.Contains(said.Reason, "does not show this node's display name") {
			continue
		}
		localpart, _, _ := strings.Cut(strings.TrimPrefix(said.UserID, "@"), ":")
		w.mu.Lock()
		a := w.accounts[localpart]
		if a != nil && !a.othersMade && !a.renamed && !a.deactivated && a.name == w.proven[localpart].DisplayName {
			w.breaks("the account of a node is never called another's: %s", strings.TrimSpace(line))
		}
		w.mu.Unlock()
	}
}

// settle waits until the homeserver has nothing under way, and looks at everything.
func (w *world) settle() {
	w.t.Helper()
	w.waitIdle()
	w.forgetPermits()
	w.checkLog()
	w.judged()
}

// judged fails the test where an invariant was broken.
func (w *world) judged() {
	w.t.Helper()
	if broken := w.takeBroken(); broken != "" {
		w.fails("%s", broken)
	}
}

var pendingGauge = regexp.MustCompile(`(?m)^matrix_regservice_records\{state="pending"\} (\d+)$`)

// pending is how many records are pending, as the gateway tells its operator.
func (w *world) pending() int {
	w.t.Helper()
	p := w.gateway.process()
	if p == nil {
		w.fails("no gateway runs")
	}
	res, err := http.Get("http://" + p.ops + "/metrics")
	w.must(err)
	defer res.Body.Close()
	content, err := io.ReadAll(res.Body)
	w.must(err)
	found := pendingGauge.FindSubmatch(content)
	if found == nil {
		w.fails("/metrics does not tell how many records are pending: %s", content)
	}
	count, _ := strconv.Atoi(string(found[1]))
	return count
}
