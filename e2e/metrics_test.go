// metrics_test.go owns what the operator's tools see of the gateway while it serves: Prometheus, users and backup.

package e2e

import (
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
)

// A real Prometheus finds each metric with its labels, after a registration, a refusal and a transaction.
func testMetrics(t *testing.T, d *Deployment) {
	need.All(t, PrometheusInstalled())
	p := startTestPrometheus(t, d.OpsAddress)
	alice, bob := newTalker(t, d), newTalker(t, d)
	alice.meets(t, bob)
	refused := newNode(t, d)
	refused.Password = alice.Password
	want(t, must(refused.Register(t.Context()))(t), http.StatusBadRequest, "M_INVALID_SIGNATURE")
	waitForQueue(t, d, 0)

	api, calls := "createuser", []string{"create", "profile"}
	if d.Recipe.createPath == SharedSecretPath {
		api, calls = "sharedsecret", []string{"create", "nonce", "version", "key"}
	}
	const prefix = "matrix_regservice_"
	queries := []string{
		`registrations_total{outcome="created",errcode=""} >= 2`,
		`registrations_total{outcome="refused",errcode="M_INVALID_SIGNATURE"} >= 1`,
		`registrations_in_flight == 0`,
		`verification_seconds_count >= 3`,
		`verification_seconds_bucket{le="+Inf"} >= 3`,
		`store_seconds_count{operation="load"} >= 2`,
		`store_seconds_count{operation="save"} >= 4`,
		`store_seconds_count{operation="drop"}`,
		`store_seconds_count{operation="list"}`,
		`store_bytes > 0`,
		`records{state="registered"} >= 2`,
		`records{state="pending"}`,
		`appservice_requests_total{kind="transaction",status="200"} >= 1`,
		`connections`, // which may be none between two of Dendrite's calls
		`connections_crowded_out_total == 0`,
		`build_info{version!="",commit!="",goversion=~"go1.*"} == 1`,
	}
	for _, call := range calls {
		queries = append(queries, `homeserver_call_seconds_count{api="`+api+`",call="`+call+`",result="ok"} >= 1`)
	}
	for _, query := range queries {
		if err := p.waitFor(t.Context(), prefix+query); err != nil {
			t.Error(err)
		}
	}
	for _, query := range []string{`go_goroutines > 0`, `process_resident_memory_bytes > 0`, `process_open_fds > 0`} {
		if err := p.waitFor(t.Context(), query); err != nil {
			t.Error(err)
		}
	}
	if health := must(call(t.Context(), http.MethodGet, "http://"+d.OpsAddress+"/readyz", "", nil))(t); health.Status != http.StatusOK {
		t.Errorf("readyz: %d %s", health.Status, health.Body)
	}
}

// startTestPrometheus starts a Prometheus that scrapes the address, until the test ends.
func startTestPrometheus(t *testing.T, address string) *prometheus {
	t.Helper()
	dir := t.TempDir()
	p, err := startPrometheus(t.Context(), dir, address)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(logTail(filepath.Join(dir, "prometheus.log")))
		}
		if p == nil {
			return
		}
		if _, err := p.process.stop(); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// The operator's commands, beside the gateway that serves.
func testOperator(t *testing.T, d *Deployment) {
	n, _ := newMember(t, d)
	run := func(args ...string) string {
		t.Helper()
		return must(d.Program.mustRun(t.Context(), d.Gateway.Dir, args...))(t)
	}
	if list := run("users", "--state", "registered"); !regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(n.UserID) + ` +registered `).MatchString(list) {
		t.Errorf("%s is not in the list:\n%s", n.UserID, list)
	}
	backup := filepath.Join(t.TempDir(), "backup.db")
	t.Log(run("backup", backup))
	t.Log(run("--datapath", filepath.Join(t.TempDir(), "restored"), "restore", backup))
	r := must(d.Program.Run(t.Context(), d.Gateway.Dir, "restore", backup, "--force"))(t)
	if r.Code != 1 || !strings.Contains(r.Stderr, "stop it first") {
		t.Errorf("restore beside the gateway: exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
}
