// live.go asks the homeserver and the service what only they can tell. Its calls create, change and end nothing.

package check

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/synapse"
)

const (
	subjectHomeserver = "homeserver"
	subjectService    = "service"

	versionsPath = "/_matrix/client/versions"
	whoamiPath   = "/_matrix/client/r0/account/whoami" // which every version serves
)

// nobody is the localpart of a node that there cannot be: nobody has the key of this address.
var nobody = "0x" + strings.Repeat("0", names.AddressDigits)

// A checking is one check: what there is to judge, and what is known so far.
type checking struct {
	Input // its config with the tokens and the secret

	report         *Report
	registered     config.Registration // registration.yaml
	registeredErr  error
	ofRegistration []Finding // what was found when it was read
	ofSecret       []Finding

	settings   []settingsFile  // of the homeserver
	process    synapse.Process // the Synapse that listens where --matrixurl says, as far as it is seen
	processErr error

	homeserver *homeserver.Client
	admin      *homeserver.Client // where accounts are created
	server     homeserver.Software
	answers    bool // the homeserver answers
	isNamed    bool // the homeserver says no other server_name than ours
	accepts    bool // the homeserver accepts the as_token
	runs       bool // a service runs
}

// connect makes the clients.
func (chk *checking) connect() {
	c := chk.Config
	chk.homeserver = homeserver.NewClient(c.Origin, c.ServerName, c.ASToken, c.HSToken, c.SharedSecret, c.MASClientSecret)
	chk.homeserver.ASToken = c.ASToken
	chk.admin = chk.homeserver.At(cmp.Or(c.APIOrigin, c.Origin))
}

// homeserverItself judges the homeserver: whether it answers, which software it is, and whether nodes can use it.
func (chk *checking) homeserverItself(ctx context.Context) []Finding {
	h := chk.homeserver
	do := "start it; or, if it listens elsewhere, run genconfig --" + config.FlagForce + " with --" + config.FlagMatrixURL + " of that port"
	a, err := h.Call(ctx, homeserver.Request{Within: homeserver.ReadTime, Method: http.MethodGet, Path: versionsPath})
	switch {
	case err != nil && chk.unixSocket() != "":
		return []Finding{problem(subjectHomeserver, "write "+exampleListener+" among its listeners"+thenRestart, "it listens on the unix socket %s alone, which this service does not speak", chk.unixSocket())}
	case err != nil:
		return []Finding{problem(subjectHomeserver, do, "nothing answers at %s: %v", chk.Config.Origin, cmp.Or(h.NotReached(err).Cause, err))}
	case a.Status == http.StatusBadGateway || a.Status == http.StatusGatewayTimeout:
		return []Finding{problem(subjectHomeserver, do, "what answers at %s does not reach one (%d)", chk.Config.Origin, a.Status)}
	case a.Status != http.StatusOK || !homeserver.IsObject(a.Body):
		return []Finding{problem(subjectHomeserver, do, "%s answers %d to %s, as no homeserver does", chk.Config.Origin, a.Status, versionsPath)}
	}
	chk.answers = true
	chk.server, _ = h.Software(ctx) // which tells nothing when it does not know
	found := []Finding{judgeSoftware(chk.server, chk.Config.Origin)}

	if err := h.CheckServerName(ctx); err != nil {
		found = append(found, problem(subjectHomeserver+" server_name", "run genconfig --"+config.FlagForce+" with that --"+config.FlagMatrixDomain, "%v", err))
	} else {
		chk.isNamed = true
		found = append(found, fine(subjectHomeserver+" server_name", "it does not say another than %s", chk.Config.ServerName))
	}
	return append(found, chk.endpoints(ctx))
}

