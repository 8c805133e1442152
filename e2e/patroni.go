// patroni.go owns a cluster of PostgreSQL as operators run it: each one under Patroni, which promotes another when the primary
// is gone, by what they keep in etcd.

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
)

// A PatroniCluster is several hosts, and the etcd that they share.
type PatroniCluster struct {
	Hosts   []*PatroniHost
	dir     string
	etcd    *process
	etcdURL string
}

// A PatroniHost is one Patroni with the PostgreSQL that it runs.
type PatroniHost struct {
	*Postgres // its process is Patroni's own
	Name      string
	restURL   string
	config    string
}

// PatroniInstalled returns nil when all of it is there, and what to install otherwise.
func PatroniInstalled() error {
	for _, program := range []string{"patroni", "etcd"} {
		if _, err := exec.LookPath(program); err != nil {
			return need.Missing{What: "Patroni with etcd", Cure: "apt-get install patroni etcd-server"}
		}
	}
	return PostgresInstalled()
}

// patroniConfig has the periods that are Patroni's own, and lets no commit count that is not at a standby as well.
const patroniConfig = `scope: regservice
name: %[1]s
restapi: {listen: '127.0.0.1:%[2]d', connect_address: '127.0.0.1:%[2]d'}
etcd3: {hosts: '127.0.0.1:%[3]d'}
bootstrap:
  dcs:
    ttl: 30
    loop_wait: 10
    retry_timeout: 10
    synchronous_mode: true
    postgresql: {use_pg_rewind: true, parameters: {wal_log_hints: 'on'}}
  initdb: [encoding: UTF8, locale: C]
postgresql:
  listen: 127.0.0.1:%[4]d
  connect_address: 127.0.0.1:%[4]d
  data_dir: %[5]s/data
  bin_dir: %[6]s
  pgpass: %[5]s/pgpass
  authentication:
    superuser: {username: postgres, password: %[7]s}
    replication: {username: replicator, password: %[7]s}
  parameters: {unix_socket_directories: '%[5]s', shared_buffers: 64MB}
  pg_hba:
  - local all all trust
  - host replication replicator 127.0.0.1/32 scram-sha-256
  - host all all 127.0.0.1/32 scram-sha-256
`

// StartPatroni starts etcd and so many hosts, and waits until one of them is the primary, and another a synchronous standby.
// Close has to be called, on an error too where it is not nil.
func StartPatroni(ctx context.Context, hosts int) (c *PatroniCluster, err error) {
	if err := PatroniInstalled(); err != nil {
		return nil, err
	}
	bin, err := findPostgres()
	if err != nil {
		return nil, err
	}
	ports, err := freePorts(2 + hosts)
	if err != nil {
		return nil, err
	}
	c = &PatroniCluster{}
	if c.dir, err = os.MkdirTemp("", "regservice-etcd-"); err != nil {
		return nil, err
	}
	client, peer := fmt.Sprintf("http://127.0.0.1:%d", ports[0]), fmt.Sprintf("http://127.0.0.1:%d", ports[1])
	c.etcdURL = client
	// An etcd of one, since what is shown here is what PostgreSQL and the gateways do.
	etcd := exec.CommandContext(context.WithoutCancel(ctx), "etcd", "--name", "one", "--data-dir", filepath.Join(c.dir, "data"),
		"--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer,
		"--initial-advertise-peer-urls", peer, "--initial-cluster", "one="+peer)
	if c.etcd, err = startProcess("etcd", filepath.Join(c.dir, "log"), etcd); err != nil {
		return c, err
	}
	if err := c.etcd.ready(ctx, func(ctx context.Context) bool {
		a, err := call(ctx, http.MethodGet, client+"/health", "", nil)
		return err == nil && strings.Contains(a.Body, `"true"`)
	}); err != nil {
		return c, fmt.Errorf("%w\n%s", err, logTail(filepath.Join(c.dir, "log")))
	}
	for i := range hosts {
		h, err := newPatroniHost(fmt.Sprintf("host%d", i), bin, ports[0], ports[2+i])
		if h != nil {
			c.Hosts = append(c.Hosts, h)
		}
		if err != nil {
			return c, err
		}
	}
	for i, h := range c.Hosts {
		if err := h.Start(ctx); err != nil {
			return c, err
		}
		if i == 0 { // the first makes the database, and the others copy it
			if err := h.process.ready(ctx, h.IsPrimary); err != nil {
				return c, fmt.Errorf("%w\n%s", err, logTail(h.LogFile))
			}
		}
	}
	return c, c.WaitWhole(ctx)
}

// newPatroniHost writes the configuration of one host.
func newPatroniHost(name, bin string, etcdPort, restPort int) (*PatroniHost, error) {
	p, err := newPostgres(bin)
	if p == nil {
		return nil, err
	}
	h := &PatroniHost{Postgres: p, Name: name, restURL: fmt.Sprintf("http://127.0.0.1:%d", restPort), config: filepath.Join(p.Dir, "patroni.yml")}
	config := fmt.Sprintf(patroniConfig, name, restPort, etcdPort, p.Port, p.Dir, bin, PostgresPassword)
	err = errors.Join(err, os.WriteFile(h.config, []byte(config), 0o600))
	if p.owner != nil {
		err = errors.Join(err, os.Chown(h.config, int(p.owner.Uid), int(p.owner.Gid)))
	}
	return h, err
}

