// reverse_proxy.go judges the reverse proxy as nodes see it: which requests have to reach the service and the homeserver through
// it, and which must not.

package check

import (
	"bytes"
	"cmp"
	"context"
	"net/http"
	"strings"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/nginx"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/shell"
)

const subjectProxy = "public URL"

// publicClient asks at --public-url.
func (chk *checking) publicClient() *homeserver.Client {
	return homeserver.NewClient(chk.Public, chk.Config.ServerName, chk.Config.ASToken, chk.Config.HSToken, chk.Config.SharedSecret)
}

// publicDoor judges whether anything answers where nodes come in, over what the URL says. Findings call that the public URL.
func (chk *checking) publicDoor(ctx context.Context) Finding {
	h := chk.publicClient()
	a, err := h.Call(ctx, homeserver.Request{Within: homeserver.ReadTime, Method: http.MethodGet, Path: versionsPath})
	if err == nil && a.Status == http.StatusOK {
		return fine(subjectProxy, "it answers at %s", chk.Public)
	}
	if found, other, ok := chk.ofTLS(ctx, chk.Public, err); ok {
		do := "give " + paste("--"+FlagPublicURL+" "+shell.Quote(other))
		if other == "" {
			do = trust(err, ": ", "SSL_CERT_FILE=FILE "+config.Program+" check --"+FlagPublicURL+" "+shell.Quote(chk.Public))
		}
		return problem(subjectProxy, do, "%s", found).stopping()
	}
	if err != nil {
		return problem(subjectProxy, "start nginx; or name the URL that nodes use: "+paste("--"+FlagPublicURL+" URL"), "nothing answers at %s: %v", chk.Public, cmp.Or(h.NotReached(err).Cause, err)).stopping()
	}
	if a.Redirect != "" {
		return problem(subjectProxy, "pass the path on without a redirect, since nodes do not follow it; or name the URL that nodes use: "+paste("--"+FlagPublicURL+" URL"),
			"%s answers %d to %s and redirects to %s", chk.Public, a.Status, versionsPath, a.Redirect).stopping()
	}
	return fine(subjectProxy, "it answers at %s", chk.Public)
}

// proxyRegister judges where registrations go.
func (chk *checking) proxyRegister(ctx context.Context) Finding {
	subject := subjectProxy + " " + chk.Daemon.Register
	do := chk.write(nginx.Register(chk.serviceURL(), chk.Daemon.Register))
	found := chk.askRegister(ctx, chk.publicClient(), nil)
	switch {
	case found.is == registerOurs:
		return fine(subject, "reaches a service for %s", chk.Config.ServerName)
	case found.is == registerOther:
		return problem(subject, do, "reaches a service for another server name").follows(subjectService, subjectHomeserver+" server_name")
	case found.is == registerLimited:
		return warning(subject, askLater, "%s asks for fewer requests, and so does not say where it leads", names.URLHost(chk.Public))
	case found.is == registerSilent:
		return problem(subject, "check again; if it stays so, see nginx's log", "there is no answer at %s", chk.Public).follows(subjectService)
	case found.status == http.StatusBadGateway || found.status == http.StatusGatewayTimeout:
		return problem(subject, "start the service; if it runs, "+do, "nginx does not reach a service (%d)", found.status).follows(subjectService)
	}
	f := problem(subject, do, "does not reach the service: %s answers %d", names.URLHost(chk.Public), found.status)
	if chk.atService == found { // what has the service's port answers here, too
		return f.follows(subjectService)
	}
	return f
}

func (chk *checking) proxyMatrix(ctx context.Context) Finding {
	h := chk.publicClient()
	const subject = subjectProxy + " /_matrix"
	do := chk.write(nginx.Matrix(nginx.GuideHomeserver)) // the guide's port, in case --matrixurl leads through nginx itself
	if names.URLHost(chk.Config.Origin) != names.URLHost(chk.Public) {
		do = chk.write(nginx.Matrix(chk.Config.Origin))
	}
	said, status := sayVersions(ctx, h, nil)
	switch {
	case said == "" && status == 0:
		return problem(subject, "check again; if it stays so, see nginx's log", "there is no answer at %s", chk.Public).follows(subjectHomeserver)
	case said == "" && (status == http.StatusBadGateway || status == http.StatusGatewayTimeout):
		return problem(subject, "start the homeserver; if it runs, "+do, "nginx does not reach a homeserver (%d)", status).follows(subjectHomeserver)
	case said == "":
		return problem(subject, do, "does not reach the homeserver: %s answers %d", names.URLHost(chk.Public), status)
	}
	if err := h.CheckServerName(ctx); err != nil {
		return problem(subject, do, "reaches another homeserver: %v", err).follows(subjectHomeserver + " server_name")
	}
	if own, _ := sayVersions(ctx, chk.homeserver, nil); own != "" && own != said {
		return problem(subject, do, "reaches another homeserver than %s", chk.Config.Origin)
	}
	return fine(subject, "reaches the homeserver")
}

