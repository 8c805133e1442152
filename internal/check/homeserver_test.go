// homeserver_test.go owns the tests of the homeserver's version.

package check

import (
	"testing"

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
