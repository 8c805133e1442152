// appservice_test.go owns the tests of the application-service API: its answers, and that only the homeserver gets them.

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/ethereum/go-ethereum/common"
)

// ask is a request of the homeserver, with its tokens where it likes.
func (d *gateway) ask(method, target, query, bearer, body string) answered {
	d.t.Helper()
	r := httptest.NewRequest(method, appServicePath+target, strings.NewReader(body))
	if query != "" {
		values := r.URL.Query()
		values.Set("access_token", query)
		r.URL.RawQuery = values.Encode()
	}
	if bearer != "" {
		r.Header.Set("Authorization", "Bearer "+bearer)
	}
	w := httptest.NewRecorder()
	d.handler.ServeHTTP(w, r)
	a := answered{status: w.Code, header: w.Header(), body: w.Body.String()}
	if !json.Valid(w.Body.Bytes()) || w.Header().Get("Content-Type") != "application/json" {
		d.t.Errorf("%s %s: %d %q is not a JSON answer", method, target, w.Code, w.Body)
	}
	json.Unmarshal(w.Body.Bytes(), &a) // not every answer is an object
	if a.status/100 != 2 && (a.Errcode == "" || a.Message == "") {
		d.t.Errorf("%s %s: %d without errcode or error: %s", method, target, a.status, a.body)
	}
	return a
}

// registeredNode is a node that the store knows as registered.
func (d *gateway) registeredNode() node {
	d.t.Helper()
	_, n := newProof(d.t)
	d.setState(n, stateRegistered)
	return n
}

