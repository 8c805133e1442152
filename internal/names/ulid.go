// ulid.go owns ULIDs (github.com/ulid/spec), the ids of Matrix Authentication Service: 26 digits of Crockford's base32, of
// which the first ten are the time of their making in ms and the rest are random.

package names

import (
	"crypto/rand"
	"regexp"
	"strings"
	"time"
)

const (
	ulidDigits     = "0123456789ABCDEFGHJKMNPQRSTVWXYZ" // in the order of their values
	ulidLength     = 26
	ulidTimeLength = 10
)

var ulidForm = regexp.MustCompile(`^[0-7][0-9A-Za-z]{25}$`)

// IsULID reports whether the text has the form of a ULID, in any case of letters.
func IsULID(text string) bool { return ulidForm.MatchString(text) }

// NewULID makes a ULID.
func NewULID(now time.Time) string {
	raw := make([]byte, ulidLength)
	rand.Read(raw[ulidTimeLength:]) // never fails
	ms := now.UnixMilli()
	for i := ulidTimeLength - 1; i >= 0; i-- {
		raw[i] = byte(ms)
		ms >>= 5
	}
	for i, b := range raw {
		raw[i] = ulidDigits[b%32]
	}
	return string(raw)
}

// ULIDTime returns when the ULID was made.
func ULIDTime(id string) time.Time {
	ms := int64(0)
	for _, digit := range strings.ToUpper(id[:ulidTimeLength]) {
		ms = ms<<5 | int64(max(strings.IndexRune(ulidDigits, digit), 0))
	}
	return time.UnixMilli(ms)
}
