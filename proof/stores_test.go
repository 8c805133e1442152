// stores_test.go owns the two stores as an operator has them: where each is, and how a copy of it is made and put back.

package proof

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e"
)

// A keptStore is one store.
type keptStore interface {
	dataPath() string // the flag

	// copy makes a copy, whether or not the gateway runs, and restore puts it in the store's place while none does.
	copy(ctx context.Context, p *e2e.Program) error
	restore(ctx context.Context, p *e2e.Program) error

	// endLeases lets the time pass that an address is claimed for where its gateway died, without waiting for it.
	endLeases(ctx context.Context) error
}

// boltFiles is a store in BoltDB, in a directory of its own, and its copy beside it.
type boltFiles struct{ dir string }

func newBoltFiles(dir string) *boltFiles { return &boltFiles{dir} }

func (b *boltFiles) dataPath() string                { return filepath.Join(b.dir, "data") }
func (b *boltFiles) endLeases(context.Context) error { return nil }

func (b *boltFiles) copy(ctx context.Context, p *e2e.Program) error {
	file := filepath.Join(b.dir, "copy.db")
	if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return mustRun(ctx, p, "--datapath", b.dataPath(), "backup", file)
}

func (b *boltFiles) restore(ctx context.Context, p *e2e.Program) error {
	kept, err := filepath.Glob(filepath.Join(b.dataPath(), "register.db?*"))
	if err != nil {
		return err
	}
	for _, file := range kept { // what an earlier restore kept, which this one does not overwrite
		if err := os.Remove(file); err != nil {
			return err
		}
	}
	return mustRun(ctx, p, "--datapath", b.dataPath(), "restore", filepath.Join(b.dir, "copy.db"), "--force")
}

// mustRun runs a command that has to succeed.
func mustRun(ctx context.Context, p *e2e.Program, args ...string) error {
	r, err := p.Run(ctx, "/", args...)
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("%v: exit %d: %s%s", args, r.Code, r.Stdout, r.Stderr)
	}
	return err
}

// sharedPostgres is started once. endPostgres ends it.
var (
	sharedPostgres = sync.OnceValues(func() (*e2e.Postgres, error) {
		server, err := e2e.StartPostgres(context.Background())
		if server != nil {
			endPostgres = server.Close
		}
		return server, err
	})
	endPostgres = func() error { return nil }
	databases   int
	databasesMu sync.Mutex
)

// A postgresTables is a store in PostgreSQL, in a database of its own.
type postgresTables struct {
	server   *e2e.Postgres
	database string
}

func newPostgresTables(ctx context.Context) (*postgresTables, error) {
	server, err := sharedPostgres()
	if err != nil {
		return nil, err
	}
	databasesMu.Lock()
	defer databasesMu.Unlock()
	databases++
	p := &postgresTables{server, fmt.Sprintf("regservice%d", databases)}
	_, err = server.SQL(ctx, "postgres", "CREATE DATABASE "+p.database)
	return p, err
}

func (p *postgresTables) dataPath() string { return p.server.URL("postgres", p.database) }

func (p *postgresTables) endLeases(ctx context.Context) error {
	_, err := p.server.SQL(ctx, p.database, "UPDATE matrix_regservice.claims SET expires = clock_timestamp()")
	return err
}

func (p *postgresTables) file() string { return filepath.Join(p.server.Dir, p.database+".dump") }

func (p *postgresTables) copy(ctx context.Context, _ *e2e.Program) error {
	return p.tool(ctx, "pg_dump", "--format=custom", "--schema=matrix_regservice", "--file="+p.file(), "--dbname="+p.dataPath())
}

func (p *postgresTables) restore(ctx context.Context, _ *e2e.Program) error {
	if _, err := p.server.SQL(ctx, p.database, "SET client_min_messages = warning; DROP SCHEMA matrix_regservice CASCADE"); err != nil {
		return err
	}
	return p.tool(ctx, "pg_restore", "--exit-on-error", "--single-transaction", "--no-owner", "--dbname="+p.dataPath(), p.file())
}

func (p *postgresTables) tool(ctx context.Context, name string, args ...string) error {
	out, err := p.server.Command(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, out)
	}
	return nil
}
