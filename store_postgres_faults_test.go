// store_postgres_faults_test.go owns what the store in PostgreSQL says where a statement fails, a row cannot be read or an answer is
// lost: an error, and never that there is nothing.

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/pgdb"
)

// Whatever the store is asked for, a statement that PostgreSQL refuses is PostgreSQL's own error.
func TestPostgresStatementsFail(t *testing.T) {
	lines := captureLog(t)
	p, url := postgresServer(t), newDatabase(t)
	s := openedPostgres(t, url)
	claimed(t, s, common.Address{1}).Release()
	held := claimed(t, s, common.Address{1})
	if strings.Contains(lines.String(), "The claim of an address") {
		t.Errorf("log: %s", lines)
	}
	sql(t, p, databaseOf(url), "ALTER SCHEMA matrix_regservice RENAME TO away")
	for what, ask := range map[string]func() error{
		"Load": func() error { _, err := s.Load(t.Context(), common.Address{1}); return err },
		"Claim": func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 3*pgdb.QueryTime) // it waits as long only where nothing failed
			defer cancel()
			_, err := s.Claim(ctx, common.Address{2})
			return err
		},
		"ClaimPending":    func() error { _, _, err := s.ClaimPending(t.Context(), span{}); return err },
		"List":            func() error { _, _, err := s.List(t.Context(), "", ""); return err },
		"List of banned":  func() error { _, _, err := s.List(t.Context(), stateBanned, ""); return err },
		"counts":          func() error { _, err := s.counts(); return err },
		"serverName":      func() error { _, err := s.serverName(); return err },
		"size":            func() error { _, err := s.size(); return err },
		"CheckWritable":   s.CheckWritable,
		"add":             func() error { _, _, err := s.add(t.Context(), []record{testRecord(1, statePending)}); return err },
		"belongTo":        func() error { return s.belongTo(t.Context(), testServerName) },
		"a claim's Load":  func() error { _, err := held.Load(t.Context()); return err },
		"a claim's Save":  func() error { return held.Save(testRecord(1, statePending)) },
		"a claim's Drop":  held.Drop,
		"a claim's Ban":   func() error { return held.Ban(ban{"@x:y", testBanTime}) },
		"a claim's Unban": held.Unban,
	} {
		if err := ask(); sqlState(err) != "42P01" && sqlState(err) != "3F000" {
			t.Errorf("%s: got %v", what, err)
		}
	}
	if left := len(s.claims.turns); left != 1 {
		t.Errorf("this process still claims %d addresses, want only the one that was claimed before", left)
	}
	const warning = "The claim of an address was not released"
	if strings.Contains(lines.String(), warning) {
		t.Errorf("log: %s", lines)
	}
	held.Release()
	if !strings.Contains(lines.String(), warning) || len(s.claims.turns) != 0 {
		t.Errorf("this process still claims %d addresses, log: %s", len(s.claims.turns), lines)
	}

	sql(t, p, databaseOf(url), "CREATE SCHEMA matrix_regservice") // by somebody, and empty
	if size, err := s.size(); err == nil {
		t.Errorf("size of no table: got %d", size)
	}
	if err := s.Backup(t.Context(), io.Discard); !errors.Is(err, errUsePgDump) {
		t.Errorf("Backup: got %v", err)
	}
}

// A row that cannot be read is an error wherever it is read.
func TestPostgresUnreadable(t *testing.T) {
	p, url := postgresServer(t), newDatabase(t)
	s := openedPostgres(t, url)
	r := testRecord(1, statePending)
	a := common.HexToAddress(r.Localpart)
	keepRecord(t, s, r)
	banned(t, s, testRecord(2, ""))
	fails := func(what string, err error) {
		t.Helper()
		if err == nil || errors.Is(err, errNoRecord) || errors.Is(err, errClaimGone) {
			t.Errorf("%s: got %v", what, err)
		}
	}
	sql(t, p, databaseOf(url), "UPDATE matrix_regservice.records SET updated = 'infinity'; UPDATE matrix_regservice.bans SET banned = 'infinity'")
	_, err := s.Load(t.Context(), a)
	fails("Load", err)
	_, err = s.Load(t.Context(), addressOf(2))
	fails("Load of a ban", err)
	for _, of := range []state{"", statePending, stateBanned} {
		_, _, err := s.List(t.Context(), of, "")
		fails(fmt.Sprintf("List of %q", of), err)
	}
	held := claimed(t, s, a)
	_, err = held.Load(t.Context())
	fails("a claim's Load", err)
	held.Release()
	_, _, err = s.ClaimPending(t.Context(), span{})
	fails("ClaimPending", err)

	sql(t, p, databaseOf(url), "DELETE FROM matrix_regservice.counts; DELETE FROM matrix_regservice.meta")
	_, err = s.counts()
	fails("counts", err)
	if err := s.CheckWritable(); err == nil || !strings.Contains(err.Error(), "matrix_regservice.counts lacks rows: restore it from a backup") {
		t.Errorf("CheckWritable: got %v", err)
	}
	_, err = s.serverName()
	fails("serverName", err)
	if err := s.belongTo(t.Context(), testServerName); !errors.Is(err, pgx.ErrNoRows) {
		t.Errorf("belongTo: got %v", err)
	}
}

// A cutter is a way to PostgreSQL that breaks off in the middle of an answer.
type cutter struct {
	left atomic.Int64 // so many bytes of answers until it cuts one connection; 0 for never
	cuts atomic.Int64
}

