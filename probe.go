// probe.go owns the two questions asked at start: does the homeserver have the API that --matrixurl names, and what
// should the operator type if it does not; and does the homeserver reach this service with the right tokens.

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/redact"
	"github.com/ethereum/go-ethereum/log"
)

const (
	probeFirstPause = time.Second // after a probe without an answer; doubled each time
	probeLastPause  = time.Minute
	pingAfter       = 3 * time.Second  // of listening: beside a homeserver that starts at the same time
	pingTime        = 15 * time.Second // for the homeserver's own try to reach us

	pingPath = "/_matrix/client/v1/appservice/" // and the id

	authMetadataPath         = "/_matrix/client/v1/auth_metadata" // where logins are left to an issuer of tokens
	authMetadataUnstablePath = "/_matrix/client/unstable/org.matrix.msc2965/auth_metadata"
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
	// probe asks whether the API is there. Its error says why that is unknown, or how to switch it on.
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
			logProbe(ctx, c, state, err)
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
func logProbe(ctx context.Context, c config, found apiState, disabled error) {
	server, _ := c.homeserver().software(ctx) // only to name it
	if found == apiPresent {
		if err := c.homeserver().checkServerName(ctx); errors.Is(err, errOtherServerName) {
			log.Error("The homeserver has another server_name than --matrixdomain: no node can register", "matrixurl", c.matrixURL, "err", err)
			return
		}
		if c.apiPath == masUsersPath {
			if issuer, told := c.homeserver().loginIssuer(ctx); told && issuer == "" {
				log.Error("The homeserver does not leave logins to Matrix Authentication Service: no node can log in", "matrixurl", c.matrixURL, "homeserver", server, "fix", masNotInCharge)
				return
			}
		}
		log.Info("The homeserver has the API of --matrixurl", "matrixurl", c.matrixURL, "homeserver", server)
		return
	}
	if found == apiDisabled && c.apiPath == masUsersPath {
		log.Error("Matrix Authentication Service does not let this service make accounts: no node can register", "matrixurl", c.matrixURL, "homeserver", server, "fix", disabled)
		return
	}
	if found == apiDisabled {
		log.Error("The homeserver has shared-secret registration switched off: no node can register", "matrixurl", c.matrixURL, "homeserver", server, "fix", sharedSecretOff)
		return
	}

	issuer, _ := c.homeserver().loginIssuer(ctx)
	fix := createUserMissing
	switch {
	case c.apiPath == masUsersPath:
		fix = errMASMissing.Error()
	case issuer != "":
		fix = c.useMAS(issuer)
	case c.apiPath == sharedSecretPath && server.Name == dendrite:
		fix = sharedSecretOffDendrite
	case c.apiPath == sharedSecretPath && (server.Name == "" || isOldSynapse(server)):
		fix = sharedSecretMissing + "; " + createUserInstead
	case c.apiPath == sharedSecretPath:
		fix = sharedSecretMissing
	}
	for _, other := range c.otherAPIs() {
		if state, _ := other.api().probe(ctx); state == apiPresent {
			fix = "use --matrixurl " + other.origin + other.apiPath
			if other.apiPath == sharedSecretPath {
				fix += " with --sharesecret-file, the file that holds its registration_shared_secret"
			} else {
				fix += " with the as_token of registration.yaml"
			}
		}
	}
	log.Error("The homeserver does not have the API of --matrixurl: no node can register", "matrixurl", c.matrixURL, "homeserver", server, "fix", fix)
}

// otherAPIs are those of the homeserver itself that --matrixurl does not name.
func (c config) otherAPIs() []config {
	var others []config
	for _, path := range []string{createUserPath, sharedSecretPath} {
		if other := c; path != c.apiPath {
			other.apiOrigin, other.apiPath = "", path
			others = append(others, other)
		}
	}
	return others
}

// masNotInCharge is for the operator whose homeserver has passwords of its own.
const masNotInCharge = "write matrix_authentication_service: {enabled: true, endpoint: …, secret: …} into homeserver.yaml and restart it; or, without Matrix Authentication Service, use --matrixurl of the homeserver"

// useMAS is what to type where Matrix Authentication Service has taken the place of the homeserver's own registration.
func (c config) useMAS(issuer string) string {
	return "Matrix Authentication Service is in charge (" + issuer + "): use --matrixurl http://127.0.0.1:8081" + masUsersPath + ", with the port of its own listener for adminapi and oauth, --homeserver-url " + c.origin + ", --mas-client-id and --mas-client-secret-file"
}

// loginIssuer asks who logs users in: an issuer of tokens, which is Matrix Authentication Service, or the homeserver
// itself, then "". Told is false where the answer tells neither.
func (h *homeserver) loginIssuer(ctx context.Context) (issuer string, told bool) {
	for _, path := range []string{authMetadataPath, authMetadataUnstablePath} {
		a, err := h.call(ctx, lookUpTime, http.MethodGet, path, "", nil)
		if err != nil || a.tellsNothing() || a.cut != nil {
			return "", false
		}
		var said struct{ Issuer string }
		if a.status == http.StatusOK && json.Unmarshal(a.body, &said) == nil && said.Issuer != "" {
			return redact.Line(said.Issuer, h.secrets...), true
		}
		told = a.status == http.StatusNotFound && a.errcode == errcodeUnrecognized || a.status == http.StatusBadRequest && a.errcode == errcodeUnrecognized
	}
	return "", told
}

// pingHomeserver has the homeserver call this service, until that succeeds, and logs each new reason why it does
// not. A success also makes the homeserver send what it held back.
func pingHomeserver(ctx context.Context, c config) {
	if c.appServiceID == "" || c.asToken == "" {
		log.Debug("The homeserver is not asked to ping: that needs the id and the as_token of registration.yaml")
		return
	}
	h := c.homeserver()
	said := ""
	for pause := pingAfter; ; pause = min(2*pause, probeLastPause) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		took, err := h.ping(ctx, c.appServiceID, c.asToken)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			log.Info("The homeserver reaches this service", "took", took)
			return
		case errors.Is(err, errNoPing):
			log.Debug("The homeserver does not have ping, which tells whether it reaches this service", "err", err)
			return
		case err.Error() != said:
			said = err.Error()
			log.Warn("The homeserver does not reach this service; asking again until it does", "err", err)
		}
	}
}

