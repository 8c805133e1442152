// cmd_register_test.go owns the tests of register: it prints no secret, and follows no redirect.

package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
)

// What a server repeats of a node's secrets is not printed, nor what a terminal would obey.
func TestNodeClientPrintsNoSecret(t *testing.T) {
	proof, _ := newProof(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		echoed := strconv.Quote(string(body) + "\x1b[31m")
		says(http.StatusForbidden, `{"errcode":`+strings.ReplaceAll(echoed, `\x1b`, `\u001b`)+`,"error":`+strings.ReplaceAll(echoed, `\x1b`, `\u001b`)+`}`)(w, r)
	}))
	defer server.Close()
	var out strings.Builder
	client := newNodeClient(server.URL, server.URL+registerPath, testServerName, proof)
	client.out = &out
	err := client.enter(t.Context(), proof)
	if err == nil || !strings.Contains(err.Error(), "register failed: 403") {
		t.Errorf("got %v", err)
	}
	for _, secret := range []string{proof.Password, proof.DisplayName[5:], "\x1b"} {
		if strings.Contains(out.String()+err.Error(), secret) {
			t.Errorf("%q is printed: %s %v", secret, out.String(), err)
		}
	}
}

// The password goes to the server that was named and nowhere else.
func TestNodeClientGoesNowhereElse(t *testing.T) {
	for _, status := range []int{301, 302, 307, 308} {
		elsewhere := newStandIn(t)
		t.Setenv("HTTP_PROXY", elsewhere.URL)
		t.Setenv("http_proxy", elsewhere.URL)
		redirecting := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", elsewhere.URL+r.URL.Path)
			w.WriteHeader(status)
		}))
		defer redirecting.Close()
		origin := redirecting.URL
		proof, _ := newProof(t)
		err := newNodeClient(origin, origin+registerPath, testServerName, proof).enter(t.Context(), proof)
		if err == nil || !strings.Contains(err.Error(), "it redirects to "+elsewhere.URL+homeserver.LoginPath+", ") || !strings.Contains(err.Error(), "give --server the URL") {
			t.Errorf("%d: got %v", status, err)
		}
		if asked := elsewhere.Asked(); asked != "" {
			t.Errorf("%d: asked elsewhere: %s", status, asked)
		}
	}
}

// Of a server that speaks no TLS the URL to give follows.
func TestNodeClientSaysThatAServerIsPlain(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	secure := strings.Replace(server.URL, "http", "https", 1)
	proof, _ := newProof(t)
	err := newNodeClient(secure, secure+registerPath, testServerName, proof).enter(t.Context(), proof)
	if err == nil || !strings.HasSuffix(err.Error(), ": this port speaks plain HTTP: give "+server.URL) {
		t.Errorf("got %v", err)
	}
}

// After an error of the certificate, what to do about it follows, and no question whether the server is the right one.
func TestNodeClientSaysWhatIsWrongWithACertificate(t *testing.T) {
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	server.Config.ErrorLog = newErrorLog()
	proof, _ := newProof(t)
	err := newNodeClient(server.URL, server.URL+registerPath, testServerName, proof).enter(t.Context(), proof)
	if err == nil || !strings.HasSuffix(err.Error(), ": "+homeserver.TrustCertificate) {
		t.Errorf("got %v", err)
	}
}
