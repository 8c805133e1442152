// server_test.go owns the register handler: the vectors, each refusal, and the line that it logs.

package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
	"time"
	"unicode/utf16"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/ethereum/go-ethereum/log"
)

// Every vector, through the whole service, with both APIs.
func TestVectors(t *testing.T) {
	for _, api := range apis {
		d := newGateway(t, api.path)
		for _, v := range readVectors(t) {
			t.Run(api.name+"/"+v.Name, func(t *testing.T) {
				d.t = t
				got := d.post(v.Body)
				if got.status != v.WantStatus || got.Errcode != v.WantErrcode || got.UserID != v.WantUserID {
					t.Errorf("got %d %s %s, want %d %s %s", got.status, got.Errcode, got.UserID, v.WantStatus, v.WantErrcode, v.WantUserID)
				}
				asked := d.homeserver.Asked()
				if v.WantStatus != 200 && asked != "" {
					t.Errorf("a refused registration reached the homeserver: %s", asked)
				}
			})
		}
		var good int
		for _, v := range readVectors(t) {
			if v.WantStatus == 200 {
				good++
			}
		}
		if len(d.homeserver.Users) != good {
			t.Errorf("%d accounts, want %d", len(d.homeserver.Users), good)
		}
	}
}

func TestWireErrors(t *testing.T) {
	d := newGateway(t, homeserver.SharedSecretPath)
	proof, _ := newProof(t)
	good, _ := json.Marshal(proof)
	padded := `{"x":"` + strings.Repeat("x", bodyLimit) + `",` + string(good[1:])
	tests := []struct {
		name, method, path, media, body string
		wantStatus                      int
		wantErrcode                     string
	}{
		{"unknown path", "POST", "/regapp/1/registers", "", "", 404, "M_UNRECOGNIZED"},
		{"trailing slash", "POST", registerPath + "/", "", "", 404, "M_UNRECOGNIZED"},
		{"root", "GET", "/", "", "", 404, "M_UNRECOGNIZED"},
		{"encoded slash", "POST", "/regapp/1%2fregister", "", "", 404, "M_UNRECOGNIZED"},
		{"wrong method", "GET", registerPath, "", "", 405, "M_UNRECOGNIZED"},
		{"wrong method with a body", "PUT", registerPath, "application/json", string(good), 405, "M_UNRECOGNIZED"},
		{"form", "POST", registerPath, "application/x-www-form-urlencoded", string(good), 415, "M_NOT_JSON"},
		{"not a media type", "POST", registerPath, ";;", string(good), 415, "M_NOT_JSON"},
		{"too large", "POST", registerPath, "application/json", padded, 413, "M_TOO_LARGE"},
		{"too large and not JSON", "POST", registerPath, "", strings.Repeat("x", bodyLimit+1), 413, "M_TOO_LARGE"},
		{"nested deeply", "POST", registerPath, "", strings.Repeat("[", 4000) + strings.Repeat("]", 4000), 400, "M_BAD_JSON"},
		{"null fields", "POST", registerPath, "", `{"localpart":null,"displayname":null,"password":null}`, 400, "M_MISSING_PARAM"},
		{"null", "POST", registerPath, "", "null", 400, "M_BAD_JSON"},
		{"a string", "POST", registerPath, "", `"x"`, 400, "M_BAD_JSON"},
		{"NUL", "POST", registerPath, "", "\x00", 400, "M_NOT_JSON"},
		{"charset", "POST", registerPath, "application/json; charset=utf-8", string(good), 200, ""},
		{"no media type", "POST", registerPath, "", string(good), 409, "M_USER_IN_USE"},
		{"another spelling", "POST", registerPath, "Application/JSON", strings.Replace(string(good), "localpart", "LOCALPART", 1), 409, "M_USER_IN_USE"},
		{"duplicate keys", "POST", registerPath, "", `{"localpart":"x",` + string(good[1:]), 409, "M_USER_IN_USE"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			d.t = t
			r := httptest.NewRequest(test.method, test.path, strings.NewReader(test.body))
			if test.media != "" {
				r.Header.Set("Content-Type", test.media)
			}
			got := d.do(r)
			if got.status != test.wantStatus || got.Errcode != test.wantErrcode {
				t.Errorf("got %d %s, want %d %s", got.status, got.body, test.wantStatus, test.wantErrcode)
			}
			if got.header.Get("X-Powered-By") != "" {
				t.Error("says what it is built with")
			}
		})
	}
}

