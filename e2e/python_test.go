// python_test.go owns what e2e/python says of the Pythons of a machine.

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
)

// The Pythons are scripts here, which stand in for versions and packages that this machine does not have.
func TestPython(t *testing.T) {
	for _, test := range []struct {
		name, homeserver string
		pythons          map[string]string // their minor versions; one that ends in - has no venv
		chosen           string            // by PYTHON
		want             string            // the start of what is printed
		fails            bool
	}{
		{name: "none", homeserver: "synapse-1.163.2", want: "Python: apt-get install python3-venv", fails: true},
		{name: "as it should be", homeserver: "synapse-0.34.0", pythons: map[string]string{"python3": "11"}, want: "python3"},
		{name: "without venv", homeserver: "synapse-1.163.2", pythons: map[string]string{"python3": "13-"}, want: "Python's venv: apt-get install python3-venv", fails: true},
		{name: "too new", homeserver: "synapse-0.34.0", pythons: map[string]string{"python3": "13"}, want: "Python 3.11 or older, not 3.13: install", fails: true},
		{name: "not too new for today's", homeserver: "synapse-1.163.2", pythons: map[string]string{"python3": "13"}, want: "python3"},
		{name: "too new, with an older one", homeserver: "synapse-0.34.0", pythons: map[string]string{"python3": "13", "python3.11": "11"}, want: "python3.11"},
		{name: "too old", homeserver: "synapse-1.163.2", pythons: map[string]string{"python3": "9"}, want: "Python 3.10 or newer, not 3.9: install", fails: true},
		{name: "too old for the libraries of nodes", homeserver: "nodes", pythons: map[string]string{"python3": "9"}, want: "Python 3.10 or newer, not 3.9: install", fails: true},
		{name: "chosen", homeserver: "synapse-0.34.0", pythons: map[string]string{"python3": "13", "other": "11"}, chosen: "other", want: "other"},
		{name: "chosen, and not there", homeserver: "synapse-0.34.0", chosen: "other", want: "Python: ", fails: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, version := range test.pythons {
				minor, broken := strings.CutSuffix(version, "-")
				says := "#!/bin/sh\ncase $2 in *minor*) echo " + minor + " ;; *) exit " + map[bool]string{true: "1", false: "0"}[broken] + " ;; esac\n"
				if err := os.WriteFile(filepath.Join(dir, name), []byte(says), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			cmd := exec.CommandContext(t.Context(), "./python", test.homeserver)
			cmd.Env = []string{"PATH=" + dir, "PYTHON=" + test.chosen}
			out, err := cmd.CombinedOutput()
			said := strings.TrimSpace(string(out))
			if !strings.HasPrefix(said, test.want) || (err != nil) != test.fails {
				t.Errorf("got %q, %v", said, err)
			}
			if _, ok := need.Parse(said); ok != test.fails {
				t.Errorf("%q: a thing and its cure: %v", said, ok)
			}
		})
	}
}
