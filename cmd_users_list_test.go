// cmd_users_list_test.go owns which nodes a listing has, in which order, and how one goes on, in both stores and by the daemon.

package main

import (
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
)

func TestSelection(t *testing.T) {
	eachEngine(t, func(t *testing.T, fresh func(testing.TB) opener) {
		captureLog(t)
		dataPath := t.TempDir()
		isPostgres := strings.HasSuffix(t.Name(), "PostgreSQL")
		if isPostgres {
			dataPath = newDatabase(t)
		}
		s := opened(t, dataPath)
		const count = 30
		var all []record
		for i := range count { // one in ten pending, as the addresses go not in the order of their times
			r := testRecord(i, stateRegistered)
			if i%10 == 9 {
				r.State = statePending
			}
			keepRecord(t, s, r)
			all = append(all, r)
		}
		banned(t, s, all[3])
		bare := testRecord(1000, "")
		banned(t, s, bare)
		byAddress := slices.Clone(all)
		byAddress = append(byAddress, record{Localpart: bare.Localpart})
		slices.SortFunc(byAddress, func(a, b record) int { return strings.Compare(a.Localpart, b.Localpart) })
		stop, err := startOps(t.Context(), awayService(dataPath), s, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { stop() }()
		list := func(args ...string) (found []string, said string) {
			t.Helper()
			var out, errs strings.Builder
			if code := run(append([]string{programName, "--datapath", dataPath, "users", "--format", "csv"}, args...), &out, &errs); code != 0 {
				t.Fatalf("%v: exit %d: %s", args, code, &errs)
			}
			for line := range strings.Lines(out.String()) {
				if first, _, _ := strings.Cut(line, ","); first != "localpart" {
					found = append(found, strings.TrimSpace(first))
				}
			}
			return found, errs.String()
		}
		localparts := func(records []record) (found []string) {
			for _, r := range records {
				found = append(found, r.Localpart)
			}
			return found
		}
		check := func(t *testing.T) {
			newest := slices.Clone(all)
			slices.Reverse(newest)
			pending := slices.DeleteFunc(slices.Clone(newest), func(r record) bool { return r.State != statePending })
			onlyBanned := []record{all[3], bare}
			slices.SortFunc(onlyBanned, func(a, b record) int { return strings.Compare(a.Localpart, b.Localpart) })
			for _, test := range []struct {
				args []string
				want []record
			}{
				{nil, byAddress},
				{[]string{"--limit", "7"}, byAddress[:7]},
				{[]string{"--limit", "7", "--after", common.HexToAddress(byAddress[6].Localpart).Hex()}, byAddress[7:14]},
				{[]string{"--after", byAddress[29].Localpart}, byAddress[30:]},
				{[]string{"--state", "banned"}, onlyBanned},
				{[]string{"--newest", "--limit", "5", "--state", "registered"}, slices.DeleteFunc(slices.Clone(newest), func(r record) bool { return r.State != stateRegistered })[:5]},
				{[]string{"--newest", "--state", "pending"}, pending},
				{[]string{"--newest", "--state", "pending", "--after", pending[0].Localpart}, pending[1:]},
				{[]string{"--newest", "--since", all[28].Created.Format(time.RFC3339), "--state", "registered"}, []record{all[28]}},
				{[]string{"--newest", "--since", "1h"}, nil},
			} {
				got, said := list(test.args...)
				if !slices.Equal(got, localparts(test.want)) && !(len(test.args) > 3 && test.args[2] == "--since" && len(got) == len(test.want)) {
					t.Errorf("%v: got %v, want %v", test.args, got, localparts(test.want))
				}
				if more := slices.Contains(test.args, "--limit"); more != strings.Contains(said, "go on with --after "+lastOf(got)+"\n") {
					t.Errorf("%v: got %q", test.args, said)
				}
			}
			for want, args := range map[string][]string{"31": nil, "27": {"--state", "registered"}, "2": {"--state", "banned"}, "3": {"--since", all[27].Created.Format(time.RFC3339), "--state", ""}} {
				var out, errs strings.Builder
				run(append([]string{programName, "--datapath", dataPath, "users", "--count"}, args...), &out, &errs)
				if got := strings.TrimSpace(out.String()); got != want && !(want == "3" && got == "4") { // the bare ban is of today
					t.Errorf("%v: got %q %s, want %s", args, got, &errs, want)
				}
			}
		}
		t.Run("with a daemon", check)
		if !isPostgres { // which is read without one anyway
			stop()
			stop = func() {}
			s.Close()
			t.Run("without", check)
		}
		for _, test := range []struct{ args, want string }{
			{"--since yesterday", "--since is not a time"}, {"--limit 0", "--limit must be 1 or more"}, {"--newest --limit 10001", "at most 10000"},
			{"--state gone", "is not a state"}, {"--after x", "--after: that is not an address"}, {"--count " + bare.Localpart, "--count is for a list"},
			{"--newest --after " + testRecord(5555, "").Localpart, "no record of the node to go on after"},
		} {
			if code, said := runs(t, append([]string{"--datapath", dataPath, "users"}, strings.Fields(test.args)...)...); code != 1 || !strings.Contains(said, test.want) {
				t.Errorf("%s: exit %d: %s", test.args, code, said)
			}
		}
	})
}

func lastOf(found []string) string {
	if len(found) == 0 {
		return "nothing"
	}
	return found[len(found)-1]
}

// A reader that goes away, as head does, is no error.
func TestUsersPipe(t *testing.T) {
	if os.Getenv("USERS_OF") != "" {
		os.Exit(run([]string{programName, "--datapath", os.Getenv("USERS_OF"), "users"}, os.Stdout, os.Stderr))
	}
	dir := t.TempDir()
	s, err := openBoltStore(dir, testServerName)
	if err != nil {
		t.Fatal(err)
	}
	fillStore(t, s, 5000)
	s.Close()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestUsersPipe$")
	cmd.Env = append(os.Environ(), "USERS_OF="+dir)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	io.ReadFull(out, make([]byte, 100))
	out.Close()
	if err := cmd.Wait(); err != nil || errs.String() != "" {
		t.Errorf("got %v, %s", err, &errs)
	}
}
