package main

import (
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
)

func TestJudgeSoftware(t *testing.T) {
	for _, test := range []struct {
		server homeserver.Software
		want   status
	}{
		{homeserver.Software{Name: homeserver.Synapse, Version: "0.33.9"}, statusOK}, {homeserver.Software{Name: homeserver.Synapse, Version: "0.34.0"}, statusOK}, {homeserver.Software{Name: homeserver.Synapse, Version: "0.34.1"}, statusProblem}, {homeserver.Software{Name: homeserver.Synapse, Version: "0.34.1.1"}, statusProblem},
		{homeserver.Software{Name: homeserver.Synapse, Version: "0.99.5"}, statusProblem}, {homeserver.Software{Name: homeserver.Synapse, Version: "1.22.1"}, statusProblem}, {homeserver.Software{Name: homeserver.Synapse, Version: "1.23.0"}, statusOK}, {homeserver.Software{Name: homeserver.Synapse, Version: "1.139.2"}, statusOK},
		{homeserver.Software{Name: homeserver.Synapse, Version: "1.140.0"}, statusProblem}, {homeserver.Software{Name: homeserver.Synapse, Version: "1.140.0rc1"}, statusProblem}, {homeserver.Software{Name: homeserver.Synapse, Version: "1.141.0"}, statusOK}, {homeserver.Software{Name: homeserver.Synapse, Version: "1.163.2"}, statusOK},
		{homeserver.Software{Name: homeserver.Dendrite, Version: "0.15.2"}, statusOK}, {homeserver.Software{Name: "Tuwunel", Version: "1.7.0"}, statusOK}, {homeserver.Software{}, statusWarning},
	} {
		if got := judgeSoftware(test.server, "x"); got.Status != test.want {
			t.Errorf("%v: got %+v, want %s", test.server, got, test.want)
		}
	}
}
