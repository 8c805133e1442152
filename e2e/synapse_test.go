// synapse_test.go owns that what the program believes of Synapse's reading of its files is what Synapse does.

package e2e

import (
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
