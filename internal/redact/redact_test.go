package redact

import (
	"strings"
	"testing"
)

func TestScrub(t *testing.T) {
	tests := []struct{ text, want string }{
		{"Invalid application service token.", "Invalid application service token."},
		{"it is open sesame", "it is …"},
		{"token LODE52N2CKVXMOURUMAWLEEEXMWB4DKIKRI246XD is bad", "token … is bad"},
		{"token mat_AbcdEfghIjklMnopQrst is bad", "token … is bad"},
		{"token mat_BJZLUCOPPFBHDTANJFNUARTQUR is bad", "token … is bad"},
		{`{"token":"syt_BJZLUCOPPFBHDTANJFNUARTQUR"} is bad`, "… is bad"},
		{"the format_attributes are bad", "the format_attributes are bad"},
		{"dial tcp 127.0.0.1:38273: connect: connection refused", "dial tcp 127.0.0.1:38273: connect: connection refused"},
		{"read tcp 127.0.0.1:38273->127.0.0.1:44444: reset", "read tcp 127.0.0.1:38273->127.0.0.1:44444: reset"},
		{"two\nlines\x00\x1b[31m", "two lines [31m"},
		{strings.Repeat("word ", 100), strings.TrimSpace(strings.Repeat("word ", 80))},
	}
	for _, test := range tests {
		if got := Mask(Line(test.text, "open sesame")); got != test.want {
			t.Errorf("%q: got %q, want %q", test.text, got, test.want)
		}
	}
}
