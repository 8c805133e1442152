// cmd_refused.go owns the list of the last refusals, from the memory of the daemon that is asked.

package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/urfave/cli/v3"
)

func refusedCommand() *cli.Command {
	return &cli.Command{
		Name:      "refused",
		Usage:     "list the last registrations that the daemon refused, and why",
		UsageText: programName + " [--datapath DIRECTORY|URL] refused",
		Description: "Equal refusals are one line with a count. The daemon keeps them in memory since its start: up to 1000 with a proof\n" +
			"and 1000 without. Each gateway has its own. A refusal without a proof names nobody.",
		Flags:  []cli.Flag{&cli.StringFlag{Name: flagFormat, Value: "table", Usage: "table, json (an object a line) or csv"}},
		Action: refusedAction,
	}
}

func refusedAction(ctx context.Context, cmd *cli.Command) error {
	c, err := config.ReadStore(cmd)
	if err != nil {
		return err
	}
	printWarnings(c, cmd.Root().ErrWriter)
	format := cmd.String(flagFormat)
	if err := checkFormat(format); err != nil {
		return err
	}
	res, err := askGateway(ctx, http.MethodGet, c.DataPath, refusedPath, nil)
	if errors.Is(err, errNoDaemon) {
		return fmt.Errorf("no daemon answers at %s, and it alone remembers whom it refused: is --%s the one of the daemon?", config.SocketDirs(c.DataPath)[0], config.FlagDataPath)
	}
	if err != nil {
		return err
	}
	defer res.Body.Close()
	var all []attempt
	if err := json.NewDecoder(res.Body).Decode(&all); err != nil {
		return fmt.Errorf("the list broke off, see the daemon's log: %w", err)
	}
	return printing(cmd, func(out *bufio.Writer) error { return printRefused(out, format, all) })
}

func printRefused(out *bufio.Writer, format string, all []attempt) error {
	switch format {
	case "json":
		for _, a := range all {
			if err := json.NewEncoder(out).Encode(a); err != nil {
				return err
			}
		}
		return nil
	case "csv":
		rows := csv.NewWriter(out)
		rows.Write([]string{"last", "first", "count", "client", "errcode", "user_id", "reason"})
		for _, a := range all {
			rows.Write([]string{inSeconds(a.Last), inSeconds(a.First), strconv.Itoa(a.Count), a.Client.String(), a.Errcode, a.UserID, a.Reason})
		}
		rows.Flush()
		return rows.Error()
	}
	if len(all) > 0 {
		fmt.Fprintf(out, "%-20s  %6s  %-15s  %-20s  %s\n", "LAST", "TIMES", "CLIENT", "ERRCODE", "USER ID, REASON")
	}
	for _, a := range all {
		fmt.Fprintf(out, "%-20s  %6d  %-15s  %-20s  %s: %s\n", inSeconds(a.Last), a.Count, a.Client, a.Errcode, cmp.Or(a.UserID, "without a proof"), a.Reason)
	}
	return nil
}
