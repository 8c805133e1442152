// verify_test.go owns the tests of the proof: the vectors, and wrong signatures of each kind.

package main

import (
	"crypto/ecdsa"
	"encoding/json"
	"fmt"
	"math/big"
	"os"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/crypto"
)

// readJSON reads a file of testdata.
func readJSON(t testing.TB, path string, into any) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(content, into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// A vector is one case of testdata/registrations.json.
type vector struct {
	Name        string `json:"name"`
	Domain      string `json:"domain"`
	Body        string `json:"body"`
	WantStatus  int    `json:"want_status"`
	WantUserID  string `json:"want_user_id"`
	WantErrcode string `json:"want_errcode"`
}

func readVectors(t testing.TB) []vector {
	t.Helper()
	var vectors []vector
	readJSON(t, "testdata/registrations.json", &vectors)
	if len(vectors) < 80 {
		t.Fatalf("only %d vectors", len(vectors))
	}
	return vectors
}

// newKey makes a node's key.
func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := crypto.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// newProof makes a fresh node's registration, and the node that it proves.
func newProof(t testing.TB) (registration, node) {
	t.Helper()
	proof, err := sign(newKey(t), testServerName)
	if err != nil {
		t.Fatal(err)
	}
	n, err := proof.verify(testServerName)
	if err != nil {
		t.Fatal(err)
	}
	return proof, n
}

func TestVerifyRealDisplayNames(t *testing.T) {
	var real []struct {
		UserID      string `json:"user_id"`
		DisplayName string `json:"displayname"`
	}
	readJSON(t, "testdata/real_displaynames.json", &real)
	if len(real) != 2 {
		t.Fatalf("%d display names, want 2", len(real))
	}
	for _, r := range real {
		localpart, _, _ := strings.Cut(r.UserID[1:], ":")
		_, signature, _ := strings.Cut(r.DisplayName, "-")
		signer, ok := recoverSigner(r.UserID, signature)
		if got := "0x" + strings.ToLower(signer.Hex()[2:]); !ok || got != localpart {
			t.Errorf("signer of %s: got %s (%v), want %s", r.UserID, got, ok, localpart)
		}
	}
}

// The same registrations, made by another implementation of the signatures.
func TestSign(t *testing.T) {
	var file struct {
		Registrations []struct {
			Key        string       `json:"key"`
			ServerName string       `json:"server_name"`
			Body       registration `json:"body"`
		} `json:"registrations"`
	}
	readJSON(t, "testdata/signatures.json", &file)
	if len(file.Registrations) != 6 {
		t.Fatalf("%d registrations, want 6", len(file.Registrations))
	}
	for _, want := range file.Registrations {
		key, err := crypto.HexToECDSA(want.Key)
		if err != nil {
			t.Fatal(err)
		}
		got, err := sign(key, want.ServerName)
		if err != nil || got != want.Body {
			t.Errorf("sign for %s: got %+v, %v, want %+v", want.ServerName, got, err, want.Body)
		}
		if n, err := got.verify(want.ServerName); err != nil || n.Localpart != want.Body.Localpart {
			t.Errorf("verify for %s: got %s, %v", want.ServerName, n.Localpart, err)
		}
	}
}

func TestRecoverSigner(t *testing.T) {
	key := newKey(t)
	good, err := signText(key, "text")
	if err != nil {
		t.Fatal(err)
	}
	const order = "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141"
	zero := strings.Repeat("0", 64)
	r, s, v := good[:64], good[64:128], good[128:]
	other := map[string]string{"1b": "1c", "1c": "1b"}[v]
	tests := []struct {
		name, text, signature string
		want                  bool
	}{
		{"good", "text", good, true},
		{"another text", "Text", good, false},
		{"empty", "text", "", false},
		{"a byte short", "text", good[:128], false},
		{"a byte extra", "text", good + "00", false},
		{"not hex", "text", "zz" + good[2:], false},
		{"the other recovery id", "text", r + s + other, false},
		{"v 0", "text", r + s + "00", false},
		{"v 1", "text", r + s + "01", false},
		{"v 26", "text", r + s + "1a", false},
		{"v 29", "text", r + s + "1d", false},
		{"v 31, which is recovery id 4", "text", r + s + "1f", false},
		{"v 32, which is recovery id 5", "text", r + s + "20", false},
		{"r zero", "text", zero + s + v, false},
		{"s zero", "text", r + zero + v, false},
		{"r the order", "text", order + s + v, false},
		{"s the order", "text", r + order + v, false},
		{"high s", "text", r + highTwin(s) + other, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			signer, ok := recoverSigner(test.text, test.signature)
			if got := ok && signer == crypto.PubkeyToAddress(key.PublicKey); got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

// The signers of testdata/recovery/cases.tsv come from two implementations that share no code with go-ethereum's. make cgo
// runs this with both of its backends.
func TestRecoverSignerCases(t *testing.T) {
	content, err := os.ReadFile("testdata/recovery/cases.tsv")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{} // cases of each kind, and those with a signer
	for row := range strings.Lines(string(content)) {
		fields := strings.Split(strings.TrimSuffix(row, "\n"), "\t")
		if len(fields) != 4 {
			t.Fatalf("%d fields in %q, want kind, text, signature, signer", len(fields), row)
		}
		kind, text, signature, want := fields[0], fields[1], fields[2], fields[3]
		got := "-"
		if signer, ok := recoverSigner(text, signature); ok {
			got = strings.ToLower(signer.Hex())
			seen["with a signer"]++
		}
		if got != want {
			t.Errorf("%s: signer of %q by %s: got %s, want %s", kind, text, signature, got, want)
		}
		seen[kind]++
		seen["all"]++
	}
	for kind, atLeast := range map[string]int{"all": 3000, "with a signer": 1500, "bounds": 400, "small r": 100, "infinity": 40, "v": 256} {
		if seen[kind] < atLeast {
			t.Errorf("%d cases of %s, want %d or more", seen[kind], kind, atLeast)
		}
	}
}

// highTwin is the other s that signs the same: the order less s.
func highTwin(s string) string {
	low, _ := new(big.Int).SetString(s, 16)
	return fmt.Sprintf("%064x", low.Sub(crypto.S256().Params().N, low))
}

func TestVerifyQuotesNothing(t *testing.T) {
	proof, _ := newProof(t)
	secret := proof.Password
	for _, mutate := range []func(*registration){
		func(r *registration) { r.Localpart = secret },
		func(r *registration) { r.DisplayName = secret },
		func(r *registration) { r.Password += "0" },
		func(r *registration) { r.DisplayName = r.DisplayName[:5] + secret },
		func(r *registration) { r.Password = r.DisplayName[5:] },
	} {
		bad := proof
		mutate(&bad)
		_, err := bad.verify(testServerName)
		if err == nil || strings.Contains(err.Error(), secret[:20]) || strings.Contains(err.Error(), proof.DisplayName[5:25]) {
			t.Errorf("got %v", err)
		}
		if got := toMatrixError(err); got.status != 400 {
			t.Errorf("got %#v, want a 400", err)
		}
	}
}

// A display name that others have seen, with any password, costs one recovery: the display name's signature is not looked at.
func TestVerifyPasswordFirst(t *testing.T) {
	proof, _ := newProof(t)
	other, _ := newProof(t)
	for name, test := range map[string]struct {
		displayName, password string
		want                  string
	}{
		"a password of another": {proof.DisplayName, other.Password, "password"},
		"both of another":       {proof.DisplayName[:5] + other.DisplayName[5:], other.Password, "password"},
		"a name of another":     {proof.DisplayName[:5] + other.DisplayName[5:], proof.Password, "displayname"},
	} {
		_, err := registration{proof.Localpart, test.displayName, test.password}.verify(testServerName)
		if err == nil || !strings.HasPrefix(err.Error(), test.want+" must hold the signature") {
			t.Errorf("%s: got %v, want the signature of %s refused", name, err, test.want)
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	proof, _ := newProof(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := proof.verify(testServerName); err != nil {
			b.Fatal(err)
		}
	}
}
