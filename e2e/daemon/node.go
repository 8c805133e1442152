// node.go owns a node that signs by itself, as docs/nodes.md says: thousands are made where the register command would make one.

package daemon

import (
	"crypto/ecdsa"
	"encoding/hex"
	"testing"

	"github.com/ethereum/go-ethereum/crypto"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e"
	"github.com/SmartMeshFoundation/matrix-regservice/e2e/standin"
)

// NewNode makes a node with a key of its own, and returns what it sends.
func NewNode(t testing.TB) e2e.Registration {
	t.Helper()
	key, err := crypto.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	localpart := "0x" + hex.EncodeToString(crypto.PubkeyToAddress(key.PublicKey).Bytes())
	return e2e.Registration{
		Localpart:   localpart,
		DisplayName: localpart[2:6] + "-" + signature(t, key, "@"+localpart+":"+standin.ServerName),
		Password:    signature(t, key, standin.ServerName),
	}
}

// signature is r, s and v over Keccak-256 of the text, v being the recovery id plus 27.
func signature(t testing.TB, key *ecdsa.PrivateKey, text string) string {
	t.Helper()
	signed, err := crypto.Sign(crypto.Keccak256([]byte(text)), key)
	if err != nil {
		t.Fatal(err)
	}
	signed[crypto.RecoveryIDOffset] += 27
	return hex.EncodeToString(signed)
}
