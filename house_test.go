// house_test.go owns how the house is laid out: CONTRIBUTING.md says it to people, the tests here hold it.

package main

import (
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// moduleFiles returns all Go files of the checkout: the program's, the tests', and those of the tools beside them.
func moduleFiles(t *testing.T) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != "." && (strings.HasPrefix(d.Name(), ".") || strings.HasPrefix(d.Name(), "_")): // as go list leaves them out
			return fs.SkipDir
		case !d.IsDir() && strings.HasSuffix(path, ".go"):
			files = append(files, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"main.go", "internal/redact/redact.go", "e2e/process.go", "e2e/cover/main.go"} {
		if !slices.Contains(files, filepath.FromSlash(want)) {
			t.Fatalf("%s is not among the files of the module: %v", want, files)
		}
	}
	return files
}

// isProgram reports whether the program is built from the file: it is in the root or below internal, and no test.
func isProgram(file string) bool {
	inHouse := filepath.Dir(file) == "." || strings.HasPrefix(file, "internal"+string(filepath.Separator))
	return inHouse && !strings.HasSuffix(file, "_test.go")
}
