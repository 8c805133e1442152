// synapse_test.go owns that what the program believes of Synapse's reading of its files is what Synapse does.

package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
)

// The golden files of internal/synapse, which its reader is held against, are what the installed Synapses say today.
func TestSynapseReads(t *testing.T) {
	const dir = "../internal/synapse/testdata"
	for _, r := range Recipes {
		t.Run(r.Name, func(t *testing.T) {
			need.All(t, r.Installed(t.Context()))
			want := must(os.ReadFile(filepath.Join(dir, r.Name+".json")))(t)
			ask := exec.CommandContext(t.Context(), filepath.Join(r.bin, "python"), filepath.Join(dir, "golden.py"))
			got, err := ask.Output()
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != string(want) {
				t.Errorf("%s reads otherwise than its golden file says: see the first lines of golden.py", r.Title)
			}
		})
	}
}

// loadAll tells of each registration whether Synapse takes it.
const loadAll = `import json, sys, yaml
from synapse.config import appservice
taken = []
for text in json.load(sys.stdin):
    try:
        appservice._load_appservice("transport02.smartmesh.cn", yaml.safe_load(text), "registration.yaml")
        taken.append(True)
    except Exception:
        taken.append(False)
print(json.dumps(taken))`

// What check says of a registration.yaml, that Synapse takes it or not, is what Synapse does.
func TestSynapseLoads(t *testing.T) {
	content := must(os.ReadFile("../internal/check/testdata/registrations.json"))(t)
	var rows []struct{ Name, Text, Refused string }
	if err := json.Unmarshal(content, &rows); err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, row := range rows {
		texts = append(texts, row.Text)
	}
	r := Recipes[0] // today's: 0.34.0 is imported by createuser.py alone
	need.All(t, r.Installed(t.Context()))
	ask := exec.CommandContext(t.Context(), filepath.Join(r.bin, "python"), "-c", loadAll)
	ask.Stdin = bytes.NewReader(must(json.Marshal(texts))(t))
	var taken []bool
	if err := json.Unmarshal(must(ask.Output())(t), &taken); err != nil || len(taken) != len(rows) {
		t.Fatalf("got %v, %v", taken, err)
	}
	for i, row := range rows {
		if taken[i] != (row.Refused == "") {
			t.Errorf("%s: it takes it is %v, and check says %q", row.Name, taken[i], row.Refused)
		}
	}
}
