// appservice.go owns what the homeserver asks of its application service: transactions, users, aliases, the
// third-party network and ping, under the paths of both the old and the new specification.

package main

import (
	"cmp"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/limit"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/redact"
	"github.com/ant0ine/go-json-rest/rest"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/log"
)

const (
	modernPath   = appServicePath + "/_matrix/app/v1"       // since the specification has one
	unstablePath = appServicePath + "/_matrix/app/unstable" // the third-party look-ups of Synapse up to 1.89

	transactionLimit = 16 << 20 // bytes: a hundred events of 64 KiB, escaped

	addressField = "address" // the field that identifies a user of the third-party network
)

// An appServiceAPI answers the homeserver.
type appServiceAPI struct {
	serverName string
	hsToken    string
	store      store
	metrics    *metrics
	proxies    limit.Proxies
}

// protocolID names the third-party network, as registration.yaml does.
func protocolID(serverName string) string { return "regapp." + serverName }

// routes are both families of paths. An id reaches to the end of the path, since Synapse does not encode a slash in it.
func (a *appServiceAPI) routes() []*rest.Route {
	var routes []*rest.Route
	for _, base := range []string{appServicePath, modernPath} {
		routes = append(routes,
			rest.Put(base+"/transactions/*id", a.authorized(kindTransaction, a.transaction)),
			rest.Get(base+"/users/*id", a.authorized(kindUser, a.user)),
			rest.Get(base+"/rooms/*id", a.authorized(kindAlias, a.alias)),
		)
	}
	for _, base := range []string{unstablePath, modernPath} {
		routes = append(routes,
			rest.Get(base+"/thirdparty/protocol/*id", a.unlessWrong(kindProtocol, a.protocol)),
			rest.Get(base+"/thirdparty/user/*id", a.authorized(kindThirdParty, a.thirdPartyUser)),
			rest.Get(base+"/thirdparty/user", a.authorized(kindThirdParty, a.thirdPartyByUserID)),
			rest.Get(base+"/thirdparty/location/*id", a.authorized(kindThirdParty, a.thirdPartyLocation)),
			rest.Get(base+"/thirdparty/location", a.authorized(kindThirdParty, a.thirdPartyByAlias)),
		)
	}
	return append(routes, rest.Post(modernPath+"/ping", a.authorized(kindPing, a.ping)))
}

var (
	errMissingToken = errors.New("the hs_token is missing")
	errWrongToken   = errors.New("the hs_token is not the one of registration.yaml")
)

// An appServiceRequest is a request of the homeserver: the id at the end of the path, decoded, and the rest.
type appServiceRequest struct {
	id string
	*http.Request
}

// authorized answers requests that have the hs_token.
func (a *appServiceAPI) authorized(kind string, handle func(appServiceRequest) (any, error)) rest.HandlerFunc {
	return a.answered(kind, handle, true)
}

// unlessWrong also answers requests without a token: Synapse up to 1.80 sends none when it asks for the protocol.
func (a *appServiceAPI) unlessWrong(kind string, handle func(appServiceRequest) (any, error)) rest.HandlerFunc {
	return a.answered(kind, handle, false)
}

func (a *appServiceAPI) answered(kind string, handle func(appServiceRequest) (any, error), needToken bool) rest.HandlerFunc {
	return func(w rest.ResponseWriter, r *rest.Request) {
		answer, err := a.answer(handle, needToken, r)
		if err != nil {
			told := toMatrixError(err)
			a.metrics.answeredHomeserver(kind, told.status)
			client, _ := a.proxies.Client(r.Request)
			log.Debug("Refused the homeserver", "kind", kind, "status", told.status, "errcode", told.Errcode,
				"path", a.shownPath(r.URL), "client", client, "reason", err)
			told.write(w)
			return
		}
		a.metrics.answeredHomeserver(kind, http.StatusOK)
		log.Trace("Answered the homeserver", "kind", kind, "method", r.Method, "path", a.shownPath(r.URL))
		w.WriteJson(answer)
	}
}

// shownPath is the path for the log, without the hs_token: a proxy that encodes the "?" puts the token into the path.
func (a *appServiceAPI) shownPath(u *url.URL) string {
	return redact.Quote(strings.Join(strings.Split(u.Path, cmp.Or(a.hsToken, "\x00")), "…"))
}

func (a *appServiceAPI) answer(handle func(appServiceRequest) (any, error), needToken bool, r *rest.Request) (any, error) {
	err := a.checkToken(r.Request)
	if err != nil && (needToken || !errors.Is(err, errMissingToken)) {
		return nil, err
	}
	id, err := url.PathUnescape(r.PathParam("id"))
	if err != nil {
		return nil, badRequest(faultForm, "the end of the path is not percent-encoded as it should be")
	}
	return handle(appServiceRequest{id, r.Request})
}

// checkToken reads the hs_token from the query string, where old homeservers put it, and from the header, where new ones do.
// Some send both: then both must be right.
func (a *appServiceAPI) checkToken(r *http.Request) error {
	given := r.URL.Query()["access_token"]
	if scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " "); strings.EqualFold(scheme, "Bearer") {
		given = append(given, strings.TrimSpace(token))
	}
	if len(given) == 0 {
		return errMissingToken
	}
	want := sha256.Sum256([]byte(a.hsToken)) // hashed, so that the comparison does not tell the length either
	right := 1
	for _, token := range given {
		got := sha256.Sum256([]byte(token))
		right &= subtle.ConstantTimeCompare(got[:], want[:])
	}
	if right != 1 {
		return errWrongToken
	}
	return nil
}

