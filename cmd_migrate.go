// cmd_migrate.go owns the way from BoltDB to PostgreSQL: it copies the records in the order of their addresses, and can be run
// again until all are copied. Then it compares them one by one, both ways. Without a store to copy it only makes the schema,
// which the daemon's role may not be allowed to.

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/urfave/cli/v3"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/files"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
)

const (
	flagFrom   = "from"
	flagTo     = "to"
	flagToFile = "to-file"

	progressPeriod = 5 * time.Second // between lines that say how far it is
)

func migrateCommand() *cli.Command {
	return &cli.Command{
		Name:      "migrate",
		Usage:     "copy the store from BoltDB to PostgreSQL, while no daemon runs",
		UsageText: programName + " migrate [--from DIRECTORY] --to-file FILE",
		Description: "The BoltDB store does not change. After an interruption run it again, and it goes on. At the end it compares every\n" +
			"record on both sides. Without --from it only creates the schema, or upgrades it.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: flagFrom, Usage: "`DIRECTORY` of the BoltDB store"},
			&cli.StringFlag{Name: flagTo, Usage: "PostgreSQL `URL`"},
			&cli.StringFlag{Name: flagToFile, Usage: "`FILE` that holds that URL, password and all"},
		},
		Action: migrateAction,
	}
}

func migrateAction(ctx context.Context, cmd *cli.Command) error {
	from, to, file := cmd.String(flagFrom), cmd.String(flagTo), cmd.String(flagToFile)
	if to != "" && file != "" {
		return fmt.Errorf("--%s and --%s are both given: keep the file", flagTo, flagToFile)
	}
	if file != "" {
		var err error
		if to, err = files.ReadSecret(file, "the URL of the store"); err != nil {
			return err
		}
	}
	if file == "" && names.HasPassword(to) {
		printWarnings(config.Config{SecretArgs: map[string]string{flagTo: flagToFile}}, cmd.Root().ErrWriter)
	}
	if !names.IsPostgres(to) {
		return fmt.Errorf("there is nowhere to migrate to: give --%s FILE with a PostgreSQL URL in FILE, such as postgres://USER@HOST/DATABASE", flagToFile)
	}
	out := cmd.Root().Writer
	if from == "" {
		s, err := openPostgresStore(ctx, to, "")
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "the schema is up to date at %s\n", storeName(to))
		return s.Close()
	}
	return migrateStore(ctx, from, to, out)
}

// migrateStore copies the store in the directory. While it is open for reading here, no daemon can open it.
func migrateStore(ctx context.Context, dir, url string, out io.Writer) error {
	path := filepath.Join(dir, storeFile)
	from, err := readBoltStore(path)
	if errors.Is(err, errStoreLocked) {
		return fmt.Errorf("a daemon serves the store in %s: stop it first", dir)
	}
	if err != nil {
		return err
	}
	defer from.Close()
	counts, err := from.counts()
	if err != nil {
		return err
	}
	first, _, err := from.List(ctx, "", "")
	if err != nil {
		return err
	}
	serverName, err := from.serverName()
	if err != nil {
		return err
	}
	if serverName == "" && len(first) > 0 { // as before format 3
		_, serverName, _ = strings.Cut(first[0].UserID, ":")
	}
	to, err := openPostgresStore(ctx, url, serverName)
	if err != nil {
		return err
	}
	defer to.Close()

	total := counts[stateRegistered] + counts[statePending]
	fmt.Fprintf(out, "copying %s to %s: %s\n", path, storeName(url), inWords(counts))
	copied, bans, err := copyRecords(ctx, from, to, newProgress(out, "copied", total))
	if err != nil {
		return fmt.Errorf("it was interrupted, run it again to go on: %w", err)
	}
	found, err := compareStores(ctx, from, to, newProgress(out, "compared", total))
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "copied %d, and %d were there already\n", copied, total-copied)
	if all := counts[stateBanned]; all > 0 {
		fmt.Fprintf(out, "copied %d bans, and %d were there already\n", bans, all-bans)
	}
	if found.newer+found.more > 0 {
		fmt.Fprintf(out, "in PostgreSQL %d have changed since and %d are new: a daemon has used it\n", found.newer, found.more)
	}
	if found.wrong > 0 {
		return fmt.Errorf("%d records are not in PostgreSQL as they are in %s, the first is %s: see what else wrote to either", found.wrong, path, found.firstWrong)
	}
	fmt.Fprintf(out, "every record of %s is in PostgreSQL, compared one by one\n", path)
	return nil
}

