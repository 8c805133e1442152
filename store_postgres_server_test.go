// store_postgres_server_test.go owns the PostgreSQL that the tests of this package share: it is started when the first asks for it.

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e"
	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
)

// sharedPostgres is started once.
var sharedPostgres = sync.OnceValues(func() (*e2e.Postgres, error) { return startPostgres(context.Background()) })

var postgresStarted atomic.Pointer[e2e.Postgres]

func startPostgres(ctx context.Context, settings ...string) (*e2e.Postgres, error) {
	p, err := e2e.StartPostgres(ctx, settings...)
	if err != nil && p != nil {
		err = errors.Join(err, p.Close())
	}
	return p, err
}

// withPostgres ends it when the tests are over.
type withPostgres struct{ m *testing.M }

func (w withPostgres) Run() int {
	code := w.m.Run()
	if p := postgresStarted.Load(); p != nil {
		if err := p.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	return code
}

// needPostgres skips the test where PostgreSQL is not installed, unless that has been forbidden.
func needPostgres(t testing.TB) {
	t.Helper()
	need.All(t, e2e.PostgresInstalled())
}

func postgresServer(t testing.TB) *e2e.Postgres {
	t.Helper()
	needPostgres(t)
	p, err := sharedPostgres()
	if err != nil {
		t.Fatal(err)
	}
	postgresStarted.Store(p)
	return p
}

// ownPostgres starts one for a test that takes it down.
func ownPostgres(t testing.TB, settings ...string) *e2e.Postgres {
	t.Helper()
	needPostgres(t)
	p, err := startPostgres(t.Context(), settings...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// newPooler starts a PgBouncer before the PostgreSQL that the tests share.
func newPooler(t testing.TB, mode string) *e2e.PgBouncer {
	t.Helper()
	need.All(t, e2e.PostgresInstalled(), e2e.PgBouncerInstalled())
	p := postgresServer(t)
	b, err := e2e.StartPgBouncer(t.Context(), p, mode)
	if b != nil {
		t.Cleanup(func() {
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var databases atomic.Int64

// newDatabase makes a database, which stays to the end of the run, and returns its URL.
func newDatabase(t testing.TB) (url string) {
	t.Helper()
	p := postgresServer(t)
	name := fmt.Sprintf("test%d", databases.Add(1))
	sql(t, p, "postgres", "CREATE DATABASE "+name)
	return p.URL("postgres", name)
}

// clearDatabase takes everything out of the store that may be there.
func clearDatabase(t testing.TB, url string) {
	t.Helper()
	s := openedPostgres(t, url)
	defer s.Close()
	if _, err := s.pool.Conns.Exec(t.Context(), "DELETE FROM matrix_regservice.records; DELETE FROM matrix_regservice.claims; DELETE FROM matrix_regservice.bans"); err != nil {
		t.Fatal(err)
	}
}

func openedPostgres(t testing.TB, url string) *postgresStore { return opened(t, url).(*postgresStore) }

// sql runs statements as the superuser.
func sql(t testing.TB, p *e2e.Postgres, database, statements string) string {
	t.Helper()
	out, err := p.SQL(context.WithoutCancel(t.Context()), database, statements)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// databaseOf is the name in a URL of newDatabase.
func databaseOf(url string) string {
	name, _, _ := strings.Cut(url[strings.LastIndex(url, "@/")+2:], "?")
	return name
}
