// store_bolt_file.go owns the store's file as a whole: which file may be opened as a store and what is said of any
// other, a new store's first contents, the check of a copy from end to end, and the lock.

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
	"github.com/asdine/storm/v3"
	"github.com/ethereum/go-ethereum/common"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// openBoltStore opens the store in the directory, which it makes if need be. A file that is not such a store is
// refused before anything is written to it.
func openBoltStore(dir string) (_ *boltStore, err error) {
	path := filepath.Join(dir, storeFile)
	defer func() {
		if err != nil {
			err = fmt.Errorf("open the store %s: %w", path, err)
		}
	}()
	defer asDamage(&err, debug.SetPanicOnFault(true))

	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := makeBoltStore(path); err != nil {
		return nil, err
	}
	if err := inspect(path); err != nil {
		return nil, err
	}
	s, err := openToWrite(path)
	if err != nil {
		return nil, err
	}
	return s, syncDir(dir)
}

// makeBoltStore makes a store where there is none. It gets its name when it is whole: a part of one, as a full disk
// leaves it, would be refused from then on.
func makeBoltStore(path string) error {
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	draft, err := draftIn(filepath.Dir(path), storeFile, func(f *os.File) error {
		s, err := openToWrite(f.Name())
		if err != nil {
			return err
		}
		return s.Close()
	})
	if failed := (*os.PathError)(nil); errors.As(err, &failed) {
		return failed.Err // the temporary name would only puzzle
	}
	if err != nil {
		return err
	}
	defer os.Remove(draft)
	if err := nameNew(draft, path); !errors.Is(err, os.ErrExist) { // as when another makes one too
		return err
	}
	return nil
}

// openToWrite opens the file, and writes what a new store holds where that is not there. Any other needs no room on the
// disk to be opened.
func openToWrite(path string) (*boltStore, error) {
	db, err := storm.Open(path, storm.BoltOptions(0o600, &bolt.Options{Timeout: lockWait}))
	if err != nil {
		return nil, openError(err)
	}
	s := &boltStore{db: db, path: path}
	if s.file, err = lookAt(path); err == nil {
		err = s.initialize()
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// An unfitError says of a file that it cannot be the store: what it is, and what to do where it is to be one.
type unfitError struct{ is, todo string }

func (e *unfitError) Error() string { return e.is + ": " + e.todo }

var errForeignFile = &unfitError{"it is a BoltDB file of another program", "give another --datapath"}

// readBoltStore opens the store in the file to read it and never writes to it: errNoStore where there is none, or
// one whose making was interrupted.
func readBoltStore(path string) (_ *boltStore, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("open the store %s: %w", path, err)
		}
	}()
	defer asDamage(&err, debug.SetPanicOnFault(true))

	if stat, err := os.Stat(path); errors.Is(err, os.ErrNotExist) || err == nil && stat.Mode().IsRegular() && stat.Size() == 0 {
		return nil, errNoStore
	}
	if err := inspect(path); err != nil {
		return nil, err
	}
	db, err := storm.Open(path, storm.BoltOptions(0o600, &bolt.Options{Timeout: lockWait, ReadOnly: true, PreLoadFreelist: true})) // here, where a damaged one is an error
	if errors.Is(err, bolterrors.ErrDatabaseReadOnly) {                                                                            // storm would have to write its own version first
		return nil, errNoStore
	}
	if err != nil {
		return nil, openError(err)
	}
	s := &boltStore{db: db, path: path}
	format := 0
	if s.file, err = lookAt(path); err == nil {
		format, err = s.format()
	}
	if err == nil && format == 0 {
		err = errNoStore
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
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
		*err = errDamaged
	}
}

// inspect tells, without writing to it, whether the file may be opened as a store: it is one, or is not there yet.
func inspect(path string) error {
	stat, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !stat.Mode().IsRegular():
		return &unfitError{"it is not a regular file", "give another --datapath"}
	case stat.Size() == 0: // the making of it was interrupted
		return nil
	}
	switch head, err := readHead(path, len(sqliteMagic)); {
	case err != nil:
		return err
	case string(head) == sqliteMagic:
		return &unfitError{"it is an SQLite file, as the 2018 program kept its users and their passwords in", "move it away, or give another --datapath; nodes register again by themselves"}
	}

	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: lockWait, ReadOnly: true})
	if err != nil {
		return openError(err)
	}
	defer db.Close()
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	return db.View(func(tx *bolt.Tx) error {
		if stat.Size() < tx.Size() { // reading behind the end of a mapped file would kill the process
			return &unfitError{fmt.Sprintf("it is cut short: %d bytes of at least %d are there", stat.Size(), tx.Size()), "put a backup in its place"}
		}
		pages, err := pagesOf(tx, file)
		if err == nil {
			err = pages.checkFreelist()
		}
		if err == nil {
			err = pages.checkRoot()
		}
		if err != nil {
			return &unfitError{"it is damaged: " + err.Error(), "put a backup in its place"}
		}
		if tx.Bucket([]byte(bucket2018)) != nil {
			return &unfitError{"it is the store of the 2018 program, which holds passwords", "move it away, or give another --datapath; nodes register again by themselves"}
		}
		switch format, err := formatIn(tx); {
		case err != nil:
			return errForeignFile
		case format == 0:
			return tx.ForEach(func(name []byte, _ *bolt.Bucket) error {
				if string(name) != stormBucket { // which alone is a store whose making was interrupted
					return errForeignFile
				}
				return nil
			})
		case format > storeFormat:
			return &unfitError{fmt.Sprintf("it has format %d and this version knows up to %d", format, storeFormat), "start the newer matrix-regservice that wrote it"}
		}
		return nil
	})
}

