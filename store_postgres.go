// store_postgres.go keeps the record in PostgreSQL, for several gateways at once: none of them is special, and each
// may die at any time. Nothing of pgx leaves this file and store_postgres_schema.go.
//
// A claimed address is a row of claims with an owner and a time on the database's own clock until which the claim lasts: no
// lock is held while the homeserver is asked, and nothing is renewed. One statement takes the row, and one transaction
// writes a record: it locks the claim's row and finds that the owner is still the same.
//
// Rows are locked in one order, a record before its claim, so that none of these transactions waits for another in a
// circle.

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/log"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/pgdb"
)

const (
	// leaseTime is how long a claim lasts: the claiming itself, the attempt, the last write, and 2 s for clocks that differ.
	leaseTime = pgdb.QueryTime + attemptTime + pgdb.QueryTime + 2*time.Second

	// leaseAtMost is how far ahead a lease may end. One that ends later was taken by a clock that was wrong, of this database
	// or of the primary before it. It is not over, since its owner may be at work: it is cut down to leaseTime.
	leaseAtMost = 2 * leaseTime

	pollFirst = 10 * time.Millisecond // until it asks again whether another instance has released an address
	pollLast  = 500 * time.Millisecond
)

var (
	errLeaseOver = errors.New("it took longer than its lease, and another instance may have the address by now")
	errClaimGone = errors.New("the claim is not where the record is read: PostgreSQL failed over, or the lease is over already")
	errUsePgDump = errors.New("the store is in PostgreSQL, whose own tools copy it: pg_dump --format=custom --schema=matrix_regservice --file=FILE, and pg_restore; see docs/scaling.md")
)

// A postgresStore is the record in one schema of a PostgreSQL database.
type postgresStore struct {
	pool   *pgdb.Pool
	lease  time.Duration // leaseTime, but in tests
	claims claims        // the waiting attempts of this process: one at a time asks the database

	walk chan []byte // holds the address that ClaimPending returned last, for the next call
}

func (s *postgresStore) Close() error {
	s.pool.Close()
	return nil
}

const recordColumns = "address, user_id, display_name, state, created, updated"

// What is kept of addresses: the records, each with its ban, and the bans without a record.
const (
	recordsWithBans = "SELECT " + recordColumns + `, (SELECT banned FROM matrix_regservice.bans AS b WHERE b.address = r.address) AS banned
		FROM matrix_regservice.records AS r WHERE `
	bareBans = `SELECT address, user_id, '' AS display_name, '' AS state, NULL::timestamptz AS created, NULL::timestamptz AS updated, banned
		FROM matrix_regservice.bans AS b WHERE NOT EXISTS (SELECT FROM matrix_regservice.records AS r WHERE r.address = b.address) AND `
)

// scanRecord reads the columns of a record and its ban.
func scanRecord(row pgx.Row, more ...any) (r record, key []byte, err error) {
	var created, updated, banned *time.Time
	err = row.Scan(append([]any{&key, &r.UserID, &r.DisplayName, &r.State, &created, &updated, &banned}, more...)...)
	r.Localpart = names.Localpart(key)
	r.Created, r.Updated, r.Banned = inUTC(created), inUTC(updated), inUTC(banned)
	return r, key, err
}

// inUTC is the time of a column, zero for NULL.
func inUTC(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}

func (s *postgresStore) Load(ctx context.Context, a common.Address) (r record, err error) {
	var found bool
	err = s.pool.Send(ctx, func(b *pgx.Batch) { queueLoad(b, a.Bytes(), &r, &found) })
	if err == nil && !found {
		err = errNoRecord
	}
	return r, err
}

// queueLoad queues the statement that reads a record and the ban of its address.
func queueLoad(b *pgx.Batch, key []byte, r *record, found *bool) {
	b.Queue(recordsWithBans+"address = $1 UNION ALL "+bareBans+"address = $1", key).QueryRow(func(row pgx.Row) (err error) {
		*r, _, err = scanRecord(row)
		if *found = err == nil; errors.Is(err, pgx.ErrNoRows) {
			*r, err = record{}, nil
		}
		return err
	})
}

// Claim waits for its turn in this process first, and then for other instances.
func (s *postgresStore) Claim(ctx context.Context, a common.Address) (claim, error) {
	leave, err := s.claims.acquire(ctx, a)
	if err != nil {
		return nil, err
	}
	claimed := &postgresClaim{store: s, key: a.Bytes(), owner: uuid.New(), leave: leave}
	for pause := pollFirst; ; pause = min(2*pause, pollLast) {
		taken, err := claimed.take(ctx)
		if err != nil {
			leave()
			return nil, err
		}
		if taken {
			return claimed, nil
		}
		select {
		case <-ctx.Done():
			leave()
			return nil, ctx.Err()
		case <-time.After(pause/2 + rand.N(pause)): // not all instances at once
		}
	}
}

