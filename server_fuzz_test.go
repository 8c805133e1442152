// server_fuzz_test.go owns that whatever a client sends gets one right answer, and leaves what belongs to it.

package main

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"mime"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
)

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
func (d *gateway) auditLines() (lines []string) {
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

func (d *gateway) postMedia(media string, body []byte) answered {
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

// A client with a proof gets in and no other does. Another one's answers and log lines are fixed sentences, which hold nothing that
// it sent but an address.
func FuzzRegister(f *testing.F) {
	d := newGateway(f, homeserver.SharedSecretPath)
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
