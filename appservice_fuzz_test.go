// appservice_fuzz_test.go owns that whatever is sent to the application-service API gets one right answer.

package main

import (
	"bufio"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/ethereum/go-ethereum/common"
)

// Whatever the request line asks for is answered in JSON; without the hs_token only the metadata of the protocol is
// given away, and with it nothing of who is not registered.
func FuzzAppService(f *testing.F) {
	d := newGateway(f, homeserver.SharedSecretPath)
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