// take claims the address if nobody has claimed it, or if this claim has it already and the answer was lost.
func (c *postgresClaim) take(ctx context.Context) (taken bool, err error) {
	var cut bool
	err = c.store.pool.Send(ctx, func(b *pgx.Batch) {
		b.Queue(`
			INSERT INTO matrix_regservice.claims AS c (address, owner, expires)
			VALUES ($1, $2, clock_timestamp() + $3)
			`+onClaimed("$3", "$4")+`
			RETURNING c.owner = $2`, c.key, c.owner, c.store.lease, leaseAtMost).QueryRow(func(row pgx.Row) error {
			err := row.Scan(&taken)
			cut = err == nil && !taken
			if errors.Is(err, pgx.ErrNoRows) {
				return nil
			}
			return err
		})
	})
	if cut {
		log.Warn("The claim of an address ends later than possible: the clock of PostgreSQL's host is or was wrong; set it with NTP",
			"address", common.BytesToAddress(c.key), "claimed", c.store.lease)
	}
	return taken, err
}

// onClaimed is what becomes of a claim that is there: it is taken over where its lease is over or it is this owner's, and cut
// down where it ends too far ahead. The parameters are the lease, and how far ahead it may end.
func onClaimed(lease, atMost string) string {
	return `ON CONFLICT (address) DO UPDATE SET expires = clock_timestamp() + ` + lease + `,
		owner = CASE WHEN c.expires > clock_timestamp() THEN c.owner ELSE EXCLUDED.owner END
	WHERE c.expires <= clock_timestamp() OR c.owner = EXCLUDED.owner OR c.expires > clock_timestamp() + ` + atMost
}

// ClaimPending walks the pending records in the order of their addresses, on from the last one that it returned. It leaves out
// those that other instances have claimed or are about to claim.
func (s *postgresStore) ClaimPending(ctx context.Context, recent span) (claim, record, error) {
	walked := <-s.walk
	defer func() { s.walk <- walked }()
	for {
		claimed := &postgresClaim{store: s, owner: uuid.New(), leave: func() {}}
		r, taken, err := claimed.takePending(ctx, walked, recent)
		if errors.Is(err, pgx.ErrNoRows) {
			walked = []byte{}
			return nil, record{}, errNoRecord
		}
		if err != nil {
			return nil, record{}, err
		}
		if walked = claimed.key; taken {
			return claimed, r, nil
		}
	}
}

// takePending claims the next pending record after the address, or has it already and the answer was lost. Taken is false if an
// attempt claimed it at the same moment.
func (c *postgresClaim) takePending(ctx context.Context, after []byte, recent span) (r record, taken bool, err error) {
	err = c.store.pool.Send(ctx, func(b *pgx.Batch) {
		b.Queue(`
			WITH next AS MATERIALIZED (
				SELECT `+recordColumns+`, NULL::timestamptz AS banned FROM matrix_regservice.records AS r
				WHERE state = 'pending' AND address > $1 AND (updated < $2 OR updated > $3) AND NOT EXISTS (
					SELECT FROM matrix_regservice.claims AS c WHERE c.address = r.address AND c.owner <> $4
						AND c.expires BETWEEN clock_timestamp() AND clock_timestamp() + $6)
					AND NOT EXISTS (SELECT FROM matrix_regservice.bans AS b WHERE b.address = r.address)
				ORDER BY address LIMIT 1 FOR UPDATE OF r SKIP LOCKED
			), taken AS (
				INSERT INTO matrix_regservice.claims AS c (address, owner, expires)
				SELECT address, $4, clock_timestamp() + $5 FROM next
				`+onClaimed("$5", "$6")+`
				RETURNING c.owner = $4 AS mine
			)
			SELECT `+recordColumns+`, banned, EXISTS (SELECT FROM taken WHERE mine) FROM next`, after, recent.from, recent.to, c.owner, c.store.lease, leaseAtMost).QueryRow(func(row pgx.Row) (err error) {
			r, c.key, err = scanRecord(row, &taken)
			return err
		})
	})
	return r, taken, err
}

// A postgresClaim is a claimed address of a postgresStore, for as long as its lease lasts.
type postgresClaim struct {
	store *postgresStore
	key   []byte
	owner uuid.UUID // of this claim alone: each claim has another
	leave func()    // ends its turn in this process
}