// Both families of paths, as the homeservers of the table spell them.
func TestAppServicePaths(t *testing.T) {
	d := newGateway(t, homeserver.SharedSecretPath)
	n := d.registeredNode()
	_, pending := newProof(t)
	d.setState(pending, statePending)
	quoted := strings.NewReplacer("@", "%40", ":", "%3A").Replace(n.UserID)
	const protocol = "regapp." + testServerName
	found := fmt.Sprintf(`[{"userid":%q,"protocol":%q,"fields":{"address":%q}}]`, n.UserID, protocol, n.Localpart)
	const metadata = `{"user_fields":["address"],"location_fields":[],"icon":"","field_types":{"address":{"regexp":"0x[0-9a-f]{40}","placeholder":"0x6d12d262a2fe4fd9c714ad3521acbea52adb4aaf"}},"instances":[{"desc":"Photon nodes of transport02.smartmesh.cn","icon":"","network_id":"transport02.smartmesh.cn","fields":{}}]}`
	type row struct {
		method, path string
		want         int
		errcode      string
		body         string
	}
	rows := []row{
		{"PUT", "/_matrix/app/v1/ping", 405, "M_UNRECOGNIZED", ""},
		{"POST", "/_matrix/app/v1/ping", 200, "", "{}"},
		{"POST", "/ping", 404, "M_UNRECOGNIZED", ""},
		{"PUT", "/_matrix/app/v2/transactions/1", 404, "M_UNRECOGNIZED", ""},
		{"PUT", "/_matrix/app/unstable/transactions/1", 404, "M_UNRECOGNIZED", ""},
	}
	for _, base := range []string{"", "/_matrix/app/v1"} {
		rows = append(rows,
			row{"PUT", base + "/transactions/1", 200, "", "{}"},
			row{"PUT", base + "/transactions/1", 200, "", "{}"}, // again: Synapse counts from 1 after a restart
			row{"PUT", base + "/transactions/1732373730123456789", 200, "", "{}"},
			row{"PUT", base + "/transactions/a%2Fb/c.d%25%C3%A9", 200, "", "{}"},
			row{"GET", base + "/transactions/1", 405, "M_UNRECOGNIZED", ""},
			row{"GET", base + "/users/" + quoted, 200, "", "{}"},
			row{"GET", base + "/users/" + n.UserID, 200, "", "{}"},
			row{"GET", base + "/users/" + pending.UserID, 404, "M_NOT_FOUND", ""},
			row{"GET", base + "/users/%40ghost%3A" + testServerName, 404, "M_NOT_FOUND", ""},
			row{"GET", base + "/users/@" + n.Localpart + ":example.org", 404, "M_NOT_FOUND", ""},
			row{"GET", base + "/users/" + n.Localpart, 404, "M_NOT_FOUND", ""},
			row{"GET", base + "/users/" + n.Localpart + ":" + testServerName, 404, "M_NOT_FOUND", ""},
			row{"GET", base + "/users/@0x" + strings.Repeat("0", 40) + ":" + testServerName, 404, "M_NOT_FOUND", ""},
			row{"GET", base + "/users/@" + strings.ToUpper(n.Localpart) + ":" + testServerName, 404, "M_NOT_FOUND", ""},
			row{"GET", base + "/users/@a/b%2Fc.d:" + testServerName, 404, "M_NOT_FOUND", ""},
			row{"GET", base + "/users/@%C3%A9:" + testServerName, 404, "M_NOT_FOUND", ""},
			row{"GET", base + "/users/", 404, "M_UNRECOGNIZED", ""},
			row{"GET", base + "/rooms/%23alias%3A" + testServerName, 404, "M_NOT_FOUND", ""},
			row{"GET", base + "/rooms/%23a/b.c:" + testServerName, 404, "M_NOT_FOUND", ""},
		)
	}
	for _, base := range []string{"/_matrix/app/unstable/thirdparty", "/_matrix/app/v1/thirdparty"} {
		rows = append(rows,
			row{"GET", base + "/protocol/" + protocol, 200, "", metadata},
			row{"GET", base + "/protocol/irc", 404, "M_NOT_FOUND", ""},
			row{"GET", base + "/user/" + protocol + "?address=" + n.Localpart, 200, "", found},
			row{"GET", base + "/user/" + protocol + "?address=" + n.Address.Hex(), 200, "", found}, // EIP-55
			row{"GET", base + "/user/" + protocol + "?address=" + pending.Localpart, 200, "", "[]"},
			row{"GET", base + "/user/" + protocol + "?address=0x" + strings.Repeat("0", 40), 200, "", "[]"},
			row{"GET", base + "/user/" + protocol + "?address=" + n.Localpart[:41], 400, "M_INVALID_PARAM", ""},
			row{"GET", base + "/user/" + protocol + "?address=" + misspelt(n.Address), 400, "M_INVALID_PARAM", ""},
			row{"GET", base + "/user/" + protocol, 400, "M_INVALID_PARAM", ""},
			row{"GET", base + "/user/irc?address=" + n.Localpart, 404, "M_NOT_FOUND", ""},
			row{"GET", base + "/user?userid=" + url.QueryEscape(n.UserID), 200, "", found},
			row{"GET", base + "/user?userid=" + n.UserID, 200, "", found},
			row{"GET", base + "/user?userid=@ghost:" + testServerName, 200, "", "[]"},
			row{"GET", base + "/user", 400, "M_MISSING_PARAM", ""},
			row{"GET", base + "/location/" + protocol + "?x=y", 200, "", "[]"},
			row{"GET", base + "/location/irc", 404, "M_NOT_FOUND", ""},
			row{"GET", base + "/location?alias=%23x:y", 200, "", "[]"},
			row{"POST", base + "/user", 405, "M_UNRECOGNIZED", ""},
		)
	}
	for _, r := range rows {
		for name, tokens := range map[string][2]string{"query": {testHSToken, ""}, "header": {"", testHSToken}, "both": {testHSToken, testHSToken}} {
			got := d.ask(r.method, r.path, tokens[0], tokens[1], "{}")
			if got.status != r.want || got.Errcode != r.errcode || r.body != "" && got.body != r.body {
				t.Errorf("%s %s (%s): got %d %s, want %d %s %s", r.method, r.path, name, got.status, got.body, r.want, r.errcode, r.body)
			}
		}
	}
}

