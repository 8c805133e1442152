// cmd_users.go owns the list of the nodes: from the daemon if one runs, else from the store.

package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/redact"
	"github.com/ethereum/go-ethereum/common"
	"github.com/urfave/cli/v3"
)

const (
	flagState  = "state"
	flagFormat = "format"
	flagSince  = "since"
	flagNewest = "newest"
	flagCount  = "count"
	flagLimit  = "limit"
	flagAfter  = "after"

	newestLimit  = 100    // of a listing by creation, unless another is given
	newestAtMost = 10_000 // they are sorted in memory, which may be the daemon's

	listBuffer = 64 << 10 // of bytes, where a listing is written and read; it holds many lines
)

// formats are those of --format.
var formats = []string{"table", "json", "csv"}

func usersCommand() *cli.Command {
	return &cli.Command{
		Name:      "users",
		Usage:     "list the nodes in the store, or show all that is known about one",
		UsageText: programName + " [--datapath DIRECTORY|URL] users [ADDRESS]",
		Description: "It asks the daemon, or reads the store if no daemon runs; a list from PostgreSQL is always read there. A node is\n" +
			"registered when it has its account, and pending while the outcome of an attempt is unknown. For one node it\n" +
			"shows the record, what the homeserver says about its account now, its last attempts, and what that means.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: flagState, Usage: "only nodes in this `STATE`: registered, pending or banned"},
			&cli.StringFlag{Name: flagSince, Usage: "only nodes whose first attempt began since this `TIME`: 2026-11-27, 2026-11-27T15:00:00Z, or 24h ago as 24h"},
			&cli.BoolFlag{Name: flagNewest, Usage: "the newest first, and 100 of them if no limit is given"},
			&cli.BoolFlag{Name: flagCount, Usage: "only print how many they are"},
			&cli.IntFlag{Name: flagLimit, Usage: "at most this `NUMBER`; if there are more, stderr says how to go on"},
			&cli.StringFlag{Name: flagAfter, Usage: "go on after the node with this `ADDRESS`, in the same order"},
			&cli.StringFlag{Name: flagFormat, Value: "table", Usage: "table, json (an object a line) or csv"},
		},
		Before: atMostOneAddress,
		Action: usersAction,
	}
}

// atMostOneAddress checks the arguments of users.
func atMostOneAddress(ctx context.Context, cmd *cli.Command) (context.Context, error) {
	if cmd.Args().Len() == 0 {
		return ctx, nil
	}
	return oneAddress(ctx, cmd)
}

func usersAction(ctx context.Context, cmd *cli.Command) error {
	c, err := config.ReadStore(cmd)
	if err != nil {
		return err
	}
	printWarnings(c, cmd.Root().ErrWriter)
	if cmd.Args().Len() == 1 {
		for _, flag := range []string{flagState, flagSince, flagNewest, flagCount, flagLimit, flagAfter} {
			if cmd.IsSet(flag) {
				return fmt.Errorf("--%s is for a list: leave it out, or the address", flag)
			}
		}
		return showNode(ctx, cmd, c)
	}
	asked := selection{of: state(cmd.String(flagState)), newest: cmd.Bool(flagNewest), limit: cmd.Int(flagLimit), count: cmd.Bool(flagCount)}
	if asked.since, err = parseSince(cmd.String(flagSince), time.Now()); err != nil {
		return err
	}
	if after := cmd.String(flagAfter); after != "" {
		a, _, err := parseNode(after)
		if err != nil {
			return fmt.Errorf("--%s: %w", flagAfter, err)
		}
		asked.after = a.Bytes()
	}
	if cmd.IsSet(flagLimit) && asked.limit < 1 {
		return fmt.Errorf("--%s must be 1 or more", flagLimit)
	}
	if err := asked.check(newestAtMost); err != nil {
		return err
	}
	return printing(cmd, func(out *bufio.Writer) error {
		print, err := userPrinter(cmd.String(flagFormat), out)
		if err != nil {
			return err
		}
		return asked.print(ctx, cmd, c.DataPath, out, print)
	})
}

