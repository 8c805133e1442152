// store_open.go owns which file or database may be the store, and the error for any other: where the store is, how a new one
// is made, its format, and the check of a copy from end to end.

package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/asdine/storm/v3"
	"github.com/ethereum/go-ethereum/common"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/boltfile"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/files"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/pgdb"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/redact"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/shell"
)

const (
	storeFile   = "register.db"
	storeFormat = 3                 // of the file; a later one is refused, an earlier one brought up to date
	stormBucket = "__storm_db"      // storm's own version
	bucket2018  = "User"            // of the 2018 program's records, which hold passwords
	sqliteMagic = "SQLite format 3" // begins the store of that program from November 2018 on
)

var (
	errNoStore     = errors.New("there is no store yet")
	errStoreLocked = errors.New("the store is in use by another matrix-regservice: stop that one, or give this one a --datapath of its own")
)

// An unfitError says that a file cannot be the store: what it is, and what to do.
type unfitError struct{ is, todo string }

func (e *unfitError) Error() string { return e.is + ": " + e.todo }

var errForeignFile = &unfitError{"it is a BoltDB file of another program", "give another --datapath"}

// openStore opens the store at the path, a directory or a PostgreSQL URL, for the nodes of this homeserver.
func openStore(ctx context.Context, dataPath, serverName string) (store, error) {
	if names.IsPostgres(dataPath) {
		return openPostgresStore(ctx, dataPath, serverName)
	}
	return openBoltStore(dataPath, serverName)
}

// readStore opens the store at the path for reading, and never writes to it. It returns errNoStore if there is none, and
// errStoreLocked if a daemon has locked it.
func readStore(ctx context.Context, dataPath string) (store, error) {
	if names.IsPostgres(dataPath) {
		return readPostgresStore(ctx, dataPath)
	}
	return readBoltStore(filepath.Join(dataPath, storeFile))
}

// storeName is the path for a log or an error: of a URL it has neither user nor password.
func storeName(dataPath string) string {
	if !names.IsPostgres(dataPath) {
		return dataPath
	}
	return pgdb.Name(dataPath)
}

// openBoltStore opens the store in the directory, and makes both if need be. It refuses a file that is no store before it
// writes anything to it. It refuses a store with the nodes of another server name, unless serverName is empty.
func openBoltStore(dir, serverName string) (_ *boltStore, err error) {
	path := filepath.Join(dir, storeFile)
	defer func() {
		if err != nil {
			err = fmt.Errorf("open the store %s: %w", path, withOwner(err, dir))
		}
	}()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := makeBoltStore(path, serverName); err != nil {
		return nil, err
	}
	if err := files.SyncDir(dir); err != nil {
		return nil, err
	}
	return openToWrite(path, serverName)
}

// withOwner adds to the error what to type if root has left the directory or the store in it, as a command does that was once
// run as root.
func withOwner(err error, dir string) error {
	if !errors.Is(err, os.ErrPermission) || os.Geteuid() == 0 {
		return err
	}
	for _, path := range []string{dir, filepath.Join(dir, storeFile)} {
		stat, statErr := os.Stat(path)
		if statErr != nil {
			continue
		}
		if owner, ok := stat.Sys().(*syscall.Stat_t); ok && owner.Uid == 0 {
			return fmt.Errorf("%w: %s is root's: if this is the user that runs the service, type as root: chown -R %s: %s", err, path, files.Me(), shell.Quote(dir))
		}
	}
	return err
}

// makeBoltStore makes a store if there is none. The file gets its name when it is whole: a part of a store, as a full disk
// leaves it, would be refused from then on.
func makeBoltStore(path, serverName string) error {
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	draft, err := files.Draft(filepath.Dir(path), storeFile, func(f *os.File) error {
		s, err := openToWrite(f.Name(), serverName)
		if err != nil {
			return err
		}
		return s.Close()
	})
	if failed := (*os.PathError)(nil); errors.As(err, &failed) {
		return failed.Err // without the temporary name
	}
	if err != nil {
		return err
	}
	defer os.Remove(draft)
	if err := files.Publish(draft, path); !errors.Is(err, os.ErrExist) { // as when another makes one too
		return err
	}
	return nil
}

