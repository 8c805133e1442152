// store.go owns the record of a node, its states, the interface of a store, and the store in BoltDB, which is one file of one
// process. Which file or database may be the store is store_open.go's, and the same record in SQL store_postgres.go's.
//
// The file holds four buckets: registered and pending, each with one JSON record a node under its 20 address bytes, banned, with
// one JSON ban an address in the same way, and meta with the format's version and the server name. The numbers of records and
// bans are the sequence numbers of the three.
//
// storm's Save and its queries are not used: with an id field they keep a unique index that walks the whole bucket for every write.
// Its key-value calls write meta, and bbolt's own the records and bans.

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/asdine/storm/v3"
	"github.com/ethereum/go-ethereum/common"
	bolt "go.etcd.io/bbolt"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/boltfile"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
)

// A state is how far a node's registration has come. A node without a record is unknown.
type state string

const (
	statePending    state = "pending"    // the outcome of an attempt is unknown: the account may exist
	stateRegistered state = "registered" // the account exists

	// stateBanned is used in listings and counts only: a ban is stored beside the record and does not change its state.
	stateBanned state = "banned"
)

// storeCounts is the number of records in each state, and of bans.
type storeCounts map[state]int

// A record is what a store keeps about a node: never its password, a hash or a token.
type record struct {
	Localpart   string    `json:"localpart"`
	UserID      string    `json:"user_id"`
	DisplayName string    `json:"displayname"` // the last one that was proven; the homeserver's may differ (see the table in docs/design.md)
	State       state     `json:"state"`
	Created     time.Time `json:"created"` // when the first attempt began; of an account that was lost, and is created again, when that began
	Updated     time.Time `json:"updated"` // when the record was last written

	// Banned is when the address was banned, and zero if it is not. The ban is an entry of its own: Save and Drop leave it. A
	// banned address without a record has the state "".
	Banned time.Time `json:"-"`
}

// A ban is the entry of a banned address.
type ban struct {
	UserID string    `json:"user_id"`
	Banned time.Time `json:"banned"`
}

// A span is from one time to another, both in it.
type span struct{ from, to time.Time }

func (s span) holds(t time.Time) bool { return !t.Before(s.from) && !t.After(s.to) }

// A store keeps the records of all nodes.
type store interface {
	// Load reads a record and the ban of its address in one step, claimed or not. It returns errNoRecord if there is neither.
	Load(ctx context.Context, a common.Address) (record, error)

	// Claim gives the address to one attempt alone. It waits until the context ends, and returns errBusy if too many wait.
	Claim(ctx context.Context, a common.Address) (claim, error)

	// ClaimPending claims the next pending record that nobody has claimed, whose last write is outside the span, and whose address
	// is not banned. The next call goes on after that record. It returns errNoRecord when there is none left, and the call after
	// that begins anew.
	ClaimPending(ctx context.Context, recent span) (claim, record, error)

	// List returns the next records of the state, in the order of their addresses; for stateBanned those that are banned; for ""
	// all. For the last two it returns a banned address without a record as well. They follow the one that an earlier call
	// returned as last. A page is read at once, and blocks nobody after that. An empty page is the end.
	List(ctx context.Context, of state, after string) (page []record, last string, err error)

	// Backup writes a copy of the whole store as it is at one moment. If the writer is slow, registrations may have to wait.
	Backup(ctx context.Context, w io.Writer) error

	// CheckWritable writes to the store as a registration does, without changing anything.
	CheckWritable() error

	counts() (storeCounts, error)
	size() (int64, error) // in bytes

	// serverName returns the server name of the nodes, "" if no daemon has recorded it yet.
	serverName() (string, error)

	// refuses returns the error of a daemon with this server name that starts with the store. It changes nothing.
	refuses(serverName string) error

	Close() error
}

// A claim is an address that one attempt has alone. When Save or Drop returns, the change is on disk.
type claim interface {
	// Load reads the record and the ban where the address is claimed. The store's own Load may
	// read another copy, which may be behind.
	Load(ctx context.Context) (record, error)
	Save(record) error
	Drop() error
	Ban(ban) error // an earlier ban stays as it is
	Unban() error
	Release() // once, whatever happened
}

var (
	errNoRecord      = errors.New("no record")
	errDamagedRecord = errors.New("a pending record is damaged") // ClaimPending goes on behind it
)

