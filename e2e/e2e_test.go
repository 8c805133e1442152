// e2e_test.go owns the scene: every homeserver once, deployed as its guide says, and what is played on it in order.

package e2e

import (
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
)

const domain = "transport02.smartmesh.cn"

// scenes are played on every homeserver, one after the other on the same deployment.
var scenes = []struct {
	name  string
	play  func(*testing.T, *Deployment)
	suits func(*testing.T, *Deployment) bool // nil for every homeserver
}{
	{"a gateway is killed in the middle", testKilled, nil}, // the first: testReconciled waits a minute from here
	{"a node enters through nginx", testNodeEnters, nil},
	{"nodes find each other by address", testNodesFindEachOther, hasDirectory},
	{"the register command is a node", testRegisterCommand, nil},
	{"nodes in other languages enter", testSnippets, nil},
	{"sixteen at once make one account", testSixteenAtOnce, nil},
	{"requests that are refused", testRefused, nil},
	{"the homeserver is asked to ping", testPing, nil},
	{"a ping that fails says why", testPingFails, canPing},
	{"nodes talk in a room", testTalk, nil},
	{"a stranger is invited", testInviteStranger, nil},
	{"a client finds a node by its address", testThirdParty, nil},
	{"Prometheus scrapes the gateway", testMetrics, nil},
	{"the operator lists and copies the store", testOperator, nil},
	{"the gateway was down while nodes talked", testBacklog, nil},
	{"what the crash left is reconciled", testReconciled, nil},
	{"a wiped store adopts the account", testWipedStore, nil},
	{"a deactivated account stays out", testDeactivated, nil},
	{"a banned node stays out", testBanned, nil},
	{"a homeserver lost its database", testLostDatabase, nil},
	{"a gateway set up wrongly says so", testMisconfigured, nil},
	{"check finds nothing wrong", testCheckAllRight, nil},
	{"check reads what the homeserver was started with", testCheckReads, isSeenRunning},
	{"check says what is broken in a file", testCheckFiles, nil},
	{"check says what is broken in what runs", testCheckLive, nil},
	{"a second gateway does not start", testSecondGateway, nil},
	{"SIGTERM ends the gateway with 0", testTerminated, nil},
	{"no log holds a secret", testNoSecretLogged, nil}, // the last: it reads what all others left
}

func TestHomeservers(t *testing.T) { playAll(t, Recipes) }

func TestDendrite(t *testing.T) {
	need.OnlyLong(t)
	playAll(t, Dendrites)
}

// playAll plays every scene on every one of the homeservers.
func playAll(t *testing.T, recipes []Recipe) {
	t.Helper()
	for _, recipe := range recipes {
		t.Run(recipe.Name, func(t *testing.T) {
			t.Parallel() // one waits for a minute to pass while another works
			d := deploy(t, recipe)
			for _, scene := range scenes {
				if scene.suits != nil && !scene.suits(t, d) {
					continue
				}
				t.Run(scene.name, func(t *testing.T) { scene.play(t, d) })
			}
		})
	}
}

// deploy starts a homeserver with nginx and the gateway.
func deploy(t *testing.T, recipe Recipe) *Deployment {
	t.Helper()
	need.All(t, recipe.Installed(t.Context()), NginxInstalled())
	d := prepare(t, Plan{Recipe: recipe, Domain: domain, Nginx: true, Ops: true, Dir: t.TempDir()})
	if _, err := d.Genconfig(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return d
}

// prepare makes a deployment, which ends with the test.
func prepare(t *testing.T, plan Plan) *Deployment {
	t.Helper()
	d := must(Prepare(t.Context(), plan))(t)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(d.LogTails())
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// newNode makes a node that nobody knows yet.
func newNode(t *testing.T, d *Deployment) *Node {
	t.Helper()
	return must(d.NewNode(t.Context()))(t)
}

// newMember makes a node and lets it in, and returns its session too.
func newMember(t *testing.T, d *Deployment) (n *Node, token string) {
	t.Helper()
	n = newNode(t, d)
	want(t, must(n.Register(t.Context()))(t), 200, "")
	return n, loggedIn(t, n)
}

// loggedIn logs the node in and returns its session.
func loggedIn(t *testing.T, n *Node) (token string) {
	t.Helper()
	a := must(n.Login(t.Context()))(t)
	want(t, a, 200, "")
	if a.UserID != n.UserID || a.AccessToken == "" {
		t.Fatalf("login answered %s, want a session of %s", a.Body, n.UserID)
	}
	return a.AccessToken
}

// must is for what a test cannot go on without: must(call())(t) is the call's result.
func must[T any](result T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return result
	}
}

// want checks status and errcode.
func want(t *testing.T, got Answer, status int, errcode string) {
	t.Helper()
	if got.Status != status || got.Errcode != errcode {
		t.Fatalf("got %d %s, want %d %s", got.Status, got.Body, status, errcode)
	}
}
