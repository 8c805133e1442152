// cmd_genconfig_test.go owns what genconfig writes, and for whom.

package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
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
	got, err := renderRegistration(c, "Q7PM2E53RE-"+testServerName, "http://127.0.0.1:8009"+appServicePath)
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
		content, err := renderRegistration(config.Config{ServerName: "x", Host: "127.0.0.1", ASToken: token, HSToken: token}, "ID", "")
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

// Debian's layout: the directory is Synapse's, homeserver.yaml in it root's. What root makes there belongs to who reads it, the
// secret's file too, wherever that is.
func TestGenconfigOwner(t *testing.T) {
	if os.Getuid() != 0 {
		need.Skip(t, need.Missing{What: "root, to give files away", Cure: "run the tests as root"})
	}
	const its, key = 54321, 54322
	secret := filepath.Join(t.TempDir(), "secret")
	t.Chdir(t.TempDir())
	write := func(path, content string, uid int) {
		t.Helper()
		if err := errors.Join(os.WriteFile(path, []byte(content), 0o600), os.Chown(path, uid, uid)); err != nil {
			t.Fatal(err)
		}
	}
	genconfig := func(flags ...string) string {
		t.Helper()
		var out strings.Builder
		args := append([]string{programName, "--" + config.FlagMatrixDomain, "example.org", "--" + config.FlagMatrixURL, "http://127.0.0.1:8007" + homeserver.SharedSecretPath, "genconfig"}, flags...)
		if err := newCommand(&out, io.Discard).Run(t.Context(), args); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	owned := func(by string, uid uint32, paths ...string) {
		t.Helper()
		for _, path := range paths {
			stat, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if owner := stat.Sys().(*syscall.Stat_t); owner.Uid != uid || owner.Gid != uid || stat.Mode().Perm()&0o077 != 0 {
				t.Errorf("by %s: %s belongs to %d:%d with %v, want %d", by, path, owner.Uid, owner.Gid, stat.Mode(), uid)
			}
		}
	}
	write("homeserver.yaml", "server_name: example.org\nregistration_shared_secret_path: "+secret+"\n", 0)
	if err := os.Chown(".", its, its); err != nil {
		t.Fatal(err)
	}
	if out := genconfig(); !strings.Contains(out, "wrote "+secret+" (0600, 54321's: the directory . is its)\n") {
		t.Errorf("got %s", out)
	}
	owned("the directory", its, config.RegistrationFile, config.RunFile, secret)

	write("example.org.signing.key", "", key)
	os.Remove(secret)
	genconfig("--force")
	owned("the key", key, config.RegistrationFile, config.RunFile, secret)

	for _, name := range []string{config.RegistrationFile + ".bak", config.RunFile + ".bak", secret} {
		os.Remove(name)
	}
	if out := genconfig("--force", "--owner", "54323"); !strings.Contains(out, "wrote run.sh (0700, 54323's: --owner names it)\n") {
		t.Errorf("got %s", out)
	}
	owned("--owner", 54323, config.RegistrationFile, config.RunFile, secret)
}

// A localpart has neither colons nor brackets: Synapse does not load the registration of a sender that has some.
func TestRenderSender(t *testing.T) {
	for name, want := range map[string]string{"example.org": "example.org", "localhost:8480": "localhost-8480", "[2001:db8::1]:8448": "2001-db8--1-8448"} {
		content, err := renderRegistration(config.Config{ServerName: name, Host: "127.0.0.1", ASToken: "a", HSToken: "b"}, "ID", "")
		var back config.Registration
		if err != nil || yaml.Unmarshal(content, &back) != nil || back.SenderLocalpart != want {
			t.Errorf("%s: got %q, %v", name, back.SenderLocalpart, err)
		}
	}
}
