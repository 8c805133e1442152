// node_test.go owns the nodes: what they prove, and what somebody sends who cannot.

package proof

import (
	"crypto/ecdsa"
	"encoding/hex"
	"fmt"
	"math/big"
	"strings"

	"github.com/ethereum/go-ethereum/crypto"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e"
	"github.com/SmartMeshFoundation/matrix-regservice/e2e/standin"
)

// A node is a node, and what it was told.
type node struct {
	e2e.Registration
	key *ecdsa.PrivateKey

	told   bool // that its address is registered, and the record is not an older one since
	lapsed bool // it was told so, and the record is an older one that lacks it
}

// keyOf is the key with this number.
func keyOf(number int) *ecdsa.PrivateKey {
	key, err := crypto.ToECDSA(crypto.Keccak256(fmt.Appendf(nil, "node %d", number)))
	if err != nil {
		panic(err) // one in 2^128
	}
	return key
}

func localpartOf(key *ecdsa.PrivateKey) string {
	return strings.ToLower(crypto.PubkeyToAddress(key.PublicKey).Hex())
}

func signed(key *ecdsa.PrivateKey, text string) string {
	signature, err := crypto.Sign(crypto.Keccak256([]byte(text)), key)
	if err != nil {
		panic(err)
	}
	signature[64] += 27
	return hex.EncodeToString(signature)
}

// registrationOf is what a node with the key sends.
func registrationOf(key *ecdsa.PrivateKey) e2e.Registration {
	localpart := localpartOf(key)
	return e2e.Registration{
		Localpart:   localpart,
		DisplayName: localpart[2:6] + "-" + signed(key, userID(localpart)),
		Password:    signed(key, standin.ServerName),
	}
}

// impostures are ways of asking for a node's account without its key. The display name is no secret: the homeserver shows it.
var impostures = map[string]func(of e2e.Registration, victim, own *ecdsa.PrivateKey) e2e.Registration{
	"password by another key": func(r e2e.Registration, _, own *ecdsa.PrivateKey) e2e.Registration {
		r.Password = signed(own, standin.ServerName)
		return r
	},
	"display name by another key": func(r e2e.Registration, _, own *ecdsa.PrivateKey) e2e.Registration {
		r.DisplayName = r.Localpart[2:6] + "-" + signed(own, userID(r.Localpart))
		return r
	},
	"both by another key": func(r e2e.Registration, _, own *ecdsa.PrivateKey) e2e.Registration {
		r.DisplayName, r.Password = r.Localpart[2:6]+"-"+signed(own, userID(r.Localpart)), signed(own, standin.ServerName)
		return r
	},
	"the display name's signature as password": func(r e2e.Registration, _, _ *ecdsa.PrivateKey) e2e.Registration {
		_, r.Password, _ = strings.Cut(r.DisplayName, "-")
		return r
	},
	"the password as the display name's signature": func(r e2e.Registration, _, _ *ecdsa.PrivateKey) e2e.Registration {
		r.DisplayName = r.Localpart[2:6] + "-" + r.Password
		return r
	},
	"another's registration under this name": func(r e2e.Registration, _, own *ecdsa.PrivateKey) e2e.Registration {
		other := registrationOf(own)
		_, signature, _ := strings.Cut(other.DisplayName, "-")
		r.DisplayName, r.Password = r.Localpart[2:6]+"-"+signature, other.Password
		return r
	},
	"a password for another homeserver": func(r e2e.Registration, victim, _ *ecdsa.PrivateKey) e2e.Registration {
		r.Password = signed(victim, "elsewhere.example")
		return r
	},
	"a display name for another homeserver": func(r e2e.Registration, victim, _ *ecdsa.PrivateKey) e2e.Registration {
		r.DisplayName = r.Localpart[2:6] + "-" + signed(victim, "@"+r.Localpart+":elsewhere.example")
		return r
	},
	"the other s": func(r e2e.Registration, _, _ *ecdsa.PrivateKey) e2e.Registration {
		r.Password = otherS(r.Password)
		return r
	},
	"v without 27": func(r e2e.Registration, _, _ *ecdsa.PrivateKey) e2e.Registration {
		raw, _ := hex.DecodeString(r.Password)
		raw[64] -= 27
		r.Password = hex.EncodeToString(raw)
		return r
	},
	"capitals": func(r e2e.Registration, _, _ *ecdsa.PrivateKey) e2e.Registration {
		r.Password = strings.ToUpper(r.Password)
		return r
	},
	"no password": func(r e2e.Registration, _, _ *ecdsa.PrivateKey) e2e.Registration {
		r.Password = ""
		return r
	},
}

// otherS is the signature's twin, which recovers to the same key.
func otherS(signature string) string {
	raw, _ := hex.DecodeString(signature)
	s := new(big.Int).Sub(crypto.S256().Params().N, new(big.Int).SetBytes(raw[32:64]))
	s.FillBytes(raw[32:64])
	raw[64] = 27 + 28 - raw[64]
	return hex.EncodeToString(raw)
}
