// standby.go owns a second PostgreSQL that follows the first: copied from it, streaming, and promoted when that one is gone.

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// PostgresPassword is that of every role that MakeDatabase makes.
const PostgresPassword = "a-password-of-a-test"

// StartStandby copies the PostgreSQL, and starts the copy as its standby of this name: in the place of a former one that has
// ended, if there is one. Close has to be called, on an error too where it is not nil.
func (p *Postgres) StartStandby(ctx context.Context, name string, former *Postgres) (s *Postgres, err error) {
	if s = former; s == nil {
		s, err = newPostgres(p.bin)
	} else {
		err = os.RemoveAll(s.data())
	}
	if err != nil {
		return s, err
	}
	backup := p.Command(ctx, "pg_basebackup", "--pgdata", s.data(), "--host", p.Dir, "--port", strconv.Itoa(p.Port),
		"--username", "postgres", "--checkpoint", "fast", "--wal-method", "stream", "--no-sync")
	if out, err := backup.CombinedOutput(); err != nil {
		return s, fmt.Errorf("pg_basebackup: %w\n%s", err, out)
	}
	config, err := os.OpenFile(filepath.Join(s.data(), "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return s, err
	}
	_, err = fmt.Fprintf(config, "port = %d\nunix_socket_directories = '%s'\nprimary_conninfo = 'host=%s port=%d user=postgres application_name=%s'\n",
		s.Port, s.Dir, p.Dir, p.Port, name)
	if err := errors.Join(err, config.Close(), os.WriteFile(filepath.Join(s.data(), "standby.signal"), nil, 0o644)); err != nil {
		return s, err
	}
	if err := s.Start(ctx); err != nil {
		return s, err
	}
	return s, p.waitFor(ctx, "SELECT count(*) > 0 FROM pg_stat_replication WHERE state = 'streaming' AND application_name = '"+name+"'")
}

// WaitForStandby makes every commit wait for the standby of this name, which streams.
func (p *Postgres) WaitForStandby(ctx context.Context, name string) error {
	if _, err := p.SQL(ctx, "postgres", "ALTER SYSTEM SET synchronous_standby_names = '"+name+"'"); err != nil {
		return err
	}
	if _, err := p.SQL(ctx, "postgres", "SELECT pg_reload_conf()"); err != nil {
		return err
	}
	return p.waitFor(ctx, "SELECT count(*) > 0 FROM pg_stat_replication WHERE sync_state = 'sync' AND application_name = '"+name+"'")
}

// waitFor waits until the question is answered with true.
func (p *Postgres) waitFor(ctx context.Context, question string) error {
	said, err := "", error(nil)
	if waited := p.process.ready(ctx, func(ctx context.Context) bool {
		said, err = p.SQL(ctx, "postgres", question)
		return err == nil && said == "t"
	}); waited != nil {
		return errors.Join(fmt.Errorf("%s: %w", question, waited), err)
	}
	return nil
}

// WalSender is the process that sends its log to the only standby.
func (p *Postgres) WalSender(ctx context.Context) (*os.Process, error) {
	said, err := p.SQL(ctx, "postgres", "SELECT pid FROM pg_stat_replication")
	if err != nil {
		return nil, err
	}
	pid, err := strconv.Atoi(said)
	if err != nil {
		return nil, fmt.Errorf("the standbys are %q, want one", said)
	}
	return os.FindProcess(pid)
}

// Kill ends it with all its processes at once, as a machine ends that loses its power.
func (p *Postgres) Kill() error {
	if err := killTree(p.process.cmd.Process.Pid); err != nil {
		return err
	}
	<-p.process.done
	return nil
}

// Freeze stops it with all its processes where they are, as a machine stops that hangs; they keep their connections.
func (p *Postgres) Freeze() error { return signalTree(p.process.cmd.Process.Pid, syscall.SIGSTOP) }

// Thaw lets them go on.
func (p *Postgres) Thaw() error { return signalTree(p.process.cmd.Process.Pid, syscall.SIGCONT) }

// killTree ends the process and those that it started. It is stopped first, so that it starts nobody anew.
func killTree(pid int) error {
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		return err
	}
	children, err := childrenOf(pid)
	if err != nil {
		return err
	}
	for _, child := range append(children, pid) {
		if err := syscall.Kill(child, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
	}
	return nil
}

// signalTree sends the signal to the process and to those that it started.
func signalTree(pid int, signal syscall.Signal) error {
	if err := syscall.Kill(pid, signal); err != nil {
		return err
	}
	children, err := childrenOf(pid)
	if err != nil {
		return err
	}
	for _, child := range children {
		if err := syscall.Kill(child, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
	}
	return nil
}

// childrenOf returns the processes that the process has started and that have not ended.
func childrenOf(pid int) (children []int, err error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	for _, path := range stats {
		content, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		stat := string(content)
		fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:]) // the name before may hold anything
		if len(fields) > 1 && fields[1] == strconv.Itoa(pid) {
			child, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			if err != nil {
				return nil, err
			}
			children = append(children, child)
		}
	}
	return children, nil
}

// Promote makes the standby a primary, and waits until it takes writes.
func (p *Postgres) Promote(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	if said, err := p.SQL(ctx, "postgres", "SELECT pg_promote(true, 60)"); err != nil || said != "t" {
		return fmt.Errorf("pg_promote said %q: %w", said, errors.Join(err, errors.New(logTail(p.LogFile))))
	}
	for {
		said, err := p.SQL(ctx, "postgres", "SELECT pg_is_in_recovery()")
		if err == nil && said == "f" {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(pollPause):
		}
	}
}

// MakeDatabase makes a role with PostgresPassword, and a database of the same name that is the role's.
func (p *Postgres) MakeDatabase(ctx context.Context, name string) error {
	_, err := p.SQL(ctx, "postgres", fmt.Sprintf("CREATE ROLE %[1]s LOGIN PASSWORD '%[2]s';\nCREATE DATABASE %[1]s OWNER %[1]s", name, PostgresPassword))
	return err
}

// FailoverURL leads to the database of MakeDatabase at whichever of the addresses takes writes.
func FailoverURL(name string, addresses ...string) string {
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword(name, PostgresPassword), Host: strings.Join(addresses, ","), Path: name,
		RawQuery: "sslmode=disable&target_session_attrs=read-write",
	}
	return u.String()
}
