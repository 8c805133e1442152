// hardened_test.go owns a Synapse whose settings show profiles to few: nodes get in there, and get back in, as far as the
// homeserver tells this service anything.

package e2e

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
)

const (
	requireAuth  = "require_auth_for_profile_requests: true\n"
	limitSharing = "limit_profile_requests_to_users_who_share_rooms: true\n"
)

// hardenings are all combinations with which Synapse starts: the second setting alone it refuses.
var hardenings = []struct {
	name              string
	settings          string
	knows             bool // it has loaded registration.yaml
	seesIt, seesNoOne bool // the gateway sees an account that is there, and that there is none
	cure              string
	short             bool // for make test, too
}{
	{"public", "", true, true, true, "", false},
	{"public, as_token not loaded", "", false, true, true, "", false},
	{"with a token", requireAuth, true, true, true, "", false},
	{"with a token, as_token not loaded", requireAuth, false, false, false, "list this registration.yaml in app_service_config_files", false},
	{"to who shares a room", requireAuth + limitSharing, true, true, false, "write limit_profile_requests_to_users_who_share_rooms: false", true},
	{"to who shares a room, as_token not loaded", requireAuth + limitSharing, false, false, false, "list this registration.yaml in app_service_config_files", false},
}

func TestHardened(t *testing.T) {
	for _, h := range hardenings {
		t.Run(h.name, func(t *testing.T) {
			if !h.short {
				need.OnlyLong(t)
			}
			t.Parallel() // each waits for a minute to pass
			d, between := deployHardened(t, h.settings, h.knows)

			adopted := func(name string, n *Node) {
				t.Helper()
				a := must(n.Register(t.Context()))(t)
				if !h.seesIt {
					want(t, a, http.StatusBadGateway, "M_UNKNOWN")
					must(d.Gateway.WaitForLog(t.Context(), "Refused registration", n.UserID, h.cure))(t)
					if strings.Contains(a.Body, ".yaml") || strings.Contains(a.Body, "token") {
						t.Errorf("a node is told the cure: %s", a.Body)
					}
				} else {
					want(t, a, http.StatusOK, "")
					must(d.Gateway.WaitForLog(t.Context(), "Registered node", n.UserID, name))(t)
				}
				loggedIn(t, n)
			}

			lost, _ := newMember(t, d)
			if err := d.Gateway.Restart(t.Context(), d.Gateway.WipeStore); err != nil {
				t.Fatal(err)
			}
			adopted("adopted", lost)

			interrupted := func(how int32) *Node { // an attempt whose end the gateway does not learn
				t.Helper()
				n := newNode(t, d)
				between.loses.Store(how)
				want(t, must(n.Register(t.Context()))(t), http.StatusBadGateway, "M_UNKNOWN")
				between.loses.Store(0)
				return n
			}
			made, notMade := interrupted(losesAnswer), interrupted(losesRequest) // for the gateway to reconcile
			adopted("completed", interrupted(losesAnswer))
			again := interrupted(losesRequest)
			want(t, must(again.Register(t.Context()))(t), http.StatusOK, "")
			loggedIn(t, again)

			member, token := newMember(t, d)
			want(t, must(member.Register(t.Context()))(t), http.StatusConflict, "M_USER_IN_USE")
			if a := must(member.WhoAmI(t.Context(), token))(t); a.Status != http.StatusOK {
				t.Errorf("a registered node's session is ended by its registering again: %d %s", a.Status, a.Body)
			}
			banned, token := newMember(t, d)
			want(t, must(banned.Deactivate(t.Context(), token))(t), http.StatusOK, "")
			want(t, must(banned.Register(t.Context()))(t), http.StatusConflict, "M_USER_IN_USE")
			want(t, must(banned.Login(t.Context()))(t), http.StatusForbidden, "M_FORBIDDEN")

			if need.Long() {
				reconciledAsSeen(t, d, made, notMade, h.seesIt, h.seesNoOne, h.cure)
			}

			if err := d.Homeserver.Restart(t.Context(), d.Homeserver.WipeDatabase); err != nil {
				t.Fatal(err)
			}
			if err := d.Gateway.Restart(t.Context(), nil); err != nil { // which has looked this node up a moment ago
				t.Fatal(err)
			}
			want(t, must(member.Register(t.Context()))(t), http.StatusOK, "")
			must(d.Gateway.WaitForLog(t.Context(), "Registered node", member.UserID, "recreated"))(t)
			loggedIn(t, member)
			testNoSecretLogged(t, d)
		})
	}
}

