package mas

import (
	"testing"

	masplay "github.com/SmartMeshFoundation/matrix-regservice/e2e/mas"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
)

// The program and the table of what is expected of the service speak of the same.
func TestKnowsTheAnswers(t *testing.T) {
	for _, same := range [][2]string{
		{exists, masplay.Answers[masplay.Exists].Title}, {Scope, masplay.AdminScope}, {homeserver.MASUsersPath, masplay.UsersPath}, {ByNamePath, masplay.ByNamePath},
		{passwordPath, masplay.PasswordPath}, {tokenPath, masplay.TokenPath}, {sitePath, masplay.SitePath},
	} {
		if same[0] != same[1] {
			t.Errorf("got %q, want %q", same[0], same[1])
		}
	}
}
