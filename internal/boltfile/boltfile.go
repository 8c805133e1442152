// Package boltfile owns a BoltDB file as such. It checks that a file is sound before bbolt reads it, and that each transaction
// is on the file that was opened and finds it whole. Writers that come at the same time share a commit, and a lock keeps other
// processes out. It knows buckets and bytes, and nothing of what they mean.
//
// bbolt trusts the numbers in a file: on a damaged one it panics, reads outside of the mapped file, or never ends. This package
// makes errors of that.
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

// LockWait is how long each attempt to take the lock may wait. Opening a file takes the lock twice.
const LockWait = time.Second / 2

// reserve is the free room that CheckWritable asks for: a small change adds at most some pages of 4 KiB.
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
	opened fileStat    // the file when it was opened
	broken atomic.Bool // it stays so: see breakIfPanics

	group   committer
	writers sync.RWMutex // read by each writer until its change is on disk, written by Close
}

// Open opens a file for writing, and makes it if need be. If the file has contents, fit checks whether they are the caller's
// before anything is written. A sound file can be opened on a full disk.
func Open(path string, fit func(*bolt.Tx) error) (*File, error) {
	return open(path, fit, &bolt.Options{Timeout: LockWait})
}

// OpenReadOnly opens a file for reading, and never writes to it.
func OpenReadOnly(path string, fit func(*bolt.Tx) error) (*File, error) {
	return open(path, fit, &bolt.Options{Timeout: LockWait, ReadOnly: true, PreLoadFreelist: true}) // now, so that a damaged list is an error of Open
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

// Close waits for the writers whose changes are queued. Later writers get an error. It does not close a broken file: bbolt may
// still hold its locks, which end with the process.
func (f *File) Close() error {
	f.writers.Lock()
	defer f.writers.Unlock()
	if f.broken.Load() {
		return ErrDamaged
	}
	return f.db.Close()
}

// Use runs a function that makes transactions of its own, as a library does that is given a database.
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
	return f.breakIfPanics(tx.Commit) // if it only fails, as on a full disk, the file is as before
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

// breakIfPanics runs a function after whose panic bbolt cannot be used any more: bbolt would keep its locks, or go on with a
// list of free pages that is no longer the file's. After a panic nothing is written any more.
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

// asDamage turns a panic into an error: bbolt panics on damaged pages, and follows numbers in them out of the mapped file. Such a
// fault is a panic only if the goroutine asked for that. Called as
//
//	defer asDamage(&err, debug.SetPanicOnFault(true))
//
// it does, and restores the setting at the end.
func asDamage(err *error, before bool) {
	debug.SetPanicOnFault(before)
	if recover() != nil {
		*err = ErrDamaged
	}
}

// A fileStat identifies the file at a path, and has its size.
type fileStat struct {
	device, inode uint64
	size          int64
}

func (s fileStat) isOf(other fileStat) bool {
	return s.device == other.device && s.inode == other.inode
}

// stat returns the stat of the file. It is an error if the path leads to another file than the one that was opened: changes
// would be lost.
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

// osStat is stat for systems without statx.
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
	info, err := os.Stat(f.path) // not from bbolt, which may be closed meanwhile
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// CheckWritable commits a transaction without a change: bbolt writes its free list and its meta page, and waits for the disk
// twice. Those pages exist already. So it also writes after the last page, where a change needs room that makes the file grow.
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

// An untilDone is a writer that fails when the context ends: a long copy would delay Close.
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

// Verify checks that every page of the file is in use once, or free. In the same transaction, once the pages are known to be
// safe, it runs the function, which reads the buckets.
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