// misspelt is the address with the case of one letter changed, which the checksum tells.
func misspelt(a common.Address) string {
	text := []byte(a.Hex())
	for i := 2; i < len(text); i++ {
		if c := text[i]; c >= 'a' && c <= 'f' {
			text[i] = c - 'a' + 'A'
			return string(text)
		}
	}
	return "0xno letter"
}

// Who has no token, a wrong one or two that differ gets nothing, but for the static metadata, which the old
// homeservers ask for without one.
func TestAppServiceTokens(t *testing.T) {
	d := newGateway(t, homeserver.SharedSecretPath)
	n := d.registeredNode()
	wrong := testHSToken[:39] + "A"
	const protocol = "regapp." + testServerName
	paths := map[string]string{
		"/transactions/1": "PUT", "/_matrix/app/v1/transactions/1": "PUT", "/users/" + n.UserID: "GET", "/_matrix/app/v1/users/" + n.UserID: "GET",
		"/rooms/x": "GET", "/_matrix/app/v1/rooms/x": "GET", "/_matrix/app/v1/ping": "POST",
		"/_matrix/app/unstable/thirdparty/user?userid=" + n.UserID: "GET", "/_matrix/app/v1/thirdparty/user?userid=" + n.UserID: "GET",
		"/_matrix/app/unstable/thirdparty/user/" + protocol + "?address=" + n.Localpart: "GET",
		"/_matrix/app/unstable/thirdparty/location/" + protocol:                         "GET", "/_matrix/app/v1/thirdparty/location": "GET",
		"/_matrix/app/unstable/thirdparty/protocol/" + protocol: "GET", "/_matrix/app/v1/thirdparty/protocol/" + protocol: "GET",
	}
	for path, method := range paths {
		public := strings.Contains(path, "/protocol/")
		for _, test := range []struct {
			name, query, bearer string
			want                int
			errcode             string
		}{
			{"none", "", "", 401, "M_MISSING_TOKEN"},
			{"wrong in the query", wrong, "", 403, "M_FORBIDDEN"},
			{"wrong in the header", "", wrong, 403, "M_FORBIDDEN"},
			{"as_token", "", testASToken, 403, "M_FORBIDDEN"},
			{"right and wrong", testHSToken, wrong, 403, "M_FORBIDDEN"},
			{"wrong and right", wrong, testHSToken, 403, "M_FORBIDDEN"},
			{"shorter", testHSToken[:39], "", 403, "M_FORBIDDEN"},
			{"longer", testHSToken + "A", "", 403, "M_FORBIDDEN"},
		} {
			got := d.ask(method, path, test.query, test.bearer, "{}")
			if public && test.name == "none" {
				test.want, test.errcode = 200, ""
			}
			if got.status != test.want || got.Errcode != test.errcode || strings.Contains(got.body, n.Localpart) {
				t.Errorf("%s %s, %s: got %d %s, want %d %s", method, path, test.name, got.status, got.body, test.want, test.errcode)
			}
		}
	}
	if told := d.log.String(); strings.Contains(told, testHSToken) || strings.Contains(told, wrong) {
		t.Error("a token is in the log")
	}
}

// Other spellings of the header, and twice the query's token.
func TestAppServiceTokenSpellings(t *testing.T) {
	d := newGateway(t, homeserver.SharedSecretPath)
	for _, test := range []struct {
		query, header string
		want          int
	}{
		{"", "bearer " + testHSToken, 200},
		{"", "Bearer  " + testHSToken, 200},
		{"", "Basic " + testHSToken, 401},
		{"", testHSToken, 401},
		{"", "Bearer", 403},
		{"access_token=", "", 403},
		{"access_token=" + testHSToken + "&access_token=x", "", 403},
		{"access_token=x&access_token=" + testHSToken, "", 403},
	} {
		r := httptest.NewRequest("POST", modernPath+"/ping?"+test.query, strings.NewReader("{}"))
		if test.header != "" {
			r.Header.Set("Authorization", test.header)
		}
		if got := d.do(r); got.status != test.want {
			t.Errorf("%q, %q: got %d, want %d", test.query, test.header, got.status, test.want)
		}
	}
}

