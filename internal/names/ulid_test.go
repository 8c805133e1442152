// ulid_test.go owns the test of the time in a ULID.

package names

import (
	"strings"
	"testing"
	"time"
)

// A ULID tells when it was made, in any case of letters.
func TestULID(t *testing.T) {
	now := time.UnixMilli(1_764_244_800_123)
	id := NewULID(now)
	if !IsULID(id) || !ULIDTime(id).Equal(now) || id == NewULID(now) {
		t.Errorf("got %s, made at %v, want %v", id, ULIDTime(id), now)
	}
	want := time.Date(2016, 7, 30, 23, 54, 10, 259_000_000, time.UTC) // of the example in the specification
	for _, id := range []string{"01ARZ3NDEKTSV4RRFFQ69G5FAV", strings.ToLower("01ARZ3NDEKTSV4RRFFQ69G5FAV")} {
		if !IsULID(id) || !ULIDTime(id).Equal(want) {
			t.Errorf("%s: got %v, want %v", id, ULIDTime(id), want)
		}
	}
	for _, text := range []string{"", id[1:], id + "0", "8" + id[1:], id[:25] + "-"} {
		if IsULID(text) {
			t.Errorf("%q passes for one", text)
		}
	}
}
