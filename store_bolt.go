// store_bolt.go keeps the record in BoltDB: one file, one process. Nothing of storm or bbolt leaves this file and those
// whose names begin like its.
//
// The file holds three buckets: registered and pending, each with one JSON record a node under its 20 address
// bytes, and meta with the format's version and the number of records in the other two.
//
// storm's Save and its queries are not used: with an id field they keep a unique index that walks the whole
// bucket for every write. Its transactions and key-value calls cost the same at any size.

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/asdine/storm/v3"
	bolt "go.etcd.io/bbolt"
)

const (
	storeFile   = "register.db"
	storeFormat = 2               // of the file; a later one is refused, an earlier one brought up to date
	lockWait    = time.Second / 2 // for another process's lock, at each of the two times a start takes it
	metaBucket  = "meta"
	formatKey   = "format"          // in meta: storeFormat, in decimal
	countsKey   = "counts"          // in meta, in format 1: storeCounts, as JSON
	stormBucket = "__storm_db"      // storm's own version
	bucket2018  = "User"            // of the 2018 program's records, which hold passwords
	sqliteMagic = "SQLite format 3" // that program's store from November 2018 on begins so
)

// listPage is how many records a listing reads in one transaction: while one is open, the file may not grow.
const listPage = 500

// reserve is how much room a store needs that can be written: a registration adds at most some pages of 4 KiB.
const reserve = 64 << 10

// buckets names where records of each state are.
var buckets = map[state]string{statePending: "pending", stateRegistered: "registered"}

var (
	errDamaged  = errors.New("the file is damaged: stop the service and put a backup in its place")
	errReplaced = errors.New("the file was moved or removed under the running service: put it back, or restart the service with what is there now")
)

// A boltStore is the record in one BoltDB file.
type boltStore struct {
	db     *storm.DB
	path   string
	file   fileLook    // the one that is open, as it was then
	broken atomic.Bool // for good: see breakingIfPanics
	claims claims
	committer

	walk   sync.Mutex
	walked []byte // the key that ClaimPending gave last; nil at the beginning
}

