// hub_linux_test.go owns what the limits of the guide are for: a hub with 20 channels, as Photon does it, on real homeservers.

package e2e

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
)

const (
	hubChannels = 20
	hubStarts   = hubChannels + 2 // of the partners, and of the hub twice
	hubRounds   = 4               // of a message each way through each channel
	hubAbsence  = 5 * time.Second // between its stop and its next start
)

// limitLine begins a limit in homeserver.yaml, with what is under it.
var limitLine = regexp.MustCompile(`(?m)^rc_\w+:.*\n(?:  .*\n)*`)

// guideLimits are the limits that the file has for its homeserver: settings as YAML, or a document with those in an indented block.
func guideLimits(t *testing.T, file string) string {
	t.Helper()
	guide := string(must(os.ReadFile(filepath.Join(must(moduleRoot(t.Context()))(t), file)))(t))
	if filepath.Ext(file) == ".md" {
		guide = regexp.MustCompile(`(?m)^    `).ReplaceAllString(guide, "")
	}
	limits := strings.Join(limitLine.FindAllString(guide, -1), "")
	if limits == "" {
		t.Fatalf("%s has no limits", file)
	}
	return limits
}

// deployWithLimits starts a homeserver that has these limits and no others, with nginx and the gateway.
func deployWithLimits(t *testing.T, recipe Recipe, limits string, flags ...string) *Deployment {
	t.Helper()
	flags = append(flags, "--trusted-proxies", "127.0.0.1") // nodes have other addresses of this machine
	d := prepare(t, Plan{Recipe: recipe, Domain: domain, Nginx: true, Dir: t.TempDir(), Flags: flags})
	settings := filepath.Join(d.Homeserver.Dir, "homeserver.yaml")
	if err := edit(settings, limitLine, ""); err != nil {
		t.Fatal(err)
	}
	content := must(os.ReadFile(settings))(t)
	if err := os.WriteFile(settings, append(content, "\n"+limits...), 0o600); err != nil {
		t.Fatal(err)
	}
	must(d.Genconfig(t.Context()))(t)
	if err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return d
}

// With the limits of the guide nothing of what a hub does is answered with 429. With the homeserver's own some is: otherwise the
// guide asks for too much, or this test for too little.
func TestHub(t *testing.T) {
	need.OnlyLong(t)
	for _, homeserver := range []struct{ recipe, guide string }{
		{"synapse-1.163.2", "deploy/synapse.yaml"},
		{"synapse-0.34.0", "docs/homeservers/synapse-0.34.md"},
	} {
		recipe := must(RecipeNamed(homeserver.recipe))(t)
		t.Run(recipe.Name, func(t *testing.T) {
			need.All(t, recipe.Installed(t.Context()), NginxInstalled())
			t.Run("the limits of the guide", func(t *testing.T) {
				h := playHub(t, deployWithLimits(t, recipe, guideLimits(t, homeserver.guide)))
				if h.limited() > 0 || h.started != hubStarts || h.rooms != hubChannels || h.arrived != h.sent {
					t.Errorf("%d starts of %d, %d rooms of %d, %d messages of %d, %d answers of 429", h.started, hubStarts, h.rooms, hubChannels, h.arrived, h.sent, h.limited())
				}
			})
			t.Run("its own limits", func(t *testing.T) {
				if h := playHub(t, deployWithLimits(t, recipe, "")); h.limited() == 0 {
					t.Errorf("nothing was answered with 429: %d rooms, %d messages", h.rooms, h.arrived)
				}
			})
		})
	}
}

// A hub is what became of one.
type hub struct {
	started              int // nodes that are in the discovery room and say so, the hub twice
	rooms, sent, arrived int
	answers              counts
}

func (h *hub) limited() int { return h.answers.of(http.StatusTooManyRequests) }

// playHub has a hub and its partners start together, opens a channel with each, sends messages, and starts the hub again.
func playHub(t *testing.T, d *Deployment) *hub {
	t.Helper()
	ctx := t.Context()
	h := &hub{}
	nodes := make([]*photon, 1+hubChannels)
	for i := range nodes {
		nodes[i] = newPhoton(t, i, &h.answers)
		nodes[i].server = d.NodeURL
	}
	var starting sync.WaitGroup
	var started atomic.Int64
	start := func(n *photon) {
		if n.start(ctx, domain) {
			started.Add(1)
		}
	}
	for _, n := range nodes {
		starting.Go(func() { start(n) })
	}
	starting.Wait()
	center, partners := nodes[0], nodes[1:]

	channels := map[*photon]string{}
	for _, partner := range partners {
		if room := center.open(ctx, partner); room != "" {
			channels[partner] = room
		}
	}
	h.rooms = len(channels)
	for range hubRounds {
		h.talk(t, center, partners, channels)
	}
	center.stop(ctx)
	time.Sleep(hubAbsence)
	start(center)
	for partner := range channels { // it remembers no room, and finds them by their aliases
		center.open(ctx, partner)
	}
	h.talk(t, center, partners, channels)
	h.started = int(started.Load())
	t.Logf("%d starts of %d, %d rooms of %d, %d messages of %d, %d answers of 429:\n%v", h.started, hubStarts, h.rooms, hubChannels, h.arrived, h.sent, h.limited(), &h.answers)
	return h
}

// talk sends a message each way through each channel. Those that have no room are lost.
func (h *hub) talk(t *testing.T, center *photon, partners []*photon, channels map[*photon]string) {
	for _, partner := range partners {
		h.sent += 2
		room, isOpen := channels[partner]
		if !isOpen {
			continue
		}
		for _, n := range []*photon{center, partner} {
			if n.send(t.Context(), room) {
				h.arrived++
			}
		}
	}
}

// A node that was built for a network of another name logs in, does not find its discovery room, and begins anew each second: it
// leaves a session open each time. docs/operating.md says how that is seen.
func TestNodeOfAnotherNetwork(t *testing.T) {
	need.OnlyLong(t)
	recipe := Recipes[0]
	need.All(t, recipe.Installed(t.Context()), NginxInstalled())
	d := deployWithLimits(t, recipe, guideLimits(t, "deploy/synapse.yaml"))
	var answers counts
	n := newPhoton(t, 0, &answers)
	n.server = d.NodeURL
	const starts = 3
	for range starts {
		if n.start(t.Context(), "elsewhere.invalid") {
			t.Fatal("it found a discovery room that is not there")
		}
	}
	t.Logf("its calls:\n%v", &answers)
	if seen := answers.of(http.StatusNotFound, "join alias") + answers.of(http.StatusBadGateway, "join alias"); seen != starts {
		t.Errorf("%d joins were answered with 404 or 502, as docs/operating.md says, want %d", seen, starts)
	}
	if !n.login(t.Context()) {
		t.Fatal("it does not get in")
	}
	var said struct{ Devices []struct{} }
	list := n.ask(t.Context(), "devices", http.MethodGet, photonClient+"devices", nil)
	if err := json.Unmarshal([]byte(list.Body), &said); err != nil || len(said.Devices) != starts+1 {
		t.Errorf("%d sessions are open, want %d: %s", len(said.Devices), starts+1, list.Body)
	}
}
