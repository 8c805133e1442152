// main_test.go owns the program's command line: the scripts of testdata/script, the daemon's start and end, the help of each
// command.

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/standin"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/log"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/urfave/cli/v3"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	os.Setenv("MATRIX_REGSERVICE_ENVIRONMENT", os.DevNull) // not this machine's, where the package is installed
	flag.Set("test.parallel", "4")                         // whatever the processors: those that run beside others mostly wait; -parallel says otherwise
	testscript.Main(leakChecked{withPostgres{m}}, map[string]func(){programName: main, crashingName: crashing, storeWriter: writeStore})
}

// A leakChecked runs the tests, and fails where a goroutine of theirs still runs when all are over.
type leakChecked struct{ withPostgres }

func (m leakChecked) Run() int {
	code := m.withPostgres.Run()
	if fuzzing := flag.Lookup("test.fuzz"); code != 0 || fuzzing != nil && fuzzing.Value.String() != "" { // which goes on in goroutines of its own
		return code
	}
	http.DefaultClient.CloseIdleConnections() // of the tests' own requests
	// A connection that net/http has refused a request on waits for half a second. It ends by itself, and nothing ends it sooner.
	halfClosed := goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait")
	if err := goleak.Find(halfClosed); err != nil {
		fmt.Fprintln(os.Stderr, "the tests leave goroutines behind:", err)
		return 1
	}
	return code
}

// The command line, as it is typed: testdata/script.
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("MATRIX_REGSERVICE_ENVIRONMENT", os.DevNull)
			env.Values["daemon"] = &scriptedDaemon{stop: func() {}}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"lines":     scriptLines,
			"mode":      scriptMode,
			"listen":    scriptListen,
			"lockstore": scriptLockStore,
			"standin":   scriptStandIn,
			"ethnode":   scriptEthNode,
			"fill":      scriptFill,
			"daemon":    scriptDaemon,
			"plain":     scriptPlain,
			"stopdaemon": func(ts *testscript.TestScript, _ bool, _ []string) {
				ts.Value("daemon").(*scriptedDaemon).stop()
			},
		},
	})
}

// lines FILE N: the file, stdout or stderr has so many lines.
func scriptLines(ts *testscript.TestScript, neg bool, args []string) {
	if got := fmt.Sprint(strings.Count(ts.ReadFile(args[0]), "\n")); (got == args[1]) == neg {
		ts.Fatalf("%s has %s lines", args[0], got)
	}
}

// mode FILE MODE: the file has this mode.
func scriptMode(ts *testscript.TestScript, neg bool, args []string) {
	stat, err := os.Stat(ts.MkAbs(args[0]))
	ts.Check(err)
	if got := fmt.Sprintf("%04o", stat.Mode().Perm()); (got == args[1]) == neg {
		ts.Fatalf("%s has mode %s", args[0], got)
	}
}

// plain: from here on the script runs the program as it is built for operators, without the race detector.
func scriptPlain(ts *testscript.TestScript, _ bool, _ []string) {
	dir := ts.MkAbs("plain")
	out, err := exec.Command("go", "build", "-o", filepath.Join(dir, programName), ".").CombinedOutput()
	if err != nil {
		ts.Fatalf("%v: %s", err, out)
	}
	ts.Setenv("PATH", dir+string(filepath.ListSeparator)+ts.Getenv("PATH"))
}

// listen NAME: somebody else has port $NAME until the script ends.
func scriptListen(ts *testscript.TestScript, _ bool, args []string) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { listener.Close() })
	_, port, err := net.SplitHostPort(listener.Addr().String())
	ts.Check(err)
	ts.Setenv(args[0], port)
}

// lockstore DIR: another instance has the store until the script ends.
func scriptLockStore(ts *testscript.TestScript, _ bool, args []string) {
	s, err := openBoltStore(ts.MkAbs(args[0]), testServerName)
	ts.Check(err)
	ts.Defer(func() { s.Close() })
}

// fill DIR N: a store with so many records.
func scriptFill(ts *testscript.TestScript, _ bool, args []string) {
	s, err := openBoltStore(ts.MkAbs(args[0]), testServerName)
	ts.Check(err)
	count, err := strconv.Atoi(args[1])
	ts.Check(err)
	for i := range count {
		r := testRecord(i, stateRegistered)
		if i%10 == 9 {
			r.State = statePending
		}
		held, err := s.Claim(context.Background(), common.HexToAddress(r.Localpart))
		ts.Check(err)
		ts.Check(held.Save(r))
		held.Release()
	}
	ts.Check(s.Close())
}

