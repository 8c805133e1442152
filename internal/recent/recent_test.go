// recent_test.go owns the tests of remembered answers: how long one lasts, and one call for all that wait.

package recent

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errAsked = errors.New("the answer is an error")

// A counter counts its asks: the answers are 1, 2 and so on.
type counter struct {
	takes, lasts time.Duration
	err          error
	asks         int
}

func (c *counter) ask(context.Context) (int, time.Duration, error) {
	time.Sleep(c.takes)
	c.asks++ // never by two at once, or the race detector says so
	return c.asks, c.lasts, c.err
}

// An answer counts from when it came, for as long as the ask said, an error too. An answer that lasts for no time is asked for
// each time.
func TestAnswerLasts(t *testing.T) {
	for name, test := range map[string]struct {
		counter
		want []int // the answers at 0, 1, 4, 5, 6 and 11 seconds after the first one came
	}{
		"for a while":     {counter{lasts: 5 * time.Second}, []int{1, 1, 1, 2, 2, 3}},
		"an error":        {counter{lasts: 5 * time.Second, err: errAsked}, []int{1, 1, 1, 2, 2, 3}},
		"for no time":     {counter{}, []int{1, 2, 3, 4, 5, 6}},
		"an error, never": {counter{err: errAsked}, []int{1, 2, 3, 4, 5, 6}},
		"a slow one":      {counter{takes: 20 * time.Second, lasts: 5 * time.Second}, []int{1, 1, 1, 2, 2, 2}}, // which came at 25
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var a Answer[int]
				c := test.counter
				get := func() int {
					got, err := a.Get(t.Context(), c.ask)
					if !errors.Is(err, test.err) || (err == nil) != (test.err == nil) {
						t.Fatalf("got %v, want %v", err, test.err)
					}
					return got
				}
				got := []int{get()}
				first := time.Now()
				for _, at := range []time.Duration{1, 4, 5, 6, 11} {
					time.Sleep(time.Until(first.Add(at * time.Second)))
					got = append(got, get())
				}
				if !slices.Equal(got, test.want) {
					t.Errorf("got %v, want %v", got, test.want)
				}
			})
		})
	}
}

// However many callers come at once, one ask is made, and all get its answer, an error that does not last too.
func TestOneAskForAll(t *testing.T) {
	for name, c := range map[string]counter{
		"kept":  {takes: time.Second, lasts: time.Minute},
		"error": {takes: time.Second, err: errAsked},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var a Answer[int]
				var callers sync.WaitGroup
				for i := range 100 {
					callers.Go(func() {
						time.Sleep(time.Duration(i) * time.Millisecond)
						if got, err := a.Get(t.Context(), c.ask); got != 1 || !errors.Is(err, c.err) {
							t.Errorf("got %d, %v", got, err)
						}
					})
				}
				callers.Wait()
				if c.asks != 1 {
					t.Errorf("%d asks, want 1", c.asks)
				}
			})
		})
	}
}

// A caller waits for as long as its context allows. The call goes on for the others, even if its first caller leaves.
func TestCallerLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a Answer[int]
		c := counter{takes: 10 * time.Second, lasts: time.Minute}
		hasty, cancel := context.WithTimeoutCause(t.Context(), time.Second, errAsked)
		defer cancel()
		if _, err := a.Get(hasty, c.ask); err != errAsked {
			t.Errorf("got %v, want the cause of the context", err)
		}
		if got, err := a.Get(t.Context(), c.ask); got != 1 || err != nil {
			t.Errorf("who waits: got %d, %v", got, err)
		}
		if got, err := a.Get(hasty, c.ask); got != 1 || err != nil {
			t.Errorf("whose context has ended, where there is an answer: got %d, %v", got, err)
		}
	})
}

// A stale answer is asked for anew, and only that: of many callers that were all refused with it, the second must not drop
// the answer that the first got.
func TestForget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a Answer[int]
		c := counter{lasts: time.Minute}
		refused := func(answer int) bool { return answer == 1 }
		a.Forget(refused)
		for i, want := range []int{1, 2, 2, 2} {
			if got, err := a.Get(t.Context(), c.ask); got != want || err != nil {
				t.Errorf("%d: got %d, %v, want %d", i, got, err, want)
			}
			a.Forget(refused)
		}
		a.Forget(func(int) bool { return true })
		if got, err := a.Get(t.Context(), c.ask); got != 3 || err != nil {
			t.Errorf("after it was dropped: got %d, %v, want 3", got, err)
		}
		time.Sleep(2 * time.Minute)
		a.Forget(func(int) bool { t.Error("asked about an answer that no longer counts"); return false })
	})
}

// A panic of an ask is one of its callers, where it can be recovered, and no answer.
func TestAskPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a Answer[int]
		c := counter{lasts: time.Minute}
		func() {
			defer func() {
				if got := recover(); got != errAsked {
					t.Errorf("recovered %v, want %v", got, errAsked)
				}
			}()
			a.Get(t.Context(), func(context.Context) (int, time.Duration, error) { panic(errAsked) })
		}()
		if got, err := a.Get(t.Context(), c.ask); got != 1 || err != nil {
			t.Errorf("afterwards: got %d, %v", got, err)
		}
	})
}

// What was learned in passing counts like an answer that was asked for, and an error is not known.
func TestLearn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a Answer[int]
		if _, ok := a.Known(); ok {
			t.Error("known before anything was learned")
		}
		a.Learn(1, time.Minute)
		got, err := a.Get(t.Context(), func(context.Context) (int, time.Duration, error) { return 2, time.Minute, nil })
		if known, ok := a.Known(); !ok || known != 1 || got != 1 || err != nil {
			t.Errorf("got %d, %v and know %d, %v", got, err, known, ok)
		}
		time.Sleep(time.Minute)
		if _, ok := a.Known(); ok {
			t.Error("known after its time")
		}
		a.Get(t.Context(), func(context.Context) (int, time.Duration, error) { return 2, time.Minute, errors.New("x") })
		if _, ok := a.Known(); ok {
			t.Error("an error is known")
		}
	})
}
