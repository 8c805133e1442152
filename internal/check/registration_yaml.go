// registration_yaml.go judges registration.yaml, which genconfig wrote and people may have changed since.

package check

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/synapse"
)

const (
	subjectRegistration = config.RegistrationFile
	subjectRun          = config.RunFile

	restartBoth = "; then restart both the homeserver and the service"
)

// judgeRegistrationFile judges the file as such.
func judgeRegistrationFile(path string, file config.Registration, err error) []Finding {
	switch {
	case errors.Is(err, os.ErrNotExist):
		return []Finding{problem(subjectRegistration, "run this in the homeserver's directory, or name the file with --"+config.FlagRegistration+"; genconfig writes one", "there is no %s", path)}
	case errors.Is(err, os.ErrPermission):
		return []Finding{problem(subjectRegistration, RunAs(err), "it is there and cannot be read: %v", err)}
	case err != nil:
		if _, fault := synapse.DecodeFile(path); fault != nil { // which says what is wrong there, too
			err = fault
		}
		return []Finding{problem(subjectRegistration, "repair it, or write it anew with genconfig --"+config.FlagNewTokens, "%v", err)}
	}
	return []Finding{judgeMode(subjectRegistration, file.Path, 0o600)}
}

// takeRegistration judges the contents of registration.yaml, and takes the tokens and the id from it.
func (chk *checking) takeRegistration(file config.Registration, err error) []Finding {
	if err != nil {
		return nil
	}
	found := []Finding{chk.takeTokens(file), chk.judgeNamespace(file)}
	chk.Config.AppServiceID, _ = file.Text("id")
	return found
}

// takeTokens judges whether the keys are there that the homeserver needs to start, and whether the tokens are those of the
// flags.
func (chk *checking) takeTokens(file config.Registration) Finding {
	c := &chk.Config
	const subject = subjectRegistration + " tokens"
	anew := "write it anew with genconfig --" + config.FlagNewTokens + restartBoth
	given := map[string]*string{"as_token": &c.ASToken, "hs_token": &c.HSToken}
	flags := map[string]string{"as_token": config.FlagASToken, "hs_token": config.FlagHSToken}
	var bad []Finding
	for _, key := range []string{"id", "sender_localpart", "as_token", "hs_token"} {
		value, err := file.Text(key)
		token := given[key]
		switch {
		case err != nil:
			bad = append(bad, problem(subject, anew, "%v", err))
		case value == "" && token == nil:
			bad = append(bad, problem(subject, "write in "+file.Path+": "+paste(key+": "+strings.ReplaceAll(c.ServerName, ":", "-"))+restartBoth, "there is no %s", key))
		case value == "":
			bad = append(bad, problem(subject, anew, "there is no %s", key))
		case token == nil:
		case !names.IsToken(value):
			bad = append(bad, problem(subject, anew, "%s has characters that no token has", key))
		case *token != "" && *token != value:
			bad = append(bad, problem(subject, "leave --"+flags[key]+" out", "--%s is not its %s, which the homeserver uses", flags[key], key))
		default:
			*token = value
		}
	}
	if len(bad) > 0 {
		return bad[0]
	}
	if c.ASToken == c.HSToken {
		return problem(subject, anew, "as_token and hs_token are the same: anyone who receives one can act with the other")
	}
	return fine(subject, "id, as_token and hs_token are there")
}

// registrationURL judges whether the url leads to the service. It is asked there, and the homeserver is had to ping: what comes
// through is right, whatever it is called and however many proxies are on the way.
func (chk *checking) registrationURL(ctx context.Context) Finding {
	const subject = subjectRegistration + " url"
	if chk.registeredErr != nil {
		return unseen(subject, "%s cannot be read", config.RegistrationFile).follows(subjectRegistration)
	}
	file := chk.registered
	read := chk.judgeURL(file)
	value, _ := file.Text("url")
	isForm := value != "" && isServiceURL(value)
	comesThrough := chk.mayPing() && chk.ping(ctx).err == nil
	switch {
	case !isForm:
		return read
	case chk.runs && chk.leadsHere(ctx, value):
		return fine(subject, "%s leads to the service", value)
	case comesThrough && !isLocal(value):
		return fine(subject, "%s: the homeserver reaches the service", value)
	case comesThrough && read.Status == Problem:
		return warning(subject, read.Do, "%s; but the homeserver reaches the service, by another url than this: it was not started with this file", read.Found)
	}
	return read
}

