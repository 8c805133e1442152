// store_bolt_tx.go owns the transactions on the store's file: that each is on the file that was opened and finds it whole,
// and that nothing is written any more once bbolt has panicked in one.

package main

import (
	"errors"
	"os"
	"runtime/debug"

	"github.com/asdine/storm/v3"
	bolt "go.etcd.io/bbolt"
)

// Close lets writers finish whose change is queued, and refuses those who come later. It leaves a broken store to the end
// of the process, which frees what bbolt holds.
func (s *boltStore) Close() error {
	s.writers.Lock()
	defer s.writers.Unlock()
	if s.broken.Load() {
		return errDamaged
	}
	return s.db.Close()
}

// begin starts a transaction on the file that is the store's.
func (s *boltStore) begin(writable bool) (tx *bolt.Tx, err error) {
	stat, err := s.look()
	if err != nil {
		return nil, err
	}
	if stat.Size() < s.file.Size() { // it never gets smaller, and bbolt would run into its end with locks in hand
		return nil, errDamaged
	}
	err = s.breakingIfPanics(func() error {
		tx, err = s.db.Bolt.Begin(writable)
		return err
	})
	if err != nil {
		return nil, err
	}
	if stat.Size() < tx.Size() { // another may have made it grow meanwhile
		stat, err = s.look()
		if err == nil && stat.Size() < tx.Size() {
			err = errDamaged
		}
		if err != nil {
			tx.Rollback()
			return nil, err
		}
	}
	return tx, nil
}

// breakingIfPanics does what leaves bbolt unusable when it panics: it would keep its locks, or go on with a list of free
// pages that is no longer the file's.
func (s *boltStore) breakingIfPanics(do func() error) error {
	done := false
	defer func() {
		if !done {
			s.broken.Store(true)
		}
	}()
	err := do()
	done = true
	return err
}

// look tells of the store's file, as long as it is the one that was opened: what is written to another is lost.
func (s *boltStore) look() (os.FileInfo, error) {
	if s.broken.Load() {
		return nil, errDamaged
	}
	stat, err := os.Stat(s.path)
	if errors.Is(err, os.ErrNotExist) || err == nil && !os.SameFile(stat, s.file) {
		return nil, errReplaced
	}
	return stat, err
}

// view runs the function in a transaction that reads.
func (s *boltStore) view(read func(tx *bolt.Tx) error) (err error) {
	defer asDamage(&err, debug.SetPanicOnFault(true))
	tx, err := s.begin(false)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	return read(tx)
}

// update runs the function in one transaction, on disk when it returns nil.
func (s *boltStore) update(change func(tx storm.Node) error) error {
	return s.updateBolt(func(tx *bolt.Tx) error { return change(s.db.WithTransaction(tx)) })
}

func (s *boltStore) updateBolt(change func(tx *bolt.Tx) error) (err error) {
	defer asDamage(&err, debug.SetPanicOnFault(true))
	tx, err := s.begin(true)
	if err != nil {
		return err
	}
	defer tx.Rollback() // after Commit it does nothing
	if err := change(tx); err != nil {
		return err
	}
	return s.breakingIfPanics(tx.Commit) // where it only fails, as on a full disk, all is as before
}
