// matrix-regservice is the only way into a Matrix homeserver of Photon nodes. It creates an account for each node that proves
// to hold the Ethereum key of the address that the account is named after, and for nobody else.
//
// main.go owns the command tree, the daemon's wiring, the signals and the only exit.

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/admission"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/limit"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/redact"
	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/ethereum/go-ethereum/log"
	"github.com/urfave/cli/v3"
)

const (
	programName = config.Program

	// memoryLimit is the memory, in bytes, from which on Go collects garbage at once. Go may use more. 2,000 connections take
	// 36 MB, and without this limit as much again was garbage that was not collected yet: 94 MB were measured.
	memoryLimit = 44 << 20

	// gcPercent is how much garbage may collect, in percent of the memory in use. So little is in use here that Go's default
	// of 100 collects at every 4 MiB, for some 8 % of all processor time; 200 takes half of that, and 5 MiB.
	gcPercent = 200
)

func main() {
	stdlog.SetOutput(redact.LibraryWriter(os.Stderr, programName)) // until the daemon has a log; commands have none
	os.Exit(run(os.Args, os.Stdout, os.Stderr))
}

// run is the program without its exit, so that tests can call it.
func run(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the program at once

	root := newCommand(stdout, stderr)
	if args[len(args)-1] == completionFlag { // the library runs no action then: a word that is half typed is no argument
		for _, cmd := range append(root.Commands, root) {
			cmd.Before = nil
		}
	}
	err := root.Run(ctx, args)
	if err != nil && !errors.Is(err, errProblems) { // check has printed those
		fmt.Fprintf(stderr, "%s: %v\n", programName, err)
	}
	switch _, notChecked := errors.AsType[notCheckedError](err); {
	case notChecked:
		return exitNotChecked
	case err != nil:
		return 1
	}
	return 0
}

// newCommand returns the command tree. Each run needs a new one, since a command keeps state of its run.
func newCommand(stdout, stderr io.Writer) *cli.Command {
	root := &cli.Command{
		Name:      programName,
		Usage:     "the registration gateway of a Matrix homeserver for Photon nodes",
		UsageText: programName + " [flags]            serve nodes\n" + programName + " [flags] COMMAND",
		Version:   version(),
		Flags:     append(config.Flags(), config.EnvironmentFlag()),
		Action:    serveAction,
		Commands:  []*cli.Command{genconfigCommand(), checkCommand(), registerCommand(), usersCommand(), refusedCommand(), banCommand(), unbanCommand(), backupCommand(), restoreCommand(), migrateCommand()},
		Writer:    stdout,
		ErrWriter: stderr,

		EnableShellCompletion:           true, // "completion SHELL" prints a shell's script
		ConfigureShellCompletionCommand: configureCompletion,

		ExitErrHandler: func(context.Context, *cli.Command, error) {}, // the library's own would exit
	}
	for _, cmd := range append(root.Commands, root) { // neither of these two is inherited
		cmd.OnUsageError = usageError
		cmd.ShellComplete = completeValues
		if cmd.Before == nil {
			cmd.Before = refuseArguments
		}
		if cmd != root {
			cmd.CustomHelpTemplate = config.HelpTemplate(cmd.Name)
		}
	}
	return root
}

// usageError replaces the library's function, which prints the whole help and the error twice.
func usageError(_ context.Context, cmd *cli.Command, err error, _ bool) error {
	help := programName + " --help"
	if cmd != cmd.Root() {
		help = programName + " " + cmd.Name + " --help"
	}
	return ofCommand(cmd, fmt.Errorf("%s: see %s", flagFault(cmd, redact.Mask(err.Error())), help))
}

// The library's errors name a flag with one dash, and quote Go's parsers.
var (
	flagUnknown   = regexp.MustCompile(`^flag provided but not defined: -*(\S+)$`)
	flagUnvalued  = regexp.MustCompile(`^flag needs an argument: -+(\S+)$`)
	flagMisvalued = regexp.MustCompile(`^invalid value (".*"|…) for flag -+(\S+?):`) // … is a value that is masked
)

// flagFault says what is wrong with a flag, as the operator types it.
func flagFault(cmd *cli.Command, said string) string {
	if match := flagUnvalued.FindStringSubmatch(said); match != nil {
		return "--" + match[1] + " needs a value"
	}
	if match := flagMisvalued.FindStringSubmatch(said); match != nil {
		return "--" + match[2] + " cannot be " + match[1]
	}
	match := flagUnknown.FindStringSubmatch(said)
	switch {
	case match == nil:
		return said
	case cmd != cmd.Root():
		return cmd.Name + " has no flag --" + match[1]
	}
	var having []string
	for _, other := range cmd.Commands {
		if slices.ContainsFunc(other.Flags, func(flag cli.Flag) bool { return slices.Contains(flag.Names(), match[1]) }) {
			having = append(having, other.Name)
		}
	}
	if len(having) == 0 {
		return "there is no flag --" + match[1]
	}
	return fmt.Sprintf("--%s is a flag of %s: write it after the command", match[1], strings.Join(having, " and "))
}

