// lines.go owns how fast others can make the log grow: how many lines of each kind are written, and how long a value may be.

package limit

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/redact"
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

// A lineKind is a kind of lines: those of one place in the code, with the same values of the keys that LineRules sets apart.
type lineKind struct {
	place  uintptr
	values string
}

// LineRules say which lines are never left out, and for which keys each value is a kind of its own. Such values must be chosen by
// the program: values of clients would give each line a bucket.
type LineRules struct {
	Unlimited []string // messages
	Apart     []string // keys

	AtOnce int              // lines of a kind that are written at once; 0: 100
	Clock  func() time.Time // nil: time.Now
}

// A lineHandler is what Lines returns.
type lineHandler struct {
	next  slog.Handler
	lines *lineBuckets
}

// lineBuckets are the buckets of all kinds.
type lineBuckets struct {
	rules   LineRules
	buckets *Buckets

	mu       sync.Mutex
	number   map[lineKind]int // of the kind's bucket
	unlogged map[int]int      // by bucket
}

// Lines returns a handler that passes lines on to the next one, as many of each kind as its bucket allows. All lines are limited
// unless the rules say otherwise, so that a new line, or one of a library, needs no rule.
func Lines(next slog.Handler, rules LineRules) slog.Handler {
	buckets := NewBuckets(1/lineInterval.Seconds(), cmp.Or(rules.AtOnce, linesAtOnce), kindsKept+1, "")
	if rules.Clock != nil {
		buckets.clock, buckets.start = rules.Clock, rules.Clock()
	}
	return &lineHandler{next, &lineBuckets{rules: rules, buckets: buckets, number: map[lineKind]int{}, unlogged: map[int]int{}}}
}

// Enabled leaves the verbosity to the next handler: a line that is not written takes nothing from a bucket.
func (h *lineHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.next.Enabled(ctx, level)
}

// WithAttrs and WithGroup keep the buckets.
func (h *lineHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &lineHandler{h.next.WithAttrs(attrs), h.lines}
}

func (h *lineHandler) WithGroup(name string) slog.Handler {
	return &lineHandler{h.next.WithGroup(name), h.lines}
}

// Handle writes the line, or counts it.
func (h *lineHandler) Handle(ctx context.Context, r slog.Record) error {
	unlogged, ok := h.lines.count(r)
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

// count takes a line from the bucket of its kind, and returns how many were left out since the last one.
func (l *lineBuckets) count(r slog.Record) (unlogged int, ok bool) {
	if slices.Contains(l.rules.Unlimited, r.Message) {
		return 0, true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	bucket := l.bucket(l.kindOf(r))
	if l.buckets.Take(Key{byte(bucket >> 8), byte(bucket)}) != nil {
		l.unlogged[bucket]++
		return 0, false
	}
	unlogged = l.unlogged[bucket]
	delete(l.unlogged, bucket)
	return unlogged, true
}

func (l *lineBuckets) kindOf(r slog.Record) lineKind {
	var values strings.Builder
	r.Attrs(func(a slog.Attr) bool {
		if slices.Contains(l.rules.Apart, a.Key) {
			values.WriteString(a.Key + "=" + a.Value.String() + " ")
		}
		return true
	})
	return lineKind{r.PC, values.String()}
}

// bucket returns the number of the kind's bucket. Kinds for which there is no room share the first.
func (l *lineBuckets) bucket(kind lineKind) int {
	number, ok := l.number[kind]
	if !ok && len(l.number) < kindsKept {
		number = len(l.number) + 1
		l.number[kind] = number
	}
	return number
}

// shortenedValue shortens texts and errors. Other values stay as they are.
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