// print prints what was asked for, and how to go on.
func (q selection) print(ctx context.Context, cmd *cli.Command, dataPath string, out *bufio.Writer, print func(listedUser) error) error {
	limit, shown, last := q.limit, 0, ""
	if q.newest && limit == 0 {
		limit = newestLimit
	}
	if q.limit = limit; limit > 0 {
		q.limit++ // one more tells whether there are more
	}
	if q.count {
		q.limit = limit
		print = func(listedUser) error { return nil }
	}
	err := q.fromWhereItIs(ctx, dataPath, func(u listedUser) error {
		if shown++; limit > 0 && shown > limit {
			return nil
		}
		last = u.Localpart
		return print(u)
	})
	if q.count && err == nil {
		fmt.Fprintln(out, shown)
	}
	if err == nil && !q.count && limit > 0 && shown > limit {
		err = out.Flush()
		fmt.Fprintf(cmd.Root().ErrWriter, "%s: there are more: go on with --%s %s\n", programName, flagAfter, last)
	}
	return err
}

// printing lets the function print, and takes it for no error if the reader goes away, as head does.
func printing(cmd *cli.Command, print func(*bufio.Writer) error) error {
	signal.Ignore(syscall.SIGPIPE) // the runtime would end the program
	defer signal.Reset(syscall.SIGPIPE)
	out := bufio.NewWriterSize(cmd.Root().Writer, listBuffer)
	err := print(out)
	if flushed := out.Flush(); err == nil || errors.Is(flushed, syscall.EPIPE) {
		err = flushed
	}
	if errors.Is(err, syscall.EPIPE) {
		return nil
	}
	return err
}

// fromWhereItIs visits what is asked for: from the daemon if one runs, else from the store.
func (q selection) fromWhereItIs(ctx context.Context, dataPath string, visit func(listedUser) error) error {
	res, err := askDaemon(ctx, dataPath, usersPath, q.query())
	if errors.Is(err, errNoDaemon) {
		s := &reopenedStore{dataPath: dataPath}
		defer s.Close()
		return q.each(ctx, s, visit)
	}
	if err != nil {
		return err
	}
	defer res.Body.Close()
	lines := bufio.NewReaderSize(res.Body, listBuffer)
	for {
		line, err := lines.ReadSlice('\n')
		if errors.Is(err, io.EOF) && len(line) == 0 {
			return nil
		}
		var user listedUser
		if err == nil {
			user, err = decodeListed(line[:len(line)-1])
		}
		if err != nil {
			return fmt.Errorf("the list broke off, see the daemon's log: %w", err)
		}
		if err := visit(user); err != nil {
			return err
		}
	}
}

// A reopenedStore is a store without a daemon. It opens the file of BoltDB anew for each page: a person may read the list slowly,
// and a daemon that is started meanwhile has to find the store free.
type reopenedStore struct {
	dataPath string
	kept     store // in PostgreSQL, which others can use meanwhile
	begun    bool
}

// use calls the function with the open store.
func (s *reopenedStore) use(ctx context.Context, do func(store) error) error {
	if s.kept != nil {
		return do(s.kept)
	}
	opened, err := readStore(ctx, s.dataPath)
	if s.begun && errors.Is(err, errStoreLocked) {
		return errors.New("the list broke off, since a daemon was started: ask again, and it answers")
	}
	if err != nil {
		return withoutSocket(err)
	}
	s.begun = true
	if names.IsPostgres(s.dataPath) {
		s.kept = opened
		return do(opened)
	}
	defer opened.Close()
	return do(opened)
}

// Close closes a store that was kept open.
func (s *reopenedStore) Close() {
	if s.kept != nil {
		s.kept.Close()
	}
}

func (s *reopenedStore) Load(ctx context.Context, a common.Address) (r record, err error) {
	err = s.use(ctx, func(opened store) error {
		r, err = opened.Load(ctx, a)
		return err
	})
	return r, err
}