// A transaction is drained up to its own limit, and not parsed.
func TestTransactionBodies(t *testing.T) {
	d := newGateway(t, homeserver.SharedSecretPath)
	address := d.served()

	for _, test := range []struct {
		name string
		body io.Reader
		want int
	}{
		{"16 MiB", bytes.NewReader(make([]byte, transactionLimit)), 200},
		{"one byte more", bytes.NewReader(make([]byte, transactionLimit+1)), 413},
		{"one byte more, chunked", io.LimitReader(zeros{}, transactionLimit+1), 413},
		{"empty", strings.NewReader(""), 200},
		{"not JSON", strings.NewReader("events"), 200},
	} {
		r, err := http.NewRequest("PUT", "http://"+address+modernPath+"/transactions/1", test.body)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+testHSToken)
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		res.Body.Close()
		if res.StatusCode != test.want {
			t.Errorf("%s: got %d, want %d", test.name, res.StatusCode, test.want)
		}
	}

	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(conn, "PUT %s/transactions/1?access_token=%s HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{\"events\":", appServicePath, testHSToken)
	conn.(*net.TCPConn).CloseWrite()
	answer, _ := io.ReadAll(conn)
	if !strings.HasPrefix(string(answer), "HTTP/1.1 400 ") {
		t.Errorf("cut short: got %q", answer)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// A store that cannot be read is no reason to deny a user.
func TestAppServiceStoreFails(t *testing.T) {
	d := newGateway(t, homeserver.SharedSecretPath)
	n := d.registeredNode()
	d.store.Close()
	for _, path := range []string{"/users/" + n.UserID, "/_matrix/app/v1/thirdparty/user?userid=" + n.UserID} {
		if got := d.ask("GET", path, testHSToken, "", ""); got.status != 503 {
			t.Errorf("%s: got %d %s, want 503", path, got.status, got.body)
		}
	}
}

// A deadlineRecorder is a recorder that takes a deadline for reading.
type deadlineRecorder struct {
	*httptest.ResponseRecorder
	deadline time.Time
}

func (w *deadlineRecorder) SetReadDeadline(t time.Time) error {
	w.deadline = t
	return nil
}

// More time than others is only for the homeserver.
func TestTransactionTime(t *testing.T) {
	d := newGateway(t, homeserver.SharedSecretPath)
	for token, want := range map[string]bool{"": false, "x": false, testHSToken: true} {
		r := httptest.NewRequest("PUT", modernPath+"/transactions/1", strings.NewReader("{}"))
		r.Header.Set("Authorization", "Bearer "+token)
		w := &deadlineRecorder{ResponseRecorder: httptest.NewRecorder()}
		d.handler.ServeHTTP(w, r)
		if got := !w.deadline.IsZero(); got != want || (w.Code == 200) != want {
			t.Errorf("%q: got %v with %d, want %v", token, got, w.Code, want)
		}
	}
}

// A proxy that encodes the "?" of an old homeserver's request puts the hs_token into the path, which is logged.
func TestTokenInPathIsNotLogged(t *testing.T) {
	d := newGateway(t, homeserver.SharedSecretPath)
	lines := captureLog(t)
	d.ask("GET", "/users/x%3Faccess_token="+testHSToken, "", "", "")
	d.ask("PUT", "/transactions/1%3Faccess_token="+testHSToken, "", testHSToken, "{}")
	if strings.Contains(lines.String(), testHSToken) || strings.Count(lines.String(), "?access_token=…") != 2 {
		t.Errorf("got %s", lines)
	}
}
