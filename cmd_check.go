// cmd_check.go owns the check command: its flags, what it asks of the program itself, how the report is printed, and the
// exit code.

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/check"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
	"github.com/urfave/cli/v3"
)

// errProblems ends a check that found problems. They are printed already.
var errProblems = errors.New("there are problems")

func checkCommand() *cli.Command {
	return &cli.Command{
		Name:      "check",
		Usage:     "say what keeps nodes out: look at the files here, and ask what runs",
		UsageText: programName + " [flags] check",
		Description: "Reads and asks, changes nothing, creates no user. Run it in the homeserver's directory: flags that are\n" +
			"not given are those of " + config.RunFile + ". Exits with 0 when there is no problem, and with 1 otherwise.",
		Flags: []cli.Flag{
			homeserverConfigFlag("those of the running Synapse, else " + config.HomeserverFile + " with conf.d, or " + check.DendriteFile),
			&cli.StringSliceFlag{Name: check.FlagMASConfig, Usage: "`FILE` of the settings of Matrix Authentication Service, likewise (default: " + check.MASFile + ", or " + check.MASOwnFile + " if it is one)"},
			&cli.StringFlag{Name: check.FlagPublicURL, Value: "http://127.0.0.1:8008", Usage: "`URL` where nodes reach homeserver and service"},
			&cli.BoolFlag{Name: flagJSON, Usage: "print one JSON object"},
		},
		Action: checkAction,
	}
}

// homeserverConfigFlag is check's and genconfig's.
func homeserverConfigFlag(otherwise string) cli.Flag {
	return &cli.StringSliceFlag{Name: check.FlagHomeserverConfig, Usage: "`FILE` of the homeserver's settings, or a directory of them; repeatable, later ones win (default: " + otherwise + ")"}
}

func checkAction(ctx context.Context, cmd *cli.Command) error {
	script, scriptErr := config.ReadScript(config.RunFile)
	given := config.ReadValues(cmd)
	if given.Err() != nil {
		return given.Err()
	}
	contradicted := given.FillIn(script)
	if given.Text(config.FlagMatrixDomain) == "" && errors.Is(scriptErr, os.ErrPermission) {
		return fmt.Errorf("--%s is missing: %s may have it; it is there and cannot be read: %s, or give check the flags of the service", config.FlagMatrixDomain, config.RunFile, check.RunAs(scriptErr))
	}
	if given.Text(config.FlagMatrixDomain) == "" {
		return fmt.Errorf("--%s is missing, and no %s here has it: run check in the homeserver's directory, or give it the flags of the service", config.FlagMatrixDomain, config.RunFile)
	}
	c, err := config.Read(given)
	if err != nil {
		return err
	}
	if err := config.RefuseAnyPort(c.Port, c.OpsListen); err != nil {
		return err
	}
	public, err := baseURL(check.FlagPublicURL, cmd.String(check.FlagPublicURL))
	if err != nil {
		return err
	}
	in := newCheckInput(c)
	in.Script, in.ScriptErr, in.Contradicted, in.Public = script, scriptErr, contradicted, public
	in.HomeserverConfig, in.MASConfig = cmd.StringSlice(check.FlagHomeserverConfig), cmd.StringSlice(check.FlagMASConfig)
	report := check.Run(ctx, in)
	if err := writeReport(cmd.Root().Writer, report, cmd.Bool(flagJSON)); err != nil {
		return err
	}
	if report.Problems > 0 {
		return errProblems
	}
	return nil
}

// newCheckInput gives check what only the program knows: its API, its ways of creating accounts, its store.
func newCheckInput(c config.Config) check.Input {
	name := storeName(c.DataPath)
	if !names.IsPostgres(c.DataPath) {
		name = filepath.Join(c.DataPath, storeFile)
	}
	unclean := toMatrixError(errUncleanPath)
	return check.Input{
		Config:   c,
		Accounts: newAccounts,
		Daemon: check.DaemonAPI{
			Base:     appServicePath,
			Modern:   modernPath,
			Register: registerPath,
			Forged: func(localpart string) any {
				zeros := strings.Repeat("0", signatureDigits)
				return registration{Localpart: localpart, DisplayName: "0000-" + zeros, Password: zeros}
			},
			IsForged:  func(errcode string) bool { return errcode == errcodeInvalidSignature },
			IsLimited: func(errcode string) bool { return errcode == errcodeLimitExceeded },
			IsOurs: func(errcode, message string) bool {
				return errcode == errcodeMissingToken || errcode == unclean.Errcode && message == unclean.Message
			},
		},
		StoreName: name,
		ReadStore: func(ctx context.Context) (check.StoreReading, error) { return readCounts(ctx, c.DataPath) },
		AskStatus: func(ctx context.Context) (check.StoreReading, error) { return askStatus(ctx, c.DataPath) },
	}
}

func writeReport(out io.Writer, r *check.Report, asJSON bool) error {
	if !asJSON {
		r.Print(out)
		return nil
	}
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(r)
}

// readCounts opens the store to read it.
func readCounts(ctx context.Context, dataPath string) (check.StoreReading, error) {
	store, err := readStore(ctx, dataPath)
	switch {
	case errors.Is(err, errNoStore):
		return check.StoreReading{}, check.ErrNoStore
	case errors.Is(err, errStoreLocked) && !names.IsPostgres(dataPath):
		return check.StoreReading{}, check.ErrStoreLocked
	case err != nil:
		return check.StoreReading{}, err
	}
	defer store.Close()
	counts, err := store.counts()
	if err != nil {
		return check.StoreReading{}, err
	}
	size, err := store.size()
	return inReading(size, counts), err
}

// askStatus asks the daemon that serves the store in the directory for its status.
func askStatus(ctx context.Context, dir string) (check.StoreReading, error) {
	ctx, cancel := context.WithTimeout(ctx, homeserver.ReadTime) // a daemon that hangs accepts the connection and does not answer
	defer cancel()
	res, err := askDaemon(ctx, dir, statusPath, nil)
	if err != nil {
		return check.StoreReading{}, err
	}
	defer res.Body.Close()
	var said daemonStatus
	err = json.NewDecoder(io.LimitReader(res.Body, homeserver.AnswerLimit)).Decode(&said)
	return inReading(said.StoreBytes, said.Records), err
}

func inReading(size int64, counts storeCounts) check.StoreReading {
	return check.StoreReading{Bytes: size, Registered: counts[stateRegistered], Pending: counts[statePending]}
}
