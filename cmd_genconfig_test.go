package main

import (
	"context"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/urfave/cli/v3"
	"gopkg.in/yaml.v2"
)

// defaultConfig is what nothing but defaults makes.
func defaultConfig(t *testing.T) config.Config {
	t.Helper()
	root := newCommand(io.Discard, io.Discard)
	var c config.Config
	var err error
	root.Action = func(_ context.Context, cmd *cli.Command) error {
		c, err = config.Read(config.ReadValues(cmd))
		return err
	}
	if err := root.Run(t.Context(), []string{programName, "--" + config.FlagMatrixDomain, testServerName}); err != nil {
		t.Fatal(err)
	}
	return c
}

// The two files as the guide has them, to the byte.
func TestRender(t *testing.T) {
	c := defaultConfig(t)
	c.ServerName, c.ASToken, c.HSToken, c.Verbosity = testServerName, testASToken, testHSToken, runVerbosity
	got, err := renderRegistration(c, "Q7PM2E53RE")
	want := `id: Q7PM2E53RE-transport02.smartmesh.cn
hs_token: RNI4CGEDTKC4WJTB4RZWRK4NOKA7M4PREUW6F2GZ
as_token: LODE52N2CKVXMOURUMAWLEEEXMWB4DKIKRI246XD
url: http://127.0.0.1:8009/regapp/1
sender_localpart: transport02.smartmesh.cn
protocols:
- regapp.transport02.smartmesh.cn
namespaces:
  users:
  - exclusive: false
    regex: '@.*'
  aliases: []
  rooms: []
`
	if err != nil || string(got) != want {
		t.Errorf("registration.yaml: got %s, %v", got, err)
	}

	wantRun := `#!/bin/sh
self=$(readlink -f -- "$0") && cd -- "$(dirname -- "$self")" || exit 1
exec matrix-regservice --astoken LODE52N2CKVXMOURUMAWLEEEXMWB4DKIKRI246XD --hstoken RNI4CGEDTKC4WJTB4RZWRK4NOKA7M4PREUW6F2GZ --matrixurl http://127.0.0.1:8008/_matrix/client/api/v1/createUser --host 127.0.0.1 --port 8009 --datapath .matrix --matrixdomain transport02.smartmesh.cn --verbosity 5 "$@"
`
	if got := string(renderRun(c, programName)); got != wantRun {
		t.Errorf("run.sh: got %s", got)
	}
}

// A token that YAML would read as something else is quoted.
func TestRenderOddTokens(t *testing.T) {
	for _, token := range []string{"5318008", "true", "null", "1e10", "~", "a: b", "#x", "'", `"`} {
		content, err := renderRegistration(config.Config{ServerName: "x", Host: "127.0.0.1", ASToken: token, HSToken: token}, "ID")
		var back config.Registration
		if err != nil || yaml.Unmarshal(content, &back) != nil || back.ASToken != token || back.HSToken != token {
			t.Errorf("%s: got %+v, %v", token, back, err)
		}
	}
}

func TestRandomText(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		text := randomText(tokenLength)
		if len(text) != tokenLength || strings.Trim(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") != "" || seen[text] {
			t.Fatalf("got %q", text)
		}
		seen[text] = true
	}
}

// The file that go run makes is gone when it ends: run.sh may not name it.
func TestGoRunIsRefused(t *testing.T) {
	for range 2 { // the second time it comes from Go's cache
		cmd := exec.Command("go", "run", ".", "--matrixdomain", "example.org", "genconfig")
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), "build it first (go build)") {
			t.Errorf("got %s, %v", out, err)
		}
	}
	if _, err := os.Lstat(config.RegistrationFile); err == nil {
		os.Remove(config.RegistrationFile)
		os.Remove(config.RunFile)
		t.Error("files were written")
	}
}
