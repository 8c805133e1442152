// Package pgdb owns a pool of connections to PostgreSQL as such: its URL, the settings of each transaction, the version of a
// schema and its upgrade, and what a lost connection is. It knows no table but a schema's meta, and not what rows mean.
//
// No operation relies on the state of a connection, or changes it: a pooler such as PgBouncer in transaction mode gives each
// transaction another connection. So each operation is one transaction with its own settings, no statement is prepared, and no
// lock outlasts its transaction.
package pgdb

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/redact"
)

const (
	// QueryTime is how long an operation may take, with the wait for a connection and for the disk.
	QueryTime     = 3 * time.Second
	statementTime = QueryTime - QueryTime/6 // for a statement on the server, whose error then says what it waited for
)

// A Pool is a pool of connections to one database.
type Pool struct {
	Conns   *pgxpool.Pool // statements that are sent to it directly have the server's settings, and are not run again
	program string
}

// Close waits until every connection was given back, and ends them.
func (p *Pool) Close() { p.Conns.Close() }

// Send runs the statements that the function queues as one transaction with ownSettings, in one round trip. It does not end with
// the context, since breaking a statement off would cost the connection. If the connection is lost, as after a failover, Send
// calls the function and runs the statements once more on a new one: each operation has to be one that can run twice.
func (p *Pool) Send(ctx context.Context, queue func(*pgx.Batch)) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), QueryTime)
	defer cancel()
	run := func() error {
		batch := &pgx.Batch{}
		batch.Queue(ownSettings, milliseconds(statementTime))
		queue(batch)
		return p.Conns.SendBatch(ctx, batch).Close()
	}
	err := run()
	if isConnectionLost(err) && ctx.Err() == nil {
		p.Conns.Reset() // the others are lost as well, or lead to a server that is read-only now
		err = run()
	}
	return printable(err)
}

// ownSettings sets what each transaction needs, whatever the settings of the server, the database, the role and the connection
// are. A commit returns when it is on disk; remote_apply, which waits for a replica as well, stays. The last three set how times
// and bytes are written, since they arrive as text. The parameter is the time limit of a statement in milliseconds, which
// PostgreSQL applies to each of the statements that follow.
const ownSettings = `SELECT set_config('statement_timeout', $1, true), set_config('lock_timeout', $1, true),
	set_config('idle_in_transaction_session_timeout', $1, true),
	set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, true),
	set_config('TimeZone', 'UTC', true), set_config('DateStyle', 'ISO, YMD', true), set_config('bytea_output', 'hex', true)`

func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// inTransaction runs the function in a transaction with ownSettings and this time limit for each statement.
func (p *Pool) inTransaction(ctx context.Context, limit time.Duration, run func(pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, p.Conns, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, ownSettings, milliseconds(limit)); err != nil {
			return err
		}
		return run(tx)
	})
}

// PostgreSQL's error codes that make a difference.
const (
	sqlInsufficientPrivilege = "42501"
	sqlReadOnly              = "25006"
	sqlAdminShutdown         = "57P01"
	sqlCrashShutdown         = "57P02"
	sqlCannotConnectNow      = "57P03"
)

// sqlState returns the SQLSTATE of PostgreSQL's answer, or "" if there was none.
func sqlState(err error) string {
	if failed := (*pgconn.PgError)(nil); errors.As(err, &failed) {
		return failed.Code
	}
	return ""
}

// isConnectionLost reports whether the connection was lost, or leads to a server that is no longer the right one.
func isConnectionLost(err error) bool {
	_, unreadable := errors.AsType[pgx.ScanArgError](err)
	switch state := sqlState(err); {
	case err == nil, unreadable, errors.Is(err, pgx.ErrNoRows), errors.Is(err, context.DeadlineExceeded):
		return false
	case state == "":
		return true // PostgreSQL gave no answer
	case state == sqlReadOnly, state == sqlAdminShutdown, state == sqlCrashShutdown, state == sqlCannotConnectNow, strings.HasPrefix(state, "08"):
		return true
	}
	return false
}

// A failure prints an error of the library on one line.
type failure struct{ cause error }

// Error has each attempt to connect once: the library tries a host with TLS and without it, and repeats what is the same.
func (e *failure) Error() string {
	var lines []string
	for line := range strings.Lines(e.cause.Error()) {
		if line = redact.Line(line); line != "" && !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	return redact.Line(strings.ReplaceAll(strings.Join(lines, "; "), ":; ", ": "))
}

func (e *failure) Unwrap() error { return e.cause }

// printable makes the library's errors fit for a log. Those of connecting name user and database, and never the
// password; those of PostgreSQL are printed without the detail that quotes a row.
func printable(err error) error {
	failed, notConnected := (*pgconn.PgError)(nil), (*pgconn.ConnectError)(nil)
	switch {
	case errors.As(err, &notConnected), errors.As(err, &failed), errors.Is(err, context.DeadlineExceeded):
		return &failure{err}
	}
	return err
}
