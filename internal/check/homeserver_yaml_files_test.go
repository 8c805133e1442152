// homeserver_yaml_files_test.go owns the tests of which settings files of the homeserver are read, and of the findings about the others.

package check

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/synapse"
)

// plantAll makes files below the directory.
func plantAll(t *testing.T, dir string, tree map[string]string) {
	t.Helper()
	for path, content := range tree {
		path = filepath.Join(dir, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
}

// Of the settings those are read that were named, then those that the running Synapse was started with, then those that are
// here, with conf.d. Which they are is said.
func TestWhichSettings(t *testing.T) {
	elsewhere := t.TempDir()
	plantAll(t, elsewhere, map[string]string{"homeserver.yaml": "server_name: elsewhere\n", "conf.d/a.yaml": "a: 1\n"})
	its := synapse.Process{PID: 4711, Dir: elsewhere, Configs: []string{filepath.Join(elsewhere, "homeserver.yaml"), filepath.Join(elsewhere, "conf.d")}}
	debian := map[string]string{"homeserver.yaml": "report_stats: false\n", "conf.d/server_name.yaml": "server_name: conf.d\n", "conf.d/README": "- none\n"}
	anyServer, dendrite := homeserver.Software{}, homeserver.Software{Name: homeserver.Dendrite, Version: "0.15.2"}
	for _, test := range []struct {
		name   string
		tree   map[string]string
		named  []string
		its    synapse.Process
		hidden error
		server homeserver.Software
		want   string // the server_name that is read
		said   string
	}{
		{"those that are here", debian, nil, synapse.Process{}, synapse.ErrNoProcess, anyServer, "conf.d", "read homeserver.yaml, conf.d/server_name.yaml, as found here"},
		{"those that were named", debian, []string{"homeserver.yaml", filepath.Join(elsewhere, "homeserver.yaml")}, synapse.Process{}, nil, anyServer, "elsewhere", "as --homeserver-config names them"},
		{"the process's", debian, nil, its, nil, anyServer, "elsewhere", "conf.d/a.yaml, which the running Synapse, process 4711, was started with"},
		{"those that were named and not the process's", debian, []string{"conf.d"}, its, nil, anyServer, "conf.d", "read conf.d/server_name.yaml, as --homeserver-config"},
		{"a process's that are not seen", debian, nil, synapse.Process{PID: 4711, Configs: []string{"/data/homeserver.yaml"}}, errors.New("it is in a container"), anyServer, "conf.d", "as found here; which the running Synapse, process 4711, was started with is not seen: it is in a container"},
		{"Dendrite's", map[string]string{"dendrite.yaml": "global: {server_name: dendrite}\n", "homeserver.yaml": "server_name: x\n"}, nil, synapse.Process{}, nil, dendrite, "dendrite", ""},
		{"Dendrite's, that were named", map[string]string{"d.yaml": "global: {server_name: dendrite}\n"}, []string{"d.yaml"}, synapse.Process{}, nil, anyServer, "dendrite", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			plantAll(t, ".", test.tree)
			chk := &checking{Input: Input{HomeserverConfig: test.named, Config: config.Config{Way: homeserver.SharedSecret}}, process: test.its, processErr: test.hidden, server: test.server}
			all := chk.readAllSettings()
			if len(all) != 1 || all[0].err != nil {
				t.Fatalf("got %+v", all)
			}
			name := all[0].Text("server_name")
			if all[0].isDendrite() {
				name = all[0].Text("global", "server_name")
			}
			if name != test.want {
				t.Errorf("got the server_name %q, want %q", name, test.want)
			}
			for _, f := range chk.judging(all[0]).findings() {
				if f.Subject == config.HomeserverFile && (f.Status != OK || !strings.Contains(f.Found, test.said)) || strings.HasSuffix(f.Subject, "passed over") && f.Status != OK {
					t.Errorf("got %+v, want %q", f, test.said)
				}
			}
		})
	}
}

// What Synapse passes over is said where it looks as if it were meant; what old ones stop at is a problem for them.
func TestPassedOver(t *testing.T) {
	for _, test := range []struct {
		file, content string
		server        homeserver.Software
		want          Status
	}{
		{"conf.d/README", "text", todayServer, OK},
		{"conf.d/a.yaml.dpkg-old", "a: 1", todayServer, OK},
		{"conf.d/a.yaml", "# a: 1", todayServer, OK},
		{"conf.d/a.yml", "a: 1", todayServer, Warning},
		{"conf.d/a.yaml", "- a: 1", todayServer, Warning},
		{"conf.d/sub.yaml/a.yaml", "a: 1", todayServer, Warning},
		{"conf.d/a.yaml", "- a: 1", oldServer, Problem},
		{"conf.d/a.yaml", "# a: 1", oldServer, Problem},
		{"conf.d/a.yml", "a: 1", oldServer, Warning},
	} {
		dir := t.TempDir()
		plantAll(t, dir, map[string]string{"homeserver.yaml": "server_name: x\n", test.file: test.content})
		j := judging{settings: readSynapse([]string{filepath.Join(dir, "homeserver.yaml"), filepath.Join(dir, "conf.d")}, "as found here"), config: config.Config{Way: homeserver.SharedSecret}, server: test.server}
		if found := j.filesRead(); found[len(found)-1].Status != test.want {
			t.Errorf("%s with %q for %v: got %+v", test.file, test.content, test.server, found)
		}
	}
}

// A fault has its line, and another cure than a file that is not there, or that this user may not read.
func TestUnreadableSettings(t *testing.T) {
	for _, test := range []struct {
		name, content, found, do string
	}{
		{"a list", "- hunter2\n", "holds no settings", "repair it there"},
		{"a tab", "a: hunter2\n\tb: c\n", "homeserver.yaml, line 2: found a tab character that violates indentation", "repair it there"},
		{"two documents", "a: hunter2\n---\nb: c\n", "homeserver.yaml, line 2: a second document begins", "repair it there"},
		{"an address in a list", "a:\n- [::1, 127.0.0.1]\n", "homeserver.yaml, line 2: between brackets what begins with : has to be in quotes", "repair it there"},
	} {
		got := judge(t, config.HomeserverFile, test.content, todayServer)
		if len(got) != 1 || got[0].Status != Problem || !strings.Contains(got[0].Found, test.found) || !strings.HasPrefix(got[0].Do, test.do) {
			t.Errorf("%s: got %+v", test.name, got)
		}
	}
	for want, err := range map[string]error{
		"run this in the homeserver's directory": &os.PathError{Op: "open", Path: "homeserver.yaml", Err: os.ErrNotExist},
		"run this in the homeserver's":           errNoSettings,
		"run this as root":                       &os.PathError{Op: "open", Path: "/homeserver.yaml", Err: os.ErrPermission},
	} {
		if got := (judging{settings: settingsFile{path: config.HomeserverFile, err: err}}).unreadable(); (got.Status == Problem) == errors.Is(err, errNoSettings) || !strings.HasPrefix(got.Do, want) {
			t.Errorf("%v: got %+v, want %q", err, got, want)
		}
	}
}

// A homeserver that listens on a unix socket alone is there, and not reached.
func TestUnixSocket(t *testing.T) {
	const resources = "resources: [{names: [client]}]"
	for listeners, want := range map[string]string{
		"[{type: http, path: /run/synapse.sock, " + resources + "}]":                                                            "it listens on the unix socket /run/synapse.sock alone, which this service does not speak",
		"[{type: http, path: /run/synapse.sock, " + resources + "}, {type: http, port: 8007, " + resources + "}]":               "nothing answers at http://127.0.0.1:1",
		"[{type: http, path: /run/metrics.sock, resources: [{names: [metrics]}]}, {type: http, port: 8007, " + resources + "}]": "nothing answers at http://127.0.0.1:1",
	} {
		t.Chdir(t.TempDir())
		plantAll(t, ".", map[string]string{"homeserver.yaml": "server_name: x\nlisteners: " + listeners + "\n"})
		chk := &checking{Input: Input{Config: config.Config{Origin: "http://127.0.0.1:1", ServerName: "x", Way: homeserver.SharedSecret}}}
		chk.connect()
		if found := chk.homeserverItself(t.Context()); found.Status != Problem || !strings.HasPrefix(found.Found, want) {
			t.Errorf("%s: got %+v", listeners, found)
		}
		for _, f := range chk.judging(chk.readAllSettings()[0]).listeners() {
			if f.Subject == config.HomeserverFile+" listeners port" && strings.HasPrefix(want, "it listens") && (f.Status != OK || f.Found != "/run/synapse.sock") {
				t.Errorf("%s: got %+v", listeners, f)
			}
		}
	}
}
