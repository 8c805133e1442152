// Package pgdb owns a pool of connections to PostgreSQL as such: its URL, what each transaction is set to, the version of a
// schema and how one is brought up to date, and what a lost connection is. It knows no table but a schema's meta, and
// nothing of what rows mean.
//
// Nothing is left behind on a connection, and nothing is expected there: a pooler such as PgBouncer in transaction mode
// gives each transaction another one. So each operation is one transaction that brings its own settings, no statement is
// prepared, and no lock outlasts its transaction.
package pgdb

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/redact"
)

const (
	// QueryTime is all that an operation may take, the wait for a connection and for the disk included.
	QueryTime     = 3 * time.Second
	statementTime = QueryTime - QueryTime/6 // and of that a statement on the server, which then says what it waited for
)

// A Pool is a pool of connections to one database.
type Pool struct {
	Conns   *pgxpool.Pool // what is sent there directly has the server's settings, and is not run again
	program string
}

// Close waits until every connection was given back, and ends them.
func (p *Pool) Close() { p.Conns.Close() }

// Send runs the statements that the function queues as one transaction, with settings of its own: they go out at once, and
// come back in one round trip. Whether its client is still there makes no difference: breaking a statement off would cost
// the connection. Where that is lost, as it is after a failover, all is run once more on a new one, the function too: each
// operation has to be one that can be run twice.
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

// ownSettings are the settings of each transaction, whatever the server's, the database's, the role's and the last user's
// of the connection are. No commit counts that is not on disk: remote_apply waits for a replica too, and is left alone.
// The last three are how times and bytes are spelled, which arrive as text. Its parameter is the time limit of a
// statement, in milliseconds; PostgreSQL counts it for each of the statements that follow.
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

// sqlState is the SQLSTATE of PostgreSQL's answer, or "" where it gave none.
func sqlState(err error) string {
	if failed := (*pgconn.PgError)(nil); errors.As(err, &failed) {
		return failed.Code
	}
	return ""
}

// isConnectionLost tells an operation that failed with its connection, or on one that leads to the wrong server by now.
func isConnectionLost(err error) bool {
	switch state := sqlState(err); {
	case err == nil, errors.Is(err, pgx.ErrNoRows), errors.Is(err, context.DeadlineExceeded):
		return false
	case state == "":
		return true // PostgreSQL gave no answer
	case state == sqlReadOnly, state == sqlAdminShutdown, state == sqlCrashShutdown, state == sqlCannotConnectNow, strings.HasPrefix(state, "08"):
		return true
	}
	return false
}

// A failure is an error of the library on one line.
type failure struct{ cause error }

func (e *failure) Error() string { return redact.Line(e.cause.Error()) }
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
