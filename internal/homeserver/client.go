// client.go owns the HTTP client to the homeserver: its time limits, and what an answer means whichever API it comes from.

package homeserver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/recent"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/redact"
)

// Paths that create no account.
const (
	versionPath = "/_matrix/federation/v1/version"
	keyPath     = "/_matrix/key/v2/server"

	WhoamiPath = "/_matrix/client/r0/account/whoami" // which every version serves
)

// Errcodes that this service reads.
const (
	codeUnrecognized    = "M_UNRECOGNIZED"
	codeUserInUse       = "M_USER_IN_USE"
	codeNotFound        = "M_NOT_FOUND"
	codeInvalidUsername = "M_INVALID_USERNAME"
	codeMissingToken    = "M_MISSING_TOKEN"
	codeForbidden       = "M_FORBIDDEN"
)

// Time limits of a call, and of all calls of one attempt to create an account. Everything that waits for an attempt is
// longer, and is made from AttemptTime: TestTimes holds that it fits.
const (
	ReadTime      = 3 * time.Second  // a whole call that reads
	CreateTime    = 6 * time.Second  // a whole call that creates
	ProvisionTime = 12 * time.Second // a whole call that creates, of a server that has the homeserver make its part meanwhile

	// AttemptTime is the longest way: the homeserver's name, an access token, the account and its password.
	AttemptTime = ReadTime + ReadTime + ProvisionTime + CreateTime

	AnswerLimit = 1 << 20 // bytes of an answer that are read

	UserAgent = "matrix-regservice" // of every call that this program makes
)

// A Client is the client to one homeserver.
type Client struct {
	Origin     string // scheme, host and port
	ServerName string
	ASToken    string      // of this service, for the profiles that nobody sees without a token; "" where it has none
	secrets    []string    // removed from every error, since the homeserver may repeat them
	Header     http.Header // sent with every call
	http       *http.Client
	binds      bool                                          // each answer identifies its request, so that calls may share connections
	Observe    func(name, result string, took time.Duration) // of each call that has a name; nil for nobody

	profileForm *recent.Answer[profileForm] // which told last
}

// NewClient returns the client to the homeserver at the origin. No error will hold one of the secrets.
func NewClient(origin, serverName string, secrets ...string) *Client {
	return &Client{
		Origin:     origin,
		ServerName: serverName,
		secrets:    secrets,

		profileForm: new(recent.Answer[profileForm]),

		http: NewHTTPClient(ClientOptions{}), // each call has a time limit as a whole
	}
}

// Keep keeps at most so many connections open between calls. With the number of calls at once, no connection is opened for a
// single call.
func (h *Client) Keep(most int) {
	h.http.Transport.(*watchedTransport).Keep(most)
}

// At returns the client to another origin of the same homeserver, with the same connections and secrets.
func (h *Client) At(origin string) *Client {
	other := *h
	other.Origin = origin
	return &other
}

// Binding returns the same client for a call whose answer identifies its request: it names the user that was created, or is a
// nonce, which the homeserver itself checks later. Every other call gets a connection of its own, since a profile, a version, a
// 204 or a 404 could be the answer to another request.
func (h *Client) Binding() *Client {
	other := *h
	other.binds = true
	return &other
}

