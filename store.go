// store.go owns the record: what is kept of a node, its states, and the store's errors.

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
)

// A state is how far a node's registration has come. A node without a record is unknown.
type state string

const (
	statePending    state = "pending"    // an attempt was begun and its end is not known: the account may be there
	stateRegistered state = "registered" // the account is there
)

// storeCounts is the number of records in each state.
type storeCounts map[state]int

// A record is what is kept of a node: never its password, a hash or a token.
type record struct {
	Localpart   string    `json:"localpart"`
	UserID      string    `json:"user_id"`
	DisplayName string    `json:"displayname"` // the one last proven; the homeserver's may differ (see register's table)
	State       state     `json:"state"`
	Created     time.Time `json:"created"` // when the first attempt began
	Updated     time.Time `json:"updated"` // when the record was last written
}

// A span is from one time to another, both in it.
type span struct{ from, to time.Time }

func (s span) holds(t time.Time) bool { return !t.Before(s.from) && !t.After(s.to) }

// store keeps the records of all nodes.
type store interface {
	// Load reads a record, whoever holds its address: errNoRecord where it is unknown.
	Load(ctx context.Context, a address) (record, error)

	// Claim holds the address for one attempt alone, waiting for it until the context ends: errBusy where too many wait.
	Claim(ctx context.Context, a address) (claim, error)

	// ClaimPending claims the next pending record that nobody has claimed and whose last write is outside the span.
	// Called again it goes on after that one, and begins anew after it said errNoRecord: there is no more.
	ClaimPending(ctx context.Context, not span) (claim, record, error)

	Close() error
}

// claim is an address in hand. What Save and Drop did is on disk when they return.
type claim interface {
	Save(record) error
	Drop() error
	Release() // once, whatever happened
}

// A listing is a store's List.
type listing func(ctx context.Context, of state, after string) (page []record, last string, err error)

// operatedStore is the store, as far as its operator looks into it.
type operatedStore interface {
	// List returns the next records of the state, or of every state for "", in the order of their addresses and
	// behind the one that an earlier call gave as last. A page is read at once and holds up nobody after that; an
	// empty one says that there is no more.
	List(ctx context.Context, of state, after string) (page []record, last string, err error)

	// Backup writes a copy of the whole store as it is at one moment. Where the writer is slow, whoever writes to
	// the store may have to wait for it.
	Backup(ctx context.Context, w io.Writer) error

	// CheckWritable writes to the store, as a registration does, and changes nothing.
	CheckWritable() error

	counts() (storeCounts, error)
	size() (int64, error) // in bytes
}

// A servedStore is what a store is to the daemon.
type servedStore interface {
	store
	operatedStore
}

// openStore opens the store of the homeserver's nodes to which the path leads: a directory, or a PostgreSQL URL.
func openStore(ctx context.Context, dataPath, serverName string) (servedStore, error) {
	if names.IsPostgres(dataPath) {
		return openPostgresStore(ctx, dataPath, serverName)
	}
	return openBoltStore(dataPath)
}

// readStore opens that store to read it and never writes to it: errNoStore where there is none, errStoreLocked where a
// daemon has it to itself.
func readStore(ctx context.Context, dataPath string) (servedStore, error) {
	if names.IsPostgres(dataPath) {
		return readPostgresStore(ctx, dataPath)
	}
	return readBoltStore(filepath.Join(dataPath, storeFile))
}

// checkDataPath refuses what is neither a directory nor a URL that is known. It may hold a password, and is not quoted.
func checkDataPath(dataPath string) error {
	const what = "give a directory, or a URL such as postgres://USER@HOST/DATABASE"
	switch scheme, _, isURL := strings.Cut(dataPath, "://"); {
	case dataPath == "":
		return fmt.Errorf("--%s is empty: give the directory of the store, such as .matrix", flagDataPath)
	case names.IsPostgres(dataPath):
		_, err := postgresConfig(dataPath, false)
		return err
	case isURL && !strings.Contains(scheme, "/"):
		return fmt.Errorf("--%s is a URL that is not PostgreSQL's: give a directory, or one that begins with postgres://", flagDataPath)
	case names.IsNearlyPostgres(dataPath):
		return fmt.Errorf("--%s looks like a way to PostgreSQL and is no URL of it: %s, with a password's special characters percent-encoded; if a directory is meant, begin its name with ./", flagDataPath, what)
	case dataPath[0] == '~':
		return fmt.Errorf("--%s begins with ~, which no shell has replaced: give the whole path, or ./%s if that is meant", flagDataPath, "~…")
	}
	return nil
}

// eachRecord visits every record of the state that a store's List gives, a page at a time.
func eachRecord(ctx context.Context, list listing, of state, visit func(record) error) error {
	for after := ""; ctx.Err() == nil; {
		page, last, err := list(ctx, of, after)
		if err != nil || len(page) == 0 {
			return err
		}
		for _, r := range page {
			if err := visit(r); err != nil {
				return err
			}
		}
		after = last
	}
	return ctx.Err()
}

var (
	errNoRecord    = errors.New("no record")
	errNoStore     = errors.New("there is no store yet")
	errStoreLocked = errors.New("the store is in use by another matrix-regservice: stop that one, or give this one a --datapath of its own")
)
