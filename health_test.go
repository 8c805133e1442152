// health_test.go owns what /readyz says while balances cannot be looked up.

package main

import (
	"context"
	"math/big"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
)

// Nobody can register while balances cannot be looked up: it is not ready.
func TestReadyWithoutChain(t *testing.T) {
	node := newEthNode(t)
	d := newAdmissionGateway(t, "none", node.asks(big.NewInt(1)))
	c := config.Config{ServerName: testServerName, Origin: d.homeserver.URL, Way: homeserver.CreateUser}
	s := serviceOf(c)
	s.admission = d.server.admission
	ready := func() *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		newHealth(context.Background(), s, d.store).ready(w, httptest.NewRequest(http.MethodGet, "/readyz", nil))
		return w
	}
	if got := ready(); got.Code != 200 {
		t.Errorf("got %d %s, want 200", got.Code, got.Body)
	}
	node.fail(says(500, ""))
	if got := ready(); got.Code != 503 || got.Body.String() != "the Ethereum node does not tell balances\n" {
		t.Errorf("got %d %s, want 503", got.Code, got.Body)
	}
}
