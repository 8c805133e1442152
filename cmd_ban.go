// cmd_ban.go owns the commands ban and unban: by the daemon if one runs, else in the store itself.

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/ethereum/go-ethereum/common"
	"github.com/urfave/cli/v3"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
)

func banCommand() *cli.Command {
	return &cli.Command{
		Name:      "ban",
		Usage:     "ban an address, and disable its account at the homeserver",
		UsageText: programName + " [--datapath DIRECTORY|URL] ban ADDRESS",
		Description: "The address need not be registered. The ban is recorded first. Then the account is disabled at the homeserver, or the command\n" +
			"prints what an administrator has to do there. It exits with 1 while something is left to do, and is safe to repeat.",
		Before: oneAddress,
		Action: func(ctx context.Context, cmd *cli.Command) error { return setBan(ctx, cmd, banPath) },
	}
}

func unbanCommand() *cli.Command {
	return &cli.Command{
		Name:      "unban",
		Usage:     "end a ban",
		UsageText: programName + " [--datapath DIRECTORY|URL] unban ADDRESS",
		Description: "The record of the address does not change. Matrix Authentication Service unlocks the account; elsewhere the command\n" +
			"prints what an administrator has to do. It exits with 1 if the homeserver failed, and is safe to repeat.",
		Before: oneAddress,
		Action: func(ctx context.Context, cmd *cli.Command) error { return setBan(ctx, cmd, unbanPath) },
	}
}

// oneAddress checks the arguments of a command that takes one address.
func oneAddress(ctx context.Context, cmd *cli.Command) (context.Context, error) {
	if cmd.Args().Len() != 1 {
		return ctx, fmt.Errorf("%s takes one address: see %s %s --help", cmd.Name, programName, cmd.Name)
	}
	_, _, err := parseNode(cmd.Args().First())
	return ctx, err
}

// parseNode reads an Ethereum address in any spelling, or the user ID of a node, whose server name it returns. It does not quote
// what it cannot read, which may be the stray value of a flag.
func parseNode(text string) (a common.Address, serverName string, err error) {
	localpart, isUser := strings.CutPrefix(text, "@")
	if isUser {
		localpart, serverName, isUser = strings.Cut(localpart, ":")
	}
	if len(localpart) == names.AddressDigits {
		localpart = "0x" + localpart
	}
	if digits, ok := strings.CutPrefix(localpart, "0X"); ok {
		localpart = "0x" + digits
	}
	if !names.IsAddress(localpart) || strings.HasPrefix(text, "@") && (!isUser || serverName == "") {
		return common.Address{}, "", fmt.Errorf("that is not an address: give 0x and %d hex digits, in one case or with a valid EIP-55 checksum, or a user ID", names.AddressDigits)
	}
	return common.HexToAddress(localpart), serverName, nil
}

// nodeOf reads the node of the command line, and makes the query that asks a daemon for it.
func nodeOf(cmd *cli.Command) (a common.Address, serverName string, query url.Values, err error) {
	a, serverName, err = parseNode(cmd.Args().First())
	query = url.Values{nodeParameter: {a.Hex()}}
	if serverName != "" {
		query.Set(serverNameParameter, serverName)
	}
	return a, serverName, query, err
}

// checkNode refuses a user ID of another homeserver.
func checkNode(given, serverName string) error {
	if given != "" && given != serverName {
		return fmt.Errorf("that user ID is of another homeserver: this service is for %s", serverName)
	}
	return nil
}

// setBan bans the address of the command line, or ends its ban, and prints what came of it.
func setBan(ctx context.Context, cmd *cli.Command, path string) error {
	c, err := config.ReadStore(cmd)
	if err != nil {
		return err
	}
	printWarnings(c, cmd.Root().ErrWriter)
	a, given, query, err := nodeOf(cmd)
	if err != nil {
		return err
	}
	result, err := banByDaemon(ctx, c.DataPath, path, query)
	if errors.Is(err, errNoDaemon) {
		result, err = banInStore(ctx, cmd, c.DataPath, path, a, given)
	}
	if err != nil {
		return err
	}
	return printBan(cmd.Root().Writer, path == banPath, result)
}