// ofCommand marks a mistake in the arguments of check, which leaves nothing checked.
func ofCommand(cmd *cli.Command, err error) error {
	if cmd.Name == checkName {
		return notCheckedError{err}
	}
	return err
}

// refuseArguments keeps a mistyped subcommand from starting the daemon.
func refuseArguments(ctx context.Context, cmd *cli.Command) (context.Context, error) {
	first := cmd.Args().First()
	if cmd.Args().Len() == 0 || cmd.Command(first) != nil {
		return ctx, nil
	}
	if !commandForm.MatchString(first) { // it may be the stray value of a flag, even a token
		first = "…"
	}
	if cmd.Root() == cmd {
		return ctx, fmt.Errorf("there is no command %q: see %s --help", first, programName)
	}
	return ctx, ofCommand(cmd, fmt.Errorf("%s takes no argument %q: see %s %s --help", cmd.Name, first, programName, cmd.Name))
}

var commandForm = regexp.MustCompile(`^[a-z-]{1,20}$`)

// A buildInfo is the module's version and the commit.
type buildInfo struct{ version, commit string }

// readBuildInfo returns what Go recorded in the program when it was built.
func readBuildInfo() buildInfo {
	b := buildInfo{"unknown", "unknown"}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	dirty := ""
	b.version = info.Main.Version
	for _, setting := range info.Settings {
		switch {
		case setting.Key == "vcs.revision":
			b.commit = setting.Value
		case setting.Key == "vcs.modified" && setting.Value == "true":
			dirty = ", modified"
		}
	}
	b.commit += dirty
	return b
}

func version() string {
	b := readBuildInfo()
	return fmt.Sprintf("%s (commit %s)", b.version, b.commit)
}

// serveAction is the daemon.
func serveAction(ctx context.Context, cmd *cli.Command) error {
	c, err := config.ReadServing(cmd)
	if err != nil {
		return err
	}
	log.SetDefault(newLogger(cmd.Root().ErrWriter, c))
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	hangups := make(chan os.Signal, 1) // also of a terminal that is closed: nodes are served on
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	admitting, err := admission.New(admission.Options{File: c.AdmitFile, URL: c.EthRPC, MinBalance: c.MinBalance})
	if err != nil {
		return err
	}
	go admitting.ReloadOn(ctx, hangups)

	listener, err := limit.Listen(c.Address())
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%w: stop what listens there, or choose another --%s and run genconfig --%s with it, since %s and %s name it", err, config.FlagPort, config.FlagForce, config.RegistrationFile, config.RunFile)
	}
	if err != nil {
		return fmt.Errorf("%w: is --%s an address of this machine?", err, config.FlagHost)
	}
	defer listener.Close()
	opsListener, err := listenOps(c)
	if err != nil {
		return err
	}
	if opsListener != nil {
		defer opsListener.Close()
	}
	made, err := newService(c, admitting, opsListener != nil)
	if err != nil {
		return err
	}
	store, err := openStore(ctx, c.DataPath, c.ServerName)
	if err != nil {
		return err
	}
	return errors.Join(serveNodes(ctx, made, listener, opsListener, store), store.Close())
}

// A service is the config with the live objects that main.go makes of it.
type service struct {
	config.Config
	homeserver *homeserver.Client
	accounts   homeserver.Accounts
	admission  *admission.Admission // nil where everybody is admitted
	metrics    *metrics             // nil where nothing is measured
	attempts   *attempts            // nil where none are remembered
}

// newService makes the clients of the config, and metrics if they are served.
func newService(c config.Config, admitting *admission.Admission, measured bool) (service, error) {
	s := service{Config: c, admission: admitting, attempts: newAttempts()}
	if measured {
		s.metrics = newMetrics(c)
	}
	s.homeserver = newHomeserverClient(c, s.metrics)
	var err error
	s.accounts, err = newAccounts(c, s.homeserver)
	return s, err
}

// listenOps opens the listener of --ops-listen, if there is to be one.
func listenOps(c config.Config) (net.Listener, error) {
	if c.OpsListen == "" {
		return nil, nil
	}
	listener, err := limit.Listen(c.OpsListen)
	if err != nil {
		return nil, fmt.Errorf("%w: give --%s an address of this machine where nothing else listens", err, config.FlagOpsListen)
	}
	return listener, nil
}

