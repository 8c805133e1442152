// registration_yaml_test.go owns the tests of registration.yaml and run.sh with each fault.

package check

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
)

const goodRegistration = `id: Q7PM2E53RE-transport02.smartmesh.cn
hs_token: RNI4CGEDTKC4WJTB4RZWRK4NOKA7M4PREUW6F2GZ
as_token: LODE52N2CKVXMOURUMAWLEEEXMWB4DKIKRI246XD
url: http://127.0.0.1:8009/regapp/1
sender_localpart: transport02.smartmesh.cn
namespaces:
  users: [{exclusive: false, regex: '^@0x[0-9a-f]{40}:transport02\.smartmesh\.cn$'}]
`

func TestBrokenRegistration(t *testing.T) {
	const narrow = `'^@0x[0-9a-f]{40}:transport02\.smartmesh\.cn$'`
	for _, test := range []struct {
		name, from, to string
		config         config.Config
		subject        string
		want           Status
	}{
		{name: "good"},
		{name: "no id", from: "id: Q", to: "ID: Q", subject: "tokens", want: Problem},
		{name: "no sender", from: "sender_", to: "", subject: "tokens", want: Problem},
		{name: "no as_token", from: "as_token", to: "token", subject: "tokens", want: Problem},
		{name: "no hs_token", from: "hs_token", to: "token", subject: "tokens", want: Problem},
		{name: "a number", from: ourHSToken, to: "5318008", subject: "tokens", want: Problem},
		{name: "a space", from: ourHSToken, to: "hunter2 hunter2", subject: "tokens", want: Problem},
		{name: "one token", from: ourHSToken, to: ourASToken, subject: "tokens", want: Problem},
		{name: "another as_token given", config: config.Config{ASToken: "hunter2"}, subject: "tokens", want: Problem},
		{name: "the same hs_token given", config: config.Config{HSToken: ourHSToken}},
		{name: "no url", from: "url:", to: "URL:", subject: "url", want: Problem},
		{name: "no absolute url", from: "http://", to: "", subject: "url", want: Problem},
		{name: "a url with a user", from: "http://", to: "http://hunter2@", subject: "url", want: Problem},
		{name: "another port", from: ":8009", to: ":8010", subject: "url", want: Problem},
		{name: "another path", from: "/regapp/1", to: "", subject: "url", want: Problem},
		{name: "a slash more", from: "/regapp/1", to: "/regapp/1/"},
		{name: "localhost", from: "//127.0.0.1", to: "//localhost"},
		{name: "another host", from: "//127.0.0.1", to: "//gateway", subject: "url", want: Warning},
		{name: "everybody", from: narrow, to: "'@.*'", subject: "namespace", want: Warning},
		{name: "everybody, for createUser", from: narrow, to: "'@.*'", config: config.Config{Way: homeserver.CreateUser}},
		{name: "everybody of this server", from: narrow, to: `'@.*:transport02\.smartmesh\.cn'`, subject: "namespace", want: Warning},
		{name: "any text behind 0x", from: narrow, to: "'@0x.*'", subject: "namespace", want: Warning},
		{name: "without anchors", from: narrow, to: `'@0x[0-9a-f]{40}:transport02\.smartmesh\.cn'`},
		{name: "no node", from: narrow, to: "'@bot_.*'", subject: "namespace", want: Warning},
		{name: "no regex", from: narrow, to: "'('", subject: "namespace", want: Problem},
		{name: "no namespace", from: "users:", to: "people:", subject: "namespace", want: Warning},
		{name: "exclusive", from: "exclusive: false", to: "exclusive: true", subject: "namespace", want: Problem},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), config.RegistrationFile)
			if err := os.WriteFile(path, []byte(strings.Replace(goodRegistration, test.from, test.to, 1)), 0o600); err != nil {
				t.Fatal(err)
			}
			c := test.config
			c.ServerName, c.Host, c.Port = ourServerName, "127.0.0.1", 8009
			if c.Way == nil {
				c.Way = homeserver.SharedSecret
			}
			file, err := config.ReadRegistration(path)
			chk := &checking{Input: Input{Config: c, Daemon: DaemonAPI{Base: "/regapp/1"}}, registered: file, registeredErr: err}
			found := append(judgeRegistrationFile(path, file, err), chk.takeRegistration(file, err)...)
			found = append(found, chk.registrationURL(t.Context()))
			for _, f := range found {
				if text := f.Found + f.Do; strings.Contains(text, ourHSToken) || strings.Contains(text, ourASToken) || strings.Contains(text, "hunter2") || strings.Contains(text, "5318008") {
					t.Errorf("holds a token: %+v", f)
				}
			}
			want := map[string]Status{}
			if test.want != "" {
				want[test.subject] = test.want
			}
			if got := bad(found); !maps.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
			for _, f := range found { // a typing error needs no new tokens
				if cure := "write in " + path + ": " + paste("url: http://127.0.0.1:8009/regapp/1") + thenRestart; test.subject == "url" && f.Status == Problem && f.Do != cure {
					t.Errorf("got %q, want %q", f.Do, cure)
				}
			}
		})
	}
}

func TestJudgeMode(t *testing.T) {
	for _, test := range []struct {
		mode, want os.FileMode
		status     Status
	}{
		{0o600, 0o600, OK}, {0o400, 0o600, Problem}, {0o640, 0o600, Warning}, {0o604, 0o600, Problem}, {0o644, 0o600, Problem},
		{0o700, 0o700, OK}, {0o600, 0o700, Problem}, {0o755, 0o700, Problem}, {0o750, 0o700, Warning},
	} {
		path := filepath.Join(t.TempDir(), "x")
		os.WriteFile(path, nil, 0o600)
		os.Chmod(path, test.mode)
		if got := judgeMode("x", path, test.want); got.Status != test.status {
			t.Errorf("%04o for %04o: got %+v", test.mode, test.want, got)
		}
	}
}

// run.sh has to pass on what it is given, behind its own.
func TestJudgeScript(t *testing.T) {
	for content, want := range map[string]bool{
		config.Program + ` --port 1`: false, config.Program + ` --port 1 "$@"`: true, config.Program + ` --port 1 $@ >> log`: true,
		config.Program + ` "$@" --port 1`: false, config.Program + ` --port 1 >> log "$@"`: true, config.Program + ` --port 1 2>&1 >log "$@"`: true,
		config.Program + ` --port 1 | tee "$@"`: false,
	} {
		path := filepath.Join(t.TempDir(), config.RunFile)
		os.WriteFile(path, []byte("exec "+content+"\n"), 0o700)
		s, err := config.ReadScript(path)
		named := false
		for _, f := range judgeScript(s, err, nil, config.Registration{}) {
			named = named || f.Subject == subjectRun+" arguments" && f.Status == Warning
		}
		if err != nil || named == want {
			t.Errorf("%s: named %t, %v", content, named, err)
		}
	}
	path := filepath.Join(t.TempDir(), config.RunFile)
	os.WriteFile(path, []byte("#!/bin/sh\necho "+strings.ToUpper(config.Program)+"\n"), 0o700)
	if s, err := config.ReadScript(path); err == nil || !strings.Contains(err.Error(), "no line of it starts") || judgeScript(s, err, nil, config.Registration{})[0].Status != Problem {
		t.Errorf("no command: got %v, %v", s.Flags, err)
	}
}