func banByDaemon(ctx context.Context, dataPath, path string, query url.Values) (result banResult, err error) {
	res, err := askGateway(ctx, http.MethodPost, dataPath, path, query)
	if err != nil {
		return banResult{}, err
	}
	defer res.Body.Close()
	if err := json.NewDecoder(res.Body).Decode(&result); err != nil {
		return banResult{}, fmt.Errorf("the daemon's answer broke off: type the command again, which is safe: %w", err)
	}
	return result, nil
}

// banInStore does it in this process. A missing setting of the homeserver keeps no ban from being written.
func banInStore(ctx context.Context, cmd *cli.Command, dataPath, path string, a common.Address, given string) (result banResult, err error) {
	there, err := readStore(ctx, dataPath) // opening it to write would make one
	if err != nil {
		return banResult{}, withoutSocket(err)
	}
	there.Close()
	named := config.ReadValues(cmd).Text(config.FlagMatrixDomain)
	s, err := openStore(ctx, dataPath, named)
	if err != nil {
		return banResult{}, withoutSocket(err)
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	n, err := newNodeAdmin(cmd, s, given, ", since no daemon has started with it: give --"+config.FlagMatrixDomain+" NAME")
	if err != nil {
		return banResult{}, err
	}
	if path == banPath {
		return n.ban(ctx, a)
	}
	return n.unban(ctx, a)
}

// newNodeAdmin returns the nodeAdmin of a store that no daemon serves. Given is the server name of the user ID on the command line,
// "" for an address. NoName ends the error for a store without a server name.
func newNodeAdmin(cmd *cli.Command, s store, given, noName string) (*nodeAdmin, error) {
	n := &nodeAdmin{store: s}
	var err error
	if n.serverName, err = s.serverName(); err != nil {
		return nil, err
	}
	if n.serverName == "" {
		return nil, errors.New("the store does not say whose nodes it has" + noName)
	}
	if err := checkNode(given, n.serverName); err != nil {
		return nil, err
	}
	n.accounts, n.unasked = accountsFor(cmd)
	return n, nil
}

// printBan prints what came of a ban or of its end, and returns an error while a banned node may still get in.
func printBan(out io.Writer, banned bool, r banResult) error {
	switch {
	case banned && r.Before:
		fmt.Fprintf(out, "%s is banned since %s\n", r.UserID, inSeconds(r.Since))
	case banned:
		fmt.Fprintf(out, "%s is banned\n", r.UserID)
	case r.Before:
		fmt.Fprintf(out, "%s is no longer banned\n", r.UserID)
	default:
		fmt.Fprintf(out, "%s was not banned\n", r.UserID)
	}
	switch {
	case r.NoAccount && banned && r.State == statePending:
		fmt.Fprintln(out, "the homeserver has no account of this name, but the outcome of an attempt is unknown: repeat the command in a minute")
	case r.NoAccount:
		fmt.Fprintln(out, "the homeserver has no account of this name")
	case r.Left != "":
		fmt.Fprintf(out, "left to do at the homeserver: %s\n", r.Left)
	case r.Failed == "" && banned:
		fmt.Fprintln(out, "the account is disabled at the homeserver")
	case r.Failed == "":
		fmt.Fprintln(out, "the account is enabled again at the homeserver")
	}
	switch {
	case r.Failed != "" && banned:
		return fmt.Errorf("the ban stands, but the account at the homeserver is unchanged: %s: then repeat the command, or see docs/banning.md", r.Failed)
	case r.Failed != "":
		return fmt.Errorf("the ban has ended, but the account at the homeserver is unchanged: %s: then repeat the command, or see docs/banning.md", r.Failed)
	case r.Left != "" && banned:
		return errors.New("the ban stands, and an administrator of the homeserver has to do the rest")
	}
	return nil
}
