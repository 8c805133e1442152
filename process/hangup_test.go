// hangup_test.go owns what SIGHUP does.

package process

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/daemon"
	"github.com/SmartMeshFoundation/matrix-regservice/e2e/standin"
)

const listedAddress = "0x6d12d262a2fe4fd9c714ad3521acbea52adb4aaf"

// SIGHUP has the list read again, and never ends the daemon, with a list or without.
func TestHangup(t *testing.T) {
	backend := standin.New(t)
	node := daemon.NewNode(t)
	for _, withList := range []bool{true, false} {
		t.Run(fmt.Sprintf("list=%v", withList), func(t *testing.T) {
			secret, list := writeTemp(t, standin.Secret), writeTemp(t, listedAddress+"\n")
			args := []string{"--matrixdomain", standin.ServerName, "--matrixurl", backend.URL + standin.SharedSecretPath,
				"--hstoken", standin.HSToken, "--port", "0", "--sharesecret-file", secret}
			wantStatus, wantLog := 200, "Nothing to reload"
			if withList {
				args = append(args, "--admit-file", list)
				wantStatus, wantLog = 403, "addresses=2"
			}
			cmd := exec.Command(program(t), args...)
			cmd.Dir = t.TempDir()
			said := new(daemon.Log)
			cmd.Stderr = said
			told := daemon.Announced(t, cmd)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer cmd.Process.Kill()
			nodes, _ := told(nil)
			url := "http://" + nodes + daemon.RegisterPath
			if got, err := daemon.Post(t.Context(), url, node); err != nil || got.Status != wantStatus {
				t.Errorf("got %d, %v, want %d", got.Status, err, wantStatus)
			}
			if err := os.WriteFile(list, []byte(listedAddress+"\n"+node.Localpart+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			cmd.Process.Signal(syscall.SIGHUP)
			daemon.Eventually(t, "it says "+wantLog, func() bool { return strings.Contains(said.String(), wantLog) })
			if got, err := daemon.Post(t.Context(), url, node); err != nil || got.Status != 200 && got.Status != 409 {
				t.Errorf("after SIGHUP: got %d, %v", got.Status, err)
			}
			cmd.Process.Signal(syscall.SIGTERM)
			if err := cmd.Wait(); err != nil {
				t.Errorf("it ended with %v: %s", err, said)
			}
		})
	}
}
