// shell.go owns the quoting of a word and the reading of words.

// Package shell owns the words of a command as a POSIX shell reads them, for run.sh. It knows quotes and backslashes, and
// expands nothing.
package shell

import (
	"regexp"
	"strings"
)

var safe = regexp.MustCompile(`^[0-9A-Za-z@%+=:,./_-]+$`)

// Quote returns the word, in quotes if a shell would otherwise change it.
func Quote(word string) string {
	if safe.MatchString(word) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// Words returns the words of a line, without their quotes.
func Words(line string) []string {
	var words []string
	word, inWord, quote := strings.Builder{}, false, rune(0)
	escaped := false
	for _, r := range strings.TrimRight(line, "\n") {
		switch {
		case escaped:
			if quote == '"' && !strings.ContainsRune("$`\"\\", r) {
				word.WriteByte('\\') // which stands for itself there
			}
			word.WriteRune(r)
			escaped = false
		case r == '\\' && quote != '\'':
			escaped, inWord = true, true
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, inWord = r, true
		case r == ' ' || r == '\t':
			if inWord {
				words = append(words, word.String())
			}
			word.Reset()
			inWord = false
		default:
			word.WriteRune(r)
			inWord = true
		}
	}
	if inWord {
		words = append(words, word.String())
	}
	return words
}