// judgeSoftware tells whether a homeserver can host nodes.
func judgeSoftware(s homeserver.Software, at string) Finding {
	switch _, patch, _ := strings.Cut(s.Version, "."); {
	case s.Name == "":
		return warning(subjectHomeserver, "write in its listener: resources: [{names: [client, federation]}], then restart it", "%s does not say which homeserver it is", at)
	case s.IsSynapse() && strings.HasPrefix(s.Version, "1.140.0"):
		return problem(subjectHomeserver, "install Synapse 1.141.0 or later", "%v at %s is unfit: its registration and login answer 500 to passwords of more than 72 bytes, and nodes have 130 (element-hq/synapse#19063)", s, at)
	case s.IsSynapse() && s.Before(1, 23) && (!s.Before(0, 35) || strings.HasPrefix(patch, "34.1")):
		return problem(subjectHomeserver, "install Synapse 1.23.0 or later", "%v at %s is unfit: it has neither createUser nor display names in shared-secret registration", s, at)
	}
	if s.IsUntried() {
		return warning(subjectHomeserver, "register a node with the command register, and see that it gets in and shows its display name", "%v answers at %s: %s", s, at, homeserver.Untried)
	}
	return fine(subjectHomeserver, "%v answers at %s", s, at)
}

// endpoints judges which ways of creating accounts the homeserver has, and whether that of --matrixurl is among them.
func (chk *checking) endpoints(ctx context.Context) Finding {
	const subject = subjectHomeserver + " registration"
	state := homeserver.Unknown
	var has, otherURLs []string
	for _, c := range append(chk.Config.OtherWays(), chk.Config) {
		found := homeserver.Unknown
		if api, err := chk.Accounts(c, chk.homeserver); err == nil {
			found, _ = api.Probe(ctx)
		}
		if found == homeserver.Present {
			has = append(has, c.Way.Name)
		}
		if c.Way == chk.Config.Way {
			state = found
		} else if found == homeserver.Present {
			otherURLs = append(otherURLs, c.Origin+c.Way.Path)
		}
	}
	issuer, _ := chk.homeserver.LoginIssuer(ctx)
	itHas := "it has " + cmp.Or(strings.Join(has, " and "), "no way of creating users")
	switch {
	case chk.Config.Way.IsApart && issuer != "" && state != homeserver.Present:
		return fine(subject, "it has none of its own, behind Matrix Authentication Service")
	case state == homeserver.Present:
		return fine(subject, "it has %s, as --%s needs", chk.Config.Way.Name, config.FlagMatrixURL)
	case state == homeserver.Disabled && chk.Config.Way.TakesSecret:
		return problem(subject, homeserver.SharedSecretOff, "it has shared-secret registration switched off")
	case state == homeserver.Unknown && chk.Config.Way.IsApart:
		return problem(subject, "see below", "Matrix Authentication Service does not answer at %s, or fails", chk.Config.APIOrigin)
	case state == homeserver.Unknown:
		return problem(subject, "see its log", "it fails when it is asked for %s", chk.Config.Way.Name)
	}
	return problem(subject, missingFix(chk.Config, chk.server, otherURLs, issuer), "%s, and --%s names %s", itHas, config.FlagMatrixURL, chk.Config.Way.Name)
}

// missingFix returns what to type if the homeserver does not have the way of --matrixurl: another URL, if it has another way.
func missingFix(c config.Config, server homeserver.Software, otherURLs []string, issuer string) string {
	switch {
	case issuer != "":
		return "run genconfig --" + config.FlagForce + ": " + c.UseMAS(issuer)
	case len(otherURLs) > 0:
		return "run genconfig --" + config.FlagForce + " with --" + config.FlagMatrixURL + " " + otherURLs[0]
	case c.Way.IsApart:
		return homeserver.MASNotInCharge
	}
	return c.Way.Missing(server)
}

// homeserverAccepts judges whether the homeserver accepts the as_token and the shared secret.
func (chk *checking) homeserverAccepts(ctx context.Context) []Finding {
	if !chk.answers {
		return nil
	}
	var found []Finding
	if chk.Config.ASToken != "" {
		found = append(found, chk.asToken(ctx))
	}
	if chk.isNamed { // or it would ask another homeserver
		found = append(found, chk.profiles(ctx)...)
	}
	if chk.Config.Way.TakesSecret && chk.Config.SharedSecret != "" {
		found = append(found, chk.sharedSecret(ctx))
	}
	return found
}

