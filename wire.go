// wire.go owns the errors as a client reads them: the status and the errcode of each, and that every answer has this form.

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"runtime"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/admission"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/limit"
	"github.com/ant0ine/go-json-rest/rest"
	"github.com/ethereum/go-ethereum/log"
)

// Matrix error codes, of the specification but for the last.
const (
	errcodeUnrecognized     = "M_UNRECOGNIZED"
	errcodeNotJSON          = "M_NOT_JSON"
	errcodeBadJSON          = "M_BAD_JSON"
	errcodeTooLarge         = "M_TOO_LARGE"
	errcodeMissingParam     = "M_MISSING_PARAM"
	errcodeInvalidParam     = "M_INVALID_PARAM"
	errcodeInvalidUsername  = "M_INVALID_USERNAME"
	errcodeLimitExceeded    = "M_LIMIT_EXCEEDED"
	errcodeUserInUse        = "M_USER_IN_USE"
	errcodeNotFound         = "M_NOT_FOUND"
	errcodeUnknown          = "M_UNKNOWN"
	errcodeMissingToken     = "M_MISSING_TOKEN"
	errcodeForbidden        = "M_FORBIDDEN"
	errcodeInvalidSignature = "M_INVALID_SIGNATURE"
)

// A matrixError is the answer to a request that failed. It is no Go error: an error becomes one when it is answered.
type matrixError struct {
	Errcode      string `json:"errcode"`
	Message      string `json:"error"`
	RetryAfterMS int64  `json:"retry_after_ms,omitempty"`

	status int
}

// requestFaults are the errcodes of requests that the client has to change. The status is 400.
var requestFaults = map[requestFault]string{
	faultNotJSON:   errcodeNotJSON,
	faultBadJSON:   errcodeBadJSON,
	faultMissing:   errcodeMissingParam,
	faultForm:      errcodeInvalidParam,
	faultLocalpart: errcodeInvalidUsername,
	faultSignature: errcodeInvalidSignature,
}

// ownWords are the errors that are answered with their own text. What is wrapped beside them is for the log alone.
var ownWords = []struct {
	err     error
	status  int
	errcode string
}{
	{errMissingToken, http.StatusUnauthorized, errcodeMissingToken},
	{errWrongToken, http.StatusForbidden, errcodeForbidden},
	{errBanned, http.StatusForbidden, errcodeForbidden},
	{admission.ErrNotListed, http.StatusForbidden, errcodeForbidden},
	{errUncleanPath, http.StatusNotFound, errcodeUnrecognized},
	{errRegistered, http.StatusConflict, errcodeUserInUse},
	{errMediaType, http.StatusUnsupportedMediaType, errcodeNotJSON},
	{admission.ErrUntold, http.StatusServiceUnavailable, errcodeUnknown},
	{errStopping, http.StatusServiceUnavailable, errcodeUnknown},
	{errStore, http.StatusServiceUnavailable, errcodeUnknown},
}

// toMatrixError is the one place where an error becomes the answer that a client reads.
func toMatrixError(err error) *matrixError {
	for _, own := range ownWords {
		if errors.Is(err, own.err) {
			return &matrixError{status: own.status, Errcode: own.errcode, Message: own.err.Error()}
		}
	}
	wrong, isWrong := errors.AsType[*requestError](err)
	absent, isAbsent := errors.AsType[*absentError](err)
	tooLarge, isTooLarge := errors.AsType[*bodyTooLargeError](err)
	poor, isPoor := errors.AsType[*admission.PoorError](err)
	early, isEarly := errors.AsType[*limit.EarlyError](err)
	failed, isFailed := errors.AsType[*homeserver.Error](err)
	switch {
	case isWrong:
		return &matrixError{status: http.StatusBadRequest, Errcode: requestFaults[wrong.fault], Message: wrong.message}
	case isAbsent:
		return &matrixError{status: http.StatusNotFound, Errcode: errcodeNotFound, Message: absent.message}
	case isTooLarge:
		return &matrixError{status: http.StatusRequestEntityTooLarge, Errcode: errcodeTooLarge, Message: tooLarge.Error()}
	case isPoor:
		return &matrixError{status: http.StatusForbidden, Errcode: errcodeForbidden, Message: poor.Error()}
	case isEarly:
		return tooManyRequests(early.Reason, early.Wait)
	case errors.Is(err, errBusy):
		return tooManyRequests(errBusy.Error(), 0)
	case errors.Is(err, limit.ErrCrowded):
		return tooManyRequests(limit.ErrCrowded.Error(), 0)
	case isFailed && failed.Limited:
		return tooManyRequests(failed.Reason, failed.RetryAfter)
	case isFailed:
		return &matrixError{status: http.StatusBadGateway, Errcode: errcodeUnknown, Message: failed.Reason}
	}
	return &matrixError{status: http.StatusInternalServerError, Errcode: errcodeUnknown, Message: "internal error"}
}

