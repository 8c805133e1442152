// store_postgres_test.go owns what only the store in PostgreSQL has to do: several instances, leases, and a server that
// goes away.

package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/daemon"
	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/pgdb"
)

// notInHand fails where the address is free.
func notInHand(t testing.TB, s store, a common.Address) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if held, err := s.Claim(ctx, a); err == nil {
		held.Release()
		t.Error("a claimed address was claimed again")
	} else if !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

// An address is claimed once across instances, until it is given back or the lease is over; and then its owner, who
// does not know, cannot write.
func TestPostgresLease(t *testing.T) {
	url := newDatabase(t)
	first, second := openedPostgres(t, url), openedPostgres(t, url)
	r := testRecord(1, statePending)
	a := common.HexToAddress(r.Localpart)

	held := claimed(t, first, a)
	notInHand(t, second, a)
	held.Release()

	first.lease = 5 * time.Second // of the database's clock; between claiming and writing a busy machine may take some
	late := claimed(t, first, a)
	if err := late.Save(r); err != nil {
		t.Fatal(err)
	}
	next := claimed(t, second, a) // when the lease is over
	if err := next.Save(r); err != nil {
		t.Error(err)
	}
	r.State = stateRegistered
	if err := late.Save(r); !errors.Is(err, errLeaseOver) {
		t.Errorf("save: got %v", err)
	}
	if err := late.Drop(); !errors.Is(err, errLeaseOver) {
		t.Errorf("drop: got %v", err)
	}
	if err := late.Ban(ban{r.UserID, testBanTime}); !errors.Is(err, errLeaseOver) {
		t.Errorf("ban: got %v", err)
	}
	if got, err := late.Load(t.Context()); !errors.Is(err, errClaimGone) {
		t.Errorf("load: got %v, %v", got, err)
	}
	if err := next.Ban(ban{r.UserID, testBanTime}); err != nil {
		t.Error(err)
	}
	if err := late.Unban(); !errors.Is(err, errLeaseOver) {
		t.Errorf("unban: got %v", err)
	}
	if got, err := first.Load(t.Context(), a); err != nil || got.State != statePending || got.Banned.IsZero() {
		t.Errorf("got %q, banned %v, %v: somebody wrote whose lease is over", got.State, got.Banned, err)
	}
	late.Release()
	notInHand(t, first, a)
	if err := next.Save(r); err != nil {
		t.Error(err)
	}
	next.Release()
	if left := inHand(t, second); left != 0 {
		t.Errorf("%d addresses are still claimed", left)
	}

	unasked := claimed(t, first, a)
	defer unasked.Release()
	sql(t, postgresServer(t), databaseOf(url), "UPDATE matrix_regservice.claims SET expires = clock_timestamp()")
	if err := unasked.Drop(); !errors.Is(err, errLeaseOver) {
		t.Errorf("nobody else has it, but the lease is over: got %v", err)
	}
	if got, err := unasked.Load(t.Context()); !errors.Is(err, errClaimGone) {
		t.Errorf("nobody else has it, but the lease is over: got %v, %v", got, err)
	}
}

// The lease is longer than all that happens under it.
func TestPostgresLeaseIsLongEnough(t *testing.T) {
	if leaseTime < pgdb.QueryTime+attemptTime+pgdb.QueryTime+time.Second {
		t.Errorf("the lease is %v, and an attempt may take %v between two operations of %v", leaseTime, attemptTime, pgdb.QueryTime)
	}
}

