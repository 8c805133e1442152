package main

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/ethereum/go-ethereum/log"
	"github.com/urfave/cli/v3"
)

// An error about a file names the file and the key, and never quotes what stands there.
func TestReadRegistration(t *testing.T) {
	tests := []struct {
		name, content string
		given         config
		want          string
	}{
		{"good", "as_token: sekrit1\nhs_token: sekrit2\n", config{}, ""},
		{"a flag repeats it", "as_token: sekrit1\nhs_token: sekrit2\n", config{asToken: "sekrit1"}, ""},
		{"a flag contradicts", "as_token: sekrit1\nhs_token: sekrit2\n", config{hsToken: "sekrit3"}, "--hstoken is not the hs_token of"},
		{"no hs_token", "as_token: sekrit1\n", config{}, "has no hs_token"},
		{"empty", "", config{}, "has no as_token"},
		{"a number", "as_token: 5318008\nhs_token: sekrit2\n", config{}, "as_token must be a string"},
		{"a list", "as_token: [sekrit1]\nhs_token: sekrit2\n", config{}, "as_token must be a string"},
		{"a list of all", "- sekrit1\n", config{}, "is not a YAML mapping"},
		{"text", "sekrit1", config{}, "is not a YAML mapping"},
		{"broken", "as_token: sekrit1\n\ths_token: sekrit2\n", config{}, "is not a YAML mapping of settings: line 2"},
		{"a line break", "as_token: \"sekrit1\\nX: y\"\nhs_token: sekrit2\n", config{}, "as_token has characters"},
		{"a space", "as_token: sekrit1 sekrit\nhs_token: sekrit2\n", config{}, "as_token has characters"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "registration.yaml")
			if err := os.WriteFile(path, []byte(test.content), 0o600); err != nil {
				t.Fatal(err)
			}
			c := test.given
			err := c.readTokens(path, true)
			if test.want == "" && (err != nil || c.asToken != "sekrit1" || c.hsToken != "sekrit2") {
				t.Errorf("got %+v, %v", c, err)
			}
			if test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), path)) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			if err != nil && (strings.Contains(err.Error(), "sekrit") || strings.Contains(err.Error(), "5318008")) {
				t.Errorf("quotes the file: %v", err)
			}
		})
	}
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
	write(registrationFile, "id: x\nas_token: a\nhs_token: h\n", 0o600)
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
				t.Setenv(environmentPrefix+name, value)
			}
			var c config
			root := newCommand(io.Discard, io.Discard)
			root.Action = func(_ context.Context, cmd *cli.Command) (err error) {
				c, err = readServeConfig(cmd)
				return err
			}
			args := []string{programName, "--matrixdomain", testServerName, "--matrixurl", "http://127.0.0.1:1" + homeserver.SharedSecretPath}
			if err := root.Run(t.Context(), append(args, strings.Fields(test.args)...)); err != nil {
				t.Fatal(err)
			}
			captureLog(t) // puts the log back afterwards
			var lines strings.Builder
			log.SetDefault(log.NewLogger(log.LogfmtHandler(&lines)))
			c.warnOfReaders()
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
