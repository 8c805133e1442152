// cmd_genconfig.go owns registration.yaml, which the homeserver loads, and run.sh, which starts the daemon beside
// it: their contents, that they are written whole or not at all, and what is left to do at the homeserver and in nginx.

package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/check"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/files"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/nginx"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/shell"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/synapse"
	"github.com/urfave/cli/v3"
	"gopkg.in/yaml.v2"
)

const (
	secretFile = "shared_secret" // made where homeserver.yaml or a flag has the secret itself
	ethRPCFile = "eth_rpc"       // made where a flag has a URL that may hold a key

	masSecretFile = "mas_client_secret" // made where no flag names one

	flagOwner         = "owner"
	flagAppServiceURL = "appservice-url"

	guidePublic = "http://127.0.0.1:8008" // where the guide has nginx

	idLength     = 10 // random characters of an id
	tokenLength  = 40 // and of a token: 200 bits
	runVerbosity = 5  // the guide's run.sh logs everything
)

func genconfigCommand() *cli.Command {
	return &cli.Command{
		Name:  "genconfig",
		Usage: "write " + config.RegistrationFile + " and " + config.RunFile + " into the working directory, the homeserver's",
		Flags: []cli.Flag{
			&cli.BoolFlag{
				Name:  config.FlagForce,
				Usage: "replace files that exist, keep the tokens, and save the old files as " + files.BackupTail,
			},
			&cli.BoolFlag{
				Name:  config.FlagNewTokens,
				Usage: "as --" + config.FlagForce + ", and make new tokens: then restart the homeserver and the service together",
			},
			&cli.StringFlag{Name: flagOwner, Usage: "`USER` that will own the files (default: the user that runs the homeserver, if that can be found out)"},
			&cli.StringFlag{Name: flagAppServiceURL, Usage: "`URL` at which the homeserver reaches this service, where that is not --" + config.FlagHost + " and --" + config.FlagPort + " but a proxy, say"},
			homeserverConfigFlag("those of the running Synapse, else " + config.HomeserverFile + " with conf.d"),
		},
		Action: genconfigAction,
	}
}

func genconfigAction(ctx context.Context, cmd *cli.Command) error {
	given := config.ReadValues(cmd)
	c, err := config.Read(given)
	if err != nil {
		return err
	}
	if !given.IsGiven(config.FlagVerbosity) {
		c.Verbosity = runVerbosity
	}
	if err := config.RefuseAnyPort(c.Port, c.OpsListen); err != nil {
		return err
	}
	if c.DataPathFile == "" && names.HasPassword(c.DataPath) {
		return fmt.Errorf("the URL of --%s holds a password, which %s would show in the process list: write it into a file of mode 0600 and give --%s FILE", config.FlagDataPath, config.RunFile, config.FlagDataPathFile)
	}
	program, err := programPath()
	if err != nil {
		return err
	}
	settings, why, process, err := readSynapse(cmd.StringSlice(check.FlagHomeserverConfig), c.Origin)
	if err != nil {
		return err
	}
	reachedAt, err := appServiceURL(c, cmd.String(flagAppServiceURL))
	if err != nil {
		return err
	}
	newTokens := cmd.Bool(config.FlagNewTokens)
	force := cmd.Bool(config.FlagForce) || newTokens
	if newTokens && c.ASToken+c.HSToken != "" {
		return fmt.Errorf("--%s makes both tokens, and one is given: leave out --%s and --%s, or --%s", config.FlagNewTokens, config.FlagASToken, config.FlagHSToken, config.FlagNewTokens)
	}
	var old earlier
	if force {
		if old, err = readEarlier(newTokens); err != nil {
			return err
		}
	}
	written, err := followSettings(&c, settings, process, old)
	if err != nil {
		return err
	}
	c.ASToken = cmp.Or(c.ASToken, old.asToken, randomText(tokenLength))
	c.HSToken = cmp.Or(c.HSToken, old.hsToken, randomText(tokenLength))
	written = append(written, keepEthRPC(&c)...)
	content, err := renderRegistration(c, cmp.Or(old.id, randomText(idLength)+"-"+c.ServerName), reachedAt)
	if err != nil {
		return err
	}
	written = append([]files.New{
		{Name: config.RegistrationFile, Mode: 0o600, Content: content},
		{Name: config.RunFile, Mode: 0o700, Content: renderRun(c, program)},
	}, written...)
	reader, err := readerOf(cmd.String(flagOwner), settings, process)
	if err != nil {
		return err
	}
	kept, err := files.WriteAll(written, ownerOf(reader), force)
	if taken := (files.TakenError{}); errors.As(err, &taken) && !force {
		return fmt.Errorf("nothing was written, since there is already %s: genconfig --%s writes them anew with the same tokens, and keeps the old files as %s", strings.Join(taken.Names, ", "), config.FlagForce, files.BackupTail)
	}
	if err != nil {
		return err
	}

	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	out := cmd.Root().Writer
	if len(settings.Files) > 0 {
		fmt.Fprintf(out, "read %s, %s\n", strings.Join(settings.Files, ", "), why)
	}
	for _, file := range written {
		whose := synapse.OwnerOf(file.Name)
		why := ""
		if whose.UID == reader.UID && os.Geteuid() == 0 {
			why = ": " + reader.Why
		}
		fmt.Fprintf(out, "wrote %s (%04o, %s's%s)\n", file.Name, file.Mode, whose.Name(), why)
	}
	if c.Way == homeserver.CreateUser {
		fmt.Fprintf(out, "the namespace is the old guide's: the as_token acts for every user; '%s' is enough here too\n", config.NodesAlone(c.ServerName))
	} else {
		fmt.Fprintln(out, "the namespace is that of nodes alone: the as_token acts for no other user")
	}
	if !isHere(config.HomeserverFile) && !isHere(check.DendriteFile) {
		fmt.Fprintf(out, "there is neither %s nor %s here: these files belong in the homeserver's directory\n", config.HomeserverFile, check.DendriteFile)
	}
	if len(kept) > 0 {
		fmt.Fprintf(out, "kept %s\n", strings.Join(kept, ", "))
		if c.ASToken == old.asToken && c.HSToken == old.hsToken {
			fmt.Fprintf(out, "the tokens are the same as before; genconfig --%s makes new ones\n", config.FlagNewTokens)
		} else {
			fmt.Fprintf(out, "the tokens are new: restart both the homeserver and %s, or neither accepts the other\n", programName)
		}
	}
	in := newCheckInput(c)
	in.Config.RegistrationPath = config.RegistrationFile
	in.HomeserverConfig, in.Public = cmd.StringSlice(check.FlagHomeserverConfig), guidePublic
	printSteps(out, c, dir, check.ReadLeft(ctx, in))
	return nil
}

