// health.go owns what a supervisor asks: whether the daemon lives, which systemd is told unasked, and whether it could register a node
// now.

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
	"github.com/SmartMeshFoundation/matrix-regservice/internal/recent"
	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/ethereum/go-ethereum/log"
)

const (
	storeHealthTime      = 2 * time.Second // how long a check of the store counts: each writes to the disk
	homeserverHealthTime = 5 * time.Second
	chainHealthTime      = 15 * time.Second // providers count calls
	healthLimit          = 2 * time.Second  // for a check
)

// A health answers whether nodes can be registered.
type health struct {
	stopping   context.Context
	store      healthCheck
	homeserver healthCheck
	chain      healthCheck

	mu    sync.Mutex
	wrong string // what was wrong the last time, so that the log has each change once
}

func newHealth(stopping context.Context, c service, s store) *health {
	return &health{
		stopping:   stopping,
		store:      healthCheck{lasts: storeHealthTime, check: func(context.Context) error { return s.CheckWritable() }},
		homeserver: healthCheck{lasts: homeserverHealthTime, check: func(ctx context.Context) error { return c.accounts.Answers(ctx) }},
		chain:      healthCheck{lasts: chainHealthTime, check: c.admission.Ready},
	}
}

// live answers GET /livez.
func (h *health) live(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") }

// keepWatchdog tells systemd twice in each WatchdogSec= that this process answers, until the function that it returns is called. It
// asks the handler itself, in memory, for a path that nobody has: an answer touches neither the disk nor the homeserver, which a
// restart would not fix. It does nothing unless systemd asks for it.
func keepWatchdog(handler http.Handler) (stop func()) {
	within, err := daemon.SdWatchdogEnabled(false)
	if err != nil { // its text is a parser's
		log.Warn("WATCHDOG_USEC or WATCHDOG_PID is no number: systemd is not told that this process lives")
	}
	if within <= 0 {
		return func() {}
	}
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		ticks := time.NewTicker(within / 2)
		defer ticks.Stop()
		for ctx.Err() == nil {
			r, _ := http.NewRequestWithContext(ctx, http.MethodGet, appServicePath, http.NoBody)
			handler.ServeHTTP(discardedAnswer{http.Header{}}, r)
			daemon.SdNotify(false, daemon.SdNotifyWatchdog)
			select {
			case <-ctx.Done():
			case <-ticks.C:
			}
		}
	}()
	return stop
}

// A discardedAnswer is an answer that nobody reads.
type discardedAnswer struct{ header http.Header }

func (a discardedAnswer) Header() http.Header         { return a.header }
func (a discardedAnswer) Write(p []byte) (int, error) { return len(p), nil }
func (a discardedAnswer) WriteHeader(int)             {}

// What keeps nodes from registering.
const (
	unreadyStopping   = "service"
	unreadyStore      = "store"
	unreadyHomeserver = "homeserver"
	unreadyChain      = "chain"
)

// storeUnwritable is the reason of unreadyStore.
const storeUnwritable = "the store cannot be written"

// An unready is a reason why no node could register now. The cause is for the operator alone.
type unready struct {
	Of     string `json:"of"`
	Reason string `json:"reason"`
	Cause  string `json:"cause,omitempty"`
}

// reasons returns why no node could register now, and the causes for the log.
func (h *health) reasons(ctx context.Context) (wrong []unready, causes []error) {
	if h.stopping.Err() != nil {
		wrong = append(wrong, unready{Of: unreadyStopping, Reason: errStopping.Error()})
	}
	add := func(of, reason string, err error) {
		wrong, causes = append(wrong, unready{of, reason, err.Error()}), append(causes, err)
	}
	if err := h.store.result(ctx); err != nil {
		add(unreadyStore, storeUnwritable, err)
	}
	if err := h.homeserver.result(ctx); err != nil {
		reason := "the homeserver does not answer"
		if failed := (*homeserver.Error)(nil); errors.As(err, &failed) {
			reason = failed.Reason
		}
		add(unreadyHomeserver, reason, err)
	}
	if err := h.chain.result(ctx); err != nil {
		add(unreadyChain, "the Ethereum node returns no balances", err)
	}
	return wrong, causes
}

// ready answers GET /readyz: 200 if a node could register, else 503 with a line for each reason why not.
func (h *health) ready(w http.ResponseWriter, r *http.Request) {
	wrong, causes := h.reasons(r.Context())
	if r.Context().Err() != nil { // the supervisor did not wait, so there is no result
		return
	}
	var lines []string
	for _, its := range wrong {
		lines = append(lines, its.Reason)
	}
	h.note(strings.Join(lines, "; "), errors.Join(causes...))
	if len(lines) > 0 {
		http.Error(w, strings.Join(lines, "\n"), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// note logs what is wrong, each time that it changes.
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

// A healthCheck is a check whose result is shared: one caller at a time makes it, and the others wait.
type healthCheck struct {
	check  func(context.Context) error
	lasts  time.Duration // how long a result counts, a failure too
	answer recent.Answer[struct{}]
}

var errNoResult = errors.New("no answer in time")

// result returns what the check found, checking again if that is too long ago. It does not wait longer than the limit: a
// disk may hang for ever.
func (h *healthCheck) result(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, healthLimit+healthLimit/10, errNoResult) // a check that keeps its own limit tells more
	defer cancel()
	_, err := h.answer.Get(ctx, func(ctx context.Context) (struct{}, time.Duration, error) {
		ctx, cancel := context.WithTimeout(ctx, healthLimit)
		defer cancel()
		return struct{}{}, h.lasts, h.check(ctx)
	})
	return err
}
