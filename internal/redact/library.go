// library.go owns the lines that libraries log by themselves. They may quote what a peer sent, a token for instance, so that
// they are masked.

package redact

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"strings"
)

// libraryMessage is the message of each such line.
const libraryMessage = "A library of this program says"

// Libraries returns a handler that masks the lines of libraries and hands those of this program on as they are. A line whose
// writer cannot be told counts as a library's: those of the standard logger do, and with it those of net/http.
func Libraries(next slog.Handler) slog.Handler { return libraryHandler{next} }

type libraryHandler struct{ slog.Handler }

// Handle hands the line on.
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
	line.AddAttrs(slog.String("said", MaskLine(strings.Join(said, " "))))
	return h.Handler.Handle(ctx, line)
}

// WithAttrs and WithGroup leave the attributes out: it is not known yet who writes the line, and nothing here uses them.
func (h libraryHandler) WithAttrs([]slog.Attr) slog.Handler { return h }
func (h libraryHandler) WithGroup(string) slog.Handler      { return h }

// modulePath begins the names of this program's packages. That of the program itself is main.
const modulePath = "github.com/SmartMeshFoundation/matrix-regservice"

// isOurs tells whether the caller at this place belongs to this program.
func isOurs(pc uintptr) bool {
	if pc == 0 {
		return false
	}
	frame, _ := runtime.CallersFrames([]uintptr{pc}).Next()
	return strings.HasPrefix(frame.Function, "main.") || strings.HasPrefix(frame.Function, modulePath)
}

// MaskLine masks a line of a library. It takes quotes and separators as spaces first: a token may stand between them.
func MaskLine(text string) string { return Mask(Line(separators.Replace(text))) }

var separators = strings.NewReplacer(`\"`, " ", `"`, " ", `\r`, " ", `\n`, " ", `=`, " = ", `,`, " ", `:`, ": ", `{`, " ", `}`, " ", `&`, " ", `?`, " ")

// LibraryWriter returns the output for a standard logger where there is no log. Its lines are masked, after the name of
// this program.
func LibraryWriter(w io.Writer, program string) io.Writer { return libraryWriter{w, program} }

type libraryWriter struct {
	io.Writer
	program string
}

// Write writes the line.
func (w libraryWriter) Write(line []byte) (int, error) {
	if _, err := fmt.Fprintf(w.Writer, "%s: %s\n", w.program, MaskLine(string(line))); err != nil {
		return 0, err
	}
	return len(line), nil
}
