// cmd_check.go owns the check command: what it looks at and in which order, how a finding is printed, the summary and
// the exit code. It reads and asks; it changes nothing and creates no user.

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/files"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/redact"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/shell"
	"github.com/urfave/cli/v3"
)

const (
	flagHomeserverConfig = "homeserver-config"
	flagPublicURL        = "public-url"
	flagMASConfig        = "mas-config"

	dendriteFile = "dendrite.yaml" // Dendrite's configuration
)

// A status is how bad a finding is.
type status string

const (
	statusOK      status = "ok"
	statusWarning status = "warning" // nodes get in all the same
	statusProblem status = "problem" // nodes do not get in, or others do
)

// A finding is one thing that was looked at. It holds no token, secret, password or hash.
type finding struct {
	Status  status `json:"status"`
	Subject string `json:"subject"`
	Found   string `json:"found"`
	Do      string `json:"do,omitempty"` // with the line to write and where
}

func fine(subject, format string, args ...any) finding {
	return finding{statusOK, subject, fmt.Sprintf(format, args...), ""}
}

func warning(subject, do, format string, args ...any) finding {
	return finding{statusWarning, subject, fmt.Sprintf(format, args...), do}
}

func problem(subject, do, format string, args ...any) finding {
	return finding{statusProblem, subject, fmt.Sprintf(format, args...), do}
}

// A checkReport is everything found, in the order of looking.
type checkReport struct {
	Findings []finding `json:"findings"`
	OK       int       `json:"ok"`
	Warnings int       `json:"warnings"`
	Problems int       `json:"problems"`

	secrets []string // that files and servers hold and no finding may
}

// add takes findings in, on one line each and without the secrets.
func (r *checkReport) add(found ...finding) {
	for _, f := range found {
		f.Found, f.Do = redact.Line(f.Found, r.secrets...), redact.Line(f.Do, r.secrets...)
		switch f.Status {
		case statusOK:
			r.OK++
		case statusWarning:
			r.Warnings++
		case statusProblem:
			r.Problems++
		}
		r.Findings = append(r.Findings, f)
	}
}

// keepSecret notes what no finding may hold.
func (r *checkReport) keepSecret(secrets ...string) {
	for _, secret := range secrets {
		if len(secret) >= 4 { // a shorter one would only blot words out
			r.secrets = append(r.secrets, secret)
		}
	}
}

// print writes a line for each finding and one for all of them.
func (r *checkReport) print(out io.Writer) {
	for _, f := range r.Findings {
		fmt.Fprintf(out, "%-8s %s: %s", f.Status, f.Subject, f.Found)
		if f.Do != "" {
			fmt.Fprintf(out, "; %s", f.Do)
		}
		fmt.Fprintln(out)
	}
	fmt.Fprintf(out, "%s, %s, %d ok\n", count(r.Problems, "problem"), count(r.Warnings, "warning"), r.OK)
}

func count(number int, what string) string {
	if number != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", number, what)
}

// errProblems ends a check that found problems: what they are is printed already.
var errProblems = errors.New("there are problems")

func checkCommand() *cli.Command {
	return &cli.Command{
		Name:      "check",
		Usage:     "say what keeps nodes out: look at the files here, and ask what runs",
		UsageText: programName + " [flags] check",
		Description: "Reads and asks, changes nothing, creates no user. Run it in the homeserver's directory: flags that are\n" +
			"not given are those of " + runFile + ". Exits with 0 when there is no problem, and with 1 otherwise.",
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: flagHomeserverConfig, Usage: "`FILE` of the homeserver's settings, or a directory of them; repeatable, later ones win (default: " + homeserverFile + ", " + dendriteFile + ")"},
			&cli.StringSliceFlag{Name: flagMASConfig, Usage: "`FILE` of the settings of Matrix Authentication Service, likewise (default: " + masFile + ", or " + masOwnFile + " if it is one)"},
			&cli.StringFlag{Name: flagPublicURL, Value: "http://127.0.0.1:8008", Usage: "`URL` where nodes reach homeserver and service"},
			&cli.BoolFlag{Name: flagJSON, Usage: "print one JSON object"},
		},
		Action: checkAction,
	}
}

