// ping.go owns what only the homeserver knows of what is beside it: whether it reaches this service with the right tokens,
// and who logs its users in.

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
)

const (
	pingTime = 15 * time.Second                 // for the homeserver's own try to reach us
	pingPath = "/_matrix/client/v1/appservice/" // and the id

	authMetadataPath         = "/_matrix/client/v1/auth_metadata" // where logins are left to an issuer of tokens
	authMetadataUnstablePath = "/_matrix/client/unstable/org.matrix.msc2965/auth_metadata"

	registrationName = "registration.yaml" // what the application service's registration is called
)

// loginIssuer asks who logs users in: an issuer of tokens, which is Matrix Authentication Service, or the homeserver
// itself, then "". Told is false where the answer tells neither.
func (h *homeserver) loginIssuer(ctx context.Context) (issuer string, told bool) {
	for _, path := range []string{authMetadataPath, authMetadataUnstablePath} {
		a, err := h.call(ctx, request{within: lookUpTime, method: http.MethodGet, path: path})
		if err != nil || a.tellsNothing() || a.cut != nil {
			return "", false
		}
		var said struct{ Issuer string }
		if a.status == http.StatusOK && json.Unmarshal(a.body, &said) == nil && said.Issuer != "" {
			return redact.Line(said.Issuer, h.secrets...), true
		}
		told = a.status == http.StatusNotFound && a.errcode == codeUnrecognized || a.status == http.StatusBadRequest && a.errcode == codeUnrecognized
	}
	return "", told
}

var errNoPing = errors.New("the homeserver has no ping")

// ping asks the homeserver to call this service, and tells how long that took it, or exactly what is wrong. The prefix is
// the path that its url ends with.
func (h *homeserver) ping(ctx context.Context, id, asToken, prefix string) (time.Duration, error) {
	a, err := h.call(ctx, request{name: "ping", within: pingTime, method: http.MethodPost, path: pingPath + url.PathEscape(id) + "/ping", token: asToken, body: map[string]string{"transaction_id": "start"}})
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
		return 0, fmt.Errorf("it does not know the as_token: list this %s in its app_service_config_files and restart it", registrationName)
	case a.status == http.StatusForbidden:
		return 0, fmt.Errorf("it knows the as_token under another id than %s: restart it, so that it loads this %s", id, registrationName)
	case a.status/100 == 4 && a.unknownPath():
		return 0, fmt.Errorf("%w: it answers %d", errNoPing, a.status)
	case a.errcode == "M_BAD_STATUS" && (said.Status == http.StatusUnauthorized || said.Status == http.StatusForbidden):
		return 0, fmt.Errorf("it comes with another hs_token than this service has: restart both with the same %s", registrationName)
	case a.errcode == "M_BAD_STATUS":
		return 0, fmt.Errorf("at the url of %s it was answered %d: is another program there, or is the url without %s?", registrationName, said.Status, prefix)
	case a.errcode == "M_CONNECTION_FAILED", a.errcode == "M_CONNECTION_TIMEOUT", a.errcode == "M_URL_NOT_SET":
		return 0, fmt.Errorf("it cannot reach the url of %s (%s): that must be where this service listens", registrationName, a.errcode)
	}
	return 0, h.failure(a, "")
}