func (s *reopenedStore) List(ctx context.Context, of state, after string) (page []record, last string, err error) {
	err = s.use(ctx, func(opened store) error {
		page, last, err = opened.List(ctx, of, after)
		return err
	})
	return page, last, err
}

// A selection is which records are listed, and in which order: of their addresses, or of when they began.
type selection struct {
	of     state
	since  time.Time
	newest bool
	count  bool
	limit  int    // 0 for none
	after  []byte // the address that the list goes on after; nil for the beginning
}

// query is the selection for the daemon.
func (q selection) query() url.Values {
	query := url.Values{"state": {string(q.of)}}
	if !q.since.IsZero() {
		query.Set("since", q.since.Format(time.RFC3339Nano))
	}
	if q.newest {
		query.Set("newest", "true")
	}
	if q.limit > 0 {
		query.Set("limit", strconv.Itoa(q.limit))
	}
	if q.after != nil {
		query.Set("after", common.BytesToAddress(q.after).Hex())
	}
	return query
}

// selectionOf reads a query.
func selectionOf(query url.Values) (q selection, err error) {
	q = selection{of: state(query.Get("state")), newest: query.Get("newest") != ""}
	if since := query.Get("since"); since != "" {
		if q.since, err = time.Parse(time.RFC3339Nano, since); err != nil {
			return q, errors.New("since is not a time")
		}
	}
	if limit := query.Get("limit"); limit != "" {
		if q.limit, err = strconv.Atoi(limit); err != nil || q.limit < 1 {
			return q, errors.New("limit is not a number")
		}
	}
	if after := query.Get("after"); after != "" {
		a, _, err := parseNode(after)
		if err != nil {
			return q, err
		}
		q.after = a.Bytes()
	}
	return q, q.check(newestAtMost + 1) // with the one that tells whether there are more
}

// check refuses what cannot be listed.
func (q selection) check(atMost int) error {
	switch {
	case q.of != "" && q.of != statePending && q.of != stateRegistered && q.of != stateBanned:
		return fmt.Errorf("--%s %q is not a state: give registered, pending or banned", flagState, redact.Mask(string(q.of)))
	case q.newest && q.limit > atMost:
		return fmt.Errorf("--%s with --%s is at most %d: go on with --%s", flagLimit, flagNewest, newestAtMost, flagAfter)
	}
	return nil
}

// A listing is the part of a store that a selection reads.
type listing interface {
	Load(ctx context.Context, a common.Address) (record, error)
	List(ctx context.Context, of state, after string) ([]record, string, error)
}

// errEnough ends a walk early.
var errEnough = errors.New("that is enough")

