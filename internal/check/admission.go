// admission.go judges who may register, if the operator limits that: the Ethereum node that tells balances.

package check

import (
	"cmp"
	"context"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/admission"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
)

// ethereumNode judges the node that tells balances, and whether the running service asks for them.
func (chk *checking) ethereumNode(ctx context.Context) []Finding {
	c := chk.Config
	if c.EthRPC+c.EthRPCFile == "" {
		return nil
	}
	return chk.judgeEthRPC(ctx)
}

// judgeEthRPC asks the Ethereum node the same as the service does.
func (chk *checking) judgeEthRPC(ctx context.Context) []Finding {
	const subject = "Ethereum node"
	c := chk.Config
	var found []Finding
	if c.EthRPCFile != "" {
		if err := c.ReadEthRPC(); err != nil {
			return []Finding{problem(subject, cureOf(err, "write its URL into the file of --"+config.FlagEthRPCFile), "%v", err)}
		}
		found = append(found, judgeMode(subject+" URL", c.EthRPCFile, 0o600))
	}
	u, err := names.ParseEthereumURL(c.EthRPC)
	if err != nil {
		return append(found, problem(subject, "give its URL", "its URL is %v", err))
	}
	chain := admission.NewChain(u, c.MinBalance)
	if c.SecretArgs[config.FlagEthRPC] != "" {
		found = append(found, warning(subject+" URL", "write it into a file of mode 0600 and give --"+config.FlagEthRPCFile+" FILE instead", "it may hold a key, and a command line shows it to other users of the machine"))
	}
	if names.IsPlainRemote(u) {
		found = append(found, warning(subject+" URL", "use https, or a node of your own on this machine", "balances from %s could be forged on the way", chain.Where()))
	}
	if said, err := chk.daemon(ctx); err == nil && said.PID != 0 && said.MinBalance != c.MinBalance.String() {
		return append(found, problem(subject, "restart the service", "the running service asks for another balance than %v wei: %s", c.MinBalance, cmp.Or(said.MinBalance, "for none, so that everybody may register")))
	}
	id, err := chain.ID(ctx)
	if err != nil {
		return append(found, problem(subject, "start it, or give the URL of another; until it tells balances nobody can register", "at %s: %v", chain.Where(), err))
	}
	return append(found, fine(subject, "%s tells balances, on chain %v; an address must hold %v wei", chain.Where(), id, c.MinBalance))
}
