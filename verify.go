// verify.go owns the proof: the bytes that a node signs, the forms that its name, display name and password must have, and the
// signatures in them. It is pure: no I/O, no log, no state.

package main

import (
	"bytes"
	"crypto/ecdsa"
	"encoding/hex"
	"fmt"
	"math/big"
	"strings"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/crypto"
)

const (
	signatureDigits = 2 * crypto.SignatureLength // lowercase hex digits of r, s and v
	prefixDigits    = 4                          // of the address, in front of a display name's "-"
	recoveryOffset  = 27                         // v is the recovery id plus 27, as in Ethereum
)

// A registration is what a node sends to prove that it holds the key behind its name.
type registration struct {
	Localpart   string `json:"localpart"`   // the address: 0x and 40 lowercase hex digits
	DisplayName string `json:"displayname"` // the address's first 4 digits, "-", the signature of the user ID
	Password    string `json:"password"`    // the signature of the server name
}

// A node is the sender of a registration whose proof holds.
type node struct {
	Address common.Address
	homeserver.Account
}

// A requestFault is what the client has to change in a request.
type requestFault int

const (
	faultNotJSON   requestFault = iota // the body is not JSON
	faultBadJSON                       // the body is JSON of another form
	faultMissing                       // a field is missing
	faultForm                          // a field has a value of another form
	faultLocalpart                     // the localpart is not an address
	faultSignature                     // a signature is not by the key of the address
)

// A requestError tells the client what to change in its request.
type requestError struct {
	fault   requestFault
	message string
}

func (e *requestError) Error() string { return e.message }

func badRequest(fault requestFault, format string, args ...any) error {
	return &requestError{fault, fmt.Sprintf(format, args...)}
}

// notJSON says why a body is not JSON, where that shows.
func notJSON(body []byte) error {
	reason := "the body is not JSON"
	switch {
	case len(body) == 0:
		reason = "the body is empty: send the JSON object with Content-Length"
	case bytes.HasPrefix(body, []byte{0x1f, 0x8b}):
		reason = "the body is compressed with gzip: send it as it is"
	case bytes.HasPrefix(body, []byte{0xff, 0xfe}), bytes.HasPrefix(body, []byte{0xfe, 0xff}), len(body) > 1 && (body[0] == 0) != (body[1] == 0):
		reason = "the body is UTF-16: send it as UTF-8"
	case bytes.HasPrefix(body, []byte("\xef\xbb\xbf")):
		reason = "the body begins with a byte order mark: leave that out"
	}
	return badRequest(faultNotJSON, "%s", reason)
}

// verify checks the registration against the contract, forms first and signatures last, and returns the node that it proves.
// Its errors are requestErrors. None of them quotes what was sent but an address, once its form is right.
func (r registration) verify(serverName string) (node, error) {
	for _, field := range []struct{ name, value string }{
		{"localpart", r.Localpart}, {"displayname", r.DisplayName}, {"password", r.Password},
	} {
		if field.value == "" {
			return node{}, badRequest(faultMissing, "%s is missing or empty", field.name)
		}
	}

	if !names.IsLocalpart(r.Localpart) {
		return node{}, badRequest(faultLocalpart,
			"localpart must be the node's Ethereum address: 0x and %d lowercase hex digits", names.AddressDigits)
	}
	nameSignature, ok := strings.CutPrefix(r.DisplayName, r.Localpart[2:2+prefixDigits]+"-")
	if !ok || !names.IsLowerHex(nameSignature, signatureDigits) {
		return node{}, badRequest(faultForm,
			"displayname must be the first %d hex digits of the address, a hyphen, and a signature of %d lowercase hex digits",
			prefixDigits, signatureDigits)
	}
	if !names.IsLowerHex(r.Password, signatureDigits) {
		return node{}, badRequest(faultForm,
			"password must be a signature of %d lowercase hex digits", signatureDigits)
	}

	n := node{
		Address: common.HexToAddress(r.Localpart),
		Account: homeserver.Account{
			Localpart:   r.Localpart,
			UserID:      names.UserID(r.Localpart, serverName),
			DisplayName: r.DisplayName,
			Password:    r.Password,
		},
	}
	forName, forPassword := signedTexts(r.Localpart, serverName)
	// The password first: the homeserver shows everybody the display names of its users, so that junk may have a good one. It
	// costs one recovery then.
	if signer, ok := recoverSigner(forPassword, r.Password); !ok || signer != n.Address {
		return node{}, badSignature("password", forPassword)
	}
	if signer, ok := recoverSigner(forName, nameSignature); !ok || signer != n.Address {
		return node{}, badSignature("displayname", forName)
	}
	return n, nil
}

// signedTexts returns the bytes that a node signs: the user ID for its display name, the server name for its password. A
// signature is of their keccak256 hash, without Ethereum's message prefix.
func signedTexts(localpart, serverName string) (forName, forPassword string) {
	return names.UserID(localpart, serverName), serverName
}

// badSignature names the text that has to be signed: most nodes that fail sign another server name.
func badSignature(field, text string) error {
	return badRequest(faultSignature,
		"%s must hold the signature of %q by the key of the address in localpart: r, s, v over keccak256 of the text, v 27 or 28, low s, no Ethereum message prefix",
		field, text)
}

// recoverSigner returns the address of the key that signed the text, and false if the signature does not have the one canonical
// form. It checks the form itself and does not leave that to Ecrecover: without cgo Ecrecover accepts the recovery ids 4 and
// 5 as well, and both builds accept the high-s twin of a signature.
func recoverSigner(text, signature string) (common.Address, bool) {
	sig, err := hex.DecodeString(signature)
	if err != nil || len(sig) != crypto.SignatureLength {
		return common.Address{}, false
	}
	sig[crypto.RecoveryIDOffset] -= recoveryOffset
	id, r, s := sig[crypto.RecoveryIDOffset], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:64])
	if !crypto.ValidateSignatureValues(id, r, s, true) { // the id 0 or 1, r and s in range, s low
		return common.Address{}, false
	}
	key, err := crypto.Ecrecover(crypto.Keccak256([]byte(text)), sig)
	if err != nil {
		return common.Address{}, false
	}
	return common.BytesToAddress(crypto.Keccak256(key[1:])[12:]), true // a key's first byte only says that it is uncompressed
}

// sign makes the registration that proves the key to a homeserver: what a node sends.
func sign(key *ecdsa.PrivateKey, serverName string) (registration, error) {
	localpart := names.Localpart(crypto.PubkeyToAddress(key.PublicKey).Bytes())
	forName, forPassword := signedTexts(localpart, serverName)
	nameSignature, err := signText(key, forName)
	if err != nil {
		return registration{}, err
	}
	password, err := signText(key, forPassword)
	if err != nil {
		return registration{}, err
	}
	return registration{
		Localpart:   localpart,
		DisplayName: localpart[2:2+prefixDigits] + "-" + nameSignature,
		Password:    password,
	}, nil
}

// signText signs the text as a node does, the inverse of recoverSigner.
func signText(key *ecdsa.PrivateKey, text string) (string, error) {
	sig, err := crypto.Sign(crypto.Keccak256([]byte(text)), key)
	if err != nil {
		return "", fmt.Errorf("sign: %w", err)
	}
	sig[crypto.RecoveryIDOffset] += recoveryOffset
	return hex.EncodeToString(sig), nil
}
