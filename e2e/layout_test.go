// layout_test.go owns Synapse as Debian's package lays it out: a user of its own, homeserver.yaml root's, conf.d beside it, and
// both on the command line.

package e2e

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
)

const debianUser = 54321 // who runs Synapse; nobody else here is it

// debianLayout prepares a homeserver whose settings are Debian's way, before genconfig.
func debianLayout(t *testing.T) *Deployment {
	t.Helper()
	need.All(t, Recipes[0].Installed(t.Context()))
	top := t.TempDir()
	for dir := top; dir != os.TempDir() && dir != filepath.Dir(dir); dir = filepath.Dir(dir) { // which are for their owner alone
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	d := prepare(t, Plan{Recipe: Recipes[0], Domain: domain, Dir: top})
	dir := d.Homeserver.Dir
	breakFile(t, dir, "homeserver.yaml", `(?m)^server_name: .*$`, "signing_key_path: "+dir+"/homeserver.signing.key")
	breakFile(t, dir, "homeserver.yaml", `registration_shared_secret: \S+`, "registration_shared_secret_path: "+dir+"/registration_secret")
	breakFile(t, dir, "homeserver.yaml", `- registration.yaml`, "- "+dir+"/registration.yaml")
	err := errors.Join(
		os.Rename(filepath.Join(dir, domain+".signing.key"), filepath.Join(dir, "homeserver.signing.key")),
		os.Mkdir(filepath.Join(dir, "conf.d"), 0o755),
		os.WriteFile(filepath.Join(dir, "conf.d", "server_name.yaml"), []byte("server_name: "+domain+"\n"), 0o644),
		filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			return errors.Join(err, os.Chown(path, debianUser, debianUser))
		}),
		os.Chmod(dir, 0o755), os.Chown(filepath.Join(dir, "homeserver.yaml"), 0, 0), os.Chmod(filepath.Join(dir, "homeserver.yaml"), 0o644),
	)
	if err != nil {
		t.Fatal(err)
	}
	d.Homeserver.start = []string{"python", "-m", "synapse.app.homeserver", "--config-path=" + dir + "/homeserver.yaml", "--config-path=" + dir + "/conf.d/"}
	return d
}

// needOpenPython skips where Synapse's Python is not everybody's, such as one below /root.
func needOpenPython(t *testing.T, h *Homeserver) {
	t.Helper()
	cmd := h.command(t.Context(), "python", "-c", "import synapse")
	cmd.SysProcAttr = asDebianUser()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Logf("as another user: %v\n%s", err, out)
		need.Skip(t, need.Missing{What: "a Python that every user may run", Cure: "make venvs PYTHON=/usr/bin/python3"})
	}
}

func asDebianUser() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: debianUser, Gid: debianUser}}
}

// startAsItsUser starts the homeserver as Debian's unit does.
func startAsItsUser(t *testing.T, h *Homeserver) error {
	t.Helper()
	cmd := h.command(context.WithoutCancel(t.Context()), h.start...)
	cmd.SysProcAttr = asDebianUser()
	var err error
	if h.process, err = startProcess(h.Title, h.LogFile, cmd); err != nil {
		return err
	}
	return h.process.ready(t.Context(), func(ctx context.Context) bool { return serves(ctx, h.URL+versionsPath) })
}

// genconfig's files are readable for Synapse, and check says which settings it reads and who reads them. With a registration.yaml of
// root's Synapse does not start, as check says.
func TestDebianLayout(t *testing.T) {
	if os.Getuid() != 0 {
		need.Skip(t, need.Missing{What: "root, to give files away", Cure: "run the tests as root"})
	}
	t.Parallel()
	d := debianLayout(t)
	needOpenPython(t, d.Homeserver)
	dir := d.Homeserver.Dir
	out := must(d.Genconfig(t.Context()))(t)
	for _, want := range []string{"read homeserver.yaml, conf.d/server_name.yaml, as found here\n", "wrote " + dir + "/registration_secret (0600, 54321's: the signing key "} {
		if !strings.Contains(out, want) {
			t.Errorf("genconfig says no %q:\n%s", want, out)
		}
	}
	d.AddSecret("shared secret of its file", strings.TrimSpace(string(must(os.ReadFile(filepath.Join(dir, "registration_secret")))(t))))
	if err := startAsItsUser(t, d.Homeserver); err != nil {
		t.Fatal(err)
	}
	found := runCheck(t, d, dir).findings
	for subject, want := range map[string]string{
		"homeserver.yaml files":                      "ok read " + dir + "/homeserver.yaml, " + dir + "/conf.d/server_name.yaml, which the running Synapse, process ",
		"homeserver.yaml server_name":                "ok ",
		"homeserver.yaml app_service_config_files":   "ok ",
		"homeserver.yaml registration_shared_secret": "ok ",
		"homeserver.yaml access":                     "ok 54321 may read 4 files (the running Synapse is its)",
		"homeserver as_token":                        "ok ",
		"homeserver shared secret":                   "ok ",
	} {
		if got := found[subject].Status + " " + found[subject].Found; !strings.HasPrefix(got, want) {
			t.Errorf("%s: got %q, want %q", subject, got, want)
		}
	}

	registration := filepath.Join(dir, "registration.yaml")
	if err := os.Chown(registration, 0, 0); err != nil {
		t.Fatal(err)
	}
	if got := runCheck(t, d, dir).findings["homeserver.yaml access"]; got.Status != "warning" || !strings.HasPrefix(got.Do, "type: chown 54321 "+registration) {
		t.Errorf("while it runs: got %+v", got)
	}
	if err := d.Homeserver.Stop(); err != nil {
		t.Fatal(err)
	}
	if got := runCheck(t, d, dir).findings["homeserver.yaml access"]; got.Status != "problem" || !strings.Contains(got.Found, "54321 may not read "+registration) {
		t.Errorf("before its start: got %+v", got)
	}
	if err := startAsItsUser(t, d.Homeserver); err == nil {
		t.Error("it starts with a registration.yaml that its user may not read")
	}
	if log := must(os.ReadFile(d.Homeserver.LogFile))(t); !strings.Contains(string(log), "Permission denied: '"+registration+"'") {
		t.Errorf("it says another reason:\n%s", log)
	}
}
