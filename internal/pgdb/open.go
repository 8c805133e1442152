// open.go owns the way to PostgreSQL: the URL, of which nothing but host and database is ever shown, and the opening of a
// pool.

package pgdb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/redact"
)

// poolSize is how many connections an instance opens at most, unless the URL has pool_max_conns. Commits of several connections
// share a write to the disk. With more connections than the database has processors and disks for, they wait for each other.
const poolSize = 16

// Open makes a pool of connections to the database at the URL, for the program of this name. Nothing is connected yet.
func Open(ctx context.Context, rawURL, program string) (*Pool, error) {
	return open(ctx, rawURL, program, pgconn.ValidateConnectTargetSessionAttrsReadWrite) // of several hosts the one that is the primary now
}

// OpenReadOnly makes a pool for reading. It accepts a replica as well.
func OpenReadOnly(ctx context.Context, rawURL, program string) (*Pool, error) {
	return open(ctx, rawURL, program, nil)
}

func open(ctx context.Context, rawURL, program string, validate pgconn.ValidateConnectFunc) (*Pool, error) {
	c, err := parse(rawURL)
	if err != nil {
		return nil, err
	}
	if c.ConnConfig.RuntimeParams["application_name"] == "" {
		c.ConnConfig.RuntimeParams["application_name"] = program
	}
	if c.ConnConfig.ValidateConnect == nil {
		c.ConnConfig.ValidateConnect = validate
	}
	conns, err := pgxpool.NewWithConfig(ctx, c)
	if err != nil {
		return nil, printable(err)
	}
	return &Pool{Conns: conns, program: program}, nil
}

// CheckURL returns nil if Open would accept the URL.
func CheckURL(rawURL string) error {
	_, err := parse(rawURL)
	return err
}

// parse reads the URL. The library's errors quote it, the password too where that has characters that do not
// belong there: nothing of them is passed on but which file, that a parameter names, cannot be read.
func parse(rawURL string) (*pgxpool.Config, error) {
	c, err := pgxpool.ParseConfig(rawURL)
	u, urlErr := url.Parse(rawURL)
	unreadable := (*fs.PathError)(nil)
	if err != nil && urlErr == nil {
		if err := checkEnvironment(); err != nil {
			return nil, err
		}
	}
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
	if conn.ConnectTimeout == 0 || conn.ConnectTimeout > QueryTime {
		conn.ConnectTimeout = QueryTime
	}
	conn.DefaultQueryExecMode = pgx.QueryExecModeExec // prepares nothing, and asks nothing twice
	conn.StatementCacheCapacity, conn.DescriptionCacheCapacity = 0, 0
	return c, nil
}

// environment are the variables of PostgreSQL's clients that the library reads and that can be wrong.
var environment = []string{
	"PGSERVICE", "PGSERVICEFILE", "PGPORT", "PGCONNECT_TIMEOUT", "PGSSLMODE", "PGSSLCERT", "PGSSLKEY", "PGSSLCERTMODE", "PGSSLROOTCERT",
	"PGTARGETSESSIONATTRS", "PGMINPROTOCOLVERSION", "PGMAXPROTOCOLVERSION", "PGCHANNELBINDING", "PGREQUIREAUTH",
}

// checkEnvironment says which variables keep even a right URL from being read. It quotes no value.
func checkEnvironment() error {
	if _, err := pgxpool.ParseConfig("postgres://user@127.0.0.1/database"); err == nil {
		return nil
	}
	var set []string
	for _, name := range environment {
		if os.Getenv(name) != "" {
			set = append(set, name)
		}
	}
	return fmt.Errorf("no PostgreSQL URL can be read with what the environment has: unset or correct %s", strings.Join(set, ", "))
}

// Name returns the URL for a log or an error, without user and password.
func Name(rawURL string) string {
	c, err := pgx.ParseConfig(rawURL)
	if err != nil {
		return "postgres://…"
	}
	if strings.HasPrefix(c.Host, "/") {
		return "postgres:///" + c.Database + "?host=" + c.Host + "&port=" + strconv.Itoa(int(c.Port))
	}
	return "postgres://" + net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port))) + "/" + c.Database
}

// IsPlain reports whether calls to the URL would cross a network in the clear.
func IsPlain(rawURL string) bool {
	c, err := pgx.ParseConfig(rawURL)
	if err != nil {
		return false // nothing can be sent there
	}
	isPlain := func(host string, encrypted bool) bool {
		return !encrypted && !strings.HasPrefix(host, "/") && !names.IsLoopback(host)
	}
	plain := isPlain(c.Host, c.TLSConfig != nil)
	for _, fallback := range c.Fallbacks {
		plain = plain || isPlain(fallback.Host, fallback.TLSConfig != nil)
	}
	return plain
}
