// program_test.go owns that a change anywhere in the program makes go test run the tests here again.

package e2e

import (
	"path/filepath"
	"slices"
	"testing"
)

func TestWatchesEveryPackageOfTheProgram(t *testing.T) {
	root := must(moduleRoot(t.Context()))(t)
	dirs := must(sourceDirs(t.Context(), root))(t)
	for _, want := range []string{".", "internal/redact"} {
		if !slices.Contains(dirs, filepath.Join(root, want)) {
			t.Errorf("%s is not watched: %q", want, dirs)
		}
	}
	if slices.Contains(dirs, filepath.Join(root, "e2e")) {
		t.Errorf("the program is not built from e2e: %q", dirs)
	}
	if err := watchSource(t.Context(), root); err != nil {
		t.Error(err)
	}
}
