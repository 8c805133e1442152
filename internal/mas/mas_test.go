// mas_test.go owns the tests of the answers of Matrix Authentication Service, and that each call is counted.

package mas

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	masplay "github.com/SmartMeshFoundation/matrix-regservice/e2e/mas"
	"github.com/SmartMeshFoundation/matrix-regservice/e2e/standin"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
)

// The program and the table of what is expected of the service speak of the same.
func TestKnowsTheAnswers(t *testing.T) {
	for _, same := range [][2]string{
		{exists, masplay.Answers[masplay.Exists].Title}, {refused, masplay.Answers[masplay.Refused].Title}, {unreached, masplay.Answers[masplay.Unreached].Title},
		{versionPath, masplay.VersionPath}, {Scope, masplay.AdminScope}, {homeserver.MASUsersPath, masplay.UsersPath}, {ByNamePath, masplay.ByNamePath},
		{passwordPath, masplay.PasswordPath}, {tokenPath, masplay.TokenPath}, {sitePath, masplay.SitePath},
	} {
		if same[0] != same[1] {
			t.Errorf("got %q, want %q", same[0], same[1])
		}
	}
}

// In the metrics a look-up that finds nobody is no failure, a page that is not the service's is one, and what only check asks
// has no name.
func TestCallsAreCounted(t *testing.T) {
	for _, test := range []struct {
		name  string
		fault http.HandlerFunc
		ask   func(*Accounts) error
		none  bool // ErrNoUser is the answer
		want  string
	}{
		{"nobody has the name", nil, func(a *Accounts) error { _, err := a.AccountID(t.Context(), "0x00"); return err }, true, "token ok, lookup ok"},
		{"another server's page", standin.Says(404, "<html>"), func(a *Accounts) error { _, err := a.AccountID(t.Context(), "0x00"); return err }, false, "token ok, lookup refused"},
		{"site-config", nil, func(a *Accounts) error { _, err := a.Site(t.Context()); return err }, false, "token ok"},
	} {
		t.Run(test.name, func(t *testing.T) {
			play := standin.New(t)
			if test.fault != nil {
				play.Fail(standin.LookUp, test.fault)
			}
			var calls []string
			h := homeserver.NewClient(play.URL, standin.ServerName)
			h.Observe = func(name, result string, _ time.Duration) { calls = append(calls, name+" "+result) }
			err := test.ask(New(h, h, standin.MASClientID, standin.MASSecret))
			if errors.Is(err, homeserver.ErrNoUser) != test.none {
				t.Errorf("got %v", err)
			}
			if got := strings.Join(calls, ", "); got != test.want {
				t.Errorf("counted %s, want %s", got, test.want)
			}
			if test.name == "site-config" && !strings.HasSuffix(play.Asked(), standin.Site) {
				t.Error("it was not asked")
			}
		})
	}
}
