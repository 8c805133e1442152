// matrixclient_test.go owns the tests of each call to a homeserver, with right, unexpected and cut answers.

package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	masplay "github.com/SmartMeshFoundation/matrix-regservice/e2e/mas"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
)

// What part of the password goes to which homeserver.
func TestPasswordParts(t *testing.T) {
	tests := []struct {
		name, api, server string
		wantLength        int
	}{
		{"Synapse", homeserver.SharedSecretPath, `{"server":{"name":"Synapse","version":"1.163.2"}}`, signatureDigits},
		{"Dendrite", homeserver.SharedSecretPath, `{"server":{"name":"Dendrite","version":"0.15.2"}}`, homeserver.BcryptLength},
		{"another", homeserver.SharedSecretPath, `{"server":{"name":"Tuwunel","version":"1.7.0"}}`, signatureDigits},
		{"does not tell", homeserver.SharedSecretPath, ``, signatureDigits},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			d := newGateway(t, test.api)
			d.homeserver.Version = test.server
			proof, n := newProof(t)
			if got := d.send(proof); got.status != 200 {
				t.Fatalf("got %d %s", got.status, got.body)
			}
			if got := d.homeserver.Whole[n.UserID]; got != proof.Password[:test.wantLength] {
				t.Errorf("got %d characters, want the first %d", len(got), test.wantLength)
			}
		})
	}

	d := newGateway(t, homeserver.CreateUserPath)
	proof, n := newProof(t)
	d.send(proof)
	hash := d.homeserver.Hashed[n.UserID]
	if err := checkHash(hash, proof.Password); err != nil || !strings.HasPrefix(hash, "$2a$04$") {
		t.Errorf("createUser: %v", err)
	}
	other := []byte(proof.Password)
	other[71] ^= 1
	if checkHash(hash, string(other)) == nil {
		t.Error("createUser: the 72nd character does not count")
	}
}

// What net/http quotes of an answer that it cannot read stays out of the log.
func TestTransportErrorsQuoteNothing(t *testing.T) {
	for name, raw := range map[string]string{
		"status line": "HTTP/1.1 xx%s\r\n\r\n",
		"protocol":    "nonsense %s\r\n\r\n",
		"header":      "HTTP/1.1 400 Bad\r\nbad line %s\r\n\r\n",
		"location":    "HTTP/1.1 302 Found\r\nLocation: http://[x/?access_token=%s\r\nContent-Length: 0\r\n\r\n",
		"trailer":     "HTTP/1.1 400 Bad\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n0\r\nbad line %s\r\n\r\n",
		"encoding":    "HTTP/1.1 400 Bad\r\nTransfer-Encoding: %s\r\n\r\n",
		"length":      "HTTP/1.1 400 Bad\r\nContent-Length: %s\r\n\r\n",
	} {
		for _, api := range apis {
			t.Run(name+"/"+api.name, func(t *testing.T) {
				d := newGateway(t, api.path)
				for _, secret := range []string{map[string]string{homeserver.CreateUserPath: testASToken, homeserver.SharedSecretPath: testSecret, homeserver.MASUsersPath: testMASSecret}[api.path], ""} {
					proof, _ := newProof(t)
					if secret == "" {
						secret = proof.Password
					}
					d.homeserver.Fail(api.creates, rawly(fmt.Sprintf(raw, secret)))
					got := d.send(proof)
					if strings.Contains(got.body+d.log.String(), secret) {
						t.Errorf("told: %s %s", got.body, d.log)
					}
				}
			})
		}
	}
}

// rawly answers with these bytes and closes the connection.
func rawly(answer string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			io.WriteString(conn, answer)
			conn.Close()
		}
	}
}

// An answer that switches protocols leaves a connection that no time limit ends: it is not read.
func TestSwitchingProtocols(t *testing.T) {
	for _, api := range apis {
		for _, call := range []string{callVersion, callKey, callProfile, callNonce, callToken, callPassword, callSetName, api.creates} {
			t.Run(api.name+"/"+call, func(t *testing.T) {
				d := newGateway(t, api.path)
				release := make(chan bool)
				t.Cleanup(func() { close(release) })
				d.homeserver.Fail(call, func(w http.ResponseWriter, _ *http.Request) {
					conn, _, err := w.(http.Hijacker).Hijack()
					if err == nil {
						io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
						<-release
						conn.Close()
					}
				})
				proof, n := newProof(t)
				answered := make(chan answered, 1)
				go func() { answered <- d.send(proof) }()
				select {
				case got := <-answered:
					if call == api.creates && (got.status != 502 || d.state(n) != statePending) {
						t.Errorf("got %d, record %q", got.status, d.state(n))
					}
				case <-time.After(attemptTime + patience):
					t.Fatal("the attempt does not end")
				}
			})
		}
	}
}

