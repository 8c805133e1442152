// deployment.go owns a whole deployment: a homeserver, the gateway beside it, and nginx in front of both.

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/mas"
)

// A Plan is what a deployment is made of.
type Plan struct {
	Recipe Recipe
	Domain string
	Nginx  bool
	Ops    bool     // whether the gateway serves health and metrics
	Flags  []string // of the gateway, besides those it needs
	Dir    string   // empty, and stays when the deployment is closed
}

// A Deployment is one homeserver with its gateway.
type Deployment struct {
	Plan
	Program     *Program
	Homeserver  *Homeserver
	Gateway     *Gateway
	NodeURL     string // where nodes reach the homeserver
	RegisterURL string // and the gateway
	OpsAddress  string // where the gateway serves health and metrics
	MAS         *mas.Service
	MASURL      string // empty where the homeserver has its logins to itself

	nginx     *nginx
	masServer *http.Server
	extra     []*Gateway

	killed      *Gateway // by testKilled, for testReconciled
	interrupted *Node    // the node whose registration was under way

	mu      sync.Mutex
	nodes   int
	secrets map[string]string // what nobody may log, by its kind and a number
}

// Prepare builds the program and writes the configuration of homeserver and nginx. Nothing runs yet.
func Prepare(ctx context.Context, plan Plan) (*Deployment, error) {
	ports, err := freePorts(5)
	if err != nil {
		return nil, err
	}
	d := &Deployment{Plan: plan, secrets: make(map[string]string)}
	bin := filepath.Join(plan.Dir, "bin")
	if err := os.Mkdir(bin, 0o700); err != nil {
		return nil, err
	}
	if d.Program, err = Build(ctx, bin); err != nil {
		return nil, err
	}
	dir := filepath.Join(plan.Dir, plan.Recipe.Name)
	if plan.Recipe.behindMAS {
		d.MASURL = fmt.Sprintf("http://127.0.0.1:%d", ports[4])
	}
	d.Homeserver, err = newHomeserver(ctx, plan.Recipe, plan.Domain, dir, filepath.Join(plan.Dir, "homeserver.log"), ports[0], d.MASURL)
	if err != nil {
		return nil, err
	}
	d.AddSecret("shared secret", d.Homeserver.SharedSecret)
	d.AddSecret("secret between homeserver and Matrix Authentication Service", d.Homeserver.MASSecret)

	d.NodeURL = d.Homeserver.URL
	if plan.Nginx {
		gateway := fmt.Sprintf("http://127.0.0.1:%d", ports[1])
		d.nginx, err = newNginx(ctx, filepath.Join(plan.Dir, "nginx"), d.Homeserver.URL, gateway, d.MASURL, ports[2])
		if err != nil {
			return nil, err
		}
		d.NodeURL = d.nginx.url
	}
	createURL := d.Homeserver.URL
	if plan.Recipe.createByNginx {
		createURL = d.NodeURL
	}
	flags := slices.Concat(plan.Recipe.genconfig, plan.Flags)
	if plan.Recipe.behindMAS {
		createURL = d.MASURL
		flags = append(flags, "--homeserver-url", d.Homeserver.URL)
	}
	if plan.Ops {
		d.OpsAddress = fmt.Sprintf("127.0.0.1:%d", ports[3])
		flags = append(flags, "--ops-listen", d.OpsAddress)
	}
	d.Gateway = newGateway(d.Program, plan.Domain, createURL+plan.Recipe.createPath, dir, filepath.Join(plan.Dir, "gateway.log"), ports[1], flags...)
	d.RegisterURL = d.Gateway.RegisterURL
	if plan.Nginx {
		d.RegisterURL = d.NodeURL + registerPath
	}
	return d, nil
}

// Genconfig writes the gateway's files beside the homeserver's, which loads one of them when it starts.
func (d *Deployment) Genconfig(ctx context.Context) (stdout string, err error) {
	if stdout, err = d.Gateway.Genconfig(ctx); err != nil {
		return "", err
	}
	if d.Recipe.behindMAS {
		if err := d.makeMAS(); err != nil {
			return "", err
		}
	}
	return stdout, d.addTokens(d.Gateway)
}

var masClientFlag = regexp.MustCompile(`--mas-client-id (\S+)`)