func isHere(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// readSynapse reads the settings that were named, those that the running Synapse was started with, or those that are here. Without
// any it returns none.
func readSynapse(named []string, origin string) (s synapse.Settings, why string, p synapse.Process, err error) {
	p, seen := synapse.ListeningAt(origin)
	paths, why := named, "as --"+check.FlagHomeserverConfig+" names them"
	if len(named) == 0 {
		paths, why = synapse.Choose(p, seen)
	}
	s, err = synapse.Read(paths)
	return s, why, p, err
}

// readerOf is the user that reads the files: the one that --owner names, or else the homeserver's.
func readerOf(named string, s synapse.Settings, p synapse.Process) (reader synapse.User, err error) {
	if named != "" {
		if reader, err = synapse.UserNamed(named, "--"+flagOwner+" names it"); err != nil {
			return reader, fmt.Errorf("--%s %w", flagOwner, err)
		}
		if me := os.Geteuid(); me != 0 && me != reader.UID {
			return reader, fmt.Errorf("--%s %s: only root can give files to another user: run this with sudo", flagOwner, named)
		}
		return reader, nil
	}
	if reader = s.ReadBy(p); !reader.IsKnown() {
		reader = synapse.OwnerOf(".")
	}
	return reader, nil
}

// ownerOf is whose the files are to be: the user's that reads them.
func ownerOf(reader synapse.User) *files.Owner {
	if !reader.IsKnown() || len(reader.GIDs) == 0 {
		return nil
	}
	return &files.Owner{UID: reader.UID, GID: reader.GIDs[0]}
}

// An earlier is what the homeserver, or Matrix Authentication Service, has from an earlier genconfig. Made anew it would keep each
// node out until both are restarted.
type earlier struct {
	id, asToken, hsToken string
	isKept               bool // a secret file that is there stays as it is
	masClientID          string
}

// readEarlier reads that from the files of this directory. Of the tokens those count that the homeserver loads, and run.sh's only
// where it has none. With newTokens it passes over the tokens, and over a file that cannot be read.
func readEarlier(newTokens bool) (earlier, error) {
	old := earlier{isKept: true}
	script, err := config.ReadScript(config.RunFile)
	if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, config.ErrNoCommand) && !newTokens {
		return earlier{}, fmt.Errorf("read %s: %w", config.RunFile, err)
	}
	old.masClientID = script.Flags[config.FlagMASClientID]
	file, err := config.ReadRegistration(config.RegistrationFile)
	old.id, _ = file.Text("id")
	if newTokens {
		return old, nil
	}
	cannot := func(err error) error {
		return fmt.Errorf("the tokens cannot be kept: %w: repair it, or make new ones with genconfig --%s", err, config.FlagNewTokens)
	}
	isMissing := errors.Is(err, os.ErrNotExist)
	if err != nil && !isMissing {
		return earlier{}, cannot(err)
	}
	for _, token := range []struct {
		key, flag string
		to        *string
	}{{"as_token", config.FlagASToken, &old.asToken}, {"hs_token", config.FlagHSToken, &old.hsToken}} {
		value, err := file.Text(token.key)
		if isMissing {
			value = script.Flags[token.flag]
		}
		if err == nil && !names.IsToken(value) {
			err = fmt.Errorf("%s has characters that no token has", token.key)
		}
		if err != nil {
			return earlier{}, cannot(err)
		}
		*token.to = value
	}
	return old, nil
}