// A body that is not JSON says why where that shows.
func TestNotJSON(t *testing.T) {
	d := newGateway(t, homeserver.SharedSecretPath)
	proof, _ := newProof(t)
	good, _ := json.Marshal(proof)
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	w.Write(good)
	w.Close()
	wide := func(order binary.AppendByteOrder, text string) (wide string) {
		for _, unit := range utf16.Encode([]rune(text)) {
			wide += string(order.AppendUint16(nil, unit))
		}
		return wide
	}
	for _, test := range []struct{ name, body, want string }{
		{"nothing", "", "the body is empty: send the JSON object with Content-Length"},
		{"gzip", zipped.String(), "the body is compressed with gzip: send it as it is"},
		{"UTF-16", wide(binary.LittleEndian, "\ufeff"+string(good)), "the body is UTF-16: send it as UTF-8"},
		{"UTF-16, the other way round", wide(binary.BigEndian, "\ufeff"+string(good)), "the body is UTF-16: send it as UTF-8"},
		{"UTF-16 without a mark", wide(binary.LittleEndian, string(good)), "the body is UTF-16: send it as UTF-8"},
		{"a byte order mark", "\ufeff" + string(good), "the body begins with a byte order mark: leave that out"},
		{"a form", "localpart=0x", "the body is not JSON"},
		{"cut short", string(good[:100]), "the body is not JSON"},
	} {
		got := d.post(test.body)
		if got.status != 400 || got.Errcode != errcodeNotJSON || got.Message != test.want {
			t.Errorf("%s: got %d %s, want %q", test.name, got.status, got.body, test.want)
		}
	}
}

// A body that breaks off is no registration, though what came of it is one; and the hs_token makes no room for a larger one.
func TestBodyOfNode(t *testing.T) {
	d := newGateway(t, homeserver.SharedSecretPath)
	proof, n := newProof(t)
	good, _ := json.Marshal(proof)
	padded := strings.Repeat(" ", bodyLimit)
	for _, test := range []struct {
		name       string
		body       io.Reader
		wantStatus int
	}{
		{"breaks off", io.MultiReader(strings.NewReader(string(good)), iotest.ErrReader(io.ErrUnexpectedEOF)), 400},
		{"large, with the hs_token", strings.NewReader(padded + string(good)), 413},
		{"whole", strings.NewReader(string(good)), 200},
	} {
		r := httptest.NewRequest(http.MethodPost, registerPath, test.body)
		r.Header.Set("Authorization", "Bearer "+testHSToken)
		if got := d.do(r); got.status != test.wantStatus {
			t.Errorf("%s: got %d %s, want %d", test.name, got.status, got.body, test.wantStatus)
		}
		if made := d.state(n) != ""; made != (test.wantStatus == 200) {
			t.Errorf("%s: the record is %q", test.name, d.state(n))
		}
	}
}

// An answer of createUser carries the access token that the homeserver issued; nothing else of it goes on.
func TestAnswer(t *testing.T) {
	for _, api := range apis {
		d := newGateway(t, api.path)
		proof, n := newProof(t)
		got := d.send(proof)
		want := fmt.Sprintf(`{"user_id":%q,"home_server":%q}`, n.UserID, testServerName)
		if api.path == homeserver.CreateUserPath {
			want = fmt.Sprintf(`{"user_id":%q,"home_server":%q,"access_token":"MDAyOGxvY2F0aW9uIHRva2VuMTIzNDU2Nzg5"}`, n.UserID, testServerName)
		}
		if got.body != want {
			t.Errorf("%s: got %s, want %s", api.name, got.body, want)
		}
	}
}