// An errcode counts whatever stands beside it.
func TestOddErrors(t *testing.T) {
	for _, api := range apis {
		for _, body := range []string{
			`{"errcode":"M_USER_IN_USE","error":null}`,
			`{"errcode":"M_USER_IN_USE","error":["x"]}`,
			`{"errcode":"M_USER_IN_USE","error":"x","retry_after_ms":"1"}`,
			`{"errcode":"M_USER_IN_USE","error":"x","message":{}}`,
		} {
			d := newGateway(t, api.path)
			proof, n := newProof(t)
			d.homeserver.Fail(api.creates, says(400, body))
			if got := d.send(proof); got.status != 409 || d.state(n) != stateRegistered {
				t.Errorf("%s, %s: got %d, record %q", api.name, body, got.status, d.state(n))
			}
		}
	}
}

// createUser has read the display name before: it is not read twice, and the second time cannot fail.
func TestOneLookUp(t *testing.T) {
	d := newGateway(t, homeserver.CreateUserPath)
	proof, n := newProof(t)
	d.homeserver.Users[n.UserID] = n.DisplayName
	d.homeserver.Fail(callProfile, func(w http.ResponseWriter, r *http.Request) {
		d.homeserver.Fail(callProfile, says(500, ""))
		d.homeserver.Right(callProfile)(w, r)
	})
	if got := d.send(proof); got.status != 200 || d.homeserver.Asked() != callKey+" "+callProfile {
		t.Errorf("got %d %s", got.status, got.body)
	}
}

// Which homeserver it is, and under which name, is asked once, and anew after a creation that went wrong.
func TestSoftwareIsAskedOnce(t *testing.T) {
	d := newGateway(t, homeserver.SharedSecretPath)
	for range 3 {
		proof, _ := newProof(t)
		d.send(proof)
	}
	if asked := d.homeserver.Asked(); strings.Count(asked, callVersion) != 1 || strings.Count(asked, callKey) != 1 {
		t.Errorf("asked: %q", asked)
	}
	d.homeserver.FailOnce(callRegister, says(500, ""))
	for range 2 {
		proof, _ := newProof(t)
		d.send(proof)
	}
	if asked := d.homeserver.Asked(); strings.Count(asked, callVersion) != 1 || strings.Count(asked, callKey) != 1 {
		t.Errorf("after a failure, asked: %q", asked)
	}
}

// A version that cannot be read is no reason to guess: nothing is sent.
func TestSoftwareUnreadable(t *testing.T) {
	d := newGateway(t, homeserver.SharedSecretPath)
	d.homeserver.Fail(callVersion, says(502, "<html>bad gateway</html>"))
	proof, n := newProof(t)
	if got := d.send(proof); got.status != 502 || d.state(n) != "" {
		t.Errorf("got %d, record %q", got.status, d.state(n))
	}
	if asked := d.homeserver.Asked(); asked != callVersion {
		t.Errorf("asked: %q", asked)
	}
}

// A stale nonce is fetched anew, once.
func TestStaleNonce(t *testing.T) {
	for name, stale := range map[string]http.HandlerFunc{
		"Synapse":  says(400, `{"errcode":"M_UNKNOWN","error":"unrecognised nonce"}`),
		"Dendrite": says(500, `{"message":"incorrect or expired nonce: abcdefghijklmnop"}`),
	} {
		t.Run(name, func(t *testing.T) {
			d := newGateway(t, homeserver.SharedSecretPath)
			d.homeserver.FailOnce(callRegister, stale)
			proof, _ := newProof(t)
			if got := d.send(proof); got.status != 200 {
				t.Errorf("got %d %s", got.status, got.body)
			}
			d.homeserver.Asked()
			d.homeserver.Fail(callRegister, stale)
			proof, n := newProof(t)
			if got := d.send(proof); got.status != 502 || d.state(n) != "" {
				t.Errorf("always stale: got %d, record %q", got.status, d.state(n))
			}
			if asked := d.homeserver.Asked(); asked != "nonce register nonce register" {
				t.Errorf("asked: %q", asked)
			}
		})
	}
}