// A listRecords is a store's List.
type listRecords func(ctx context.Context, of state, after string) (page []record, last string, err error)

// eachRecord visits every record of the state that a store's List gives, a page at a time.
func eachRecord(ctx context.Context, list listRecords, of state, visit func(record) error) error {
	return eachRecordAfter(ctx, list, of, "", visit)
}

// eachRecordAfter visits those that follow the given one. While it visits a page, the next is read.
func eachRecordAfter(ctx context.Context, list listRecords, of state, after string, visit func(record) error) error {
	type page struct {
		records []record
		last    string
		err     error
	}
	read := func(after string) <-chan page {
		is := make(chan page, 1)
		go func() {
			records, last, err := list(ctx, of, after)
			is <- page{records, last, err}
		}()
		return is
	}
	for next := read(after); ; {
		p := <-next
		if p.err != nil || len(p.records) == 0 {
			return p.err
		}
		next = read(p.last)
		err := ctx.Err()
		for _, r := range p.records {
			if err != nil {
				break
			}
			err = visit(r)
		}
		if err != nil {
			<-next // once this returns, the store may be closed
			return err
		}
	}
}

// What the file holds.
const (
	metaBucket    = "meta"
	formatKey     = "format"      // in meta: storeFormat, in decimal
	serverNameKey = "server_name" // in meta, from format 3 on, once a daemon has started
	countsKey     = "counts"      // in meta, in format 1: storeCounts, as JSON
	banBucket     = "banned"      // from format 3 on
)

// buckets are the names of the buckets, by the state of the records in them.
var buckets = map[state]string{statePending: "pending", stateRegistered: "registered"}

// listPage is how many records a listing reads in one transaction: while one is open, the file may not grow.
const listPage = 1000

// A boltStore keeps the records in one BoltDB file.
type boltStore struct {
	file   *boltfile.File
	db     *storm.DB // the same file
	claims claims

	walk   sync.Mutex
	walked []byte // the key that ClaimPending gave last; nil at the beginning
}

func (s *boltStore) Close() error                                  { return s.file.Close() }
func (s *boltStore) CheckWritable() error                          { return s.file.CheckWritable() }
func (s *boltStore) Backup(ctx context.Context, w io.Writer) error { return s.file.Copy(ctx, w) }
func (s *boltStore) size() (int64, error)                          { return s.file.Size() }

// counts returns the number of records in each state.
func (s *boltStore) counts() (c storeCounts, err error) {
	err = s.file.View(func(tx *bolt.Tx) error {
		c, err = keptCounts(tx)
		return err
	})
	return c, err
}

// keptCounts reads the numbers of records, which are kept as their buckets' sequence numbers: counting a million records
// takes seconds, and a key of its own, as format 1 had, is one more page to write in every commit.
func keptCounts(tx *bolt.Tx) (storeCounts, error) {
	counts := storeCounts{}
	if value := tx.Bucket([]byte(metaBucket)).Get([]byte(countsKey)); value != nil {
		return counts, json.Unmarshal(value, &counts)
	}
	for state, name := range buckets {
		if bucket := tx.Bucket([]byte(name)); bucket != nil { // it is made with the first record
			counts[state] = int(bucket.Sequence())
		}
	}
	if bucket := tx.Bucket([]byte(banBucket)); bucket != nil {
		counts[stateBanned] = int(bucket.Sequence())
	}
	return counts, nil
}

// addToCount changes the number of entries in the bucket, which has to exist.
func addToCount(tx *bolt.Tx, name string, more int) error {
	bucket := tx.Bucket([]byte(name))
	return bucket.SetSequence(bucket.Sequence() + uint64(more))
}

func (s *boltStore) Load(_ context.Context, a common.Address) (r record, err error) {
	err = s.file.View(func(tx *bolt.Tx) error {
		r, err = loadIn(tx, a.Bytes())
		return err
	})
	return r, err
}

func (s *boltStore) serverName() (name string, err error) {
	err = s.file.View(func(tx *bolt.Tx) error {
		name = serverNameIn(tx)
		return nil
	})
	return name, err
}