// transaction acknowledges events. This service needs none of them, and neither parses nor keeps them. It accepts an id that
// it has seen before: Synapse counts from 1 again after a restart, and Dendrite adds events to a retry.
func (a *appServiceAPI) transaction(r appServiceRequest) (any, error) {
	_, err := io.Copy(io.Discard, r.Body)
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return nil, &bodyTooLargeError{tooLarge.Limit}
	}
	if err != nil {
		return nil, badRequest(faultNotJSON, "the body is cut short")
	}
	return struct{}{}, nil
}

// ping shows the homeserver that it reaches us.
func (a *appServiceAPI) ping(appServiceRequest) (any, error) { return struct{}{}, nil }

// user tells the homeserver whether a user that it does not know could exist: only a registered node does.
func (a *appServiceAPI) user(r appServiceRequest) (any, error) {
	if _, err := a.registered(r, r.id); err != nil {
		return nil, err
	}
	return struct{}{}, nil
}

// alias refuses every room alias: this service has no rooms.
func (a *appServiceAPI) alias(appServiceRequest) (any, error) {
	return nil, &absentError{"there is no such room alias"}
}

// The third-party network, as the specification has it.
type (
	thirdPartyProtocol struct {
		UserFields     []string                   `json:"user_fields"`
		LocationFields []string                   `json:"location_fields"`
		Icon           string                     `json:"icon"`
		FieldTypes     map[string]thirdPartyField `json:"field_types"`
		Instances      []thirdPartyInstance       `json:"instances"`
	}
	thirdPartyField struct {
		Regexp      string `json:"regexp"`
		Placeholder string `json:"placeholder"`
	}
	thirdPartyInstance struct {
		Desc      string            `json:"desc"`
		Icon      string            `json:"icon"`
		NetworkID string            `json:"network_id"`
		Fields    map[string]string `json:"fields"`
	}
	thirdPartyUser struct {
		UserID   string            `json:"userid"`
		Protocol string            `json:"protocol"`
		Fields   map[string]string `json:"fields"`
	}
)

func (a *appServiceAPI) protocol(r appServiceRequest) (any, error) {
	if err := a.checkProtocol(r.id); err != nil {
		return nil, err
	}
	return thirdPartyProtocol{
		UserFields:     []string{addressField},
		LocationFields: []string{},
		FieldTypes: map[string]thirdPartyField{
			addressField: {Regexp: fmt.Sprintf("0x[0-9a-f]{%d}", names.AddressDigits), Placeholder: "0x6d12d262a2fe4fd9c714ad3521acbea52adb4aaf"},
		},
		Instances: []thirdPartyInstance{{
			Desc:      "Photon nodes of " + a.serverName,
			NetworkID: a.serverName,
			Fields:    map[string]string{},
		}},
	}, nil
}

// thirdPartyUser finds a node by its Ethereum address, for any Matrix client.
func (a *appServiceAPI) thirdPartyUser(r appServiceRequest) (any, error) {
	if err := a.checkProtocol(r.id); err != nil {
		return nil, err
	}
	given := r.URL.Query().Get(addressField)
	if !names.IsAddress(given) {
		return nil, badRequest(faultForm, "%s must be an Ethereum address: 0x and %d hex digits, in one case or with a valid EIP-55 checksum", addressField, names.AddressDigits)
	}
	return a.thirdPartyList(r, names.UserID(strings.ToLower(given), a.serverName))
}

// thirdPartyByUserID returns the entry that a user ID has in the third-party network.
func (a *appServiceAPI) thirdPartyByUserID(r appServiceRequest) (any, error) {
	if !r.URL.Query().Has("userid") {
		return nil, badRequest(faultMissing, "userid is missing")
	}
	return a.thirdPartyList(r, r.URL.Query().Get("userid"))
}

// thirdPartyList returns the node with this user ID, or an empty list.
func (a *appServiceAPI) thirdPartyList(r appServiceRequest, userID string) (any, error) {
	n, err := a.registered(r, userID)
	if errors.Is(err, errNoRecord) {
		return []thirdPartyUser{}, nil
	}
	if err != nil {
		return nil, err
	}
	return []thirdPartyUser{{UserID: n.UserID, Protocol: protocolID(a.serverName), Fields: map[string]string{addressField: n.Localpart}}}, nil
}

// thirdPartyLocation returns an empty list: the network has users and no places.
func (a *appServiceAPI) thirdPartyLocation(r appServiceRequest) (any, error) {
	if err := a.checkProtocol(r.id); err != nil {
		return nil, err
	}
	return []struct{}{}, nil
}

func (a *appServiceAPI) thirdPartyByAlias(appServiceRequest) (any, error) { return []struct{}{}, nil }

func (a *appServiceAPI) checkProtocol(id string) error {
	if id != protocolID(a.serverName) {
		return &absentError{"there is no such protocol here"}
	}
	return nil
}

// An absentError says that nothing has the requested name. It is an errNoRecord.
type absentError struct{ message string }

func (e *absentError) Error() string { return e.message }
func (e *absentError) Unwrap() error { return errNoRecord }

// registered returns the record of a registered node that is not banned. For anybody else the error is an absentError.
func (a *appServiceAPI) registered(r appServiceRequest, userID string) (record, error) {
	localpart, ok := strings.CutSuffix(userID, ":"+a.serverName)
	localpart, isUser := strings.CutPrefix(localpart, "@")
	if !ok || !isUser || !names.IsLocalpart(localpart) {
		return record{}, &absentError{"there is no such node"}
	}
	n, err := a.store.Load(r.Context(), common.HexToAddress(localpart))
	switch {
	case errors.Is(err, errNoRecord), err == nil && (n.State != stateRegistered || !n.Banned.IsZero()):
		return record{}, &absentError{"there is no such node"}
	case err != nil:
		return record{}, fmt.Errorf("%w: %w", errStore, err)
	}
	return n, nil
}
