// Package proof owns the tests that look for what nobody thought of: random runs of the program as it is built against a
// model of what is true, and peers that speak bytes. It plays the program's surroundings and knows nothing of its code.
//
// main_test.go owns what is built and started once for all of them.
package proof

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e"
)

var (
	scratch string // of this run, removed at its end

	// withClock is the program with a clock that can be set and with the race detector.
	withClock = sync.OnceValues(func() (*e2e.Program, error) {
		dir, err := os.MkdirTemp(scratch, "clock-")
		if err != nil {
			return nil, err
		}
		return buildWithClock(context.Background(), dir)
	})

	// asBuilt is the program as operators build it.
	asBuilt = sync.OnceValues(func() (*e2e.Program, error) {
		dir, err := os.MkdirTemp(scratch, "built-")
		if err != nil {
			return nil, err
		}
		return e2e.Build(context.Background(), dir)
	})
)

func TestMain(m *testing.M) { os.Exit(runAll(m)) }

func runAll(m *testing.M) int {
	var err error
	if scratch, err = os.MkdirTemp("", "proof-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(scratch)
	os.Setenv("MATRIX_REGSERVICE_ENVIRONMENT", os.DevNull) // not this machine's, where the package is installed
	os.Setenv("GORACE", "atexit_sleep_ms=0")               // of the programs that are started: each would sleep a second at its end
	code := m.Run()
	if err := endPostgres(); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return code
}
