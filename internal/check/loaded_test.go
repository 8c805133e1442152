package check

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
)

// What Synapse refuses of registration.yaml, or reads otherwise than this service, is told; what both read alike passes.
func TestAsLoaded(t *testing.T) {
	const space = `users: [{exclusive: false, regex: '^@0x[0-9a-f]{40}:transport02\.smartmesh\.cn$'}]`
	for _, test := range []struct {
		name, from, to string
		want           Status
		found          string
	}{
		{"as it should be", "", "", OK, ""},
		{"of base 60", ourASToken, "1:30", Problem, "as_token is read as something else"},
		{"of base 60, in quotes", ourASToken, "'1:30'", OK, ""},
		{"a date", ourASToken, "2024-01-01", Problem, "as_token is read as something else"},
		{"a date, in quotes", ourASToken, `"2024-01-01"`, OK, ""},
		{"an exponent, which this service refuses", ourASToken, "1e10", OK, ""},
		{"octal as in YAML 1.2, which this service refuses", ourASToken, "0o17", OK, ""},
		{"an id of base 60", "Q7PM2E53RE-transport02.smartmesh.cn", "190:20:30", Problem, "id is read as something else"},
		{"a tab", "sender_localpart: t", "sender_localpart:\tt", Problem, "line 5: a tab stands where Synapse takes spaces alone"},
		{"a tab in a comment", "sender_localpart", "# a\tb\nsender_localpart", OK, ""},
		{"two documents", "sender_localpart", "---\nsender_localpart", Problem, "line 5: a second document begins"},
		{"a sender that is no name in a URL", "sender_localpart: transport02.smartmesh.cn", "sender_localpart: '[--1]'", Problem, "sender_localpart has characters"},
		{"no namespaces", "namespaces:", "spaces:", Problem, "namespaces is not there"},
		{"namespaces in a list", space, "- 1", Problem, "namespaces is not there"},
		{"users in no list", space, "users: {}", Problem, "namespaces.users is no list"},
		{"a regex that is none", `regex: '^@0x[0-9a-f]{40}:transport02\.smartmesh\.cn$'`, "regex: 1", Problem, "one of namespaces.users has not both"},
		{"no exclusive", "exclusive: false, ", "", Problem, "one of namespaces.users has not both"},
		{"exclusive in quotes", "exclusive: false", "exclusive: 'false'", Problem, "one of namespaces.users has not both"},
		{"yes, which is true", "exclusive: false", "exclusive: no", OK, ""},
		{"protocols", "sender_localpart", "protocols: [a]\nsender_localpart", OK, ""},
		{"no list of protocols", "sender_localpart", "protocols: a\nsender_localpart", Problem, "protocols is no list"},
		{"a number among protocols", "sender_localpart", "protocols: [1]\nsender_localpart", Problem, "protocols is no list"},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), config.RegistrationFile)
			if err := os.WriteFile(path, []byte(strings.Replace(goodRegistration, test.from, test.to, 1)), 0o600); err != nil {
				t.Fatal(err)
			}
			chk := &checking{}
			chk.registered, chk.registeredErr = config.ReadRegistration(path)
			if chk.registeredErr != nil {
				t.Fatal(chk.registeredErr)
			}
			found := chk.asLoaded()
			if len(found) != 1 || found[0].Status != test.want || !strings.Contains(found[0].Found, test.found) || strings.Contains(found[0].Found, ourASToken) {
				t.Errorf("got %+v", found)
			}
			chk.server = homeserver.Software{Name: homeserver.Dendrite, Version: "0.15.2"}
			if found := chk.asLoaded(); len(found) > 0 {
				t.Errorf("Dendrite reads as this service does: got %+v", found)
			}
		})
	}
}

// A file of tokens that this user may not read is there; it is not to be written anew.
func TestCureOfUnreadable(t *testing.T) {
	denied := &os.PathError{Op: "open", Path: "/run.sh", Err: os.ErrPermission}
	for subject, found := range map[string][]Finding{
		subjectRun:          judgeScript(config.Script{}, denied, nil, config.Registration{}),
		subjectRegistration: judgeRegistrationFile("/registration.yaml", config.Registration{}, denied),
	} {
		if len(found) != 1 || found[0].Status != Problem || !strings.Contains(found[0].Found, "it is there and cannot be read") || found[0].Do != "run this as root" {
			t.Errorf("%s: got %+v", subject, found)
		}
	}
	if got := cureOf(os.ErrNotExist, "make it"); got != "make it" {
		t.Errorf("got %q", got)
	}
}
