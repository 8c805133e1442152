// registration_yaml_loaded_test.go owns that registration.yaml is judged as Synapse loads it.

package check

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
)

// What Synapse refuses of registration.yaml, or reads otherwise than this service, is told; what both read alike passes. A test of
// e2e asks Synapse itself about each of them.
func TestAsLoaded(t *testing.T) {
	content, err := os.ReadFile("testdata/registrations.json")
	if err != nil {
		t.Fatal(err)
	}
	var tests []struct{ Name, Text, Refused string }
	if err := json.Unmarshal(content, &tests); err != nil || len(tests) == 0 {
		t.Fatal(err)
	}
	for _, test := range tests {
		t.Run(test.Name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), config.RegistrationFile)
			if err := os.WriteFile(path, []byte(test.Text), 0o600); err != nil {
				t.Fatal(err)
			}
			chk := &checking{}
			chk.registered, chk.registeredErr = config.ReadRegistration(path)
			if chk.registeredErr != nil {
				t.Fatal(chk.registeredErr)
			}
			found := chk.asLoaded()
			if len(found) != 1 || (found[0].Status == Problem) != (test.Refused != "") || !strings.Contains(found[0].Found, test.Refused) || strings.Contains(found[0].Found, ourASToken) {
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
