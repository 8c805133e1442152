// mas_yaml.go judges the configuration of Matrix Authentication Service, if it can be read.

package check

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/mas"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
)

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
		return []Finding{problem(MASFile, cureOfSettings(s.err, "name the configuration of Matrix Authentication Service with --"+FlagMASConfig, restartMAS), "%v", s.err)}
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

func (chk *checking) masSettings(ctx context.Context) []Finding {
	s := readMASSettings(chk.MASConfig)
	if s == nil {
		return []Finding{unseen(MASFile, "there is no %s here: --%s FILE names its configuration", MASFile, FlagMASConfig)}
	}
	chk.report.keepSecret(s.masSecrets()...)
	return append(chk.judging(*s).masFindings(), chk.masKnowsHomeserver(ctx, *s)...)
}