// makeMAS makes the stand-in know the client that genconfig made.
func (d *Deployment) makeMAS() error {
	script, err := os.ReadFile(filepath.Join(d.Gateway.Dir, "run.sh"))
	if err != nil {
		return err
	}
	id := masClientFlag.FindSubmatch(script)
	secret, err := os.ReadFile(filepath.Join(d.Gateway.Dir, "mas_client_secret"))
	if err != nil || id == nil {
		return errors.Join(err, errors.New("genconfig made no client of Matrix Authentication Service"))
	}
	d.AddSecret("client secret", string(secret))
	d.MAS = mas.New(d.Domain, string(id[1]), string(secret), mas.Synapse{URL: d.Homeserver.URL, Secret: d.Homeserver.MASSecret})
	d.MAS.HomeserverSecret = d.Homeserver.MASSecret
	return nil
}

// startMAS serves the stand-in.
func (d *Deployment) startMAS() error {
	listener, err := net.Listen("tcp", strings.TrimPrefix(d.MASURL, "http://"))
	if err != nil {
		return err
	}
	d.masServer = &http.Server{Handler: d.MAS}
	go d.masServer.Serve(listener) // until Close
	return nil
}

// Start starts everything in the order of the guide. On an error too, Close has to be called.
func (d *Deployment) Start(ctx context.Context) error {
	if d.MAS != nil {
		if err := d.startMAS(); err != nil {
			return err
		}
	}
	if err := d.Homeserver.Start(ctx); err != nil {
		return err
	}
	if d.nginx != nil {
		if err := d.nginx.start(ctx); err != nil {
			return err
		}
	}
	return d.Gateway.Start(ctx)
}

// Close ends whatever runs, gateways first: they finish what they began with the homeserver.
func (d *Deployment) Close() error {
	var all []error
	for _, g := range append(d.extra, d.Gateway) {
		_, err := g.Stop()
		all = append(all, err)
	}
	if d.nginx != nil {
		_, err := d.nginx.process.stop()
		all = append(all, err)
	}
	all = append(all, d.Homeserver.Stop())
	if d.masServer != nil {
		all = append(all, d.masServer.Close())
	}
	return errors.Join(all...)
}

// AddGateway starts one more gateway for the homeserver, which knows nothing of it: with its own directory, its own
// tokens and the given URL to create accounts at. Further flags are for genconfig.
func (d *Deployment) AddGateway(ctx context.Context, name, createURL string, flags ...string) (*Gateway, error) {
	ports, err := freePorts(1)
	if err != nil {
		return nil, err
	}
	g, err := d.PrepareGateway(ctx, name, createURL, ports[0], flags...)
	if err != nil {
		return nil, err
	}
	return g, g.Start(ctx)
}

// PrepareGateway does all of that but the start, for a gateway at the given port.
func (d *Deployment) PrepareGateway(ctx context.Context, name, createURL string, port int, flags ...string) (*Gateway, error) {
	dir := filepath.Join(d.Dir, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	g := newGateway(d.Program, d.Domain, createURL, dir, filepath.Join(d.Dir, name+".log"), port, flags...)
	d.extra = append(d.extra, g)
	if _, err := g.Genconfig(ctx); err != nil {
		return nil, err
	}
	return g, d.addTokens(g)
}

// AddSecret notes what no log may hold.
func (d *Deployment) AddSecret(kind, secret string) {
	if secret == "" {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.secrets[fmt.Sprintf("%s %d", kind, len(d.secrets)+1)] = secret
}

func (d *Deployment) addTokens(g *Gateway) error {
	tokens, err := g.tokens()
	for kind, token := range tokens {
		d.AddSecret(kind, token)
	}
	return err
}

// Secrets are all that were noted: tokens, the shared secret, nodes' signatures, sessions.
func (d *Deployment) Secrets() map[string]string {
	d.mu.Lock()
	defer d.mu.Unlock()
	secrets := make(map[string]string, len(d.secrets))
	for kind, secret := range d.secrets {
		secrets[kind] = secret
	}
	return secrets
}

// LogTails are the ends of all logs, for a person who looks for the fault.
func (d *Deployment) LogTails() string {
	logs := []string{d.Homeserver.LogFile}
	if d.nginx != nil {
		logs = append(logs, d.nginx.logFile())
	}
	for _, g := range append([]*Gateway{d.Gateway}, d.extra...) {
		logs = append(logs, g.LogFile)
	}
	var tails string
	for _, log := range logs {
		if _, err := os.Stat(log); err == nil {
			tails += fmt.Sprintf("--- the end of %s ---\n%s\n", filepath.Base(log), logTail(log))
		}
	}
	return tails
}
