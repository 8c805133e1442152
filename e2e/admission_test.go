// admission_test.go owns who is let in where the operator limits it, on a real Ethereum chain and a real Synapse.

package e2e

import (
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
)

const rememberedTime = time.Minute // for which the gateway uses the last answer of the chain

func TestAdmission(t *testing.T) {
	need.OnlyLong(t)
	d := deploy(t, Recipes[0])
	chain := must(StartChain(t.Context(), d.Dir))(t)
	t.Cleanup(func() {
		if err := chain.Stop(); err != nil {
			t.Error(err)
		}
	})
	d.AddSecret("key of the Ethereum node", chain.Key)

	ether := big.NewInt(1e18)
	least := new(big.Int).Mul(big.NewInt(20), ether) // more than 64 bits hold
	byBalance := must(d.AddGateway(t.Context(), "by-balance", d.Homeserver.URL+d.Recipe.createPath,
		"--sharesecret", d.Homeserver.SharedSecret, "--eth-rpc", chain.URL, "--min-balance", least.String()))(t)
	must(byBalance.WaitForLog(t.Context(), "Only addresses that hold enough may register", "chain_id=1337"))(t)
	for _, name := range []string{"run.sh", "registration.yaml"} {
		if content := must(os.ReadFile(filepath.Join(byBalance.Dir, name)))(t); strings.Contains(string(content), chain.Key) {
			t.Errorf("%s holds the key of the Ethereum node", name)
		}
	}

	// paid makes a node that holds so much.
	paid := func(wei *big.Int) *Node {
		t.Helper()
		n := newNode(t, d)
		if wei.Sign() > 0 {
			if err := chain.Pay(t.Context(), n.Localpart, wei); err != nil {
				t.Fatal(err)
			}
		}
		return n
	}
	registers := func(n *Node, g *Gateway, status int, errcode string) {
		t.Helper()
		want(t, must(n.RegisterAt(t.Context(), g.RegisterURL))(t), status, errcode)
	}
	hasAccounts := func(n *Node, accounts int) {
		t.Helper()
		if got := must(d.Homeserver.Accounts(t.Context(), n.UserID))(t); got != accounts {
			t.Errorf("%d accounts of %s, want %d", got, n.UserID, accounts)
		}
	}

	rich, empty, poor := paid(least), paid(new(big.Int)), paid(new(big.Int).Sub(least, big.NewInt(1)))
	registers(rich, byBalance, http.StatusOK, "")
	loggedIn(t, rich)
	registers(empty, byBalance, http.StatusForbidden, "M_FORBIDDEN")
	refused := time.Now()
	registers(poor, byBalance, http.StatusForbidden, "M_FORBIDDEN")
	hasAccounts(empty, 0)
	hasAccounts(poor, 0)
	if err := chain.Pay(t.Context(), empty.Localpart, new(big.Int).Add(least, ether)); err != nil {
		t.Fatal(err)
	}
	checked := must(d.Program.Run(t.Context(), byBalance.Dir, "check", "--all"))(t).Stdout
	if !strings.Contains(checked, "tells balances, on chain 1337") || strings.Contains(checked, chain.Key) {
		t.Errorf("check says %s", checked)
	}

	t.Run("a list is read again on SIGHUP", func(t *testing.T) { testAdmitFile(t, d, registers) })

	// The balance was raised a while ago, and counts a minute after the refusal.
	if time.Since(refused) < rememberedTime-5*time.Second {
		registers(empty, byBalance, http.StatusForbidden, "M_FORBIDDEN")
	}
	time.Sleep(time.Until(refused.Add(rememberedTime)))
	registers(empty, byBalance, http.StatusOK, "")
	hasAccounts(empty, 1)

	// Without the chain nobody is admitted, not even an address that holds enough.
	late := paid(least)
	if err := chain.Stop(); err != nil {
		t.Fatal(err)
	}
	registers(late, byBalance, http.StatusServiceUnavailable, "M_UNKNOWN")
	hasAccounts(late, 0)
	must(byBalance.WaitForLog(t.Context(), "Refused registration", "status=503", late.UserID, "connection refused"))(t)
	testNoSecretLogged(t, d)
}

func testAdmitFile(t *testing.T, d *Deployment, registers func(*Node, *Gateway, int, string)) {
	listed, later := newNode(t, d), newNode(t, d)
	list := filepath.Join(d.Dir, "admitted")
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(list, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("# the first\n" + listed.Localpart + "\n")
	g := must(d.AddGateway(t.Context(), "by-list", d.Homeserver.URL+d.Recipe.createPath, "--sharesecret", d.Homeserver.SharedSecret, "--admit-file", list))(t)
	registers(listed, g, http.StatusOK, "")
	registers(later, g, http.StatusForbidden, "M_FORBIDDEN")
	for _, step := range []struct {
		content, logged string
		status          int
		errcode         string
	}{
		{later.Localpart + "\nrubbish\n", "line 2 is not an address", http.StatusForbidden, "M_FORBIDDEN"},
		{listed.Localpart + "\n" + later.Localpart + "\n", "addresses=2", http.StatusOK, ""},
	} {
		write(step.content)
		if err := g.Hangup(); err != nil {
			t.Fatal(err)
		}
		must(g.WaitForLog(t.Context(), step.logged))(t)
		registers(later, g, step.status, step.errcode)
	}
	loggedIn(t, later)
}