// proxyAppService asks without a token. The service refuses that with a text that no other program has. nginx takes the last
// of the paths for the one where nodes register, and may pass it on as the client wrote it.
func (chk *checking) proxyAppService(ctx context.Context) Finding {
	h := chk.publicClient()
	const subject = subjectProxy + " application-service API"
	for _, path := range []string{chk.Daemon.Base + "/transactions/check", chk.Daemon.Modern + "/ping", chk.Daemon.Base + rawRegister} {
		method := http.MethodPut
		if strings.HasSuffix(path, "/ping") {
			method = http.MethodPost
		}
		a, err := h.Call(ctx, homeserver.Request{Within: homeserver.ReadTime, Method: method, Path: path, Body: struct{}{}})
		if err == nil && chk.Daemon.IsOurs(a.Errcode, a.Message) {
			return warning(subject, chk.write(nginx.Register(chk.serviceURL(), chk.Daemon.Register))+" in the place of the location that passes it on",
				"%s arrives from outside; only the hs_token keeps others out", path)
		}
	}
	return fine(subject, "does not answer from outside")
}

const rawRegister = "/transactions/..%2fregister"

// proxyAdmin asks for a nonce of shared-secret registration, at --public-url and at the homeserver itself: the same answer is the
// homeserver's. Where that is known through nginx alone, or does not answer, only what no proxy says is taken for it.
func (chk *checking) proxyAdmin(ctx context.Context) Finding {
	const subject = subjectProxy + " /_synapse/admin"
	ask := func(h *homeserver.Client) (homeserver.Answer, error) {
		return h.Call(ctx, homeserver.Request{Within: homeserver.ReadTime, Method: http.MethodGet, Path: homeserver.SharedSecretPath})
	}
	isNonce := func(a homeserver.Answer) bool {
		return a.Status/100 == 2 && homeserver.IsObject(a.Body) && bytes.Contains(a.Body, []byte(`"nonce"`))
	}
	outside, err := ask(chk.publicClient())
	switch {
	case err != nil:
		return unseen(subject, "there was no answer: %v", chk.homeserver.NotReached(err))
	case isNonce(outside):
		return chk.passesAdmin(subject, outside)
	case outside.Errcode == "":
		return fine(subject, "does not answer from outside")
	}
	if names.URLHost(chk.Config.Origin) == names.URLHost(chk.Public) {
		return chk.proxyAdminBeside(ctx, subject, outside)
	}
	own, err := ask(chk.homeserver)
	switch {
	case err != nil:
		return unseen(subject, "the homeserver, whose answer there is compared, does not answer").follows(subjectHomeserver)
	case own.Status == outside.Status && bytes.Equal(own.Body, outside.Body):
		return chk.passesAdmin(subject, outside)
	}
	return fine(subject, "does not answer from outside: what does, says otherwise than the homeserver there")
}

// proxyAdminBeside compares the answer with the homeserver's to a path that it does not have, which goes through nginx.
func (chk *checking) proxyAdminBeside(ctx context.Context, subject string, outside homeserver.Answer) Finding {
	beside, err := chk.publicClient().Call(ctx, homeserver.Request{Within: homeserver.ReadTime, Method: http.MethodGet, Path: oldRegisterPaths[0] + "-"})
	if err != nil || beside.Errcode == "" {
		return unseen(subject, "the homeserver, whose answer there is compared, does not answer").follows(subjectHomeserver)
	}
	if beside.Status == outside.Status && bytes.Equal(beside.Body, outside.Body) || strings.Contains(outside.Message, "Shared secret registration") {
		return chk.passesAdmin(subject, outside)
	}
	return fine(subject, "does not answer from outside: what does, says otherwise than the homeserver")
}

// passesAdmin is the finding on an nginx that passes the admin API on.
func (chk *checking) passesAdmin(subject string, outside homeserver.Answer) Finding {
	return problem(subject, "take the location that lets it through out of nginx: only /_matrix and "+chk.Daemon.Register+" are for nodes", "answers from outside (%d): anyone can make the homeserver work there, and guess its secret", outside.Status)
}

// oldRegisterPaths are the paths where Synapse up to 0.34.0 accepts the shared secret as well.
var oldRegisterPaths = []string{"/_matrix/client/r0/register", "/_matrix/client/v2_alpha/register", "/_matrix/client/unstable/register"}