func checkAction(ctx context.Context, cmd *cli.Command) error {
	script, scriptErr := readScript(runFile)
	given := readValues(cmd)
	contradicted := given.fillIn(script)
	if given.text(flagMatrixDomain) == "" {
		return fmt.Errorf("--%s is missing, and no %s here has it: run check in the homeserver's directory, or give it the flags of the service", flagMatrixDomain, runFile)
	}
	c, err := readConfig(given)
	if err != nil {
		return err
	}
	if err := refuseAnyPort(c.port, c.opsListen); err != nil {
		return err
	}
	public, err := baseURL(flagPublicURL, cmd.String(flagPublicURL))
	if err != nil {
		return err
	}
	report := &checkReport{Findings: []finding{}}
	report.keepSecret(c.asToken, c.hsToken, c.sharedSecret, script.flags[flagASToken], script.flags[flagHSToken], script.flags[flagShareSecret])

	path := c.registration
	registered, registrationErr := readAppService(path)
	ofRegistration := checkRegistrationFile(path, registered, registrationErr)
	ofRegistration = append(ofRegistration, c.takeRegistration(registered, registrationErr)...)
	secretFinding := c.takeSecret()
	report.keepSecret(c.asToken, c.hsToken, c.sharedSecret, c.masClientSecret)

	live := newLiveCheck(c, public)
	report.add(live.homeserverItself(ctx)...)
	for _, s := range readAllSettings(cmd.StringSlice(flagHomeserverConfig), live.server) {
		report.keepSecret(s.secrets()...)
		report.add(judging{settings: s, config: c, server: live.server, registration: path, public: public}.findings()...)
	}
	if s := readMASSettings(cmd.StringSlice(flagMASConfig)); s != nil && c.way.IsApart {
		report.keepSecret(s.masSecrets()...)
		report.add(judging{settings: *s, config: c, server: live.server, registration: path, public: public}.masFindings()...)
	}
	report.add(ofRegistration...)
	report.add(judgeScript(script, scriptErr, contradicted, registered)...)
	report.add(secretFinding...)
	report.add(live.homeserverAccepts(ctx)...)
	report.add(live.authenticationService(ctx)...)
	report.add(live.service(ctx)...)
	report.add(live.door(ctx)...)
	report.add(c.checkDataPathFile()...)
	report.add(checkStore(ctx, c.dataPath, live.runs))
	report.add(checkAdmission(ctx, c)...)

	if err := report.write(cmd.Root().Writer, cmd.Bool(flagJSON)); err != nil {
		return err
	}
	if report.Problems > 0 {
		return errProblems
	}
	return nil
}

func (r *checkReport) write(out io.Writer, asJSON bool) error {
	if !asJSON {
		r.print(out)
		return nil
	}
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(r)
}

// takeSecret reads the secret that accounts are made with.
func (c *config) takeSecret() []finding {
	const subject = "shared secret"
	if c.way.IsApart {
		return c.takeMASSecret()
	}
	if !c.way.TakesSecret {
		return nil
	}
	if c.sharedSecretFile == "" {
		if c.sharedSecret == "" {
			return []finding{problem(subject, "start the service with --"+flagShareSecretFile+" FILE, the file that holds the homeserver's registration_shared_secret", "this service has none, and makes no account without")}
		}
		if c.secretArgs[flagShareSecret] == "" {
			return []finding{fine(subject, "it is in the environment")}
		}
		return []finding{warning(subject, "write it into a file of mode 0600 and give --"+flagShareSecretFile+" FILE instead", "it is in the command line, which other users of the machine see")}
	}
	var err error
	if c.sharedSecret, err = files.ReadSecret(c.sharedSecretFile, sharedSecretInFile); err != nil {
		return []finding{problem(subject, "name the file that holds the homeserver's registration_shared_secret with --"+flagShareSecretFile, "%v", err)}
	}
	return []finding{judgeMode(subject, c.sharedSecretFile, 0o600)}
}

// takeMASSecret reads the secret of the client at Matrix Authentication Service.
func (c *config) takeMASSecret() []finding {
	const subject = "client secret"
	do := "write them into " + runFile + ", or the service's environment: genconfig --" + flagForce + " makes both"
	if c.masClientID == "" || c.masClientSecretFile == "" {
		return []finding{problem(subject, do, "this service has no --%s or no --%s, and makes no account without", flagMASClientID, flagMASClientSecretFile)}
	}
	var err error
	if c.masClientSecret, err = readMASSecret(c.masClientSecretFile); err != nil {
		return []finding{problem(subject, "name the file that holds the client's secret with --"+flagMASClientSecretFile, "%v", err)}
	}
	return []finding{judgeMode(subject, c.masClientSecretFile, 0o600)}
}