type scriptedDaemon struct{ stop func() }

// daemon DIR: this store is served to its operator, until stopdaemon or the script's end.
func scriptDaemon(ts *testscript.TestScript, _ bool, args []string) {
	dir := ts.MkAbs(args[0])
	s, err := openBoltStore(dir, testServerName)
	ts.Check(err)
	stop, err := startOps(context.Background(), service{Config: config.Config{DataPath: dir, ServerName: testServerName}}, s, nil)
	ts.Check(err)
	running := ts.Value("daemon").(*scriptedDaemon)
	running.stop = sync.OnceFunc(func() { stop(); s.Close() })
	ts.Defer(func() { running.stop() })
}

// standin: a homeserver's stand-in with a login, behind it the service: $SERVER is where nodes reach both.
func scriptStandIn(ts *testscript.TestScript, _ bool, args []string) {
	backend := standin.Start()
	ts.Defer(backend.Close)
	store, err := openBoltStore(ts.MkAbs("store"), testServerName)
	ts.Check(err)
	ts.Defer(func() { store.Close() })
	c := config.Config{ServerName: testServerName, Origin: backend.URL, Way: homeserver.SharedSecret, SharedSecret: testSecret}
	front := httptest.NewServer(withLogin(backend, newServer(serviceOf(c), store).handler()))
	ts.Defer(front.Close)
	ts.Setenv("SERVER", front.URL)
}

// ethnode: an Ethereum node's stand-in at $ETHNODE.
func scriptEthNode(ts *testscript.TestScript, _ bool, _ []string) {
	node := httptest.NewServer(&ethNode{balances: map[string]string{}})
	ts.Defer(node.Close)
	ts.Setenv("ETHNODE", node.URL)
}

// withLogin puts a login and the service before the stand-in: who has an account logs in with the password it
// was made with.
func withLogin(backend *standin.Homeserver, service http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle(registerPath, service)
	mux.HandleFunc(homeserver.LoginPath, func(w http.ResponseWriter, r *http.Request) {
		var given struct{ User, Password string }
		json.NewDecoder(r.Body).Decode(&given)
		userID := names.UserID(given.User, testServerName)
		backend.Mu.Lock()
		whole := backend.Whole[userID]
		backend.Mu.Unlock()
		if whole == "" || whole != given.Password {
			says(403, `{"errcode":"M_FORBIDDEN","error":"Invalid username or password"}`)(w, r)
			return
		}
		says(200, fmt.Sprintf(`{"user_id":%q,"access_token":"syt_x"}`, userID))(w, r)
	})
	mux.HandleFunc(homeserver.LogoutPath, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer syt_x" {
			says(401, `{"errcode":"M_MISSING_TOKEN","error":"Missing access token"}`)(w, r)
			return
		}
		says(200, `{}`)(w, r)
	})
	return mux
}

// The daemon listens, says so to systemd, ends on SIGTERM with 0, and starts again on the same store.
func TestDaemon(t *testing.T) {
	backend := newStandIn(t)
	dir := t.TempDir()
	secret := dir + "/secret"
	if err := os.WriteFile(secret, []byte(testSecret), 0o600); err != nil {
		t.Fatal(err)
	}
	notify, err := net.ListenPacket("unixgram", dir+"/notify")
	if err != nil {
		t.Fatal(err)
	}
	defer notify.Close()
	told := make(chan string, 10)
	go func() {
		for buf := make([]byte, 200); ; {
			n, _, err := notify.ReadFrom(buf)
			if err != nil {
				return
			}
			told <- string(buf[:n])
		}
	}()

	proof, _ := newProof(t)
	for run, want := range []int{200, 409} {
		cmd := exec.Command(programForTest(t), "--matrixdomain", testServerName, "--matrixurl", backend.URL+homeserver.SharedSecretPath,
			"--hstoken", testHSToken, "--port", "0", "--ops-listen", "127.0.0.1:0", "--datapath", "store")
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+dir+"/notify", "MATRIX_REGSERVICE_SHARESECRET_FILE="+secret)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ready := expectTold(t, told, readyForm)
		nodes, operator := ready[1], ready[2]
		if status := postTo(t, "http://"+nodes+registerPath, proof); status != want {
			t.Errorf("run %d: got %d, want %d", run, status, want)
		}
		if res, err := http.Get("http://" + operator + "/livez"); err != nil || res.StatusCode != 200 {
			t.Errorf("run %d: /livez: got %v, %v", run, res, err)
		} else {
			res.Body.Close()
		}
		cmd.Process.Signal(syscall.SIGTERM)
		expectTold(t, told, stoppingForm)
		if err := cmd.Wait(); err != nil {
			t.Errorf("run %d: %v", run, err)
		}
		said := stderr.String()
		for _, words := range []string{"Listening", " address=" + nodes + " ", " ops_address=" + operator + "\n"} {
			if !strings.Contains(said, words) || strings.Contains(said, testSecret) {
				t.Errorf("run %d: want %q in the log: %s", run, words, said)
			}
		}
	}
}

