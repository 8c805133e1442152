// slots.go owns how many attempts run at once.

package limit

import (
	"context"
	"errors"
	"time"
)

// slotTime is how long an attempt waits for a slot, of the time that it has in all.
const slotTime = 2 * time.Second

// ErrCrowded refuses an attempt if too many run already.
var ErrCrowded = errors.New("too many registrations at once")

// Slots limit the attempts that run at once. As many more wait for their turn, in order. The zero value has no limit.
type Slots struct{ running, waiting chan struct{} }

// NewSlots returns at most so many slots; 0 is no limit.
func NewSlots(most int) Slots {
	if most == 0 {
		return Slots{}
	}
	return Slots{make(chan struct{}, most), make(chan struct{}, most)}
}

// Take waits for a slot, for a short time, and returns the function that releases it. It returns ErrCrowded if there is none. Once
// stopping has ended, attempts that wait get no slot but the cause of that.
func (s Slots) Take(ctx, stopping context.Context) (release func(), err error) {
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
		return nil, ErrCrowded
	}
	ctx, cancel := context.WithTimeout(ctx, slotTime)
	defer cancel()
	select {
	case s.running <- struct{}{}:
		if stopping.Err() != nil {
			release()
			return nil, context.Cause(stopping)
		}
		return release, nil
	case <-stopping.Done():
		return nil, context.Cause(stopping)
	case <-ctx.Done():
		return nil, ErrCrowded
	}
}
