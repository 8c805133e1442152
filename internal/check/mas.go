// mas.go judges Matrix Authentication Service: whether this service can make accounts and nodes can log in, by its answers, and
// by its configuration if that can be read.

package check

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/mas"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/nginx"
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
		return []Finding{unseen(passwords, "old versions do not tell; the login at the public door does")}
	}
	found := []Finding{fine(passwords, "nodes can log in with one")}
	if !*said.PasswordLogin {
		found[0] = problem(passwords, mas.ErrPasswords.Error(), "they are switched off")
	}
	switch {
	case said.PasswordRegistration == nil:
		found = append(found, warning(registration, "see that its configuration has account: {password_registration_enabled: false}, as it has by default", "it does not tell whether anybody can make accounts"))
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
		return warning(subject, "see the homeserver's log", "it does not tell who logs users in")
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

// proxyLogin asks as a node does which logins there are. Matrix Authentication Service marks its own.
func (chk *checking) proxyLogin(ctx context.Context) Finding {
	h := chk.publicClient()
	const subject = subjectProxy + " login"
	do := chk.write(nginx.Logins(nginx.GuideMAS)) + ", with the port of its listener that serves compat"
	for _, path := range []string{"/_matrix/client/r0/login", "/_matrix/client/v3/login"} {
		a, err := h.Call(ctx, homeserver.Request{Within: homeserver.ReadTime, Method: http.MethodGet, Path: path})
		if err != nil {
			return unseen(subject, "nothing answers at %s", chk.Public).follows(subjectProxy)
		}
		var said struct {
			Flows []struct {
				Type       string
				Delegated  bool `json:"org.matrix.msc3824.delegated_oidc_compatibility"`
				OAuthAware bool `json:"oauth_aware_preferred"`
			}
		}
		if a.Status != http.StatusOK || a.Cut != nil || json.Unmarshal(a.Body, &said) != nil {
			return problem(subject, do, "%s is answered %d, and not by Matrix Authentication Service", path, a.Status)
		}
		marked, password := false, false
		for _, flow := range said.Flows {
			marked = marked || flow.Delegated || flow.OAuthAware
			password = password || flow.Type == "m.login.password"
		}
		switch {
		case !marked:
			return problem(subject, do, "%s does not reach Matrix Authentication Service", path)
		case !password:
			return problem(subject, mas.ErrPasswords.Error(), "%s has no m.login.password", path)
		}
	}
	return fine(subject, "reaches Matrix Authentication Service, which takes passwords")
}

// proxyMASAdmin looks whether nginx lets the admin API through.
func (chk *checking) proxyMASAdmin(ctx context.Context) Finding {
	h := chk.publicClient()
	const subject = subjectProxy + " /api/admin"
	if isAdminAPI(ctx, h) {
		return warning(subject, "take the location that lets it through out of nginx: only /_matrix, its login and "+chk.Daemon.Register+" are for nodes", "the admin API of Matrix Authentication Service answers from outside; only its tokens keep others out")
	}
	return fine(subject, "does not answer from outside")
}

// readMASSettings reads its configuration: the files that were named, or one in this directory. It returns nil if there is none.
func readMASSettings(paths []string) *settingsFile {
	if len(paths) == 0 {
		for _, name := range []string{MASFile, MASOwnFile} {
			if _, err := os.Stat(name); err != nil {
				continue
			}
			if s := readSettings([]string{name}); name == MASFile || s.err == nil && s.Text("matrix", "homeserver") != "" {
				return &s
			}
		}
		return nil
	}
	s := readSettings(paths)
	return &s
}

// masSecrets are the secrets in its configuration, which no finding may hold.
func (s settingsFile) masSecrets() []string {
	secrets := []string{s.Text("database", "uri"), s.Text("database", "password"), s.Text("matrix", "secret"), s.Text("secrets", "encryption")}
	for _, client := range s.masList("clients") {
		secrets = append(secrets, client.Text("client_secret"))
	}
	return secrets
}

// masList are the mappings of a list.
func (s settingsFile) masList(path ...string) []settingsFile {
	list, _ := s.at(path...).([]any)
	var all []settingsFile
	for _, item := range list {
		keys, _ := item.(map[any]any)
		all = append(all, settingsFile{path: s.path, keys: keys})
	}
	return all
}

// masFindings judges its configuration.
func (j judging) masFindings() []Finding {
	s := j.settings
	if s.err != nil {
		return []Finding{problem(MASFile, "name the configuration of Matrix Authentication Service with --"+FlagMASConfig, "%v", s.err)}
	}
	found := append([]Finding{fine(MASFile, "read %s", s.path)}, j.masFileClient()...)
	add := func(subject string, bad bool, f func(subject, do, format string, args ...any) Finding, value string, path []string, reason, good string) {
		if bad {
			found = append(found, f(MASFile+" "+subject, strings.Replace(s.write(value, path...).String(), thenRestart, restartMAS, 1), "%s", reason))
			return
		}
		found = append(found, fine(MASFile+" "+subject, "%s", good))
	}
	name := s.Text("matrix", "homeserver")
	add("matrix.homeserver", name != j.config.ServerName, problem, strconv.Quote(j.config.ServerName), []string{"matrix", "homeserver"}, fmt.Sprintf("it is %q and --%s is %q", name, config.FlagMatrixDomain, j.config.ServerName), name)
	add("passwords", s.at("passwords", "enabled") == false, problem, "true", []string{"passwords", "enabled"}, "enabled is false: nodes log in with a password", "nodes can log in with one")
	add("account", s.isTrue("account", "password_registration_enabled"), problem, "false", []string{"account", "password_registration_enabled"}, "password_registration_enabled is true: anybody can make accounts, without a proof", "registration is off")
	burst, perSecond := s.number(3, "rate_limiting", "login", "per_ip", "burst"), s.number(0.05, "rate_limiting", "login", "per_ip", "per_second")
	add("rate_limiting.login.per_ip", homeserver.Rate{PerSecond: perSecond, Burst: burst}.IsBelow(homeserver.LoginsNeeded), problem, homeserver.MASLoginLimit, []string{"rate_limiting", "login", "per_ip"},
		fmt.Sprintf("an address has %v logins, refused ones included, and then %v a second", burst, perSecond), fmt.Sprintf("%v logins, and then %v a second", burst, perSecond))
	return append(found, j.masFileListener())
}

// masFileClient judges whether this service is among the clients, and among those that may administer.
func (j judging) masFileClient() []Finding {
	const admins = MASFile + " policy.data.admin_clients"
	client := j.masFileSecret()
	if client.Status != OK {
		return []Finding{client}
	}
	if !slices.Contains(texts(j.settings.at("policy", "data", "admin_clients")), j.config.MASClientID) {
		return []Finding{client, problem(admins, mas.ErrScope.Error(), "%s is not in it", j.config.MASClientID)}
	}
	return []Finding{client, fine(admins, "%s may administer", j.config.MASClientID)}
}

// masFileSecret judges whether this service is among the clients, with its secret.
func (j judging) masFileSecret() Finding {
	const subject = MASFile + " clients"
	at := slices.IndexFunc(j.settings.masList("clients"), func(c settingsFile) bool { return c.Text("client_id") == j.config.MASClientID })
	if at < 0 {
		return problem(subject, mas.ErrClient.Error(), "%s is not among them", j.config.MASClientID)
	}
	client := j.settings.masList("clients")[at]
	secret := client.Text("client_secret")
	switch {
	case client.Text("client_auth_method") != "client_secret_basic":
		return problem(subject, mas.ErrClient.Error(), "client_auth_method of %s is not client_secret_basic", j.config.MASClientID)
	case secret != "" && j.config.MASClientSecret != "" && secret != j.config.MASClientSecret:
		return problem(subject, mas.ErrClient.Error(), "%s has another secret there than this service has", j.config.MASClientID)
	}
	return fine(subject, "%s is among them", j.config.MASClientID)
}

// masFileListener judges who reaches the admin API.
func (j judging) masFileListener() Finding {
	const subject = MASFile + " http.listeners"
	served := false
	for _, l := range j.settings.masList("http", "listeners") {
		var resources []string
		for _, r := range l.masList("resources") {
			resources = append(resources, r.Text("name"))
		}
		if !slices.Contains(resources, "adminapi") {
			continue
		}
		served = served || slices.Contains(resources, "oauth")
		for _, b := range l.masList("binds") {
			host := b.Text("host")
			if address := b.Text("address"); address != "" {
				host, _, _ = net.SplitHostPort(address)
			}
			if b.Text("socket") == "" && !names.IsLoopback(host) {
				return problem(subject, "write for the listener with adminapi: binds: [{address: '127.0.0.1:"+strconv.Itoa(names.URLPort(j.config.APIOrigin))+"'}], and leave adminapi out of the others"+restartMAS, "the admin API is open to other machines")
			}
		}
	}
	if !served {
		return problem(subject, homeserver.ErrMASMissing.Error(), "none has both adminapi and oauth")
	}
	return fine(subject, "the admin API is for this machine alone")
}
