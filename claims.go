// claims.go owns the locks on addresses within this process: who has claimed one, and who waits for it.

package main

import (
	"context"
	"sync"

	"github.com/ethereum/go-ethereum/common"
)

// Bounds of the requests that wait. Each of them keeps a connection: while the homeserver is slow, the many requests of a few
// nodes would otherwise keep every connection. An address that nobody has claimed is never refused.
const (
	usersAtMost   = 16  // requests that have claimed or wait for one address
	waitingAtMost = 512 // requests that wait, for all addresses
)

// claims are the claimed addresses of this process, each with those who wait for it.
type claims struct {
	mu      sync.Mutex
	turns   map[common.Address]*turn
	waiting int // users of the turns beyond the first of each
}

// A turn is one address's lock: a token that is in the channel while the address is claimed.
type turn struct {
	token chan struct{}
	users int // requests that have it or wait for it; the last one removes it from the map
}

// acquire waits for the address until the context ends. It returns errBusy if too many wait already.
func (c *claims) acquire(ctx context.Context, a common.Address) (release func(), err error) {
	t := c.join(a)
	if t == nil {
		return nil, errBusy
	}
	select {
	case t.token <- struct{}{}:
		return func() { <-t.token; c.leave(a, t) }, nil
	case <-ctx.Done():
		c.leave(a, t)
		return nil, ctx.Err()
	}
}

// tryAcquire claims the address if nobody has claimed it.
func (c *claims) tryAcquire(a common.Address) (release func(), free bool) {
	t := c.join(a)
	if t == nil {
		return nil, false
	}
	select {
	case t.token <- struct{}{}:
		return func() { <-t.token; c.leave(a, t) }, true
	default:
		c.leave(a, t)
		return nil, false
	}
}

// join adds a user to the address's turn. It returns nil if there are too many.
func (c *claims) join(a common.Address) *turn {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.turns == nil {
		c.turns = make(map[common.Address]*turn)
	}
	t := c.turns[a]
	if t == nil {
		t = &turn{token: make(chan struct{}, 1)}
		c.turns[a] = t
	}
	if t.users > 0 {
		if t.users >= usersAtMost || c.waiting >= waitingAtMost {
			return nil
		}
		c.waiting++
	}
	t.users++
	return t
}

func (c *claims) leave(a common.Address, t *turn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.users--; t.users == 0 {
		delete(c.turns, a)
	} else {
		c.waiting--
	}
}

// claimInTime claims the address. It returns errBusy if it has waited for waitTime, if the context ends or if shutdown begins.
func claimInTime(ctx, stopping context.Context, s store, a common.Address) (claim, error) {
	ctx, cancel := context.WithTimeout(ctx, waitTime)
	defer cancel()
	defer context.AfterFunc(stopping, cancel)()
	claimed, err := s.Claim(ctx, a)
	if err != nil && ctx.Err() != nil {
		err = errBusy
	}
	return claimed, err
}
