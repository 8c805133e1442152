// registrar_faults_test.go owns what each fault of a homeserver leads to, in the answer and in the record.

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
	"github.com/ethereum/go-ethereum/log"
)

// A faultOutcome is what one kind of fault leads to, by what is known of the node before. A registered node here is one
// whose account is gone, since only for that anything is created.
type faultOutcome struct {
	status  int
	errcode string
	after   map[state]state
}

var (
	// nobody knows whether the account is there
	unread = faultOutcome{502, "M_UNKNOWN", map[state]state{"": statePending, statePending: statePending, stateRegistered: stateRegistered}}
	// it is not, by this attempt
	refused = faultOutcome{502, "M_UNKNOWN", map[state]state{"": "", statePending: statePending, stateRegistered: stateRegistered}}
	limited = faultOutcome{429, "M_LIMIT_EXCEEDED", refused.after}
	created = faultOutcome{200, "", map[state]state{"": stateRegistered, statePending: stateRegistered, stateRegistered: stateRegistered}}
	// nothing was sent; of a registered node it is not even known that the account is gone
	unsent = faultOutcome{502, "M_UNKNOWN", map[state]state{"": "", statePending: statePending}}
)

// Each fault of a homeserver in the creating call, or in the question before it, with every API. An answer lost to a kept
// connection is TestRetryOnKeptConnection's, and one lost before the token was rotated is TestAnswerLostThenRefused's.
func TestHomeserverFaults(t *testing.T) {
	t.Parallel() // most of it is waiting; nobody reads what it logs
	tests := []struct {
		name     string
		fault    http.HandlerFunc
		want     faultOutcome
		slow     bool // it lasts as long as a time limit
		question bool // it is tried with the question before the creating call, too
	}{
		{"no fault", nil, created, false, false},
		{"a wrong content type", withRightAnswer(func(w http.ResponseWriter, answer string) {
			w.Header().Set("Content-Type", "text/html")
			io.WriteString(w, answer)
		}), created, false, false},

		{"closed without an answer", breaks, unread, false, true},
		{"reset without an answer", resets(""), unread, false, false},
		{"reset within the head", resets("HTTP/1.1 200 OK\r\nContent-Le"), unread, false, false},
		{"reset within the body", resets("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{\"user_id\":"), unread, false, false},
		{"closed within the body", cutOff(200), unread, false, false},
		{"hangs before the head", hangs, unread, true, true},
		{"stalls within the body", func(w http.ResponseWriter, r *http.Request) { cutOff(200)(w, r); flushAndHang(w, r) }, unread, true, false},
		{"drips", drips, unread, true, true},
		{"not HTTP", rawly("SSH-2.0-OpenSSH_9.2\r\n"), unread, false, false},

		{"500 JSON", says(500, `{"errcode":"M_UNKNOWN","error":"Internal server error"}`), unread, false, true},
		{"500 HTML", says(500, "<html>Internal Server Error</html>"), unread, false, false},
		{"502 HTML of a proxy", says(502, "<html>nginx</html>"), unread, false, false},
		{"408", says(408, `{"errcode":"M_UNKNOWN"}`), unread, false, false},
		{"200 HTML", says(200, "<html>hello</html>"), unread, false, true},
		{"200 empty", says(200, ""), unread, false, true},
		{"200 an empty object", says(200, "{}"), unread, false, false},
		{"200 for another user", says(200, `{"user_id":"@other:example.org"}`), unread, false, false},
		{"200 a user_id of another type", says(200, `{"user_id":1}`), unread, false, false},
		{"201 without a body", says(201, ""), unread, false, false},
		{"204", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }, unread, false, false},
		{"1 MiB and a little", withRightAnswer(func(w http.ResponseWriter, answer string) {
			io.WriteString(w, answer+strings.Repeat(" ", homeserver.AnswerLimit))
		}), unread, false, false},
		{"redirected, 301", redirects(301), unread, false, false},
		{"redirected, 307", redirects(307), unread, false, true},

		{"400 JSON", says(400, `{"errcode":"M_INVALID_USERNAME","error":"no"}`), refused, false, false},
		{"401 JSON", says(401, `{"errcode":"M_UNKNOWN_TOKEN","error":"no"}`), refused, false, false},
		{"403 JSON", says(403, `{"errcode":"M_UNKNOWN","error":"no"}`), refused, false, false},
		{"403 within the body", cutOff(403), refused, false, false},
		{"404 JSON", says(404, `{"errcode":"M_UNRECOGNIZED","error":"Unrecognized request"}`), refused, false, false},
		{"404 HTML", says(404, "<html>nginx</html>"), refused, false, true},
		{"413 empty", says(413, ""), refused, false, false},
		{"429 JSON", says(429, `{"errcode":"M_LIMIT_EXCEEDED","error":"Too Many Requests","retry_after_ms":1234}`), limited, false, false},
		{"429 HTML", says(429, "<html>nginx</html>"), limited, false, false},
	}
	runs := slowAtOnce{T: t}
	for _, api := range apis {
		for _, test := range tests {
			if api.path == homeserver.MASUsersPath && test.name == "a wrong content type" { // a right answer alone makes no account to finish
				continue
			}
			for before, after := range test.want.after {
				if api.path == homeserver.MASUsersPath && after == stateRegistered && test.want.status == unread.status && test.want.after[""] == statePending {
					after = statePending // what is created anew may be half made, and the node's next try finishes it
				}
				runs.run(fmt.Sprintf("%s/%s/%s", api.name, test.name, orUnknown(before)), test.slow, func(t *testing.T) {
					backend := newStandIn(t)
					d := newGatewayTo(t, backend.URL, api.path)
					backend.Fail(api.creates, test.fault)
					d.checkFault(before, test.want, after)
				})
			}
		}
	}

	questions := map[string]string{homeserver.CreateUserPath: callProfile, homeserver.SharedSecretPath: callNonce, homeserver.MASUsersPath: callToken}
	for _, test := range tests {
		if !test.question {
			continue
		}
		for _, api := range apis {
			for before, after := range unsent.after {
				runs.run(fmt.Sprintf("%s/%s, to the question before/%s", api.name, test.name, orUnknown(before)), test.slow, func(t *testing.T) {
					backend := newStandIn(t)
					d := newGatewayTo(t, backend.URL, api.path)
					backend.Fail(questions[api.path], test.fault)
					d.checkFault(before, unsent, after)
					if asked := backend.Asked(); strings.Contains(asked+" ", api.creates+" ") {
						t.Errorf("asked: %s", asked)
					}
				})
			}
		}
	}
	runs.all.Wait()
}

