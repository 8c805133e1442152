package main

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"math/big"
	"mime"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
	decred "github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/crypto"
)

// What arrives from outside, fuzzed. Each target's corpus is below testdata/fuzz, and make fuzz runs them all.

// signedBy is recoverSigner again, by the pure-Go implementation and by arithmetic: nil where there is no signer that
// the contract takes. With CGO_ENABLED=1 the program's own is another implementation.
func signedBy(text string, sig []byte) *address {
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
func checkCanonical(t *testing.T, text string, sig []byte, signer address) {
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

var (
	localpartForm = regexp.MustCompile(`\A0x[0-9a-f]{40}\z`)
	signatureForm = regexp.MustCompile(`\A[0-9a-f]{130}\z`)
)

// proves is the contract's rule again, without the program's own.
func proves(r registration, serverName string) bool {
	if !localpartForm.MatchString(r.Localpart) || !signatureForm.MatchString(r.Password) || len(r.DisplayName) < 5 || r.DisplayName[:5] != r.Localpart[2:6]+"-" || !signatureForm.MatchString(r.DisplayName[5:]) {
		return false
	}
	for text, signature := range map[string]string{"@" + r.Localpart + ":" + serverName: r.DisplayName[5:], serverName: r.Password} {
		sig, _ := hex.DecodeString(signature)
		if signer := signedBy(text, sig); signer == nil || strings.ToLower(signer.Hex()) != r.Localpart {
			return false
		}
	}
	return true
}

// auditLines are the logged lines without what differs from one request to the next.
func (d *door) auditLines() (lines []string) {
	for scanner := bufio.NewScanner(d.log); scanner.Scan(); {
		line := map[string]any{}
		if err := json.Unmarshal(scanner.Bytes(), &line); err != nil {
			d.t.Errorf("a line that is not JSON: %q", scanner.Text())
		}
		delete(line, "t")
		delete(line, "took")
		text, _ := json.Marshal(line)
		lines = append(lines, string(text))
	}
	d.log.Reset()
	return lines
}

func (d *door) postMedia(media string, body []byte) answered {
	r := httptest.NewRequest(http.MethodPost, registerPath, bytes.NewReader(body))
	if media != "" {
		r.Header.Set("Content-Type", media)
	}
	return d.do(r)
}

// withoutAddress takes an address out of the sentence that says which user ID was to be signed: all that an unproven
// registration may see again of what it sent.
func withoutAddress(text string, sent registration) string {
	if localpartForm.MatchString(sent.Localpart) {
		text = strings.ReplaceAll(text, "@"+sent.Localpart+":", "@…:")
	}
	return text
}

// Whoever sends a proof gets in, nobody else does, and what somebody else is told and what is logged of him are fixed
// sentences: nothing of what he sent is in them but an address.
func FuzzRegister(f *testing.F) {
	d := newDoor(f, sharedSecretPath)
	fixed := map[string]bool{}
	add := func(media string, body []byte) {
		f.Add(media, body)
		var sent registration
		json.Unmarshal(body, &sent)
		if got := d.postMedia(media, body); got.status != 200 && got.status != 409 {
			for _, said := range append(d.auditLines(), got.body) {
				said = withoutAddress(said, sent)
				for _, value := range []string{sent.Localpart, sent.DisplayName, sent.Password} {
					if len(value) >= 8 && strings.Contains(said, value) {
						f.Errorf("quotes what was sent: %s", said)
					}
				}
				fixed[said] = true
			}
		}
	}
	for _, v := range readVectors(f) {
		if v.Domain == testServerName {
			add("application/json", []byte(v.Body))
		}
	}
	add("text/plain", []byte("{}"))
	add("", bytes.Repeat([]byte("["), bodyLimit+1))
	d.auditLines()
	f.Fuzz(func(t *testing.T, media string, body []byte) {
		d.t = t
		got := d.postMedia(media, body)
		lines := d.auditLines()
		var sent registration
		mediaType, _, _ := mime.ParseMediaType(media)
		proven := (media == "" || mediaType == "application/json") && len(body) <= bodyLimit && json.Unmarshal(body, &sent) == nil && proves(sent, testServerName)
		in := got.status == 200 && got.UserID == "@"+sent.Localpart+":"+testServerName || got.status == 409 && got.Errcode == errcodeUserInUse
		if in != proven {
			t.Errorf("proven %v, got %d %s", proven, got.status, got.body)
		}
		if len(lines) != 1 {
			t.Fatalf("%d lines in the log, want 1: %q", len(lines), lines)
		}
		if !proven && (!fixed[withoutAddress(got.body, sent)] || !fixed[withoutAddress(lines[0], sent)]) {
			t.Errorf("this is not one of the fixed answers: %s\n%s", got.body, lines[0])
		}
		if told := got.body + lines[0]; proven && (strings.Contains(told, sent.Password) || strings.Contains(told, sent.DisplayName[5:])) {
			t.Errorf("a signature is told: %s", told)
		}
	})
}

// Whatever the request line asks for is answered in JSON; without the hs_token only the metadata of the protocol is
// given away, and with it nothing of who is not registered.
func FuzzAppService(f *testing.F) {
	d := newDoor(f, sharedSecretPath)
	n := d.registeredNode()
	metadata := d.ask(http.MethodGet, "/_matrix/app/v1/thirdparty/protocol/"+protocolID(testServerName), "", testHSToken, "").body
	found := d.ask(http.MethodGet, "/_matrix/app/v1/thirdparty/user?userid="+url.QueryEscape(n.UserID), "", testHSToken, "").body
	if !strings.Contains(metadata, testServerName) || !strings.Contains(found, n.Localpart) {
		f.Fatalf("%s, %s", metadata, found)
	}
	const who, wrong = "0xffffffffffffffffffffffffffffffffffffffff", "ALKJSDQOIWUEMNZXCBVLAKJSDHQWOEIUZMXNCBVA" // for the node, and a token that is not ours
	for _, base := range []string{appServicePath, modernPath, unstablePath} {
		for _, path := range []string{"/users/@" + who + ":" + testServerName, "/users/%40" + who + "%3A" + testServerName, "/rooms/%23a/b.c:d", "/thirdparty/protocol/" + protocolID(testServerName), "/thirdparty/protocol/irc", "/thirdparty/user/" + protocolID(testServerName) + "?address=" + who, "/thirdparty/user?userid=@" + who + ":" + testServerName, "/thirdparty/location?alias=%23x", "/thirdparty/location/x?access_token=" + wrong, "/users/%2", "/users/%zz", "/users/a;b?c;d&access_token=" + wrong + "&access_token="} {
			f.Add("GET", base+path)
		}
		f.Add("PUT", base+"/transactions/1?access_token="+wrong)
		f.Add("PUT", base+"/transactions/a%2Fb/c.d%25%C3%A9")
	}
	for _, request := range [][2]string{{"POST", modernPath + "/ping"}, {"POST", registerPath}, {"GET", registerPath + "/"}, {"OPTIONS", "*"}, {"CONNECT", "example.org:80"}, {"GET", "http://example.org" + appServicePath + "/users/x"}, {"HEAD", appServicePath + "//users/../rooms/x"}} {
		f.Add(request[0], request[1])
	}
	f.Fuzz(func(t *testing.T, method, target string) {
		if strings.ContainsAny(method+target, "\r\n") {
			return
		}
		target = strings.ReplaceAll(target, who, n.Localpart)
		ask := func(header string) (*http.Request, answered) {
			r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(method + " " + target + " HTTP/1.1\r\nHost: x\r\n" + header + "\r\n")))
			if err != nil {
				return nil, answered{} // net/http answers that itself
			}
			r.RemoteAddr = "192.0.2.1:1234"
			w := httptest.NewRecorder()
			d.handler.ServeHTTP(w, r)
			if !json.Valid(w.Body.Bytes()) || w.Header().Get("Content-Type") != "application/json" {
				t.Errorf("%d %q is not a JSON answer", w.Code, w.Body)
			}
			if w.Code != 200 && w.Code/100 != 4 {
				t.Errorf("got %d %s", w.Code, w.Body)
			}
			return r, answered{status: w.Code, body: w.Body.String()}
		}
		r, got := ask("")
		if r == nil {
			return
		}
		query := r.URL.Query()
		if got.status == 200 && (got.body != metadata || query.Has("access_token")) {
			t.Errorf("without the token: %s", got.body)
		}
		if strings.Contains(got.body, n.Localpart) {
			t.Errorf("without the token the node is named: %s", got.body)
		}
		_, got = ask("Authorization: Bearer " + testHSToken + "\r\n")
		asked, _ := url.PathUnescape(r.URL.EscapedPath())
		switch {
		case got.status == 401, got.status == 200 && query.Has("access_token"):
			t.Errorf("with the token: %d %s", got.status, got.body)
		case got.status != 200, got.body == metadata, got.body == "[]":
		case got.body == found && (common.HexToAddress(query.Get("address")) == n.Address || query.Get("userid") == n.UserID):
		case got.body == "{}" && (r.Method != http.MethodGet || strings.HasSuffix(asked, "/users/"+n.UserID)):
		default:
			t.Errorf("with the token: %s", got.body)
		}
		told := d.log.String()
		d.log.Reset()
		if strings.Contains(told, testHSToken) || strings.Contains(told, wrong) && !strings.Contains(r.URL.Path, wrong) {
			t.Errorf("a token is in the log: %s", told)
		}
	})
}
