// service_access_test.go owns the tests of the access of the service's user to its files.

package check

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/synapse"
)

// Root reads everything, and the service runs as another user: the one of the daemon that answers, of the store, or of run.sh.
func TestServiceReads(t *testing.T) {
	if os.Getuid() != 0 {
		need.Skip(t, need.Missing{What: "root, to give files away", Cure: "run the tests as root"})
	}
	const its, synapses = 54321, 54322
	isRoots := func(name string, mode os.FileMode) func(*testing.T, string) {
		return func(t *testing.T, dir string) { own(t, dir, name, 0, mode) }
	}
	for _, test := range []struct {
		name        string
		break_      func(t *testing.T, dir string)
		isRunning   bool
		want        Status
		found, do   string
		hasNoScript bool
	}{
		{name: "as it should be", break_: func(*testing.T, string) {}, want: OK, found: "54321 may read 4 files (DIR/.matrix is its)"},
		{name: "the secret is root's", break_: isRoots("shared_secret", 0o600), want: Problem, found: "54321 may not read DIR/shared_secret: DIR/shared_secret has mode 0600 and is root's; the service does not start (DIR/.matrix is its)", do: "type: chown 54321 DIR/shared_secret; then restart the service"},
		{name: "and it runs", break_: isRoots("shared_secret", 0o600), isRunning: true, want: Warning, found: "the service, which has read it, does not start again (the running service is its)", do: "type: chown 54321 DIR/shared_secret"},
		{name: "the list is root's", break_: isRoots("list", 0o600), want: Problem, found: "54321 may not read DIR/list", do: "type: chown 54321 DIR/list"},
		{name: "the list is for all", break_: isRoots("list", 0o644), want: OK},
		{name: "registration.yaml is Synapse's", break_: func(t *testing.T, dir string) { own(t, dir, "registration.yaml", synapses, 0o600) }, want: Problem, found: "54321 may not read DIR/registration.yaml", do: "type: chown 54321:54322 DIR/registration.yaml && chmod 0640 DIR/registration.yaml; then"},
		{name: "the store in its directory is root's", break_: isRoots(".matrix/register.db", 0o600), want: Problem, found: "54321 may not read DIR/.matrix/register.db", do: "type: chown -R 54321 DIR/.matrix; then"},
		{name: "the store is root's", break_: isRoots(".matrix", 0o700), want: Problem, found: "(DIR/run.sh is its)", do: "type: chown -R 54321 DIR/.matrix; then"},
		{name: "no store yet", break_: func(t *testing.T, dir string) { os.RemoveAll(filepath.Join(dir, ".matrix")) }, want: OK, found: "54321 may read 3 files (DIR/run.sh is its)"},
		{name: "systemd starts it", break_: isRoots("shared_secret", 0o600), hasNoScript: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir, err := os.MkdirTemp("", "service")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(dir) })
			in := func(text string) string { return strings.ReplaceAll(text, "DIR", dir) }
			tree := map[string]string{".matrix/register.db": "x", ".matrix/ops.sock": "", "registration.yaml": "id: x\n", "shared_secret": "x", "list": "", "run.sh": "x"}
			plantAll(t, dir, tree)
			own(t, dir, ".", 0, 0o755)
			own(t, dir, ".matrix", its, 0o700)
			for name := range tree {
				own(t, dir, name, its, 0o600)
			}
			test.break_(t, dir)
			chk := &checking{
				Input: Input{
					Config: config.Config{Way: homeserver.SharedSecret, DataPath: in("DIR/.matrix"), RegistrationPath: in("DIR/registration.yaml"), SharedSecretFile: in("DIR/shared_secret"), AdmitFile: in("DIR/list")},
					Script: config.Script{Path: in("DIR/run.sh")}, StoreName: in("DIR/.matrix/register.db"),
					AskStatus: func(context.Context) (DaemonStatus, error) {
						if !test.isRunning {
							return DaemonStatus{}, ErrNoDaemon
						}
						return DaemonStatus{PID: os.Getpid(), Socket: in("DIR/.matrix/ops.sock")}, nil
					},
				},
				settings: []settingsFile{{ofSynapse: synapse.Settings{Files: []string{"homeserver.yaml"}}}},
				process:  synapse.Process{User: synapse.User{UID: synapses, GIDs: []int{synapses}, Why: "seen"}},
			}
			if test.hasNoScript {
				chk.ScriptErr = os.ErrNotExist
			}
			found := chk.serviceReads(t.Context())
			if test.hasNoScript {
				if len(found) > 0 {
					t.Errorf("got %+v", found)
				}
				return
			}
			if len(found) != 1 || found[0].Status != test.want || !strings.Contains(found[0].Found, in(test.found)) || !strings.HasPrefix(strings.ReplaceAll(found[0].Do, pasteMark, ""), in(test.do)) {
				t.Errorf("got %+v", found)
			}
			path := in("DIR/shared_secret")
			secret := chk.keptFrom(path, []Finding{problem("shared secret", "", "cannot be read")})[0]
			if follows := secret.causes == subjectAccess; follows != strings.Contains(test.found, "may not read DIR/shared_secret") && !test.isRunning {
				t.Errorf("the secret follows from it: %v", follows)
			}
		})
	}
}
