package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
)

// SIGHUP has the list read again, and never ends the daemon, with a list or without.
func TestHangup(t *testing.T) {
	backend := newStandIn(t)
	proof, n := newProof(t)
	for _, withList := range []bool{true, false} {
		t.Run(fmt.Sprintf("list=%v", withList), func(t *testing.T) {
			secret, list := writeTemp(t, testSecret), writeTemp(t, listedAddress+"\n")
			args := []string{"--matrixdomain", testServerName, "--matrixurl", backend.URL + homeserver.SharedSecretPath,
				"--hstoken", testHSToken, "--port", "0", "--sharesecret-file", secret}
			wantStatus, wantLog := 200, "Nothing to reload"
			if withList {
				args = append(args, "--admit-file", list)
				wantStatus, wantLog = 403, "addresses=2"
			}
			cmd := exec.Command(programForTest(t), args...)
			cmd.Dir = t.TempDir()
			said := new(strings.Builder)
			stderr := &lockedWriter{w: said}
			cmd.Stderr = stderr
			told := announced(t, cmd)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer cmd.Process.Kill()
			nodes, _ := told(nil)
			url := "http://" + nodes + registerPath
			if got := postTo(t, url, proof); got != wantStatus {
				t.Errorf("got %d, want %d", got, wantStatus)
			}
			if err := os.WriteFile(list, []byte(listedAddress+"\n"+n.Localpart+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			cmd.Process.Signal(syscall.SIGHUP)
			waitFor(t, stderr, said, wantLog)
			if got := postTo(t, url, proof); got != 200 && got != 409 {
				t.Errorf("after SIGHUP: got %d", got)
			}
			cmd.Process.Signal(syscall.SIGTERM)
			if err := cmd.Wait(); err != nil {
				t.Errorf("it ended with %v: %s", err, said)
			}
		})
	}
}

// waitFor waits until what was written has the words.
func waitFor(t *testing.T, w *lockedWriter, said *strings.Builder, words string) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		w.mu.Lock()
		has := strings.Contains(said.String(), words)
		w.mu.Unlock()
		if has {
			return
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	t.Fatalf("it does not say %q: %s", words, said)
}