// each visits the records of the selection.
func (q selection) each(ctx context.Context, s listing, visit func(listedUser) error) error {
	if q.newest {
		return q.eachNewest(ctx, s, visit)
	}
	shown := 0
	err := eachRecordAfter(ctx, s.List, q.of, string(q.after), func(r record) error {
		if began(r).Before(q.since) {
			return nil
		}
		if err := visit(listed(r)); err != nil {
			return err
		}
		if shown++; shown == q.limit {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// eachNewest reads all records, and keeps no more than twice as many as are wanted.
func (q selection) eachNewest(ctx context.Context, s listing, visit func(listedUser) error) error {
	limit := q.limit
	if limit == 0 {
		limit = newestAtMost
	}
	newer := func(a, b record) int {
		return cmp.Or(began(b).Compare(began(a)), cmp.Compare(a.Localpart, b.Localpart))
	}
	var last *record
	if q.after != nil {
		r, err := s.Load(ctx, common.BytesToAddress(q.after))
		if errors.Is(err, errNoRecord) {
			return fmt.Errorf("there is no record of the node to go on after: begin anew without --%s", flagAfter)
		}
		if err != nil {
			return err
		}
		last = &r
	}
	var kept []record
	cut := func() {
		slices.SortFunc(kept, newer)
		kept = kept[:min(len(kept), limit)]
	}
	if err := eachRecord(ctx, s.List, q.of, func(r record) error {
		if began(r).Before(q.since) || last != nil && newer(r, *last) <= 0 {
			return nil
		}
		r.DisplayName = "" // which is not listed
		if kept = append(kept, r); len(kept) >= 2*limit {
			cut()
		}
		return nil
	}); err != nil {
		return err
	}
	cut()
	for _, r := range kept {
		if err := visit(listed(r)); err != nil {
			return err
		}
	}
	return nil
}

// began is when a record began; of an address that is only banned, when that was.
func began(r record) time.Time {
	if r.State == "" {
		return r.Banned
	}
	return r.Created
}

// parseSince reads a time, or how long ago it was.
func parseSince(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, form := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(form, text); err == nil {
			return t, nil
		}
	}
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	return time.Time{}, fmt.Errorf("--%s is not a time: give one such as 2026-11-27, 2026-11-27T15:00:00Z or 24h", flagSince)
}

// accountsFor returns the homeserver's accounts for a command that runs without a daemon, or why they cannot be asked.
func accountsFor(cmd *cli.Command) (homeserver.Accounts, error) {
	c, err := config.ReadServing(cmd)
	if err != nil {
		return nil, fmt.Errorf("the homeserver was not asked: no daemon answers, and this command lacks a setting that the daemon has: %w", err)
	}
	return newAccounts(c, newHomeserverClient(c, nil))
}

// inSeconds is a time for people, and - for none.
func inSeconds(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}

// inFull is a time for programs, and empty for none.
func inFull(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Format(time.RFC3339Nano)
}

// since is when the ban began, zero if there is none.
func (u listedUser) since() time.Time {
	if u.Banned == nil {
		return time.Time{}
	}
	return *u.Banned
}

// withoutSocket adds to the error what it means that a store is in use while no daemon answers.
func withoutSocket(err error) error {
	if errors.Is(err, errStoreLocked) {
		return fmt.Errorf("the store is in use by a process that does not answer at %s: if it is an older matrix-regservice, stop it first", socketFile)
	}
	if errors.Is(err, errNoStore) {
		return fmt.Errorf("%w: is --%s the one of the daemon?", err, config.FlagDataPath)
	}
	return err
}

// userPrinter prints each user at once: it keeps none back to measure the width of a column. What it prints is in out's buffer,
// which csv.NewWriter takes for its own.
func userPrinter(format string, out *bufio.Writer) (func(listedUser) error, error) {
	switch format {
	case "json":
		lines := json.NewEncoder(out)
		return func(u listedUser) error { return lines.Encode(u) }, nil
	case "csv":
		rows := csv.NewWriter(out)
		write := func(fields ...string) error { return rows.Write(fields) }
		return func(u listedUser) error {
			return write(u.Localpart, u.UserID, string(u.State), inFull(u.Created), inFull(u.Updated), inFull(u.since()))
		}, write("localpart", "user_id", "state", "created", "updated", "banned")
	case "table":
		width := 0 // of the user IDs, which on one homeserver are all of one length
		return func(u listedUser) error {
			if width == 0 {
				width = len(u.UserID)
				fmt.Fprintf(out, "%-*s  %-10s  %-20s  %s\n", width, "USER ID", "STATE", "CREATED", "UPDATED")
			}
			banned := ""
			if u.Banned != nil {
				banned = "  banned " + inSeconds(*u.Banned)
			}
			_, err := fmt.Fprintf(out, "%-*s  %-10s  %-20s  %-20s%s\n", width, u.UserID, u.State, inSeconds(u.Created), inSeconds(u.Updated), banned)
			return err
		}, nil
	}
	return nil, checkFormat(format)
}

// checkFormat refuses what is not a format of a list.
func checkFormat(format string) error {
	if !slices.Contains(formats, format) {
		return fmt.Errorf("--%s %q is not a format: give %s", flagFormat, format, strings.Join(formats, ", "))
	}
	return nil
}