func (chk *checking) asToken(ctx context.Context) Finding {
	const subject = subjectHomeserver + " as_token"
	h := chk.homeserver
	a, err := h.Call(ctx, homeserver.Request{Within: homeserver.ReadTime, Method: http.MethodGet, Path: whoamiPath, Token: chk.Config.ASToken})
	switch {
	case err != nil:
		return problem(subject, "see the homeserver's log", "%v", h.NotReached(err))
	case a.Status == http.StatusOK:
		chk.accepts = true
		return fine(subject, "accepted")
	case a.Status == http.StatusUnauthorized, a.Status == http.StatusForbidden:
		return problem(subject, "list this "+config.RegistrationFile+" in the homeserver's settings, if it is not, and restart the homeserver", "the homeserver does not know it (%d)", a.Status)
	}
	return warning(subject, "see the homeserver's log", "it cannot be told: %v", h.Failure(a, ""))
}

// profiles asks for that of a user who cannot be there, as the service asks.
func (chk *checking) profiles(ctx context.Context) []Finding {
	const subject = subjectHomeserver + " profiles"
	_, err := chk.homeserver.DisplayName(ctx, names.UserID(nobody, chk.Config.ServerName))
	failed, isFailed := errors.AsType[*homeserver.Error](err)
	switch {
	case !isFailed:
		return []Finding{fine(subject, "it tells this service which users there are")}
	case failed.Limited:
		return []Finding{warning(subject, askLater, "it asks for fewer look-ups, and so does not tell")}
	case !failed.Hidden:
		return []Finding{warning(subject, "see the homeserver's log", "%v", failed)}
	case chk.Config.ASToken != "" && !chk.accepts: // which is said, with what to do
		return nil
	}
	found, do := homeserver.WhyHidden(err)
	if chk.Config.Way.TakesSecret || chk.Config.Way.IsApart {
		return []Finding{warning(subject, do, "%s; nodes get in, and what was interrupted may wait for them", found)}
	}
	return []Finding{problem(subject, do, "%s; and without being told createUser is never asked", found)}
}

func (chk *checking) sharedSecret(ctx context.Context) Finding {
	const subject = subjectHomeserver + " shared secret"
	proves, err := homeserver.NewSharedSecretAPI(chk.homeserver, chk.admin, chk.Config.SharedSecret).ProvesSecret(ctx)
	switch {
	case err != nil:
		return warning(subject, "register a node with the command register, which tells", "it cannot be told: %v", err)
	case !proves:
		return problem(subject, "put the homeserver's registration_shared_secret into the file of --"+config.FlagShareSecretFile+" and restart the service; or restart the homeserver, if its settings were changed since it started",
			"the homeserver has another")
	}
	return fine(subject, "accepted")
}

// serviceURL is where the service listens.
func (chk *checking) serviceURL() string {
	return "http://" + net.JoinHostPort(names.ReachableHost(chk.Config.Host), strconv.Itoa(chk.Config.Port))
}