// A homeserver of another name gets no account, and its operator is told both names, at start too.
func TestAnotherServerName(t *testing.T) {
	for _, api := range apis {
		t.Run(api.name, func(t *testing.T) {
			d := newGateway(t, api.path)
			d.homeserver.Name = "transport03.smartmesh.cn"
			proof, n := newProof(t)
			if got := d.send(proof); got.status != 502 || d.state(n) != "" || len(d.homeserver.Users) != 0 {
				t.Errorf("got %d %s, record %q, %d accounts", got.status, got.body, d.state(n), len(d.homeserver.Users))
			}
			const told = `its server_name is \"transport03.smartmesh.cn\" and this service was told \"transport02.smartmesh.cn\"`
			if strings.Count(d.log.String(), told) != 1 {
				t.Errorf("log: %s", d.log)
			}
			if api.path != homeserver.MASUsersPath { // whose probe has a client to show: TestMASProbe
				probed(t.Context(), config.Config{ServerName: testServerName, Origin: d.homeserver.URL, Way: wayOf(api.path)})
				if strings.Count(d.log.String(), told) != 2 {
					t.Errorf("log after the probe: %s", d.log)
				}
			}
			d.homeserver.Fail(callKey, says(503, "<html>")) // it has the resource, and fails
			if got := d.send(proof); got.status != 502 || d.state(n) != "" || len(d.homeserver.Users) != 0 {
				t.Errorf("failing: got %d %s, record %q, %d accounts", got.status, got.body, d.state(n), len(d.homeserver.Users))
			}
			d.homeserver.Fail(callKey, says(404, "<html>")) // a listener without the resource
			if got := d.send(proof); got.status != 200 {
				t.Errorf("not told: got %d %s", got.status, got.body)
			}
		})
	}
}

// A Synapse that would make accounts without a display name gets none, or is found out by the first.
func TestTooOldForDisplayNames(t *testing.T) {
	d := newGateway(t, homeserver.SharedSecretPath)
	d.homeserver.Version = `{"server":{"name":"Synapse","version":"1.22.1"}}`
	proof, n := newProof(t)
	if got := d.send(proof); got.status != 502 || d.state(n) != "" || len(d.homeserver.Users) != 0 {
		t.Errorf("version known: got %d, record %q", got.status, d.state(n))
	}
	if !strings.Contains(d.log.String(), "1.23.0") {
		t.Errorf("the log does not say which version is needed: %s", d.log)
	}

	for _, nameless := range []http.HandlerFunc{says(200, `{}`), says(404, `{"errcode":"M_NOT_FOUND"}`)} { // the second is of others than Synapse
		d := newGateway(t, homeserver.SharedSecretPath)
		d.homeserver.Version = ""
		d.homeserver.Fail(callProfile, nameless)
		proof, n := newProof(t)
		if got := d.send(proof); got.status != 502 || d.state(n) != statePending {
			t.Errorf("version unknown: got %d, record %q", got.status, d.state(n))
		}
		if !strings.Contains(d.log.String(), "1.23.0") {
			t.Errorf("the log does not say which version is needed: %s", d.log)
		}
	}
}

