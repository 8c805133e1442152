// reverse_proxy_mas.go judges what the reverse proxy needs for Matrix Authentication Service: logins and logouts go there, and its
// admin API is not reached.

package check

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/mas"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/nginx"
)

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

// proxyLogout asks to end a session that nobody has, with the token where Photon writes it. Matrix Authentication Service says
// that there is none where nginx does not move it into the header.
func (chk *checking) proxyLogout(ctx context.Context) Finding {
	const subject, login = subjectProxy + " logout", subjectProxy + " login"
	if f, ok := chk.report.of(login); !ok || f.Status != OK {
		return unseen(subject, "of %s", login).follows(login)
	}
	a, err := chk.publicClient().Call(ctx, homeserver.Request{Within: homeserver.ReadTime, Method: http.MethodPost, Path: "/_matrix/client/r0/logout?access_token=check", Body: struct{}{}})
	switch {
	case err == nil && a.Errcode == "M_UNKNOWN_TOKEN":
		return fine(subject, "a token in the query arrives")
	case err == nil && a.Errcode == "M_MISSING_TOKEN":
		return warning(subject, chk.write(nginx.Logins(nginx.GuideMAS))+", with the port of its listener that serves compat",
			"a token in the query, where Photon has it, does not arrive: no node's logout ends its session")
	}
	return warning(subject, askLater, "it does not say whether a node's logout ends its session")
}