// followSettings compares Synapse's settings, if there are any, with the flags, and finds in them where the shared secret is. It
// returns the file of the secret if one has to be made.
func followSettings(c *config.Config, s synapse.Settings, p synapse.Process, old earlier) ([]files.New, error) {
	const secret, path = "registration_shared_secret", "registration_shared_secret_path"
	texts := map[string]string{}
	for _, key := range []string{"server_name", secret, path} {
		var err error
		if texts[key], err = s.Text(key); err != nil {
			return nil, err
		}
	}
	if name := texts["server_name"]; name != "" && name != c.ServerName {
		return nil, fmt.Errorf("--%s is %q and the server_name of %s is %q: every signature is over that name, so give the homeserver's", config.FlagMatrixDomain, c.ServerName, s.From["server_name"], name)
	}
	if texts[secret] != "" && texts[path] != "" && (c.Way.TakesSecret || c.Way.IsMAS) {
		return nil, fmt.Errorf("%s has %s and %s has %s: Synapse does not start with both, so delete one", s.From[secret], secret, s.From[path], path)
	}
	switch {
	case c.Way.IsMAS:
		return makeMASClient(c, old)
	case !c.Way.TakesSecret:
		return nil, nil
	case c.SharedSecretFile != "":
		_, err := files.ReadSecret(c.SharedSecretFile, config.SharedSecretInFile)
		return nil, err
	case c.SharedSecret == "" && texts[path] != "":
		c.SharedSecretFile = p.Path(texts[path])
		return makeSharedSecret(c.SharedSecretFile)
	case c.SharedSecret == "":
		c.SharedSecret = texts[secret]
	}
	if c.SharedSecret == "" {
		return nil, fmt.Errorf("there is no shared secret: set %s in %s in this directory, or give --%s", secret, config.HomeserverFile, config.FlagShareSecretFile)
	}
	if c.SharedSecret != strings.TrimSpace(c.SharedSecret) {
		return nil, errors.New("the shared secret begins or ends with a space, which its file cannot keep: choose another")
	}
	c.SharedSecretFile = secretFile
	return []files.New{{Name: secretFile, Mode: 0o600, Content: []byte(c.SharedSecret + "\n")}}, nil
}

// makeSharedSecret returns the file that Synapse is to read its secret from, if it is not there yet. Synapse would make it for all
// to read.
func makeSharedSecret(path string) ([]files.New, error) {
	switch _, err := files.ReadSecret(path, config.SharedSecretInFile); {
	case errors.Is(err, os.ErrNotExist):
		return []files.New{{Name: path, Mode: 0o600, Content: []byte(randomText(tokenLength) + "\n")}}, nil
	default:
		return nil, err
	}
}

// keepEthRPC returns the file of the Ethereum node's URL if the URL may hold a key. A key must not be in a command line.
func keepEthRPC(c *config.Config) []files.New {
	u, err := names.ParseEthereumURL(c.EthRPC)
	if err != nil || !names.MayHoldKey(u) {
		return nil
	}
	file := files.New{Name: ethRPCFile, Mode: 0o600, Content: []byte(c.EthRPC + "\n")}
	c.EthRPC, c.EthRPCFile = "", ethRPCFile
	return []files.New{file}
}