// List merges the buckets by their keys, so that a record is listed once even if its state changes meanwhile.
func (s *boltStore) List(_ context.Context, of state, after string) (page []record, last string, err error) {
	err = s.file.View(func(tx *bolt.Tx) error {
		var walks []*bucketWalk
		walk := func(state state, name string) {
			if bucket := tx.Bucket([]byte(name)); bucket != nil && (of == "" || of == state) {
				w := walkFrom(bucket, []byte(after))
				w.ofBans = state == stateBanned
				walks = append(walks, w)
			}
		}
		for state, name := range buckets {
			walk(state, name)
		}
		walk(stateBanned, banBucket)
		for len(page) < listPage {
			var next *bucketWalk
			for _, w := range walks {
				if w.key != nil && (next == nil || bytes.Compare(w.key, next.key) < 0) {
					next = w
				}
			}
			if next == nil {
				return nil
			}
			key := next.key
			r, err := next.read(tx)
			if err != nil {
				return err
			}
			page, last = append(page, r), string(key)
			for _, w := range walks {
				if bytes.Equal(w.key, key) { // a record and its ban
					w.step(w.cursor.Next())
				}
			}
		}
		return nil
	})
	return page, last, err
}

// A bucketWalk goes through a bucket's records in the order of their keys. The key is nil after the last.
type bucketWalk struct {
	cursor     *bolt.Cursor
	key, value []byte
	ofBans     bool
}

// read returns the record that the walk is at, with its ban. It looks the record up only where the walk is at a ban.
func (w *bucketWalk) read(tx *bolt.Tx) (record, error) {
	if w.ofBans {
		return loadIn(tx, w.key)
	}
	r, err := decodeRecord(w.value)
	if value := valueIn(tx, banBucket, w.key); err == nil && value != nil {
		return withBan(r, w.key, value)
	}
	return r, err
}

// walkFrom starts a walk at the first key after the given one.
func walkFrom(bucket *bolt.Bucket, after []byte) *bucketWalk {
	w := &bucketWalk{cursor: bucket.Cursor()}
	w.step(w.cursor.Seek(after))
	if w.key != nil && bytes.Equal(w.key, after) {
		w.step(w.cursor.Next())
	}
	return w
}

// step moves to the key. A bucket that storm made inside has no value, and is skipped; older versions wrote records with storm.
func (w *bucketWalk) step(key, value []byte) {
	for key != nil && value == nil {
		key, value = w.cursor.Next()
	}
	w.key, w.value = key, value
}

// Claim is a lock in this process: the file's own lock keeps every other process out.
func (s *boltStore) Claim(ctx context.Context, a common.Address) (claim, error) {
	release, err := s.claims.acquire(ctx, a)
	if err != nil {
		return nil, err
	}
	return &boltClaim{store: s, key: a.Bytes(), release: release}, nil
}

// ClaimPending walks the pending records in the order of their addresses, on from the last one it gave, so
// that records which stay pending, or cannot be read, do not keep it from the others.
func (s *boltStore) ClaimPending(ctx context.Context, recent span) (claim, record, error) {
	s.walk.Lock()
	defer s.walk.Unlock()
	for {
		key, err := s.nextPending(s.walked, recent)
		s.walked = key
		if err != nil {
			return nil, record{}, err
		}
		claimed, pending, err := s.claimIfPending(ctx, common.Address(key), recent)
		if !errors.Is(err, errNoRecord) {
			return claimed, pending, err
		}
	}
}

// claimIfPending claims the address if nobody has and its record is still pending: an attempt that had claimed it between
// the walk and here may have ended.
func (s *boltStore) claimIfPending(ctx context.Context, a common.Address, recent span) (claim, record, error) {
	release, free := s.claims.tryAcquire(a)
	if !free {
		return nil, record{}, errNoRecord
	}
	r, err := s.Load(ctx, a)
	if err == nil && (r.State != statePending || recent.holds(r.Updated) || !r.Banned.IsZero()) {
		err = errNoRecord
	}
	if err != nil {
		release()
		return nil, record{}, err
	}
	return &boltClaim{store: s, key: a.Bytes(), release: release}, r, nil
}

