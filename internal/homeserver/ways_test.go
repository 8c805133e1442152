// ways_test.go owns the test that each way of creating accounts is complete.

package homeserver

import "testing"

// Each way says all that is asked of one.
func TestWaysAreWhole(t *testing.T) {
	for _, w := range Ways {
		if w.Path == "" || w.Name == "" || w.Label == "" || w.needs == "" || w.Missing(Software{}) == "" {
			t.Errorf("%+v is not whole", w)
		}
	}
}
