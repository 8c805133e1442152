// probe.go owns the question asked at start: does the homeserver have the API that --matrixurl names, and what
// should the operator type if it does not.

package main

import (
	"context"
	"time"

	"github.com/ethereum/go-ethereum/log"
)

const (
	probeFirstPause = time.Second // after a probe without an answer; doubled each time
	probeLastPause  = time.Minute
)

// An apiState is what a probe found of one API.
type apiState int

const (
	apiUnknown  apiState = iota // no answer that tells
	apiMissing                  // the homeserver, or a proxy before it, does not know the path
	apiDisabled                 // it is there and switched off
	apiPresent
)

// An api is one way of creating accounts.
type api interface {
	accounts
	probe(ctx context.Context) (apiState, error)
}

// probeHomeserver asks until the homeserver answers, and logs once what it found.
func probeHomeserver(ctx context.Context, c config) {
	chosen := c.api()
	for pause := probeFirstPause; ; pause = min(2*pause, probeLastPause) {
		state, err := chosen.probe(ctx)
		if ctx.Err() != nil {
			return
		}
		if state != apiUnknown {
			logProbe(ctx, c, state)
			return
		}
		if pause == probeFirstPause {
			log.Warn("The homeserver does not answer yet; asking again until it does", "matrixurl", c.matrixURL, "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// logProbe says in one line what the homeserver has, and what to type where that is not what --matrixurl names.
func logProbe(ctx context.Context, c config, found apiState) {
	server, _ := c.homeserver().software(ctx) // only to name it
	if found == apiPresent {
		log.Info("The homeserver has the API of --matrixurl", "matrixurl", c.matrixURL, "homeserver", server)
		return
	}
	if found == apiDisabled {
		log.Error("The homeserver has shared-secret registration switched off: no node can register", "matrixurl", c.matrixURL, "homeserver", server, "fix", sharedSecretOff)
		return
	}

	fix := createUserMissing
	if c.apiPath == sharedSecretPath {
		fix = sharedSecretMissing
	}
	other := c
	other.apiPath = createUserPath
	if c.apiPath == createUserPath {
		other.apiPath = sharedSecretPath
	}
	if state, _ := other.api().probe(ctx); state == apiPresent {
		fix = "use --matrixurl " + c.origin + other.apiPath
		if other.apiPath == sharedSecretPath {
			fix += " with --sharesecret-file, the file that holds its registration_shared_secret"
		} else {
			fix += " with the as_token of registration.yaml"
		}
	}
	log.Error("The homeserver does not have the API of --matrixurl: no node can register", "matrixurl", c.matrixURL, "homeserver", server, "fix", fix)
}
