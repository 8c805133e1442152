// ping.go owns two questions to the homeserver: whether it reaches this service with the right tokens, and who logs its users in.

package homeserver

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
	pingTime = 15 * time.Second                 // the homeserver tries to reach this service meanwhile
	pingPath = "/_matrix/client/v1/appservice/" // and the id

	authMetadataPath         = "/_matrix/client/v1/auth_metadata" // where logins are left to an issuer of tokens
	authMetadataUnstablePath = "/_matrix/client/unstable/org.matrix.msc2965/auth_metadata"

	registrationName = "registration.yaml" // what the application service's registration is called
)

// LoginIssuer asks who logs users in: an issuer of tokens, which is Matrix Authentication Service, or "" for the homeserver
// itself. Told is false if the answer tells neither.
func (h *Client) LoginIssuer(ctx context.Context) (issuer string, told bool) {
	for _, path := range []string{authMetadataPath, authMetadataUnstablePath} {
		a, err := h.Call(ctx, Request{Within: ReadTime, Method: http.MethodGet, Path: path})
		if err != nil || a.TellsNothing() || a.Cut != nil {
			return "", false
		}
		var said struct{ Issuer string }
		if a.Status == http.StatusOK && json.Unmarshal(a.Body, &said) == nil && said.Issuer != "" {
			return redact.Line(said.Issuer, h.secrets...), true
		}
		told = a.Status == http.StatusNotFound && a.Errcode == codeUnrecognized || a.Status == http.StatusBadRequest && a.Errcode == codeUnrecognized
	}
	return "", told
}

// ErrNoPing says that the homeserver cannot be asked to call this service.
var ErrNoPing = errors.New("the homeserver has no ping")

// Ping asks the homeserver to call this service. It returns how long that took, or exactly what is wrong. The prefix is the path
// that the url in registration.yaml ends with.
func (h *Client) Ping(ctx context.Context, id, asToken, prefix string) (time.Duration, error) {
	a, err := h.Call(ctx, Request{Name: "ping", Within: pingTime, Method: http.MethodPost, Path: pingPath + url.PathEscape(id) + "/ping", Token: asToken, Body: map[string]string{"transaction_id": "start"}})
	if err != nil {
		return 0, h.NotReached(err)
	}
	var said struct {
		DurationMS float64 `json:"duration_ms"`
		Status     int     `json:"status"` // with M_BAD_STATUS: what the homeserver was answered at our url
	}
	json.Unmarshal(a.Body, &said) // an answer of another form has no duration and no status
	switch {
	case a.Status == http.StatusOK && a.Cut == nil && IsObject(a.Body):
		return time.Duration(said.DurationMS * float64(time.Millisecond)), nil
	case a.Status == http.StatusUnauthorized:
		return 0, fmt.Errorf("it does not know the as_token: list this %s in its app_service_config_files and restart it", registrationName)
	case a.Status == http.StatusForbidden:
		return 0, fmt.Errorf("it knows the as_token under another id than %s: restart it, so that it loads this %s", id, registrationName)
	case a.Status/100 == 4 && a.UnknownPath():
		return 0, fmt.Errorf("%w: it answers %d", ErrNoPing, a.Status)
	case a.Errcode == "M_BAD_STATUS" && (said.Status == http.StatusUnauthorized || said.Status == http.StatusForbidden):
		return 0, fmt.Errorf("it comes with another hs_token than this service has: restart both with the same %s", registrationName)
	case a.Errcode == "M_BAD_STATUS":
		return 0, fmt.Errorf("at the url of %s it was answered %d: is another program there, or is the url without %s?", registrationName, said.Status, prefix)
	case a.Errcode == "M_CONNECTION_FAILED", a.Errcode == "M_CONNECTION_TIMEOUT", a.Errcode == "M_URL_NOT_SET":
		return 0, fmt.Errorf("it cannot reach the url of %s (%s): that must be where this service listens", registrationName, a.Errcode)
	}
	return 0, h.Failure(a, "")
}