// The log of a refusal says what the operator can do.
func TestHints(t *testing.T) {
	unrecognized := says(404, `{"errcode":"M_UNRECOGNIZED","error":"Unrecognized request"}`)
	tests := []struct {
		name, api, call string
		answer          http.HandlerFunc
		want            string
	}{
		{"createUser is gone", homeserver.CreateUserPath, callCreateUser, unrecognized, "only Synapse up to 0.34.0 has createUser"},
		{"createUser is gone, Synapse 1.67", homeserver.CreateUserPath, callCreateUser, says(400, `{"errcode":"M_UNRECOGNIZED","error":"Unrecognized request"}`), "create accounts at http://127.0.0.1:8007/_synapse/admin/v1/register"},
		{"createUser: HTML", homeserver.CreateUserPath, callCreateUser, says(404, "<html>"), "only Synapse up to 0.34.0 has createUser"},
		{"createUser: token", homeserver.CreateUserPath, callCreateUser, says(403, `{"errcode":"M_UNKNOWN","error":"Invalid application service token."}`), "does not know the as_token"},
		{"shared secret: nginx", homeserver.SharedSecretPath, callNonce, says(404, "<html>nginx</html>"), "own port (8007 in the guide) and not through nginx"},
		{"shared secret: unknown", homeserver.SharedSecretPath, callNonce, unrecognized, "from 1.23.0 on"},
		{"shared secret: off", homeserver.SharedSecretPath, callNonce, says(400, `{"errcode":"M_UNKNOWN","error":"Shared secret registration is not enabled"}`), "set registration_shared_secret in homeserver.yaml"},
		{"shared secret: wrong", homeserver.SharedSecretPath, callRegister, says(403, `{"errcode":"M_UNKNOWN","error":"HMAC incorrect"}`), "is not the homeserver's registration_shared_secret"},
		{"shared secret: wrong, Dendrite", homeserver.SharedSecretPath, callRegister, says(403, `{"errcode":"M_FORBIDDEN","error":"bad mac"}`), "is not the homeserver's registration_shared_secret"},
		{"Dendrite that does not say so", homeserver.SharedSecretPath, callRegister, says(500, `{"errcode":"M_UNKNOWN","error":"failed to set display name: sql: no rows in result set"}`), "set global.disable_federation to false"},
		{"another domain", homeserver.SharedSecretPath, callRegister, says(200, `{"user_id":"@x:example.org"}`), "this service must be told its server_name"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			d := newGateway(t, test.api)
			d.homeserver.Fail(test.call, test.answer)
			proof, _ := newProof(t)
			if got := d.send(proof); got.status != 502 {
				t.Errorf("got %d %s", got.status, got.body)
			}
			if !strings.Contains(d.log.String(), test.want) {
				t.Errorf("log: got %s, want %q in it", d.log, test.want)
			}
		})
	}
}

// Redirects are not followed: a token goes to the homeserver and nowhere else.
func TestNoRedirectNoProxy(t *testing.T) {
	elsewhere := newStandIn(t)
	d := newGateway(t, homeserver.CreateUserPath)
	t.Setenv("HTTP_PROXY", elsewhere.URL)
	d.homeserver.Fail(callCreateUser, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, elsewhere.URL+homeserver.CreateUserPath, http.StatusTemporaryRedirect)
	})
	proof, _ := newProof(t)
	d.send(proof)
	if asked := elsewhere.Asked(); asked != "" {
		t.Errorf("asked elsewhere: %s", asked)
	}
}

// The time that a homeserver asks for is passed on, from wherever it says it.
func TestRetryAfter(t *testing.T) {
	tests := []struct {
		name, header, body string
		want               time.Duration
	}{
		{"body", "", `{"retry_after_ms":1500}`, 1500 * time.Millisecond},
		{"header", "3", ``, 3 * time.Second},
		{"both", "3", `{"retry_after_ms":1500}`, 1500 * time.Millisecond},
		{"neither", "", `{}`, retryLater},
		{"nonsense", "-1", `{"retry_after_ms":-5}`, retryLater},
		{"huge", "", `{"retry_after_ms":1e300}`, 24 * time.Hour},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			d := newGateway(t, homeserver.SharedSecretPath)
			d.homeserver.Fail(callRegister, func(w http.ResponseWriter, r *http.Request) {
				if test.header != "" {
					w.Header().Set("Retry-After", test.header)
				}
				says(429, test.body)(w, r)
			})
			proof, _ := newProof(t)
			if got := d.send(proof); got.status != 429 || got.RetryMS != test.want.Milliseconds() {
				t.Errorf("got %d and %d ms, want 429 and %v", got.status, got.RetryMS, test.want)
			}
		})
	}
}

