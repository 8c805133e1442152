// client.go owns the HTTP client to the homeserver: its time limits, what an answer means whichever API it
// comes from, and the question that every API needs: is there such a user.

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/redact"
)

// Paths of the questions that are not about creating accounts.
const (
	profilePath    = "/_matrix/client/r0/profile/"
	setProfilePath = "/_matrix/client/v3/profile/" // where a display name is set
	versionPath    = "/_matrix/federation/v1/version"
	keyPath        = "/_matrix/key/v2/server"
)

// Errcodes that are read.
const (
	codeUnrecognized    = "M_UNRECOGNIZED"
	codeUserInUse       = "M_USER_IN_USE"
	codeNotFound        = "M_NOT_FOUND"
	codeInvalidUsername = "M_INVALID_USERNAME"
)

// Time limits of a call. A look-up, a creation and another look-up fit into one attempt's 12 s.
const (
	lookUpTime = 3 * time.Second // a whole call that reads
	createTime = 6 * time.Second // a whole call that creates

	answerLimit = 1 << 20 // bytes of an answer that are read

	userAgent = "matrix-regservice"
)

// A homeserver is the client to one homeserver.
type homeserver struct {
	origin     string // scheme, host and port
	serverName string
	secrets    []string    // never to be seen in an error, even when the homeserver repeats them
	header     http.Header // sent with every call
	http       *http.Client
	binds      bool                                          // each answer holds what binds it to its request, so that calls may share connections
	observe    func(name, result string, took time.Duration) // of each call that has a name; nil for nobody
}

func newHomeserver(origin, serverName string, secrets ...string) *homeserver {
	return &homeserver{
		origin:     origin,
		serverName: serverName,
		secrets:    secrets,
		http:       newHTTPClient(clientOptions{headerTime: headerTime, wholeTime: createTime}),
	}
}

// keep has as many connections kept open between calls as there may be calls at once, so that none is opened for one
// call alone.
func (h *homeserver) keep(most int) {
	h.http.Transport.(*watchedTransport).keep(most)
}

// at is the client to what listens elsewhere and belongs to the homeserver, with the same connections and secrets.
func (h *homeserver) at(origin string) *homeserver {
	other := *h
	other.origin = origin
	return &other
}

// binding is the same client for a call whose answer says what it answers: the user that was created, or a nonce, which the
// homeserver itself checks when it is used. Every other call gets a connection of its own, since a profile, a version, a
// 204 or a 404 could be the answer to anything.
func (h *homeserver) binding() *homeserver {
	other := *h
	other.binds = true
	return &other
}

// An answer is what the homeserver said to a call: a status at least.
type answer struct {
	status     int
	body       []byte
	cut        error // why the body is not whole
	errcode    string
	title      string // of an error of Matrix Authentication Service, which has no errcode
	message    string
	retryAfter time.Duration
}

// A callError is a call that got no answer.
type callError struct {
	left     bool // the request, or a part of it, may have reached the homeserver
	keptConn bool // it went out on a kept connection that turned out to be closed
	err      error
}

func (e *callError) Error() string { return e.err.Error() }
func (e *callError) Unwrap() error { return e.err }

// A request is one call that is to be made.
type request struct {
	name   string        // what the call is for, in metrics; "" where it is not measured
	within time.Duration // a whole call, its answer read
	method string
	path   string
	token  string // the access token; "" for none
	body   any    // sent as JSON, url.Values as a form; nil for none

	// absent tells the answer that there is no such user from other refusals, where the call asks for one.
	absent func(answer) bool
}