// isServiceURL reports whether a url has the form that a registration needs.
func isServiceURL(value string) bool {
	u, err := url.Parse(value)
	return err == nil && names.IsHTTP(u) && u.User == nil && u.RawQuery == ""
}

// leadsHere asks what is at the url, without a token. The service refuses that with a text that no other program has.
func (chk *checking) leadsHere(ctx context.Context, value string) bool {
	path := strings.TrimPrefix(chk.Daemon.Modern, chk.Daemon.Base) + "/ping"
	h := homeserver.NewClient(strings.TrimSuffix(value, "/"), chk.Config.ServerName, chk.Config.HSToken)
	a, err := h.Call(ctx, homeserver.Request{Within: homeserver.ReadTime, Method: http.MethodPost, Path: path, Body: struct{}{}})
	return err == nil && chk.Daemon.IsOurs(a.Errcode, a.Message)
}

// judgeURL compares the url with where the service listens.
func (chk *checking) judgeURL(file config.Registration) Finding {
	c := chk.Config
	const subject = subjectRegistration + " url"
	want := "http://" + net.JoinHostPort(names.ReachableHost(c.Host), strconv.Itoa(c.Port)) + chk.Daemon.Base
	do := "write in " + file.Path + ": " + paste("url: "+want) + thenRestart
	value, err := file.Text("url")
	if err != nil || value == "" {
		return problem(subject, do, "there is none, so that the homeserver asks this service nothing")
	}
	if !isServiceURL(value) {
		return problem(subject, do, "it is not an absolute URL")
	}
	u, err := url.Parse(value)
	if err != nil {
		return problem(subject, do, "it is not an absolute URL")
	}
	sameHost := u.Hostname() == names.ReachableHost(c.Host) || names.IsLoopback(u.Hostname()) && names.IsLoopback(names.ReachableHost(c.Host))
	samePort, samePath := u.Port() == strconv.Itoa(c.Port), strings.TrimSuffix(u.Path, "/") == chk.Daemon.Base
	switch {
	case sameHost && samePort && samePath:
		return fine(subject, "%s is where the service listens", value)
	case sameHost && samePort:
		return problem(subject, do, "it is %s, and must end in %s", value, chk.Daemon.Base)
	case sameHost:
		return problem(subject, do, "it is %s, and the service listens on port %d", value, c.Port)
	}
	return warning(subject, do+", unless a proxy or another machine is meant", "it is %s, and the service listens on %s", value, c.Address())
}

// judgeNamespace judges for which users the as_token can act, and whose events are sent here.
func (chk *checking) judgeNamespace(file config.Registration) Finding {
	c := chk.Config
	const subject = subjectRegistration + " namespace"
	node := names.UserID(nobody, c.ServerName)
	narrow := config.NodesAlone(c.ServerName)
	do := "write in " + file.Path + ": " + paste("namespaces: {users: [{exclusive: false, regex: '"+narrow+"'}], aliases: [], rooms: []}") + thenRestart

	hasNodes, wide := false, false
	for _, space := range file.Namespaces.Users {
		compiled, err := regexp.Compile("^(?:" + space.Regex + ")") // Synapse matches it at the start
		if space.Regex == "" || err != nil {
			return problem(subject, do, "a namespace of users has no regex that can be read")
		}
		if space.Exclusive && compiled.MatchString(node) {
			return problem(subject, do, "it is exclusive: the homeserver then refuses to create any user in it, nodes too")
		}
		hasNodes = hasNodes || compiled.MatchString(node)
		wide = wide || compiled.MatchString(names.UserID("admin", c.ServerName)) || compiled.MatchString(names.UserID("0x", c.ServerName)) || compiled.MatchString("@a:example.org")
	}
	switch {
	case !hasNodes:
		return warning(subject, do, "no node is in it, so that the homeserver asks this service for none").follows(subjectHomeserver + " server_name")
	case wide && !c.Way.TakesSecret && !c.Way.IsMAS:
		return fine(subject, "everybody, as the guide has it for createUser")
	case wide:
		return warning(subject, do, "it covers more than nodes: the as_token can act for every user, server admins included, and the homeserver sends the events of all of them here")
	}
	return fine(subject, "nodes, and nobody else")
}

func (chk *checking) registration(context.Context) []Finding {
	return append(chk.keptFrom(chk.Config.RegistrationPath, chk.ofRegistration), chk.asLoaded()...)
}
