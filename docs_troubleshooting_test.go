// docs_troubleshooting_test.go owns the index of docs/troubleshooting.md: it has each message that the page quotes.

package main

import (
	"cmp"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
)

const (
	indexHeading = "\n## Index by message\n"
	indexLength  = 72 // bytes of a message in the index
)

var (
	logReason = regexp.MustCompile(`^(?:INFO|WARN) Refused registration .* reason="(.*)"$`)
	logKey    = regexp.MustCompile(` [a-z_]+=.*`)
)

// indexEntry is how the index has a quoted line: what an operator looks for in it.
func indexEntry(line, section string) string {
	text := strings.TrimPrefix(line, programName+": ")
	if match := logReason.FindStringSubmatch(line); match != nil {
		text = match[1]
	} else if text == line {
		text = logKey.ReplaceAllString(lineStart.ReplaceAllString(line, ""), "")
	}
	text = strings.TrimSpace(text)
	for len(text) > indexLength {
		text = strings.TrimRight(text[:strings.LastIndex(text, " ")], ":,; ")
	}
	return "- [" + strings.ReplaceAll(text, "`", "") + "](#" + anchorOf(section) + ")"
}

// anchorOf is how GitHub names a heading.
func anchorOf(heading string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case unicode.IsLetter(r), unicode.IsDigit(r), r == '-', r == '_':
			return unicode.ToLower(r)
		}
		return -1
	}, heading)
}

// The index has each quoted message once for each section, in the order of its letters, and nothing else.
func TestTroubleshootingIndex(t *testing.T) {
	content, err := os.ReadFile("docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	page, index, found := strings.Cut(string(content), indexHeading)
	if !found {
		t.Fatalf("the page has no %q", indexHeading)
	}
	var want []string
	section, quoting := "", false
	for line := range strings.Lines(page) {
		line = strings.TrimRight(line, "\n")
		switch heading := strings.TrimLeft(line, "#"); {
		case strings.HasPrefix(line, "```"):
			quoting = line == "```log"
		case quoting:
			want = append(want, indexEntry(line, section))
		case strings.HasPrefix(line, "##"):
			section = strings.TrimSpace(heading)
		}
	}
	letters := func(entry string) string {
		return strings.ToLower(strings.Map(func(r rune) rune {
			if unicode.IsLetter(r) {
				return r
			}
			return -1
		}, entry))
	}
	slices.SortFunc(want, func(a, b string) int { return cmp.Or(cmp.Compare(letters(a), letters(b)), cmp.Compare(a, b)) })
	want = slices.Compact(want)
	if got := strings.TrimSpace(index); got != strings.Join(want, "\n") {
		t.Errorf("the index should be\n%s", strings.Join(want, "\n"))
	}
}