// call makes one call. Its error is a *callError.
func (h *homeserver) call(ctx context.Context, r request) (a answer, err error) {
	if h.observe != nil && r.name != "" {
		defer func(start time.Time) { h.observe(r.name, r.result(a, err), time.Since(start)) }(time.Now())
	}
	ctx, cancel := context.WithTimeout(ctx, r.within)
	defer cancel()

	var failed callError
	var answering atomic.Bool // set by the connection's own goroutine
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn:              func(c httptrace.GotConnInfo) { failed.left, failed.keptConn = true, c.Reused },
		GotFirstResponseByte: func() { answering.Store(true) },
	})
	payload, err := json.Marshal(r.body)
	if err != nil {
		return answer{}, &callError{err: err}
	}
	contentType := "application/json"
	if form, ok := r.body.(url.Values); ok {
		payload, contentType = []byte(form.Encode()), "application/x-www-form-urlencoded"
	}
	var reader io.Reader
	if r.body != nil {
		reader = bytes.NewReader(payload)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, h.origin+r.path, reader)
	if err != nil {
		return answer{}, &callError{err: err}
	}
	for name, values := range h.header {
		req.Header[name] = values
	}
	req.Close = !h.binds
	req.Header.Set("User-Agent", userAgent)
	if r.body != nil {
		req.Header.Set("Content-Type", contentType)
	}
	if r.token != "" {
		req.Header.Set("Authorization", "Bearer "+r.token) // never in the query string, which access logs print
	}

	res, err := h.http.Do(req)
	if err != nil {
		failed.keptConn = failed.keptConn && !answering.Load() && ctx.Err() == nil && !isTimeout(err)
		failed.err = err
		return answer{}, &failed
	}
	if res.StatusCode == http.StatusSwitchingProtocols { // its body is the connection itself, which no time limit ends
		res.Body.Close()
		return answer{status: res.StatusCode, cut: errors.New("it switches protocols")}, nil
	}
	defer res.Body.Close()
	return readAnswer(res), nil
}

// result is what came of the call. That there is no such user is an answer like any other.
func (r request) result(a answer, err error) string {
	switch {
	case err != nil:
		return "unanswered"
	case a.status == http.StatusTooManyRequests:
		return "limited"
	case a.cut != nil:
		return "failed"
	case a.status/100 == 2, a.status == http.StatusNotFound && r.absent != nil && r.absent(a):
		return "ok"
	case a.status/100 == 4 && a.status != http.StatusRequestTimeout:
		return "refused"
	}
	return "failed"
}

// readAnswer reads what the homeserver says, as far as the limit, and what it says of an error.
func readAnswer(res *http.Response) answer {
	a := answer{status: res.StatusCode}
	a.body, a.cut = io.ReadAll(io.LimitReader(res.Body, answerLimit+1))
	if len(a.body) > answerLimit {
		a.cut = errors.New("the answer is over 1 MiB")
	}
	if a.cut != nil || a.status/100 == 2 {
		return a
	}
	var said map[string]json.RawMessage
	json.Unmarshal(a.body, &said) // what is not an object says nothing, and a field of another type spoils no other
	var errorText, message string
	var ms float64
	var titles []struct{ Title string } // the first is the error, the others what led to it
	json.Unmarshal(said["errcode"], &a.errcode)
	json.Unmarshal(said["error"], &errorText)
	json.Unmarshal(said["message"], &message) // where Dendrite gives no errcode
	json.Unmarshal(said["retry_after_ms"], &ms)
	json.Unmarshal(said["errors"], &titles)
	a.message = errorText + message
	if len(titles) > 0 {
		a.title = titles[0].Title
		a.message += a.title
	}
	if seconds, err := strconv.Atoi(res.Header.Get("Retry-After")); err == nil && seconds > 0 {
		a.retryAfter = time.Duration(min(seconds, 24*3600)) * time.Second
	}
	if ms > 0 {
		a.retryAfter = time.Duration(min(ms, 24*3600*1000)) * time.Millisecond
	}
	return a
}

// unknownPath tells whether the homeserver, or a proxy before it, does not know what was asked for.
func (a answer) unknownPath() bool {
	return a.status == http.StatusNotFound || a.errcode == codeUnrecognized || a.status/100 == 4 && a.errcode == "" && a.cut == nil
}

// tellsNothing is an answer after which a question has to be asked again.
func (a answer) tellsNothing() bool {
	return a.status/100 == 5 || a.status == http.StatusTooManyRequests || a.status == http.StatusRequestTimeout
}

// notReached is the failure of a call that got no answer. net/http's error quotes what it could not read of one,
// and where from: only the first is of use, and not as it is.
func (h *homeserver) notReached(err error) *homeserverError {
	e := &homeserverError{reason: "the homeserver could not be reached"}
	if quoting := (*url.Error)(nil); errors.As(err, &quoting) {
		e.cause = errors.New(h.scrub(quoting.Err.Error()))
	}
	if failed := (*callError)(nil); errors.As(err, &failed) && failed.left {
		e.fate, e.again = unanswered, failed.keptConn
		e.reason = "the connection to the homeserver broke before it answered"
	}
	if isTimeout(err) {
		e.reason = "the homeserver did not answer in time"
	}
	return e
}

