// openapi_test.go owns that another program than the tests' own library takes docs/openapi.yaml for OpenAPI.

package e2e

import (
	"path/filepath"
	"testing"
)

func TestOpenAPILint(t *testing.T) {
	linter := filepath.Join(installedNodes(t), "bin/openapi-spec-validator")
	output(t, linter, filepath.Join(checkout(t), "docs/openapi.yaml"))
}