// nextPending returns the first key after the given one of a pending record whose last write is outside the span, or that cannot be
// read; then with the error.
func (s *boltStore) nextPending(after []byte, recent span) (next []byte, err error) {
	err = s.file.View(func(tx *bolt.Tx) error {
		bucket := tx.Bucket([]byte(buckets[statePending]))
		if bucket == nil { // it is made with the first record
			return errNoRecord
		}
		cursor := bucket.Cursor()
		for key, value := cursor.Seek(after); key != nil; key, value = cursor.Next() {
			if value == nil || bytes.Equal(key, after) { // storm's own bucket inside has no value
				continue
			}
			r, err := decodeRecord(value)
			if err != nil {
				err = fmt.Errorf("%w: %s: %w", errDamagedRecord, names.Localpart(key), err)
			}
			if err != nil || !recent.holds(r.Updated) {
				next = bytes.Clone(key)
				return err
			}
		}
		return errNoRecord
	})
	return next, err
}

// A boltClaim is a claimed address of a boltStore.
type boltClaim struct {
	store   *boltStore
	key     []byte
	release func()
}

// loadIn reads the record and the ban under the key.
func loadIn(tx *bolt.Tx, key []byte) (r record, err error) {
	err = errNoRecord
	for _, name := range buckets {
		if value := valueIn(tx, name, key); value != nil {
			r, err = decodeRecord(value)
			break
		}
	}
	if value := valueIn(tx, banBucket, key); value != nil && (err == nil || errors.Is(err, errNoRecord)) {
		r, err = withBan(r, key, value)
	}
	return r, err
}

// valueIn returns the value under the key in the bucket, nil if there is none. The bucket need not be there.
func valueIn(tx *bolt.Tx, name string, key []byte) []byte {
	bucket := tx.Bucket([]byte(name))
	if bucket == nil {
		return nil
	}
	return bucket.Get(key)
}

// withBan adds the ban to the record, which may be empty.
func withBan(r record, key, value []byte) (record, error) {
	var b ban
	if err := json.Unmarshal(value, &b); err != nil {
		return record{}, fmt.Errorf("decode the ban: %w", err)
	}
	if b.Banned.IsZero() {
		return record{}, errors.New("decode the ban: it has no time")
	}
	if r.State == "" {
		r.Localpart, r.UserID = names.Localpart(key), b.UserID
	}
	r.Banned = b.Banned
	return r, nil
}

func (c *boltClaim) Release() { c.release() }

func (c *boltClaim) Load(ctx context.Context) (record, error) {
	return c.store.Load(ctx, common.Address(c.key))
}

// Save writes the record into the bucket of its state, and removes the address's earlier one.
func (c *boltClaim) Save(r record) error {
	value, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return c.write(r.State, value)
}

func (c *boltClaim) Drop() error { return c.write("", nil) }

// write replaces the address's record by this one in the given state. For the state "" it only removes it.
func (c *boltClaim) write(after state, value []byte) error {
	return c.store.file.Update(func(tx *bolt.Tx) error {
		for before, bucket := range buckets {
			if before != after {
				if err := removeFrom(tx, bucket, c.key); err != nil {
					return err
				}
			}
		}
		if after == "" {
			return nil
		}
		return putInto(tx, buckets[after], c.key, value)
	})
}

func (c *boltClaim) Ban(b ban) error {
	value, err := json.Marshal(b)
	if err != nil {
		return err
	}
	return c.store.file.Update(func(tx *bolt.Tx) error {
		if valueIn(tx, banBucket, c.key) != nil {
			return nil
		}
		return putInto(tx, banBucket, c.key, value)
	})
}

func (c *boltClaim) Unban() error {
	return c.store.file.Update(func(tx *bolt.Tx) error { return removeFrom(tx, banBucket, c.key) })
}

// putInto writes the entry, and counts it if it is new. storm's SetBytes would open a bucket of its own inside at each call, which is
// 4 % of a registration's processor time.
func putInto(tx *bolt.Tx, name string, key, value []byte) error {
	bucket, err := tx.CreateBucketIfNotExists([]byte(name))
	if err != nil {
		return err
	}
	if bucket.Get(key) == nil {
		if err := addToCount(tx, name, +1); err != nil {
			return err
		}
	}
	return bucket.Put(key, value)
}

// removeFrom removes the entry, if there is one.
func removeFrom(tx *bolt.Tx, name string, key []byte) error {
	bucket := tx.Bucket([]byte(name))
	if bucket == nil || bucket.Get(key) == nil {
		return nil
	}
	if err := addToCount(tx, name, -1); err != nil {
		return err
	}
	return bucket.Delete(key)
}