// Nothing secret is in any log line, error or answer, even when the homeserver repeats what it was sent.
func TestNothingSecretIsTold(t *testing.T) {
	for _, api := range apis {
		for name, fault := range map[string]http.HandlerFunc{
			"right":  nil,
			"echoes": echo(400),
			"fails":  echo(500),
			"mixes":  echo(200),
			"breaks": breaks,
		} {
			t.Run(api.name+"/"+name, func(t *testing.T) {
				d := newGateway(t, api.path)
				d.homeserver.Fail(api.creates, fault)
				proof, _ := newProof(t)
				var told strings.Builder
				for _, body := range []registration{
					proof,
					{proof.Password, proof.DisplayName, proof.Password},
					{proof.Localpart, proof.Password, proof.Password},
					{proof.Localpart, proof.DisplayName, proof.Password[:128] + "00"},
				} {
					a := d.send(body)
					if a.Token != "" { // the one secret that an answer may hold
						a.body = strings.ReplaceAll(a.body, a.Token, "")
					}
					told.WriteString(a.body)
				}
				if a := d.post(`"` + proof.Password); a.status != 400 {
					t.Errorf("got %d", a.status)
				}
				told.WriteString(d.log.String())
				if !strings.Contains(told.String(), proof.Localpart) {
					t.Error("the log names nobody")
				}
				for _, secret := range []string{proof.Password[:16], proof.Password[56:72], proof.DisplayName[5:21], testASToken, testHSToken, testSecret, "$2a$", "MDAyOGxv", strings.Repeat("0", 64)} {
					if i := strings.Index(told.String(), secret); i >= 0 {
						t.Errorf("%q is told: …%s…", secret, told.String()[max(0, i-80):min(i+80, told.Len())])
					}
				}
			})
		}
	}
}

// echo answers with an error that repeats all it was sent.
func echo(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		words := strings.NewReplacer(`"`, " ", `:`, " ", `,`, " ").Replace(string(body)) + " " + r.Header.Get("Authorization")
		if r.URL.Path == homeserver.SharedSecretPath {
			words += " " + testSecret
		}
		answer, _ := json.Marshal(map[string]string{"errcode": words, "error": words})
		says(status, string(answer))(w, r)
	}
}

// One audit line each: outcome, user ID once it is proven, client address, time taken.
func TestAudit(t *testing.T) {
	d := newGateway(t, homeserver.SharedSecretPath)
	proof, n := newProof(t)
	d.send(proof)
	d.send(proof)
	bad := proof
	bad.Password = strings.Repeat("0", signatureDigits)
	d.send(bad)

	var lines []map[string]any
	for scanner := bufio.NewScanner(d.log); scanner.Scan(); {
		line := map[string]any{}
		if err := json.Unmarshal(scanner.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, line)
	}
	if len(lines) != 3 {
		t.Fatalf("%d lines, want 3: %v", len(lines), lines)
	}
	for i, want := range []map[string]any{
		{"msg": "Registered node", "outcome": "created", "user_id": n.UserID},
		{"msg": "Refused registration", "errcode": "M_USER_IN_USE", "user_id": n.UserID},
		{"msg": "Refused registration", "errcode": "M_INVALID_SIGNATURE", "user_id": nil},
	} {
		for key, value := range want {
			if lines[i][key] != value {
				t.Errorf("line %d: %s: got %v, want %v", i, key, lines[i][key], value)
			}
		}
		if lines[i]["client"] != "192.0.2.1" || lines[i]["took"] == nil {
			t.Errorf("line %d: got client %v and took %v", i, lines[i]["client"], lines[i]["took"])
		}
	}
}

// A panic leaves its line, too, as the warning that each 5xx is.
func TestAuditOfPanic(t *testing.T) {
	d := newGateway(t, homeserver.SharedSecretPath)
	d.server.registrar.accounts = &panicAccounts{}
	proof, n := newProof(t)
	d.send(proof)
	if lines := d.log.String(); strings.Count(lines, "Refused registration") != 1 || countLines(lines, []string{"Refused registration", `"lvl":"warn"`, n.UserID}) != 1 {
		t.Errorf("log: %s", lines)
	}
}

