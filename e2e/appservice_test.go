// appservice_test.go owns the tests of the homeserver's requests: transactions, users, third-party networks, the ping at the start.
// And the test that the service reconciles its records after a crash.

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// A dialect is how a homeserver talks to application services.
type dialect struct {
	transactions string   // where it sends events
	users        string   // where it asks for users
	thirdParty   string   // its own client API's look-up in third-party networks
	looksUp      bool     // whether that look-up brings our token, without which we tell it nothing
	nobody       string   // the errcode of that look-up where it finds nobody, if not an empty list
	asksLate     bool     // whether it asks for a user only when his profile is looked up, not when he is invited
	pings        bool     // whether it can be asked to call us
	ping         string   // what the gateway logs of the ping at start
	queue        []string // the command that counts what is held back for us
	complaint    *regexp.Regexp
}

// synapseQueue counts transactions that are not acknowledged, and services that are marked as down.
var synapseQueue = []string{"python", "-c", `import sqlite3
db = sqlite3.connect("file:homeserver.db?mode=ro", uri=True, timeout=30)
print(db.execute("SELECT count(*) FROM application_services_txns").fetchone()[0]
    + db.execute("SELECT count(*) FROM application_services_state WHERE state = 'down'").fetchone()[0])`}

var synapseComplaint = regexp.MustCompile(`(?m)^.*(synapse\.(handlers\.)?appservice\S* - \d+ - (WARNING|ERROR)|(WARNING|ERROR).*(app ?service|regapp)).*$`)

// dendriteQueue counts the transactions that Dendrite complained of and that we have not accepted since. It keeps
// them in memory, where nobody else can count them.
var dendriteQueue = []string{"python", "-c", `import re
held = re.findall(r"Unable to send transaction.*/transactions/(\d+)", open("../homeserver.log").read())
accepted = re.findall(r"Answered the homeserver.*/transactions/(\d+)", open("../gateway.log").read())
print(len(set(held) - set(accepted)))`}

// It says of every user that we do not know that we said so, as a warning: that is no complaint.
var dendriteComplaint = regexp.MustCompile(`(?m)^.*level=error.*(appservice|application service).*$`)

var dialects = map[string]dialect{
	"dendrite-0.15.2": {
		transactions: "/regapp/1/_matrix/app/v1/transactions/", users: "/regapp/1/_matrix/app/v1/users/", asksLate: true,
		thirdParty: "/_matrix/client/v3/thirdparty/", looksUp: true, nobody: "M_NOT_FOUND",
		ping: "The homeserver has no ping", queue: dendriteQueue, complaint: dendriteComplaint,
	},
	"dendrite-0.15.2-legacy": {
		transactions: "/regapp/1/transactions/", users: "/regapp/1/users/", asksLate: true,
		thirdParty: "/_matrix/client/v3/thirdparty/", looksUp: true, nobody: "M_NOT_FOUND",
		ping: "The homeserver has no ping", queue: dendriteQueue, complaint: dendriteComplaint,
	},
	"synapse-1.163.2": {
		transactions: "/regapp/1/_matrix/app/v1/transactions/", users: "/regapp/1/_matrix/app/v1/users/",
		thirdParty: "/_matrix/client/v3/thirdparty/", looksUp: true,
		pings: true, ping: "The homeserver reaches this service", queue: synapseQueue, complaint: synapseComplaint,
	},
	"synapse-0.34.0": {
		transactions: "/regapp/1/transactions/", users: "/regapp/1/users/",
		thirdParty: "/_matrix/client/unstable/thirdparty/", looksUp: false,
		ping: "The homeserver has no ping", queue: synapseQueue, complaint: synapseComplaint,
	},
}

func dialectOf(t *testing.T, d *Deployment) dialect {
	t.Helper()
	spoken, ok := dialects[strings.TrimSuffix(d.Recipe.Name, "-mas")]
	if !ok {
		t.Fatalf("nobody said how %s talks to application services", d.Recipe.Name)
	}
	return spoken
}

func testPing(t *testing.T, d *Deployment) {
	t.Log(must(d.Gateway.WaitForLog(t.Context(), dialectOf(t, d).ping))(t))
}