// Release releases the address without waiting for the disk: if that is lost, the lease ends by itself.
func (c *postgresClaim) Release() {
	defer c.leave()
	err := c.store.pool.Send(context.Background(), func(b *pgx.Batch) {
		b.Queue(`DELETE FROM matrix_regservice.claims
			WHERE address = $1 AND owner = $2 AND set_config('synchronous_commit', 'off', true) = 'off'`, c.key, c.owner)
	})
	if err != nil {
		log.Warn("The claim of an address was not released; it ends with its lease", "lease", c.store.lease, "err", err)
	}
}

// Load reads the record where the claim is, and nothing where it is not: a connection may lead to a former primary, which hung
// and does not know that another has its place. What that has of the record is long past.
func (c *postgresClaim) Load(ctx context.Context) (r record, err error) {
	var claimed, found bool
	err = c.store.pool.Send(ctx, func(b *pgx.Batch) {
		b.Queue("SELECT EXISTS (SELECT FROM matrix_regservice.claims WHERE address = $1 AND owner = $2 AND expires > clock_timestamp())",
			c.key, c.owner).QueryRow(func(row pgx.Row) error { return row.Scan(&claimed) })
		queueLoad(b, c.key, &r, &found)
	})
	switch {
	case err != nil:
		return record{}, err
	case !claimed:
		return record{}, errClaimGone
	case !found:
		return record{}, errNoRecord
	}
	return r, nil
}

func (c *postgresClaim) Save(r record) error {
	return c.write(`INSERT INTO matrix_regservice.records (`+recordColumns+`) SELECT address, $3, $4, $5, $6, $7 FROM claimed
		ON CONFLICT (address) DO UPDATE SET user_id = EXCLUDED.user_id, display_name = EXCLUDED.display_name,
			state = EXCLUDED.state, created = EXCLUDED.created, updated = EXCLUDED.updated`,
		r.UserID, r.DisplayName, string(r.State), r.Created, r.Updated)
}

func (c *postgresClaim) Drop() error {
	return c.write("DELETE FROM matrix_regservice.records AS r USING claimed WHERE r.address = claimed.address")
}

func (c *postgresClaim) Ban(b ban) error {
	return c.write(`INSERT INTO matrix_regservice.bans (address, user_id, banned) SELECT address, $3, $4 FROM claimed ON CONFLICT (address) DO NOTHING`,
		b.UserID, b.Banned)
}

func (c *postgresClaim) Unban() error {
	return c.write("DELETE FROM matrix_regservice.bans AS b USING claimed WHERE b.address = claimed.address")
}

// write changes the record or the ban of the claimed address. It changes nothing if the lease is over. Until the change is on disk nobody
// else can claim the address.
func (c *postgresClaim) write(change string, args ...any) error {
	var claimed int
	err := c.store.pool.Send(context.Background(), func(b *pgx.Batch) {
		b.Queue("SELECT FROM matrix_regservice.records WHERE address = $1 FOR UPDATE", c.key)
		b.Queue(`
			WITH claimed AS MATERIALIZED (
				SELECT address FROM matrix_regservice.claims WHERE address = $1 AND owner = $2 AND expires > clock_timestamp() FOR UPDATE
			), changed AS (`+change+`)
			SELECT count(*) FROM claimed`, append([]any{c.key, c.owner}, args...)...).QueryRow(func(row pgx.Row) error { return row.Scan(&claimed) })
	})
	if err == nil && claimed == 0 {
		return errLeaseOver
	}
	return err
}

// listings are the statements of List by state. Each state has a statement of its own, so that PostgreSQL plans it on its own:
// the pending records have an index, without which reading a page of them means reading all the others. The number of rows is a
// constant for the same reason.
var listings = func() map[state]string {
	page := func(of string) string { return "(" + of + fmt.Sprintf(" ORDER BY address LIMIT %d)", listPage) }
	return map[state]string{
		"":              page(page(recordsWithBans+"address > $1") + " UNION ALL " + page(bareBans+"address > $1")),
		statePending:    page(recordsWithBans + "address > $1 AND state = 'pending'"),
		stateRegistered: page(recordsWithBans + "address > $1 AND state = 'registered'"),
		stateBanned: page(`SELECT b.address, coalesce(r.user_id, b.user_id), coalesce(r.display_name, ''), coalesce(r.state, ''), r.created, r.updated, b.banned
			FROM matrix_regservice.bans AS b LEFT JOIN matrix_regservice.records AS r ON r.address = b.address WHERE b.address > $1`),
	}
}()