// failure reads an answer that is not the one hoped for. For a creating call the fate tells the account's:
// any 4xx but 408 is a refusal, whatever its body.
func (h *homeserver) failure(a answer, hint string) *homeserverError {
	said := strconv.Itoa(a.status)
	if isErrcode(a.errcode) {
		said += " " + a.errcode
	}
	e := &homeserverError{fate: unanswered, reason: "the homeserver failed (" + said + ")"}
	switch {
	case a.status == http.StatusTooManyRequests:
		e.fate, e.limited, e.retryAfter = notCreated, true, a.retryAfter
		e.reason = "the homeserver asks for fewer requests"
	case a.errcode == codeUserInUse && a.status/100 == 4:
		e.fate, e.reason = taken, "the homeserver has an account of this name"
	case a.status == http.StatusRequestTimeout:
	case a.status/100 == 4:
		e.fate, e.reason = notCreated, "the homeserver refused ("+said+")"
	case a.status/100 == 2:
		e.reason = "the homeserver's answer was not the expected one"
	}

	var causes []string
	if message := h.scrub(a.message); message != "" {
		causes = append(causes, fmt.Sprintf("it says %q", message))
	}
	if a.cut != nil {
		causes = append(causes, "its answer could not be read: "+h.scrub(a.cut.Error()))
	}
	if hint != "" {
		causes = append(causes, hint)
	}
	if len(causes) > 0 {
		e.cause = errors.New(strings.Join(causes, "; "))
	}
	return e
}

// createdUser returns the access token of an answer that confirms that this very user was created.
func (h *homeserver) createdUser(a answer, userID, hint string) (string, error) {
	var created struct {
		UserID      string `json:"user_id"`
		AccessToken string `json:"access_token"`
	}
	if a.status/100 == 2 && a.cut == nil && json.Unmarshal(a.body, &created) == nil {
		if created.UserID == userID {
			return created.AccessToken, nil
		}
		if created.UserID != "" {
			hint = "it names another user ID: this service must be told its server_name"
		}
	}
	return "", h.failure(a, hint)
}

// answers asks it which software it is, and tells whether it answers, whatever it says.
func (h *homeserver) answers(ctx context.Context) error {
	_, err := h.software(ctx)
	return err
}

// displayName asks for the display name of a user, which tells whether there is one. The whole profile would
// not do: for a user without a name today's Synapse answers 404 to it.
func (h *homeserver) displayName(ctx context.Context, userID string) (string, error) {
	absent := func(a answer) bool { return a.errcode == codeNotFound }
	a, err := h.call(ctx, request{name: "profile", within: lookUpTime, method: http.MethodGet, path: profilePath + url.PathEscape(userID) + "/displayname", absent: absent})
	switch {
	case err != nil:
		return "", notSent(h.notReached(err))
	case a.status == http.StatusNotFound && absent(a):
		return "", errNoUser
	}
	name, ok := a.profileName()
	if !ok {
		return "", notSent(h.failure(a, "the profile of the user cannot be read"))
	}
	return name, nil
}

// profileName reads the display name of a profile, which may have none. What holds anything else is the answer to another
// question.
func (a answer) profileName() (name string, ok bool) {
	var profile map[string]json.RawMessage
	if a.status != http.StatusOK || a.cut != nil || !isObject(a.body) || json.Unmarshal(a.body, &profile) != nil {
		return "", false
	}
	said, named := profile["displayname"]
	if named && json.Unmarshal(said, &name) != nil || named && len(profile) > 1 || !named && len(profile) > 0 {
		return "", false
	}
	return name, true
}

// scrub makes a homeserver's words fit for a log: printable, and without anything that is or looks like a token, a
// password or a hash.
func (h *homeserver) scrub(text string) string { return redact.Mask(redact.Line(text, h.secrets...)) }

func isObject(body []byte) bool {
	return bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n"), []byte("{"))
}

func isTimeout(err error) bool {
	timeout := net.Error(nil)
	return errors.As(err, &timeout) && timeout.Timeout()
}

// isErrcode tells a Matrix errcode from whatever else may stand in its place.
func isErrcode(text string) bool {
	return len(text) <= 64 && strings.HasPrefix(text, "M_") && strings.Trim(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_") == ""
}
