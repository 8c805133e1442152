// homeserver.go owns the homeservers: the recipe of each, which lies under testdata, and one that runs.

package e2e

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/template"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/mas"
	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
)

// The ways of creating an account, as --matrixurl names them.
const (
	CreateUserPath   = "/_matrix/client/api/v1/createUser"
	SharedSecretPath = "/_synapse/admin/v1/register"
	MASPath          = mas.UsersPath
)

// A Recipe is how one homeserver is set up.
type Recipe struct {
	Name  string // and the name of its directory under testdata, if dir is empty
	Title string // as it calls itself
	dir   string // under testdata, where recipes share one

	bin       string   // where its programs are, under the package's directory
	installed string   // the file there that says that they are all there
	install   string   // what to type if they are not
	files     []string // of its directory under testdata: templates, written before anything runs
	keys      []string // the command that makes its keys; none where it needs none
	start     []string // the command that runs it; {{.Port}} stands for the port
	legacy    bool     // whether it is to speak its old dialect to application services
	database  string   // pattern of its database's files
	count     []string // the command that counts the accounts of the user ID that is appended to it

	behindMAS     bool     // its logins are left to a stand-in of Matrix Authentication Service
	createPath    string   // of --matrixurl
	genconfig     []string // further flags of genconfig, which reads the settings of Synapse alone
	opensSession  bool     // it answers a creation with an access token
	createByNginx bool     // the guide of 2018 reaches even createUser by nginx
	noDirectory   string   // why its user directory does not find every node, if it does not
}

// synapseCount asks Synapse's database, which is SQLite. Python is there; a client of SQLite need not be.
var synapseCount = []string{"python", "-c", `import sqlite3, sys
db = sqlite3.connect("file:homeserver.db?mode=ro", uri=True, timeout=30)
print(*db.execute("SELECT count(*) FROM users WHERE name = ?", sys.argv[1:]).fetchone())`}

// dendriteCount asks that of Dendrite's databases which has the accounts.
var dendriteCount = []string{"python", "-c", `import sqlite3, sys
db = sqlite3.connect("file:homeserver_userapi.db?mode=ro", uri=True, timeout=30)
print(*db.execute("SELECT count(*) FROM userapi_accounts WHERE '@' || localpart || ':' || server_name = ?", sys.argv[1:]).fetchone())`}

// Recipes are the homeservers that every test run starts, the newest first.
var Recipes = []Recipe{
	{
		Name: "synapse-1.163.2", Title: "Synapse 1.163.2",
		bin: ".venv/synapse-1.163.2/bin", installed: "../.installed", install: "make venvs",
		files:      []string{"homeserver.yaml"},
		keys:       []string{"python", "-m", "synapse.app.homeserver", "--config-path", "homeserver.yaml", "--generate-keys"},
		start:      []string{"python", "-m", "synapse.app.homeserver", "--config-path", "homeserver.yaml"},
		database:   "homeserver.db*",
		count:      synapseCount,
		createPath: SharedSecretPath,
	},
	{
		Name: "synapse-0.34.0", Title: "Synapse 0.34.0",
		bin: ".venv/synapse-0.34.0/bin", installed: "../.installed", install: "make venvs",
		files:      []string{"homeserver.yaml", "createuser.py"},
		keys:       []string{"python", "createuser.py", "--config-path", "homeserver.yaml", "--generate-keys"},
		start:      []string{"python", "createuser.py", "--config-path", "homeserver.yaml"},
		database:   "homeserver.db*",
		count:      synapseCount,
		createPath: CreateUserPath, opensSession: true, createByNginx: true,
	},
}

// Dendrites are Dendrite in either dialect. It takes minutes to build, so that tests start it only where told to.
var Dendrites = []Recipe{
	dendrite("dendrite-0.15.2", "Dendrite 0.15.2", false),
	dendrite("dendrite-0.15.2-legacy", "Dendrite 0.15.2 with legacy_paths and legacy_auth", true),
}

func dendrite(name, title string, legacy bool) Recipe {
	return Recipe{
		Name: name, Title: title, dir: "dendrite", legacy: legacy,
		bin: ".venv/dendrite-0.15.2/bin", installed: "../.installed", install: "make dendrite",
		files:      []string{"dendrite.yaml", "registration_shared_secret"},
		keys:       []string{"generate-keys", "--private-key", "matrix_key.pem"},
		start:      []string{"dendrite", "--config", "dendrite.yaml", "--http-bind-address", "127.0.0.1:{{.Port}}"},
		database:   "homeserver_*.db*",
		count:      dendriteCount,
		createPath: SharedSecretPath, opensSession: true,
		genconfig:   []string{"--sharesecret-file", "registration_shared_secret"},
		noDirectory: "its directory finds only users that share a room; nodes are found by the third-party look-up",
	}
}

// BehindMAS is today's Synapse with its logins left to Matrix Authentication Service. Of that there is a stand-in alone.
func BehindMAS() Recipe {
	r := Recipes[0]
	r.dir, r.Name, r.Title = r.Name, r.Name+"-mas", r.Title+" behind Matrix Authentication Service"
	r.behindMAS, r.createPath = true, MASPath
	return r
}

