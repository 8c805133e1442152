// tokens.go owns the access token of the admin API: it is fetched once for all that wait for it, and kept until shortly before it
// expires.

package mas

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/recent"
)

// tokenStep names the step for the log. A node reads only that the homeserver failed.
const tokenStep = "fetch a token at Matrix Authentication Service"

// tokens keep the access token that the admin API is used with.
type tokens struct {
	admin                  *homeserver.Client
	clientID, clientSecret string

	answer recent.Answer[string]
}

// get returns the token. It fetches one if there is none, if it is about to expire, or if it is the one that was refused. The error
// is a *homeserver.Error that says that nothing was sent.
func (t *tokens) get(ctx context.Context, refused string) (string, error) {
	t.answer.Forget(func(token string) bool { return token == refused })
	token, err := homeserver.Recently(ctx, &t.answer, t.fetch)
	if failed, ok := errors.AsType[*homeserver.Error](err); ok && failed.Cause == nil {
		err = homeserver.InStep(tokenStep, failed)
	}
	return token, err
}

// fetch asks for a token. It counts until shortly before it expires.
func (t *tokens) fetch(ctx context.Context) (string, time.Duration, error) {
	start := time.Now()
	token, lasts, failed := t.grant(ctx)
	if failed != nil {
		return "", 0, failed
	}
	return token, max(lasts/2, lasts-spare) - time.Since(start), nil
}

// grant asks for a token with the client's secret. Matrix Authentication Service compares the secret as it comes, without
// the encoding of forms that RFC 6749 has for it.
func (t *tokens) grant(ctx context.Context) (token string, lasts time.Duration, failed *homeserver.Error) {
	client := *t.admin
	client.Header = http.Header{"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte(t.clientID+":"+t.clientSecret))}}
	a, err := client.Call(ctx, homeserver.Request{Name: "token", Within: homeserver.ReadTime, Method: http.MethodPost, Path: tokenPath, Body: url.Values{"grant_type": {"client_credentials"}, "scope": {Scope}}})
	if err != nil {
		return "", 0, homeserver.NotSent(homeserver.InStep(tokenStep, t.admin.NotReached(err)))
	}
	var given struct {
		Token   string  `json:"access_token"`
		Expires float64 `json:"expires_in"` // in seconds
		Scope   string  `json:"scope"`
	}
	if a.Status != http.StatusOK || a.Cut != nil || json.Unmarshal(a.Body, &given) != nil || given.Token == "" || !names.IsToken(given.Token) {
		failed = homeserver.NotSent(homeserver.InStep(tokenStep, t.admin.Failure(a, "")))
		if hint := tokenHint(a); hint != nil {
			failed.Cause = fmt.Errorf("%w: %w", hint, failed.Cause)
		}
		return "", 0, failed
	}
	if given.Scope != "" && !slices.Contains(strings.Fields(given.Scope), Scope) {
		return "", 0, &homeserver.Error{Reason: "the homeserver refused to have accounts made", Cause: ErrScope}
	}
	return given.Token, time.Duration(given.Expires * float64(time.Second)), nil
}

// tokenHint returns what the operator can do if there is no token.
func tokenHint(a homeserver.Answer) error {
	var said struct{ Error string }
	json.Unmarshal(a.Body, &said) // what is of another form says nothing
	switch {
	case said.Error == "invalid_client":
		return ErrClient
	case said.Error == "invalid_scope", a.Status == http.StatusForbidden && said.Error != "":
		return ErrScope
	case a.Status/100 == 2 || a.Status/100 == 4 && said.Error == "" && !a.TellsNothing():
		return homeserver.ErrMASMissing
	}
	return nil
}
