// faults_test.go owns what a homeserver and the network before it can do wrong to one call. None of these lies: what was
// refused was not done.

package proof

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/standin"
)

// A fault is what goes wrong with a call. The zero value is that nothing does.
type fault string

const (
	lostBefore  fault = "lost before it was done"
	lostAfter   fault = "lost after it was done"
	killBefore  fault = "the gateway killed before it was done"
	killAfter   fault = "the gateway killed after it was done"
	late        fault = "done late"
	hung        fault = "hung, and done when the gateway had given up"
	hungNotDone fault = "hung, and never done"
	failed      fault = "500"
	failedAfter fault = "502 after it was done"
	timedOut    fault = "504 in HTML, after it was done"
	waited      fault = "408 after it was done"
	refused     fault = "400"
	forbidden   fault = "403 that repeats the request"
	unknownPath fault = "404 in HTML"
	limited     fault = "429"
	cutBody     fault = "done, and its answer cut off"
	cutChunked  fault = "done, and its chunked answer cut off"
	otherUser   fault = "done, and answered with the answer to something else"
	notAnObject fault = "done, and answered with a list"
	huge        fault = "done, and answered with more than 1 MiB"
	strayBehind fault = "done, and a stray answer behind the right one"
	moved       fault = "307 to the same place"
	cutBetween  fault = "cut off when the homeserver had made its half"
)

// These are the faults that every call can meet. Those that take seconds are apart. cutBetween is for add alone.
var (
	quickFaults = []fault{lostBefore, lostAfter, killBefore, killAfter, late, failed, failedAfter, timedOut, waited, refused, forbidden,
		unknownPath, limited, cutBody, cutChunked, otherUser, notAnObject, huge, strayBehind, moved}
	slowFaults = []fault{hung, hungNotDone}
)

// A plannedFault is a fault of the next such call that has none yet.
type plannedFault struct {
	at    call
	fault fault
}

func (p plannedFault) String() string { return fmt.Sprintf("%s: %s", p.at, p.fault) }

// answer answers the call as the fault has it.
func (f fault) answer(s *fakeHomeserver, w http.ResponseWriter, r *http.Request, right http.HandlerFunc) {
	content, _ := io.ReadAll(r.Body)
	done := func() *httptest.ResponseRecorder {
		r.Body = io.NopCloser(bytes.NewReader(content))
		answer := httptest.NewRecorder()
		right(answer, r)
		return answer
	}
	answered := func(answer *httptest.ResponseRecorder) {
		for name, values := range answer.Header() {
			w.Header()[name] = values
		}
		w.WriteHeader(answer.Code)
		w.Write(answer.Body.Bytes())
	}
	switch f {
	case "":
		answered(done())
	case lostBefore:
		hangUp(w)
	case lostAfter:
		done()
		hangUp(w)
	case killBefore:
		s.kill()
		hangUp(w)
	case killAfter:
		done()
		s.kill()
		hangUp(w)
	case late:
		time.Sleep(200 * time.Millisecond)
		answered(done())
	case hung:
		<-r.Context().Done()
		done()
	case hungNotDone:
		<-r.Context().Done()
	case failed:
		saying(500, `{"errcode":"M_UNKNOWN","error":"Internal server error"}`)(w, r)
	case failedAfter:
		done()
		saying(502, "Bad Gateway")(w, r)
	case timedOut:
		done()
		saying(504, "<html>Gateway Time-out</html>")(w, r)
	case waited:
		done()
		saying(408, "")(w, r)
	case refused:
		saying(400, `{"errcode":"M_UNKNOWN","error":"no"}`)(w, r)
	case forbidden:
		said, _ := json.Marshal("you said " + fmt.Sprint(r.Header) + " " + r.URL.String() + " and " + string(content))
		saying(403, `{"errcode":"M_FORBIDDEN","error":`+string(said)+`}`)(w, r)
	case unknownPath:
		saying(404, "<html>not found</html>")(w, r)
	case limited:
		saying(429, `{"errcode":"M_LIMIT_EXCEEDED","error":"Too Many Requests","retry_after_ms":1}`)(w, r)
	case cutBody:
		answer := done()
		speak(w, fmt.Sprintf("HTTP/1.1 %d OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", answer.Code, answer.Body.Len()+20, cut(answer.Body.String())))
	case cutChunked:
		body := cut(done().Body.String())
		speak(w, fmt.Sprintf("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", len(body), body))
	case otherUser:
		done()
		saying(200, `{"user_id":"@0x0000000000000000000000000000000000000001:`+standin.ServerName+`","access_token":"`+s.stray()+`","home_server":"`+standin.ServerName+`"}`)(w, r)
	case notAnObject:
		done()
		saying(200, `[1,2]`)(w, r)
	case huge:
		done()
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"x":"`)
		io.WriteString(w, strings.Repeat("x", 2<<20))
	case strayBehind:
		answer := done()
		stray := `{"user_id":"@0x0000000000000000000000000000000000000001:` + standin.ServerName + `","access_token":"` + s.stray() + `"}`
		speak(w, fmt.Sprintf("HTTP/1.1 %d OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%sHTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s",
			answer.Code, answer.Body.Len(), answer.Body, len(stray), stray))
	case cutBetween:
		r.Body = io.NopCloser(bytes.NewReader(content))
		s.asAdmin(func(w http.ResponseWriter, r *http.Request) { s.adds(w, r, false) })(httptest.NewRecorder(), r)
		hangUp(w)
	case moved:
		w.Header().Set("Location", r.URL.String())
		w.WriteHeader(http.StatusTemporaryRedirect)
	default:
		panic("no such fault: " + strconv.Quote(string(f)))
	}
}

// stray is somebody's access token in an answer that is nobody's.
func (s *fakeHomeserver) stray() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.newToken("syt_", "nobody")
}

func cut(text string) string { return text[:len(text)/2] }

// hangUp closes the connection without an answer.
func hangUp(w http.ResponseWriter) { speak(w, "") }

// speak sends these bytes and closes the connection a little later, so that they count for a whole that ended.
func speak(w http.ResponseWriter, text string) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	io.WriteString(conn, text)
}
