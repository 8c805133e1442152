// store_postgres_schema.go owns the schema of the store in PostgreSQL, how it is opened, and the check that the database is
// this homeserver's.

package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/ethereum/go-ethereum/log"
	"github.com/jackc/pgx/v5"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/pgdb"
)

// postgresSchema is the record in SQL. A step that was released is never changed.
var postgresSchema = pgdb.Schema{Name: "matrix_regservice", Steps: []string{`
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

-- The claimed addresses.
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
`, `
-- The banned addresses, with a record or without.
CREATE TABLE matrix_regservice.bans (
	address bytea PRIMARY KEY CHECK (octet_length(address) = 20),
	user_id text NOT NULL,
	banned timestamptz NOT NULL
);

-- A role that may read and write records may do so with bans: every registration reads both.
DO $$
DECLARE
	given record;
BEGIN
	FOR given IN SELECT privilege_type, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END AS grantee
		FROM pg_class, aclexplode(relacl) WHERE oid = 'matrix_regservice.records'::regclass
	LOOP
		EXECUTE format('GRANT %s ON matrix_regservice.bans TO %s', given.privilege_type, given.grantee);
	END LOOP;
END $$;
`}}

// openPostgresStore opens the store at the URL, and makes it if need be. It refuses a store with the nodes of another server
// name, unless serverName is empty.
func openPostgresStore(ctx context.Context, dataPath, serverName string) (*postgresStore, error) {
	pool, err := pgdb.Open(ctx, dataPath, programName)
	if err != nil {
		return nil, err
	}
	if pgdb.IsPlain(dataPath) {
		log.Warn("Records go to PostgreSQL unencrypted: add sslmode=verify-full to its URL", "datapath", storeName(dataPath))
	}
	s := newPostgresStore(pool)
	err = pool.Prepare(ctx, postgresSchema)
	if errors.Is(err, pgdb.ErrNotOwner) {
		err = fmt.Errorf("%w: run %s migrate --%s FILE once with the owner's URL in FILE", err, programName, flagToFile)
	}
	if err == nil && serverName != "" {
		err = s.belongTo(ctx, serverName)
	}
	return s.orClosed(dataPath, err)
}

// readPostgresStore opens the store for reading, on a replica too. It returns errNoStore if there is none.
func readPostgresStore(ctx context.Context, dataPath string) (*postgresStore, error) {
	pool, err := pgdb.OpenReadOnly(ctx, dataPath, programName)
	if err != nil {
		return nil, err
	}
	version, err := pool.Version(ctx, postgresSchema)
	if err == nil && version == 0 {
		err = errNoStore
	}
	return newPostgresStore(pool).orClosed(dataPath, err)
}

func newPostgresStore(pool *pgdb.Pool) *postgresStore {
	s := &postgresStore{pool: pool, lease: leaseTime, walk: make(chan []byte, 1)}
	s.walk <- []byte{}
	return s
}

// orClosed returns the store, or closes it if there is an error.
func (s *postgresStore) orClosed(dataPath string, err error) (*postgresStore, error) {
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("open the store %s: %w", storeName(dataPath), err)
	}
	return s, nil
}

// belongTo makes sure that the store belongs to this homeserver. The first daemon that starts writes the server name down. Two
// homeservers in one database would each count the other's nodes as registered.
func (s *postgresStore) belongTo(ctx context.Context, serverName string) error {
	var name string
	err := s.pool.Send(ctx, func(b *pgx.Batch) {
		b.Queue("UPDATE matrix_regservice.meta SET server_name = $1 WHERE server_name IS NULL", serverName)
		b.Queue("SELECT server_name FROM matrix_regservice.meta").QueryRow(func(row pgx.Row) error { return row.Scan(&name) })
	})
	if err != nil {
		return err
	}
	return refusesOther(name, serverName)
}

func (s *postgresStore) refuses(serverName string) error {
	name, err := s.serverName()
	if err != nil {
		return err
	}
	return refusesOther(name, serverName)
}

// refusesOther returns the error about the store of another homeserver; nil where no name is written down yet.
func refusesOther(name, serverName string) error {
	if name == "" || name == serverName {
		return nil
	}
	return belongsElsewhere(name, serverName, "a database")
}
