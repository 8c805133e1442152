// watchdog_linux_test.go owns what systemd's watchdog is told: that the daemon lives, whatever has become of the disk and the homeserver.

package process

import (
	"net/http"
	"sync"
	"syscall"
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/daemon"
	"github.com/SmartMeshFoundation/matrix-regservice/e2e/disk"
	"github.com/SmartMeshFoundation/matrix-regservice/e2e/standin"
)

// A full disk, a homeserver that hangs with registrations in flight, and both at once keep the daemon from registering nodes, and not
// from telling the watchdog that it lives. It goes on while it stops.
func TestWatchdog(t *testing.T) {
	const pings = 20
	dir, backend := disk.Mount(t, 1<<20), standin.New(t)
	d := daemon.Start(t, program(t), dir, backend.URL+standin.SharedSecretPath, "WATCHDOG_USEC=20000")
	d.AwaitPings(pings)

	empty := disk.Fill(t, dir, 0)
	for range 500 { // pages that are free within the file last for some
		if d.MustSend(daemon.NewNode(t)).Status == http.StatusServiceUnavailable {
			break
		}
	}
	if got := d.Readiness(503); got != 503 {
		t.Errorf("full: /readyz answers %d", got)
	}
	d.AwaitPings(pings)
	empty()

	released := make(chan struct{})
	hangs := func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-released:
		case <-r.Context().Done():
		}
		panic(http.ErrAbortHandler)
	}
	for _, call := range []string{standin.Version, standin.Key, standin.Versions, standin.Whoami, standin.Profile, standin.Nonce, standin.Register} {
		backend.Fail(call, hangs)
	}
	backend.Asked()
	var sent sync.WaitGroup
	for range 5 {
		proof := daemon.NewNode(t)
		sent.Go(func() { d.Send(proof) })
	}
	daemon.Eventually(t, "the homeserver is asked", func() bool { return backend.Asked() != "" })
	d.AwaitPings(pings)
	defer disk.Fill(t, dir, 0)()
	d.AwaitPings(pings)

	d.Cmd.Process.Signal(syscall.SIGTERM)
	d.AwaitStopping()
	d.AwaitPings(pings)
	close(released)
	sent.Wait()
	<-d.Done
	if code := d.Cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit %d", code)
	}
}
