// mas_yaml_homeserver.go judges whether Matrix Authentication Service and the homeserver know each other: what is written in
// both, and what the homeserver says to the one's secret. Neither shows in anything that the service itself answers.

package check

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/files"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/mas"
)

const (
	masEndpointByDefault = "http://localhost:8008/"

	// masAvailablePath asks as Matrix Authentication Service does whether a name is free, of one that nobody can have.
	masAvailablePath = "/_synapse/mas/is_localpart_available?localpart=%21"
)

// masKnowsHomeserver asks the homeserver where matrix.endpoint is with matrix.secret, and compares the secret with the one in
// homeserver.yaml. What the homeserver answers outranks that.
func (chk *checking) masKnowsHomeserver(ctx context.Context, s settingsFile) []Finding {
	const endpoint, secret = MASFile + " matrix.endpoint", MASFile + " matrix.secret"
	if s.err != nil {
		return nil
	}
	if kind := s.Text("matrix", "kind"); strings.HasPrefix(kind, "synapse_legacy") {
		return []Finding{unseen(endpoint, "matrix.kind is %s", kind)}
	}
	its, err := s.secretOr("secret_file", "", "matrix", "secret")
	chk.report.keepSecret(its)
	if err != nil {
		return []Finding{warning(secret, cureOf(err, "see that secret_file of "+s.fileOf("matrix")+" names the file of the secret"), notLookedAt+"%v", err)}
	}
	at := strings.TrimRight(cmp.Or(s.Text("matrix", "endpoint"), masEndpointByDefault), "/")
	client := homeserver.NewClient(at, chk.Config.ServerName, its)
	doEndpoint := strings.Replace(s.write(strconv.Quote(chk.Config.Origin), "matrix", "endpoint").String(), thenRestart, restartMAS, 1)
	a, err := client.Call(ctx, homeserver.Request{Within: homeserver.ReadTime, Method: http.MethodGet, Path: masAvailablePath, Token: its})
	reached := fine(endpoint, "a homeserver answers at %s", at)
	switch {
	case err != nil && isLocal(at):
		return []Finding{problem(endpoint, doEndpoint, "nothing answers at %s, where it looks for the homeserver: %v", at, cmp.Or(client.NotReached(err).Cause, err)), chk.compareMASSecrets(secret, its)}
	case err != nil:
		return []Finding{warning(endpoint, "see from its machine that the homeserver answers at "+at, "nothing answers at %s from here", at), chk.compareMASSecrets(secret, its)}
	case a.Status == http.StatusOK, slices.Contains([]string{"M_INVALID_USERNAME", "M_USER_IN_USE", "M_EXCLUSIVE"}, a.Errcode):
		if theirs, where, _, _ := chk.masSecretInSynapse(); theirs != "" && theirs != its {
			return []Finding{reached, warning(secret, mas.ErrSecret.Error(), "the homeserver takes it, and %s has another, which counts from the homeserver's next start on", where)}
		}
		return []Finding{reached, fine(secret, "the homeserver takes it")}
	case a.Status == http.StatusForbidden, a.Status == http.StatusUnauthorized:
		return []Finding{reached, problem(secret, mas.ErrSecret.Error(), "the homeserver refuses it (%d)", a.Status)}
	case a.TellsNothing():
		return []Finding{warning(endpoint, "see the homeserver's log", "what is at %s fails (%d)", at, a.Status), chk.compareMASSecrets(secret, its)}
	}
	return []Finding{problem(endpoint, doEndpoint+"; it is the homeserver's own port, not nginx's, and needs matrix_authentication_service in homeserver.yaml", "what is at %s does not know what Matrix Authentication Service asks (%d)", at, a.Status), chk.compareMASSecrets(secret, its)}
}

// compareMASSecrets compares the secret of its configuration with the one in homeserver.yaml.
func (chk *checking) compareMASSecrets(subject string, its string) Finding {
	theirs, where, do, err := chk.masSecretInSynapse()
	switch {
	case err != nil:
		return warning(subject, do, notLookedAt+"%v", err).follows(config.HomeserverFile)
	case theirs == "":
		return problem(subject, homeserver.MASNotInCharge, "%s has none to it", where).follows(config.HomeserverFile)
	case theirs != its:
		return problem(subject, mas.ErrSecret.Error(), "%s has another", where).follows(config.HomeserverFile)
	}
	return fine(subject, "the one of %s", where)
}

// masSecretInSynapse returns the secret in homeserver.yaml, "" if there is none, and the name of that file. Do says what to do
// about the error.
func (chk *checking) masSecretInSynapse() (theirs, where, do string, err error) {
	for _, h := range chk.settings {
		where = filepath.Base(h.path)
		if h.err != nil {
			do = "name it with --" + FlagHomeserverConfig
			if !errors.Is(h.err, errNoSettings) {
				do = cureOfSettings(h.err, do, thenRestart)
			}
			return "", where, do, h.err
		}
		if theirs, err = h.secretOr("secret_path", chk.process.Dir, "matrix_authentication_service", "secret"); err != nil {
			return "", where, cureOf(err, "see that secret_path of "+h.fileOf("matrix_authentication_service")+" names the file of the secret"), err
		}
	}
	return theirs, where, "", nil
}

// secretOr is the secret under the path of keys, or what is in the file that the other key beside it names: from the directory
// that the program was started in, where that is seen.
func (s settingsFile) secretOr(fileKey, started string, path ...string) (string, error) {
	if inline := s.Text(path...); inline != "" {
		return inline, nil
	}
	key := slices.Concat(path[:len(path)-1], []string{fileKey})
	name := s.Text(key...)
	if name == "" {
		return "", nil
	}
	if !filepath.IsAbs(name) {
		name = filepath.Join(cmp.Or(started, filepath.Dir(s.fileOf(path[0]))), name)
	}
	return files.ReadSecret(name, strings.Join(path, "."))
}
