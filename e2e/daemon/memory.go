// memory.go owns how much memory of its own a process has.

package daemon

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
)

// NeedMemory skips the test where the system does not tell the memory of a process.
func NeedMemory(t testing.TB) {
	t.Helper()
	_, err := AnonymousMemory(os.Getpid())
	need.All(t, err)
}

// AnonymousMemory is a process's RssAnon in bytes: what is its own, and not the kernel's to drop.
func AnonymousMemory(pid int) (bytes int64, err error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil && pid != os.Getpid() {
		return 0, err
	}
	var kib int64
	for line := range strings.Lines(string(content)) {
		if _, err := fmt.Sscanf(line, "RssAnon: %d kB", &kib); err == nil {
			return kib << 10, nil
		}
	}
	return 0, need.Missing{What: "Linux, which tells a process's memory in /proc", Cure: "run the tests on Linux"}
}
