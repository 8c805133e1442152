// admission.go owns what the flags may say of who may register.

package config

import (
	"fmt"
	"math/big"
	"strings"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/files"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
)

// readMinBalance checks the balance that is asked for, and that there is a node to ask for it.
func (c *Config) readMinBalance(wei string) error {
	if c.EthRPC != "" {
		if _, err := names.ParseEthereumURL(c.EthRPC); err != nil {
			return fmt.Errorf("--%s is %w", FlagEthRPC, err)
		}
	}
	given := FlagEthRPC
	if c.EthRPCFile != "" {
		given = FlagEthRPCFile
	}
	switch {
	case c.EthRPC+c.EthRPCFile != "" && wei == "":
		return fmt.Errorf("--%s is missing: give the wei that an address must hold to register, or leave --%s out", flagMinBalance, given)
	case c.EthRPC+c.EthRPCFile == "" && wei != "":
		return fmt.Errorf("--%s is given without an Ethereum node that could return balances: give --%s, or --%s where its URL holds a key", flagMinBalance, FlagEthRPC, FlagEthRPCFile)
	case wei == "":
		return nil
	}
	const longest = 78 // digits, of what an address could hold: 256 bits
	least, ok := new(big.Int).SetString(wei, 10)
	if !ok || len(wei) > longest || strings.Trim(wei, "0123456789") != "" || least.Sign() == 0 || least.BitLen() > 256 {
		return fmt.Errorf("--%s is not an amount: give whole wei in decimal and more than 0, such as 1000000000000000000 for one ether", flagMinBalance)
	}
	c.MinBalance, c.minBalanceText = least, least.String()
	return nil
}

// ReadEthRPC reads the URL of the Ethereum node from its file.
func (c *Config) ReadEthRPC() error {
	content, err := files.Read(c.EthRPCFile)
	if err != nil {
		return fmt.Errorf("read the URL of the Ethereum node: %w", err)
	}
	c.EthRPC = strings.TrimSpace(files.WithoutMark(string(content)))
	if _, err := names.ParseEthereumURL(c.EthRPC); err != nil {
		return fmt.Errorf("%s does not hold the http or https URL of an Ethereum node: write one into it, such as http://127.0.0.1:8545", c.EthRPCFile)
	}
	return nil
}
