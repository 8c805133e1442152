// probe.go owns the two questions asked at start: does the homeserver have the API that --matrixurl names, and what
// should the operator type if it does not; and does the homeserver reach this service with the right tokens.

package main

import (
	"context"
	"errors"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/ethereum/go-ethereum/log"
)

const (
	probeFirstPause = time.Second // after a probe without an answer; doubled each time
	probeLastPause  = time.Minute
	pingAfter       = 3 * time.Second // after the start: the homeserver may be starting at the same time
)

// probeHomeserver asks until the homeserver answers, and logs once what it found.
func probeHomeserver(ctx context.Context, c config.Config, h *homeserver.Client, chosen homeserver.Accounts) {
	for pause := probeFirstPause; ; pause = min(2*pause, probeLastPause) {
		state, err := chosen.Probe(ctx)
		if ctx.Err() != nil {
			return
		}
		if state != homeserver.Unknown {
			logProbe(ctx, c, h, chosen, state, err)
			return
		}
		if pause == probeFirstPause {
			log.Warn("The homeserver does not answer yet; asking again until it does", "matrixurl", c.MatrixURL, "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// probeStore logs when the store cannot be written: nodes are then refused until it can. A disk that hangs holds the start up for
// no longer than a check of health takes.
func probeStore(c config.Config, s store) {
	written := make(chan error, 1)
	go func() { written <- s.CheckWritable() }()
	var err error
	select {
	case err = <-written:
	case <-time.After(healthLimit):
		err = errNoResult
	}
	if err != nil {
		log.Warn("The store cannot be written: no node can register", "datapath", storeName(c.DataPath), "err", err, "fix", "make room on its disk, and see that it can be written")
	}
}

// logProbe logs in one line what the homeserver has, and what to type if that is not what --matrixurl names.
func logProbe(ctx context.Context, c config.Config, h *homeserver.Client, chosen homeserver.Accounts, found homeserver.State, disabled error) {
	server, _ := h.Software(ctx) // only to name it
	switch found {
	case homeserver.Present:
		logPresent(ctx, c, h, chosen, server)
	case homeserver.Disabled:
		log.Error(c.Way.Disabled+": no node can register", "matrixurl", c.MatrixURL, "homeserver", server, "fix", disabled)
	default:
		log.Error("The homeserver does not have the API of --matrixurl: no node can register", "matrixurl", c.MatrixURL, "homeserver", server, "fix", fixMissing(ctx, c, h, server))
	}
}

// logPresent logs whether nodes can register at a homeserver that has the way of --matrixurl.
func logPresent(ctx context.Context, c config.Config, h *homeserver.Client, chosen homeserver.Accounts, server homeserver.Software) {
	if err := h.CheckServerName(ctx); errors.Is(err, homeserver.ErrOtherServerName) {
		log.Error("The homeserver has another server_name than --matrixdomain: no node can register", "matrixurl", c.MatrixURL, "err", err)
		return
	}
	if c.Way.IsMAS {
		if issuer, told := h.LoginIssuer(ctx); told && issuer == "" {
			log.Error("The homeserver does not leave logins to Matrix Authentication Service: no node can log in", "matrixurl", c.MatrixURL, "homeserver", server, "fix", homeserver.MASNotInCharge)
			return
		}
	}
	switch fix, err := chosen.Refused(ctx); {
	case fix != "":
		log.Error("The homeserver does not accept what this service creates accounts with: no node can register", "matrixurl", c.MatrixURL, "homeserver", server, "fix", fix)
		return
	case err != nil && ctx.Err() == nil:
		log.Warn("It is unknown whether the homeserver accepts what this service creates accounts with", "matrixurl", c.MatrixURL, "err", err)
	}
	log.Info("The homeserver has the API of --matrixurl", "matrixurl", c.MatrixURL, "homeserver", server)
	if server.IsUntried() {
		log.Warn("This service was never tested with this homeserver", "homeserver", server, "note", homeserver.Untried)
	}
}

// fixMissing returns what to type if the homeserver does not have the way of --matrixurl: the flags of another way that it has,
// if there is one.
func fixMissing(ctx context.Context, c config.Config, h *homeserver.Client, server homeserver.Software) string {
	fix := c.Way.Missing(server)
	if issuer, _ := h.LoginIssuer(ctx); issuer != "" && !c.Way.IsMAS {
		fix = c.UseMAS(issuer)
	}
	for _, other := range c.OtherWays() {
		api, err := newAccounts(other, h)
		if err != nil {
			continue
		}
		if state, _ := api.Probe(ctx); state == homeserver.Present {
			fix = "use --matrixurl " + other.Origin + other.Way.Path
			if other.Way.TakesSecret {
				fix += " with --sharesecret-file, the file that holds its registration_shared_secret"
			} else {
				fix += " with the as_token of registration.yaml"
			}
		}
	}
	return fix
}

// pingHomeserver asks the homeserver to call this service until that succeeds, and logs each new reason why it does not. After
// a success the homeserver also sends the events that it had kept for this service.
func pingHomeserver(ctx context.Context, c config.Config, h *homeserver.Client) {
	if c.AppServiceID == "" || c.ASToken == "" {
		log.Debug("The homeserver is not asked to ping, which takes the id and the as_token of registration.yaml")
		return
	}
	said := ""
	for pause := pingAfter; ; pause = min(2*pause, probeLastPause) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		took, err := h.Ping(ctx, c.AppServiceID, c.ASToken, appServicePath)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			log.Info("The homeserver reaches this service", "took", took)
			return
		case errors.Is(err, homeserver.ErrNoPing):
			log.Debug("The homeserver has no ping, so it is unknown whether it reaches this service", "err", err)
			return
		case err.Error() != said:
			said = err.Error()
			log.Warn("The homeserver does not reach this service; asking again until it does", "err", err)
		}
	}
}
