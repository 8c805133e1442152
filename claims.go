// claims.go owns the locks on addresses within this process: who holds one, and who waits for it.

package main

import (
	"context"
	"sync"

	"github.com/ethereum/go-ethereum/common"
)

// Bounds of who waits: each keeps a connection, and few nodes' many requests would keep all that there are while the
// homeserver is slow. A node sends one at a time, so that an address that nobody holds is always to be had.
const (
	usersAtMost   = 16  // who holds or waits for one address
	waitingAtMost = 512 // who waits, for all of them
)

// claims are the addresses in hand in this process, each with those who wait for it.
type claims struct {
	mu      sync.Mutex
	held    map[common.Address]*turn
	waiting int // users of the turns beyond the first of each
}

// A turn is one address's lock: a token that is in the channel while somebody holds the address.
type turn struct {
	token chan struct{}
	users int // who holds it or waits for it; the last to leave takes it out of the map
}

// acquire waits for the address until the context ends: errBusy where too many do.
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

// tryAcquire takes the address if nobody has it.
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

// join counts one more user of the address's turn, or returns nil where there are too many.
func (c *claims) join(a common.Address) *turn {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held == nil {
		c.held = make(map[common.Address]*turn)
	}
	t := c.held[a]
	if t == nil {
		t = &turn{token: make(chan struct{}, 1)}
		c.held[a] = t
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
		delete(c.held, a)
	} else {
		c.waiting--
	}
}
