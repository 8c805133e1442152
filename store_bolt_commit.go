// store_bolt_commit.go owns how changes of records get on disk: those that come while a commit waits for the disk go
// into the next one together. bbolt's Batch does so too, but has a lone writer wait for company that does not come.

package main

import (
	"errors"
	"slices"
	"sync"

	"github.com/asdine/storm/v3"
	bolt "go.etcd.io/bbolt"
)

// A change is what one writer wants of its address's record.
type change struct {
	key   []byte
	state state  // after it; none where the record is to go
	value []byte // the record, encoded

	turn chan bool // told true to commit what is queued, false once that was done
	err  error     // what came of it
}

// A committer has writers commit in turn: the first of those that queued up commits for all of them.
type committer struct {
	mu         sync.Mutex
	queue      []*change
	committing bool

	writers sync.RWMutex // read by each writer until its change is on disk, written by who closes the store
}

// write returns when the change is on disk, or could not be made.
func (s *boltStore) write(c *change) error {
	s.writers.RLock()
	defer s.writers.RUnlock()
	if s.enqueue(c) || <-c.turn {
		s.commitQueue()
	}
	return c.err
}

// enqueue tells whether nobody commits, so that this writer has to.
func (s *boltStore) enqueue(c *change) (first bool) {
	c.turn = make(chan bool, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue = append(s.queue, c)
	first = !s.committing
	s.committing = true
	return first
}

// commitQueue commits what is queued, the caller's own change first, and leaves what came meanwhile to the first there.
func (s *boltStore) commitQueue() {
	s.mu.Lock()
	group := s.queue
	s.queue = nil
	s.mu.Unlock()

	s.commit(slices.Clone(group))

	s.mu.Lock()
	if s.committing = len(s.queue) > 0; s.committing {
		s.queue[0].turn <- true
	}
	s.mu.Unlock()
	for _, c := range group[1:] {
		c.turn <- false
	}
}

// commit makes the changes in one transaction. One that cannot be made is left out and the others are made anew, so that
// nothing of it is on disk and it costs nobody else.
func (s *boltStore) commit(group []*change) {
	for len(group) > 0 {
		bad, err := s.tryCommit(group)
		if bad == nil {
			for _, c := range group {
				c.err = err
			}
			return
		}
		bad.err = err
		group = slices.DeleteFunc(group, func(c *change) bool { return c == bad })
	}
}

// tryCommit makes all of the changes or none, and names the one that is to blame if one is.
func (s *boltStore) tryCommit(group []*change) (bad *change, err error) {
	err = s.update(func(tx *bolt.Tx) error {
		for _, bad = range group {
			if err := bad.make(tx, s.db.WithTransaction(tx)); err != nil {
				return err
			}
		}
		bad = nil
		return nil
	})
	return bad, err
}

// make makes the change within the transaction, and counts it.
func (c *change) make(tx *bolt.Tx, node storm.Node) error {
	for before, bucket := range buckets {
		there, err := node.KeyExists(bucket, c.key)
		if err != nil && !errors.Is(err, storm.ErrNotFound) { // storm makes a bucket with its first record
			return err
		}
		if !there {
			continue
		}
		if before != c.state {
			if err := node.Delete(bucket, c.key); err != nil {
				return err
			}
		}
		if err := addToCount(tx, before, -1); err != nil {
			return err
		}
	}
	if c.state == "" {
		return nil
	}
	if err := node.SetBytes(buckets[c.state], c.key, c.value); err != nil {
		return err
	}
	return addToCount(tx, c.state, +1)
}
