// homeserver_yaml_access_test.go owns the tests of the access of Synapse's user to its files.

package check

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/synapse"
)

// Debian's layout: the directory is Synapse's, homeserver.yaml in it root's and for all to read. A file of root's alone, made in
// it "like homeserver.yaml", keeps Synapse from starting.
func TestHomeserverReads(t *testing.T) {
	if os.Getuid() != 0 {
		need.Skip(t, need.Missing{What: "root, to give files away", Cure: "run the tests as root"})
	}
	const its = 54321
	for _, test := range []struct {
		name    string
		break_  func(t *testing.T, dir string)
		process synapse.Process
		accepts bool
		want    Status
		found   string
		do      string
	}{
		{"as it should be", func(*testing.T, string) {}, synapse.Process{}, false, OK, "54321 may read 4 files (the signing key ", ""},
		{"registration.yaml is root's", func(t *testing.T, dir string) { own(t, dir, "registration.yaml", 0, 0o600) }, synapse.Process{}, false, Problem, "54321 may not read DIR/registration.yaml: DIR/registration.yaml has mode 0600 and is root's; the homeserver does not start", "type: chown 54321 DIR/registration.yaml"},
		{"and the homeserver has read it", func(t *testing.T, dir string) { own(t, dir, "registration.yaml", 0, 0o600) }, synapse.Process{}, true, Warning, "which has read it, does not start again", "type: chown 54321 DIR/registration.yaml"},
		{"registration.yaml is for its group", func(t *testing.T, dir string) { own(t, dir, "registration.yaml", 0, 0o640) }, synapse.Process{User: synapse.User{UID: its, GIDs: []int{0}, Why: "seen"}}, false, OK, "may read", ""},
		{"the secret is root's", func(t *testing.T, dir string) { own(t, dir, "secret", 0, 0o600) }, synapse.Process{}, false, Problem, "54321 may not read DIR/secret", "type: chown 54321 DIR/secret"},
		{"a file of conf.d is root's", func(t *testing.T, dir string) { own(t, dir, "conf.d/a.yaml", 0, 0o600) }, synapse.Process{}, false, Problem, "54321 may not read DIR/conf.d/a.yaml", "type: chown 54321 DIR/conf.d/a.yaml"},
		{"a directory is root's", func(t *testing.T, dir string) { own(t, dir, "conf.d", 0, 0o700) }, synapse.Process{}, false, Problem, "54321 may not read DIR/conf.d/a.yaml", "keep the file where 54321 may enter, or type: chmod o+x DIR/conf.d"},
		{"the process is another's", func(t *testing.T, dir string) {}, synapse.Process{User: synapse.User{UID: its + 1, Why: "the running Synapse is its"}}, false, Problem, "54322 may not read DIR/registration.yaml", "type: chown 54322 "},
		{"the process is root's", func(t *testing.T, dir string) { own(t, dir, "registration.yaml", 0, 0o600) }, synapse.Process{User: synapse.User{Why: "the running Synapse is its"}}, false, OK, "root may read 4 files", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir, err := os.MkdirTemp("", "readers")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(dir) })
			plantAll(t, dir, map[string]string{
				"homeserver.yaml": "server_name: x\nsigning_key_path: " + dir + "/key\napp_service_config_files: [" + dir + "/registration.yaml]\nregistration_shared_secret_path: " + dir + "/secret\n",
				"conf.d/a.yaml":   "a: 1\n", "registration.yaml": "id: x\n", "secret": "s", "key": "k",
			})
			for name, mode := range map[string]os.FileMode{".": 0o755, "conf.d": 0o755, "conf.d/a.yaml": 0o644, "registration.yaml": 0o600, "secret": 0o600, "key": 0o600} {
				own(t, dir, name, its, mode)
			}
			own(t, dir, "homeserver.yaml", 0, 0o644)
			test.break_(t, dir)
			chk := &checking{Input: Input{Config: config.Config{Origin: "http://127.0.0.1:8007", Way: homeserver.SharedSecret}}, process: test.process, accepts: test.accepts}
			chk.settings = []settingsFile{readSynapse([]string{filepath.Join(dir, "homeserver.yaml"), filepath.Join(dir, "conf.d")}, "as found here")}
			found := chk.homeserverReads(t.Context())
			if len(found) != 1 || found[0].Status != test.want || !strings.Contains(found[0].Found, strings.ReplaceAll(test.found, "DIR", dir)) || !strings.HasPrefix(strings.ReplaceAll(found[0].Do, pasteMark, ""), strings.ReplaceAll(test.do, "DIR", dir)) {
				t.Errorf("got %+v", found)
			}
		})
	}
	chk := &checking{Input: Input{Config: config.Config{Origin: "http://192.0.2.1:8007"}}, settings: []settingsFile{readSynapse([]string{"/etc/hostname"}, "")}}
	if found := chk.homeserverReads(t.Context()); len(found) > 0 {
		t.Errorf("of another machine: got %+v", found)
	}
}

func own(t *testing.T, dir, name string, uid int, mode os.FileMode) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.Chown(path, uid, uid); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}
