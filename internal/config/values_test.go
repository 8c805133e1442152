// values_test.go owns the table of flags: each has its line, its number, and one meaning.

package config

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v3"
)

// configOf reads the config that the command makes of the arguments, with the variables "NAME=value" without their prefix.
func configOf(t *testing.T, args, environment []string) (Config, error) {
	t.Helper()
	for _, entry := range environment {
		name, value, _ := strings.Cut(entry, "=")
		t.Setenv(environmentPrefix+name, value)
	}
	var c Config
	root := &cli.Command{Name: Program, Flags: append(Flags(), EnvironmentFlag()), Action: func(_ context.Context, cmd *cli.Command) (err error) {
		c, err = Read(ReadValues(cmd))
		return err
	}}
	err := root.Run(t.Context(), append([]string{Program, "--" + FlagMatrixDomain, "example.org"}, args...))
	return c, err
}

// Of a flag and the one in its place, one counts.
func TestAlternatives(t *testing.T) {
	t.Chdir(t.TempDir())
	const file = "url"
	os.WriteFile(file, []byte("postgres://u@db/x\n"), 0o600)
	os.WriteFile("rpc", []byte("http://127.0.0.1:8546\n"), 0o600)
	for _, test := range []struct {
		name              string
		args, environment []string
		dataPath, rpc     string // as they are then; the file's name where that counts
		want              string // in the error
	}{
		{"neither", nil, nil, ".matrix", "", ""},
		{"run.sh's directory, then a file", []string{"--datapath", "store", "--datapath-file", file}, nil, "postgres://u@db/x", "", ""},
		{"a file, then a directory", []string{"--datapath-file", file, "--datapath", "store"}, nil, "store", "", ""},
		{"the later one of two", []string{"--datapath", "store", "--datapath-file", file, "--datapath", "other"}, nil, "other", "", ""},
		{"the command line before the environment", []string{"--datapath", "store"}, []string{"DATAPATH_FILE=" + file}, "store", "", ""},
		{"and the other way", []string{"--datapath-file", file}, []string{"DATAPATH=store"}, "postgres://u@db/x", "", ""},
		{"both from the environment", nil, []string{"DATAPATH=store", "DATAPATH_FILE=" + file}, "", "", "MATRIX_REGSERVICE_DATAPATH and MATRIX_REGSERVICE_DATAPATH_FILE are both given: keep the file"},
		{"an empty variable is none", nil, []string{"DATAPATH=", "DATAPATH_FILE=" + file}, "postgres://u@db/x", "", ""},
		{"an empty file's name", []string{"--datapath", "store", "--datapath-file", ""}, nil, "", "", "--datapath-file is empty"},
		{"a URL, then a file", []string{"--eth-rpc", "http://127.0.0.1:8545", "--min-balance", "1", "--eth-rpc-file", "rpc"}, nil, ".matrix", "rpc", ""},
		{"both URLs from the environment", nil, []string{"ETH_RPC=http://127.0.0.1:8545", "ETH_RPC_FILE=rpc", "MIN_BALANCE=1"}, "", "", "are both given: keep the file"},
		{"an empty URL", []string{"--eth-rpc", ""}, nil, "", "", "--eth-rpc is set but empty"},
		{"an empty URL in the environment", nil, []string{"ETH_RPC="}, "", "", "MATRIX_REGSERVICE_ETH_RPC is set but empty"},
		{"an empty URL file", nil, []string{"ETH_RPC_FILE="}, "", "", "MATRIX_REGSERVICE_ETH_RPC_FILE is set but empty"},
		{"an empty balance", nil, []string{"MIN_BALANCE="}, "", "", "MATRIX_REGSERVICE_MIN_BALANCE is set but empty"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := configOf(t, test.args, test.environment)
			if test.want != "" {
				if err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("got %v, want %q", err, test.want)
				}
				return
			}
			if err != nil || c.DataPath != test.dataPath || c.EthRPC+c.EthRPCFile != test.rpc {
				t.Errorf("got %q and %q, %v", c.DataPath, c.EthRPC+c.EthRPCFile, err)
			}
		})
	}
}

// Every number of the table is decimal, within its bounds, and told by where it stands; none is repeated that is no number.
func TestNumbers(t *testing.T) {
	const secret = "LODE52N2CKVXMOURUMAWLEEEXMWB4DKIKRI246XD"
	for _, row := range Table {
		if row.kind != kindCount && row.kind != kindRate {
			continue
		}
		for _, bad := range []string{secret, "http", "-1", "0x10", "0x1p4", "1_0", "1e", "99999999999", "123456789012345678901234567890", " 1", "", "NaN"} {
			_, err := configOf(t, []string{"--" + row.Name, bad}, nil)
			if err == nil || !strings.HasPrefix(err.Error(), "--"+row.Name) || strings.Contains(err.Error(), "strconv") || len(bad) > 8 && strings.Contains(err.Error(), bad) {
				t.Errorf("--%s %q: got %v", row.Name, bad, err)
			}
			if bad == "" { // a variable is then not given
				continue
			}
			t.Run("", func(t *testing.T) {
				_, err := configOf(t, nil, []string{strings.TrimPrefix(row.Variable(), environmentPrefix) + "=" + bad})
				if err == nil || !strings.HasPrefix(err.Error(), row.Variable()+" ") || len(bad) > 8 && strings.Contains(err.Error(), bad) {
					t.Errorf("%s=%q: got %v", row.Variable(), bad, err)
				}
			})
		}
		c, err := configOf(t, []string{"--" + row.Name, "0004"}, nil)
		if got := written(row.at(&c)); err != nil || got != "4" {
			t.Errorf("--%s 0004: got %s, %v", row.Name, got, err)
		}
	}
}

// What the rows of the table say of each other is so.
func TestTable(t *testing.T) {
	for _, row := range Table {
		if row.instead != "" && rowOf(row.instead) == nil {
			t.Errorf("--%s is in the place of --%s, which is no flag", row.Name, row.instead)
		}
		if inGuide := slices.Contains(guideOrder, row.Name); inGuide != (row.script == alwaysInGuide) {
			t.Errorf("--%s: in the guide's order %t", row.Name, inGuide)
		}
	}
}
