// postgres.go owns a PostgreSQL of one's own: made in a scratch directory, and as durable as any.

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
)

// A Postgres is one PostgreSQL, which needs no more than its own directory. Its superuser is postgres, whom it trusts
// on its socket; on the loopback address it asks everybody for a password.
type Postgres struct {
	Dir     string
	Port    int
	LogFile string

	bin     string
	owner   *syscall.Credential // it refuses to run as root; nil for the user that runs this
	process *process
}

// findPostgres returns the directory of its programs, the newest that there is.
func findPostgres() (string, error) {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb") // where Debian has them, off the PATH
	slices.SortFunc(found, func(a, b string) int { return postgresVersion(b) - postgresVersion(a) })
	if path, err := exec.LookPath("initdb"); err == nil {
		found = append(found, path)
	}
	for _, path := range found {
		if path, err := filepath.EvalSymlinks(path); err == nil {
			return filepath.Dir(path), nil
		}
	}
	return "", need.Missing{What: "PostgreSQL", Cure: "apt-get install postgresql"}
}

func postgresVersion(initdb string) int {
	version, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(initdb))))
	return version
}

// PostgresInstalled returns nil when PostgreSQL is there, and what to install otherwise.
func PostgresInstalled() error {
	_, err := findPostgres()
	return err
}

// StartPostgres makes and starts one, with further settings as name=value. Close has to be called, on an error too where
// it is not nil.
func StartPostgres(ctx context.Context, settings ...string) (p *Postgres, err error) {
	bin, err := findPostgres()
	if err != nil {
		return nil, err
	}
	if p, err = newPostgres(bin); err != nil {
		return p, err
	}
	initdb := p.Command(ctx, "initdb", "--pgdata", p.data(), "--username", "postgres", "--encoding", "UTF8", "--locale", "C",
		"--auth-local", "trust", "--auth-host", "scram-sha-256", "--no-sync", "--no-instructions", "--wal-segsize", "1")
	if out, err := initdb.CombinedOutput(); err != nil {
		return p, fmt.Errorf("initdb: %w\n%s", err, out)
	}
	config, err := os.OpenFile(filepath.Join(p.data(), "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return p, err
	}
	_, err = fmt.Fprintf(config, "listen_addresses = '127.0.0.1'\nport = %d\nunix_socket_directories = '%s'\nshared_buffers = 64MB\nmax_wal_size = 1GB\n%s\n",
		p.Port, p.Dir, strings.Join(settings, "\n"))
	if err := errors.Join(err, config.Close()); err != nil {
		return p, err
	}
	return p, p.Start(ctx)
}

// newPostgres makes the directory of one, and holds its port.
func newPostgres(bin string) (p *Postgres, err error) {
	ports, err := freePorts(1)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "regservice-pg-") // its path is short: a socket's name has room for 107 bytes
	if err != nil {
		return nil, err
	}
	p = &Postgres{Dir: dir, Port: ports[0], LogFile: filepath.Join(dir, "log"), bin: bin}
	if os.Geteuid() != 0 {
		return p, nil
	}
	if p.owner, err = unprivileged(); err != nil {
		return p, err
	}
	return p, os.Chown(dir, int(p.owner.Uid), int(p.owner.Gid))
}

// unprivileged is whom root runs it as.
func unprivileged() (*syscall.Credential, error) {
	for _, name := range []string{"postgres", "nobody"} {
		if u, err := user.Lookup(name); err == nil {
			uid, _ := strconv.Atoi(u.Uid)
			gid, _ := strconv.Atoi(u.Gid)
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
		}
	}
	return nil, errors.New("PostgreSQL does not run as root, and there is no user postgres or nobody")
}

func (p *Postgres) data() string { return filepath.Join(p.Dir, "data") }

// Command is one of its programs, or the one at a path, as its owner runs it.
func (p *Postgres) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	if !filepath.IsAbs(name) {
		name = filepath.Join(p.bin, name)
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = p.Dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: p.owner}
	return cmd
}

// Start starts one that has ended, and waits until it lets somebody in.
func (p *Postgres) Start(ctx context.Context) (err error) {
	p.process, err = startProcess("PostgreSQL", p.LogFile, p.Command(context.WithoutCancel(ctx), "postgres", "-D", p.data()))
	if err != nil {
		return err
	}
	if err := p.process.ready(ctx, func(ctx context.Context) bool {
		_, err := p.SQL(ctx, "postgres", "SELECT 1")
		return err == nil
	}); err != nil {
		return fmt.Errorf("%w\n%s", err, logTail(p.LogFile))
	}
	return nil
}

// Stop ends it at once: with SIGINT its clients are sent away and all is written, with SIGQUIT it is as after a crash.
func (p *Postgres) Stop(how syscall.Signal) error {
	if p.process == nil {
		return nil
	}
	p.process.cmd.Process.Signal(how)
	select {
	case <-p.process.done:
		return nil
	case <-time.After(startTime):
		_, err := p.process.stop()
		return err
	}
}

// Close ends it and removes all that is left of it.
func (p *Postgres) Close() error { return errors.Join(p.Stop(syscall.SIGINT), os.RemoveAll(p.Dir)) }

// SQL runs statements in the database as the superuser and returns what psql prints.
func (p *Postgres) SQL(ctx context.Context, database, sql string) (string, error) {
	cmd := p.Command(ctx, "psql", "--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set", "ON_ERROR_STOP=1",
		"--host", p.Dir, "--port", strconv.Itoa(p.Port), "--username", "postgres", "--dbname", database)
	cmd.Stdin = strings.NewReader(sql)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("psql: %w\n%s", err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

// URL leads to the database as the role, by the socket.
func (p *Postgres) URL(role, database string) string {
	return fmt.Sprintf("postgres://%s@/%s?host=%s&port=%d", role, database, p.Dir, p.Port)
}

// Address is where it asks for a password.
func (p *Postgres) Address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(p.Port)) }