var errNoPing = errors.New("the homeserver has no ping")

// ping asks the homeserver to call this service, and tells how long that took it, or exactly what is wrong.
func (h *homeserver) ping(ctx context.Context, id, asToken string) (time.Duration, error) {
	a, err := h.call(ctx, pingTime, http.MethodPost, pingPath+url.PathEscape(id)+"/ping", asToken, map[string]string{"transaction_id": "start"})
	if err != nil {
		return 0, h.notReached(err)
	}
	var said struct {
		DurationMS float64 `json:"duration_ms"`
		Status     int     `json:"status"` // with M_BAD_STATUS: what the homeserver was answered at our url
	}
	json.Unmarshal(a.body, &said) // an answer of another form has no duration and no status
	switch {
	case a.status == http.StatusOK && a.cut == nil && isObject(a.body):
		return time.Duration(said.DurationMS * float64(time.Millisecond)), nil
	case a.status == http.StatusUnauthorized:
		return 0, fmt.Errorf("it does not know the as_token: list this %s in its app_service_config_files and restart it", registrationFile)
	case a.status == http.StatusForbidden:
		return 0, fmt.Errorf("it knows the as_token under another id than %s: restart it, so that it loads this %s", id, registrationFile)
	case a.status/100 == 4 && a.unknownPath():
		return 0, fmt.Errorf("%w: it answers %d", errNoPing, a.status)
	case a.errcode == "M_BAD_STATUS" && (said.Status == http.StatusUnauthorized || said.Status == http.StatusForbidden):
		return 0, fmt.Errorf("it comes with another hs_token than this service has: restart both with the same %s", registrationFile)
	case a.errcode == "M_BAD_STATUS":
		return 0, fmt.Errorf("at the url of %s it was answered %d: is another program there, or is the url without %s?", registrationFile, said.Status, appServicePath)
	case a.errcode == "M_CONNECTION_FAILED", a.errcode == "M_CONNECTION_TIMEOUT", a.errcode == "M_URL_NOT_SET":
		return 0, fmt.Errorf("it cannot reach the url of %s (%s): that must be where this service listens", registrationFile, a.errcode)
	}
	return 0, h.failure(a, "")
}