// makeMASClient completes the client at Matrix Authentication Service, and returns the file of its secret if one has to be
// made. The file has no newline at its end, since Matrix Authentication Service reads it too.
func makeMASClient(c *config.Config, old earlier) ([]files.New, error) {
	c.MASClientID = cmp.Or(c.MASClientID, old.masClientID, names.NewULID(time.Now()))
	if c.MASClientSecretFile != "" {
		_, err := config.ReadMASSecret(c.MASClientSecretFile)
		return nil, err
	}
	c.MASClientSecretFile = masSecretFile
	if old.isKept {
		if _, err := config.ReadMASSecret(masSecretFile); !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	return []files.New{{Name: masSecretFile, Mode: 0o600, Content: []byte(randomText(tokenLength))}}, nil
}

// appServiceURL is where the homeserver reaches this service: as it was given, with the path of the API behind it, or else where
// the service listens.
func appServiceURL(c config.Config, given string) (string, error) {
	if given == "" {
		return "http://" + net.JoinHostPort(names.ReachableHost(c.Host), strconv.Itoa(c.Port)) + appServicePath, nil
	}
	base, err := baseURL(flagAppServiceURL, given)
	if err != nil {
		return "", err
	}
	return strings.TrimSuffix(base, appServicePath) + appServicePath, nil
}

// noLocalpart takes away what a server name has and a localpart that is written alike in URLs has not: colons, and the brackets of
// an IPv6 address.
var noLocalpart = strings.NewReplacer(":", "-", "[", "", "]", "")

// renderRegistration returns the content of registration.yaml. The namespace is the guide's where accounts are created with
// createUser, and of nodes alone elsewhere, so that the as_token can act for nobody else.
func renderRegistration(c config.Config, id, url string) ([]byte, error) {
	users := config.NodesAlone(c.ServerName)
	if c.Way == homeserver.CreateUser {
		users = "@.*"
	}
	return yaml.Marshal(config.Registration{
		ID:              id,
		HSToken:         c.HSToken,
		ASToken:         c.ASToken,
		URL:             url,
		SenderLocalpart: noLocalpart.Replace(c.ServerName),
		Protocols:       []string{protocolID(c.ServerName)},
		Namespaces: config.Namespaces{
			Users:   []config.Namespace{{Exclusive: false, Regex: users}},
			Aliases: []config.Namespace{},
			Rooms:   []config.Namespace{},
		},
	})
}

// renderRun returns the content of run.sh: the guide's command, run in the script's own directory, so that it serves the same
// store wherever it is started from. The guide fixes its form.
func renderRun(c config.Config, program string) []byte {
	command := append([]string{program}, c.Arguments()...)
	for i, word := range command {
		command[i] = shell.Quote(word)
	}
	return []byte("#!/bin/sh\n" +
		`self=$(readlink -f -- "$0") && cd -- "$(dirname -- "$self")" || exit 1` + "\n" +
		"exec " + strings.Join(command, " ") + ` "$@"` + "\n") // of a flag that is there twice the last one counts
}

// programPath is how run.sh calls this program: by its name if PATH finds this very file, else by its path.
func programPath() (string, error) {
	path, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find this program's own file: %w", err)
	}
	if goRunFile.MatchString(path) {
		return "", fmt.Errorf("this program was started by go run, which deletes it at the end: build it first (go build), then type ./%s genconfig", programName)
	}
	name := filepath.Base(path)
	if found, err := exec.LookPath(name); err == nil && files.IsSame(found, path) {
		return name, nil
	}
	return path, nil
}

// goRunFile matches the path that go run gives the program: in a temporary directory, or in its cache from the second time on.
var goRunFile = regexp.MustCompile(`/go-build[0-9]+/b[0-9]+/exe/|/[0-9a-f]{2}/[0-9a-f]{64}-d/`)

// randomText returns so many random characters of base32.
func randomText(length int) string {
	raw := make([]byte, length) // more than enough: a character takes 5 bits
	rand.Read(raw)              // never fails
	return base32.StdEncoding.EncodeToString(raw)[:length]
}

