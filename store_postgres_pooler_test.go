// store_postgres_pooler_test.go owns what the store in PostgreSQL has to do behind a pooler, and that no setting of the
// server, the database or a connection's last user changes what it does.

package main

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/jackc/pgx/v5"
)

// recordSettings has the database write down what each transaction is set to that changes a claim, a record or a count.
const recordSettings = `
CREATE TABLE public.seen (settings text);
CREATE FUNCTION public.see() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
	found text := '';
	name text;
BEGIN
	FOREACH name IN ARRAY string_to_array('synchronous_commit statement_timeout lock_timeout idle_in_transaction_session_timeout', ' ') LOOP
		found := found || ' ' || current_setting(name);
	END LOOP;
	INSERT INTO public.seen VALUES (TG_TABLE_NAME || ' ' || TG_OP || found);
	RETURN NULL;
END $$;
CREATE TRIGGER see AFTER INSERT OR UPDATE OR DELETE ON matrix_regservice.records FOR EACH STATEMENT EXECUTE FUNCTION public.see();
CREATE TRIGGER see AFTER INSERT OR UPDATE OR DELETE ON matrix_regservice.claims FOR EACH STATEMENT EXECUTE FUNCTION public.see();
CREATE TRIGGER see AFTER UPDATE ON matrix_regservice.counts FOR EACH STATEMENT EXECUTE FUNCTION public.see();`

// oddSettings are a database's own, each of which changes what a client of it sees or may rely on.
func oddSettings(database, commit string) string {
	return "ALTER DATABASE " + database + " SET synchronous_commit = " + commit + "; ALTER DATABASE " + database + " SET statement_timeout = 0; " +
		"ALTER DATABASE " + database + " SET DateStyle = 'German'; ALTER DATABASE " + database + " SET bytea_output = 'escape'; " +
		"ALTER DATABASE " + database + " SET TimeZone = 'Asia/Kolkata'; ALTER DATABASE " + database + " SET IntervalStyle = 'iso_8601'"
}

// poolings are the ways to a database.
func poolings(t *testing.T, test func(t *testing.T, direct, url string)) {
	t.Run("direct", func(t *testing.T) { url := newDatabase(t); test(t, url, url) })
	t.Run("PgBouncer", func(t *testing.T) {
		direct := newDatabase(t)
		test(t, direct, newPooler(t, "transaction").URL(databaseOf(direct)))
	})
}

// Every node registers, and what its record depends on is set in each of the transactions: that a commit waits for the
// disk, and how long a statement may take. What a transaction was set to is gone when the next user comes.
func TestPostgresSettings(t *testing.T) {
	poolings(t, func(t *testing.T, direct, url string) {
		p, name := postgresServer(t), databaseOf(direct)
		for set, want := range map[string]string{"off": "on", "local": "on", "remote_write": "on", "on": "on", "remote_apply": "remote_apply"} {
			sql(t, p, "postgres", oddSettings(name, set))
			sql(t, p, "postgres", "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE datname = '"+name+"'") // a pooler's connections too
			s := openedPostgres(t, url)
			sql(t, p, name, "DROP TABLE IF EXISTS public.seen; DROP FUNCTION IF EXISTS public.see CASCADE;"+recordSettings)
			d := newDoorOn(t, sharedSecretPath, s)
			var all sync.WaitGroup
			for range 4 {
				all.Go(func() {
					for range 5 {
						proof, _ := newProof(t)
						if got := d.send(proof); got.status != 200 {
							t.Errorf("%s: got %d %s", set, got.status, got.body)
						}
					}
				})
			}
			all.Wait()
			if err := s.CheckWritable(); err != nil {
				t.Error(err)
			}
			keepRecord(t, s, testRecord(1, statePending))
			held, _, err := s.ClaimPending(t.Context(), span{from: time.Now(), to: time.Now()})
			if err != nil {
				t.Fatal(err)
			}
			if err := held.Drop(); err != nil {
				t.Error(err)
			}
			held.Release()
			const limits = " 2500ms 2500ms 2500ms"
			for line := range strings.Lines(sql(t, p, name, "SELECT settings FROM public.seen GROUP BY 1 ORDER BY 1")) {
				line = strings.TrimSpace(line)
				if line != "claims DELETE off"+limits && !strings.HasSuffix(line, " "+want+limits) {
					t.Errorf("%s: got %s", set, line)
				}
			}
			if kinds := sql(t, p, name, "SELECT count(DISTINCT settings) FROM public.seen"); kinds != "7" { // three each of claims and records, one of counts
				t.Errorf("%s: %s kinds of writing were seen\n%s", set, kinds, sql(t, p, name, "SELECT DISTINCT settings FROM public.seen"))
			}
			var after string
			if err := s.pool.QueryRow(t.Context(), "SELECT current_setting('synchronous_commit') || current_setting('statement_timeout')").Scan(&after); err != nil || after != set+"0" {
				t.Errorf("%s: the next user finds %q, %v", set, after, err)
			}
			s.Close()
		}
	})
}

// Who waits for a row, or for a statement that goes on and on, is told by the server, before its client gives up.
func TestPostgresTimeLimits(t *testing.T) {
	poolings(t, func(t *testing.T, direct, url string) {
		sql(t, postgresServer(t), "postgres", oddSettings(databaseOf(direct), "on"))
		s, other := openedPostgres(t, url), openedPostgres(t, direct)
		r := testRecord(1, statePending)
		keepRecord(t, s, r)
		held := claimed(t, s, common.HexToAddress(r.Localpart))
		defer held.Release()
		tx, err := other.pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Rollback(t.Context())
		if _, err := tx.Exec(t.Context(), "SELECT FROM matrix_regservice.records FOR UPDATE"); err != nil {
			t.Fatal(err)
		}
		if err := held.Save(r); sqlState(err) != "55P03" && sqlState(err) != "57014" {
			t.Errorf("a lock: got %v", err)
		}
		err = s.send(t.Context(), func(b *pgx.Batch) { b.Queue("SELECT pg_sleep(60)") })
		if sqlState(err) != "57014" {
			t.Errorf("a long statement: got %v", err)
		}
	})
}

// A pooler that gives each statement another connection cannot be worked with, and the start says so.
func TestPostgresStatementPooling(t *testing.T) {
	direct := newDatabase(t)
	_, err := openStore(t.Context(), newPooler(t, "statement").URL(databaseOf(direct)), testServerName)
	if err == nil || !strings.Contains(err.Error(), "statement pooling") || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v", err)
	}
}