// List reads a page in the order of an index.
func (s *postgresStore) List(ctx context.Context, of state, after string) (page []record, last string, err error) {
	err = s.pool.Send(ctx, func(b *pgx.Batch) {
		page, last = nil, ""
		b.Queue(listings[of], []byte(after)).Query(func(rows pgx.Rows) error {
			for rows.Next() {
				r, key, err := scanRecord(rows)
				if err != nil {
					return err
				}
				page, last = append(page, r), string(key)
			}
			return rows.Err()
		})
	})
	return page, last, err
}

// add adds the records and the bans whose addresses have none, and returns how many of each they were. It claims no address: it is
// for migrate.
func (s *postgresStore) add(ctx context.Context, page []record) (records, bans int, err error) {
	var keys, banned [][]byte
	var userIDs, names, states, bannedIDs []string
	var created, updated, since []time.Time
	for _, r := range page {
		key := common.HexToAddress(r.Localpart).Bytes()
		if !r.Banned.IsZero() {
			banned, bannedIDs, since = append(banned, key), append(bannedIDs, r.UserID), append(since, r.Banned)
		}
		if r.State == "" {
			continue
		}
		keys = append(keys, key)
		userIDs, names, states = append(userIDs, r.UserID), append(names, r.DisplayName), append(states, string(r.State))
		created, updated = append(created, r.Created), append(updated, r.Updated)
	}
	err = s.pool.Send(ctx, func(b *pgx.Batch) {
		b.Queue("INSERT INTO matrix_regservice.records ("+recordColumns+`)
			SELECT * FROM unnest($1::bytea[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::timestamptz[])
			ON CONFLICT (address) DO NOTHING`, keys, userIDs, names, states, created, updated).Exec(func(tag pgconn.CommandTag) error {
			records = int(tag.RowsAffected())
			return nil
		})
		b.Queue(`INSERT INTO matrix_regservice.bans (address, user_id, banned)
			SELECT * FROM unnest($1::bytea[], $2::text[], $3::timestamptz[]) ON CONFLICT (address) DO NOTHING`, banned, bannedIDs, since).Exec(func(tag pgconn.CommandTag) error {
			bans = int(tag.RowsAffected())
			return nil
		})
	})
	return records, bans, err
}

// counts adds up the counters, which a trigger keeps in the transaction that changes a record: counting millions of
// rows takes seconds.
func (s *postgresStore) counts() (storeCounts, error) {
	var pending, registered, banned int
	err := s.pool.Send(context.Background(), func(b *pgx.Batch) {
		b.Queue("SELECT sum(pending)::bigint, sum(registered)::bigint, (SELECT count(*) FROM matrix_regservice.bans) FROM matrix_regservice.counts").QueryRow(func(row pgx.Row) error {
			return row.Scan(&pending, &registered, &banned)
		})
	})
	return storeCounts{statePending: pending, stateRegistered: registered, stateBanned: banned}, err
}

func (s *postgresStore) serverName() (name string, err error) {
	err = s.pool.Send(context.Background(), func(b *pgx.Batch) {
		b.Queue("SELECT coalesce(server_name, '') FROM matrix_regservice.meta").QueryRow(func(row pgx.Row) error { return row.Scan(&name) })
	})
	return name, err
}

func (s *postgresStore) size() (bytes int64, err error) {
	err = s.pool.Send(context.Background(), func(b *pgx.Batch) {
		b.Queue(`SELECT sum(pg_total_relation_size(oid))::bigint FROM pg_class
			WHERE relnamespace = 'matrix_regservice'::regnamespace AND relkind = 'r'`).QueryRow(func(row pgx.Row) error { return row.Scan(&bytes) })
	})
	return bytes, err
}

// CheckWritable writes a counter as it is.
func (s *postgresStore) CheckWritable() error {
	var written int64
	err := s.pool.Send(context.Background(), func(b *pgx.Batch) {
		b.Queue("UPDATE matrix_regservice.counts SET pending = pending WHERE shard = matrix_regservice.shard()").Exec(func(tag pgconn.CommandTag) error {
			written = tag.RowsAffected()
			return nil
		})
	})
	if err == nil && written != 1 {
		err = fmt.Errorf("the table %s.counts lacks rows: restore it from a backup", postgresSchema.Name)
	}
	return err
}

// Backup is left to PostgreSQL's own tools.
func (s *postgresStore) Backup(context.Context, io.Writer) error { return errUsePgDump }
