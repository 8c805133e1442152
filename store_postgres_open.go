// store_postgres_open.go owns the way to PostgreSQL: the URL, of which nothing but host and database is ever shown, what
// each transaction is set to, and what is said when there is none.

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/redact"
	"github.com/ethereum/go-ethereum/log"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// poolSize is how many connections an instance opens at most, unless the URL has pool_max_conns. They share the
// writes to the database's log out, and more than the database has disks and processors for only wait for each other.
const poolSize = 16

// postgresConfig reads the URL. The library's errors quote it, the password too where that has characters that do not
// belong there: nothing of them is passed on but which file, that a parameter names, cannot be read.
func postgresConfig(dataPath string, writes bool) (*pgxpool.Config, error) {
	c, err := pgxpool.ParseConfig(dataPath)
	u, urlErr := url.Parse(dataPath)
	unreadable := (*fs.PathError)(nil)
	switch {
	case urlErr == nil && errors.As(err, &unreadable):
		return nil, fmt.Errorf("the PostgreSQL URL of the store names a file that cannot be read: %s", redact.Line(unreadable.Error()))
	case urlErr == nil && err != nil:
		return nil, errors.New("the PostgreSQL URL of the store has a port or a parameter that cannot be: give such as postgres://USER@HOST:5432/DATABASE?sslmode=verify-full, with a password's special characters percent-encoded")
	case urlErr != nil:
		return nil, errors.New("the PostgreSQL URL of the store cannot be read: give one such as postgres://USER@HOST/DATABASE, with a password's special characters percent-encoded")
	}
	if err := names.CheckPostgresURL(u); err != nil {
		return nil, err
	}
	if !u.Query().Has("pool_max_conns") {
		c.MaxConns = poolSize
	}
	conn := c.ConnConfig
	if conn.ConnectTimeout == 0 || conn.ConnectTimeout > queryTime {
		conn.ConnectTimeout = queryTime
	}
	if conn.RuntimeParams["application_name"] == "" {
		conn.RuntimeParams["application_name"] = programName
	}
	if conn.ValidateConnect == nil && writes {
		conn.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite // of several hosts the one that is the primary now
	}
	conn.DefaultQueryExecMode = pgx.QueryExecModeExec // prepares nothing, and asks nothing twice
	conn.StatementCacheCapacity, conn.DescriptionCacheCapacity = 0, 0
	return c, nil
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
func inTransaction(ctx context.Context, pool *pgxpool.Pool, limit time.Duration, run func(pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, ownSettings, milliseconds(limit)); err != nil {
			return err
		}
		return run(tx)
	})
}

// openPostgresStore opens the store at the URL, which it makes if need be. Where a server name is given it has to be
// the one whose nodes are there.
func openPostgresStore(ctx context.Context, dataPath, serverName string) (*postgresStore, error) {
	c, err := postgresConfig(dataPath, true)
	if err != nil {
		return nil, err
	}
	if isPlainPostgres(c.ConnConfig) {
		log.Warn("What is kept of nodes goes to PostgreSQL in the clear: add sslmode=verify-full to its URL", "datapath", storeName(dataPath))
	}
	return connect(ctx, c, dataPath, func(ctx context.Context, s *postgresStore) error {
		if err := prepareSchema(ctx, s.pool); err != nil || serverName == "" {
			return err
		}
		return s.belongTo(ctx, serverName)
	})
}

// readPostgresStore opens the store to read it, on a replica too: errNoStore where there is none.
func readPostgresStore(ctx context.Context, dataPath string) (*postgresStore, error) {
	c, err := postgresConfig(dataPath, false)
	if err != nil {
		return nil, err
	}
	return connect(ctx, c, dataPath, func(ctx context.Context, s *postgresStore) error {
		version, err := readSchemaVersion(ctx, s.pool)
		if err == nil && version == 0 {
			err = errNoStore
		}
		return err
	})
}

// connect opens the store if the function finds it fit.
func connect(ctx context.Context, c *pgxpool.Config, dataPath string, fit func(context.Context, *postgresStore) error) (_ *postgresStore, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("open the store %s: %w", storeName(dataPath), postgresError(err))
		}
	}()
	pool, err := pgxpool.NewWithConfig(ctx, c)
	if err != nil {
		return nil, err
	}
	s := &postgresStore{pool: pool, lease: leaseTime, walk: make(chan []byte, 1)}
	s.walk <- []byte{}
	if err := fit(ctx, s); err != nil {
		pool.Close()
		return nil, err
	}
	return s, nil
}

// storeName is what a log or an error may say of where the store is: of a URL neither user nor password.
func storeName(dataPath string) string {
	if !names.IsPostgres(dataPath) {
		return dataPath
	}
	c, err := pgx.ParseConfig(dataPath)
	if err != nil {
		return "postgres://…"
	}
	name := "postgres://" + net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port))) + "/" + c.Database
	if strings.HasPrefix(c.Host, "/") {
		name = "postgres:///" + c.Database + "?host=" + c.Host + "&port=" + strconv.Itoa(int(c.Port))
	}
	return name
}

// isPlainPostgres tells whether records would cross a network in the clear.
func isPlainPostgres(c *pgx.ConnConfig) bool {
	isPlain := func(host string, encrypted bool) bool {
		return !encrypted && !strings.HasPrefix(host, "/") && !names.IsLoopback(host)
	}
	plain := isPlain(c.Host, c.TLSConfig != nil)
	for _, fallback := range c.Fallbacks {
		plain = plain || isPlain(fallback.Host, fallback.TLSConfig != nil)
	}
	return plain
}

// isConnectionLost tells an operation that failed with its connection, or on one that leads to the wrong server by now.
func isConnectionLost(err error) bool {
	switch state := sqlState(err); {
	case err == nil, errors.Is(err, pgx.ErrNoRows), errors.Is(err, errLeaseOver), errors.Is(err, context.DeadlineExceeded):
		return false
	case state == "":
		return true // PostgreSQL gave no answer
	case state == sqlReadOnly, state == sqlAdminShutdown, state == sqlCrashShutdown, state == sqlCannotConnectNow, strings.HasPrefix(state, "08"):
		return true
	}
	return false
}

// A postgresFailure is an error of the library on one line.
type postgresFailure struct{ cause error }

func (e *postgresFailure) Error() string { return redact.Line(e.cause.Error()) }
func (e *postgresFailure) Unwrap() error { return e.cause }

// postgresError makes the library's errors fit for a log. Those of connecting name user and database, and never the
// password; those of PostgreSQL are printed without the detail that quotes a row.
func postgresError(err error) error {
	failed, notConnected := (*pgconn.PgError)(nil), (*pgconn.ConnectError)(nil)
	switch {
	case errors.As(err, &notConnected), errors.As(err, &failed), errors.Is(err, context.DeadlineExceeded):
		return &postgresFailure{err}
	}
	return err
}