// tooManyRequests has the client wait: for retryLater where nobody named a time.
func tooManyRequests(message string, retryAfter time.Duration) *matrixError {
	if retryAfter <= 0 {
		retryAfter = retryLater
	}
	ms := (retryAfter + time.Millisecond - 1).Milliseconds() // not a moment too early
	return &matrixError{status: http.StatusTooManyRequests, Errcode: errcodeLimitExceeded, Message: message, RetryAfterMS: ms}
}

// write answers with the error.
func (e *matrixError) write(w rest.ResponseWriter) {
	if e.RetryAfterMS > 0 {
		w.Header().Set("Retry-After", strconv.FormatInt(int64(math.Ceil(float64(e.RetryAfterMS)/1000)), 10))
	}
	w.WriteHeader(e.status)
	w.WriteJson(e) // it fails if the client has gone away
}

// answer answers with the error before go-json-rest has the request.
func (e *matrixError) answer(w http.ResponseWriter) {
	setHeaders(w.Header())
	w.WriteHeader(e.status)
	json.NewEncoder(w).Encode(e)
}

// setHeaders sets the headers that every answer has.
func setHeaders(h http.Header) {
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
}

// asMatrixErrors turns go-json-rest's own errors and panics into Matrix errors. It is the outermost layer.
func asMatrixErrors(next rest.HandlerFunc) rest.HandlerFunc {
	return func(w rest.ResponseWriter, r *rest.Request) {
		setHeaders(w.Header())
		writer := &matrixWriter{ResponseWriter: w}
		defer func() {
			switch broken := recover(); {
			case broken == http.ErrAbortHandler:
				panic(broken)
			case broken != nil:
				logPanic(broken)
				if !writer.begun {
					toMatrixError(errPanic).write(writer)
				}
			}
		}()
		next(writer, r)
	}
}

var errPanic = errors.New("the request panicked")

// logPanic logs where a panic happened. It prints the value only if it is one of the Go runtime's: another may hold a secret.
func logPanic(broken any) {
	what := fmt.Sprintf("%T", broken)
	if err, ok := broken.(runtime.Error); ok {
		what = err.Error()
	}
	log.Error("A request panicked", "panic", what, "stack", string(debug.Stack()))
}

// A matrixWriter rewrites the errors that the router of go-json-rest writes itself.
type matrixWriter struct {
	rest.ResponseWriter
	begun bool
}

func (w *matrixWriter) WriteHeader(status int) {
	w.begun = true
	w.ResponseWriter.WriteHeader(status)
}

func (w *matrixWriter) WriteJson(v any) error {
	w.begun = true
	if own, ok := v.(map[string]string); ok && own[rest.ErrorFieldName] != "" {
		v = &matrixError{Errcode: errcodeUnrecognized, Message: own[rest.ErrorFieldName] + ": nodes POST to " + registerPath + ", homeservers use the paths of the application-service API"}
	}
	return w.ResponseWriter.WriteJson(v)
}
