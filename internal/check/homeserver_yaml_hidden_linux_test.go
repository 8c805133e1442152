// homeserver_yaml_hidden_linux_test.go owns the tests of files that the user of check may not read.

package check

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"golang.org/x/sys/unix"
)

// A file of conf.d that this user may not read is one problem. Check judges the settings in the other files. If the hidden file can
// override one of them, a problem with that setting follows from the hidden file.
func TestHiddenSettings(t *testing.T) {
	if os.Getuid() != 0 {
		need.Skip(t, need.Missing{What: "root, to be another user", Cure: "run the tests as root"})
	}
	dir, err := os.MkdirTemp("", "hidden")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	plantAll(t, dir, map[string]string{
		"homeserver.yaml": "server_name: " + ourServerName + "\nenable_registration: true\n",
		"conf.d/b.yaml":   "bcrypt_rounds: 4\n",
		"conf.d/c.yaml":   "password_config: {enabled: false}\n",
	})
	for name, mode := range map[string]os.FileMode{".": 0o755, "conf.d": 0o755, "homeserver.yaml": 0o644, "conf.d/c.yaml": 0o644} {
		own(t, dir, name, 0, mode)
	}
	own(t, dir, "conf.d/b.yaml", 54321, 0o600)
	var settings settingsFile
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread, which is another user's then, ends
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 12345, 12345, 12345); errno != 0 {
			done <- errno
			return
		}
		settings = readSynapse([]string{filepath.Join(dir, "homeserver.yaml"), filepath.Join(dir, "conf.d")}, "as found here")
		done <- nil
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	report := &Report{}
	report.add(judging{settings: settings, server: todayServer, config: config.Config{ServerName: ourServerName, Way: homeserver.SharedSecret, Origin: "http://127.0.0.1:8007"}}.findings()...)
	report.finish()
	for subject, want := range map[string]struct {
		status  Status
		because string
	}{
		"homeserver.yaml":                     {Problem, ""},
		"homeserver.yaml server_name":         {OK, ""},
		"homeserver.yaml enable_registration": {Problem, "homeserver.yaml"},
		"homeserver.yaml bcrypt_rounds":       {Warning, "homeserver.yaml"},
		"homeserver.yaml password_config":     {Problem, ""},
	} {
		if f, _ := report.of(subject); f.Status != want.status || f.Because != want.because {
			t.Errorf("%s: got %+v, want %v", subject, f, want)
		}
	}
	f, _ := report.of(config.HomeserverFile)
	if !strings.HasPrefix(f.Found, "it is there and cannot be read: open "+dir+"/conf.d/b.yaml: permission denied") || !strings.HasSuffix(f.Found, "; the settings are checked without it") || f.Do != "run this as 54321, whose it is, or as root" {
		t.Errorf("got %+v", f)
	}
}

// Who may not enter a directory is told whose that is.
func TestRunAs(t *testing.T) {
	if os.Getuid() != 0 {
		need.Skip(t, need.Missing{What: "root, to give files away", Cure: "run the tests as root"})
	}
	dir := t.TempDir()
	plantAll(t, dir, map[string]string{"its/file": "x", "ours/file": "x"})
	own(t, dir, "its", 54321, 0o700)
	its := filepath.Join(dir, "its")
	for path, want := range map[string]string{
		filepath.Join(dir, "ours", "file"):     "run this as root",
		filepath.Join(its):                     "run this as 54321, whose it is, or as root",
		filepath.Join(its, "below", "unseen"):  "run this as 54321, whose " + its + " is, or as root",
		filepath.Join("/nowhere", "at", "all"): "run this as root",
	} {
		if got := RunAs(&os.PathError{Op: "open", Path: path, Err: os.ErrPermission}); got != want {
			t.Errorf("%s: got %q, want %q", path, got, want)
		}
	}
	if got := RunAs(errors.New("no path")); got != "run this as root" {
		t.Errorf("got %q", got)
	}
}
