// several_test.go owns several gateways with one record in a real PostgreSQL, behind a real nginx, before a real Synapse.

package e2e

import (
	"context"
	"errors"
	"fmt"
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
)

const gateways = 3

// A cluster is several gateways of one homeserver.
type cluster struct {
	*Deployment
	postgres *Postgres
	all      []*Gateway
	url      string // of nginx
}

// newCluster starts everything, or skips the test where something is not installed.
func newCluster(t *testing.T) *cluster {
	t.Helper()
	recipe := Recipes[0]
	need.All(t, recipe.Installed(t.Context()), NginxInstalled(), PostgresInstalled())
	p, err := StartPostgres(t.Context())
	t.Cleanup(func() {
		if p != nil {
			if err := p.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "store_url")
	if err := os.WriteFile(file, []byte(p.URL("postgres", "postgres")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	flags := []string{"--datapath-file", file}
	recipe.genconfig = append(recipe.genconfig, flags...)
	d := must(Prepare(t.Context(), Plan{Recipe: recipe, Domain: domain, Dir: t.TempDir()}))(t)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(d.LogTails(), logTail(p.LogFile))
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	must(d.Genconfig(t.Context()))(t)
	ports := must(freePorts(gateways))(t)
	c := &cluster{Deployment: d, postgres: p, all: []*Gateway{d.Gateway}}
	for i, port := range ports[1:] {
		g := must(d.PrepareGateway(t.Context(), fmt.Sprintf("gateway%d", i+1), d.Homeserver.URL+recipe.createPath, port, append(flags, "--sharesecret", d.Homeserver.SharedSecret)...))(t)
		c.all = append(c.all, g)
	}
	lastLine := regexp.MustCompile(`(?m)^exec .*$`)
	for _, g := range c.all { // all nodes here have one address
		run := filepath.Join(g.Dir, "run.sh")
		command := lastLine.Find(must(os.ReadFile(run))(t))
		if err := edit(run, lastLine, string(command)+" --rate-limit 0 --total-rate-limit 0"); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, g := range c.all[1:] {
		if err := g.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	c.startNginx(t, ports[0])
	return c
}

// startNginx puts one nginx before all gateways.
func (c *cluster) startNginx(t *testing.T, port int) {
	t.Helper()
	root := must(moduleRoot(t.Context()))(t)
	values := struct {
		Homeserver string
		Port       int
		Gateways   []string
	}{c.Homeserver.URL, port, nil}
	for _, g := range c.all {
		values.Gateways = append(values.Gateways, strings.TrimPrefix(g.URL, "http://"))
	}
	n := &nginx{dir: t.TempDir(), url: "http://127.0.0.1:" + strconv.Itoa(port)}
	if err := render(filepath.Join(root, "e2e", "testdata", "upstream.conf"), n.configFile(), values); err != nil {
		t.Fatal(err)
	}
	if err := n.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := n.process.stop(); err != nil {
			t.Error(err)
		}
	})
	c.url = n.url
	c.NodeURL, c.RegisterURL = n.url, n.url+registerPath
}

// newNodes makes so many nodes.
func (c *cluster) newNodes(t *testing.T, count int) []*Node {
	t.Helper()
	nodes := make([]*Node, count)
	errs := make([]error, count)
	var all sync.WaitGroup
	slots := make(chan bool, 4)
	for i := range nodes {
		all.Go(func() {
			slots <- true
			nodes[i], errs[i] = c.NewNode(t.Context())
			<-slots
		})
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	return nodes
}

// accounts counts the nodes' accounts at the homeserver.
func (c *cluster) accounts(t *testing.T) int {
	t.Helper()
	command := []string{"python", "-c", `import sqlite3
db = sqlite3.connect("file:homeserver.db?mode=ro", uri=True, timeout=30)
print(*db.execute("SELECT count(*) FROM users WHERE name LIKE '@0x%'").fetchone())`}
	return must(c.Homeserver.Count(t.Context(), command))(t)
}

// Every address is sent to all gateways at once, on 64 connections to nginx for each; then a gateway is killed and
// PostgreSQL crashes while more come.
func TestSeveralGateways(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	nodes := c.newNodes(t, 64)
	t.Run("each address at all of them at once", func(t *testing.T) { testAtOnce(t, c, nodes) })
	if !t.Failed() {
		t.Run("one is killed and PostgreSQL crashes", func(t *testing.T) { testClusterFaults(t, c, len(nodes)) })
	}
	t.Run("no log holds a secret", func(t *testing.T) { testNoSecretLogged(t, c.Deployment) })
}

func testAtOnce(t *testing.T, c *cluster, nodes []*Node) {
	var created, existed atomic.Int64
	var all sync.WaitGroup
	for _, n := range nodes {
		var mine atomic.Int64
		for i := range c.all {
			all.Go(func() {
				a, err := n.RegisterAt(t.Context(), fmt.Sprintf("%s/%d%s", c.url, i, registerPath))
				switch {
				case err == nil && a.Status == http.StatusOK && mine.Add(1) == 1:
					created.Add(1)
				case err == nil && a.Status == http.StatusConflict:
					existed.Add(1)
				default:
					t.Errorf("%s at gateway %d: got %d %s, %v", n.UserID, i, a.Status, a.Body, err)
				}
			})
		}
	}
	all.Wait()
	if created.Load() != int64(len(nodes)) || existed.Load() != int64(len(nodes)*(gateways-1)) {
		t.Errorf("%d were created and %d existed, of %d nodes", created.Load(), existed.Load(), len(nodes))
	}
	if got := c.accounts(t); got != len(nodes) {
		t.Errorf("the homeserver has %d accounts, want %d", got, len(nodes))
	}
	for i, g := range c.all {
		log := must(g.Log())(t)
		if !strings.Contains(log, "Registered node") {
			t.Errorf("gateway %d registered nobody", i)
		}
	}
}

func testClusterFaults(t *testing.T, c *cluster, before int) {
	nodes := c.newNodes(t, 128)
	ctx, cancel := context.WithTimeout(t.Context(), 2*startTime)
	defer cancel()
	var done, tries atomic.Int64
	waiting := make(chan *Node, len(nodes))
	for _, n := range nodes {
		waiting <- n
	}
	close(waiting)
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() {
			for n := range waiting {
				for {
					tries.Add(1)
					a, err := n.Register(ctx)
					if err == nil && (a.Status == http.StatusOK || a.Status == http.StatusConflict) {
						done.Add(1)
						break
					}
					if ctx.Err() != nil {
						t.Errorf("%s is still not in: %d %s, %v", n.UserID, a.Status, a.Body, err)
						return
					}
					time.Sleep(4 * pollPause)
				}
			}
		})
	}
	reach := func(count int64) {
		for done.Load() < count && ctx.Err() == nil {
			time.Sleep(time.Millisecond)
		}
	}
	reach(10)
	if err := c.all[1].Kill(); err != nil {
		t.Error(err)
	}
	t.Logf("a gateway was killed with %d of %d registered", done.Load(), len(nodes))
	reach(40)
	if err := errors.Join(c.postgres.Stop(syscall.SIGQUIT), c.postgres.Start(t.Context())); err != nil {
		t.Error(err)
	}
	t.Logf("PostgreSQL crashed, and is back with %d registered", done.Load())
	all.Wait()
	t.Logf("%d nodes are in after %d tries", done.Load(), tries.Load())

	if got := c.accounts(t); got != before+len(nodes) {
		t.Errorf("the homeserver has %d accounts, want %d", got, before+len(nodes))
	}
	for _, n := range nodes {
		loggedIn(t, n)
	}
	list := must(c.postgres.SQL(t.Context(), "postgres", "SELECT count(*) FILTER (WHERE state = 'registered') || ' ' || (SELECT sum(registered) FROM matrix_regservice.counts) FROM matrix_regservice.records"))(t)
	if want := fmt.Sprintf("%[1]d %[1]d", before+len(nodes)); list != want {
		t.Errorf("the record has %s registered, want %s", list, want)
	}
}
