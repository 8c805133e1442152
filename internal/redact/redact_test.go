// redact_test.go owns the tests of what is removed from foreign text.

package redact

import (
	"strings"
	"testing"
)

func TestScrub(t *testing.T) {
	tests := []struct{ text, want string }{
		{"Invalid application service token.", "Invalid application service token."},
		{"it is open sesame", "it is …"},
		{"it is rather_secret~with^symbols", "it is …"},
		{"it is rather_secret~wi, and ends in et~with^symbols.", "it is …, and ends in …."},
		{"it is er_secret~with^symbo", "it is …"},
		{"it is rather_sec or rather_se", "it is … or rather_se"},
		{"it is rather secret with symbols", "it is rather secret with symbols"},
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
		if got := Mask(Line(test.text, "open sesame", "rather_secret~with^symbols")); got != test.want {
			t.Errorf("%q: got %q, want %q", test.text, got, test.want)
		}
	}
}
