// limit.go owns how much is let in, and from whom: the token buckets, the address that a client is known by, and the
// attempts that may ask the homeserver at once.

package main

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/ethereum/go-ethereum/common/lru"
)

const (
	// clientsKept bounds the table of client addresses, which takes 3 MiB when it is full. The one longest unseen
	// makes room, and has a whole burst when it comes back. To have that on purpose somebody needs more addresses
	// than there is room for, each asking at least once, and those alone entitle him to 32,768 requests a second:
	// more than are served.
	clientsKept = 1 << 15

	slotTime = 2 * time.Second // how long an attempt waits for a slot, of the time that it has in all
)

// A limitKey is whom a bucket is of.
type limitKey [16]byte

// keyOf is a client's bucket: an IPv4 address, or the /64 of an IPv6 one, which is the least that anybody is given.
func keyOf(client netip.Addr) limitKey {
	key := client.As16()
	if client.Is6() {
		clear(key[8:])
	}
	return key
}

// A limiter has a token bucket for each key: a burst at once, and then one in each interval. Of a bucket only the
// time is kept at which it will be full again; one that is full is as good as none.
type limiter struct {
	interval time.Duration
	burst    int
	reason   string
	start    time.Time
	clock    func() time.Time // time.Now, but for tests

	mu   sync.Mutex
	full lru.BasicLRU[limitKey, time.Duration] // after start
}

// newLimiter returns nil, which limits nothing, where the rate or the burst is 0.
func newLimiter(perSecond float64, burst, keys int, reason string) *limiter {
	if perSecond == 0 || burst == 0 {
		return nil
	}
	return &limiter{
		interval: time.Duration(float64(time.Second) / perSecond), burst: burst, reason: reason, start: time.Now(), clock: time.Now,
		full: lru.NewBasicLRU[limitKey, time.Duration](keys),
	}
}

// take takes a token, or returns a *limitError that says when there is one. Who is refused loses nothing by having
// asked.
func (l *limiter) take(key limitKey) error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.clock().Sub(l.start)
	full, _ := l.full.Get(key)
	full = max(full, now) + l.interval
	if wait := full - now - time.Duration(l.burst)*l.interval; wait > 0 {
		return &limitError{l.reason, wait}
	}
	l.full.Add(key, full)
	return nil
}

// A limitError is a request that comes too early.
type limitError struct {
	reason string
	wait   time.Duration
}

func (e *limitError) Error() string { return e.reason }

// proxies are the addresses that are believed what they say of a client.
type proxies []netip.Prefix

func (p proxies) trust(a netip.Addr) bool {
	for _, prefix := range p {
		if prefix.Contains(a) {
			return true
		}
	}
	return false
}

// client is who asks. What a trusted proxy says in X-Forwarded-For is read from the right: each proxy adds whom it
// saw, so that the first that is no trusted proxy is the client, and what stands left of it is the client's own
// invention. Where all are trusted it is the leftmost. It is not known where a trusted proxy names nobody that can be
// read; then the address is the proxy's.
func (p proxies) client(r *http.Request) (client netip.Addr, known bool) {
	peer, _ := netip.ParseAddrPort(r.RemoteAddr)
	client = plain(peer.Addr())
	if !p.trust(client) {
		return client, client.IsValid()
	}
	values := r.Header["X-Forwarded-For"]
	for i := len(values) - 1; i >= 0; i-- {
		for rest, more := values[i], true; more; {
			entry := rest
			if comma := strings.LastIndexByte(rest, ','); comma >= 0 {
				rest, entry = rest[:comma], rest[comma+1:]
			} else {
				more = false
			}
			entry = strings.Trim(entry, " \t")
			if entry == "" { // which lists may have
				continue
			}
			named, ok := parseClient(entry)
			if !ok {
				return plain(peer.Addr()), false
			}
			client, known = named, true
			if !p.trust(client) {
				return client, true
			}
		}
	}
	return client, known
}

// parseClient reads an address, with a port too, as some proxies add one.
func parseClient(entry string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(entry, "["), "]"))
	if err != nil {
		withPort, err := netip.ParseAddrPort(entry)
		return plain(withPort.Addr()), err == nil
	}
	return plain(a), true
}

// plain is the one spelling of an address: IPv4 as such, and no zone, which only the machine knows that it is of.
func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// errCrowded is what an attempt meets when too many ask the homeserver already.
var errCrowded = errors.New("too many registrations at once")

// slots are the attempts that ask the homeserver at once, and as many that wait for their turn, in order. Those
// without channels are without end.
type slots struct{ running, waiting chan struct{} }

func newSlots(most int) slots {
	if most == 0 {
		return slots{}
	}
	return slots{make(chan struct{}, most), make(chan struct{}, most)}
}

// take waits for a slot: not for long, and not once shutdown began.
func (s slots) take(ctx, stopping context.Context) (release func(), err error) {
	if s.running == nil {
		return func() {}, nil
	}
	release = func() { <-s.running }
	select {
	case s.running <- struct{}{}:
		return release, nil
	default:
	}
	select {
	case s.waiting <- struct{}{}:
		defer func() { <-s.waiting }()
	default:
		return nil, errCrowded
	}
	ctx, cancel := context.WithTimeout(ctx, slotTime)
	defer cancel()
	select {
	case s.running <- struct{}{}:
		if stopping.Err() != nil {
			release()
			return nil, errStopping
		}
		return release, nil
	case <-stopping.Done():
		return nil, errStopping
	case <-ctx.Done():
		return nil, errCrowded
	}
}
