// cmd_check_test.go owns the tests of check's command: reading run.sh, the directory, colours.

package main

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/urfave/cli/v3"
)

// Where no run.sh tells it the flags, check says what is needed.
func TestCheckElsewhere(t *testing.T) {
	t.Chdir(t.TempDir())
	if code, said := runs(t, "check"); code != 2 || !strings.Contains(said, "run check in the homeserver's directory") {
		t.Errorf("exit %d\n%s", code, said)
	}
}

// What keeps check from its work ends it with 2: its exit code never says that all is well, nor that a problem was found.
func TestNotChecked(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, args := range [][]string{{"check", "--nothing"}, {"check", "everything"}, {"check", "--public-url", "nowhere"}, {"--port", "0", "--matrixdomain", testServerName, "check"}} {
		if code, said := runs(t, args...); code != exitNotChecked || strings.Count(said, "\n") != 1 {
			t.Errorf("%v: exit %d\n%s", args, code, said)
		}
	}
	if code, _ := runs(t, "users", "--nothing"); code != 1 {
		t.Errorf("users: exit %d, want 1", code)
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		need.Skip(t, need.Missing{What: "/dev/full", Cure: "run the tests on Linux"})
	}
	defer full.Close()
	if code := run([]string{programName, "--matrixdomain", testServerName, "--matrixurl", "http://127.0.0.1:1" + homeserver.SharedSecretPath, "--port", "1", "check", "--public-url", "http://127.0.0.1:1"}, full, io.Discard); code != exitNotChecked {
		t.Errorf("no room for the report: exit %d, want %d", code, exitNotChecked)
	}
}

// Colours are for a terminal alone, and for nobody who has asked for none. The kernel's null device passes for a terminal.
func TestColours(t *testing.T) {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, test := range []struct {
		out           io.Writer
		noColor, term string
		want          bool
	}{{null, "", "xterm", true}, {null, "1", "xterm", false}, {null, "", "dumb", false}, {file, "", "xterm", false}, {io.Discard, "", "xterm", false}} {
		t.Setenv("NO_COLOR", test.noColor)
		t.Setenv("TERM", test.term)
		if got := isColourful(test.out); got != test.want {
			t.Errorf("%+v: got %v", test, got)
		}
	}
}

// What genconfig writes, and what people make of it.
func TestReadScript(t *testing.T) {
	for name, content := range map[string]string{
		"genconfig's": string(renderRun(config.Config{MatrixURL: "http://127.0.0.1:8007" + homeserver.SharedSecretPath, SharedSecretFile: "it's", Port: 8009, ServerName: "example.org", OpsListenPublic: true, AdmitFile: "list"}, "/usr/local/bin/"+programName)),
		"by hand":     "#!/bin/sh\n# starts the service\nnohup ./" + programName + " --port=8009 \\\n  --matrixdomain \"example.org\" --sharesecret-file it\\'s \"$@\" --admit-file list > log &\n",
	} {
		path := filepath.Join(t.TempDir(), config.RunFile)
		if err := os.WriteFile(path, []byte(content), 0o700); err != nil {
			t.Fatal(err)
		}
		s, err := config.ReadScript(path)
		if err != nil || s.Flags[config.FlagPort] != "8009" || s.Flags[config.FlagMatrixDomain] != "example.org" || s.Flags[config.FlagShareSecretFile] != "it's" || s.Flags[config.FlagAdmitFile] != "list" {
			t.Errorf("%s: got %v, %v", name, s.Flags, err)
		}
	}
}

// What run.sh says of the limits goes through the checks of the flags.
func TestScriptLimits(t *testing.T) {
	for _, test := range []struct{ flag, value, want string }{
		{"rate-limit", "2.5", ""},
		{"trusted-proxies", "10.0.0.0/8", ""},
		{"max-inflight", "many", "--max-inflight of run.sh is not a count"},
		{"total-rate-limit", "-3", "is not a rate"},
		{"trusted-proxies", "nginx", "neither an address nor a network"},
	} {
		root := newCommand(io.Discard, io.Discard)
		root.Action = func(_ context.Context, cmd *cli.Command) error {
			given := config.ReadValues(cmd)
			given.FillIn(config.Script{Flags: map[string]string{test.flag: test.value}})
			_, err := config.Read(given)
			return err
		}
		err := root.Run(t.Context(), []string{programName, "--matrixdomain", testServerName})
		if (err != nil) != (test.want != "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("--%s %s: got %v, want %q", test.flag, test.value, err, test.want)
		}
	}
}
