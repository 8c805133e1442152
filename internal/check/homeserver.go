// homeserver.go judges the homeserver by its answers: which software it is, whose homeserver, and whether this service can make
// accounts there. Its calls create, change and end nothing.

package check

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/shell"
)

const (
	subjectHomeserver = "homeserver"
	subjectService    = "service"

	versionsPath = "/_matrix/client/versions"
)

// nobody is the localpart of a node that there cannot be: nobody has the key of this address.
var nobody = "0x" + strings.Repeat("0", names.AddressDigits)

// homeserverItself judges the homeserver: whether it answers, which software it is, and whether nodes can use it.
func (chk *checking) homeserverItself(ctx context.Context) Finding {
	h := chk.homeserver
	a, err := h.Call(ctx, homeserver.Request{Within: homeserver.ReadTime, Method: http.MethodGet, Path: versionsPath})
	isOne := err == nil && a.Status == http.StatusOK && homeserver.IsObject(a.Body)
	switch {
	case isOne:
		chk.answers = true
		chk.server, _ = h.Software(ctx) // which tells nothing when it does not know
		return judgeSoftware(chk.server, chk.Config.Origin)
	case err != nil && chk.unixSocket() != "":
		return problem(subjectHomeserver, "write among its listeners: "+paste(exampleListener)+thenRestart, "it listens on the unix socket %s alone, which this service does not speak", chk.unixSocket()).stopping()
	}
	if found, secure, ok := chk.ofTLS(ctx, chk.Config.Origin, err); ok {
		do := chk.setOrigin(secure)
		if secure == "" {
			do = trust(err, ", where the service is started, too: ", "SSL_CERT_FILE=FILE ./"+config.RunFile)
		}
		return problem(subjectHomeserver, do, "%s", found).stopping()
	}
	do := "start it; or, if it listens elsewhere, " + chk.setOrigin("URL")
	if other := chk.elsewhere(ctx); other != "" {
		do = "it answers at " + other + ": " + chk.setOrigin(other)
	}
	switch {
	case err != nil:
		return problem(subjectHomeserver, do, "nothing answers at %s: %v", chk.Config.Origin, cmp.Or(h.NotReached(err).Cause, err)).stopping()
	case a.Status == http.StatusBadGateway || a.Status == http.StatusGatewayTimeout:
		return problem(subjectHomeserver, do, "a proxy answers at %s, and does not reach a homeserver (%d)", chk.Config.Origin, a.Status).stopping()
	}
	if a.Redirect != "" {
		return problem(subjectHomeserver, do, "%s answers %d to %s and redirects to %s: a proxy does that, and the homeserver does not", chk.Config.Origin, a.Status, versionsPath, a.Redirect).stopping()
	}
	return problem(subjectHomeserver, do, "%s answers %d to %s, as no homeserver does", chk.Config.Origin, a.Status, versionsPath).stopping()
}

// trust says what to do about a certificate, and shows the command that does it where the certificate only has to be trusted.
func trust(err error, before, command string) string {
	if hint := homeserver.TrustHint(err); hint != homeserver.TrustCertificate {
		return hint
	}
	return homeserver.TrustCertificate + before + paste(command)
}

// setFlag is the cure that gives the service another value of a flag.
func setFlag(flag, value string) string {
	return "write in " + config.RunFile + ", or where else the service gets its flags: " + paste("--"+flag+" "+shell.Quote(value)) + "; then restart the service"
}

// setOrigin is the cure that names another origin of the homeserver.
func (chk *checking) setOrigin(origin string) string {
	if chk.Config.Way.IsMAS {
		return setFlag(config.FlagHomeserverURL, origin)
	}
	return setFlag(config.FlagMatrixURL, origin+chk.Config.Way.Path)
}

