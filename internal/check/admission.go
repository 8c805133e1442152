// admission.go judges who may register, if the operator limits that: the list, and the Ethereum node that tells balances.

package check

import (
	"cmp"
	"context"
	"fmt"
	"time"

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
	told := fine(subject, "%s tells balances, on chain %v; an address must hold %v wei", chain.Where(), id, c.MinBalance)
	if untold := chk.untold(ctx); untold != "" {
		told.Found += "; whether the running service asks for that was " + notLookedAt + untold
	}
	return append(found, told)
}

// admitFile judges the list of who may register, and whether it is the one that the running service has.
func (chk *checking) admitFile(ctx context.Context) []Finding {
	const subject = "admit file"
	path := chk.Config.AdmitFile
	said, err := chk.daemon(ctx)
	isKnown, untold := err == nil && said.PID != 0, chk.untold(ctx)
	switch {
	case path != "":
	case untold != "":
		return []Finding{unseen(subject, "%s: the running service may admit by a list all the same", untold)}
	case !isKnown || said.Admitted == nil:
		return nil
	default:
		return []Finding{warning(subject, setFlag(config.FlagAdmitFile, said.Admitted.File), "the running service admits the %s of %s, and %s does not name that: after a start with it everybody may register", count(said.Admitted.Addresses, "address"), said.Admitted.File, config.RunFile)}
	}
	list, readErr := admission.ReadList(path)
	switch {
	case readErr != nil:
		return []Finding{problem(subject, cureOf(readErr, "repair it; then restart the service, or have it read the file again with SIGHUP"), "%v", readErr)}
	case isKnown && said.Admitted == nil:
		return []Finding{problem(subject, "restart the service with "+paste("--"+config.FlagAdmitFile+" "+path), "the running service has no list: everybody may register")}
	case isKnown && said.Admitted.Digest != admission.Digest(list):
		return []Finding{problem(subject, "have it read the file: "+paste(fmt.Sprintf("kill -HUP %d", said.PID)), "the running service has another list than %s: %s, read from %s at %s, and here are %s",
			path, count(said.Admitted.Addresses, "address"), said.Admitted.File, said.Admitted.Since.Format(time.RFC3339), count(len(list), "address"))}
	case len(list) == 0:
		return []Finding{warning(subject, "write the addresses that may register into it, one a line", "%s lists no address: nobody can register", path)}
	}
	found := fine(subject, "%s admits %s", path, count(len(list), "node"))
	switch {
	case isKnown:
		found.Found += ", and the running service has it since " + said.Admitted.Since.Format(time.RFC3339)
	case untold != "":
		found.Found += "; whether the running service has it was " + notLookedAt + untold
	}
	return []Finding{found}
}