// RecipeNamed finds a recipe. A name without its version is the first that begins so.
func RecipeNamed(name string) (Recipe, error) {
	var names []string
	for _, r := range slices.Concat(Recipes, Dendrites) {
		if r.Name == name || strings.HasPrefix(r.Name, name+"-") {
			return r, nil
		}
		names = append(names, r.Name)
	}
	return Recipe{}, fmt.Errorf("there is no homeserver %q: give one of %s", name, strings.Join(names, ", "))
}

// Installed returns nil when the homeserver can be started, and what to install otherwise: Python where it is what
// keeps make from installing the homeserver.
func (r Recipe) Installed(ctx context.Context) error {
	root, err := moduleRoot(ctx)
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(root, "e2e", r.bin, r.installed)); err != nil {
		python := exec.CommandContext(ctx, filepath.Join(root, "e2e", "python"), r.Name)
		if said, err := python.CombinedOutput(); err != nil {
			if m, ok := need.Parse(strings.TrimSpace(string(said))); ok {
				return m
			}
			return fmt.Errorf("e2e/python: %w\n%s", err, said)
		}
		return need.Missing{What: r.Title, Cure: r.install}
	}
	return nil
}

// A Homeserver is one homeserver in a directory of its own.
type Homeserver struct {
	Recipe
	Dir          string
	URL          string // its own port, which no node sees
	SharedSecret string
	MASSecret    string // which it shares with Matrix Authentication Service
	LogFile      string

	binDir  string
	process *process
}

// newHomeserver writes the configuration of a homeserver, and makes its keys.
// Behind Matrix Authentication Service its URL is given.
func newHomeserver(ctx context.Context, r Recipe, domain, dir, log string, port int, masURL string) (*Homeserver, error) {
	root, err := moduleRoot(ctx)
	if err != nil {
		return nil, err
	}
	h := &Homeserver{
		Recipe: r, Dir: dir, LogFile: log, SharedSecret: rand.Text(), MASSecret: rand.Text(),
		URL: "http://127.0.0.1:" + strconv.Itoa(port), binDir: filepath.Join(root, "e2e", r.bin),
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	values := struct {
		Domain, SharedSecret string
		Port                 int
		Legacy               bool
		MASURL, MASSecret    string
	}{domain, h.SharedSecret, port, r.legacy, masURL, h.MASSecret}
	h.start = slices.Clone(r.start)
	for i, word := range h.start {
		h.start[i] = strings.ReplaceAll(word, "{{.Port}}", strconv.Itoa(port))
	}
	for _, name := range r.files {
		if err := render(filepath.Join(root, "e2e", "testdata", cmp.Or(r.dir, r.Name), name), filepath.Join(dir, name), values); err != nil {
			return nil, err
		}
	}
	if len(r.keys) > 0 {
		if out, err := h.command(ctx, r.keys...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("make the keys of %s: %w\n%s", r.Title, err, out)
		}
	}
	return h, nil
}

// render writes a file from its template.
func render(from, to string, values any) error {
	t, err := template.ParseFiles(from)
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(t.Execute(out, values), out.Close())
}

// command is a command of the recipe, in the homeserver's directory.
func (h *Homeserver) command(ctx context.Context, words ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(h.binDir, words[0]), words[1:]...)
	cmd.Dir = h.Dir
	return cmd
}

// StartCommand is what starts it, as one types it.
func (h *Homeserver) StartCommand() string { return strings.Join(h.start, " ") }

// Start starts the homeserver and waits until it answers.
func (h *Homeserver) Start(ctx context.Context) (err error) {
	h.process, err = startProcess(h.Title, h.LogFile, h.command(context.WithoutCancel(ctx), h.start...))
	if err != nil {
		return err
	}
	return h.process.ready(ctx, func(ctx context.Context) bool { return serves(ctx, h.URL+versionsPath) })
}

// Stop ends the homeserver.
func (h *Homeserver) Stop() error {
	_, err := h.process.stop()
	return err
}

// Restart stops the homeserver, calls the function if there is one, and starts it again.
func (h *Homeserver) Restart(ctx context.Context, between func() error) error {
	if err := h.Stop(); err != nil {
		return err
	}
	if between != nil {
		if err := between(); err != nil {
			return err
		}
	}
	return h.Start(ctx)
}

// WipeDatabase makes a stopped homeserver forget every account. Its keys stay.
func (h *Homeserver) WipeDatabase() error {
	files, err := filepath.Glob(filepath.Join(h.Dir, h.database))
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("there is no %s in %s", h.database, h.Dir)
	}
	for _, file := range files {
		err = errors.Join(err, os.Remove(file))
	}
	return err
}

// Accounts counts the accounts of a user ID in the homeserver's own database.
func (h *Homeserver) Accounts(ctx context.Context, userID string) (int, error) {
	return h.Count(ctx, h.count, userID)
}

// Count runs a command that prints a number, with further words at its end.
func (h *Homeserver) Count(ctx context.Context, command []string, words ...string) (int, error) {
	out, err := h.command(ctx, append(command[:len(command):len(command)], words...)...).CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("count: %w\n%s", err, out)
	}
	return strconv.Atoi(strings.TrimSpace(string(out)))
}

const versionsPath = "/_matrix/client/versions"

// serves tells whether the URL is answered with 200.
func serves(ctx context.Context, url string) bool {
	a, err := call(ctx, http.MethodGet, url, "", nil)
	return err == nil && a.Status == http.StatusOK
}
