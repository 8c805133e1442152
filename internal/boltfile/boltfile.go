// Package boltfile owns a BoltDB file as such: that the file at the path is a sound one before bbolt follows what it says,
// that each transaction is on the file that was opened and finds it whole, that writers who come together share a commit,
// and the lock that keeps other processes out. It knows buckets and bytes, and nothing of what they mean.
//
// bbolt believes what a file says: over a damaged one it panics, reads outside of the mapped file, or never ends. This
// package makes errors of that.
package boltfile

import (
	"context"
	"errors"
	"io"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
)

// LockWait is how long the lock is waited for, each time it is taken: opening a file takes it twice.
const LockWait = time.Second / 2

// reserve is the room that a file needs to be called writable: a small change adds at most some pages of 4 KiB.
const reserve = 64 << 10

var (
	ErrLocked   = errors.New("the file is in use by another process")
	ErrDamaged  = errors.New("the file is damaged: stop the service and put a backup in its place")
	errReplaced = errors.New("the file was moved or removed under the running service: put it back, or restart the service with what is there now")
)

// A File is an open BoltDB file.
type File struct {
	db     *bolt.DB
	path   string
	opened fileStat    // the file as it was then
	broken atomic.Bool // for good: see breakIfPanics

	group   committer
	writers sync.RWMutex // read by each writer until its change is on disk, written by Close
}

// Open opens a file to write to it, and makes it if need be. Before anything is written, fit is asked whether the file's
// contents are the caller's; it is not asked where the file has none. A sound file needs no room on the disk to be opened.
func Open(path string, fit func(*bolt.Tx) error) (*File, error) {
	return open(path, fit, &bolt.Options{Timeout: LockWait})
}

// OpenReadOnly opens a file to read it and never writes to it.
func OpenReadOnly(path string, fit func(*bolt.Tx) error) (*File, error) {
	return open(path, fit, &bolt.Options{Timeout: LockWait, ReadOnly: true, PreLoadFreelist: true}) // here, where a damaged one is an error
}

func open(path string, fit func(*bolt.Tx) error, options *bolt.Options) (_ *File, err error) {
	defer asDamage(&err, debug.SetPanicOnFault(true))
	if err := inspect(path, fit); err != nil {
		return nil, err
	}
	db, err := bolt.Open(path, 0o600, options)
	if err != nil {
		return nil, openError(err)
	}
	opened, err := stat(path)
	if err != nil {
		db.Close()
		return nil, err
	}
	return &File{db: db, path: path, opened: opened}, nil
}

// Close lets writers finish whose change is queued, and refuses those who come later. It leaves a broken file to the end
// of the process, which frees what bbolt holds.
func (f *File) Close() error {
	f.writers.Lock()
	defer f.writers.Unlock()
	if f.broken.Load() {
		return ErrDamaged
	}
	return f.db.Close()
}

// Use runs a function that makes transactions of its own, as a library does that is handed a database.
func (f *File) Use(do func(*bolt.DB) error) (err error) {
	defer asDamage(&err, debug.SetPanicOnFault(true))
	return f.breakIfPanics(func() error { return do(f.db) })
}

// View runs the function in a transaction that reads.
func (f *File) View(read func(*bolt.Tx) error) (err error) {
	defer asDamage(&err, debug.SetPanicOnFault(true))
	tx, err := f.begin(false)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	return read(tx)
}

// update runs the function in one transaction, on disk when it returns nil.
func (f *File) update(change func(*bolt.Tx) error) (err error) {
	defer asDamage(&err, debug.SetPanicOnFault(true))
	tx, err := f.begin(true)
	if err != nil {
		return err
	}
	defer tx.Rollback() // after Commit it does nothing
	if err := change(tx); err != nil {
		return err
	}
	return f.breakIfPanics(tx.Commit) // where it only fails, as on a full disk, all is as before
}

