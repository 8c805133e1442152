// health_test.go owns what /readyz says while balances cannot be looked up, and that nothing is told to the watchdog unless the handler
// answers, and something while the service serves.

package main

import (
	"context"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
)

// Nobody can register while balances cannot be looked up: it is not ready.
func TestReadyWithoutChain(t *testing.T) {
	node := newEthNode(t)
	d := newAdmissionGateway(t, "none", node.asks(big.NewInt(1)))
	c := config.Config{ServerName: testServerName, Origin: d.homeserver.URL, Way: homeserver.CreateUser}
	s := serviceOf(c)
	s.admission = d.server.admission
	ready := func() *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		newHealth(context.Background(), s, d.store).ready(w, httptest.NewRequest(http.MethodGet, "/readyz", nil))
		return w
	}
	if got := ready(); got.Code != 200 {
		t.Errorf("got %d %s, want 200", got.Code, got.Body)
	}
	node.fail(says(500, ""))
	if got := ready(); got.Code != 503 || got.Body.String() != "the Ethereum node returns no balances\n" {
		t.Errorf("got %d %s, want 503", got.Code, got.Body)
	}
}

// asWatchdog has systemd wait for this process so often, and returns what reads the next message to it: "" where none comes.
func asWatchdog(t *testing.T, usec string) (told func(within time.Duration) string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", usec)
	return func(within time.Duration) string {
		buf := make([]byte, 100)
		socket.SetReadDeadline(time.Now().Add(within))
		n, _ := socket.Read(buf)
		return string(buf[:n])
	}
}

// The watchdog is told that the process lives each time that the handler has answered, and not before.
func TestWatchdogAsksHandler(t *testing.T) {
	told := asWatchdog(t, "2000")
	asked, answer := make(chan string), make(chan bool)
	stop := keepWatchdog(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.Method + " " + r.URL.Path
		<-answer
		w.WriteHeader(http.StatusNotFound)
		w.Write([]byte("{}"))
	}))
	for range 3 {
		if got := <-asked; got != "GET /regapp/1" {
			t.Errorf("got %s", got)
		}
		if got := told(20 * time.Millisecond); got != "" {
			t.Fatalf("told %q before the handler has answered", got)
		}
		answer <- true
		if got := told(patience); got != "WATCHDOG=1" {
			t.Errorf("told %q", got)
		}
	}
	stop()
	select { // where it had begun already
	case <-asked:
		answer <- true
	case <-time.After(20 * time.Millisecond):
	}
}

// The service tells it while it serves, and then that it stops.
func TestWatchdogOfService(t *testing.T) {
	told := asWatchdog(t, "3600000000") // the first time is at once
	d := newGateway(t, homeserver.CreateUserPath)
	_, stop, served := d.begin()
	if got := told(patience); got != "WATCHDOG=1" {
		t.Errorf("told %q", got)
	}
	stop()
	if got := told(patience); got != "STOPPING=1" {
		t.Errorf("told %q", got)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// Without a watchdog, or with one that cannot be understood, the handler is left alone.
func TestNoWatchdog(t *testing.T) {
	for _, usec := range []string{"", "never", "0"} {
		t.Setenv("WATCHDOG_USEC", usec)
		keepWatchdog(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Errorf("%q: asked", usec) }))()
	}
}