// An Answer is the homeserver's answer to a call. It has a status at least.
type Answer struct {
	Status     int
	Body       []byte
	Cut        error  // why the body is not whole
	Redirect   string // where a 3xx leads, without its query; "" where it does not say
	Errcode    string
	Title      string // of an error of Matrix Authentication Service, which has no errcode
	Message    string
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

// A Request is one call that is to be made.
type Request struct {
	Name   string        // what the call is for, in metrics; "" where it is not measured
	Within time.Duration // a whole call, its answer read
	Method string
	Path   string
	Token  string // the access token; "" for none
	Body   any    // sent as JSON, url.Values as a form; nil for none

	// Absent tells the answer that there is no such user from other refusals, where the call asks for one.
	Absent func(Answer) bool
}

// Call makes one call. The error is a *callError.
func (h *Client) Call(ctx context.Context, r Request) (a Answer, err error) {
	if h.Observe != nil && r.Name != "" {
		defer func(start time.Time) { h.Observe(r.Name, r.result(a, err), time.Since(start)) }(time.Now())
	}
	ctx, cancel := context.WithTimeout(ctx, r.Within)
	defer cancel()

	payload, contentType := []byte(nil), "application/json"
	switch body := r.Body.(type) {
	case nil:
	case url.Values:
		payload, contentType = []byte(body.Encode()), "application/x-www-form-urlencoded"
	default:
		if payload, err = json.Marshal(body); err != nil {
			return Answer{}, &callError{err: err}
		}
	}
	var reader io.Reader
	if r.Body != nil {
		reader = bytes.NewReader(payload)
	}
	var seen progress
	req, err := http.NewRequestWithContext(seen.watch(ctx), r.Method, h.Origin+r.Path, reader)
	if err != nil {
		return Answer{}, &callError{err: err}
	}
	for name, values := range h.Header {
		req.Header[name] = values
	}
	req.Close = !h.binds
	req.Header.Set("User-Agent", UserAgent)
	if r.Body != nil {
		req.Header.Set("Content-Type", contentType)
	}
	if r.Token != "" {
		req.Header.Set("Authorization", "Bearer "+r.Token) // never in the query string, which access logs print
	}

	res, err := h.http.Transport.RoundTrip(req) // Do would copy the header for redirects, which are not followed here
	if err != nil {
		left := seen.conn.Load() != nil
		closed := left && seen.kept.Load() && !seen.answered.Load() && ctx.Err() == nil && !isTimeout(err)
		return Answer{}, &callError{left: left, keptConn: closed, err: err}
	}
	if res.StatusCode == http.StatusSwitchingProtocols { // its body is the connection itself, which no time limit ends
		res.Body.Close()
		return Answer{Status: res.StatusCode, Cut: errors.New("it switches protocols")}, nil
	}
	defer res.Body.Close()
	return readAnswer(res), nil
}

// result is the outcome of the call, for metrics. "No such user" is an answer like any other.
func (r Request) result(a Answer, err error) string {
	switch {
	case err != nil:
		return "unanswered"
	case a.Status == http.StatusTooManyRequests:
		return "limited"
	case a.Cut != nil:
		return "failed"
	case a.Status/100 == 2, a.Status == http.StatusNotFound && r.Absent != nil && r.Absent(a):
		return "ok"
	case a.Status/100 == 4 && a.Status != http.StatusRequestTimeout:
		return "refused"
	}
	return "failed"
}

// readAnswer reads the body up to the limit, and the fields of an error.
func readAnswer(res *http.Response) Answer {
	a := Answer{Status: res.StatusCode, Redirect: RedirectsTo(res)}
	a.Body, a.Cut = io.ReadAll(io.LimitReader(res.Body, AnswerLimit+1))
	if len(a.Body) > AnswerLimit {
		a.Cut = errors.New("the answer is over 1 MiB")
	}
	if a.Cut != nil || a.Status/100 == 2 {
		return a
	}
	var said map[string]json.RawMessage
	json.Unmarshal(a.Body, &said) // each field by itself: one of another type must not spoil the others
	var errorText, message string
	var ms float64
	var titles []struct{ Title string } // the first is the error, the others what led to it
	json.Unmarshal(said["errcode"], &a.Errcode)
	json.Unmarshal(said["error"], &errorText)
	json.Unmarshal(said["message"], &message) // where Dendrite gives no errcode
	json.Unmarshal(said["retry_after_ms"], &ms)
	json.Unmarshal(said["errors"], &titles)
	a.Message = errorText + message
	if len(titles) > 0 {
		a.Title = titles[0].Title
	}
	for i, each := range titles {
		if i > 0 {
			a.Message += ": "
		}
		a.Message += each.Title
	}
	if seconds, err := strconv.Atoi(res.Header.Get("Retry-After")); err == nil && seconds > 0 {
		a.retryAfter = time.Duration(min(seconds, 24*3600)) * time.Second
	}
	if ms > 0 {
		a.retryAfter = time.Duration(min(ms, 24*3600*1000)) * time.Millisecond
	}
	return a
}

// RedirectsTo is where an answer redirects, without user, query and secrets, "" where it does not. In the path, words that look like
// a token are left out: it may repeat what was sent.
func RedirectsTo(res *http.Response, secrets ...string) string {
	if res.StatusCode/100 != 3 {
		return ""
	}
	to, err := res.Location()
	if err != nil || to.Host == "" {
		return ""
	}
	path := strings.Split(to.Path, "/")
	for i, word := range path {
		path[i] = redact.Mask(word)
	}
	return redact.Line(to.Scheme+"://"+to.Host+strings.Join(path, "/"), secrets...)
}

// UnknownPath reports whether the homeserver, or a proxy before it, does not know the path.
func (a Answer) UnknownPath() bool {
	return a.Status == http.StatusNotFound || a.Errcode == codeUnrecognized || a.Status/100 == 4 && a.Errcode == "" && a.Cut == nil
}

// TellsNothing reports whether the question has to be asked again.
func (a Answer) TellsNothing() bool {
	return a.Status/100 == 5 || a.Status == http.StatusTooManyRequests || a.Status == http.StatusRequestTimeout
}

// NotReached returns the error of a call that got no answer. The error of net/http quotes the URL and the bytes that it could not
// read. The URL is left out, and the bytes are cleaned.
func (h *Client) NotReached(err error) *Error {
	cause := err
	if quoting := (*url.Error)(nil); errors.As(err, &quoting) {
		cause = quoting.Err
	}
	if IsPlain(err) {
		cause = http.ErrSchemeMismatch
	}
	e := &Error{Reason: "the homeserver could not be reached", Cause: errors.New(h.scrub(cause.Error()))}
	if failed := (*callError)(nil); errors.As(err, &failed) && failed.left {
		e.Fate, e.Again = MayBeCreated, failed.keptConn
		e.Reason = "the connection to the homeserver broke before it answered"
	}
	if isTimeout(err) {
		e.Reason = "the homeserver did not answer in time"
	}
	return e
}

// Failure returns the error of an answer that is no success. For a creating call its Fate is that of the account: any 4xx but 408
// is a refusal, whatever its body. After 5xx, 408 and an answer that cannot be read the account may have been made.
func (h *Client) Failure(a Answer, hint string) *Error {
	said := strconv.Itoa(a.Status)
	if isErrcode(a.Errcode) {
		said += " " + a.Errcode
	}
	e := &Error{Fate: MayBeCreated, Reason: "the homeserver failed (" + said + ")"}
	switch {
	case a.Status == http.StatusTooManyRequests:
		e.Fate, e.Limited, e.RetryAfter = NotCreated, true, a.retryAfter
		e.Reason = "the homeserver asks for fewer requests"
	case a.Errcode == codeUserInUse && a.Status/100 == 4:
		e.Fate, e.Reason = Taken, "the homeserver has an account of this name"
	case a.Status == http.StatusRequestTimeout:
	case a.Status/100 == 4:
		e.Fate, e.Reason = NotCreated, "the homeserver refused ("+said+")"
	case a.Status/100 == 2:
		e.Reason = "the homeserver's answer was not the expected one"
	}

	var causes []string
	if message := h.scrub(a.Message); message != "" {
		causes = append(causes, fmt.Sprintf("it says %q", message))
	}
	if a.Cut != nil {
		causes = append(causes, "its answer could not be read: "+h.scrub(a.Cut.Error()))
	}
	if a.Redirect != "" {
		causes = append(causes, "it redirects to "+redact.Line(a.Redirect, h.secrets...)+": this service follows no redirect; give the URL of the homeserver itself")
	}
	if hint != "" {
		causes = append(causes, hint)
	}
	if len(causes) > 0 {
		e.Cause = errors.New(strings.Join(causes, "; "))
	}
	return e
}

// CreatedUser returns the access token of an answer that confirms that this user was created.
func (h *Client) CreatedUser(a Answer, userID, hint string) (string, error) {
	var created struct {
		UserID      string `json:"user_id"`
		AccessToken string `json:"access_token"`
	}
	if a.Status/100 == 2 && a.Cut == nil && json.Unmarshal(a.Body, &created) == nil {
		if created.UserID == userID {
			return created.AccessToken, nil
		}
		if created.UserID != "" {
			hint = "it names another user ID: this service must be told its server_name"
		}
	}
	return "", h.Failure(a, hint)
}

// Answers returns nil if the homeserver answers the question which software it is, whatever the answer says.
func (h *Client) Answers(ctx context.Context) error {
	_, err := h.Software(ctx)
	return err
}

// scrub cleans text of the homeserver for a log: it is printable, and without tokens, passwords and hashes, or words that look
// like one.
func (h *Client) scrub(text string) string { return redact.Mask(redact.Line(text, h.secrets...)) }

// IsObject reports whether the body begins as a JSON object does.
func IsObject(body []byte) bool {
	return bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n"), []byte("{"))
}

func isTimeout(err error) bool {
	timeout := net.Error(nil)
	return errors.As(err, &timeout) && timeout.Timeout()
}

// isErrcode reports whether the text has the form of a Matrix errcode.
func isErrcode(text string) bool {
	return len(text) <= 64 && strings.HasPrefix(text, "M_") && strings.Trim(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_") == ""
}
