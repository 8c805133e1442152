// redact.go owns the cleaning, the masking and the shortening of text.

// Package redact owns what may be printed of text that somebody else wrote: one line of bounded length, without
// secrets and without words that look like one. It does not know where the text comes from, nor where it is printed.
package redact

import (
	"net/netip"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	lineLimit  = 400 // bytes of a line
	quoteLimit = 100 // characters of a quotation
	mark       = "…" // stands where something was left out
)

// partLength is how many bytes of a secret in a row are never printed: who repeats it may cut it short.
const partLength = 10

// Line returns the text on one line of bounded length. Each of the secrets is replaced, and each part of one.
func Line(text string, secrets ...string) string {
	words := strings.Fields(Whole(text, secrets...))
	length := 0
	for i, word := range words {
		if length += len(word) + 1; length > lineLimit {
			words = words[:i]
			break
		}
	}
	return strings.Join(words, " ")
}

// Whole returns all of a text that this program wrote itself on one line, as a configuration that is to be copied. Each of
// the secrets is replaced.
func Whole(text string, secrets ...string) string {
	for _, secret := range secrets {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, mark)
		}
	}
	words := strings.FieldsFunc(text, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) })
	return withoutParts(strings.Join(words, " "), secrets)
}

// withoutParts replaces every run of bytes that one of the secrets has too.
func withoutParts(line string, secrets []string) string {
	isPart := func(text string) bool {
		for _, secret := range secrets {
			if strings.Contains(secret, text) {
				return true
			}
		}
		return false
	}
	var kept strings.Builder
	for i := 0; i < len(line); {
		end := i + partLength
		if end > len(line) || !isPart(line[i:end]) {
			kept.WriteByte(line[i])
			i++
			continue
		}
		for end < len(line) && isPart(line[i:end+1]) {
			end++
		}
		kept.WriteString(mark)
		i = end
	}
	return kept.String()
}

// secretForm matches what tokens and signatures have and words do not: a digit, or a capital after a small letter. One token in two
// hundred has no digit. Some of those are all capitals, and are found by the prefixes of Matrix Authentication Service (m…) and
// Synapse (sy…).
var secretForm = regexp.MustCompile(`[0-9]|[a-z][A-Z]|\b(mat|mar|mct|mcr|mpt|syt|syr)_`)

// Mask replaces long words that look like tokens or signatures. Network addresses stay.
func Mask(text string) string {
	words := strings.Fields(text)
	for i, word := range words {
		if len(word) >= 16 && secretForm.MatchString(word) && !isNetworkAddress(strings.Trim(word, ":,;")) {
			words[i] = mark
		}
	}
	return strings.Join(words, " ")
}

func isNetworkAddress(word string) bool {
	_, notAddress := netip.ParseAddr(word)
	_, notAddrPort := netip.ParseAddrPort(word)
	from, to, isPair := strings.Cut(word, "->") // as in "read tcp 127.0.0.1:1->127.0.0.1:2"
	if isPair {
		return isNetworkAddress(from) && isNetworkAddress(to)
	}
	return notAddress == nil || notAddrPort == nil
}

// Shorten returns at most the given number of bytes of the text, in whole characters. A mark follows where something
// was left out.
func Shorten(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	for limit > 0 && !utf8.RuneStart(text[limit]) {
		limit--
	}
	return text[:limit] + mark
}

// Quote returns the first characters of a client's text, as a log line may have them.
func Quote(text string) string {
	if len(text) <= quoteLimit {
		return text
	}
	characters := 0
	for i := range text {
		if characters++; characters > quoteLimit {
			return text[:i] + mark
		}
	}
	return text
}
