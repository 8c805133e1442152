// reconcile.go owns the registrations whose end nobody learned: those left pending are settled without the node.

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ethereum/go-ethereum/log"
)

const (
	settlePeriod = 30 * time.Second
	settleAfter  = time.Minute // no attempt that began before runs any more
	settleAtMost = 100         // records a round, so that one round cannot outlast the next by much

	lineSettled = "Settled a pending registration"
)

// settleAll settles pending records at once and then every so often, until shutdown begins.
func (r *registrar) settleAll() {
	rounds := time.NewTicker(settlePeriod)
	defer rounds.Stop()
	for {
		if err := r.settleRound(r.stopping); err != nil && r.stopping.Err() == nil {
			log.Warn("Pending registrations could not be settled; trying again", "in", settlePeriod, "err", err)
		}
		select {
		case <-r.stopping.Done():
			return
		case <-rounds.C:
		}
	}
}

// settleRound settles records until there is none left, the round's share is done, or the homeserver does not tell.
func (r *registrar) settleRound(ctx context.Context) error {
	for range settleAtMost {
		held, pending, err := r.store.ClaimPending(ctx, time.Now().Add(-settleAfter))
		if errors.Is(err, errNoRecord) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: %w", errStore, err)
		}
		if err := r.settle(ctx, held, pending); err != nil {
			return err
		}
	}
	return nil
}

// settle asks the homeserver for the account of a pending record, and keeps the record where it does not tell.
func (r *registrar) settle(ctx context.Context, held claim, pending record) (err error) {
	defer held.Release()
	settled := "registered"
	switch _, err := r.accounts.displayName(ctx, pending.UserID); {
	case err == nil && r.accounts.inSteps(): // only the node has what may be left to do
		return nil
	case err == nil:
		pending.State, pending.Updated = stateRegistered, time.Now().UTC()
		if err := held.Save(pending); err != nil {
			return fmt.Errorf("%w: %w", errStore, err)
		}
	case errors.Is(err, errNoUser):
		settled = "dropped"
		if err := held.Drop(); err != nil {
			return fmt.Errorf("%w: %w", errStore, err)
		}
	default:
		return err
	}
	log.Info(lineSettled, "outcome", settled, "user_id", pending.UserID)
	return nil
}
