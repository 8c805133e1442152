// admission_test.go owns the tests of reading a balance.

package config

import (
	"math/big"
	"strings"
	"testing"
)

func TestReadMinBalance(t *testing.T) {
	most := new(big.Int).Lsh(big.NewInt(1), 256)
	const rpc = "http://127.0.0.1:8545"
	tests := []struct {
		name, rpc, file, wei string
		want                 string // in the error; "" for none
	}{
		{"off", "", "", "", ""},
		{"a wei", rpc, "", "1", ""},
		{"an ether", rpc, "", "1000000000000000000", ""},
		{"in a file", "", "eth_rpc", "1", ""},
		{"leading zeros", rpc, "", "0001", ""},
		{"the most", rpc, "", new(big.Int).Sub(most, big.NewInt(1)).String(), ""},
		{"more than the most", rpc, "", most.String(), "is not an amount"},
		{"very long", rpc, "", strings.Repeat("9", 1<<16), "is not an amount"},
		{"nothing", rpc, "", "0", "is not an amount"},
		{"negative", rpc, "", "-1", "is not an amount"},
		{"plus", rpc, "", "+1", "is not an amount"},
		{"hex", rpc, "", "0x1", "is not an amount"},
		{"a fraction", rpc, "", "0.5", "is not an amount"},
		{"an exponent", rpc, "", "1e18", "is not an amount"},
		{"underscores", rpc, "", "1_000", "is not an amount"},
		{"with a unit", rpc, "", "1 ether", "is not an amount"},
		{"no amount", rpc, "", "", "--min-balance is missing: give the wei that an address must hold to register, or leave --eth-rpc out"},
		{"no amount for the file", "", "eth_rpc", "", "or leave --eth-rpc-file out"},
		{"no node", "", "", "1", "give --eth-rpc, or --eth-rpc-file"},
		{"not a URL", "localhost:8545", "", "1", "is not the http or https URL of an Ethereum node"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := Config{EthRPC: test.rpc, EthRPCFile: test.file}
			err := c.readMinBalance(test.wei)
			if test.want == "" && (err != nil || (c.MinBalance != nil) != (test.wei != "")) || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}
