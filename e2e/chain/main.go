// Command chain is a real Ethereum chain in one process, for the tests of admission: go-ethereum's simulated
// backend, asked over HTTP as a provider's node is. It is a module of its own, so that the product's go.mod knows
// nothing of a whole node.
//
//	chain PORT PATH
//
// serves at http://127.0.0.1:PORT/PATH, as providers have an API key in the path. Each line that it reads,
// "ADDRESS WEI", pays so much to the address in a block of its own and is answered with a line. It ends with its input.
package main

import (
	"bufio"
	"context"
	"fmt"
	"math/big"
	"os"
	"strconv"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/ethereum/go-ethereum/eth/ethconfig"
	"github.com/ethereum/go-ethereum/ethclient/simulated"
	"github.com/ethereum/go-ethereum/node"
	"github.com/ethereum/go-ethereum/params"
)

// treasury is the payer's balance at the start, in ether.
const treasury = 1_000_000

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "chain:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("want PORT PATH, not %d words", len(args))
	}
	port, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	key, err := crypto.GenerateKey()
	if err != nil {
		return err
	}
	payer := crypto.PubkeyToAddress(key.PublicKey)
	ether := new(big.Int).Mul(big.NewInt(treasury), big.NewInt(params.Ether))
	chain := simulated.NewBackend(types.GenesisAlloc{payer: {Balance: ether}}, func(n *node.Config, _ *ethconfig.Config) {
		n.HTTPHost, n.HTTPPort, n.HTTPPathPrefix = "127.0.0.1", port, "/"+args[1]
		n.HTTPModules = []string{"eth"}
	})
	defer chain.Close()

	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var to, wei string
		if _, err := fmt.Sscan(lines.Text(), &to, &wei); err != nil {
			return fmt.Errorf("%q is not an address and an amount", lines.Text())
		}
		amount, ok := new(big.Int).SetString(wei, 10)
		if !ok || !common.IsHexAddress(to) {
			return fmt.Errorf("%q is not an address and an amount", lines.Text())
		}
		signer := types.LatestSignerForChainID(params.AllDevChainProtocolChanges.ChainID)
		if err := pay(chain, payer, common.HexToAddress(to), amount, func(t *types.DynamicFeeTx) (*types.Transaction, error) {
			return types.SignNewTx(key, signer, t)
		}); err != nil {
			return err
		}
		fmt.Println("paid", amount, "to", to)
	}
	return lines.Err()
}

// pay makes a block with one transfer in it, and looks whether it arrived.
func pay(chain *simulated.Backend, from, to common.Address, amount *big.Int, sign func(*types.DynamicFeeTx) (*types.Transaction, error)) error {
	ctx, client := context.Background(), chain.Client()
	before, err := client.BalanceAt(ctx, to, nil)
	if err != nil {
		return err
	}
	nonce, err := client.PendingNonceAt(ctx, from)
	if err != nil {
		return err
	}
	gwei := big.NewInt(params.GWei)
	tx, err := sign(&types.DynamicFeeTx{
		ChainID: params.AllDevChainProtocolChanges.ChainID, Nonce: nonce, To: &to, Value: amount,
		Gas: params.TxGas, GasTipCap: gwei, GasFeeCap: new(big.Int).Mul(gwei, big.NewInt(10)),
	})
	if err != nil {
		return err
	}
	if err := client.SendTransaction(ctx, tx); err != nil {
		return err
	}
	chain.Commit()
	after, err := client.BalanceAt(ctx, to, nil)
	if err != nil {
		return err
	}
	if new(big.Int).Add(before, amount).Cmp(after) != 0 {
		return fmt.Errorf("%v has %v wei after %v were paid to its %v", to, after, amount, before)
	}
	return nil
}
