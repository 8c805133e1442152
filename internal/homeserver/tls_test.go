// tls_test.go owns the tests of the hints about certificates and redirects.

package homeserver

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	stdlog "log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// certificate makes one that signs itself.
func certificate(t *testing.T, host string, until time.Time) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{host}, NotBefore: until.Add(-time.Hour), NotAfter: until}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

const trustTestURL = "REGSERVICE_TRUST_TEST_URL"

// What to do about a certificate depends on what is wrong with it. Go reads SSL_CERT_FILE once, so each is a process of its own.
func TestTrustHint(t *testing.T) {
	if url := os.Getenv(trustTestURL); url != "" {
		res, err := NewHTTPClient(ClientOptions{}).Get(url)
		if err == nil {
			res.Body.Close()
		}
		io.WriteString(os.Stdout, "hint: "+TrustHint(err)+"\n")
		return
	}
	now := time.Now()
	for _, test := range []struct {
		name, host string
		until      time.Time
		trusted    bool
		want       string
	}{
		{"right", "localhost", now.Add(time.Hour), true, ""},
		{"not trusted", "localhost", now.Add(time.Hour), false, TrustCertificate},
		{"another name", "other.example", now.Add(time.Hour), true, "the certificate is for other.example: give the URL with that name"},
		{"expired", "localhost", now.Add(-time.Minute), true, "renew the certificate of the server, or set the clock of this machine"},
	} {
		t.Run(test.name, func(t *testing.T) {
			its := certificate(t, test.host, test.until)
			server := httptest.NewUnstartedServer(http.NotFoundHandler())
			server.TLS = &tls.Config{Certificates: []tls.Certificate{its}}
			server.Config.ErrorLog = stdlog.New(io.Discard, "", 0)
			server.StartTLS()
			defer server.Close()
			file := filepath.Join(t.TempDir(), "trusted.pem")
			block := &pem.Block{Type: "CERTIFICATE", Bytes: its.Certificate[0]}
			if !test.trusted {
				block.Bytes = certificate(t, test.host, test.until).Certificate[0]
			}
			if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestTrustHint$")
			cmd.Env = append(os.Environ(), "SSL_CERT_FILE="+file, "SSL_CERT_DIR="+t.TempDir(), trustTestURL+"="+strings.Replace(server.URL, "127.0.0.1", "localhost", 1))
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.Contains(string(out), "hint: "+test.want+"\n") {
				t.Errorf("got %s, %v, want %q", out, err, test.want)
			}
		})
	}
}

// An answer that redirects says where to, without what may be secret.
func TestRedirectsTo(t *testing.T) {
	for location, want := range map[string]string{
		"https://other.example/x?access_token=sekrit#y": "https://other.example/x",
		"https://u:sekrit@other.example/x":              "https://other.example/x",
		"/elsewhere":                                    "ORIGIN/elsewhere",
		"":                                              "",
		"https://other.example/0123456789abcdef0123":    "https://other.example/…",
		"/x/mat_aBcDeFgHiJkLmNoPqRsT/y?z":               "ORIGIN/x/…/y",
		"/x/%22mat_aBcDeFgHiJkLmNoPqRsT%22":             "ORIGIN/x/…",
		"mailto:mat_aBcDeFgHiJkLmNoPqRsT@other.example": "",
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if location != "" {
				w.Header().Set("Location", location)
			}
			w.WriteHeader(http.StatusMovedPermanently)
		}))
		c := NewClient(server.URL, "example.org", "0123456789abcdef0123")
		a, err := c.Call(t.Context(), Request{Within: ReadTime, Method: http.MethodGet, Path: "/"})
		server.Close()
		if err != nil {
			t.Fatal(err)
		}
		failed := c.Failure(a, "")
		want = strings.ReplaceAll(want, "ORIGIN", server.URL)
		said := "it redirects to " + want + ": this service follows no redirect; give the URL of the homeserver itself"
		if want == "" && failed.Cause != nil || want != "" && (failed.Cause == nil || failed.Cause.Error() != said) {
			t.Errorf("%q: got %v, want %q", location, failed.Cause, want)
		}
	}
}

// A server that speaks no TLS is told from others, whichever way it was called.
func TestIsPlain(t *testing.T) {
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	url := strings.Replace(plain.URL, "http", "https", 1)
	if res, err := NewHTTPClient(ClientOptions{}).Get(url); err == nil {
		res.Body.Close()
		t.Error("it was reached over TLS")
	} else if !IsPlain(err) {
		t.Errorf("Get: got %v", err)
	}
	h := NewClient(url, "example.org")
	_, err := h.Call(t.Context(), Request{Within: ReadTime, Method: http.MethodGet, Path: "/"})
	if cause := h.NotReached(err).Cause; !IsPlain(err) || cause.Error() != "http: server gave HTTP response to HTTPS client" {
		t.Errorf("Call: got %v, for %v", cause, err)
	}
	plain.Close()
	if _, err := h.Call(t.Context(), Request{Within: ReadTime, Method: http.MethodGet, Path: "/"}); err == nil || IsPlain(err) {
		t.Errorf("where nothing listens: got %v", err)
	}
}