// The probe tells what the homeserver has and what to type instead.
func TestProbe(t *testing.T) {
	unrecognized := says(404, `{"errcode":"M_UNRECOGNIZED","error":"Unrecognized request"}`)
	tests := []struct {
		name, api string
		faults    map[string]http.HandlerFunc
		want      string
	}{
		{"createUser is there", homeserver.CreateUserPath, nil, "The homeserver has the API"},
		{"shared secret is there", homeserver.SharedSecretPath, nil, "The homeserver has the API"},
		{"createUser is gone", homeserver.CreateUserPath, map[string]http.HandlerFunc{callCreateUser: unrecognized}, "use --matrixurl ORIGIN/_synapse/admin/v1/register with --sharesecret-file"},
		{"shared secret is not yet there", homeserver.SharedSecretPath, map[string]http.HandlerFunc{callNonce: unrecognized}, "use --matrixurl ORIGIN/_matrix/client/api/v1/createUser"},
		{"neither", homeserver.CreateUserPath, map[string]http.HandlerFunc{callNonce: unrecognized, callCreateUser: says(404, "<html>")}, "only Synapse up to 0.34.0 has createUser"},
		{"neither, shared secret", homeserver.SharedSecretPath, map[string]http.HandlerFunc{callNonce: says(404, "<html>"), callCreateUser: unrecognized}, "own port (8007 in the guide)"},
		{"createUser redirects", homeserver.CreateUserPath, map[string]http.HandlerFunc{callCreateUser: says(301, "")}, "use --matrixurl ORIGIN/_synapse/admin/v1/register"},
		{"createUser is a web page", homeserver.CreateUserPath, map[string]http.HandlerFunc{callCreateUser: says(200, "<html>")}, "use --matrixurl ORIGIN/_synapse/admin/v1/register"},
		{"Dendrite without a secret", homeserver.SharedSecretPath, map[string]http.HandlerFunc{
			callVersion: says(200, `{"server":{"name":"Dendrite","version":"0.15.2"}}`), callNonce: unrecognized, callCreateUser: unrecognized,
		}, "set client_api.registration_shared_secret in dendrite.yaml"},
		{"switched off", homeserver.SharedSecretPath, map[string]http.HandlerFunc{callNonce: says(400, `{"errcode":"M_UNKNOWN","error":"Shared secret registration is not enabled"}`)}, "set registration_shared_secret"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			d := newGateway(t, test.api)
			for call, fault := range test.faults {
				d.homeserver.Fail(call, fault)
			}
			c := config.Config{ServerName: testServerName, Origin: d.homeserver.URL, Way: wayOf(test.api), ASToken: testASToken, SharedSecret: testSecret}
			d.wantProbed(t, c, test.want)
		})
	}
}

// wantProbed has the start ask the homeserver, and wants one line of it with these words, in which ORIGIN is the homeserver's URL.
func (d *gateway) wantProbed(t *testing.T, c config.Config, want string) {
	t.Helper()
	probed(t.Context(), c)
	want = strings.Replace(want, "ORIGIN", d.homeserver.URL, 1)
	if !strings.Contains(d.log.String(), want) || strings.Count(d.log.String(), "\n") != 1 {
		t.Errorf("log: got %s, want one line with %q", d.log, want)
	}
	if len(d.homeserver.Users) != 0 {
		t.Error("the probe created an account")
	}
}

// The start proves what accounts are created with, and says what to do where the server refuses it. It creates nothing.
func TestProbeProves(t *testing.T) {
	const refused = "does not accept what this service creates accounts with: no node can register"
	for _, test := range []struct {
		name, api, call string
		fault           http.HandlerFunc
		want            string
	}{
		{"another secret", homeserver.SharedSecretPath, callRegister, says(403, `{"errcode":"M_UNKNOWN","error":"HMAC incorrect"}`), "put the homeserver's registration_shared_secret into the file"},
		{"an as_token that it does not know", homeserver.CreateUserPath, callWhoami, says(401, `{"errcode":"M_UNKNOWN_TOKEN"}`), "list registration.yaml in its app_service_config_files"},
		{"a client that it does not know", homeserver.MASUsersPath, callToken, says(401, `{"error":"invalid_client"}`), "write its ID into the clients"},
		{"a client that may not administer", homeserver.MASUsersPath, callToken, says(403, `{"error":"invalid_scope"}`), "policy.data.admin_clients"},
		{"it does not tell", homeserver.SharedSecretPath, callRegister, says(500, "{}"), "It is unknown whether"},
		{"all right", homeserver.SharedSecretPath, "", nil, ""},
		{"all right", homeserver.MASUsersPath, "", nil, ""},
	} {
		t.Run(test.api+"/"+test.name, func(t *testing.T) {
			d := newGateway(t, test.api)
			d.homeserver.Issuer = d.homeserver.URL + "/"
			if test.fault != nil {
				d.homeserver.Fail(test.call, test.fault)
			}
			c := masConfig(d.homeserver.URL)
			c.Way, c.SharedSecret = wayOf(test.api), testSecret
			probed(t.Context(), c)
			lines := d.log.String()
			if isRefused := strings.Contains(lines, refused) || strings.Contains(lines, c.Way.Disabled) && c.Way.Disabled != ""; !strings.Contains(lines, test.want) || isRefused != (test.fault != nil && test.name != "it does not tell") {
				t.Errorf("log: got %s, want %q", lines, test.want)
			}
			if len(d.homeserver.Users) != 0 {
				t.Error("the probe created an account")
			}
		})
	}
}

