// cmd_check.go owns the check command: its flags, what it asks of the program itself, how the report is printed, and the
// exit code.

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
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

// A notCheckedError ends a check that could not do its work: nothing is known.
type notCheckedError struct{ error }

func (e notCheckedError) Unwrap() error { return e.error }

const (
	checkName      = "check"
	flagAll        = "all"
	exitNotChecked = 2
)

func checkCommand() *cli.Command {
	return &cli.Command{
		Name:      checkName,
		Usage:     "find what keeps nodes out: read the files here and ask the running servers",
		UsageText: programName + " [flags] check",
		Description: "It changes nothing and creates no user. Run it in the homeserver's directory: flags that are\n" +
			"not given are taken from " + config.RunFile + ". It exits with 0 when there is no problem, with 1 when there is one,\n" +
			"and with 2 when it could not check.",
		Flags: []cli.Flag{
			homeserverConfigFlag("those of the running Synapse, else " + config.HomeserverFile + " with conf.d, or " + check.DendriteFile),
			&cli.StringSliceFlag{Name: check.FlagMASConfig, Usage: "`FILE` of the settings of Matrix Authentication Service, likewise (default: " + check.MASFile + ", or " + check.MASOwnFile + " if it is one)"},
			&cli.StringFlag{Name: check.FlagPublicURL, Value: guidePublic, Usage: "`URL` where nodes reach homeserver and service"},
			&cli.BoolFlag{Name: flagAll, Usage: "print what is ok as well"},
			&cli.BoolFlag{Name: flagJSON, Usage: "print one JSON object"},
		},
		Action: func(ctx context.Context, cmd *cli.Command) error {
			err := checkAction(ctx, cmd)
			if err != nil && !errors.Is(err, errProblems) {
				return notCheckedError{err}
			}
			return err
		},
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
	if ctx.Err() != nil { // what was asked last got no answer for that
		return errors.New("it was interrupted before it could tell")
	}
	if err := writeReport(cmd.Root().Writer, report, cmd.Bool(flagAll), cmd.Bool(flagJSON)); err != nil {
		return fmt.Errorf("the report could not be written: %w", err)
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
		ReadStore: func(ctx context.Context) (check.StoreReading, error) {
			return readCounts(ctx, c.DataPath, c.ServerName)
		},

		AskStatus:    func(ctx context.Context) (check.DaemonStatus, error) { return askStatus(ctx, c.DataPath) },
		AskReadiness: func(ctx context.Context) ([]check.Unready, error) { return askReadiness(ctx, c) },
	}
}

func writeReport(out io.Writer, r *check.Report, all, asJSON bool) error {
	if !asJSON {
		var text bytes.Buffer
		r.Print(&text, check.Style{All: all, Colours: isColourful(out)})
		_, err := out.Write(text.Bytes())
		return err
	}
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(r)
}

// readCounts opens the store to read it, and tells whether a daemon with the server name would start with it.
func readCounts(ctx context.Context, dataPath, serverName string) (check.StoreReading, error) {
	store, err := readStore(ctx, dataPath)
	if err == nil {
		defer store.Close()
		err = store.refuses(serverName)
	}
	switch unfit := (*unfitError)(nil); {
	case errors.As(err, &unfit):
		return check.StoreReading{}, check.UnfitStore{Is: unfit.is, Do: unfit.todo}
	case errors.Is(err, errNoStore):
		return check.StoreReading{}, check.ErrNoStore
	case errors.Is(err, errStoreLocked) && !names.IsPostgres(dataPath):
		return check.StoreReading{}, check.ErrStoreLocked
	case err != nil:
		return check.StoreReading{}, err
	}
	counts, err := store.counts()
	if err != nil {
		return check.StoreReading{}, err
	}
	size, err := store.size()
	return inReading(size, counts), err
}

// daemonPatience is how long a daemon may take over an answer: a readiness that nobody asked for before takes the time of all its
// checks. One that hangs accepts the connection and does not answer.
const daemonPatience = 4 * healthLimit

// askOps reads the answer of the daemon that serves the store.
func askOps(ctx context.Context, dataPath, path string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, daemonPatience)
	defer cancel()
	res, err := askGateway(ctx, http.MethodGet, dataPath, path, nil)
	if errors.Is(err, errNoDaemon) {
		return check.ErrNoDaemon
	}
	if err != nil {
		return err
	}
	defer res.Body.Close()
	return json.NewDecoder(io.LimitReader(res.Body, homeserver.AnswerLimit)).Decode(into)
}

// askStatus asks the daemon that serves the store for its status.
func askStatus(ctx context.Context, dataPath string) (check.DaemonStatus, error) {
	var said daemonStatus
	err := askOps(ctx, dataPath, statusPath, &said)
	socket := ""
	for _, dir := range config.SocketDirs(dataPath) {
		if path := filepath.Join(dir, socketFile); socket == "" && isHere(path) {
			socket = path
		}
	}
	return check.DaemonStatus{Socket: socket, Store: inReading(said.StoreBytes, said.Records), PID: said.PID, Admitted: said.Admitted, MinBalance: said.MinBalance}, err
}

// askReadiness asks why no node could register now: the daemon that serves the store, or else at --ops-listen.
func askReadiness(ctx context.Context, c config.Config) ([]check.Unready, error) {
	var said []unready
	err := askOps(ctx, c.DataPath, readinessPath, &said)
	if err != nil && c.OpsListen != "" { // this user may not use the socket, say
		told, askErr := askReady(ctx, c.OpsListen)
		if askErr == nil || errors.Is(err, check.ErrNoDaemon) {
			said, err = told, askErr
		}
	}
	if errors.Is(err, errUnknownPath) {
		err = check.ErrOldDaemon
	}
	var wrong []check.Unready
	for _, its := range said {
		of := map[string]check.UnreadyOf{unreadyStore: check.UnreadyStore, unreadyHomeserver: check.UnreadyHomeserver, unreadyChain: check.UnreadyChain}[its.Of]
		wrong = append(wrong, check.Unready{Of: of, Reason: its.Reason, Cause: its.Cause})
	}
	return wrong, err
}

// askReady asks at --ops-listen, where the reasons are lines.
func askReady(ctx context.Context, address string) ([]unready, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	h := homeserver.NewClient("http://"+net.JoinHostPort(names.ReachableHost(host), port), "")
	a, err := h.Call(ctx, homeserver.Request{Within: daemonPatience, Method: http.MethodGet, Path: "/readyz"})
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w at --%s %s", check.ErrNoDaemon, config.FlagOpsListen, address)
	case a.Status == http.StatusOK:
		return nil, nil
	case a.Status != http.StatusServiceUnavailable:
		return nil, fmt.Errorf("what is at --%s %s answers %d to /readyz", config.FlagOpsListen, address, a.Status)
	}
	var said []unready
	for line := range strings.Lines(string(a.Body)) {
		its := unready{Reason: strings.TrimSpace(line)}
		if its.Reason == storeUnwritable {
			its.Of = unreadyStore
		}
		said = append(said, its)
	}
	return said, nil
}

func inReading(size int64, counts storeCounts) check.StoreReading {
	return check.StoreReading{Bytes: size, Registered: counts[stateRegistered], Pending: counts[statePending]}
}
