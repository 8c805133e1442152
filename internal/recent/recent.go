// Package recent owns answers that are kept for a while. It does not know what is asked, nor whom.
package recent

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

// An Answer is the answer to one question. Callers that need it at the same time share one call, and later callers share the
// answer for as long as it counts. The zero value has no answer yet.
//
// Two more things of this program are remembered, and are not an Answer. The registrar's profile look-ups are many, one for
// each address; they are bounded, and when there is no room no more are made, since each costs the homeserver a call. The
// balances on chain are many too; there the one that was unused for longest makes room, and callers that wait are counted.
type Answer[T any] struct {
	asking singleflight.Group

	mu    sync.Mutex
	value T
	err   error
	until time.Time
}

// An Ask asks the question. It also says for how long the answer counts, from when it returns; an answer that is an error can
// count as well. 0 is for an answer that only those callers get who wait for it.
//
// Its context never ends, since the caller that asked first may leave while others wait: the Ask sets a time limit itself.
type Ask[T any] func(context.Context) (value T, lasts time.Duration, err error)

// result is the end of an Ask.
type result[T any] struct {
	value    T
	err      error
	panicked any
}

// Get returns the answer. It asks where there is none that counts, unless another caller is asking. When the context ends it
// returns the cause of that; the Ask goes on.
func (a *Answer[T]) Get(ctx context.Context, ask Ask[T]) (T, error) {
	if kept, ok := a.kept(); ok {
		return kept.value, kept.err
	}
	select {
	case shared := <-a.asking.DoChan("", func() (any, error) { return a.ask(ask), nil }):
		got := shared.Val.(result[T])
		if got.panicked != nil {
			panic(got.panicked) // where somebody recovers: a goroutine of its own would end the program
		}
		return got.value, got.err
	case <-ctx.Done():
		var none T
		return none, context.Cause(ctx)
	}
}

// Known returns the answer if one counts, and asks nobody.
func (a *Answer[T]) Known() (value T, ok bool) {
	kept, ok := a.kept()
	if !ok || kept.err != nil {
		return value, false
	}
	return kept.value, true
}

// Learn keeps an answer that was told without being asked for.
func (a *Answer[T]) Learn(value T, lasts time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.value, a.err, a.until = value, nil, time.Now().Add(lasts)
}

// Forget drops the answer if stale reports that it must not be used any more. It leaves an Ask alone that is under way.
func (a *Answer[T]) Forget(stale func(T) bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.counts() && stale(a.value) {
		a.until = time.Time{}
	}
}

// ask asks and keeps the answer.
func (a *Answer[T]) ask(ask Ask[T]) (got result[T]) {
	if kept, ok := a.kept(); ok { // by the Ask just before this one
		return kept
	}
	defer func() {
		if broken := recover(); broken != nil {
			got = result[T]{panicked: broken}
		}
	}()
	value, lasts, err := ask(context.Background())
	a.mu.Lock()
	defer a.mu.Unlock()
	a.value, a.err, a.until = value, err, time.Now().Add(lasts)
	return result[T]{value: value, err: err}
}

// kept returns the answer if it counts.
func (a *Answer[T]) kept() (kept result[T], ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return result[T]{value: a.value, err: a.err}, a.counts()
}

func (a *Answer[T]) counts() bool { return time.Now().Before(a.until) }