// copyRecords adds the missing records and bans a page at a time, and returns how many they were. It does not change those that
// are there already: they may be newer.
func copyRecords(ctx context.Context, from *boltStore, to *postgresStore, p *progress) (copied, bans int, err error) {
	for after := ""; ; {
		page, last, err := from.List(ctx, "", after)
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || len(page) == 0 {
			return copied, bans, err
		}
		added, banned, err := to.add(ctx, page)
		if err != nil {
			return copied, bans, err
		}
		copied, bans, after = copied+added, bans+banned, last
		p.add(len(page))
	}
}

// A comparison is how two stores differ.
type comparison struct {
	wrong      int // records that are missing in the second, or differ and are not newer
	firstWrong string
	newer      int // records that were written in the second since
	more       int // records that only the second has
}

// compareStores walks both stores in the order of their addresses.
func compareStores(ctx context.Context, from, to store, p *progress) (found comparison, err error) {
	olds, news := &storeWalk{ctx: ctx, store: from}, &storeWalk{ctx: ctx, store: to}
	olds.next()
	news.next()
	for {
		if err := errors.Join(olds.err, news.err); err != nil || olds.done && news.done {
			return found, err
		}
		if olds.done || !news.done && bytes.Compare(news.key(), olds.key()) < 0 {
			found.more++
			news.next()
			continue
		}
		if was := olds.record(); news.done || !bytes.Equal(olds.key(), news.key()) {
			found.differs(was)
		} else {
			if is := news.record(); is.Updated.After(was.Updated) {
				found.newer++
			} else if !isSameRecord(was, is) {
				found.differs(was)
			}
			news.next()
		}
		p.add(1)
		olds.next()
	}
}

func (c *comparison) differs(r record) {
	if c.wrong == 0 {
		c.firstWrong = r.Localpart
	}
	c.wrong++
}

// isSameRecord compares times as PostgreSQL keeps them, to the microsecond.
func isSameRecord(a, b record) bool {
	for _, t := range []*time.Time{&a.Created, &a.Updated, &a.Banned, &b.Created, &b.Updated, &b.Banned} {
		*t = t.UTC().Truncate(time.Microsecond)
	}
	return a == b
}

// A storeWalk goes through a store's records one by one.
type storeWalk struct {
	ctx   context.Context
	store store
	page  []record
	last  string
	done  bool
	err   error
}

// next goes to the next record. After the last one, done is true.
func (w *storeWalk) next() {
	if len(w.page) > 1 {
		w.page = w.page[1:]
		return
	}
	if w.err = w.ctx.Err(); w.err == nil {
		w.page, w.last, w.err = w.store.List(w.ctx, "", w.last)
	}
	w.done = len(w.page) == 0
}

func (w *storeWalk) record() record { return w.page[0] }

func (w *storeWalk) key() []byte {
	return common.HexToAddress(w.page[0].Localpart).Bytes()
}

// A progress prints every few seconds how many records are done.
type progress struct {
	out      io.Writer
	did      string
	total    int
	period   time.Duration
	done     int
	started  time.Time
	lastLine time.Time
}

func newProgress(out io.Writer, did string, total int) *progress {
	now := time.Now()
	return &progress{out: out, did: did, total: total, period: progressPeriod, started: now, lastLine: now}
}

func (p *progress) add(count int) {
	p.done += count
	if time.Since(p.lastLine) < p.period {
		return
	}
	p.lastLine = time.Now()
	rate := float64(p.done) / max(time.Since(p.started).Seconds(), .001)
	left := time.Duration(float64(max(p.total-p.done, 0)) / max(rate, 1) * float64(time.Second)).Round(time.Second)
	fmt.Fprintf(p.out, "%s %d of %d, %.0f a second, %v left\n", p.did, p.done, p.total, rate, left)
}