// Start starts Patroni, which starts PostgreSQL when it finds it right, and does not wait for that.
func (h *PatroniHost) Start(ctx context.Context) (err error) {
	program, err := exec.LookPath("patroni")
	if err != nil {
		return err
	}
	h.process, err = startProcess("Patroni", h.LogFile, h.Command(context.WithoutCancel(ctx), program, h.config))
	return err
}

// IsPrimary reports whether the host has the lock of the primary, and takes writes.
func (h *PatroniHost) IsPrimary(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second) // it may be frozen
	defer cancel()
	a, err := call(ctx, http.MethodGet, h.restURL+"/primary", "", nil)
	return err == nil && a.Status == http.StatusOK
}

// Primary waits until one of the hosts is that, other than this one.
func (c *PatroniCluster) Primary(ctx context.Context, former *PatroniHost) (*PatroniHost, error) {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	for ctx.Err() == nil {
		for _, h := range c.Hosts {
			if h != former && h.IsPrimary(ctx) {
				return h, nil
			}
		}
		time.Sleep(pollPause)
	}
	return nil, fmt.Errorf("no host is the primary: %w", ctx.Err())
}

// mayFollow returns the name of the host that Patroni lets take the primary's place: "" while it has written down none, as for
// two seconds after the standby has become a synchronous one. If the primary hangs before that, nobody takes its place.
func (c *PatroniCluster) mayFollow(ctx context.Context, primary string) string {
	a, err := call(ctx, http.MethodPost, c.etcdURL+"/v3/kv/range", "", map[string][]byte{"key": []byte("/service/regservice/sync")})
	var found struct{ KVs []struct{ Value []byte } }
	var sync struct {
		Leader  string
		Standby string `json:"sync_standby"`
	}
	if err != nil || json.Unmarshal([]byte(a.Body), &found) != nil || len(found.KVs) != 1 || json.Unmarshal(found.KVs[0].Value, &sync) != nil || sync.Leader != primary {
		return ""
	}
	return sync.Standby
}

// WaitWhole waits until all hosts stream from one, one of them synchronously, and Patroni lets that one take its place.
func (c *PatroniCluster) WaitWhole(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	var said string
	for {
		for _, h := range c.Hosts {
			if !h.IsPrimary(ctx) {
				continue
			}
			out, err := h.SQL(ctx, "postgres", "SELECT count(*) || ' ' || count(*) FILTER (WHERE sync_state = 'sync') FROM pg_stat_replication WHERE state = 'streaming'")
			if said = out; err == nil && said == fmt.Sprintf("%d 1", len(c.Hosts)-1) && c.mayFollow(ctx, h.Name) != "" {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the hosts are not whole, but %q: %w", said, ctx.Err())
		case <-time.After(pollPause):
		}
	}
}

// postmaster is the process id of its PostgreSQL.
func (h *PatroniHost) postmaster() (int, error) {
	content, err := os.ReadFile(filepath.Join(h.data(), "postmaster.pid"))
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(content), "\n")
	return strconv.Atoi(line)
}

// Crash ends PostgreSQL alone at once, which Patroni sees.
func (h *PatroniHost) Crash() error {
	pid, err := h.postmaster()
	if err != nil {
		return err
	}
	return killTree(pid)
}

// Kill ends Patroni and PostgreSQL at once, as a machine ends that loses its power.
func (h *PatroniHost) Kill() error {
	if err := h.process.cmd.Process.Kill(); err != nil {
		return err
	}
	<-h.process.done
	return h.Crash()
}

// Freeze stops both where they are, as a machine stops that hangs.
func (h *PatroniHost) Freeze() error {
	pid, err := h.postmaster()
	if err != nil {
		return err
	}
	return errors.Join(h.process.cmd.Process.Signal(syscall.SIGSTOP), signalTree(pid, syscall.SIGSTOP))
}

// Reset ends both where they are and starts them again, as a watchdog does with a machine that hangs. Without one the machine
// would go on, and Patroni 3.0.2 with it: it writes its name over that of the primary that has taken its place, and what that
// one acknowledged is lost.
func (h *PatroniHost) Reset(ctx context.Context) error {
	if err := h.Kill(); err != nil {
		return err
	}
	return h.Start(ctx)
}

// Close ends all, and removes all that is left of it.
func (c *PatroniCluster) Close() error {
	var all []error
	for _, h := range c.Hosts {
		if h.process != nil {
			h.process.cmd.Process.Signal(syscall.SIGCONT)
			_, err := h.process.stop() // and PostgreSQL with it
			all = append(all, err)
		}
		if pid, err := h.postmaster(); err == nil {
			if err := killTree(pid); err != nil && !errors.Is(err, syscall.ESRCH) {
				all = append(all, err)
			}
		}
		all = append(all, os.RemoveAll(h.Dir))
	}
	_, err := c.etcd.stop()
	return errors.Join(append(all, err, os.RemoveAll(c.dir))...)
}

// State is what Patroni says of the hosts, for a person who looks for the fault.
func (c *PatroniCluster) State(ctx context.Context) string {
	for _, h := range c.Hosts {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		a, err := call(ctx, http.MethodGet, h.restURL+"/cluster", "", nil)
		cancel()
		if err == nil && json.Valid([]byte(a.Body)) {
			return a.Body
		}
	}
	return "no host answers"
}