// printSteps says what is left to do on the homeserver and in nginx.
func printSteps(out io.Writer, c config.Config, dir string, left check.Left) {
	here := net.JoinHostPort(names.ReachableHost(c.Host), strconv.Itoa(c.Port))
	fmt.Fprint(out, "\nWhat is left to do:\n\n1. ")
	printLeft(out, left)
	switch is := left.Software; {
	case c.Way.IsMAS:
		printMASSteps(out, c, dir)
	case c.Way == homeserver.CreateUser && !is.Before(0, 35):
		fmt.Fprintf(out, `   It must be Synapse 0.34.0 or older: no later one has createUser. For Synapse
   1.23.0 or later run genconfig with
     --%s http://127.0.0.1:8007%s
   which is reached on the homeserver's own port and not through nginx.
`, config.FlagMatrixURL, homeserver.SharedSecretPath)
	case c.Way.TakesSecret:
		if is.Version == "" && is.Name != homeserver.Dendrite {
			fmt.Fprint(out, "   It must be Synapse 1.23.0 or later, but not 1.140.0.\n")
		}
		if is.Name == "" && !left.Found {
			fmt.Fprint(out, "   For Dendrite see docs/homeservers/dendrite.md.\n")
		}
		fmt.Fprintf(out, "   %s must be its own port, not nginx's: who\n   reaches that path from outside may try secrets there.\n", c.Origin)
	}
	origin := c.Origin
	if names.URLPort(origin) == 8008 { // nginx's in the guide, and createUser may be reached through it
		origin = nginx.GuideHomeserver
	}
	locations := []nginx.Location{nginx.Matrix(origin), nginx.Closed(), nginx.Register("http://"+here, registerPath)}
	if c.Way.IsMAS {
		locations = append(locations, nginx.Logins(nginx.GuideMAS))
	}
	fmt.Fprint(out, "\n2. In nginx, in the server that nodes reach (port 8008 in the guide):\n\n")
	for _, location := range locations {
		fmt.Fprint(out, location.Lines("     "))
	}
	if c.Way.IsMAS {
		fmt.Fprintf(out, "\n   The last one is for its listener for everybody, not %s.\n", names.URLHost(c.APIOrigin))
	}
	acts := "node"
	if c.Way == homeserver.CreateUser {
		acts = "user"
	}
	fmt.Fprintf(out, `
3. Start the service, from any directory:

     %s

%s and %s hold tokens that can act as any %s of the
homeserver: keep them as secret as %s.
`, shell.Quote(filepath.Join(dir, config.RunFile)), config.RegistrationFile, config.RunFile, acts, config.HomeserverFile)
}

// printLeft says what is left to do at the homeserver.
func printLeft(out io.Writer, left check.Left) {
	is := cmp.Or(left.Software.String(), "the homeserver")
	if len(left.Write)+len(left.Do) == 0 {
		fmt.Fprintf(out, "Restart %s: its settings have all that is needed.\n", is)
		return
	}
	const indent = "     "
	for i, file := range left.Write {
		if i == 0 {
			fmt.Fprintf(out, "For %s write in %s:\n\n", is, file.Path)
		} else {
			fmt.Fprintf(out, "\n   and in %s:\n\n", file.Path)
		}
		fmt.Fprintf(out, indent+"%s\n", strings.Join(file.Lines, "\n"+indent))
	}
	if len(left.Write) == 0 {
		fmt.Fprintf(out, "For %s:\n", is)
	}
	if len(left.Do) > 0 {
		fmt.Fprintf(out, "\n   - %s\n", strings.Join(left.Do, "\n   - "))
	}
	fmt.Fprint(out, "\n   Then restart it.\n")
	if left.Found {
		fmt.Fprint(out, "   What its settings have already is left out here.\n")
	}
}

// printMASSteps says what is left to do on a homeserver behind Matrix Authentication Service, and there.
func printMASSteps(out io.Writer, c config.Config, dir string) {
	secret := c.MASClientSecretFile
	if !filepath.IsAbs(secret) {
		secret = filepath.Join(dir, secret)
	}
	fmt.Fprintf(out, `   In the configuration of Matrix Authentication Service set

     clients:
       - client_id: "%[1]s"
         client_auth_method: client_secret_basic
         client_secret_file: %[2]s
     policy: {data: {admin_clients: ["%[1]s"]}}
     passwords: {enabled: true}
     account: {password_registration_enabled: false}
     rate_limiting:           (its default: three logins, then one in 20 s)
       login: {per_ip: %[4]s}
     http:
       listeners:             (one more, for this machine alone)
         - name: admin
           resources: [{name: adminapi}, {name: oauth}]
           binds: [{address: "%[3]s"}]

   and restart it. Who has that secret can act for every user.
`, c.MASClientID, strconv.Quote(secret), names.URLHost(c.APIOrigin), homeserver.MASLoginLimit)
}
