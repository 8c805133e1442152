// prometheus.go owns a Prometheus that scrapes the gateway.

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
)

// scrapeJob is what it calls the gateway.
const scrapeJob = "matrix-regservice"

// A prometheus is one Prometheus, which needs no more than its own directory.
type prometheus struct {
	url     string
	process *process
}

// PrometheusInstalled returns nil when Prometheus is there, and what to install otherwise.
func PrometheusInstalled() error {
	if _, err := exec.LookPath("prometheus"); err != nil {
		return need.Missing{What: "Prometheus", Cure: "apt-get install prometheus"}
	}
	return nil
}

// startPrometheus starts one that scrapes the address every second, and waits until it did.
func startPrometheus(ctx context.Context, dir, address string) (*prometheus, error) {
	ports, err := freePorts(1)
	if err != nil {
		return nil, err
	}
	listen := fmt.Sprintf("127.0.0.1:%d", ports[0])
	config := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(config, fmt.Appendf(nil, `global: {scrape_interval: 1s}
scrape_configs:
- job_name: %s
  static_configs: [{targets: ['%s']}]
`, scrapeJob, address), 0o600); err != nil {
		return nil, err
	}
	p := &prometheus{url: "http://" + listen}
	p.process, err = startProcess("Prometheus", filepath.Join(dir, "prometheus.log"), exec.Command("prometheus",
		"--config.file", config, "--storage.tsdb.path", filepath.Join(dir, "data"), "--web.listen-address", listen))
	if err != nil {
		return nil, err
	}
	return p, p.process.ready(ctx, func(ctx context.Context) bool {
		samples, err := p.query(ctx, "up == 1")
		return err == nil && len(samples) == 1
	})
}

// A sample is one result of a query.
type sample struct {
	Labels map[string]string `json:"metric"`
	Value  [2]any            `json:"value"` // its time, and the value as text
}

// query asks for an instant vector.
func (p *prometheus) query(ctx context.Context, promQL string) ([]sample, error) {
	a, err := call(ctx, http.MethodGet, p.url+"/api/v1/query?query="+url.QueryEscape(promQL), "", nil)
	if err != nil {
		return nil, err
	}
	var answer struct {
		Data struct{ Result []sample }
	}
	if err := json.Unmarshal([]byte(a.Body), &answer); err != nil || a.Status != http.StatusOK {
		return nil, fmt.Errorf("prometheus answers %d %s", a.Status, a.Body)
	}
	return answer.Data.Result, nil
}

// waitFor asks until there is a result.
func (p *prometheus) waitFor(ctx context.Context, promQL string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		samples, err := p.query(ctx, promQL)
		if err == nil && len(samples) > 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: no result (%v)", promQL, err)
		case <-time.After(4 * pollPause):
		}
	}
}
