package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"gopkg.in/yaml.v2"
)

// The two files as the guide has them, to the byte.
func TestRender(t *testing.T) {
	c := config{
		serverName: testServerName, origin: "http://127.0.0.1:8008", apiPath: createUserPath,
		matrixURL: "http://127.0.0.1:8008" + createUserPath,
		asToken:   testASToken, hsToken: testHSToken, host: "127.0.0.1", port: 8009, dataPath: ".matrix", logFormat: "terminal",
	}
	got, err := renderRegistration(c, "Q7PM2E53RE")
	want := `id: Q7PM2E53RE-transport02.smartmesh.cn
hs_token: RNI4CGEDTKC4WJTB4RZWRK4NOKA7M4PREUW6F2GZ
as_token: LODE52N2CKVXMOURUMAWLEEEXMWB4DKIKRI246XD
url: http://127.0.0.1:8009/regapp/1
sender_localpart: transport02.smartmesh.cn
protocols:
- regapp.transport02.smartmesh.cn
namespaces:
  users:
  - exclusive: false
    regex: '@.*'
  aliases: []
  rooms: []
`
	if err != nil || string(got) != want {
		t.Errorf("registration.yaml: got %s, %v", got, err)
	}

	wantRun := `#!/bin/sh
self=$(readlink -f -- "$0") && cd -- "$(dirname -- "$self")" || exit 1
exec matrix-regservice --astoken LODE52N2CKVXMOURUMAWLEEEXMWB4DKIKRI246XD --hstoken RNI4CGEDTKC4WJTB4RZWRK4NOKA7M4PREUW6F2GZ --matrixurl http://127.0.0.1:8008/_matrix/client/api/v1/createUser --host 127.0.0.1 --port 8009 --datapath .matrix --matrixdomain transport02.smartmesh.cn --verbosity 5
`
	if got := string(renderRun(c, programName)); got != wantRun {
		t.Errorf("run.sh: got %s", got)
	}
}

// A token that YAML would read as something else is quoted.
func TestRenderOddTokens(t *testing.T) {
	for _, token := range []string{"5318008", "true", "null", "1e10", "~", "a: b", "#x", "'", `"`} {
		content, err := renderRegistration(config{serverName: "x", host: "127.0.0.1", asToken: token, hsToken: token}, "ID")
		var back appService
		if err != nil || yaml.Unmarshal(content, &back) != nil || back.ASToken != token || back.HSToken != token {
			t.Errorf("%s: got %+v, %v", token, back, err)
		}
	}
}

// What run.sh quotes reaches the program as it was.
func TestShellQuote(t *testing.T) {
	for _, word := range []string{"plain", "two words", "it's", `"$HOME"`, "`id`", "a;b", "*", "", "-n", "ä", "~", "a\\b", "line\nbreak"} {
		out, err := exec.Command("sh", "-c", "printf %s "+shellQuote(word)).Output()
		if err != nil || string(out) != word {
			t.Errorf("%q: got %q, %v", word, out, err)
		}
	}
}

func TestReachableHost(t *testing.T) {
	for host, want := range map[string]string{"127.0.0.1": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1", "gateway": "gateway", "2001:db8::1": "2001:db8::1"} {
		if got := reachableHost(host); got != want {
			t.Errorf("%s: got %s, want %s", host, got, want)
		}
	}
}

func TestRandomText(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		text := randomText(tokenLength)
		if len(text) != tokenLength || strings.Trim(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") != "" || seen[text] {
			t.Fatalf("got %q", text)
		}
		seen[text] = true
	}
}

// All of the files or none, and the old ones where they were.
func TestWriteFilesAllOrNothing(t *testing.T) {
	for name, force := range map[string]bool{"new": false, "forced": true} {
		t.Run(name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			if force {
				os.WriteFile("a", []byte("old"), 0o600)
			}
			// The second cannot be put in place: a directory takes its draft away.
			files := []generatedFile{{"a", 0o600, []byte("new")}, {"b", 0o600, []byte("new")}}
			if force {
				os.Mkdir("b", 0o700) // which no hard link can keep
			} else {
				files[1].name = "missing/b"
			}
			if _, err := writeFiles(files, force); err == nil {
				t.Fatal("no error")
			}
			content, err := os.ReadFile("a")
			if force && string(content) != "old" || !force && !os.IsNotExist(err) {
				t.Errorf("a: got %q, %v", content, err)
			}
			left, _ := filepath.Glob(".*-*")
			kept, _ := filepath.Glob("*" + backupTail)
			if len(left)+len(kept) > 0 {
				t.Errorf("left behind: %v %v", left, kept)
			}
		})
	}
}

// What root writes belongs to whom homeserver.yaml belongs to.
func TestWriteFilesOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to give files away")
	}
	t.Chdir(t.TempDir())
	os.WriteFile(homeserverFile, nil, 0o600)
	if err := os.Chown(homeserverFile, 12345, 23456); err != nil {
		t.Fatal(err)
	}
	if _, err := writeFiles([]generatedFile{{"a", 0o600, nil}}, false); err != nil {
		t.Fatal(err)
	}
	stat, err := os.Stat("a")
	if err != nil {
		t.Fatal(err)
	}
	if owner := stat.Sys().(*syscall.Stat_t); owner.Uid != 12345 || owner.Gid != 23456 {
		t.Errorf("got %d:%d", owner.Uid, owner.Gid)
	}
}

// The file that go run makes is gone when it ends: run.sh may not name it.
func TestGoRunIsRefused(t *testing.T) {
	cmd := exec.Command("go", "run", ".", "--matrixdomain", "example.org", "genconfig")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "build it first (go build)") {
		t.Errorf("got %s, %v", out, err)
	}
	if _, err := os.Lstat(registrationFile); err == nil {
		os.Remove(registrationFile)
		os.Remove(runFile)
		t.Error("files were written")
	}
}
