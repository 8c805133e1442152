// cmd_genconfig_steps.go owns what genconfig says is left to do, at the homeserver and in nginx.

package main

import (
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/nginx"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/shell"
)

// printSteps says what is left to do on the homeserver and in nginx.
func printSteps(out io.Writer, c config.Config, dir string) {
	here := net.JoinHostPort(names.ReachableHost(c.Host), strconv.Itoa(c.Port))
	fmt.Fprintf(out, `
What is left to do:

1. In %s set

     app_service_config_files:
       - %s
`, config.HomeserverFile, strconv.Quote(filepath.Join(dir, config.RegistrationFile)))
	switch {
	case c.Way.IsApart:
		printMASSteps(out, c, dir)
	case !c.Way.TakesSecret:
		fmt.Fprintf(out, `     enable_registration: False
%s
   and restart the homeserver. It must be Synapse 0.34.0 or older: no later one
   has createUser. For Synapse 1.23.0 or later run genconfig with
     --%s http://127.0.0.1:8007%s
   which is reached on the homeserver's own port and not through nginx.
`, rateLimitLines(c.Way), config.FlagMatrixURL, homeserver.SharedSecretPath)
	default:
		fmt.Fprintf(out, `     enable_registration: false
     x_forwarded: true        (in the listener, behind nginx)
%s
   with the shared secret in it as well, and restart the homeserver: Synapse
   1.23.0 or later, but not 1.140.0. %s
   must be its own port (8007 in the guide), not nginx's: the path must not be
   reachable from outside.

   Dendrite has other names for them, in dendrite.yaml: registration.yaml under
   app_service_api.config_files, client_api.registration_shared_secret, and
   client_api.registration_disabled: true; user_api.bcrypt_cost: 4 is as safe as 10.
`, rateLimitLines(c.Way), c.Origin)
	}
	origin := c.Origin
	if names.URLPort(origin) == 8008 { // nginx's in the guide, and createUser may be reached through it
		origin = nginx.GuideHomeserver
	}
	locations := []nginx.Location{nginx.Matrix(origin), nginx.Closed(), nginx.Register("http://"+here, registerPath)}
	if c.Way.IsApart {
		locations = append(locations, nginx.Logins(nginx.GuideMAS))
	}
	fmt.Fprint(out, "\n2. In nginx, in the server that nodes reach (port 8008 in the guide):\n\n")
	for _, location := range locations {
		fmt.Fprint(out, location.Lines("     "))
	}
	if c.Way.IsApart {
		fmt.Fprintf(out, "\n   The last one is for its listener for everybody, not %s.\n", names.URLHost(c.APIOrigin))
	}
	fmt.Fprintf(out, `
3. Start the service, from any directory:

     %s

%s and %s hold tokens that can act as any user of the
homeserver: keep them as secret as %s.
`, shell.Quote(filepath.Join(dir, config.RunFile)), config.RegistrationFile, config.RunFile, config.HomeserverFile)
}

// printMASSteps says what is left to do on a homeserver behind Matrix Authentication Service, and there.
func printMASSteps(out io.Writer, c config.Config, dir string) {
	secret := c.MASClientSecretFile
	if !filepath.IsAbs(secret) {
		secret = filepath.Join(dir, secret)
	}
	fmt.Fprintf(out, `     matrix_authentication_service: {enabled: true, endpoint: …, secret: …}
     x_forwarded: true        (in the listener, behind nginx)
%[4]s
   and restart the homeserver. In the configuration of Matrix Authentication
   Service set

     clients:
       - client_id: "%[1]s"
         client_auth_method: client_secret_basic
         client_secret_file: %[2]s
     policy: {data: {admin_clients: ["%[1]s"]}}
     passwords: {enabled: true}
     account: {password_registration_enabled: false}
     rate_limiting:           (its default: three logins, then one in 20 s)
       login: {per_ip: %[5]s}
     http:
       listeners:             (one more, for this machine alone)
         - name: admin
           resources: [{name: adminapi}, {name: oauth}]
           binds: [{address: "%[3]s"}]

   and restart it. Who has that secret can act for every user.
`, c.MASClientID, strconv.Quote(secret), names.URLHost(c.APIOrigin), rateLimitLines(c.Way), homeserver.MASLoginLimit)
}

// rateLimitLines are what to set the homeserver's limits to, and why.
func rateLimitLines(w *homeserver.Way) string {
	why := fmt.Sprintf("# limits: by default a hub with %d channels gets half of its rooms", homeserver.HubChannels)
	return "     " + strings.Join(append([]string{why}, homeserver.RateLimitLines(w)...), "\n     ") + "\n"
}
