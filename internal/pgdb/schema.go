// schema.go owns the version of a schema: how it is read, and how a schema is made and brought up to date.

package pgdb

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	migrateTime = 5 * time.Minute              // for a step, which may have to write each row
	migrateLock = int64(0x7265_6773_6572_7669) // held in the database while a schema is made: "regservi"
)

// A Schema is the tables that a database must have. Its steps make them, one version after the other. The first step makes
// NAME.meta with one row, whose column version is 0.
type Schema struct {
	Name  string
	Steps []string
}

func (s Schema) meta() string { return pgx.Identifier{s.Name, "meta"}.Sanitize() }

// ErrNotOwner says that the role may not bring the schema up to date.
var ErrNotOwner = errors.New("this role may not change it")

// Prepare makes the schema, or brings it up to date, which takes the rights of its owner. It only reads a schema that is up to
// date.
func (p *Pool) Prepare(ctx context.Context, s Schema) error {
	version, err := p.Version(ctx, s)
	if err != nil || version == len(s.Steps) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, migrateTime)
	defer cancel()
	err = p.inTransaction(ctx, migrateTime, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", migrateLock); err != nil {
			return err
		}
		version, err := p.versionIn(ctx, tx, s) // another instance may have been faster
		if err != nil {
			return err
		}
		if version == 0 {
			if err := s.create(ctx, tx); err != nil {
				return err
			}
		}
		for ; version < len(s.Steps); version++ {
			if _, err := tx.Exec(ctx, s.Steps[version]); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, "UPDATE "+s.meta()+" SET version = $1", version+1); err != nil {
				return err
			}
		}
		return nil
	})
	if sqlState(err) == sqlInsufficientPrivilege {
		return fmt.Errorf("its schema has version %d, this program needs %d, and %w", version, len(s.Steps), ErrNotOwner)
	}
	return printable(err)
}

// create makes the schema, unless an administrator has done so.
func (s Schema) create(ctx context.Context, tx pgx.Tx) error {
	var there bool
	if err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)", s.Name).Scan(&there); err != nil || there {
		return err
	}
	_, err := tx.Exec(ctx, "CREATE SCHEMA "+pgx.Identifier{s.Name}.Sanitize())
	return err
}

// Version tells which version of the schema the database has: 0 for none.
func (p *Pool) Version(ctx context.Context, s Schema) (version int, err error) {
	err = p.inTransaction(ctx, statementTime, func(tx pgx.Tx) (err error) {
		version, err = p.versionIn(ctx, tx, s)
		return err
	})
	return version, printable(err)
}

// versionIn reads the catalogue as a table. to_regclass would not do: within a transaction it may not see a table that another
// transaction has made meanwhile.
func (p *Pool) versionIn(ctx context.Context, tx pgx.Tx, s Schema) (version int, err error) {
	var there bool
	err = tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_class JOIN pg_namespace AS n ON n.oid = relnamespace
		WHERE nspname = $1 AND relname = 'meta')`, s.Name).Scan(&there)
	if err == nil && there {
		err = tx.QueryRow(ctx, "SELECT version FROM "+s.meta()).Scan(&version)
	}
	switch {
	case sqlState(err) == sqlInsufficientPrivilege:
		return 0, fmt.Errorf("this role has no rights in the schema %s: let its owner grant them, as docs/scaling.md has it", s.Name)
	case errors.Is(err, pgx.ErrNoRows):
		return 0, fmt.Errorf("the table %s.meta is empty: restore it from a backup", s.Name)
	case err != nil:
		return 0, err
	case version > len(s.Steps):
		return 0, fmt.Errorf("its schema has version %d and this program knows up to %d: start the newer %s that made it", version, len(s.Steps), p.program)
	}
	return version, nil
}