// slowAtOnce runs the slow ones of its subtests all at once: they wait for time limits, and t.Parallel would run only as
// many as there are processors.
type slowAtOnce struct {
	*testing.T
	all sync.WaitGroup
}

func (s *slowAtOnce) run(name string, slow bool, test func(*testing.T)) {
	if !slow {
		s.Run(name, test)
		return
	}
	s.all.Go(func() { s.Run(name, test) })
}

func orUnknown(s state) string {
	if s == "" {
		return "unknown"
	}
	return string(s)
}

// checkFault sends a registration of a node of which this is known, and looks what came of it.
func (d *gateway) checkFault(before state, want faultOutcome, after state) {
	d.t.Helper()
	proof, n := newProof(d.t)
	d.setState(n, before)
	start := time.Now()
	got := d.send(proof)
	if got.status != want.status || got.Errcode != want.errcode {
		d.t.Errorf("answer: got %d %s, want %d %s", got.status, got.body, want.status, want.errcode)
	}
	if strings.Contains(got.body, "nginx") || strings.Contains(got.body, "127.0.0.1") {
		d.t.Errorf("a node is told %s", got.body)
	}
	if is := d.state(n); is != after {
		d.t.Errorf("record: got %q, want %q", is, after)
	}
	if took := time.Since(start); took > attemptTime+patience { // it ends; at what time, tests with a clock of their own tell
		d.t.Errorf("took %v", took)
	}
}

