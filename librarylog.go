// librarylog.go owns what becomes of lines that a library writes by itself: they may quote what a peer sent, a token for
// instance, so that they are masked.

package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"strings"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/redact"
)

// A libraryHandler masks the lines of libraries and hands those of this program on as they are. A line of which it cannot be
// told who wrote it is a library's: the standard logger's are, and with it those of net/http's clients and servers.
type libraryHandler struct{ slog.Handler }

// libraryMessage is each such line's.
const libraryMessage = "A library of this program says"

func (h libraryHandler) Handle(ctx context.Context, r slog.Record) error {
	if isOurs(r.PC) {
		return h.Handler.Handle(ctx, r)
	}
	said := []string{r.Message}
	r.Attrs(func(a slog.Attr) bool {
		said = append(said, fmt.Sprintf("%s=%v", a.Key, a.Value))
		return true
	})
	line := slog.NewRecord(r.Time, r.Level, libraryMessage, 0)
	line.AddAttrs(slog.String("said", maskedLine(strings.Join(said, " "))))
	return h.Handler.Handle(ctx, line)
}

// WithAttrs and WithGroup leave the attributes out: whose they are is not known yet, and nothing here uses them.
func (h libraryHandler) WithAttrs([]slog.Attr) slog.Handler { return h }
func (h libraryHandler) WithGroup(string) slog.Handler      { return h }

// modulePath begins the names of this program's packages, but for package main in a program.
const modulePath = "github.com/SmartMeshFoundation/matrix-regservice"

// isOurs tells whether the caller at this place is of this program.
func isOurs(pc uintptr) bool {
	if pc == 0 {
		return false
	}
	frame, _ := runtime.CallersFrames([]uintptr{pc}).Next()
	return strings.HasPrefix(frame.Function, "main.") || strings.HasPrefix(frame.Function, modulePath)
}

// maskedLine takes quotes and separators for spaces first: what is between them may be a token.
func maskedLine(text string) string {
	return redact.Mask(redact.Line(quotes.Replace(text)))
}

var quotes = strings.NewReplacer(`\"`, " ", `"`, " ", `\r`, " ", `\n`, " ", `=`, " = ", `,`, " ", `:`, ": ", `{`, " ", `}`, " ", `&`, " ", `?`, " ")

// A libraryWriter masks what the standard logger writes where there is no log.
type libraryWriter struct{ io.Writer }

func (w libraryWriter) Write(line []byte) (int, error) {
	if _, err := fmt.Fprintf(w.Writer, "%s: %s\n", programName, maskedLine(string(line))); err != nil {
		return 0, err
	}
	return len(line), nil
}