// startCutter starts one, and returns the URL of the database by it.
func startCutter(t *testing.T, p *e2e.Postgres, database string) (*cutter, string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := new(cutter)
	var all sync.WaitGroup
	t.Cleanup(func() { listener.Close(); all.Wait() })
	all.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("unix", filepath.Join(p.Dir, fmt.Sprintf(".s.PGSQL.%d", p.Port)))
			if err != nil {
				near.Close()
				continue
			}
			all.Go(func() { io.Copy(far, near); far.Close() })
			all.Go(func() { c.answer(near, far); near.Close(); far.Close() })
		}
	})
	return c, fmt.Sprintf("postgres://postgres@%s/%s?sslmode=disable", listener.Addr(), database)
}

// answer passes on what PostgreSQL says.
func (c *cutter) answer(near, far net.Conn) {
	piece := make([]byte, 1024)
	for {
		n, err := far.Read(piece)
		if before := c.left.Load(); before > 0 && c.left.Add(-int64(n)) <= 0 {
			c.left.Store(0)
			c.cuts.Add(1)
			near.Write(piece[:min(int64(n), before)])
			return
		}
		if _, writeErr := near.Write(piece[:n]); err != nil || writeErr != nil {
			return
		}
	}
}

// A page whose connection breaks off halfway is read again from its beginning, and has each record once.
func TestPostgresPageCut(t *testing.T) {
	p, url := postgresServer(t), newDatabase(t)
	c, through := startCutter(t, p, databaseOf(url))
	s := openedPostgres(t, through)
	var records []record
	for i := range 300 {
		records = append(records, testRecord(i, stateRegistered))
	}
	if added, _, err := s.add(t.Context(), records); err != nil || added != len(records) {
		t.Fatal(added, err)
	}
	c.left.Store(20_000) // a third of them, or less
	page, _, err := s.List(t.Context(), "", "")
	if err != nil || len(page) != len(records) || c.cuts.Load() != 1 {
		t.Errorf("got %d records of %d, %v, and the connection was cut %d times", len(page), len(records), err, c.cuts.Load())
	}
}

// A claim whose answer was lost is asked for again, and is still its owner's.
func TestPostgresClaimAnswerLost(t *testing.T) {
	url := newDatabase(t)
	s, other := openedPostgres(t, url), openedPostgres(t, url)
	owned := claimed(t, s, common.Address{1}).(*postgresClaim)
	defer owned.Release()
	if taken, err := owned.take(t.Context()); err != nil || !taken {
		t.Errorf("got %v, %v", taken, err)
	}
	notInHand(t, other, common.Address{1})

	r := testRecord(1, statePending)
	keepRecord(t, s, r)
	pending := &postgresClaim{store: s, owner: uuid.New(), leave: func() {}}
	for range 2 {
		if got, taken, err := pending.takePending(t.Context(), []byte{}, span{}); err != nil || !taken || got != r {
			t.Errorf("the next pending one: got %+v, %v, %v", got, taken, err)
		}
	}
	pending.Release()
	if left := inHand(t, other); left != 1 {
		t.Errorf("%d addresses are claimed, want the first alone", left)
	}
}

// whileItWaits runs a write that has to wait for a lock, and the check meanwhile, and ends the lock then. Where the write gave up
// before the check was over, which is how a busy machine is, both are done again.
func whileItWaits(t *testing.T, s *postgresStore, write, check, unlock func() error) error {
	t.Helper()
	for {
		done := make(chan error, 1)
		go func() { done <- write() }()
		waits := func() (waits bool) {
			if err := s.pool.Conns.QueryRow(t.Context(), "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'").Scan(&waits); err != nil {
				t.Fatal(err)
			}
			return waits
		}
		for len(done) == 0 && !waits() {
			time.Sleep(time.Millisecond)
		}
		err := check()
		if waits() {
			if err := errors.Join(unlock(), <-done); err != nil {
				t.Logf("the write gave up at last: %v", err)
			}
			return err
		}
		if err := <-done; err == nil {
			t.Fatal("the write did not wait")
		}
	}
}

// A write locks the record first and its claim then, as everybody does, or two of them could wait for each other; and it keeps the
// claim locked until the change is on disk, so that nobody takes the address meanwhile.
func TestPostgresWriteLocks(t *testing.T) {
	url := newDatabase(t)
	s, other := openedPostgres(t, url), openedPostgres(t, url)
	r := testRecord(1, statePending)
	held := claimed(t, s, addressOf(1))
	if err := held.Save(r); err != nil {
		t.Fatal(err)
	}
	lockClaim := func() error {
		_, err := other.pool.Conns.Exec(t.Context(), "SELECT FROM matrix_regservice.claims FOR UPDATE NOWAIT")
		return err
	}
	for _, test := range []struct {
		name, lock string
		writes     state
		want       string // SQLSTATE of who wants the claim meanwhile
	}{
		{"it waits for the record", "SELECT FROM matrix_regservice.records FOR UPDATE", statePending, ""},
		{"it waits with its change made", "LOCK TABLE matrix_regservice.counts IN SHARE MODE", stateRegistered, "55P03"},
	} {
		t.Run(test.name, func(t *testing.T) {
			tx, err := other.pool.Conns.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Rollback(context.Background())
			if _, err := tx.Exec(t.Context(), test.lock); err != nil {
				t.Fatal(err)
			}
			r.State = test.writes
			unlock := func() error { return tx.Rollback(context.Background()) }
			if err := whileItWaits(t, other, func() error { return held.Save(r) }, lockClaim, unlock); sqlState(err) != test.want || test.want == "" && err != nil {
				t.Errorf("the claim: got %v, want %q", err, test.want)
			}
		})
	}
	held.Release()
}