// readHead returns the file's first bytes, at most so many.
func readHead(path string, size int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, int64(size)))
}

// openError puts bbolt's errors in words that say what to do.
func openError(err error) error {
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return errStoreLocked
	case strings.Contains(err.Error(), "file size too small"), errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrVersionMismatch), errors.Is(err, bolterrors.ErrChecksum):
		return &unfitError{"it is not a store of matrix-regservice, or it is damaged", "move it away, put a backup in its place, or give another --datapath"}
	}
	return err
}

// formatIn reads the file's format: 0 where it is not a store yet.
func formatIn(tx *bolt.Tx) (int, error) {
	meta := tx.Bucket([]byte(metaBucket))
	if meta == nil {
		return 0, nil
	}
	return strconv.Atoi(string(meta.Get([]byte(formatKey))))
}

func (s *boltStore) format() (format int, err error) {
	err = s.view(func(tx *bolt.Tx) error {
		format, err = formatIn(tx)
		return err
	})
	return format, err
}

// initialize writes what a store holds from the first, and what one of an earlier format lacks.
func (s *boltStore) initialize() error {
	if format, err := s.format(); err != nil || format == storeFormat {
		return err
	}
	return s.update(func(tx *bolt.Tx) error {
		if err := s.db.WithTransaction(tx).SetBytes(metaBucket, formatKey, []byte(strconv.Itoa(storeFormat))); err != nil {
			return err
		}
		counts, err := keptCounts(tx)
		if err != nil {
			return err
		}
		for state, count := range counts {
			if count <= 0 {
				continue // its bucket need not be there
			}
			if err := addToCount(tx, state, count); err != nil {
				return err
			}
		}
		return tx.Bucket([]byte(metaBucket)).Delete([]byte(countsKey))
	})
}

// verify reads the whole file: every record must be what it should, where Load looks for it, and counted; and every
// page of the file must be in use once or free.
func (s *boltStore) verify(ctx context.Context) (_ storeCounts, err error) {
	defer asDamage(&err, debug.SetPanicOnFault(true))
	kept, err := s.counts()
	if err != nil {
		return nil, err
	}
	found, damage := storeCounts{}, error(nil)
	file, err := os.Open(s.path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	err = s.view(func(tx *bolt.Tx) error {
		pages, err := pagesOf(tx, file)
		if err == nil {
			err = pages.check() // before a cursor follows them
		}
		if err != nil {
			return err
		}
		for state, name := range buckets {
			bucket := tx.Bucket([]byte(name))
			if bucket == nil {
				continue
			}
			for w := walkFrom(bucket, nil); w.key != nil; w.step(w.cursor.Next()) {
				if err := ctx.Err(); err != nil {
					return err
				}
				r, err := decodeRecord(w.value)
				if err != nil {
					return err
				}
				if r.State != state || !names.IsLocalpart(r.Localpart) || !bytes.Equal(common.HexToAddress(r.Localpart).Bytes(), w.key) || !bytes.Equal(bucket.Get(w.key), w.value) {
					return fmt.Errorf("the record of %x is not in its place", w.key)
				}
				found[state]++
			}
		}
		for err := range tx.Check() { // it goes on until its channel is read to the end
			if damage == nil {
				damage = err
			}
		}
		return damage
	})
	if err != nil {
		return nil, err
	}
	for state := range buckets {
		if found[state] != kept[state] {
			return nil, fmt.Errorf("it has %d %s records and says that it has %d", found[state], state, kept[state])
		}
	}
	return found, nil
}

// lockStoreFile takes bbolt's lock of the file, whatever is in the file: errStoreLocked where a daemon has it.
func lockStoreFile(path string) (release func(), err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	for start := time.Now(); ; time.Sleep(lockWait / 10) {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if time.Since(start) > lockWait {
			f.Close()
			if errors.Is(err, syscall.EWOULDBLOCK) {
				err = errStoreLocked
			}
			return nil, err
		}
	}
}
