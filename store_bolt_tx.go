// store_bolt_tx.go owns the transactions on the store's file: that each is on the file that was opened and finds it whole,
// and that nothing is written any more once bbolt has panicked in one.

package main

import (
	"errors"
	"os"
	"runtime/debug"
	"syscall"

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
	seen, err := s.look()
	if err != nil {
		return nil, err
	}
	if seen.size < s.file.size { // it never gets smaller, and bbolt would run into its end with locks in hand
		return nil, errDamaged
	}
	err = s.breakingIfPanics(func() error {
		tx, err = s.db.Bolt.Begin(writable)
		return err
	})
	if err != nil {
		return nil, err
	}
	if seen.size < tx.Size() { // another may have made it grow meanwhile
		seen, err = s.look()
		if err == nil && seen.size < tx.Size() {
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
func (s *boltStore) look() (fileLook, error) {
	if s.broken.Load() {
		return fileLook{}, errDamaged
	}
	seen, err := lookAt(s.path)
	if errors.Is(err, os.ErrNotExist) || err == nil && !seen.isOf(s.file) {
		return fileLook{}, errReplaced
	}
	return seen, err
}

// A fileLook is which file a path leads to, and how large that is.
type fileLook struct {
	device, inode uint64
	size          int64
}

func (l fileLook) isOf(other fileLook) bool {
	return l.device == other.device && l.inode == other.inode
}

func statFile(path string) (fileLook, error) {
	info, err := os.Stat(path)
	if err != nil {
		return fileLook{}, err
	}
	stat := info.Sys().(*syscall.Stat_t)
	return fileLook{uint64(stat.Dev), uint64(stat.Ino), info.Size()}, nil
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
func (s *boltStore) update(change func(tx *bolt.Tx) error) (err error) {
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