// An attempt reads the record where its claim is. Where a former primary goes on that hung, a connection may lead there: what that
// has is of before, and the claim is not there.
func TestPostgresLoadIsWhereTheClaimIs(t *testing.T) {
	primary, former := openedPostgres(t, newDatabase(t)), openedPostgres(t, newDatabase(t))
	r := testRecord(1, stateRegistered)
	a := common.HexToAddress(r.Localpart)
	owned := claimed(t, primary, a).(*postgresClaim)
	defer owned.Release()
	if got, err := owned.Load(t.Context()); !errors.Is(err, errNoRecord) {
		t.Errorf("of an unknown address: got %v, %v", got, err)
	}
	if err := owned.Save(r); err != nil {
		t.Fatal(err)
	}
	if got, err := owned.Load(t.Context()); err != nil || got.State != stateRegistered {
		t.Errorf("got %v, %v", got, err)
	}

	led := *owned
	led.store = former
	if got, err := led.Load(t.Context()); !errors.Is(err, errClaimGone) {
		t.Errorf("at a former primary: got %v, %v", got, err)
	}
	keepRecord(t, former, testRecord(1, statePending))
	if got, err := led.Load(t.Context()); !errors.Is(err, errClaimGone) {
		t.Errorf("at a former primary that has an older record: got %v, %v", got, err)
	}
}

// A lease that ends further ahead than any can was taken by a wrong clock. It is cut down to what a lease is, and not ended: its
// owner may be at work. One that clocks explain which differ a little is left alone.
func TestPostgresLeaseFarAhead(t *testing.T) {
	lines := captureLog(t)
	url := newDatabase(t)
	first, second := openedPostgres(t, url), openedPostgres(t, url)
	r := testRecord(1, statePending)
	a := common.HexToAddress(r.Localpart)
	set := func(expires string) {
		t.Helper()
		sql(t, postgresServer(t), databaseOf(url), "UPDATE matrix_regservice.claims SET expires = clock_timestamp() + interval '"+expires+"'")
	}
	endsWithin := func(low, high string) {
		t.Helper()
		if got := sql(t, postgresServer(t), databaseOf(url), "SELECT count(*) FROM matrix_regservice.claims WHERE expires BETWEEN clock_timestamp() + interval '"+low+"' AND clock_timestamp() + interval '"+high+"'"); got != "1" {
			t.Errorf("%s claims end in %s to %s", got, low, high)
		}
	}
	owned := claimed(t, first, a)
	if err := owned.Save(r); err != nil {
		t.Fatal(err)
	}
	asks := []struct {
		name  string
		ask   func()
		warns int // of the clock, so far
	}{
		{"claim", func() { notInHand(t, second, a) }, 1},
		{"claim the next pending one", func() {
			if _, _, err := second.ClaimPending(t.Context(), span{}); !errors.Is(err, errNoRecord) {
				t.Errorf("got %v", err)
			}
		}, 1},
	}
	warnings := func() int { return strings.Count(lines.String(), "The claim of an address ends later than possible") }
	for _, test := range asks {
		t.Run(test.name, func(t *testing.T) {
			before := warnings()
			set("38 s")
			test.ask()
			endsWithin("21 s", "38 s")
			if warnings() != before {
				t.Errorf("log: %s", lines)
			}
			set("1 hour")
			test.ask()
			endsWithin("0 s", leaseTime.String())
			if warnings() != test.warns {
				t.Errorf("%d warnings, want %d: %s", warnings(), test.warns, lines)
			}
			if err := owned.Save(r); err != nil {
				t.Errorf("its owner is at work still: %v", err)
			}
			set("0 s")
			next := claimed(t, second, a)
			if err := owned.Save(r); !errors.Is(err, errLeaseOver) {
				t.Errorf("got %v", err)
			}
			next.Release()
			owned.Release()
			owned = claimed(t, first, a)
		})
	}
	owned.Release()
}

// Instances that want one address at once have it one after the other.
func TestPostgresClaimRaces(t *testing.T) {
	url := newDatabase(t)
	var holders, most, total atomic.Int64
	var all sync.WaitGroup
	for range 3 {
		s := openedPostgres(t, url)
		for range 8 {
			all.Go(func() {
				for range 5 {
					held := claimed(t, s, common.Address{1})
					now := holders.Add(1)
					for {
						before := most.Load()
						if now <= before || most.CompareAndSwap(before, now) {
							break
						}
					}
					total.Add(1)
					s.Load(t.Context(), common.Address{1}) // takes a moment
					holders.Add(-1)
					held.Release()
				}
			})
		}
	}
	all.Wait()
	if most.Load() != 1 || total.Load() != 120 {
		t.Errorf("%d holders at once, %d in all", most.Load(), total.Load())
	}
}