// proxyClientRegister judges whether clients reach the homeserver's own registration, where an old Synapse makes accounts for
// anybody who has the shared secret. It asks with a method that the path does not have: if nginx passes that on, the answer is
// the homeserver's own. For comparison it asks the homeserver itself; or, if that is known through nginx alone, a path beside
// this one, for which old Synapses give the same answer.
func (chk *checking) proxyClientRegister(ctx context.Context) Finding {
	h := chk.publicClient()
	const subject = subjectProxy + " client register"
	if chk.server.IsSynapse() && !chk.server.Before(1, 23) {
		return fine(subject, "%v takes no shared secret there", chk.server)
	}
	reference, beside := chk.homeserver, ""
	if names.URLHost(chk.Config.Origin) == names.URLHost(chk.Public) {
		reference, beside = h, "-"
	}
	for _, path := range oldRegisterPaths {
		outside, err := h.Call(ctx, homeserver.Request{Within: homeserver.ReadTime, Method: http.MethodPut, Path: path})
		own, ownErr := reference.Call(ctx, homeserver.Request{Within: homeserver.ReadTime, Method: http.MethodPut, Path: path + beside})
		switch {
		case err != nil || ownErr != nil || own.Errcode == "":
			return unseen(subject, "the homeserver, whose answer there is compared, does not answer").follows(subjectHomeserver)
		case outside.Status == own.Status && bytes.Equal(outside.Body, own.Body):
			return warning(subject, chk.write(nginx.Closed()), "%s is reached from outside, where Synapse up to 0.34.0 creates accounts for anyone who has its registration_shared_secret", path)
		}
	}
	return fine(subject, "is not reached from outside")
}

// A header that servers refuse for its size and a proxy accepts: over Go's 12 KiB and Twisted's 16 KiB in all, and each line
// below nginx's 8 KiB.
const (
	fatLines     = 3
	fatAddresses = 600 // in a line, of 11 bytes
)

// proxyForwarded judges whether the proxy replaces the X-Forwarded-For that a client sends. The servers after the proxy do not
// say what arrives. But they refuse a request with a very large header, if it arrives. If they accept it without the proxy as
// well, it cannot be told.
func (chk *checking) proxyForwarded(ctx context.Context) Finding {
	h := chk.publicClient()
	const subject = subjectProxy + " X-Forwarded-For"
	const line = nginx.Forwards
	fat := http.Header{}
	for range fatLines {
		fat.Add("X-Forwarded-For", strings.Repeat("192.0.2.1, ", fatAddresses)+"192.0.2.1")
	}
	var told []string
	switch chk.forwardedToService(ctx, h, fat) {
	case forwardingPassed:
		return problem(subject, "write in nginx, in location = "+chk.Daemon.Register+": "+paste(line), "nginx passes the client's own X-Forwarded-For on to the service, which then cannot identify the client")
	case forwardingReplaced:
		told = append(told, "service")
	}
	switch chk.forwardedToHomeserver(ctx, h, fat) {
	case forwardingPassed:
		return problem(subject, "write in nginx, in the location of /_matrix: "+paste(line), "nginx passes the client's own X-Forwarded-For on to the homeserver, which then limits the logins of all nodes together, or of none")
	case forwardingReplaced:
		told = append(told, "homeserver")
	}
	if len(told) == 0 {
		return warning(subject, "look for client= in the service's log: it must be the node's address, and not nginx's; for that write in nginx, in both locations: "+paste(line), "it is unknown from here").follows(subjectService, subjectHomeserver, subjectProxy+" "+chk.Daemon.Register)
	}
	return fine(subject, "nginx puts its own in the place of the client's, for the %s", strings.Join(told, " and the "))
}

// A forwarding is what the proxy does with the client's own header.
type forwarding int

const (
	forwardingUnknown forwarding = iota
	forwardingReplaced
	forwardingPassed
)

func (chk *checking) forwardedToService(ctx context.Context, h *homeserver.Client, fat http.Header) forwarding {
	straight := homeserver.NewClient(chk.serviceURL(), chk.Config.ServerName)
	switch {
	case !chk.runs || !chk.askRegister(ctx, h, nil).is.isService() || chk.askRegister(ctx, straight, fat).is.isService():
		return forwardingUnknown
	case chk.askRegister(ctx, h, fat).is.isService():
		return forwardingReplaced
	}
	return forwardingPassed
}

func (chk *checking) forwardedToHomeserver(ctx context.Context, h *homeserver.Client, fat http.Header) forwarding {
	if !chk.answers || names.URLHost(chk.Config.Origin) == names.URLHost(chk.Public) {
		return forwardingUnknown
	}
	says := func(h *homeserver.Client, header http.Header) bool {
		said, _ := sayVersions(ctx, h, header)
		return said != ""
	}
	switch {
	case !says(h, nil) || says(chk.homeserver, fat):
		return forwardingUnknown
	case says(h, fat):
		return forwardingReplaced
	}
	return forwardingPassed
}
