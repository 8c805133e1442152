// environment_file_test.go owns the tests of reading the environment file.

package config

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v3"
)

func TestParseEnvironment(t *testing.T) {
	text := "\ufeff# a comment\n; another\n\nA=1\r\n B = two words \nC=\"quoted # text\" \nD='sin\\gle'\nE=\nF=\"a\\\"b\"'c'\nG=one \\\n  more\nH=it's\nI=a=b"
	got, err := parseEnvironment(strings.TrimPrefix(text, "\ufeff"))
	want := []string{"A=1", "B=two words", `C=quoted # text`, `D=sin\gle`, "E=", `F=a"bc`, "G=one more", "H=it's", "I=a=b"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v", got, err)
	}
	for text, want := range map[string]string{"A=1\nhunter2\n": "line 2 is not NAME=value", "export A=1": "line 1 is not NAME=value", "A=1\n\nB=\"hunter2": "line 3 opens a quotation mark"} {
		if _, err := parseEnvironment(text); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: got %v", text, err)
		}
	}
}

// The file of the unit gives each command but the daemon and genconfig what neither the command line, nor a variable, nor a run.sh has.
func TestEnvironmentFile(t *testing.T) {
	dir := t.TempDir()
	path, named := filepath.Join(dir, "environment"), filepath.Join(dir, "named")
	write := func(path, content string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(path, "MATRIX_REGSERVICE_MATRIXDOMAIN=file.example\nMATRIX_REGSERVICE_DATAPATH=/file\nMATRIX_REGSERVICE_PORT=8110\n"+
		"MATRIX_REGSERVICE_SHARESECRET_FILE="+credentials+"shared_secret\nGOMEMLIMIT=1GiB\n")
	write(named, "MATRIX_REGSERVICE_DATAPATH=/named\nMATRIX_REGSERVICE_DATAPATH_FILE=\n")
	old := environmentFile
	environmentFile = path
	t.Cleanup(func() { environmentFile = old })
	read := func(t *testing.T, command string, args ...string) Values {
		t.Helper()
		var given Values
		action := func(_ context.Context, cmd *cli.Command) error {
			given = ReadValues(cmd)
			return nil
		}
		root := &cli.Command{Name: Program, Flags: append(Flags(), EnvironmentFlag()), Action: action, Commands: []*cli.Command{
			{Name: "users", Action: action}, {Name: "check", Action: action}, {Name: "genconfig", Action: action},
		}}
		if command != Program {
			args = append([]string{command}, args...)
		}
		if err := root.Run(t.Context(), append([]string{Program}, args...)); err != nil {
			t.Fatal(err)
		}
		return given
	}
	for _, test := range []struct {
		name, command string
		args          []string
		variable      string // MATRIX_REGSERVICE_DATAPATH
		script        map[string]string
		want          string // of --datapath
	}{
		{"the unit's", "users", nil, "", nil, "/file"},
		{"the unit's, for check", "check", nil, "", nil, "/file"},
		{"not the daemon's", Program, nil, "", nil, ".matrix"},
		{"not genconfig's", "genconfig", nil, "", nil, ".matrix"},
		{"named", "users", []string{"--environment", named}, "", nil, "/named"},
		{"named to the daemon", Program, []string{"--environment", named}, "", nil, "/named"},
		{"below a flag", "users", []string{"--datapath", "/flag"}, "", nil, "/flag"},
		{"below a variable", "users", nil, "/variable", nil, "/variable"},
		{"below run.sh", "check", nil, "", map[string]string{FlagDataPath: "/script"}, "/script"},
		{"none of it beside run.sh", "check", nil, "", map[string]string{FlagPort: "8009"}, ".matrix"},
		{"named beside run.sh", "check", []string{"--environment", named}, "", map[string]string{FlagDataPath: "/script"}, "/named"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.variable != "" {
				t.Setenv("MATRIX_REGSERVICE_DATAPATH", test.variable)
			}
			given := read(t, test.command, test.args...)
			given.FillIn(Script{Flags: test.script})
			if got := given.Text(FlagDataPath); got != test.want || given.Err() != nil {
				t.Errorf("got %q, %v, want %q", got, given.Err(), test.want)
			}
		})
	}
	if got, want := read(t, "check").Text(FlagShareSecretFile), filepath.Join(dir, "shared_secret"); got != want {
		t.Errorf("a credential: got %q, want %q", got, want)
	}
	for content, want := range map[string]string{
		"MATRIX_REGSERVICE_DATPATH=/x\n": named + ": there is no variable MATRIX_REGSERVICE_DATPATH: is MATRIX_REGSERVICE_DATAPATH meant?",
		"nonsense\n":                     named + ", line 1 is not NAME=value",
		"MATRIX_REGSERVICE_PORT=many\n":  "MATRIX_REGSERVICE_PORT of " + named + " is not a port",
		"MATRIX_REGSERVICE_DATAPATH=a\nMATRIX_REGSERVICE_DATAPATH_FILE=b": "are both given: keep the file",
	} {
		write(named, content)
		given := read(t, "check", "--environment", named)
		if err := given.into(&Config{SecretArgs: map[string]string{}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v", content, err)
		}
	}
	if err := read(t, "users", "--environment", filepath.Join(dir, "none")).Err(); err == nil || !strings.Contains(err.Error(), "read the environment file: ") {
		t.Errorf("a named file that is not there: got %v", err)
	}
	environmentFile = filepath.Join(dir, "none")
	if err := read(t, "users").Err(); err != nil {
		t.Errorf("no file of the unit: got %v", err)
	}
}
