// claims_test.go owns the test of claiming an address without waiting for it.

package main

import (
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
)

// A caller that does not wait claims an address that nobody has, and leaves no trace if somebody has it.
func TestTryAcquire(t *testing.T) {
	var c claims
	a := common.Address{1}
	release, free := c.tryAcquire(a)
	if !free {
		t.Fatal("a free address was not to be had")
	}
	if _, free := c.tryAcquire(a); free {
		t.Error("two have it")
	}
	if users := c.turns[a].users; users != 1 || c.waiting != 0 {
		t.Errorf("%d users and %d waiting, want 1 and 0", users, c.waiting)
	}

	got := make(chan func())
	for range usersAtMost - 1 {
		go func() {
			release, err := c.acquire(t.Context(), a)
			if err != nil {
				t.Error(err)
			}
			got <- release
		}()
	}
	for waiting := 0; waiting < usersAtMost-1; {
		c.mu.Lock()
		waiting = c.waiting
		c.mu.Unlock()
		time.Sleep(time.Millisecond)
	}
	if _, free := c.tryAcquire(a); free { // there is no room to wait either
		t.Error("two have it")
	}
	release()
	for range usersAtMost - 1 {
		(<-got)()
	}
	if len(c.turns) != 0 || c.waiting != 0 {
		t.Errorf("%d addresses and %d waiting are left", len(c.turns), c.waiting)
	}
	if release, free := c.tryAcquire(a); !free {
		t.Error("it is not free again")
	} else {
		release()
	}
}
