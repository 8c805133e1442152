// homeserver_test.go owns the tests of what is said of the homeserver itself.

package check

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
)

func TestJudgeSoftware(t *testing.T) {
	for _, test := range []struct {
		server homeserver.Software
		want   Status
	}{
		{homeserver.Software{Name: homeserver.Synapse, Version: "0.33.9"}, OK}, {homeserver.Software{Name: homeserver.Synapse, Version: "0.34.0"}, OK}, {homeserver.Software{Name: homeserver.Synapse, Version: "0.34.1"}, Problem}, {homeserver.Software{Name: homeserver.Synapse, Version: "0.34.1.1"}, Problem},
		{homeserver.Software{Name: homeserver.Synapse, Version: "0.99.5"}, Problem}, {homeserver.Software{Name: homeserver.Synapse, Version: "1.22.1"}, Problem}, {homeserver.Software{Name: homeserver.Synapse, Version: "1.23.0"}, OK}, {homeserver.Software{Name: homeserver.Synapse, Version: "1.139.2"}, OK},
		{homeserver.Software{Name: homeserver.Synapse, Version: "1.140.0"}, Problem}, {homeserver.Software{Name: homeserver.Synapse, Version: "1.140.0rc1"}, Problem}, {homeserver.Software{Name: homeserver.Synapse, Version: "1.141.0"}, OK}, {homeserver.Software{Name: homeserver.Synapse, Version: "1.163.2"}, OK},
		{homeserver.Software{Name: homeserver.Dendrite, Version: "0.15.2"}, OK}, {homeserver.Software{Name: "Tuwunel", Version: "1.7.0"}, Warning}, {homeserver.Software{}, Warning},
	} {
		if got := judgeSoftware(test.server, "x"); got.Status != test.want {
			t.Errorf("%v: got %+v, want %s", test.server, got, test.want)
		}
	}
}

// Of a homeserver that speaks no TLS, the URL to give is the cure.
func TestPlainHomeserver(t *testing.T) {
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	origin := strings.Replace(plain.URL, "http", "https", 1)
	chk := &checking{Input: Input{Config: config.Config{Origin: origin, Way: homeserver.SharedSecret}}, homeserver: homeserver.NewClient(origin, "example.org")}
	got := chk.homeserverItself(t.Context())
	if got.Status != Problem || !strings.Contains(got.Found, "speaks plain HTTP") || !strings.Contains(got.Do, plain.URL+homeserver.SharedSecretPath) {
		t.Errorf("got %+v", got)
	}
}
