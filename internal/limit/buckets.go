// buckets.go owns the token buckets.

// Package limit owns the limits on clients: token buckets, slots for attempts that run at once, the address of a client behind
// proxies, a listener that counts its connections, and a log of bounded growth. It does not know what clients ask for, and
// passes what can be measured to functions.
package limit

import (
	"net/netip"
	"sync"
	"time"

	"github.com/ethereum/go-ethereum/common/lru"
)

// ClientsKept bounds a table of client addresses, which takes 3 MiB when it is full. The one longest unseen makes room,
// and has a whole burst when it comes back. To do that on purpose an attacker needs more addresses than the table has,
// each asking at least once. Those alone entitle them to 32,768 requests a second: more than are served.
const ClientsKept = 1 << 15

// A Key identifies the client that a bucket belongs to.
type Key [16]byte

// KeyOf returns the key of a client: its IPv4 address, or the /64 of its IPv6 address, which is the least that anybody is
// given.
func KeyOf(client netip.Addr) Key {
	key := client.As16()
	if client.Is6() {
		clear(key[8:])
	}
	return key
}

// Buckets are token buckets, one for each key: a burst at once, and then one token in each interval. Of a bucket only the
// time is kept at which it will be full again. A full one is not kept.
type Buckets struct {
	interval time.Duration
	burst    int
	reason   string
	start    time.Time
	clock    func() time.Time // time.Now, but for tests

	mu   sync.Mutex
	full lru.BasicLRU[Key, time.Duration] // after start
}

// NewBuckets returns buckets for at most so many keys. It returns nil, which limits nothing, if the rate or the burst is 0. The
// reason is the text of the EarlyError.
func NewBuckets(perSecond float64, burst, keys int, reason string) *Buckets {
	if perSecond == 0 || burst == 0 {
		return nil
	}
	return &Buckets{
		interval: time.Duration(float64(time.Second) / perSecond), burst: burst, reason: reason, start: time.Now(), clock: time.Now,
		full: lru.NewBasicLRU[Key, time.Duration](keys),
	}
}

// Take takes a token, or returns an *EarlyError that says when there will be one. A refused request costs its client nothing. Nil
// buckets always have a token.
func (b *Buckets) Take(key Key) error {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.clock().Sub(b.start)
	full, _ := b.full.Get(key)
	full = max(full, now) + b.interval
	if wait := full - now - time.Duration(b.burst)*b.interval; wait > 0 {
		return &EarlyError{Reason: b.reason, Wait: wait}
	}
	b.full.Add(key, full)
	return nil
}

// An EarlyError refuses a request that comes too early.
type EarlyError struct {
	Reason string
	Wait   time.Duration // until it will not
}

func (e *EarlyError) Error() string { return e.Reason }