// begin starts a transaction on the file that was opened.
func (f *File) begin(writable bool) (tx *bolt.Tx, err error) {
	seen, err := f.stat()
	if err != nil {
		return nil, err
	}
	if seen.size < f.opened.size { // it never gets smaller, and bbolt would run into its end while it has locks
		return nil, ErrDamaged
	}
	err = f.breakIfPanics(func() error {
		tx, err = f.db.Begin(writable)
		return err
	})
	if err != nil {
		return nil, err
	}
	if seen.size < tx.Size() { // another may have made it grow meanwhile
		seen, err = f.stat()
		if err == nil && seen.size < tx.Size() {
			err = ErrDamaged
		}
		if err != nil {
			tx.Rollback()
			return nil, err
		}
	}
	return tx, nil
}

// breakIfPanics does what leaves bbolt unusable when it panics: it would keep its locks, or go on with a list of free
// pages that is no longer the file's. Nothing is written any more then.
func (f *File) breakIfPanics(do func() error) error {
	done := false
	defer func() {
		if !done {
			f.broken.Store(true)
		}
	}()
	err := do()
	done = true
	return err
}

// asDamage turns a panic into an error: bbolt panics on pages that are not what they should be, and follows numbers in
// them out of the mapped file. Such a fault is a panic only where the goroutine asked for that; deferred with
//
//	defer asDamage(&err, debug.SetPanicOnFault(true))
//
// it asks, and puts back what was before.
func asDamage(err *error, before bool) {
	debug.SetPanicOnFault(before)
	if recover() != nil {
		*err = ErrDamaged
	}
}

// A fileStat says which file a path leads to, and how large that is.
type fileStat struct {
	device, inode uint64
	size          int64
}

func (s fileStat) isOf(other fileStat) bool {
	return s.device == other.device && s.inode == other.inode
}

// stat tells of the file as long as it is the one that was opened: what is written to another is lost.
func (f *File) stat() (fileStat, error) {
	if f.broken.Load() {
		return fileStat{}, ErrDamaged
	}
	seen, err := stat(f.path)
	if errors.Is(err, os.ErrNotExist) || err == nil && !seen.isOf(f.opened) {
		return fileStat{}, errReplaced
	}
	return seen, err
}

// osStat is stat where there is nothing better.
func osStat(path string) (fileStat, error) {
	info, err := os.Stat(path)
	if err != nil {
		return fileStat{}, err
	}
	stat := info.Sys().(*syscall.Stat_t)
	return fileStat{uint64(stat.Dev), uint64(stat.Ino), info.Size()}, nil
}

// Size is how many bytes the file has.
func (f *File) Size() (int64, error) {
	info, err := os.Stat(f.path) // bbolt forgets its own when it is closed, perhaps meanwhile
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// CheckWritable commits a transaction without a change, for which bbolt writes its free list and its meta page and
// waits for the disk twice. That takes pages that were written before, as most changes do; so it also writes, to pages
// after all others, what the next change that does not may need.
func (f *File) CheckWritable() error {
	return f.Update(func(tx *bolt.Tx) error {
		file, err := os.OpenFile(f.path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = file.WriteAt(make([]byte, reserve), tx.Size())
		return errors.Join(err, file.Close())
	})
}

// Copy writes the file as it is within one reading transaction, until the context ends.
func (f *File) Copy(ctx context.Context, w io.Writer) error {
	return f.View(func(tx *bolt.Tx) error {
		_, err := tx.WriteTo(untilDone{ctx, w})
		return err
	})
}

// An untilDone is a writer that gives up when the context ends: a long copy would hold up the file's closing.
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

// Verify checks every page of the file, which must be in use once or free, and runs the function, which reads what the
// buckets hold, in the same transaction once it is safe to follow the pages.
func (f *File) Verify(read func(*bolt.Tx) error) error {
	file, err := os.Open(f.path)
	if err != nil {
		return err
	}
	defer file.Close()
	return f.View(func(tx *bolt.Tx) error {
		pages, err := pagesOf(tx, file)
		if err == nil {
			err = pages.check()
		}
		if err == nil {
			err = read(tx)
		}
		if err != nil {
			return err
		}
		var damage error
		for err := range tx.Check() { // it goes on until its channel is read to the end
			if damage == nil {
				damage = err
			}
		}
		return damage
	})
}
