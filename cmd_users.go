// cmd_users.go owns the list of the nodes: from the daemon if one runs, else from the store.

package main

import (
	"bufio"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
	"github.com/urfave/cli/v3"
)

const (
	flagState  = "state"
	flagFormat = "format"
)

func usersCommand() *cli.Command {
	return &cli.Command{
		Name:      "users",
		Usage:     "list the nodes that the store knows",
		UsageText: programName + " [--datapath DIRECTORY|URL] users",
		Description: "Asks the daemon that serves the store, or reads the store where none runs, and always in PostgreSQL. A node is\n" +
			"registered when its account is there, and pending while an attempt was begun whose end is not known.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: flagState, Usage: "only nodes in this `STATE`: registered or pending"},
			&cli.StringFlag{Name: flagFormat, Value: "table", Usage: "table, json (an object a line) or csv"},
		},
		Action: usersAction,
	}
}

func usersAction(ctx context.Context, cmd *cli.Command) error {
	c, err := config.ReadStore(cmd)
	if err != nil {
		return err
	}
	printWarnings(c, cmd.Root().ErrWriter)
	of := state(cmd.String(flagState))
	if of != "" && of != statePending && of != stateRegistered {
		return fmt.Errorf("--%s %q is not a state: give registered or pending", flagState, of)
	}
	out := bufio.NewWriter(cmd.Root().Writer)
	print, err := userPrinter(cmd.String(flagFormat), out)
	if err != nil {
		return err
	}
	if err := eachUser(ctx, c.DataPath, of, print); err != nil {
		return errors.Join(out.Flush(), err)
	}
	return out.Flush()
}

// eachUser visits the users of the store.
func eachUser(ctx context.Context, dataPath string, of state, visit func(listedUser) error) error {
	res, err := askDaemon(ctx, dataPath, usersPath, url.Values{"state": {string(of)}})
	if errors.Is(err, errNoDaemon) {
		return eachUserInStore(ctx, dataPath, of, visit)
	}
	if err != nil {
		return err
	}
	defer res.Body.Close()
	lines := json.NewDecoder(res.Body)
	for {
		var user listedUser
		switch err := lines.Decode(&user); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("the list broke off, see the daemon's log: %w", err)
		}
		if err := visit(user); err != nil {
			return err
		}
	}
}

// eachUserInStore opens the file anew for each page: a person may read the list slowly, and a daemon that is started meanwhile
// has to find the store free.
func eachUserInStore(ctx context.Context, dataPath string, of state, visit func(listedUser) error) error {
	if names.IsPostgres(dataPath) { // others can use it meanwhile
		s, err := readStore(ctx, dataPath)
		if err != nil {
			return withoutSocket(err)
		}
		defer s.Close()
		return eachRecord(ctx, s.List, of, func(r record) error { return visit(listed(r)) })
	}
	begun := false
	list := func(ctx context.Context, of state, after string) ([]record, string, error) {
		s, err := readStore(ctx, dataPath)
		if begun && errors.Is(err, errStoreLocked) {
			return nil, "", errors.New("the list broke off, since a daemon was started: ask again, and it answers")
		}
		if err != nil {
			return nil, "", withoutSocket(err)
		}
		defer s.Close()
		begun = true
		return s.List(ctx, of, after)
	}
	return eachRecord(ctx, list, of, func(r record) error { return visit(listed(r)) })
}

// accountsFor returns the homeserver's accounts for a command that runs without a daemon, or why they cannot be asked.
func accountsFor(cmd *cli.Command) (homeserver.Accounts, error) {
	c, err := config.ReadServing(cmd)
	if err != nil {
		return nil, fmt.Errorf("the homeserver was not asked, since no daemon answers and this command lacks a setting of its: %w", err)
	}
	return newAccounts(c, newHomeserverClient(c, nil))
}

// inSeconds is a time for people.
func inSeconds(t time.Time) string { return t.UTC().Format(time.RFC3339) }

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

// userPrinter prints each user at once: it keeps none back to measure the width of a column.
func userPrinter(format string, out io.Writer) (func(listedUser) error, error) {
	switch format {
	case "json":
		return func(u listedUser) error { return json.NewEncoder(out).Encode(u) }, nil
	case "csv":
		rows := csv.NewWriter(out)
		write := func(fields ...string) error {
			rows.Write(fields)
			rows.Flush()
			return rows.Error()
		}
		return func(u listedUser) error {
			return write(u.Localpart, u.UserID, string(u.State), u.Created.Format(time.RFC3339Nano), u.Updated.Format(time.RFC3339Nano))
		}, write("localpart", "user_id", "state", "created", "updated")
	case "table":
		width := 0 // of the user IDs, which on one homeserver are all of one length
		return func(u listedUser) error {
			if width == 0 {
				width = len(u.UserID)
				fmt.Fprintf(out, "%-*s  %-10s  %-20s  %s\n", width, "USER ID", "STATE", "CREATED", "UPDATED")
			}
			_, err := fmt.Fprintf(out, "%-*s  %-10s  %-20s  %s\n", width, u.UserID, u.State, u.Created.Format(time.RFC3339), u.Updated.Format(time.RFC3339))
			return err
		}, nil
	}
	return nil, fmt.Errorf("--%s %q is not a format: give %s", flagFormat, format, strings.Join([]string{"table", "json", "csv"}, ", "))
}
