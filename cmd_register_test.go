package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
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
		if err == nil || !strings.Contains(err.Error(), "redirects") {
			t.Errorf("%d: got %v", status, err)
		}
		if asked := elsewhere.Asked(); asked != "" {
			t.Errorf("%d: asked elsewhere: %s", status, asked)
		}
	}
}