// The start says by name of which homeserver nothing is known.
func TestProbeOfUntried(t *testing.T) {
	for server, want := range map[string]bool{tuwunel: true, `{"server":{"name":"Dendrite","version":"0.15.2"}}`: false, `{"server":{"name":"Synapse","version":"1.163.2"}}`: false, "": false} {
		d := newGateway(t, homeserver.SharedSecretPath)
		d.homeserver.Version = server
		probed(t.Context(), config.Config{ServerName: testServerName, Origin: d.homeserver.URL, Way: homeserver.SharedSecret, SharedSecret: testSecret})
		lines := d.log.String()
		if got := strings.Contains(lines, "This service was never tested with this homeserver") && strings.Contains(lines, "Tuwunel 1.7.0"); got != want || !strings.Contains(lines, "has the API") {
			t.Errorf("%s: the log says that it was not tried: %v: %s", server, got, lines)
		}
	}
}

// The probe asks again until it is answered, and says once that it is not.
func TestProbeAsksAgain(t *testing.T) {
	d := newGateway(t, homeserver.SharedSecretPath)
	d.homeserver.FailOnce(callNonce, says(502, "<html>"))
	probed(t.Context(), config.Config{ServerName: testServerName, Origin: d.homeserver.URL, Way: homeserver.SharedSecret, SharedSecret: testSecret})
	if lines := d.log.String(); strings.Count(lines, "\n") != 2 || !strings.Contains(lines, "does not answer yet") || !strings.Contains(lines, "has the API") {
		t.Errorf("log: %s", lines)
	}
}

// Each call has its own name in the metrics, and that nobody has a name is no failure.
func TestCallNames(t *testing.T) {
	for path, want := range map[string]string{
		homeserver.CreateUserPath:   "key ok, profile ok, create ok, profile ok, version ok, ping refused",
		homeserver.SharedSecretPath: "version ok, key ok, nonce ok, create ok, profile ok, version ok, ping refused",
		homeserver.MASUsersPath:     "key ok, token ok, create ok, password ok, name ok, profile ok, lookup ok, version ok, lookup ok, ping refused",
	} {
		d := newGateway(t, path)
		d.homeserver.MAS.Set(masplay.Settings{Version: masplay.Old}) // with which each of the calls is made
		c := masConfig(d.homeserver.URL)
		c.Way, c.SharedSecret = wayOf(path), testSecret
		h := newHomeserverClient(c, nil)
		var calls []string
		h.Observe = func(name, result string, _ time.Duration) { calls = append(calls, name+" "+result) }
		a, err := newAccounts(c, h)
		if err != nil {
			t.Fatal(err)
		}
		_, n := newProof(t)
		_, created := a.Create(t.Context(), n.Account, false, func() error { return nil })
		_, shown := a.DisplayName(t.Context(), "@0x0000000000000000000000000000000000000000:"+testServerName)
		if created != nil || !errors.Is(shown, homeserver.ErrNoUser) || a.Answers(t.Context()) != nil {
			t.Errorf("%s: got %v, %v", path, created, shown)
		}
		h.Ping(t.Context(), "x", "x", appServicePath) // which a stand-in does not have
		if got := strings.Join(calls, ", "); got != want {
			t.Errorf("%s: called\n%s, want\n%s", path, got, want)
		}
	}
}

// A way that nobody made a choice for is an error, and never createUser.
func TestUnknownWay(t *testing.T) {
	for _, w := range append(homeserver.Ways, nil, &homeserver.Way{Path: homeserver.CreateUserPath}) {
		a, err := newAccounts(config.Config{Way: w}, homeserver.NewClient("http://127.0.0.1:1", testServerName))
		if known := w != nil && w.Name != ""; (err == nil) != known || (a != nil) != known {
			t.Errorf("%v: got %v, %v", w, a, err)
		}
	}
	for _, path := range []string{"", "/", homeserver.CreateUserPath + "/", "/_matrix/client/v3/register"} {
		if w, err := homeserver.WayAt(path); err == nil {
			t.Errorf("%q: got %v", path, w)
		}
	}
}