// A askedAccounts homeserver knows every account and counts who asked for each.
type askedAccounts struct {
	homeserver.Accounts
	mu    sync.Mutex
	asked map[string]int
}

func (c *askedAccounts) DisplayName(_ context.Context, userID string) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked[userID]++
	return "", nil
}

func (c *askedAccounts) Steps(context.Context) (homeserver.Steps, error) {
	return homeserver.OneStep, nil
}
func (c *askedAccounts) RefusesTaken() bool { return false }

// Instances share the pending records: each is reconciled once, those of a dead instance too, and none is left.
func TestPostgresSettlesOnce(t *testing.T) {
	captureLog(t)
	url := newDatabase(t)
	const count = 90
	s := openedPostgres(t, url)
	for i := range count {
		r := testRecord(i, statePending)
		keepRecord(t, s, r)
		if i%3 == 0 { // its owner died: the lease has just ended
			s.lease = time.Millisecond
			claimed(t, s, common.HexToAddress(r.Localpart))
			s.lease = leaseTime
		}
	}
	backend := &askedAccounts{asked: make(map[string]int)}
	var all sync.WaitGroup
	for range 3 {
		r := newRegistrar(backend, openedPostgres(t, url))
		all.Go(func() {
			for range count / reconcileAtMost {
				if _, err := r.reconcileRound(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	for userID, times := range backend.asked {
		if times != 1 {
			t.Errorf("%s was reconciled %d times", userID, times)
		}
	}
	if counts, err := s.counts(); err != nil || counts[stateRegistered] != count || counts[statePending] != 0 {
		t.Errorf("got %v, %v", counts, err)
	}
}

// Attempts and settling at once, on the same few addresses, never wait for each other in a circle.
func TestPostgresLockOrder(t *testing.T) {
	p := postgresServer(t)
	url := newDatabase(t)
	stop := time.Now().Add(2 * time.Second)
	var all sync.WaitGroup
	for range 3 {
		s := openedPostgres(t, url)
		for i := range 4 {
			all.Go(func() {
				for time.Now().Before(stop) {
					r := testRecord(i, statePending)
					held := claimed(t, s, common.HexToAddress(r.Localpart))
					if err := held.Save(r); err != nil {
						t.Error(err)
					}
					held.Release()
				}
			})
			all.Go(func() {
				for time.Now().Before(stop) {
					held, _, err := s.ClaimPending(t.Context(), span{from: time.Now(), to: time.Now()})
					if err == nil {
						err = held.Drop()
						held.Release()
					}
					if err != nil && !errors.Is(err, errNoRecord) {
						t.Error(err)
					}
				}
			})
		}
	}
	all.Wait()
	if deadlocks := sql(t, p, "postgres", "SELECT deadlocks FROM pg_stat_database WHERE datname = '"+databaseOf(url)+"'"); deadlocks != "0" {
		t.Errorf("%s deadlocks", deadlocks)
	}
}

// A record that another instance is about to hold is left to it: nobody waits.
func TestPostgresSkipsLocked(t *testing.T) {
	url := newDatabase(t)
	s := openedPostgres(t, url)
	var keys []string
	for i := range 2 {
		keepRecord(t, s, testRecord(i, statePending))
	}
	if err := eachRecord(t.Context(), s.List, "", func(r record) error { keys = append(keys, r.Localpart); return nil }); err != nil {
		t.Fatal(err)
	}
	other, err := s.pool.Conns.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Rollback(context.Background())
	if _, err := other.Exec(t.Context(), "SELECT FROM matrix_regservice.records WHERE address = $1 FOR UPDATE", common.HexToAddress(keys[0]).Bytes()); err != nil {
		t.Fatal(err)
	}
	held, r, err := s.ClaimPending(t.Context(), span{from: time.Now(), to: time.Now()})
	if err != nil || r.Localpart != keys[1] {
		t.Fatalf("got %s, %v, want %s", r.Localpart, err, keys[1])
	}
	held.Release()
}

// Of several hosts the one is used that takes writes.
func TestPostgresPrimary(t *testing.T) {
	replica, primary := ownPostgres(t, "default_transaction_read_only = on"), postgresServer(t)
	url := newDatabase(t)
	hosts := fmt.Sprintf("host=%s,%s&port=%d,%d", replica.Dir, primary.Dir, replica.Port, primary.Port)
	sql(t, replica, "postgres", "SET default_transaction_read_only = off; CREATE DATABASE "+databaseOf(url))
	s := openedPostgres(t, "postgres://postgres@/"+databaseOf(url)+"?"+hosts)
	keepRecord(t, s, testRecord(1, statePending))
}

// A claim is a row: nothing is locked, and no transaction is open, while the homeserver is asked.
func TestPostgresHoldsNoLock(t *testing.T) {
	p := postgresServer(t)
	url := newDatabase(t)
	s := openedPostgres(t, url)
	held := claimed(t, s, common.Address{1})
	defer held.Release()
	if open := sql(t, p, "postgres", "SELECT count(*) FROM pg_stat_activity WHERE xact_start IS NOT NULL AND datname = '"+databaseOf(url)+"'"); open != "0" {
		t.Errorf("%s transactions are open", open)
	}
}

// refuses tells that everything a registration needs fails, as a node and its operator see it.
func refuses(t *testing.T, d *gateway, when string) {
	t.Helper()
	proof, n := newProof(t)
	start := time.Now()
	if got := d.send(proof); got.status != 503 || got.Errcode != "M_UNKNOWN" {
		t.Errorf("%s: got %d %s", when, got.status, got.body)
	}
	if took := time.Since(start); took > waitTime {
		t.Errorf("%s: it took %v", when, took)
	}
	if d.homeserver.Users[n.UserID] != "" {
		t.Errorf("%s: an account was made without a record", when)
	}
	if err := d.store.CheckWritable(); err == nil {
		t.Errorf("%s: the store is said to be writable", when)
	}
}

// accepts waits until a node registers, and until it is said that it could.
func accepts(t *testing.T, d *gateway, when string) {
	t.Helper()
	proof, _ := newProof(t)
	daemon.Eventually(t, "a node registers "+when, func() bool { return d.send(proof).status == 200 })
	if err := d.store.CheckWritable(); err != nil {
		t.Errorf("%s: %v", when, err)
	}
}

// A server that hangs, became a replica, was stopped, or lost its disk: nodes are told 503, and as soon as it is back
// they register, with the same daemon.
func TestPostgresAway(t *testing.T) {
	kill, err := exec.LookPath("kill")
	if err != nil {
		need.All(t, need.Missing{What: "kill", Cure: "apt-get install procps"})
	}
	p := ownPostgres(t)
	sql(t, p, "postgres", "CREATE DATABASE away")
	d := newGatewayOn(t, homeserver.SharedSecretPath, openedPostgres(t, p.URL("postgres", "away")))
	accepts(t, d, "at first")

	locked := make(chan bool)
	go func() {
		defer close(locked)
		p.SQL(t.Context(), "away", "BEGIN; LOCK TABLE matrix_regservice.records, matrix_regservice.counts; SELECT pg_sleep(20)")
	}()
	daemon.Eventually(t, "the tables are locked", func() bool {
		return sql(t, p, "away", "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted AND relation = 'matrix_regservice.counts'::regclass") == "1"
	})
	refuses(t, d, "while it hangs")
	sql(t, p, "away", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'BEGIN; LOCK%' OR query LIKE 'SELECT pg_sleep%'")
	<-locked
	accepts(t, d, "after it hung")

	frozen := strings.Fields(sql(t, p, "postgres", "SELECT pid FROM pg_stat_activity WHERE datname = 'away'"))
	frozen = append(frozen, strings.Fields(sql(t, p, "postgres", "SELECT pg_read_file('postmaster.pid', 0, 20)"))[0])
	freeze := func(signal string) {
		if out, err := p.Command(t.Context(), kill, append([]string{"-" + signal}, frozen...)...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	freeze("STOP")
	refuses(t, d, "while it does not answer at all")
	freeze("CONT")
	accepts(t, d, "after it did not answer")

	sql(t, p, "postgres", "ALTER SYSTEM SET default_transaction_read_only = on; SELECT pg_reload_conf()")
	daemon.Eventually(t, "it is read-only", func() bool { return d.store.CheckWritable() != nil })
	refuses(t, d, "while it is read-only")
	sql(t, p, "postgres", "SET default_transaction_read_only = off; ALTER SYSTEM RESET default_transaction_read_only; SELECT pg_reload_conf()")
	accepts(t, d, "after it was read-only")

	for _, how := range []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT} {
		if err := p.Stop(how); err != nil {
			t.Fatal(err)
		}
		refuses(t, d, fmt.Sprintf("while it is stopped (%v)", how))
		if err := p.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		accepts(t, d, fmt.Sprintf("after it was stopped (%v)", how))
	}
	if lines := d.log.String(); !strings.Contains(lines, "SQLSTATE") || strings.Count(lines, "\n") != strings.Count(lines, `"msg"`) {
		t.Errorf("log: %s", lines)
	}
}

// Whatever was acknowledged is there although connections are cut in the middle of transactions and the server crashes;
// a cut alone is not even noticed.
func TestPostgresLosesNothing(t *testing.T) {
	captureLog(t)
	p := ownPostgres(t)
	sql(t, p, "postgres", "CREATE DATABASE cut")
	s := openedPostgres(t, p.URL("postgres", "cut"))
	var next atomic.Int64
	var mu sync.Mutex
	acknowledged := map[string]state{}
	failed := 0
	write := func(ctx context.Context) {
		for ctx.Err() == nil {
			r := testRecord(int(next.Add(1)), statePending)
			held, err := s.Claim(t.Context(), common.HexToAddress(r.Localpart))
			for _, r.State = range []state{statePending, stateRegistered} {
				if err == nil {
					err = held.Save(r)
				}
				mu.Lock()
				if err == nil {
					acknowledged[r.Localpart] = r.State
				} else {
					failed++
				}
				mu.Unlock()
			}
			if held != nil {
				held.Release()
			}
		}
	}
	run := func(disturb func()) {
		ctx, stop := context.WithCancel(t.Context())
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() { write(ctx) })
		}
		disturb()
		stop()
		all.Wait()
	}
	run(func() {
		for range 20 {
			sql(t, p, "postgres", "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity WHERE datname = 'cut' ORDER BY random() LIMIT 2) AS chosen")
		}
	})
	t.Logf("%d written, %d failed while connections were cut", len(acknowledged), failed)
	run(func() {
		daemon.Eventually(t, "more is written", func() bool { mu.Lock(); defer mu.Unlock(); return len(acknowledged) > 50 })
		if err := p.Stop(syscall.SIGQUIT); err != nil {
			t.Error(err)
		}
		if err := p.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	t.Logf("%d written, %d failed with a crash too", len(acknowledged), failed)
	if failed == 0 || len(acknowledged) == 0 {
		t.Error("nothing was disturbed")
	}
	found := storeCounts{}
	if err := eachRecord(t.Context(), s.List, "", func(r record) error {
		found[r.State]++
		if want := acknowledged[r.Localpart]; want == stateRegistered && r.State != want {
			t.Errorf("%s is %s", r.Localpart, r.State)
		}
		delete(acknowledged, r.Localpart)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if len(acknowledged) != 0 {
		t.Errorf("%d records are lost", len(acknowledged))
	}
	if counts, err := s.counts(); err != nil || counts[stateRegistered] != found[stateRegistered] || counts[statePending] != found[statePending] {
		t.Errorf("counts: got %v, %v, want %v", counts, err, found)
	}
}

// One connection after the other is cut while none is in use: nobody is told.
func TestPostgresConnectionCut(t *testing.T) {
	t.Parallel() // each cut is a second of waiting
	p := postgresServer(t)
	url := newDatabase(t)
	s := openedPostgres(t, url)
	for i := range 5 {
		for _, do := range []func() error{
			func() error { _, err := s.Load(t.Context(), common.Address{byte(i)}); return err },
			s.CheckWritable,
			func() error { held, err := s.Claim(t.Context(), common.Address{byte(i)}); held.Release(); return err },
			func() error {
				_, _, err := s.ClaimPending(t.Context(), span{from: time.Now(), to: time.Now()})
				return err
			},
		} {
			var all sync.WaitGroup
			for range 8 { // so that there are several connections
				all.Go(func() { s.CheckWritable() })
			}
			all.Wait()
			sql(t, p, "postgres", "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '"+databaseOf(url)+"'")
			if err := do(); err != nil && !errors.Is(err, errNoRecord) {
				t.Error(err)
			}
		}
	}
}

// A full disk: the server may not make its files longer.
func TestPostgresFullDisk(t *testing.T) {
	prlimit, err := exec.LookPath("prlimit")
	if err != nil {
		need.All(t, need.Missing{What: "prlimit", Cure: "apt-get install util-linux"})
	}
	p := ownPostgres(t, "autovacuum = off")
	sql(t, p, "postgres", "CREATE DATABASE filled")
	url := p.URL("postgres", "filled")
	openedPostgres(t, url).Close()
	sql(t, p, "filled", `INSERT INTO matrix_regservice.records SELECT decode(lpad(to_hex(n), 40, '0'), 'hex'), '@user', repeat('x', 135), 'registered', now(), now()
		FROM generate_series(1, 20000) AS n; CHECKPOINT`) // over the 1 MB that a file of its log has
	s := openedPostgres(t, url)
	d := newGatewayOn(t, homeserver.SharedSecretPath, s)
	limit := func(bytes string) {
		for line := range strings.Lines(sql(t, p, "postgres", "SELECT pid FROM pg_stat_activity WHERE datname = 'filled'")) {
			if out, err := p.Command(t.Context(), prlimit, "--pid", strings.TrimSpace(line), "--fsize="+bytes+":unlimited").CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
	}
	limit("1048576")
	full := answered{}
	daemon.Eventually(t, "the disk is full", func() bool { // what room is left in the last pages is used up first
		proof, _ := newProof(t)
		full = d.send(proof)
		return full.status != 200
	})
	if full.status != 503 {
		t.Errorf("got %d %s", full.status, full.body)
	}
	if !strings.Contains(d.log.String(), "SQLSTATE") {
		t.Errorf("log: %s", d.log)
	}
	limit("unlimited")
	accepts(t, d, "with space again")
}

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
			d := newGatewayOn(t, homeserver.SharedSecretPath, s)
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
			if err := s.pool.Conns.QueryRow(t.Context(), "SELECT current_setting('synchronous_commit') || current_setting('statement_timeout')").Scan(&after); err != nil || after != set+"0" {
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
		tx, err := other.pool.Conns.Begin(t.Context())
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
		err = s.pool.Send(t.Context(), func(b *pgx.Batch) { b.Queue("SELECT pg_sleep(60)") })
		if sqlState(err) != "57014" {
			t.Errorf("a long statement: got %v", err)
		}
	})
}

// sqlState is the SQLSTATE of PostgreSQL's answer, or "" where it gave none.
func sqlState(err error) string {
	if failed, ok := errors.AsType[*pgconn.PgError](err); ok {
		return failed.Code
	}
	return ""
}