// openToWrite opens the file, and writes the first contents of a store if they are missing. An existing store can be opened on
// a full disk.
func openToWrite(path, serverName string) (*boltStore, error) {
	file, err := boltfile.Open(path, fits)
	if err != nil {
		return nil, openError(path, err)
	}
	s, err := newBoltStore(file)
	if err == nil {
		err = s.initialize(serverName)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return s, nil
}

// readBoltStore opens the store in the file for reading, and never writes to it. It returns errNoStore if there is none, or one
// whose making was interrupted.
func readBoltStore(path string) (_ *boltStore, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("open the store %s: %w", path, err)
		}
	}()
	if stat, err := os.Stat(path); errors.Is(err, os.ErrNotExist) || err == nil && stat.Mode().IsRegular() && stat.Size() == 0 {
		return nil, errNoStore
	}
	file, err := boltfile.OpenReadOnly(path, fits)
	if err != nil {
		return nil, openError(path, err)
	}
	s, err := newBoltStore(file)
	if errors.Is(err, bolterrors.ErrDatabaseReadOnly) { // storm would have to write its own version first
		err = errNoStore
	}
	format := 0
	if err == nil {
		format, err = s.format()
	}
	if err == nil && format == 0 {
		err = errNoStore
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return s, nil
}

// newBoltStore hands the file to storm, which writes its own version if that is missing.
func newBoltStore(file *boltfile.File) (s *boltStore, err error) {
	s = &boltStore{file: file}
	err = file.Use(func(db *bolt.DB) error {
		s.db, err = storm.Open("", storm.UseDB(db))
		return err
	})
	return s, err
}

// openError adds to the error what to do about a file that cannot be opened.
func openError(path string, err error) error {
	unfit := (*boltfile.UnfitError)(nil)
	switch {
	case errors.Is(err, boltfile.ErrLocked):
		return errStoreLocked
	case errors.Is(err, boltfile.ErrNotRegular):
		return &unfitError{err.Error(), "give another --datapath"}
	case errors.Is(err, boltfile.ErrNotBolt):
		if head, err := readHead(path, len(sqliteMagic)); err == nil && string(head) == sqliteMagic {
			return &unfitError{"it is an SQLite file, in which the 2018 program kept its users and their passwords", "move it away, or give another --datapath; nodes register again by themselves"}
		}
		return &unfitError{"it is not a store of matrix-regservice, or it is damaged", "move it away, put a backup in its place, or give another --datapath"}
	case errors.As(err, &unfit):
		return &unfitError{unfit.Is, "put a backup in its place"}
	}
	return err
}

// fits returns nil if the file is a store of this program, or one whose making was interrupted.
func fits(tx *bolt.Tx) error {
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
}

// readHead returns the first bytes of the file, at most size of them.
func readHead(path string, size int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, int64(size)))
}

// formatIn reads the file's format: 0 if it is no store yet.
func formatIn(tx *bolt.Tx) (int, error) {
	meta := tx.Bucket([]byte(metaBucket))
	if meta == nil {
		return 0, nil
	}
	return strconv.Atoi(string(meta.Get([]byte(formatKey))))
}

func (s *boltStore) format() (format int, err error) {
	err = s.file.View(func(tx *bolt.Tx) error {
		format, err = formatIn(tx)
		return err
	})
	return format, err
}

// initialize writes the first contents of a store, and brings one of an earlier format up to date. The first daemon that starts
// writes the server name down: two homeservers in one store would each count the other's nodes as registered. A store without a
// record or a ban takes another name.
func (s *boltStore) initialize(serverName string) error {
	format, kept, owner, err := s.readOwner(serverName)
	if err != nil {
		return err
	}
	if format == storeFormat && kept == owner {
		return nil
	}
	return s.file.Update(func(tx *bolt.Tx) error {
		meta := s.db.WithTransaction(tx)
		if owner != "" {
			if err := meta.SetBytes(metaBucket, serverNameKey, []byte(owner)); err != nil {
				return err
			}
		}
		if err := meta.SetBytes(metaBucket, formatKey, []byte(strconv.Itoa(storeFormat))); err != nil {
			return err
		}
		if tx.Bucket([]byte(metaBucket)).Get([]byte(countsKey)) == nil {
			return nil
		}
		return takeOverCounts(tx)
	})
}

