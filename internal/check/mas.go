// mas.go judges Matrix Authentication Service by its answers: whether this service can make accounts there, and nodes can log in.

package check

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"strconv"
	"strings"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/mas"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
)

const (
	subjectMAS = "Matrix Authentication Service"

	MASFile      = "mas.yaml"    // its configuration, where that is beside homeserver.yaml
	MASOwnFile   = "config.yaml" // and as its own documentation calls it
	masDiscovery = "/.well-known/openid-configuration"

	restartMAS = "; then restart Matrix Authentication Service"
)

// masAPI is Matrix Authentication Service as this service asks it.
func (chk *checking) masAPI() *mas.Accounts {
	return mas.New(chk.homeserver, chk.admin, chk.Config.MASClientID, chk.Config.MASClientSecret)
}

// masClient judges whether it knows the client, grants it the scope, and has an admin API.
func (chk *checking) masClient(ctx context.Context) []Finding {
	const client, scope, admin = subjectMAS + " client", subjectMAS + " scope", subjectMAS + " admin API"
	api := chk.masAPI()
	err := api.Granted(ctx)
	known, granted := fine(client, "%s is accepted with its secret", chk.Config.MASClientID), fine(scope, "%s is granted", mas.Scope)
	switch {
	case errors.Is(err, mas.ErrClient):
		return []Finding{problem(client, mas.ErrClient.Error(), "it refuses %s with this secret", chk.Config.MASClientID).follows("client secret", MASFile+" clients").stopping()}
	case errors.Is(err, mas.ErrScope):
		return []Finding{known, problem(scope, mas.ErrScope.Error(), "it does not grant %s to %s", mas.Scope, chk.Config.MASClientID).follows(MASFile + " policy.data.admin_clients").stopping()}
	case errors.Is(err, homeserver.ErrMASMissing):
		return []Finding{problem(client, homeserver.ErrMASMissing.Error(), "what answers at %s gives no tokens", chk.Config.APIOrigin).stopping()}
	case err != nil:
		return []Finding{problem(client, "start it, or name another of its listeners in --"+config.FlagMatrixURL, "%v", err).stopping()}
	}
	switch _, err := api.AccountID(ctx, homeserver.UnregistrableName); {
	case errors.Is(err, homeserver.ErrNoUser):
		return []Finding{known, granted, fine(admin, "it answers at %s", chk.Config.APIOrigin)}
	case errors.Is(err, homeserver.ErrMASMissing):
		return []Finding{known, granted, problem(admin, homeserver.ErrMASMissing.Error(), "it is not served at %s", chk.Config.APIOrigin).stopping()}
	default:
		return []Finding{known, granted, problem(admin, "see its log", "%v", err).stopping()}
	}
}

// masSite judges its own statement of its configuration.
func (chk *checking) masSite(ctx context.Context) []Finding {
	const passwords, registration, name = subjectMAS + " passwords", subjectMAS + " registration", subjectMAS + " server name"
	said, err := chk.masAPI().Site(ctx)
	if err != nil {
		return []Finding{warning(passwords, "see its log", "it does not tell: %v", err)}
	}
	if said.PasswordLogin == nil {
		return []Finding{unseen(passwords, "old versions do not tell; the login at the public URL does")}
	}
	found := []Finding{fine(passwords, "nodes can log in with one")}
	if !*said.PasswordLogin {
		found[0] = problem(passwords, mas.ErrPasswords.Error(), "they are switched off")
	}
	switch {
	case said.PasswordRegistration == nil:
		found = append(found, warning(registration, "see that its configuration has account: {password_registration_enabled: false}, as it has by default", "it does not say whether anybody can make accounts"))
	case *said.PasswordRegistration:
		found = append(found, problem(registration, "write into its configuration: account: {password_registration_enabled: false}"+restartMAS, "anybody can make accounts, without a proof"))
	default:
		found = append(found, fine(registration, "off"))
	}
	if said.ServerName != "" && said.ServerName != chk.Config.ServerName {
		return append(found, problem(name, "write into its configuration: matrix: {homeserver: "+chk.Config.ServerName+"}, if that is the homeserver's server_name"+restartMAS, "it is %q and --%s is %q", said.ServerName, config.FlagMatrixDomain, chk.Config.ServerName))
	}
	return append(found, fine(name, "%s", chk.Config.ServerName))
}

// masInCharge judges whether the homeserver leaves its logins to this Matrix Authentication Service.
func (chk *checking) masInCharge(ctx context.Context) Finding {
	const subject = subjectHomeserver + " logins"
	issuer, told := chk.homeserver.LoginIssuer(ctx)
	switch {
	case !told:
		return warning(subject, "see the homeserver's log", "it does not say who logs users in")
	case issuer == "":
		return problem(subject, homeserver.MASNotInCharge, "it logs users in itself, with passwords of its own").follows(config.HomeserverFile + " matrix_authentication_service")
	}
	var said struct{ Issuer string }
	a, err := chk.admin.Call(ctx, homeserver.Request{Within: homeserver.ReadTime, Method: http.MethodGet, Path: masDiscovery})
	if err == nil && a.Status == http.StatusOK && a.Cut == nil && json.Unmarshal(a.Body, &said) == nil && said.Issuer != "" && strings.TrimRight(said.Issuer, "/") != strings.TrimRight(issuer, "/") {
		return problem(subject, "name the Matrix Authentication Service of this homeserver in --"+config.FlagMatrixURL, "it leaves them to %s, and --%s is of %s", issuer, config.FlagMatrixURL, said.Issuer)
	}
	return fine(subject, "it leaves them to %s", issuer)
}

// masListener judges whether the admin API answers at other addresses of this machine.
func (chk *checking) masListener(ctx context.Context) Finding {
	const subject = subjectMAS + " listener"
	if !isLocal(chk.Config.APIOrigin) {
		return warning(subject, "keep everybody else from it, and its traffic encrypted", "the admin API is at %s, on another machine", chk.Config.APIOrigin)
	}
	addresses, _ := net.InterfaceAddrs() // without them there is none to try
	for _, address := range addresses {
		network, ok := address.(*net.IPNet)
		if !ok || network.IP.IsLoopback() || network.IP.IsLinkLocalUnicast() {
			continue
		}
		other := homeserver.NewClient("http://"+net.JoinHostPort(network.IP.String(), strconv.Itoa(names.URLPort(chk.Config.APIOrigin))), chk.Config.ServerName)
		if isAdminAPI(ctx, other) {
			return problem(subject, "write for that listener in its configuration: binds: [{address: '127.0.0.1:"+strconv.Itoa(names.URLPort(chk.Config.APIOrigin))+"'}]"+restartMAS, "the admin API answers at %s too, where other machines reach it", other.Origin)
		}
	}
	return fine(subject, "this machine alone")
}

// isAdminAPI reports whether an admin API answers. Without a token its error has a form of its own.
func isAdminAPI(ctx context.Context, h *homeserver.Client) bool {
	a, err := h.Call(ctx, homeserver.Request{Within: homeserver.ReadTime, Method: http.MethodGet, Path: mas.ByNamePath + homeserver.UnregistrableName})
	return err == nil && a.Status/100 == 4 && a.Title != ""
}
