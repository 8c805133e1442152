// dashboard_test.go owns deploy/grafana/dashboard.json: that each of its queries has an answer in a real Prometheus that
// scrapes the real service.

package e2e

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
)

// rateInterval is what Grafana would put for $__rate_interval, at a scrape a second.
const rateInterval = "20s"

func TestDashboard(t *testing.T) {
	recipe := Recipes[0]
	need.All(t, PrometheusInstalled(), recipe.Installed(t.Context()))
	d := prepare(t, Plan{Recipe: recipe, Domain: domain, Ops: true, Dir: t.TempDir()})
	must(d.Genconfig(t.Context()))(t)
	if err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}

	server := startTestPrometheus(t, d.OpsAddress)
	waiting := dashboardQueries(t)
	t.Logf("the dashboard has %d queries", len(waiting))
	for deadline := time.Now().Add(startTime); len(waiting) > 0 && time.Now().Before(deadline); time.Sleep(time.Second) {
		playForMetrics(t, d)
		for title, query := range waiting {
			samples := must(server.query(t.Context(), query))(t)
			if slices.ContainsFunc(samples, func(s sample) bool { return s.Value[1] != "NaN" }) {
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
