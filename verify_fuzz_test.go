// verify_fuzz_test.go owns that a signature recovers to one signer or none, whatever its bytes.

package main

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"math/big"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/common"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
	decred "github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"
	"github.com/ethereum/go-ethereum/crypto"
)

// signedBy is recoverSigner again, by the pure-Go implementation and by arithmetic: nil where there is no signer that
// the contract takes. With CGO_ENABLED=1 the program's own is another implementation.
func signedBy(text string, sig []byte) *common.Address {
	half := new(big.Int).Rsh(crypto.S256().Params().N, 1)
	if len(sig) != 65 || sig[64] != 27 && sig[64] != 28 || new(big.Int).SetBytes(sig[32:64]).Cmp(half) > 0 {
		return nil
	}
	key, _, err := decred.RecoverCompact(append([]byte{sig[64]}, sig[:64]...), crypto.Keccak256([]byte(text)))
	if err != nil {
		return nil
	}
	signer := crypto.PubkeyToAddress(*key.ToECDSA())
	return &signer
}

// A signature is taken if it is the one canonical form of its signer, and then for the same signer whichever
// implementation looks.
func FuzzRecoverSigner(f *testing.F) {
	for _, v := range readVectors(f) {
		var sent registration
		if json.Unmarshal([]byte(v.Body), &sent) != nil {
			continue
		}
		_, name, _ := strings.Cut(sent.DisplayName, "-")
		for text, signature := range map[string]string{v.Domain: sent.Password, names.UserID(sent.Localpart, v.Domain): name} {
			if sig, err := hex.DecodeString(signature); err == nil {
				f.Add(text, sig, sig[:min(32, len(sig))])
			}
		}
	}
	f.Fuzz(func(t *testing.T, text string, sig, seed []byte) {
		got, ok := recoverSigner(text, hex.EncodeToString(sig))
		want := signedBy(text, sig)
		if ok != (want != nil) || ok && got != *want {
			t.Fatalf("got %v (%v), want %v", got, ok, want)
		}
		if ok {
			checkCanonical(t, text, sig, got)
		}
		key, err := crypto.ToECDSA(seed)
		if err != nil {
			return
		}
		signature, err := signText(key, text)
		if err != nil {
			t.Fatal(err)
		}
		own, _ := hex.DecodeString(signature)
		signer := crypto.PubkeyToAddress(key.PublicKey)
		if got, ok := recoverSigner(text, signature); !ok || got != signer || signedBy(text, own) == nil || *signedBy(text, own) != signer {
			t.Errorf("what a node signs is taken for %v's (%v), want %v", got, ok, signer)
		}
		checkCanonical(t, text, own, signer)
	})
}

// checkCanonical holds that no other spelling of the signature counts for its signer.
func checkCanonical(t *testing.T, text string, sig []byte, signer common.Address) {
	t.Helper()
	high, _ := hex.DecodeString(highTwin(hex.EncodeToString(sig[32:64])))
	for v := range 256 {
		for _, s := range [][]byte{sig[32:64], high} {
			if v == int(sig[64]) && bytes.Equal(s, sig[32:64]) {
				continue
			}
			twin := hex.EncodeToString(sig[:32]) + hex.EncodeToString(s) + hex.EncodeToString([]byte{byte(v)})
			if got, ok := recoverSigner(text, twin); ok && (got == signer || !bytes.Equal(s, sig[32:64])) {
				t.Errorf("%s is taken too", twin)
			}
		}
	}
}
