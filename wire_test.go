// wire_test.go owns the test that a client sees nothing of a panic.

package main

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/ant0ine/go-json-rest/rest"
)

// Whatever panics behind it is answered once, if nothing was answered yet, and logged without the value, but for one of the Go
// runtime's. What net/http has to abort goes on to it.
func TestPanicOnTheWire(t *testing.T) {
	none := []int{}
	for _, test := range []struct {
		name   string
		handle rest.HandlerFunc
		aborts bool
		want   int
		log    string // in it; "" for no line
	}{
		{"a value", func(rest.ResponseWriter, *rest.Request) { panic(errors.New("secret words")) }, false, 500, `"panic":"*errors.errorString"`},
		{"the runtime's", func(rest.ResponseWriter, *rest.Request) { none[len(none)]++ }, false, 500, "index out of range"},
		{"after the head", func(w rest.ResponseWriter, _ *rest.Request) { w.WriteHeader(200); panic("secret words") }, false, 200, `"panic":"string"`},
		{"after the answer", func(w rest.ResponseWriter, _ *rest.Request) { w.WriteJson(struct{}{}); panic("secret words") }, false, 200, `"panic":"string"`},
		{"to abort", func(rest.ResponseWriter, *rest.Request) { panic(http.ErrAbortHandler) }, true, 200, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			lines := captureLog(t)
			api := rest.NewApi()
			api.Use(rest.MiddlewareSimple(asMatrixErrors))
			api.SetApp(rest.AppSimple(test.handle))
			w := httptest.NewRecorder()
			broken := func() (broken any) {
				defer func() { broken = recover() }()
				api.MakeHandler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
				return nil
			}()
			if aborts := broken == http.ErrAbortHandler; aborts != test.aborts || broken != nil && !aborts {
				t.Errorf("net/http has to recover %v", broken)
			}
			if told := strings.Count(w.Body.String(), errcodeUnknown); w.Code != test.want || (told == 1) != (test.want == 500) {
				t.Errorf("got %d %s, want %d", w.Code, w.Body, test.want)
			}
			if logged := lines.String(); !strings.Contains(logged, test.log) || (logged == "") != (test.log == "") || strings.Contains(logged, "secret words") {
				t.Errorf("log: %s", logged)
			}
		})
	}
}