// judgeMode holds a file's mode against the one that its secrets need.
func judgeMode(subject, path string, want os.FileMode) finding {
	stat, err := os.Stat(path)
	if err != nil {
		return problem(subject, "make it readable to the user that runs this", "%v", err)
	}
	do := fmt.Sprintf("type: chmod %04o %s", want, shell.Quote(path))
	switch mode := stat.Mode().Perm(); {
	case mode&0o007 != 0:
		return problem(subject, do, "%s has mode %04o: everybody on this machine can read its secrets", path, mode)
	case mode&want&0o700 != want:
		return problem(subject, do, "%s has mode %04o: its owner cannot use it", path, mode)
	case mode&0o070 != 0:
		return warning(subject, do+", unless the homeserver reads it as a member of its group", "%s has mode %04o: its group can read its secrets", path, mode)
	default:
		return fine(subject, "%s has mode %04o", path, mode)
	}
}

// checkDataPathFile judges who can read the URL of the store, which may hold a password.
func (c *config) checkDataPathFile() []finding {
	const subject = "store's URL"
	switch {
	case c.dataPathFile != "":
		return []finding{judgeMode(subject, c.dataPathFile, 0o600)}
	case c.secretArgs[flagDataPath] != "":
		return []finding{warning(subject, "write it into a file of mode 0600 and give --"+flagDataPathFile+" FILE instead", "it holds a password, and other users of the machine see the command line")}
	}
	return nil
}

// checkStore opens the store to read it, or asks the daemon that has it to itself.
func checkStore(ctx context.Context, dataPath string, serviceRuns bool) finding {
	const subject = "store"
	name := storeName(dataPath)
	if !names.IsPostgres(dataPath) {
		name = filepath.Join(dataPath, storeFile)
	}
	is := func(size int64, counts storeCounts, by string) finding {
		return fine(subject, "%s, %s%s: %d registered, %d pending", name, count(int(size), "byte"), by, counts[stateRegistered], counts[statePending])
	}
	size, counts, err := readCounts(ctx, dataPath)
	switch {
	case err == nil:
		return is(size, counts, "")
	case errors.Is(err, errNoStore):
		return fine(subject, "%s is not there yet; the service makes it when it starts", name)
	case names.IsPostgres(dataPath):
		return problem(subject, "see that PostgreSQL runs, and that this role may use the schema, as docs/deployment.md has it", "%v", err)
	case !errors.Is(err, errStoreLocked):
		return problem(subject, "see what is said of it, and put a backup in its place if it is damaged", "%v", err)
	}
	if said, err := askStatus(ctx, dataPath); err == nil {
		return is(said.StoreBytes, said.Records, ", in use by a running service")
	}
	if serviceRuns {
		return fine(subject, "%s is in use by the running service", name)
	}
	return warning(subject, "stop whatever holds it, or start the service with the --"+flagHost+" and --"+flagPort+" that are checked here", "another process has it, and no service answers")
}

// readCounts returns the size in bytes of the store, and the number of records in each state.
func readCounts(ctx context.Context, dataPath string) (size int64, counts storeCounts, err error) {
	store, err := readStore(ctx, dataPath)
	if err != nil {
		return 0, nil, err
	}
	defer store.Close()
	if counts, err = store.counts(); err != nil {
		return 0, nil, err
	}
	size, err = store.size()
	return size, counts, err
}

// askStatus asks the daemon that serves the store in the directory what it has.
func askStatus(ctx context.Context, dir string) (said daemonStatus, err error) {
	ctx, cancel := context.WithTimeout(ctx, homeserver.LookUpTime) // a daemon that hangs takes the connection and does not answer
	defer cancel()
	res, err := askDaemon(ctx, dir, statusPath, nil)
	if err != nil {
		return daemonStatus{}, err
	}
	defer res.Body.Close()
	err = json.NewDecoder(io.LimitReader(res.Body, homeserver.AnswerLimit)).Decode(&said)
	return said, err
}
