// store_postgres_schema.go owns the schema: what is in it, how it is made and brought up to date, and that the database
// is this homeserver's.

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	postgresSchema = "matrix_regservice"

	migrateTime = 5 * time.Minute              // for a step, which may have to write each row
	migrateLock = int64(0x7265_6773_6572_7669) // of the database, while one makes the schema: "regservi"
)

// schemaSteps make the schema, one version after the other. What was released is never changed.
var schemaSteps = []string{`
CREATE TABLE matrix_regservice.meta (
	one boolean PRIMARY KEY DEFAULT true CHECK (one),
	version integer NOT NULL,  -- of this schema
	server_name text           -- of the homeserver whose nodes these are; NULL until a daemon starts
);
INSERT INTO matrix_regservice.meta (version) VALUES (0);

CREATE TABLE matrix_regservice.records (
	address bytea PRIMARY KEY CHECK (octet_length(address) = 20),
	user_id text NOT NULL,
	display_name text NOT NULL,
	state text NOT NULL CHECK (state IN ('pending', 'registered')),
	created timestamptz NOT NULL,
	updated timestamptz NOT NULL
);
CREATE INDEX records_pending ON matrix_regservice.records (address) WHERE state = 'pending';

-- The addresses in hand.
CREATE TABLE matrix_regservice.claims (
	address bytea PRIMARY KEY CHECK (octet_length(address) = 20),
	owner uuid NOT NULL,
	expires timestamptz NOT NULL
);

-- The number of records in each state is the sum of these rows. One row alone would let all writers wait for each
-- other: each connection has one of 32.
CREATE TABLE matrix_regservice.counts (
	shard integer PRIMARY KEY,
	pending bigint NOT NULL DEFAULT 0,
	registered bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 20);
INSERT INTO matrix_regservice.counts (shard) SELECT generate_series(0, 31);

CREATE FUNCTION matrix_regservice.shard() RETURNS integer LANGUAGE sql STABLE AS 'SELECT pg_backend_pid() % 32';

CREATE FUNCTION matrix_regservice.count_records() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
	p bigint := 0;
	r bigint := 0;
BEGIN
	IF TG_OP <> 'DELETE' THEN
		SELECT count(*) FILTER (WHERE state = 'pending'), count(*) FILTER (WHERE state = 'registered') INTO p, r FROM added;
	END IF;
	IF TG_OP <> 'INSERT' THEN
		SELECT p - count(*) FILTER (WHERE state = 'pending'), r - count(*) FILTER (WHERE state = 'registered') INTO p, r FROM gone;
	END IF;
	IF p <> 0 OR r <> 0 THEN
		UPDATE matrix_regservice.counts SET pending = pending + p, registered = registered + r WHERE shard = matrix_regservice.shard();
	END IF;
	RETURN NULL;
END $$;
CREATE TRIGGER count_added AFTER INSERT ON matrix_regservice.records
	REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION matrix_regservice.count_records();
CREATE TRIGGER count_changed AFTER UPDATE ON matrix_regservice.records
	REFERENCING OLD TABLE AS gone NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION matrix_regservice.count_records();
CREATE TRIGGER count_gone AFTER DELETE ON matrix_regservice.records
	REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION matrix_regservice.count_records();
`}

// prepareSchema makes the schema or brings it up to date where that is needed, which takes the rights of its owner. A
// schema that is up to date is only read.
func prepareSchema(ctx context.Context, pool *pgxpool.Pool) error {
	version, err := readSchemaVersion(ctx, pool)
	if err != nil || version == len(schemaSteps) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, migrateTime)
	defer cancel()
	err = inTransaction(ctx, pool, migrateTime, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", migrateLock); err != nil {
			return err
		}
		version, err := schemaVersion(ctx, tx) // another instance may have been faster
		if err != nil {
			return err
		}
		if version == 0 {
			if err := createSchema(ctx, tx); err != nil {
				return err
			}
		}
		for ; version < len(schemaSteps); version++ {
			if _, err := tx.Exec(ctx, schemaSteps[version]); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, "UPDATE matrix_regservice.meta SET version = $1", version+1); err != nil {
				return err
			}
		}
		return nil
	})
	if sqlState(err) == sqlInsufficientPrivilege {
		return fmt.Errorf("its schema has version %d, this program needs %d, and this role may not change it: run %s migrate --%s FILE once with the owner's URL in FILE", version, len(schemaSteps), programName, flagToFile)
	}
	return err
}

// createSchema makes the schema where its owner's administrator has not done so already.
func createSchema(ctx context.Context, tx pgx.Tx) error {
	var there bool
	if err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)", postgresSchema).Scan(&there); err != nil || there {
		return err
	}
	_, err := tx.Exec(ctx, "CREATE SCHEMA matrix_regservice")
	return err
}

// readSchemaVersion is schemaVersion in a transaction of its own.
func readSchemaVersion(ctx context.Context, pool *pgxpool.Pool) (version int, err error) {
	err = inTransaction(ctx, pool, statementTime, func(tx pgx.Tx) (err error) {
		version, err = schemaVersion(ctx, tx)
		return err
	})
	return version, err
}

// schemaVersion tells which version the database has: 0 for none. It reads the catalogue as a table: to_regclass
// remembers within a transaction what was not there before another's ended.
func schemaVersion(ctx context.Context, tx pgx.Tx) (version int, err error) {
	var there bool
	err = tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_class JOIN pg_namespace AS n ON n.oid = relnamespace
		WHERE nspname = $1 AND relname = 'meta')`, postgresSchema).Scan(&there)
	if err == nil && there {
		err = tx.QueryRow(ctx, "SELECT version FROM matrix_regservice.meta").Scan(&version)
	}
	switch {
	case sqlState(err) == sqlInsufficientPrivilege:
		return 0, fmt.Errorf("this role has no rights in the schema %s: let its owner grant them, as docs/deployment.md has it", postgresSchema)
	case errors.Is(err, pgx.ErrNoRows):
		return 0, fmt.Errorf("the table %s.meta is empty: restore it from a backup", postgresSchema)
	case err != nil:
		return 0, err
	case version > len(schemaSteps):
		return 0, fmt.Errorf("its schema has version %d and this program knows up to %d: start the newer %s that made it", version, len(schemaSteps), programName)
	}
	return version, nil
}

// belongTo makes sure that the record is of this homeserver: the first daemon that starts writes its name down. Two
// homeservers in one database would take each other's nodes for registered.
func (s *postgresStore) belongTo(ctx context.Context, serverName string) error {
	var name string
	err := s.send(ctx, func(b *pgx.Batch) {
		b.Queue("UPDATE matrix_regservice.meta SET server_name = $1 WHERE server_name IS NULL", serverName)
		b.Queue("SELECT server_name FROM matrix_regservice.meta").QueryRow(func(row pgx.Row) error { return row.Scan(&name) })
	})
	if err != nil {
		return err
	}
	if name != serverName {
		return fmt.Errorf("it has the nodes of %s, and --%s is %s: give each homeserver a database of its own", name, flagMatrixDomain, serverName)
	}
	return nil
}

// PostgreSQL's error codes that make a difference here.
const (
	sqlInsufficientPrivilege = "42501"
	sqlReadOnly              = "25006"
	sqlAdminShutdown         = "57P01"
	sqlCrashShutdown         = "57P02"
	sqlCannotConnectNow      = "57P03"
)

// sqlState is the code of PostgreSQL's answer, or "" where it gave none.
func sqlState(err error) string {
	if failed := (*pgconn.PgError)(nil); errors.As(err, &failed) {
		return failed.Code
	}
	return ""
}
