// buckets_test.go owns the tests of the token buckets: the rate of each client, and the number of clients.

package limit

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// A burst at once, then one in each interval, to the moment.
func TestLimiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewBuckets(2, 3, 10, "slow down")
		takes := func(key Key, want time.Duration) {
			t.Helper()
			err := l.Take(key)
			if early := (*EarlyError)(nil); errors.As(err, &early) != (want > 0) || early != nil && early.Wait != want {
				t.Errorf("got %v, want to wait %v", err, want)
			}
		}
		one, other := Key{1}, Key{2}
		for range 3 {
			takes(one, 0)
		}
		takes(one, time.Second/2)
		takes(one, time.Second/2) // having asked costs nothing
		takes(other, 0)
		time.Sleep(time.Second/2 - time.Nanosecond)
		takes(one, time.Nanosecond)
		time.Sleep(time.Nanosecond)
		takes(one, 0)
		takes(one, time.Second/2)
		time.Sleep(time.Hour)
		for range 3 { // and no more than a burst was saved
			takes(one, 0)
		}
		takes(one, time.Second/2)
	})
	for _, off := range []*Buckets{NewBuckets(0, 3, 10, ""), NewBuckets(2, 0, 10, "")} {
		for range 1000 {
			if err := off.Take(Key{}); err != nil {
				t.Fatalf("off: got %v", err)
			}
		}
	}
}

// The table is bounded. A client that keeps asking keeps its place, so that those not seen for longest are forgotten.
func TestLimiterIsBounded(t *testing.T) {
	l := NewBuckets(0.001, 1, ClientsKept, "slow down")
	key := func(i int) Key { return Key{1, byte(i), byte(i >> 8), byte(i >> 16)} }
	first := Key{9}
	l.Take(first)
	for i := range 2 * ClientsKept {
		if err := l.Take(key(i)); err != nil {
			t.Fatalf("address %d: %v", i, err)
		}
		if i%1000 == 0 && l.Take(first) == nil {
			t.Fatalf("after %d other addresses one that went on asking has a new burst", i)
		}
	}
	if l.full.Len() != ClientsKept {
		t.Errorf("the table has %d addresses, want %d", l.full.Len(), ClientsKept)
	}
	for i := ClientsKept + 100; i < 2*ClientsKept; i++ {
		if l.Take(key(i)) == nil {
			t.Fatalf("address %d of %d has a new burst", i, 2*ClientsKept)
		}
	}
}