// serveNodes serves nodes until the context ends. It serves the operator a little longer.
func serveNodes(ctx context.Context, c service, listener, opsListener net.Listener, store store) error {
	counts, err := store.counts()
	if err != nil {
		return fmt.Errorf("%w: %w", errStore, err)
	}
	stopOps, err := startOps(ctx, c, store, opsListener)
	if err != nil {
		return err
	}
	defer stopOps()
	if c.IsPlainRemote() {
		log.Warn("Passwords and tokens go to the homeserver unencrypted: use https or a loopback address", "matrixurl", c.MatrixURL)
	}
	warnOfReaders(c.Config)
	listening := []any{"address", listener.Addr().String(), "server_name", c.ServerName, "datapath", storeName(c.DataPath),
		"registered", counts[stateRegistered], "pending", counts[statePending], "version", version()}
	if opsListener != nil {
		listening = append(listening, "ops_address", opsListener.Addr().String())
	}
	log.Info("Listening", listening...)
	probeStore(c.Config, store)
	fitFiles(&c.Limits)
	c.admission.LogStart(ctx)
	go probeHomeserver(ctx, c.Config, c.homeserver, c.accounts)
	go pingHomeserver(ctx, c.Config, c.homeserver)

	tellReady(listener, opsListener)
	return newServer(c, store).serve(ctx, listener)
}

// printWarnings prints what warnOfReaders logs, for commands without a log.
func printWarnings(c config.Config, w io.Writer) {
	for flag, file := range c.SecretArgs {
		fmt.Fprintf(w, "%s: warning: a secret is in the command line (--%s), which every user of this machine can see: write it into a file of mode 0600 and give --%s FILE\n", programName, flag, file)
	}
}

// warnOfReaders logs which secrets everybody on this machine can read. It leaves out the tokens in run.sh, whose form the
// guide fixes.
func warnOfReaders(c config.Config) {
	if len(c.UnknownVariables) > 0 {
		log.Warn("The environment has variables with this service's prefix that it does not know: correct their names, or unset them", "variables", strings.Join(c.UnknownVariables, " "))
	}
	for flag, file := range c.SecretArgs {
		log.Warn("A secret is in the command line, which every user of this machine can see: write it into a file of mode 0600 and name that",
			"flag", "--"+flag, "instead", "--"+file)
	}
	for _, path := range c.SecretFiles {
		if stat, err := os.Stat(path); err == nil && stat.Mode().Perm()&0o004 != 0 {
			log.Warn("Every user of this machine can read a file of secrets: chmod 0600", "file", path, "mode", fmt.Sprintf("%04o", stat.Mode().Perm()))
		}
	}
}

// tellReady tells systemd that the service is ready, and at which addresses. It does nothing unless systemd asks for it.
func tellReady(listener, opsListener net.Listener) {
	serving := "Serving nodes at " + listener.Addr().String()
	if opsListener != nil {
		serving += ", health and metrics at " + opsListener.Addr().String()
	}
	daemon.SdNotify(false, daemon.SdNotifyReady+"\nSTATUS="+serving)
}

// lineRulesOfLog never leave out the line of a registration, whose record takes more of the disk than the line. Refusals are
// limited for each status and errcode, and requests of the homeserver for each kind.
var lineRulesOfLog = limit.LineRules{
	Unlimited: []string{lineRegistered, lineReconciled},
	Apart:     []string{"status", "errcode", "kind"},
}

// newLogger makes the daemon's log.
func newLogger(w io.Writer, c config.Config) log.Logger { return newLoggerBy(w, c, lineRulesOfLog) }

func newLoggerBy(w io.Writer, c config.Config, rules limit.LineRules) log.Logger {
	level := log.FromLegacyLevel(c.Verbosity)
	var handler slog.Handler
	switch c.LogFormat {
	case "json":
		handler = log.JSONHandlerWithLevel(w, level)
	case "logfmt":
		handler = log.LogfmtHandlerWithLevel(w, level)
	default:
		handler = log.NewTerminalHandlerWithLevel(w, level, isColourful(w))
	}
	return log.NewLogger(limit.Lines(redact.Libraries(handler), rules))
}

// isColourful reports whether the output is a terminal, and its user has not asked for no colours: https://no-color.org.
func isColourful(w io.Writer) bool {
	return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && isTerminal(w)
}

// isTerminal reports whether the output is a terminal.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	stat, err := f.Stat()
	return err == nil && stat.Mode()&os.ModeCharDevice != 0
}
