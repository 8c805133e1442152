// attempts.go owns the last requests to register that the daemon remembers, each with a count. It holds no secret, and no name without a
// proof.

package main

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ethereum/go-ethereum/common/lru"
)

const (
	attemptsKept = 1000 // different ones, of those with a proof and of those without: neither kind displaces the other
	reasonLength = 300  // bytes of a reason
)

// An attempt is a request to register, and those like it.
type attempt struct {
	UserID  string     `json:"user_id,omitempty"` // where the proof held
	Client  netip.Addr `json:"client"`
	Outcome string     `json:"outcome"`
	Errcode string     `json:"errcode,omitempty"`
	Reason  string     `json:"reason,omitempty"`
	First   time.Time  `json:"first"`
	Last    time.Time  `json:"last"`
	Count   int        `json:"count"`
}

// attempts are those that a daemon remembers. A nil *attempts remembers none.
type attempts struct {
	mu               sync.Mutex
	proven, unproven lru.BasicLRU[attempt, attempt]
}

func newAttempts() *attempts {
	return &attempts{proven: lru.NewBasicLRU[attempt, attempt](attemptsKept), unproven: lru.NewBasicLRU[attempt, attempt](attemptsKept)}
}

// note remembers an attempt. Without a proof the reason is the fault alone, since the words of some faults quote the address.
func (s *attempts) note(client netip.Addr, n node, did outcome, err error) {
	if s == nil {
		return
	}
	a := attempt{UserID: n.UserID, Client: client, Outcome: string(did)}
	if err != nil {
		a.Outcome, a.Errcode, a.Reason = outcomeRefused, toMatrixError(err).Errcode, err.Error()
		if wrong, ok := errors.AsType[*requestError](err); ok && wrong.fault == faultSignature {
			a.Reason = "a signature is not by the key of the address, or over another server name"
		}
		a.Reason = strings.ToValidUTF8(a.Reason[:min(len(a.Reason), reasonLength)], "")
	}
	key, now := a, time.Now().UTC()
	s.mu.Lock()
	defer s.mu.Unlock()
	kept := &s.proven
	if a.UserID == "" {
		kept = &s.unproven
	}
	if before, ok := kept.Get(key); ok {
		a = before
	} else {
		a.First = now
	}
	a.Last = now
	a.Count++
	kept.Add(key, a)
}

// list returns those that are wanted, the last first.
func (s *attempts) list(wanted func(attempt) bool) (found []attempt) {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, kept := range []*lru.BasicLRU[attempt, attempt]{&s.proven, &s.unproven} {
		for _, key := range kept.Keys() {
			if a, ok := kept.Peek(key); ok && wanted(a) {
				found = append(found, a)
			}
		}
	}
	slices.SortFunc(found, func(a, b attempt) int { return b.Last.Compare(a.Last) })
	return found
}
