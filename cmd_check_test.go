package main

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/urfave/cli/v3"
)

// Where no run.sh tells it the flags, check says what is needed.
func TestCheckElsewhere(t *testing.T) {
	t.Chdir(t.TempDir())
	if code, said := runs(t, "check"); code != 1 || !strings.Contains(said, "run check in the homeserver's directory") {
		t.Errorf("exit %d\n%s", code, said)
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
		{"max-inflight", "many", "--max-inflight of run.sh is not a number of them"},
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
