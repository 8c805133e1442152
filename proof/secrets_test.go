// secrets_test.go owns the search for secrets: in every form that somebody who reads a log could turn back into them, and in
// parts.

package proof

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/standin"
)

// leakLength is how many characters of a secret in a row are too many.
const leakLength = 16

// secretForms are the spellings of a secret.
func secretForms(secret string) []string {
	quoted, _ := json.Marshal(secret)
	forms := []string{secret, strings.ToLower(secret), strings.ToUpper(secret), url.QueryEscape(secret), url.PathEscape(secret), string(quoted),
		strings.Trim(fmt.Sprintf("%q", secret), `"`), hex.EncodeToString([]byte(secret)), strings.ToUpper(hex.EncodeToString([]byte(secret)))}
	for before := range 3 { // as it comes behind other bytes
		for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			encoded := encoding.EncodeToString([]byte("xx"[:before] + secret))
			forms = append(forms, encoded[min(4, len(encoded)):max(4, len(encoded)-4)])
		}
	}
	return forms
}

// findSecrets returns what of the secrets stands in the text: what each is, and where.
func findSecrets(secrets map[string]string, text string) (found []string) {
	parts := map[string]string{}
	for secret, what := range secrets {
		for _, form := range secretForms(secret) {
			for i := 0; i+leakLength <= len(form); i++ {
				parts[form[i:i+leakLength]] = what
			}
		}
	}
	for i := 0; i+leakLength <= len(text); i++ {
		what, leaks := parts[text[i:i+leakLength]]
		if !leaks {
			continue
		}
		found = append(found, fmt.Sprintf("%s, in …%s…", what, text[max(0, i-200):min(len(text), i+200)]))
		if next := strings.IndexByte(text[i:], '\n'); next >= 0 {
			i += next // one a line will do
		} else {
			break
		}
	}
	return found
}

func TestFindSecrets(t *testing.T) {
	secrets := map[string]string{standin.ASToken: "the as_token", standin.Secret: "the shared secret"}
	for name, text := range map[string]string{
		"as it is":            "token " + standin.ASToken,
		"a part":              "token …" + standin.ASToken[10:30] + "…",
		"lower case":          strings.ToLower(standin.ASToken),
		"percent-encoded":     "?secret=" + url.QueryEscape(standin.Secret),
		"in base64":           base64.StdEncoding.EncodeToString([]byte("client:" + standin.Secret)),
		"in base64 elsewhere": base64.StdEncoding.EncodeToString([]byte("a client:" + standin.Secret + ":x")),
		"in hex":              hex.EncodeToString([]byte(standin.Secret)),
	} {
		if len(findSecrets(secrets, "before\n"+text+"\nafter")) == 0 {
			t.Errorf("%s: %q was not found", name, text)
		}
	}
	if found := findSecrets(secrets, "Registered node user_id=@0x6d12d262a2fe4fd9c714ad3521acbea52adb4aaf:x outcome=created "+standin.ASToken[:12]); found != nil {
		t.Errorf("found %q", found)
	}
}
