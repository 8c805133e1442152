// service.go judges this service by its answers where the homeserver and nginx ask it: its register path, its hs_token, and the
// homeserver's ping. Its calls create, change and end nothing.

package check

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
)

// serviceURL is where the service listens.
func (chk *checking) serviceURL() string {
	return "http://" + net.JoinHostPort(names.ReachableHost(chk.Config.Host), strconv.Itoa(chk.Config.Port))
}

// service judges whether the service runs with this server name.
func (chk *checking) service(ctx context.Context) Finding {
	origin := chk.serviceURL()
	h := homeserver.NewClient(origin, chk.Config.ServerName, chk.Config.HSToken)
	found := chk.askRegister(ctx, h, http.Header{"X-Forwarded-For": {"127.0.0.1"}}) // as nginx would, else its log says that one does not
	chk.atService = found
	start := "start it: " + paste("./"+config.RunFile) + "; or say where it listens with --" + config.FlagHost + " and --" + config.FlagPort
	chk.runs = found.is != registerSilent && found.is != registerElse
	switch found.is {
	case registerSilent:
		return problem(subjectService, start, "nothing answers at %s", origin).follows(subjectAccess, "store").stopping()
	case registerElse:
		return problem(subjectService, "stop that program, and "+start, "%s is another program's: it answers %d", origin, found.status).stopping()
	case registerLimited:
		return warning(subjectService, askLater, "%s asks for fewer requests, and so does not say whose it is", origin).stopping()
	case registerOther:
		return problem(subjectService, setFlag(config.FlagMatrixDomain, chk.Config.ServerName), "what listens at %s serves another --%s", origin, config.FlagMatrixDomain).
			follows(subjectHomeserver + " server_name").stopping()
	}
	return fine(subjectService, "it answers at %s", origin)
}

// hsToken judges whether the service was started with the hs_token that the homeserver calls it with.
func (chk *checking) hsToken(ctx context.Context) Finding {
	const subject = subjectService + " hs_token"
	if chk.Config.HSToken == "" {
		return unseen(subject, "there is none").follows(subjectRegistration, subjectRegistration+" tokens")
	}
	h := homeserver.NewClient(chk.serviceURL(), chk.Config.ServerName, chk.Config.HSToken)
	a, err := h.Call(ctx, homeserver.Request{Within: homeserver.ReadTime, Method: http.MethodPost, Path: chk.Daemon.Modern + "/ping", Token: chk.Config.HSToken, Body: struct{}{}})
	switch {
	case err != nil:
		return warning(subject, "see the service's log", "it is unknown: %v", h.NotReached(err))
	case a.Status == http.StatusForbidden:
		return problem(subject, "restart the service, in the directory of "+config.RegistrationFile, "it was started with another than that of %s", config.RegistrationFile).
			follows(subjectRun + " tokens").stopping()
	}
	return fine(subject, "the one of %s", config.RegistrationFile)
}

// A pinged is what came of a ping.
type pinged struct {
	took time.Duration
	err  error
}

// ping has the homeserver call the service, once.
func (chk *checking) ping(ctx context.Context) pinged {
	if chk.pinged == nil {
		took, err := chk.homeserver.Ping(ctx, chk.Config.AppServiceID, chk.Config.ASToken, chk.Daemon.Base)
		chk.pinged = &pinged{took, err}
	}
	return *chk.pinged
}

// mayPing tells whether all is known that a ping needs.
func (chk *checking) mayPing() bool { return chk.accepts && chk.runs && chk.Config.AppServiceID != "" }

// homeserverPing judges whether the homeserver reaches the service.
func (chk *checking) homeserverPing(ctx context.Context) Finding {
	const subject = subjectHomeserver + " ping"
	if !chk.mayPing() {
		return unseen(subject, "the id is needed for it, and an as_token that the homeserver accepts").follows(subjectRegistration, subjectRegistration+" tokens", subjectHomeserver+" as_token")
	}
	switch its := chk.ping(ctx); {
	case its.err == nil:
		return fine(subject, "it reaches this service, in %v", its.took.Round(time.Millisecond))
	case errors.Is(its.err, homeserver.ErrNoPing):
		return unseen(subject, "%v has no ping; its log says if it does not reach this service", cmp.Or(chk.server.String(), "the homeserver"))
	default:
		return problem(subject, "when "+config.RegistrationFile+" and the homeserver's settings are right, restart both the homeserver and the service", "%v", its.err).
			follows(subjectRegistration+" url", subjectService+" hs_token")
	}
}

// A registerIs is what answers at a register path.
type registerIs int

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
// signatures, before it asks the homeserver, and names the server name that should have been signed.
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
	case !strings.Contains(a.Message, strconv.Quote(h.ServerName)):
		return registerFound{registerOther, a.Status}
	}
	return registerFound{registerOurs, a.Status}
}
