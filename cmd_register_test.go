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