// ofTLS says what is wrong between TLS and plain HTTP at a URL that did not answer as it should. The other is the URL to give in its
// place, "" where the certificate is what is wrong.
func (chk *checking) ofTLS(ctx context.Context, at string, err error) (found, other string, ok bool) {
	u, parseErr := url.Parse(at)
	if parseErr != nil {
		return "", "", false
	}
	its := *u
	if u.Scheme == "https" {
		its.Scheme = "http"
		switch {
		case homeserver.IsUntrusted(err):
			return fmt.Sprintf("the certificate at %s is not accepted: %v", at, cmp.Or(chk.homeserver.NotReached(err).Cause, err)), "", true
		case homeserver.IsPlain(err):
			return "the port of " + at + " speaks plain HTTP", its.String(), true
		}
		return "", "", false
	}
	port := strconv.Itoa(names.URLPort(at))
	preferred, _, _ := strings.Cut(chk.Config.ServerName, ":")
	host, speaks := homeserver.SpeaksTLS(ctx, net.JoinHostPort(u.Hostname(), port), preferred)
	if !speaks {
		return "", "", false
	}
	its.Scheme, its.Host = "https", net.JoinHostPort(cmp.Or(host, u.Hostname()), port)
	return "the port of " + at + " speaks TLS", its.String(), true
}

// elsewhere looks for the homeserver at the other ports that its settings name, if it is on this machine.
func (chk *checking) elsewhere(ctx context.Context) string {
	if !isLocal(chk.Config.Origin) {
		return ""
	}
	for _, s := range chk.readAllSettings() {
		for _, l := range s.httpListeners() {
			at := "http://127.0.0.1:" + strconv.Itoa(l.port)
			if l.port == 0 || l.port == names.URLPort(chk.Config.Origin) || !slices.Contains(l.resources, "client") {
				continue
			}
			if said, _ := sayVersions(ctx, homeserver.NewClient(at, chk.Config.ServerName), nil); said != "" {
				return at
			}
		}
	}
	return ""
}

// homeserverName judges the name that the homeserver has, where it tells.
func (chk *checking) homeserverName(ctx context.Context) Finding {
	const subject = subjectHomeserver + " server_name"
	switch name, err := chk.homeserver.TellServerName(ctx); {
	case err != nil:
		return warning(subject, "see its log", "it is unknown: %v", err)
	case name == "":
		chk.isNamed = true
		return unseen(subject, "it does not tell: no listener there serves federation")
	case name != chk.Config.ServerName:
		return problem(subject, setFlag(config.FlagMatrixDomain, name), "it is %q and --%s is %q: every signature is over that name", name, config.FlagMatrixDomain, chk.Config.ServerName)
	}
	chk.isNamed = true
	return fine(subject, "%s, as --%s", chk.Config.ServerName, config.FlagMatrixDomain)
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
	case chk.Config.Way.IsMAS && issuer != "" && state != homeserver.Present:
		return fine(subject, "it has none of its own, behind Matrix Authentication Service")
	case state == homeserver.Present:
		return fine(subject, "it has %s, as --%s needs", chk.Config.Way.Name, config.FlagMatrixURL)
	case state == homeserver.Disabled && chk.Config.Way.TakesSecret:
		return problem(subject, homeserver.SharedSecretOff, "it has shared-secret registration switched off").follows(offBy...)
	case state == homeserver.Unknown && chk.Config.Way.IsMAS:
		return unseen(subject, "Matrix Authentication Service does not answer at %s, or fails", chk.Config.APIOrigin)
	case state == homeserver.Unknown:
		return problem(subject, "see its log", "it fails when it is asked for %s", chk.Config.Way.Name)
	}
	return problem(subject, missingFix(chk.Config, chk.server, otherURLs, issuer), "%s, and --%s names %s", itHas, config.FlagMatrixURL, chk.Config.Way.Name).follows(offBy...)
}

// offBy are the settings that switch shared-secret registration off.
var offBy = []string{
	config.HomeserverFile + " registration_shared_secret", config.HomeserverFile + " matrix_authentication_service",
	DendriteFile + " client_api.registration_shared_secret",
}

