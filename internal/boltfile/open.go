// open.go owns which file may be opened, the error for any other, and the lock.

package boltfile

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// An UnfitError says what a file is that cannot be opened.
type UnfitError struct{ Is string }

func (e *UnfitError) Error() string { return e.Is }

var (
	ErrNotRegular = &UnfitError{"it is not a regular file"}
	ErrNotBolt    = &UnfitError{"it is not a BoltDB file, or it is damaged"}
)

// inspect returns nil if the file may be opened: it is sound and fits, or it is empty or not there. It writes nothing.
func inspect(path string, fit func(*bolt.Tx) error) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return ErrNotRegular
	case info.Size() == 0:
		return nil
	}
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: LockWait, ReadOnly: true})
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
		if info.Size() < tx.Size() { // reading after the end of a mapped file would kill the process
			return &UnfitError{fmt.Sprintf("it is cut short: %d bytes of at least %d are there", info.Size(), tx.Size())}
		}
		pages, err := pagesOf(tx, file)
		if err == nil {
			err = pages.checkFreelist()
		}
		if err == nil {
			err = pages.checkRoot()
		}
		if err != nil {
			return &UnfitError{"it is damaged: " + err.Error()}
		}
		return fit(tx)
	})
}

// openError puts bbolt's errors in words.
func openError(err error) error {
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return ErrLocked
	case strings.Contains(err.Error(), "file size too small"), errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrVersionMismatch), errors.Is(err, bolterrors.ErrChecksum):
		return ErrNotBolt
	}
	return err
}

// Lock takes the lock of a file, whatever is in it. It returns ErrLocked if another process has it.
func Lock(path string) (release func(), err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	for start := time.Now(); ; time.Sleep(LockWait / 10) {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { file.Close() }, nil
		}
		if time.Since(start) > LockWait {
			file.Close()
			if errors.Is(err, syscall.EWOULDBLOCK) {
				err = ErrLocked
			}
			return nil, err
		}
	}
}