// serve finishes what is in flight when its context ends, and takes nothing new.
func TestServeStops(t *testing.T) {
	d := newGateway(t, homeserver.CreateUserPath)
	asked, answer := make(chan bool), make(chan bool)
	d.homeserver.Fail(callProfile, func(w http.ResponseWriter, r *http.Request) {
		asked <- true
		<-answer
		d.homeserver.Right(callProfile)(w, r)
	})
	address, stop, served := d.begin()

	proof, _ := newProof(t)
	body, _ := json.Marshal(proof)
	type result struct {
		status int
		err    error
	}
	done := make(chan result, 1)
	go func() {
		res, err := http.Post("http://"+address+registerPath, "application/json", strings.NewReader(string(body)))
		if err != nil {
			done <- result{0, err}
			return
		}
		res.Body.Close()
		done <- result{res.StatusCode, nil}
	}()
	<-asked
	stop()
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			break
		}
		conn.Close()
		if time.Now().After(deadline) {
			t.Fatal("still listening")
		}
	}
	answer <- true
	if got := <-done; got.status != 200 || got.err != nil {
		t.Errorf("in flight: got %+v, want 200", got)
	}
	if err := <-served; err != nil {
		t.Errorf("serve: %v", err)
	}
	if lines := d.log.String(); !strings.Contains(lines, `"msg":"Stopping"`) || strings.Contains(lines, "Gave up") {
		t.Errorf("log: %s", lines)
	}
}

// serve ends with an error where its listener fails, and has ended reconciling by then.
func TestServeFails(t *testing.T) {
	d := newGateway(t, homeserver.CreateUserPath)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	served := make(chan error, 1)
	go func() { served <- d.server.serve(t.Context(), listener) }()
	select {
	case err := <-served:
		if err == nil || !strings.HasPrefix(err.Error(), "serve: ") || d.server.registrar.stopping.Err() == nil {
			t.Errorf("got %v", err)
		}
	case <-time.After(patience):
		t.Error("it goes on")
	}
}

// What HTTP itself allows and is no registration gets an answer, too.
func TestRawRequests(t *testing.T) {
	d := newGateway(t, homeserver.CreateUserPath)
	address := d.served()

	for name, test := range map[string]struct {
		request, want string
		isPlain       bool // net/http answers by itself, without JSON: docs/http.md lists these
	}{
		"a bare é":          {"GET " + appServicePath + "/users/@é:" + testServerName + "?access_token=" + testHSToken + " HTTP/1.1\r\nHost: x\r\n\r\n", "404", false},
		"OPTIONS *":         {"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", "404", false},
		"HTTP/1.0":          {"POST " + registerPath + " HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}", "400", false},
		"absolute form":     {"POST http://x" + registerPath + " HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", "400", false},
		"chunked form data": {"POST " + registerPath + " HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", "415", false},
		"body cut short":    {"POST " + registerPath + " HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n{}", "400", false},
		"header too large":  {"POST " + registerPath + " HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 64<<10) + "\r\n\r\n", "431", true},
		"no Host":           {"POST " + registerPath + " HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}", "400", true},
		"a strange Expect":  {"POST " + registerPath + " HTTP/1.1\r\nHost: x\r\nExpect: x\r\nContent-Length: 2\r\n\r\n{}", "417", true},
		"a strange coding":  {"POST " + registerPath + " HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n{}", "501", true},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(patience))
			io.WriteString(conn, test.request)
			conn.(*net.TCPConn).CloseWrite()
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			if got := fmt.Sprint(res.StatusCode); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
			if isPlain := !strings.HasPrefix(res.Header.Get("Content-Type"), "application/json"); isPlain != test.isPlain {
				t.Errorf("got the Content-Type %q", res.Header.Get("Content-Type"))
			}
		})
	}
}

// Requests that are refused before anything is asked or written, at the handler; process has the same at the served program.
func BenchmarkReject(b *testing.B) {
	good, _ := newProof(b)
	other, _ := newProof(b)
	badForm, badSignature := good, good
	badForm.Password = strings.ToUpper(good.Password)
	badSignature.Password = other.Password // of the second signature, so that both are looked at
	refused := []struct {
		name  string
		proof registration
	}{{"form", badForm}, {"signature", badSignature}}

	for _, r := range refused {
		b.Run("handler/"+r.name, func(b *testing.B) {
			d := newGateway(b, homeserver.SharedSecretPath)
			log.SetDefault(newLogger(io.Discard, config.Config{Verbosity: 3})) // newGateway puts it back
			body, err := json.Marshal(r.proof)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				request := httptest.NewRequest(http.MethodPost, registerPath, strings.NewReader(string(body)))
				request.Header.Set("Content-Type", "application/json")
				w := httptest.NewRecorder()
				if d.handler.ServeHTTP(w, request); w.Code != 400 {
					b.Fatal(w.Code)
				}
			}
		})
	}
}
