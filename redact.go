// redact.go owns what of somebody else's words may be seen: on one line, and without what is or looks like a secret.

package main

import (
	"net/netip"
	"regexp"
	"strings"
	"unicode"
)

// printable is somebody else's text on one line of bounded length, without the secrets.
func printable(text string, secrets ...string) string {
	for _, secret := range secrets {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, "…")
		}
	}
	words := strings.FieldsFunc(text, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) })
	length := 0
	for i, word := range words {
		if length += len(word) + 1; length > 400 {
			words = words[:i]
			break
		}
	}
	return strings.Join(words, " ")
}

// secretForm is of what is in tokens and signatures and in no word: a digit, or a capital behind a small letter. One token
// in two hundred has no digit, and one of capitals alone is told by what Matrix Authentication Service (m…) and Synapse
// (sy…) begin theirs with.
var secretForm = regexp.MustCompile(`[0-9]|[a-z][A-Z]|\b(mat|mar|mct|mcr|mpt|syt|syr)_`)

// masked hides words that are long and look like tokens or signatures, but for network addresses.
func masked(text string) string {
	words := strings.Fields(text)
	for i, word := range words {
		if len(word) >= 16 && secretForm.MatchString(word) && !isNetworkAddress(strings.Trim(word, ":,;")) {
			words[i] = "…"
		}
	}
	return strings.Join(words, " ")
}

func isNetworkAddress(word string) bool {
	_, notAddress := netip.ParseAddr(word)
	_, notAddrPort := netip.ParseAddrPort(word)
	_, _, isPair := strings.Cut(word, "->") // as in "read tcp 127.0.0.1:1->127.0.0.1:2"
	if isPair {
		from, to, _ := strings.Cut(word, "->")
		return isNetworkAddress(from) && isNetworkAddress(to)
	}
	return notAddress == nil || notAddrPort == nil
}

// isErrcode tells a Matrix errcode from whatever else may stand in its place.
func isErrcode(text string) bool {
	return len(text) <= 64 && strings.HasPrefix(text, "M_") && strings.Trim(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_") == ""
}