// What creates accounts and what is asked of them may be at two places, with every API.
func TestTwoOrigins(t *testing.T) {
	for _, api := range apis {
		d := newGateway(t, api.path)
		creates := newStandIn(t)
		creates.Users, creates.MAS = d.homeserver.Users, d.homeserver.MAS
		creates.MAS.Set(masplay.Settings{Version: masplay.Old}) // which leaves a call for the homeserver
		c := masConfig(d.homeserver.URL)
		c.APIOrigin, c.Way, c.SharedSecret = creates.URL, wayOf(api.path), testSecret
		proof, _ := newProof(t)
		d.handler = newServer(serviceOf(c), d.store).handler()
		if got := d.send(proof); got.status != 200 {
			t.Errorf("%s: got %d %s", api.name, got.status, got.body)
		}
		want := map[string][2]string{
			homeserver.CreateUserPath:   {"createUser", "key profile"},
			homeserver.SharedSecretPath: {"nonce register", "version key"},
			homeserver.MASUsersPath:     {"token masCreate masVersion password", "key setName"},
		}[api.path]
		if got := [2]string{creates.Asked(), d.homeserver.Asked()}; got != want {
			t.Errorf("%s: asked %q, want %q", api.name, got, want)
		}
	}
}

// What a refusal of createUser means for the operator.
func TestCreateUserHint(t *testing.T) {
	for _, test := range []struct {
		name string
		a    homeserver.Answer
		want string
	}{
		{"the account is there", homeserver.Answer{Status: 403, Errcode: errcodeUserInUse}, ""},
		{"no such path", homeserver.Answer{Status: 404}, homeserver.CreateUserMissing},
		{"another token", homeserver.Answer{Status: 403, Errcode: errcodeForbidden}, otherToken},
		{"no token", homeserver.Answer{Status: 401, Errcode: errcodeMissingToken}, otherToken},
		{"a bad name", homeserver.Answer{Status: 400, Errcode: errcodeInvalidUsername}, ""},
		{"a failure", homeserver.Answer{Status: 500}, ""},
	} {
		if got := createUserHint(test.a); got != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
}

// Whether the homeserver has createUser, and whether it takes the token: what it does not tell is unknown.
func TestCreateUserProbe(t *testing.T) {
	for _, test := range []struct {
		name    string
		answer  http.HandlerFunc
		want    homeserver.State
		wantErr bool
		refused string // of the token
		failed  string // to tell whether the token is refused: what the error begins with
	}{
		{"refuses a wrong token", says(403, `{"errcode":"M_UNKNOWN"}`), homeserver.Present, false, otherToken, ""},
		{"asks for a token", says(401, `{"errcode":"M_UNKNOWN_TOKEN"}`), homeserver.Present, false, otherToken, ""},
		{"no such path", says(404, `{"errcode":"M_UNRECOGNIZED"}`), homeserver.Missing, false, "", "the homeserver refused (404 M_UNRECOGNIZED)"},
		{"takes any token", says(200, "{}"), homeserver.Missing, false, "", ""},
		{"fails", says(500, "{}"), homeserver.Unknown, true, "", "the homeserver failed (500)"},
		{"breaks", breaks, homeserver.Unknown, true, "", "the connection to the homeserver broke before it answered"},
	} {
		d := newGateway(t, homeserver.CreateUserPath)
		d.homeserver.Fail(callCreateUser, test.answer)
		d.homeserver.Fail(callWhoami, test.answer)
		accounts := accountsOf(config.Config{ServerName: testServerName, Origin: d.homeserver.URL, Way: homeserver.CreateUser, ASToken: testASToken})
		if got, err := accounts.Probe(t.Context()); got != test.want || (err != nil) != test.wantErr {
			t.Errorf("%s: got %v, %v, want %v", test.name, got, err, test.want)
		}
		if fix, err := accounts.Refused(t.Context()); fix != test.refused || (err != nil) != (test.failed != "") || err != nil && !strings.HasPrefix(err.Error(), test.failed) {
			t.Errorf("%s: refused: got %q, %v, want %q", test.name, fix, err, test.refused)
		}
	}
}