// The account is made and the answer lost; then the token or the secret is another, and all is refused; then it is right
// again. The refusal proves nothing of the first attempt: the record stays until the account is seen.
func TestAnswerLostThenRefused(t *testing.T) {
	type step struct {
		status int
		after  state
	}
	lost, kept, completed, known := step{502, statePending}, step{502, statePending}, step{200, stateRegistered}, step{409, stateRegistered}
	tests := []struct {
		name, api string
		profile   http.HandlerFunc // while it refuses
		want      [4]step          // lost, refused, right again, once more
	}{
		{"createUser sees the account in the profile", homeserver.CreateUserPath, nil, [4]step{lost, completed, known, known}},
		{"createUser cannot see it", homeserver.CreateUserPath, says(502, "<html>nginx</html>"), [4]step{lost, kept, completed, known}},
		{"shared secret", homeserver.SharedSecretPath, nil, [4]step{lost, kept, completed, known}},
		{"MAS", homeserver.MASUsersPath, nil, [4]step{lost, kept, completed, known}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			d := newGateway(t, test.api)
			creates := map[string]string{homeserver.CreateUserPath: callCreateUser, homeserver.SharedSecretPath: callRegister, homeserver.MASUsersPath: callMASCreate}[test.api]
			right := d.homeserver.Right(creates)
			faults := [4]map[string]http.HandlerFunc{
				{creates: func(w http.ResponseWriter, r *http.Request) {
					right(httptest.NewRecorder(), r)
					resets("HTTP/1.1 200 OK\r\n")(w, r) // as far as this: then it is not tried again at once
				}},
				{creates: says(403, `{"errcode":"M_UNKNOWN","error":"Invalid application service token."}`), callProfile: test.profile},
				{creates: nil, callProfile: nil},
			}
			proof, n := newProof(t)
			for i, want := range test.want {
				for call, fault := range faults[i] {
					d.homeserver.Fail(call, fault)
				}
				if got := d.send(proof); got.status != want.status || d.state(n) != want.after {
					t.Errorf("step %d: got %d %s, record %q, want %d and %q", i, got.status, got.body, d.state(n), want.status, want.after)
				}
			}
			if len(d.homeserver.Users) != 1 {
				t.Errorf("accounts: %v", d.homeserver.Users)
			}
		})
	}
}

// A homeserver that is not there gets no request: of a registered node nobody knows then that its account is gone.
func TestHomeserverUnreachable(t *testing.T) {
	captureLog(t)
	plain, untrusted := newStandIn(t), httptest.NewUnstartedServer(http.NotFoundHandler())
	untrusted.Config.ErrorLog = slog.NewLogLogger(log.Root().Handler(), slog.LevelDebug)
	untrusted.StartTLS()
	t.Cleanup(untrusted.Close)
	for name, origin := range map[string]string{
		"refused":                       "http://127.0.0.1:1",
		"no route":                      "http://[::1]:1",
		"no such name":                  "http://does-not-exist.invalid",
		"no TLS there":                  strings.Replace(plain.URL, "http:", "https:", 1),
		"a certificate of nobody known": untrusted.URL,
	} {
		for _, api := range apis {
			for _, before := range []state{"", statePending, stateRegistered} {
				t.Run(fmt.Sprintf("%s/%s/%s", api.name, name, orUnknown(before)), func(t *testing.T) {
					newGatewayTo(t, origin, api.path).checkFault(before, unsent, before)
				})
			}
		}
	}
}

// A hundred MB are not read to their end.
func TestHomeserverFloods(t *testing.T) {
	for _, api := range apis {
		t.Run(api.name, func(t *testing.T) {
			d := newGateway(t, api.path)
			const size = 100 << 20
			var sent atomic.Int64
			done := make(chan bool)
			d.homeserver.Fail(api.creates, func(w http.ResponseWriter, r *http.Request) {
				defer close(done)
				for block := make([]byte, 64<<10); sent.Load() < size; sent.Add(int64(len(block))) {
					if _, err := w.Write(block); err != nil {
						return
					}
				}
			})
			d.checkFault("", unread, statePending)
			<-done
			if sent.Load() >= size/2 { // what is on its way fits into the buffers of the connection
				t.Errorf("%d bytes of it were taken", sent.Load())
			}
		})
	}
}

// hangs answers nothing until the client gives up.
func hangs(w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body) // only then it is noticed that the client went
	<-r.Context().Done()
}

func flushAndHang(w http.ResponseWriter, r *http.Request) {
	http.NewResponseController(w).Flush()
	hangs(w, r)
}

// drips sends a byte now and then of an answer that never ends.
func drips(w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	w.Header().Set("Content-Type", "application/json")
	for {
		if _, err := io.WriteString(w, " "); err != nil || http.NewResponseController(w).Flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// resets sends a part of an answer and resets the connection.
func resets(part string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			io.WriteString(conn, part)
			conn.(*net.TCPConn).SetLinger(0)
			conn.Close()
		}
	}
}

func redirects(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", status) }
}

// cutOff promises more of a body than it sends.
func cutOff(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000")
		says(status, `{"user_id":`)(w, r)
	}
}

// withRightAnswer gives the function the right answer for the requested user.
func withRightAnswer(write func(w http.ResponseWriter, answer string)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var asked struct{ Localpart, Username string }
		json.NewDecoder(r.Body).Decode(&asked)
		write(w, fmt.Sprintf(`{"user_id":%q}`, names.UserID(asked.Localpart+asked.Username, testServerName)))
	}
}