// service judges whether the service runs with this server name and these tokens, and whether the homeserver reaches it.
func (chk *checking) service(ctx context.Context) []Finding {
	origin := chk.serviceURL()
	h := homeserver.NewClient(origin, chk.Config.ServerName, chk.Config.HSToken)
	found := chk.askRegister(ctx, h, http.Header{"X-Forwarded-For": {"127.0.0.1"}}) // as nginx would, else its log says that one does not
	do := "start it: " + "./" + config.RunFile + "; or say where it listens with --" + config.FlagHost + " and --" + config.FlagPort
	switch found.is {
	case registerSilent:
		return []Finding{problem(subjectService, do, "nothing answers at %s", origin)}
	case registerElse:
		return []Finding{problem(subjectService, do, "%s is another program's: it answers %d", origin, found.status)}
	case registerLimited:
		chk.runs = true
		return []Finding{warning(subjectService, askLater, "%s asks for fewer requests, and so does not tell whose it is", origin)}
	case registerOther:
		chk.runs = true
		return []Finding{problem(subjectService, "restart it with --"+config.FlagMatrixDomain+" "+chk.Config.ServerName, "what listens at %s serves another --%s", origin, config.FlagMatrixDomain)}
	}
	chk.runs = true
	all := []Finding{fine(subjectService, "it answers at %s", origin)}
	if chk.Config.HSToken != "" {
		if a, err := h.Call(ctx, homeserver.Request{Within: homeserver.ReadTime, Method: http.MethodPost, Path: chk.Daemon.Modern + "/ping", Token: chk.Config.HSToken, Body: struct{}{}}); err == nil && a.Status == http.StatusForbidden {
			return append(all, problem(subjectService+" hs_token", "restart the service, in the directory of "+config.RegistrationFile, "it was started with another than that of %s", config.RegistrationFile))
		}
		all = append(all, fine(subjectService+" hs_token", "the one of %s", config.RegistrationFile))
	}
	if chk.accepts && chk.Config.AppServiceID != "" {
		all = append(all, chk.ping(ctx))
	}
	return all
}

// ping has the homeserver call the service.
func (chk *checking) ping(ctx context.Context) Finding {
	const subject = subjectHomeserver + " ping"
	took, err := chk.homeserver.Ping(ctx, chk.Config.AppServiceID, chk.Config.ASToken, chk.Daemon.Base)
	switch {
	case err == nil:
		return fine(subject, "it reaches this service, in %v", took.Round(time.Millisecond))
	case errors.Is(err, homeserver.ErrNoPing):
		return fine(subject, "%v cannot be asked whether it reaches this service; its log says if not", cmp.Or(chk.server.String(), "it"))
	}
	return problem(subject, "when "+config.RegistrationFile+" and the homeserver's settings are right, restart both the homeserver and the service", "%v", err)
}

// A registerIs is what answers at a register path.
type registerIs int

const (
	registerSilent  registerIs = iota // nothing answers
	registerElse                      // something else answers
	registerLimited                   // somebody asks for fewer requests
	registerOther                     // a service for another server name does
	registerOurs
)

// isService reports whether it is a service, for any server name.
func (r registerIs) isService() bool { return r == registerOther || r == registerOurs }

// askLater is the cure if a rate limit answered.
const askLater = "wait a minute and check again"

// A registerFound is what answered at a register path, and with which status.
type registerFound struct {
	is     registerIs
	status int
}

// askRegister sends a registration of the right form that nobody can have signed. The service refuses it when it checks the
// signatures, before it asks the homeserver, and names the user ID that should have been signed.
func (chk *checking) askRegister(ctx context.Context, h *homeserver.Client, headers http.Header) registerFound {
	client := *h
	client.Header = headers
	localpart := nobody
	a, err := client.Call(ctx, homeserver.Request{Within: homeserver.ReadTime, Method: http.MethodPost, Path: chk.Daemon.Register, Body: chk.Daemon.Forged(localpart)})
	switch {
	case err != nil:
		return registerFound{registerSilent, 0}
	case chk.Daemon.IsLimited(a.Errcode):
		return registerFound{registerLimited, a.Status}
	case !chk.Daemon.IsForged(a.Errcode):
		return registerFound{registerElse, a.Status}
	case !strings.Contains(a.Message, strconv.Quote(names.UserID(localpart, h.ServerName))):
		return registerFound{registerOther, a.Status}
	}
	return registerFound{registerOurs, a.Status}
}

// sayVersions returns the homeserver's answer to which versions of the API it has.
func sayVersions(ctx context.Context, h *homeserver.Client, headers http.Header) (body string, status int) {
	client := *h
	client.Header = headers
	a, err := client.Call(ctx, homeserver.Request{Within: homeserver.ReadTime, Method: http.MethodGet, Path: versionsPath})
	var said struct {
		Versions []string `json:"versions"`
	}
	if err != nil || a.Status != http.StatusOK || json.Unmarshal(a.Body, &said) != nil || len(said.Versions) == 0 {
		return "", a.Status
	}
	return string(a.Body), a.Status
}
