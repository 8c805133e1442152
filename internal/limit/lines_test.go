// lines_test.go owns the tests of limiting log lines of one kind.

package limit

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"
)

//go:noinline
func writeLine(logger *slog.Logger, status int) { // from one place: wherever it were inlined there would be another
	logger.Info("Something", "status", status, "text", strings.Repeat("ä", valueLimit))
}

// What is left out is counted and told; a burst comes back with time; a kind more than there is room for is limited
// with the others of that sort.
func TestLineLimit(t *testing.T) {
	var text bytes.Buffer
	now := time.Unix(0, 0)
	logger := slog.New(Lines(slog.NewJSONHandler(&text, nil), LineRules{Apart: []string{"status"}, AtOnce: 1, Clock: func() time.Time { return now }}))
	since := func() string {
		defer text.Reset()
		return text.String()
	}
	for range 5 {
		writeLine(logger, 1)
	}
	if got := since(); strings.Count(got, "\n") != 1 || len(got) > valueLimit+200 || !strings.Contains(got, "ä…") {
		t.Errorf("five left %d bytes in %d lines", len(got), strings.Count(got, "\n"))
	}
	now = now.Add(lineInterval)
	writeLine(logger, 1)
	line := map[string]any{}
	json.Unmarshal([]byte(since()), &line)
	if line[unloggedKey] != 4.0 {
		t.Error("the next line does not tell of the four that were left out")
	}
	for status := range 2 * kindsKept {
		writeLine(logger, status)
	}
	if got := strings.Count(since(), "\n"); got > kindsKept {
		t.Errorf("%d kinds left a line, want at most %d", got, kindsKept)
	}
}
