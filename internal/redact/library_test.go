// library_test.go owns the test that lines of libraries are logged without secrets.

package redact

import (
	stdlog "log"
	"log/slog"
	"reflect"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/log"
)

// libraryToken is what a library's line gives away.
const libraryToken = "syt_c29tZWJvZHk_QWNjZXNzVG9rZW5PZg_1a2B3c"

// A line of a library is masked, and one of this program is not, however they are written.
func TestLibraryLines(t *testing.T) {
	before := log.Root()
	t.Cleanup(func() { log.SetDefault(before) })
	lines := new(strings.Builder)
	log.SetDefault(log.NewLogger(Libraries(log.JSONHandlerWithLevel(lines, log.LevelTrace))))
	text := `starting with "HTTP/1.1 200 OK\r\n\r\n{\"access_token\":\"` + libraryToken + `\"}"; see http://x/?access_token=` + libraryToken
	writes := map[string]func(){
		"standard logger": func() { stdlog.Printf("%s", text) },
		"server ErrorLog": func() {
			reflect.ValueOf(slog.NewLogLogger(log.Root().Handler(), slog.LevelWarn).Print).Call([]reflect.Value{reflect.ValueOf(text)})
		},
		"slog": func() { reflect.ValueOf(slog.Warn).Call([]reflect.Value{reflect.ValueOf(text)}) }, // so that the caller is a library
		"slog's attribute": func() {
			reflect.ValueOf(slog.Warn).Call([]reflect.Value{reflect.ValueOf("x"), reflect.ValueOf(any("body")), reflect.ValueOf(any(text))})
		},
		"slog with":     func() { slog.Default().With("body", text).Info("x") },
		"go-ethereum's": func() { reflect.ValueOf(log.Warn).Call([]reflect.Value{reflect.ValueOf(text)}) },
	}
	for name, write := range writes {
		lines.Reset()
		write()
		if got := lines.String(); strings.Contains(got, libraryToken) || got == "" {
			t.Errorf("%s: got %q", name, got)
		}
	}
	lines.Reset()
	const address = "0x6d12d262a2fe4fd9c714ad3521acbea52adb4aaf"
	log.Info("ours", "user_id", "@"+address+":x")
	if !strings.Contains(lines.String(), address) {
		t.Errorf("ours is masked: %s", lines)
	}
	var out strings.Builder
	stdlog.New(LibraryWriter(&out, "x"), "", 0).Print(text)
	if got := out.String(); strings.Contains(got, libraryToken) || got == "" {
		t.Errorf("without a log: got %q", got)
	}
}