// programForTest is this test binary, which testscript lets run as the program.
func programForTest(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath(programName)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func postTo(t *testing.T, url string, proof registration) int {
	t.Helper()
	body, err := json.Marshal(proof)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.Post(url, "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	return res.StatusCode
}

var (
	readyForm    = regexp.MustCompile(`^READY=1\nSTATUS=Serving nodes at (\S+:[1-9]\d*)(?:, health and metrics at (\S+:[1-9]\d*))?$`)
	stoppingForm = regexp.MustCompile(`^STOPPING=1$`)
)

// expectTold returns what systemd is told, in parts.
func expectTold(t *testing.T, told chan string, want *regexp.Regexp) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	select {
	case got := <-told:
		if parts := want.FindStringSubmatch(got); parts != nil {
			return parts
		}
		t.Fatalf("systemd was told %q, want %q", got, want)
	case <-ctx.Done():
		t.Fatalf("systemd was not told %q", want)
	}
	return nil
}

// Each start says which secrets every user of the machine can read.
func TestWarnOfReaders(t *testing.T) {
	t.Chdir(t.TempDir())
	write := func(name, content string, mode os.FileMode) {
		if err := os.WriteFile(name, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
	}
	write("url", "postgres://u:Geheim0815@127.0.0.1:1/db", 0o644)
	write("secret", "Geheim0815", 0o604)
	write("rpc", "http://127.0.0.1:1/Geheim0815", 0o644)
	write("private", "Geheim0815", 0o640)
	write(config.RegistrationFile, "id: x\nas_token: a\nhs_token: h\n", 0o600)
	const url, keyed = "postgres://u:Geheim0815@127.0.0.1:1/db", "http://127.0.0.1:1/Geheim0815"
	for _, test := range []struct {
		args, environment string
		want              string
	}{
		{"--datapath-file url --sharesecret-file secret", "", "file=secret mode=0604, file=url mode=0644"},
		{"--sharesecret-file private --eth-rpc-file rpc --min-balance 1", "", "file=rpc mode=0644"},
		{"--sharesecret-file private", "", ""},
		{"--datapath " + url + " --sharesecret-file private", "", "flag=--datapath instead=--datapath-file"},
		{"--sharesecret Geheim0815", "", "flag=--sharesecret instead=--sharesecret-file"},
		{"--eth-rpc " + keyed + " --min-balance 1 --sharesecret-file private", "", "flag=--eth-rpc instead=--eth-rpc-file"},
		{"--sharesecret-file private", "DATAPATH=" + url, ""},
		{"--datapath " + url + " --sharesecret-file private", "DATAPATH=.matrix", "flag=--datapath instead=--datapath-file"},
		{"--sharesecret-file private", "FREE_TEXT=Geheim0815", "variables=MATRIX_REGSERVICE_FREE_TEXT"},
	} {
		t.Run(test.args, func(t *testing.T) {
			if name, value, ok := strings.Cut(test.environment, "="); ok {
				t.Setenv("MATRIX_REGSERVICE_"+name, value)
			}
			var c config.Config
			root := newCommand(io.Discard, io.Discard)
			root.Action = func(_ context.Context, cmd *cli.Command) (err error) {
				c, err = config.ReadServing(cmd)
				return err
			}
			args := []string{programName, "--matrixdomain", testServerName, "--matrixurl", "http://127.0.0.1:1" + homeserver.SharedSecretPath}
			if err := root.Run(t.Context(), append(args, strings.Fields(test.args)...)); err != nil {
				t.Fatal(err)
			}
			captureLog(t) // puts the log back afterwards
			var lines strings.Builder
			log.SetDefault(log.NewLogger(log.LogfmtHandler(&lines)))
			warnOfReaders(c)
			var got []string
			for line := range strings.Lines(lines.String()) {
				if _, keys, ok := strings.Cut(strings.TrimSpace(line), `" `); ok && strings.Contains(line, "lvl=warn") {
					got = append(got, keys)
				}
			}
			if said := strings.Join(got, ", "); said != test.want || strings.Contains(lines.String(), "Geheim") {
				t.Errorf("got %s, want %s\n%s", said, test.want, lines.String())
			}
		})
	}
}

// A command is not ended by what it does not read.
func TestReadsItsOwnFlagsOnly(t *testing.T) {
	root := newCommand(io.Discard, io.Discard)
	names := []string{programName}
	for _, cmd := range root.Commands {
		names = append(names, cmd.Name)
	}
	for _, row := range config.Table {
		for _, reader := range row.ReadBy {
			if !slices.Contains(names, reader) {
				t.Errorf("--%s is read by %s, which is no command", row.Name, reader)
			}
		}
	}
	t.Setenv("MATRIX_REGSERVICE_PORT", "http")
	for _, name := range names {
		var got string
		root := newCommand(io.Discard, io.Discard)
		read := func(_ context.Context, cmd *cli.Command) error {
			got = config.ReadValues(cmd).Text(config.FlagPort)
			return nil
		}
		root.Action = read
		args := []string{programName}
		for _, cmd := range root.Commands {
			cmd.Action, cmd.Before = read, nil
		}
		if name != programName {
			args = append(args, name)
		}
		want := "8009"
		if port := slices.IndexFunc(config.Table, func(row config.Row) bool { return row.Name == config.FlagPort }); config.Table[port].IsReadBy(name) {
			want = "http"
		}
		if err := root.Run(t.Context(), args); err != nil || got != want {
			t.Errorf("%s: got port %q, want %q, %v", name, got, want, err)
		}
	}
}

// The help of each command names the flags that it reads, and its own, and no others.
func TestHelpOfEachCommand(t *testing.T) {
	named := regexp.MustCompile(`(?m)^   --([a-z-]+)`)
	for _, cmd := range newCommand(io.Discard, io.Discard).Commands {
		want, readsTable := []string{"help"}, false
		for _, flag := range cmd.Flags {
			want = append(want, flag.Names()[0])
		}
		for _, row := range config.Table {
			if row.IsReadBy(cmd.Name) {
				want = append(want, row.Name)
				readsTable = true
			}
		}
		if readsTable {
			want = append(want, config.FlagEnvironment)
		}
		slices.Sort(want)
		for _, args := range [][]string{{cmd.Name, "--help"}, {"help", cmd.Name}, {"--" + config.FlagPort, "1", cmd.Name, "-h"}} {
			var out strings.Builder
			if err := newCommand(&out, io.Discard).Run(t.Context(), append([]string{programName}, args...)); err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, match := range named.FindAllStringSubmatch(out.String(), -1) {
				got = append(got, match[1])
			}
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("%q: got %v, want %v", args, got, want)
			}
		}
	}
	var out strings.Builder
	if err := newCommand(&out, io.Discard).Run(t.Context(), []string{programName, "--help"}); err != nil {
		t.Fatal(err)
	}
	for _, row := range config.Table {
		if !strings.Contains(out.String(), "--"+row.Name+" ") || !strings.Contains(out.String(), "[$"+row.Variable()+"]") {
			t.Errorf("the help of all has no --%s", row.Name)
		}
	}
}

// A value that a flag cannot have is refused in our own words, whichever command the flag is of: no parser's text reaches an operator.
func TestBadValues(t *testing.T) {
	t.Chdir(t.TempDir())
	root := newCommand(io.Discard, io.Discard)
	seen := 0
	for _, cmd := range root.Commands { // the root's flags are texts, which config reads
		for _, flag := range cmd.Flags {
			switch flag.(type) {
			case *cli.StringFlag, *cli.StringSliceFlag:
				continue
			}
			seen++
			for _, bad := range []string{"7x", "99999999999999999999", "08.5.1"} {
				args := []string{programName, cmd.Name, "--" + flag.Names()[0] + "=" + bad}
				var stderr strings.Builder
				if code := run(args, io.Discard, &stderr); code == 0 {
					t.Errorf("%v: accepted", args)
				}
				if said := stderr.String(); strings.Contains(said, "strconv") || strings.Contains(said, "pars") || strings.Contains(said, "range") || strings.Contains(said, "flag -") || strings.Count(said, "\n") != 1 {
					t.Errorf("%v: got %q", args, said)
				}
			}
		}
	}
	if seen < 5 {
		t.Errorf("only %d flags are no texts", seen)
	}
}
