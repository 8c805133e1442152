// dashboard_test.go owns deploy/grafana/dashboard.json: that each of its queries has an answer in a real Prometheus that
// scrapes the real service.

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

const (
	scrapeJob    = "matrix-regservice"
	rateInterval = "20s" // what Grafana would put for $__rate_interval, at a scrape a second
)

var lastLine = regexp.MustCompile(`(?m)^exec .*$`)

func TestDashboard(t *testing.T) {
	prometheus, err := exec.LookPath("prometheus")
	if err != nil {
		err = fmt.Errorf("prometheus is %w: apt-get install prometheus", ErrMissing)
	}
	recipe := Recipes[0]
	if err := errors.Join(err, recipe.Installed(t.Context())); errors.Is(err, ErrMissing) && os.Getenv("E2E_REQUIRED") != "1" {
		t.Skip(strings.ReplaceAll(err.Error(), "\n", "; "))
	} else if err != nil {
		t.Fatal(err)
	}
	d := must(Prepare(t.Context(), Plan{Recipe: recipe, Domain: domain, Dir: t.TempDir()}))(t)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(d.LogTails())
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	ports := must(freePorts(2))(t)
	ops := fmt.Sprintf("127.0.0.1:%d", ports[0])
	must(d.Genconfig(t.Context()))(t)
	run := filepath.Join(d.Gateway.Dir, "run.sh")
	command := lastLine.Find(must(os.ReadFile(run))(t))
	if err := edit(run, lastLine, string(command)+" --ops-listen "+ops); err != nil {
		t.Fatal(err)
	}
	if err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}

	server := startScraper(t, prometheus, d.Dir, ops, fmt.Sprintf("127.0.0.1:%d", ports[1]))
	waiting := dashboardQueries(t)
	t.Logf("the dashboard has %d queries", len(waiting))
	for deadline := time.Now().Add(startTime); len(waiting) > 0 && time.Now().Before(deadline); time.Sleep(time.Second) {
		playForMetrics(t, d)
		for title, query := range waiting {
			if answered := must(server.hasData(t.Context(), query))(t); answered {
				delete(waiting, title)
			}
		}
	}
	for title, query := range waiting {
		t.Errorf("%s: no data for %s", title, query)
	}
}

// dashboardQueries are the dashboard's queries as Grafana would send them, by the panel's title and the query's letter.
func dashboardQueries(t *testing.T) map[string]string {
	t.Helper()
	root := must(moduleRoot(t.Context()))(t)
	content := must(os.ReadFile(filepath.Join(root, "deploy", "grafana", "dashboard.json")))(t)
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ RefID, Expr string }
		}
	}
	if err := json.Unmarshal(content, &dashboard); err != nil {
		t.Fatal(err)
	}
	queries := make(map[string]string)
	for _, panel := range dashboard.Panels {
		if len(panel.Targets) == 0 {
			t.Errorf("the panel %s has no query", panel.Title)
		}
		for _, target := range panel.Targets {
			query := strings.NewReplacer("$__rate_interval", rateInterval, "$job", scrapeJob).Replace(target.Expr)
			if strings.Contains(query, "$") {
				t.Errorf("%s %s has a variable that nobody sets: %s", panel.Title, target.RefID, query)
			}
			queries[panel.Title+" "+target.RefID] = query
		}
	}
	if len(queries) == 0 {
		t.Fatal("the dashboard has no query")
	}
	return queries
}

// playForMetrics does what leaves a trace in each metric: nodes come in, once and twice, with a wrong proof too, and talk,
// so that the homeserver pushes events.
func playForMetrics(t *testing.T, d *Deployment) {
	t.Helper()
	alice, bob := newTalker(t, d), newTalker(t, d)
	want(t, must(alice.Register(t.Context()))(t), http.StatusConflict, "M_USER_IN_USE")
	stolen := newNode(t, d)
	stolen.Password = alice.Password
	want(t, must(stolen.Register(t.Context()))(t), http.StatusBadRequest, "M_INVALID_SIGNATURE")
	alice.says(t, alice.meets(t, bob), "hello")
}

// A scraper is a Prometheus that answers queries.
type scraper struct{ url string }

// startScraper starts one that scrapes the target every second, with its data below the directory.
func startScraper(t *testing.T, path, dir, target, listen string) scraper {
	t.Helper()
	config := filepath.Join(dir, "prometheus.yml")
	content := fmt.Sprintf("global: {scrape_interval: 1s}\nscrape_configs:\n  - job_name: %s\n    static_configs: [{targets: ['%s']}]\n", scrapeJob, target)
	if err := os.WriteFile(config, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(dir, "prometheus.log")
	p := must(startProcess("prometheus", log, exec.Command(path, "--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "prometheus"), "--web.listen-address="+listen)))(t)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(logTail(log))
		}
		if _, err := p.stop(); err != nil {
			t.Error(err)
		}
	})
	server := scraper{"http://" + listen}
	if err := p.ready(t.Context(), func(ctx context.Context) bool { return serves(ctx, server.url+"/-/ready") }); err != nil {
		t.Fatal(err)
	}
	return server
}

// hasData tells whether a query has an answer, and one that is a number.
func (s scraper) hasData(ctx context.Context, query string) (bool, error) {
	a, err := call(ctx, http.MethodGet, s.url+"/api/v1/query?query="+url.QueryEscape(query), "", nil)
	if err != nil {
		return false, err
	}
	var said struct {
		Status string
		Error  string
		Data   struct {
			Result []struct{ Value [2]any }
		}
	}
	if err := json.Unmarshal([]byte(a.Body), &said); err != nil || said.Status != "success" {
		return false, fmt.Errorf("%s: %s", query, a.Body)
	}
	for _, result := range said.Data.Result {
		if result.Value[1] != "NaN" {
			return true, nil
		}
	}
	return false, nil
}
