// clock_test.go owns the clock of the program under test, which a test sets back and forth while it runs.
//
// Go asks the kernel for the time and not the C library, so that faketime changes nothing, and the machine's own clock is
// everybody's. So the program is built with each time.Now() of its own code behind a function that moves the wall clock by
// what a file says at that moment, and leaves the monotonic clock alone, as a step of a real clock does. Nothing else of the
// program is another, and the database keeps its own clock.

package proof

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e"
)

const (
	clockEnv    = "PROOF_CLOCK" // the file that holds by how many seconds the clock is wrong
	clockModule = "github.com/SmartMeshFoundation/matrix-regservice"
	clockCall   = "time.Now()"
)

// clockSource is the package that moves the clock. It knows how a time.Time is laid out, and ends the program where that
// has become another.
const clockSource = `package wrongclock

import (
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

var seconds = mapped()

func mapped() *int64 {
	path := os.Getenv("` + clockEnv + `")
	if path == "" { // a command, whose clock is right
		return new(int64)
	}
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		panic(err)
	}
	page, err := syscall.Mmap(int(file.Fd()), 0, 8, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		panic(err)
	}
	now := time.Now()
	if later := moved(now, 3600); later.Unix()-now.Unix() != 3600 || later.Sub(now) != 0 {
		panic("a time.Time is laid out in another way")
	}
	return (*int64)(unsafe.Pointer(&page[0]))
}

// Wrong returns the time that the wrong clock shows.
func Wrong(t time.Time) time.Time { return moved(t, atomic.LoadInt64(seconds)) }

// moved changes the seconds of the wall clock, which lie above 30 bits of nanoseconds.
func moved(t time.Time, by int64) time.Time {
	*(*uint64)(unsafe.Pointer(&t)) += uint64(by) << 30
	return t
}
`

// buildWithClock builds the program with a clock that can be set, and with the race detector.
func buildWithClock(ctx context.Context, dir string) (*e2e.Program, error) {
	overlay, err := clockOverlay(ctx, dir)
	if err != nil {
		return nil, err
	}
	return e2e.Build(ctx, dir, "-race", "-overlay", overlay)
}

// clockOverlay writes the changed files, and the file that go build takes them from.
func clockOverlay(ctx context.Context, dir string) (path string, err error) {
	list := exec.CommandContext(ctx, "go", "list", "-deps", "-json=Dir,Name,GoFiles,Module", ".")
	list.Dir = ".."
	out, err := list.Output()
	if err != nil {
		return "", err
	}
	replaced := map[string]string{}
	replace := func(original, content string) error {
		draft, err := os.CreateTemp(dir, "*.go")
		if err != nil {
			return err
		}
		replaced[original] = draft.Name()
		_, err = io.WriteString(draft, content)
		return errors.Join(err, draft.Close())
	}
	changed := 0
	for packages := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct {
			Dir, Name string
			GoFiles   []string
			Module    *struct {
				Main bool
				Dir  string
			}
		}
		if err := packages.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return "", err
		}
		if p.Module == nil || !p.Module.Main {
			continue
		}
		if len(replaced) == 0 {
			if err := replace(filepath.Join(p.Module.Dir, "internal", "wrongclock", "wrongclock.go"), clockSource); err != nil {
				return "", err
			}
		}
		before := changed
		for _, name := range p.GoFiles {
			file := filepath.Join(p.Dir, name)
			content, err := os.ReadFile(file)
			if err != nil {
				return "", err
			}
			calls := bytes.Count(content, []byte(clockCall))
			if calls == 0 {
				continue
			}
			changed += calls
			if err := replace(file, string(bytes.ReplaceAll(content, []byte(clockCall), []byte("wrongClock("+clockCall+")")))); err != nil {
				return "", err
			}
		}
		if changed > before {
			source := "package " + p.Name + "\n\nimport \"" + clockModule + "/internal/wrongclock\"\n\nvar wrongClock = wrongclock.Wrong\n"
			if err := replace(filepath.Join(p.Dir, "wrong_clock.go"), source); err != nil {
				return "", err
			}
		}
	}
	if changed == 0 {
		return "", errors.New("the program calls " + clockCall + " nowhere: its clock cannot be set")
	}
	content, err := json.Marshal(map[string]any{"Replace": replaced})
	if err != nil {
		return "", err
	}
	path = filepath.Join(dir, "overlay.json")
	return path, os.WriteFile(path, content, 0o600)
}

// A clock is the clock of one program.
type clock struct{ path string }

// newClock makes one that is right.
func newClock(dir string) (clock, error) {
	c := clock{filepath.Join(dir, "clock")}
	return c, c.set(0)
}

// set has the clock be wrong by so much from now on.
func (c clock) set(by time.Duration) error {
	file, err := os.OpenFile(c.path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = file.WriteAt(binary.NativeEndian.AppendUint64(nil, uint64(by/time.Second)), 0)
	return err
}

// The clock of the program is the one that was set, at once and in the record.
func TestClock(t *testing.T) {
	w := newWorld(t, plan{api: createUser, store: newBoltFiles(t.TempDir())})
	n := w.newNode()
	if err := w.clock.set(-48 * time.Hour); err != nil {
		t.Fatal(err)
	}
	if got := w.send(n); got.status != 200 {
		t.Fatalf("got %+v", got)
	}
	if wrong := time.Since(w.records()[n.Localpart].Created); wrong < 47*time.Hour || wrong > 49*time.Hour {
		t.Errorf("the record was made %v ago, by a clock that is 48 h slow", wrong)
	}
}
