// library.go owns the lines that libraries log. It masks them: they may quote what a peer sent, such as a token.

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

// Libraries returns a handler that masks the lines of libraries, and passes those of this program on unchanged. A line of unknown
// origin counts as a library's. Those of the standard logger are such lines, and with them those of net/http.
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

// WithAttrs and WithGroup drop the attributes: the writer of the line is not known yet, and this program uses neither.
func (h libraryHandler) WithAttrs([]slog.Attr) slog.Handler { return h }
func (h libraryHandler) WithGroup(string) slog.Handler      { return h }

// modulePath begins the names of this program's packages. That of the program itself is main.
const modulePath = "github.com/SmartMeshFoundation/matrix-regservice"

// isOurs reports whether the code at this place belongs to this program.
func isOurs(pc uintptr) bool {
	if pc == 0 {
		return false
	}
	frame, _ := runtime.CallersFrames([]uintptr{pc}).Next()
	return strings.HasPrefix(frame.Function, "main.") || strings.HasPrefix(frame.Function, modulePath)
}

// MaskLine masks a line of a library. It replaces quotes and separators by spaces first, since a token may be between them.
func MaskLine(text string) string { return Mask(Line(separators.Replace(text))) }

var separators = strings.NewReplacer(`\"`, " ", `"`, " ", `\r`, " ", `\n`, " ", `=`, " = ", `,`, " ", `:`, ": ", `{`, " ", `}`, " ", `&`, " ", `?`, " ")

// LibraryWriter returns the output for a standard logger, for commands without a log. It masks the lines, and puts the name of
// this program before them.
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