// reconciledAsSeen waits until the gateway has looked at both records.
func reconciledAsSeen(t *testing.T, d *Deployment, made, notMade *Node, seesIt, seesNoOne bool, cure string) {
	t.Helper()
	if seesIt {
		must(d.Gateway.WaitForLog(t.Context(), "Reconciled a pending registration", "outcome=registered", made.UserID))(t)
	}
	if seesNoOne {
		must(d.Gateway.WaitForLog(t.Context(), "Reconciled a pending registration", "outcome=dropped", notMade.UserID))(t)
	} else {
		must(d.Gateway.WaitForLog(t.Context(), "Pending registrations could not be reconciled", cure))(t)
	}
	log := must(d.Gateway.Log())(t)
	for _, kept := range []struct {
		is bool
		n  *Node
	}{{!seesIt, made}, {!seesNoOne, notMade}} {
		if settled := regexp.MustCompile("Reconciled a pending registration.*" + kept.n.UserID); kept.is && settled.MatchString(log) {
			t.Errorf("the record of %s is reconciled, although the homeserver did not say", kept.n.UserID)
		}
	}
	if got := strings.Count(log, "Pending registrations could not be reconciled"); got > 1 {
		t.Errorf("it is said %d times that records could not be reconciled, want once", got)
	}
}

// A lossy proxy is between the gateway and the homeserver, and loses what it is told to of creating calls.
type lossy struct {
	*httptest.Server
	loses atomic.Int32
}

const (
	losesRequest int32 = iota + 1
	losesAnswer
)

func newLossy(t *testing.T, d *Deployment) *lossy {
	l := new(lossy)
	proxy := httputil.NewSingleHostReverseProxy(must(url.Parse(d.Homeserver.URL))(t))
	proxy.ErrorLog = log.New(io.Discard, "", 0)
	l.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		creates := r.Method == http.MethodPost && r.URL.Path == d.Recipe.createPath
		if loses := l.loses.Load(); creates && loses != 0 {
			if loses == losesAnswer {
				proxy.ServeHTTP(httptest.NewRecorder(), r)
			}
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(l.Close)
	return l
}

// deployHardened starts today's Synapse with further settings, and the gateway behind a lossy proxy.
func deployHardened(t *testing.T, settings string, knows bool) (*Deployment, *lossy) {
	t.Helper()
	need.All(t, Recipes[0].Installed(t.Context()))
	d := prepare(t, Plan{Recipe: Recipes[0], Domain: domain, Dir: t.TempDir()})
	must(d.Genconfig(t.Context()))(t)
	path := filepath.Join(d.Homeserver.Dir, "homeserver.yaml")
	content := must(os.ReadFile(path))(t)
	if !knows {
		listed := regexp.MustCompile(`(?m)^app_service_config_files:\n  - .*\n`)
		if !listed.Match(content) {
			t.Fatal("homeserver.yaml lists no registration.yaml")
		}
		content = listed.ReplaceAll(content, nil)
	}
	if err := os.WriteFile(path, append(content, settings...), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.Homeserver.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	between := newLossy(t, d)
	if err := d.Gateway.StartAt(t.Context(), between.URL+d.Recipe.createPath); err != nil {
		t.Fatal(err)
	}
	return d, between
}

// rc_profile paces nodes that come back after the record was lost: a node that is told 429 comes again, as nodes do, and gets in.
func TestPacedAdoption(t *testing.T) {
	need.OnlyLong(t)
	t.Parallel()
	const nodes = 6
	d, _ := deployHardened(t, "rc_profile: {per_second: 0.5, burst_count: 2}\n", true)
	var lost [nodes]*Node
	for i := range lost {
		lost[i], _ = newMember(t, d)
	}
	if err := d.Gateway.Restart(t.Context(), d.Gateway.WipeStore); err != nil {
		t.Fatal(err)
	}
	limited, in := 0, map[*Node]bool{}
	for deadline := time.Now().Add(startTime); len(in) < nodes; time.Sleep(time.Second) {
		for _, n := range lost {
			if in[n] {
				continue
			}
			switch a := must(n.Register(t.Context()))(t); {
			case a.Status == http.StatusTooManyRequests && a.Errcode == "M_LIMIT_EXCEEDED":
				limited++
			case a.Status == http.StatusOK:
				in[n] = true
			default:
				t.Fatalf("got %d %s, want 200, or 429 and later 200", a.Status, a.Body)
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d nodes are in", len(in), nodes)
		}
	}
	if limited == 0 {
		t.Error("no node was limited: this tries nothing")
	}
	for _, n := range lost {
		must(d.Gateway.WaitForLog(t.Context(), "Registered node", n.UserID, "adopted"))(t)
		loggedIn(t, n)
	}
	t.Logf("%d answers of 429", limited)
}

// The second setting alone is none that an operator can have: this Synapse does not start with it.
func TestHardenedAlone(t *testing.T) {
	need.OnlyLong(t)
	need.All(t, Recipes[0].Installed(t.Context()))
	d := must(Prepare(t.Context(), Plan{Recipe: Recipes[0], Domain: domain, Dir: t.TempDir()}))(t)
	must(d.Genconfig(t.Context()))(t)
	path := filepath.Join(d.Homeserver.Dir, "homeserver.yaml")
	if err := os.WriteFile(path, append(must(os.ReadFile(path))(t), limitSharing...), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.Homeserver.Start(t.Context()); err == nil {
		d.Homeserver.Stop()
		t.Error("it starts, and what this gateway then sees is not tried")
	}
}
