//go:build !linux

// another_other_test.go owns the skip of another_linux_test.go's tests on other systems.

package synapse

import (
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
)

func asAnother(t *testing.T, _ func()) {
	t.Helper()
	need.Skip(t, need.Missing{What: "a user of one thread", Cure: "run the tests on Linux"})
}
