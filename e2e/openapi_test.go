// openapi_test.go owns the test that a linter accepts docs/openapi.yaml.

package e2e

import (
	"path/filepath"
	"testing"
)

func TestOpenAPILint(t *testing.T) {
	linter := filepath.Join(installedNodes(t), "bin/openapi-spec-validator")
	output(t, linter, filepath.Join(checkout(t), "docs/openapi.yaml"))
}