// counts returns the number of records in each state.
func (s *boltStore) counts() (c storeCounts, err error) {
	err = s.view(func(tx *bolt.Tx) error {
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
		if bucket := tx.Bucket([]byte(name)); bucket != nil { // storm makes it with the first record
			counts[state] = int(bucket.Sequence())
		}
	}
	return counts, nil
}

// addToCount changes the number of records in the state, of which there is or was one.
func addToCount(tx *bolt.Tx, of state, more int) error {
	bucket := tx.Bucket([]byte(buckets[of]))
	return bucket.SetSequence(bucket.Sequence() + uint64(more))
}

func (s *boltStore) Load(_ context.Context, a address) (r record, err error) {
	err = s.view(func(tx *bolt.Tx) error {
		r, err = load(s.db.WithTransaction(tx), a.Bytes())
		return err
	})
	return r, err
}

func (s *boltStore) size() (int64, error) {
	stat, err := os.Stat(s.path) // bbolt forgets its own when it is closed, perhaps meanwhile
	if err != nil {
		return 0, err
	}
	return stat.Size(), nil
}

// CheckWritable commits a transaction without a change, for which bbolt writes its free list and its meta page and
// waits for the disk twice. That takes a page that was written before, as most registrations do; so it also writes, to
// pages behind all others, what the next one that does not may need.
func (s *boltStore) CheckWritable() error {
	return s.update(func(tx *bolt.Tx) error {
		f, err := os.OpenFile(s.path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteAt(make([]byte, reserve), tx.Size())
		return errors.Join(err, f.Close())
	})
}

// An untilDone is a writer that gives up when the context ends: a long copy would hold up the store's closing.
type untilDone struct {
	ctx context.Context
	io.Writer
}

func (w untilDone) Write(p []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.Writer.Write(p)
}

// Backup copies the file within one reading transaction.
func (s *boltStore) Backup(ctx context.Context, w io.Writer) error {
	return s.view(func(tx *bolt.Tx) error {
		_, err := tx.WriteTo(untilDone{ctx, w})
		return err
	})
}

// List merges the buckets by their keys, so that a record is listed once whatever becomes of it meanwhile.
func (s *boltStore) List(_ context.Context, of state, after string) (page []record, last string, err error) {
	err = s.view(func(tx *bolt.Tx) error {
		var walks []*bucketWalk
		for state, name := range buckets {
			if bucket := tx.Bucket([]byte(name)); bucket != nil && (of == "" || of == state) {
				walks = append(walks, walkFrom(bucket, []byte(after)))
			}
		}
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
			r, err := decodeRecord(next.value)
			if err != nil {
				return err
			}
			page, last = append(page, r), string(next.key)
			next.step(next.cursor.Next())
		}
		return nil
	})
	return page, last, err
}

// A bucketWalk goes through a bucket's records in the order of their keys. The key is nil behind the last.
type bucketWalk struct {
	cursor     *bolt.Cursor
	key, value []byte
}

// walkFrom begins with the first key behind the given one.
func walkFrom(bucket *bolt.Bucket, after []byte) *bucketWalk {
	w := &bucketWalk{cursor: bucket.Cursor()}
	w.step(w.cursor.Seek(after))
	if w.key != nil && bytes.Equal(w.key, after) {
		w.step(w.cursor.Next())
	}
	return w
}

// step takes the key, or the next one where it is storm's own bucket inside, which has no value.
func (w *bucketWalk) step(key, value []byte) {
	for key != nil && value == nil {
		key, value = w.cursor.Next()
	}
	w.key, w.value = key, value
}

// Claim is a lock in this process: the file's own lock keeps every other process out.
func (s *boltStore) Claim(ctx context.Context, a address) (claim, error) {
	release, err := s.claims.acquire(ctx, a)
	if err != nil {
		return nil, err
	}
	return &boltClaim{store: s, key: a.Bytes(), release: release}, nil
}

// ClaimPending walks the pending records in the order of their addresses, on from behind the last one it gave, so
// that records which stay pending do not keep it from the others.
func (s *boltStore) ClaimPending(ctx context.Context, not span) (claim, record, error) {
	s.walk.Lock()
	defer s.walk.Unlock()
	for {
		key, err := s.nextPending(s.walked, not)
		s.walked = key
		if err != nil {
			return nil, record{}, err
		}
		held, pending, err := s.claimIfPending(ctx, address(key), not)
		if !errors.Is(err, errNoRecord) {
			return held, pending, err
		}
	}
}

// claimIfPending holds the address if nobody does and its record is still pending: whoever held it between the
// walk and here may have ended its attempt.
func (s *boltStore) claimIfPending(ctx context.Context, a address, not span) (claim, record, error) {
	release, free := s.claims.tryAcquire(a)
	if !free {
		return nil, record{}, errNoRecord
	}
	r, err := s.Load(ctx, a)
	if err == nil && (r.State != statePending || not.holds(r.Updated)) {
		err = errNoRecord
	}
	if err != nil {
		release()
		return nil, record{}, err
	}
	return &boltClaim{store: s, key: a.Bytes(), release: release}, r, nil
}

// nextPending returns the first key behind the given one of a pending record whose last write is outside the span.
func (s *boltStore) nextPending(after []byte, not span) (next []byte, err error) {
	err = s.view(func(tx *bolt.Tx) error {
		bucket := tx.Bucket([]byte(buckets[statePending]))
		if bucket == nil { // storm makes it with the first record
			return errNoRecord
		}
		cursor := bucket.Cursor()
		for key, value := cursor.Seek(after); key != nil; key, value = cursor.Next() {
			if value == nil || bytes.Equal(key, after) { // storm's own bucket inside has no value
				continue
			}
			r, err := decodeRecord(value)
			if err != nil {
				return err
			}
			if !not.holds(r.Updated) {
				next = bytes.Clone(key)
				return nil
			}
		}
		return errNoRecord
	})
	return next, err
}

// A boltClaim is an address in hand in a boltStore.
type boltClaim struct {
	store   *boltStore
	key     []byte
	release func()
}

func (c *boltClaim) Release() { c.release() }

// load reads the record under the key, as the transaction or the store has it.
func load(node storm.Node, key []byte) (record, error) {
	for _, bucket := range buckets {
		value, err := node.GetBytes(bucket, key)
		if errors.Is(err, storm.ErrNotFound) {
			continue
		}
		if err != nil {
			return record{}, err
		}
		return decodeRecord(value)
	}
	return record{}, errNoRecord
}

func (c *boltClaim) Save(r record) error {
	value, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return c.store.write(&change{key: c.key, state: r.State, value: value})
}

func (c *boltClaim) Drop() error { return c.store.write(&change{key: c.key}) }

// decodeRecord reads a record as it was written, and refuses one of a state it does not know.
func decodeRecord(value []byte) (record, error) {
	var r record
	if err := json.Unmarshal(value, &r); err != nil {
		return record{}, fmt.Errorf("decode the record: %w", err)
	}
	if buckets[r.State] == "" {
		return record{}, errors.New("decode the record: unknown state")
	}
	return r, nil
}