func canPing(t *testing.T, d *Deployment) bool { return dialectOf(t, d).pings }

// What can be wrong between the two, one at a time, and what the operator is told. The gateway itself is stopped
// meanwhile, so that another can take its place or nobody is there.
func testPingFails(t *testing.T, d *Deployment) {
	tokens := must(d.Gateway.tokens())(t)
	its := must(url.Parse(d.Gateway.URL))(t)
	itsPort := must(strconv.Atoi(its.Port()))(t)
	if code := must(d.Gateway.Stop())(t); code != 0 {
		t.Errorf("stopped with exit code %d", code)
	}
	for _, wrong := range []struct {
		name         string
		atItsPort    bool
		sameID       bool
		sameASToken  bool
		sameHSToken  bool
		wantInTheLog string
	}{
		{"tokens", true, true, false, false, "it does not know the as_token"},
		{"id", true, false, true, true, "it knows the as_token under another id"},
		{"hs-token", true, true, true, false, "it comes with another hs_token"},
		{"port", false, true, true, true, "it cannot reach the url of registration.yaml"},
	} {
		t.Run(wrong.name, func(t *testing.T) {
			port := itsPort
			if !wrong.atItsPort {
				port = must(freePorts(1))(t)[0]
			}
			flags := []string{"--sharesecret", d.Homeserver.SharedSecret}
			if wrong.sameASToken {
				flags = append(flags, "--astoken", tokens["as_token"])
			}
			if wrong.sameHSToken {
				flags = append(flags, "--hstoken", tokens["hs_token"])
			}
			g := must(d.PrepareGateway(t.Context(), "wrong-"+wrong.name, d.Homeserver.URL+d.Recipe.createPath, port, flags...))(t)
			if wrong.sameID {
				if err := g.SetID(d.Gateway); err != nil {
					t.Fatal(err)
				}
			}
			if err := g.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			t.Log(must(g.WaitForLog(t.Context(), "The homeserver does not reach this service", wrong.wantInTheLog))(t))
			if _, err := g.Stop(); err != nil {
				t.Error(err)
			}
		})
	}
	if err := d.Gateway.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// Nodes meet in a room and talk. Every event of it is pushed to the gateway, which has to accept it: what it
// refuses comes again for ever, and holds back everything behind it.
func testTalk(t *testing.T, d *Deployment) {
	spoken := dialectOf(t, d)
	complaints := complaintsOf(t, d)
	alice, bob := newTalker(t, d), newTalker(t, d)
	room := alice.meets(t, bob)
	for i := range 5 {
		alice.says(t, room, fmt.Sprintf("transfer %d", i))
		bob.says(t, room, fmt.Sprintf("secret request %d", i))
	}
	if heard := bob.hears(t, room); !strings.Contains(heard, "transfer 4") || !strings.Contains(heard, "secret request 4") {
		t.Errorf("not heard: %s", heard)
	}
	must(d.Gateway.WaitForLog(t.Context(), "Answered the homeserver", "PUT", spoken.transactions))(t)
	waitForQueue(t, d, 0)
	if said := complaintsOf(t, d); len(said) > len(complaints) {
		t.Errorf("the homeserver complains: %s", strings.Join(said[len(complaints):], "\n"))
	}
}

// complaintsOf are the lines about us in the homeserver's log.
func complaintsOf(t *testing.T, d *Deployment) []string {
	t.Helper()
	lines := must(os.ReadFile(d.Homeserver.LogFile))(t)
	return dialectOf(t, d).complaint.FindAllString(string(lines), -1)
}

// An event for a local user that the homeserver does not know has it ask whether there could be one.
func testInviteStranger(t *testing.T, d *Deployment) {
	spoken := dialectOf(t, d)
	alice, stranger := newTalker(t, d), newNode(t, d)
	room := alice.creates(t)
	alice.client(t.Context(), http.MethodPost, "rooms/"+url.PathEscape(room)+"/invite", alice.token, map[string]string{"user_id": stranger.UserID})
	if spoken.asksLate {
		want(t, must(alice.DisplayNameOf(t.Context(), alice.token, stranger.UserID))(t), http.StatusNotFound, "M_NOT_FOUND")
	}
	must(d.Gateway.WaitForLog(t.Context(), "Refused the homeserver", spoken.users, stranger.Localpart, "there is no such node"))(t)
	waitForQueue(t, d, 0)
}

// Any client of the homeserver finds a node by its Ethereum address.
func testThirdParty(t *testing.T, d *Deployment) {
	spoken := dialectOf(t, d)
	n, token := newMember(t, d)
	protocol := "regapp." + d.Domain
	get := func(path string) Answer {
		t.Helper()
		return must(d.call(t.Context(), http.MethodGet, d.NodeURL+spoken.thirdParty+path, token, nil))(t)
	}
	ask := func(path string) Answer {
		t.Helper()
		a := get(path)
		want(t, a, http.StatusOK, "")
		return a
	}
	if a := ask("protocol/" + protocol); !strings.Contains(a.Body, `0x[0-9a-f]{40}`) {
		t.Errorf("the protocol's metadata: %s", a.Body)
	}
	var found []struct {
		UserID   string            `json:"userid"`
		Protocol string            `json:"protocol"`
		Fields   map[string]string `json:"fields"`
	}
	a := ask("user/" + protocol + "?address=" + n.Localpart)
	if err := json.Unmarshal([]byte(a.Body), &found); err != nil {
		t.Fatalf("%v: %s", err, a.Body)
	}
	if !spoken.looksUp {
		if len(found) != 0 {
			t.Errorf("without a token, it was told %s", a.Body)
		}
		return
	}
	if len(found) != 1 || found[0].UserID != n.UserID || found[0].Protocol != protocol || found[0].Fields["address"] != n.Localpart {
		t.Errorf("the node's address: %s", a.Body)
	}
	strangers := "user/" + protocol + "?address=" + newNode(t, d).Localpart
	if spoken.nobody != "" {
		want(t, get(strangers), http.StatusNotFound, spoken.nobody)
	} else if a := ask(strangers); strings.TrimSpace(a.Body) != "[]" {
		t.Errorf("a stranger's address: %s", a.Body)
	}
}

// What happened while the gateway was down is sent when it is up again.
func testBacklog(t *testing.T, d *Deployment) {
	alice, bob := newTalker(t, d), newTalker(t, d)
	room := alice.meets(t, bob)
	waitForQueue(t, d, 0)
	complaints := complaintsOf(t, d)
	if err := d.Gateway.Restart(t.Context(), func() error {
		for i := range 5 {
			alice.says(t, room, fmt.Sprintf("nobody is there %d", i))
		}
		return waitForBacklog(t, d)
	}); err != nil {
		t.Fatal(err)
	}
	waitForQueue(t, d, 0)
	if len(complaintsOf(t, d)) == len(complaints) {
		t.Error("the homeserver did not complain: testTalk would not notice if it did")
	}
}

// A crash between the homeserver's success and the record leaves a pending record and an account. The gateway
// that was killed is left running again; testReconciled sees what becomes of the record.
func testKilled(t *testing.T, d *Deployment) {
	target := must(url.Parse(d.Homeserver.URL))(t)
	var g *Gateway
	var killed atomic.Bool
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.ModifyResponse = func(res *http.Response) error {
		if res.Request.Method == http.MethodPost && res.Request.URL.Path == d.Recipe.createPath && res.StatusCode == http.StatusOK && !killed.Swap(true) {
			return errors.Join(errors.New("the gateway is gone"), g.Kill())
		}
		return nil
	}
	proxy.ErrorLog = log.New(io.Discard, "", 0) // it would tell of the error that was made here
	front := httptest.NewServer(proxy)
	t.Cleanup(front.Close)

	tokens := must(d.Gateway.tokens())(t)
	flags := []string{"--astoken", tokens["as_token"], "--hstoken", tokens["hs_token"]}
	if d.Recipe.createPath == SharedSecretPath {
		flags = append(flags, "--sharesecret", d.Homeserver.SharedSecret)
	}
	g = must(d.AddGateway(t.Context(), "killed", front.URL+d.Recipe.createPath, flags...))(t)
	n := newNode(t, d)
	if a, err := n.RegisterAt(t.Context(), g.RegisterURL); err == nil {
		t.Fatalf("answered %s, although it was killed", a.Body)
	}
	if !killed.Load() {
		t.Fatal("it was not killed")
	}
	if accounts := must(d.Homeserver.Accounts(t.Context(), n.UserID))(t); accounts != 1 {
		t.Fatalf("the homeserver has %d accounts, want the one that nobody recorded", accounts)
	}
	if err := g.StartAt(t.Context(), d.Homeserver.URL+d.Recipe.createPath); err != nil {
		t.Fatal(err)
	}
	must(g.WaitForLog(t.Context(), "Listening", "pending=1"))(t)
	d.killed, d.interrupted = g, n
}

// The killed gateway reconciles its record by itself, a minute after it was written.
func testReconciled(t *testing.T, d *Deployment) {
	if d.killed == nil {
		t.Fatal("no gateway was killed: the scene that kills one comes first")
	}
	deadline := time.Now().Add(startTime)
	for {
		line, err := d.killed.WaitForLog(t.Context(), "Reconciled a pending registration", "registered", d.interrupted.UserID)
		if err == nil {
			t.Log(line)
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	want(t, must(d.interrupted.RegisterAt(t.Context(), d.killed.RegisterURL))(t), http.StatusConflict, "M_USER_IN_USE")
	loggedIn(t, d.interrupted)
}

// A talker is a node with a session.
type talker struct {
	*Node
	token string
	sent  int
}

func newTalker(t *testing.T, d *Deployment) *talker {
	t.Helper()
	n, token := newMember(t, d)
	return &talker{Node: n, token: token}
}

// creates makes a room.
func (a *talker) creates(t *testing.T) (room string) {
	t.Helper()
	answer := must(a.client(t.Context(), http.MethodPost, "createRoom", a.token, map[string]string{"preset": "private_chat"}))(t)
	want(t, answer, http.StatusOK, "")
	var made struct {
		RoomID string `json:"room_id"`
	}
	if err := json.Unmarshal([]byte(answer.Body), &made); err != nil || made.RoomID == "" {
		t.Fatalf("%v: %s", err, answer.Body)
	}
	return made.RoomID
}

// meets invites the other into a new room, which it joins.
func (a *talker) meets(t *testing.T, other *talker) (room string) {
	t.Helper()
	room = a.creates(t)
	path := "rooms/" + url.PathEscape(room)
	want(t, must(a.client(t.Context(), http.MethodPost, path+"/invite", a.token, map[string]string{"user_id": other.UserID}))(t), http.StatusOK, "")
	want(t, must(other.client(t.Context(), http.MethodPost, path+"/join", other.token, struct{}{}))(t), http.StatusOK, "")
	return room
}

func (a *talker) says(t *testing.T, room, text string) {
	t.Helper()
	a.sent++
	path := fmt.Sprintf("rooms/%s/send/m.room.message/%s-%d", url.PathEscape(room), a.Localpart, a.sent)
	want(t, must(a.client(t.Context(), http.MethodPut, path, a.token, map[string]string{"msgtype": "m.text", "body": text}))(t), http.StatusOK, "")
}

func (a *talker) hears(t *testing.T, room string) string {
	t.Helper()
	answer := must(a.client(t.Context(), http.MethodGet, "rooms/"+url.PathEscape(room)+"/messages?dir=b&limit=50", a.token, nil))(t)
	want(t, answer, http.StatusOK, "")
	return answer.Body
}

// waitForQueue waits until so much is held back for us.
func waitForQueue(t *testing.T, d *Deployment, want int) {
	t.Helper()
	for deadline := time.Now().Add(startTime); ; time.Sleep(pollPause) {
		got := must(d.Homeserver.Count(t.Context(), dialectOf(t, d).queue))(t)
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d transactions or down marks are left, want %d", got, want)
		}
	}
}

// waitForBacklog waits until the homeserver holds something back.
func waitForBacklog(t *testing.T, d *Deployment) error {
	for deadline := time.Now().Add(startTime); ; time.Sleep(pollPause) {
		got, err := d.Homeserver.Count(t.Context(), dialectOf(t, d).queue)
		if err != nil || got > 0 {
			return err
		}
		if time.Now().After(deadline) {
			return errors.New("the homeserver holds nothing back")
		}
	}
}