// readOwner returns the format of the store, the server name that counts in it, and the one that it has from the next start on. It
// fails where that would be another than the given one, unless that is empty.
func (s *boltStore) readOwner(serverName string) (format int, kept, owner string, err error) {
	err = s.file.View(func(tx *bolt.Tx) (err error) {
		if format, err = formatIn(tx); err != nil {
			return err
		}
		kept = serverNameIn(tx)
		if serverName == "" || kept == serverName {
			return nil
		}
		if kept != "" && isBlank(tx) { // a first start with a wrong name leaves such a store
			kept = ""
		}
		if kept == "" {
			owner, err = ownerOfRecords(tx, serverName)
		}
		return err
	})
	if owner = cmp.Or(kept, owner, serverName); err == nil && serverName != "" && owner != serverName {
		err = belongsElsewhere(owner, serverName, "a --"+config.FlagDataPath)
	}
	return format, kept, owner, err
}

func (s *boltStore) refuses(serverName string) error {
	_, _, _, err := s.readOwner(serverName)
	return err
}

// belongsElsewhere is the error about the store of another homeserver.
func belongsElsewhere(owner, serverName, place string) error {
	return &unfitError{fmt.Sprintf("it belongs to %s, and --%s is %s", redact.Line(owner), config.FlagMatrixDomain, serverName), "give each homeserver " + place + " of its own"}
}

// isBlank reports whether the store has no record and no ban.
func isBlank(tx *bolt.Tx) bool {
	for _, name := range append(slices.Collect(maps.Values(buckets)), banBucket) {
		if bucket := tx.Bucket([]byte(name)); bucket != nil {
			if key, _ := bucket.Cursor().First(); key != nil {
				return false
			}
		}
	}
	return true
}

// takeOverCounts moves the counts of format 1 to the buckets' sequence numbers.
func takeOverCounts(tx *bolt.Tx) error {
	counts, err := keptCounts(tx)
	if err != nil {
		return err
	}
	for state, count := range counts {
		if count <= 0 {
			continue // its bucket need not be there
		}
		if err := addToCount(tx, buckets[state], count); err != nil {
			return err
		}
	}
	return tx.Bucket([]byte(metaBucket)).Delete([]byte(countsKey))
}

// serverNameIn reads the server name that a daemon wrote down: "" if none has.
func serverNameIn(tx *bolt.Tx) string { return string(valueIn(tx, metaBucket, []byte(serverNameKey))) }

// ownerOfRecords returns whose nodes are in a store that does not say it: the given name if there is no record or one of that
// name, else the name in the first record.
func ownerOfRecords(tx *bolt.Tx, serverName string) (owner string, err error) {
	for _, name := range buckets {
		bucket := tx.Bucket([]byte(name))
		if bucket == nil {
			continue
		}
		for w := walkFrom(bucket, nil); w.key != nil; w.step(w.cursor.Next()) {
			r, err := decodeRecord(w.value)
			if err != nil {
				return "", err
			}
			_, of, _ := strings.Cut(r.UserID, ":")
			if of == serverName {
				return serverName, nil
			}
			owner = cmp.Or(owner, of)
		}
	}
	return cmp.Or(owner, serverName), nil
}

// verify reads the whole file. Every record must be valid, in the place where Load reads it, and counted. Every page of the file
// must be in use once or free.
func (s *boltStore) verify(ctx context.Context) (storeCounts, error) {
	kept, err := s.counts()
	if err != nil {
		return nil, err
	}
	found := storeCounts{}
	if err := s.file.Verify(func(tx *bolt.Tx) error { return countRecords(ctx, tx, found) }); err != nil {
		return nil, err
	}
	for _, state := range []state{statePending, stateRegistered, stateBanned} {
		if found[state] != kept[state] {
			return nil, fmt.Errorf("it has %d %s records and says that it has %d", found[state], state, kept[state])
		}
	}
	return found, nil
}

// countRecords counts the records of each state. It fails if one is not in its place.
func countRecords(ctx context.Context, tx *bolt.Tx, found storeCounts) error {
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
	return countBans(ctx, tx, found)
}

// countBans counts the bans. It fails if one is not in its place.
func countBans(ctx context.Context, tx *bolt.Tx, found storeCounts) error {
	bucket := tx.Bucket([]byte(banBucket))
	if bucket == nil {
		return nil
	}
	for w := walkFrom(bucket, nil); w.key != nil; w.step(w.cursor.Next()) {
		if err := ctx.Err(); err != nil {
			return err
		}
		r, err := withBan(record{}, w.key, w.value)
		if err != nil {
			return err
		}
		if of, _, _ := strings.Cut(r.UserID, ":"); len(w.key) != common.AddressLength || of != "@"+r.Localpart || !bytes.Equal(bucket.Get(w.key), w.value) {
			return fmt.Errorf("the ban of %x is not in its place", w.key)
		}
		found[stateBanned]++
	}
	return nil
}
