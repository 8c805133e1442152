// lines.go owns how much the log may grow by what others cause: how many lines of each kind, and how long a value is.

package main

import (
	"context"
	stdlog "log"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/redact"
	"github.com/ethereum/go-ethereum/log"
)

const (
	// linesAtOnce is how many lines of a kind are written at once, and lineInterval the time until there is one more:
	// unlimited, one machine had 45 MB written a second.
	linesAtOnce  = 100
	lineInterval = 10 * time.Second

	kindsKept  = 1 << 10 // kinds of lines; there are some hundred
	valueLimit = 2 << 10 // bytes of any value, a stack's too: it shows where the panic was

	unloggedKey = "unlogged" // on a line: how many of its kind were left out before it
)

// A lineKind tells lines apart: by the place in the code that writes them, and by values that the code itself chose.
type lineKind struct {
	place  uintptr
	values string
}

// lineRules say which lines are never left out, and which keys have values that make a kind of their own. Such values
// must be the program's own words: a client's would give each line a bucket.
type lineRules struct {
	unlimited []string // messages
	apart     []string // keys
}

// A limitedHandler passes lines on to the next handler, of each kind as many as its bucket lets through. Lines are
// limited unless the rules say otherwise, so that a new one, or a library's, needs no rule.
type limitedHandler struct {
	next  slog.Handler
	lines *limitedLines
}

// limitedLines are the buckets.
type limitedLines struct {
	rules   lineRules
	buckets *limiter

	mu       sync.Mutex
	number   map[lineKind]int // of the kind's bucket
	unlogged map[int]int      // by bucket
}

func limitLines(next slog.Handler, rules lineRules) *limitedHandler {
	return &limitedHandler{next, &limitedLines{
		rules:   rules,
		buckets: newLimiter(1/lineInterval.Seconds(), linesAtOnce, kindsKept+1, ""),
		number:  map[lineKind]int{}, unlogged: map[int]int{},
	}}
}

// Enabled leaves the verbosity to the next handler: what is not written takes nothing from a bucket.
func (h *limitedHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.next.Enabled(ctx, level)
}

// WithAttrs and WithGroup keep the buckets.
func (h *limitedHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &limitedHandler{h.next.WithAttrs(attrs), h.lines}
}

func (h *limitedHandler) WithGroup(name string) slog.Handler {
	return &limitedHandler{h.next.WithGroup(name), h.lines}
}

// Handle writes the line, or counts it.
func (h *limitedHandler) Handle(ctx context.Context, r slog.Record) error {
	unlogged, ok := h.lines.take(r)
	if !ok {
		return nil
	}
	short := slog.NewRecord(r.Time, r.Level, redact.Shorten(r.Message, valueLimit), r.PC)
	r.Attrs(func(a slog.Attr) bool {
		short.AddAttrs(slog.Attr{Key: a.Key, Value: shortenedValue(a.Value)})
		return true
	})
	if unlogged > 0 {
		short.Add(unloggedKey, unlogged)
	}
	return h.next.Handle(ctx, short)
}

// take takes a line from the bucket of its kind, and returns how many were left out since the last one.
func (l *limitedLines) take(r slog.Record) (unlogged int, ok bool) {
	if slices.Contains(l.rules.unlimited, r.Message) {
		return 0, true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	bucket := l.bucket(l.kindOf(r))
	if l.buckets.take(limitKey{byte(bucket >> 8), byte(bucket)}) != nil {
		l.unlogged[bucket]++
		return 0, false
	}
	unlogged = l.unlogged[bucket]
	delete(l.unlogged, bucket)
	return unlogged, true
}

func (l *limitedLines) kindOf(r slog.Record) lineKind {
	var values strings.Builder
	r.Attrs(func(a slog.Attr) bool {
		if slices.Contains(l.rules.apart, a.Key) {
			values.WriteString(a.Key + "=" + a.Value.String() + " ")
		}
		return true
	})
	return lineKind{r.PC, values.String()}
}

// bucket is the kind's. Those for which there is no room share the first.
func (l *limitedLines) bucket(kind lineKind) int {
	number, ok := l.number[kind]
	if !ok && len(l.number) < kindsKept {
		number = len(l.number) + 1
		l.number[kind] = number
	}
	return number
}

// shortenedValue leaves numbers and times as they are.
func shortenedValue(v slog.Value) slog.Value {
	text := ""
	switch v.Kind() {
	case slog.KindString:
		text = v.String()
	case slog.KindAny:
		err, ok := v.Any().(error)
		if !ok {
			return v
		}
		text = err.Error()
	}
	if len(text) <= valueLimit {
		return v
	}
	return slog.StringValue(redact.Shorten(text, valueLimit))
}

// newErrorLog is where a server of net/http says what it meets. It may quote a client, and the value of a panic.
func newErrorLog() *stdlog.Logger { return stdlog.New(errorLog{}, "", 0) }

type errorLog struct{}

func (errorLog) Write(p []byte) (int, error) {
	said, stack, isPanic := strings.Cut(string(p), "\ngoroutine ")
	said = maskedLine(said)
	if isPanic {
		log.Error("A handler panicked", "err", said, "stack", stack)
	} else {
		log.Warn("The HTTP server met an error", "err", said)
	}
	return len(p), nil
}