// missingFix returns what to type if the homeserver does not have the way of --matrixurl: another URL, if it has another way.
func missingFix(c config.Config, server homeserver.Software, otherURLs []string, issuer string) string {
	switch {
	case issuer != "":
		return "run genconfig --" + config.FlagForce + ": " + c.UseMAS(issuer)
	case len(otherURLs) > 0:
		return setFlag(config.FlagMatrixURL, otherURLs[0])
	case c.Way.IsMAS:
		return homeserver.MASNotInCharge
	}
	return c.Way.Missing(server)
}

// asToken judges whether the homeserver accepts the as_token.
func (chk *checking) asToken(ctx context.Context) Finding {
	const subject = subjectHomeserver + " as_token"
	h := chk.homeserver
	if chk.Config.ASToken == "" {
		return unseen(subject, "there is none").follows(subjectRegistration, subjectRegistration+" tokens")
	}
	a, err := h.Call(ctx, homeserver.Request{Within: homeserver.ReadTime, Method: http.MethodGet, Path: homeserver.WhoamiPath, Token: chk.Config.ASToken})
	switch {
	case err != nil:
		return problem(subject, "see the homeserver's log", "%v", h.NotReached(err)).stopping()
	case a.Status == http.StatusOK:
		chk.accepts = true
		return fine(subject, "accepted")
	case a.Status == http.StatusUnauthorized, a.Status == http.StatusForbidden:
		return problem(subject, "list this "+config.RegistrationFile+" in the homeserver's settings, if it is not, and restart the homeserver", "the homeserver does not know it (%d)", a.Status).
			follows(config.HomeserverFile, config.HomeserverFile+" app_service_config_files", DendriteFile+" app_service_api.config_files", subjectRun+" tokens").stopping()
	}
	return warning(subject, "see the homeserver's log", "it is unknown: %v", h.Failure(a, ""))
}

// profiles asks for that of a user who cannot be there, as the service asks.
func (chk *checking) profiles(ctx context.Context) Finding {
	const subject = subjectHomeserver + " profiles"
	if !chk.isNamed { // it would be another homeserver's
		return unseen(subject, "the homeserver has another server_name, or does not tell").follows(subjectHomeserver + " server_name")
	}
	_, err := chk.homeserver.DisplayName(ctx, names.UserID(nobody, chk.Config.ServerName))
	failed, isFailed := errors.AsType[*homeserver.Error](err)
	switch {
	case !isFailed:
		return fine(subject, "it shows this service which users exist")
	case failed.Limited:
		return warning(subject, askLater, "it limits look-ups, and so does not say")
	case !failed.Hidden:
		return warning(subject, "see the homeserver's log", "%v", failed)
	case chk.Config.ASToken != "" && !chk.accepts: // which is said, with what to do
		return unseen(subject, "the homeserver does not know the as_token").follows(subjectHomeserver + " as_token")
	}
	found, do := homeserver.WhyHidden(err)
	if chk.Config.Way.TakesSecret || chk.Config.Way.IsMAS {
		return warning(subject, do, "%s; nodes get in, but interrupted registrations may wait for them", found)
	}
	return problem(subject, do, "%s; and createUser is not used without that answer", found)
}

// provedSecret judges whether the homeserver accepts the shared secret.
func (chk *checking) provedSecret(ctx context.Context) Finding {
	const subject = subjectHomeserver + " shared secret"
	if chk.Config.SharedSecret == "" {
		return unseen(subject, "this service has none").follows("shared secret")
	}
	proves, err := homeserver.NewSharedSecretAPI(chk.homeserver, chk.admin, chk.Config.SharedSecret).ProvesSecret(ctx)
	switch {
	case err != nil:
		return warning(subject, "register a node with the command register, which tells", "it is unknown: %v", err).follows(subjectHomeserver + " registration")
	case !proves:
		return problem(subject, homeserver.OtherSecret, "the homeserver has another").follows(offBy...)
	}
	return fine(subject, "accepted")
}

const (
	registerSilent  registerIs = iota // nothing answers
	registerElse                      // something else answers
	registerLimited                   // somebody asks for fewer requests
	registerOther                     // a service for another server name does
	registerOurs
)

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
