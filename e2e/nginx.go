// nginx.go owns the proxy that nodes reach, in front of homeserver and gateway.

package e2e

import (
	"context"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
)

// An nginx is one nginx, which needs no more than its own directory.
type nginx struct {
	dir     string
	url     string
	process *process
}

// findNginx returns where nginx is; it is rarely on the PATH of anyone but root.
func findNginx() (string, error) {
	for _, name := range []string{"nginx", "/usr/sbin/nginx", "/usr/local/sbin/nginx"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", need.Missing{What: "nginx", Cure: "apt-get install nginx-light"}
}

// NginxInstalled returns nil when nginx is there, and what to install otherwise.
func NginxInstalled() error {
	_, err := findNginx()
	return err
}

// newNginx writes the configuration. Login is where logins go that do not go to the homeserver.
func newNginx(ctx context.Context, dir, homeserver, gateway, login string, port int) (*nginx, error) {
	root, err := moduleRoot(ctx)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	values := struct {
		Homeserver, Gateway, Login string
		Port                       int
	}{homeserver, gateway, login, port}
	n := &nginx{dir: dir, url: "http://127.0.0.1:" + strconv.Itoa(port)}
	return n, render(filepath.Join(root, "e2e", "testdata", "nginx.conf"), filepath.Join(dir, "nginx.conf"), values)
}

// start starts nginx and waits until the homeserver answers through it.
func (n *nginx) start(ctx context.Context) error {
	path, err := findNginx()
	if err != nil {
		return err
	}
	n.process, err = startProcess("nginx", n.logFile(), exec.Command(path, "-p", n.dir, "-c", "nginx.conf"))
	if err != nil {
		return err
	}
	return n.process.ready(ctx, func(ctx context.Context) bool { return serves(ctx, n.url+versionsPath) })
}

// restart stops nginx, calls the function, and starts it again. It waits until nginx answers, whatever it is.
func (n *nginx) restart(ctx context.Context, between func() error) error {
	if _, err := n.process.stop(); err != nil {
		return err
	}
	if err := between(); err != nil {
		return err
	}
	path, err := findNginx()
	if err != nil {
		return err
	}
	if n.process, err = startProcess("nginx", n.logFile(), exec.Command(path, "-p", n.dir, "-c", "nginx.conf")); err != nil {
		return err
	}
	return n.process.ready(ctx, func(ctx context.Context) bool {
		_, err := call(ctx, http.MethodGet, n.url, "", nil)
		return err == nil
	})
}

// configFile is what it is told.
func (n *nginx) configFile() string { return filepath.Join(n.dir, "nginx.conf") }

func (n *nginx) logFile() string { return filepath.Join(n.dir, "error.log") }
