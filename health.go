// health.go owns what a supervisor asks: whether the daemon lives, and whether it could register a node now.

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/ethereum/go-ethereum/log"
)

const (
	storeHealthTime      = 2 * time.Second // for how long a look at the store counts: each writes to the disk
	homeserverHealthTime = 5 * time.Second
	chainHealthTime      = 15 * time.Second // providers count calls
	healthLimit          = 2 * time.Second  // for a look
)

// A health tells what is fit.
type health struct {
	stopping   context.Context
	store      lookedAt
	homeserver lookedAt
	chain      lookedAt

	mu    sync.Mutex
	wrong string // what was last found wrong, so that the log has each change once
}

func newHealth(stopping context.Context, c service, s store) *health {
	return &health{
		stopping:   stopping,
		store:      lookedAt{lasts: storeHealthTime, look: func(context.Context) error { return s.CheckWritable() }},
		homeserver: lookedAt{lasts: homeserverHealthTime, look: func(ctx context.Context) error { return c.accounts.Answers(ctx) }},
		chain:      lookedAt{lasts: chainHealthTime, look: c.admission.Ready},
	}
}

// live is GET /livez: whoever reads this was answered.
func (h *health) live(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") }

// ready is GET /readyz: 200 where a node could register, 503 with a line for each thing that keeps it from that.
func (h *health) ready(w http.ResponseWriter, r *http.Request) {
	var wrong []string
	var causes []error
	if h.stopping.Err() != nil {
		wrong = append(wrong, errStopping.Error())
	}
	if err := h.store.at(r.Context()); err != nil {
		wrong, causes = append(wrong, "the store cannot be written"), append(causes, err)
	}
	if err := h.homeserver.at(r.Context()); err != nil {
		reason := "the homeserver does not answer"
		if failed := (*homeserver.Error)(nil); errors.As(err, &failed) {
			reason = failed.Reason
		}
		wrong, causes = append(wrong, reason), append(causes, err)
	}
	if err := h.chain.at(r.Context()); err != nil {
		wrong, causes = append(wrong, "the Ethereum node does not tell balances"), append(causes, err)
	}
	if r.Context().Err() != nil { // whoever asked did not wait: nothing was learned
		return
	}
	h.note(strings.Join(wrong, "; "), errors.Join(causes...))
	if len(wrong) > 0 {
		http.Error(w, strings.Join(wrong, "\n"), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// note logs what is wrong when that changes.
func (h *health) note(wrong string, cause error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	before := h.wrong
	h.wrong = wrong
	switch {
	case wrong == before:
	case wrong == "":
		log.Info("Ready again")
	default:
		log.Warn("Not ready to register nodes", "reason", wrong, "err", cause)
	}
}

// A lookedAt is something that is looked at now and then, by one at a time, however many ask.
type lookedAt struct {
	look  func(context.Context) error
	lasts time.Duration

	mu      sync.Mutex
	looking chan struct{} // closed when the look under way ends; nil where none is
	last    time.Time
	err     error
}

var errLookHangs = errors.New("no answer in time")

// at tells what was found, looking again if that is too long ago. It does not wait for a look for longer than the
// limit: a disk may hang for ever.
func (l *lookedAt) at(ctx context.Context) error {
	l.mu.Lock()
	if l.looking == nil && time.Since(l.last) >= l.lasts {
		l.looking = make(chan struct{})
		go l.lookNow(l.looking)
	}
	looking := l.looking
	l.mu.Unlock()
	if looking != nil {
		ctx, cancel := context.WithTimeout(ctx, healthLimit+healthLimit/10) // a look that keeps its own limit tells more
		defer cancel()
		select {
		case <-looking:
		case <-ctx.Done():
			return errLookHangs
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

func (l *lookedAt) lookNow(done chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), healthLimit)
	defer cancel()
	err := l.look(ctx)
	l.mu.Lock()
	l.err, l.last, l.looking = err, time.Now(), nil
	l.mu.Unlock()
	close(done)
}
