// frontdoor_test.go owns deploy/nginx.conf: that nginx takes it as it is, lets nodes in over TLS, and lets nothing else
// through.

package e2e

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
)

// A frontDoor is an nginx with deploy/nginx.conf, of which ports, paths and the certificate are changed and nothing else.
type frontDoor struct {
	*nginx
	second      string // the host and port of the guide's port 8008
	certificate string
	pool        *x509.CertPool
}

// unchosen is the line that asks for the choice between TLS and plain HTTP. The tests choose TLS, where they do not say otherwise.
const unchosen = "listen 8008 choose_plain_or_ssl;"

// frontDoorChanges are the lines of deploy/nginx.conf that a test cannot use as they are. Each has to be there.
func frontDoorChanges(d *Deployment, dir string, port, secondPort int) []string {
	its := func(name string) string { return filepath.Join(dir, name) }
	return []string{
		"listen 443 ssl;", fmt.Sprintf("listen 127.0.0.1:%d ssl;", port),
		unchosen, fmt.Sprintf("listen 127.0.0.1:%d ssl;", secondPort),
		"server_name transport02.smartmesh.cn;", "server_name " + d.Domain + " localhost;",
		"/etc/letsencrypt/live/transport02.smartmesh.cn/fullchain.pem", its("cert.pem"),
		"/etc/letsencrypt/live/transport02.smartmesh.cn/privkey.pem", its("key.pem"),
		"/var/log/nginx/matrix-regservice.log", its("access.log"),
		"http://127.0.0.1:8009/", d.Gateway.URL + "/",
		"http://127.0.0.1:8007;", d.Homeserver.URL + ";",
	}
}

// newFrontDoor writes the configuration, and the few lines around it that are the distribution's on a real machine.
func newFrontDoor(t *testing.T, d *Deployment) *frontDoor {
	t.Helper()
	dir := filepath.Join(d.Dir, "frontdoor")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	ports := must(freePorts(2))(t)
	door := &frontDoor{nginx: &nginx{dir: dir, url: "https://localhost:" + strconv.Itoa(ports[0])}, second: "localhost:" + strconv.Itoa(ports[1])}
	door.certify(t)

	root := must(moduleRoot(t.Context()))(t)
	site := string(must(os.ReadFile(filepath.Join(root, "deploy", "nginx.conf")))(t))
	changes := frontDoorChanges(d, dir, ports[0], ports[1])
	for i := 0; i < len(changes); i += 2 {
		if !strings.Contains(site, changes[i]) {
			t.Fatalf("deploy/nginx.conf has no %q", changes[i])
		}
		site = strings.ReplaceAll(site, changes[i], changes[i+1])
	}
	around := `daemon off; master_process off; pid nginx.pid; error_log stderr;
events { worker_connections 512; }
http {
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    include site.conf;
}
`
	for name, content := range map[string]string{"nginx.conf": around, "site.conf": site} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return door
}

// certify makes a certificate for localhost that holds for a day.
func (door *frontDoor) certify(t *testing.T) {
	t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der := must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))(t)
	keyDER := must(x509.MarshalPKCS8PrivateKey(key))(t)
	door.certificate = filepath.Join(door.dir, "cert.pem")
	for _, file := range []struct {
		path, kind string
		der        []byte
	}{{door.certificate, "CERTIFICATE", der}, {filepath.Join(door.dir, "key.pem"), "PRIVATE KEY", keyDER}} {
		if err := os.WriteFile(file.path, pem.EncodeToMemory(&pem.Block{Type: file.kind, Bytes: file.der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	door.pool = x509.NewCertPool()
	door.pool.AddCert(must(x509.ParseCertificate(der))(t))
}

// ask sends the path as it stands here: a client's library would clean it up first.
func (door *frontDoor) ask(ctx context.Context, method, path string, body []byte, headers ...string) (Answer, http.Header, error) {
	host := strings.TrimPrefix(door.url, "https://")
	dialer := tls.Dialer{Config: &tls.Config{RootCAs: door.pool}}
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	conn, err := dialer.DialContext(ctx, "tcp", host)
	if err != nil {
		return Answer{}, nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	headers = append(headers, "Host: "+host, "Connection: close", "Content-Type: application/json", "Content-Length: "+strconv.Itoa(len(body)))
	fmt.Fprintf(conn, "%s %s HTTP/1.1\r\n%s\r\n\r\n%s", method, path, strings.Join(headers, "\r\n"), body) // nginx may answer before it has read it all
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return Answer{}, nil, err
	}
	defer res.Body.Close()
	content, err := io.ReadAll(res.Body)
	a := Answer{Status: res.StatusCode, Body: string(content)}
	json.Unmarshal(content, &a) // the body is there to be seen where it is not JSON
	return a, res.Header, err
}

func TestFrontDoor(t *testing.T) {
	recipe := Recipes[0]
	need.All(t, recipe.Installed(t.Context()), NginxInstalled())
	d := must(Prepare(t.Context(), Plan{Recipe: recipe, Domain: domain, Dir: t.TempDir()}))(t)
	door := newFrontDoor(t, d)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(d.LogTails(), logTail(door.logFile()))
		}
		_, err := door.process.stop()
		if err := errors.Join(err, d.Close()); err != nil {
			t.Error(err)
		}
	})
	binary := must(findNginx())(t)
	testFrontDoorChoice(t, door, binary)
	if out, err := exec.CommandContext(t.Context(), binary, "-t", "-p", door.dir, "-c", "nginx.conf").CombinedOutput(); err != nil || strings.Contains(string(out), "[warn]") {
		t.Fatalf("nginx -t: %v\n%s", err, out)
	}

	must(d.Genconfig(t.Context()))(t)
	if err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	door.serve(t, binary)
	for _, scene := range []struct {
		name string
		play func(*testing.T, *Deployment, *frontDoor)
	}{
		{"a node enters over TLS", testFrontDoorEnters},
		{"the client's address arrives", testFrontDoorClient},
		{"nothing else is reached", testFrontDoorClosed},
		{"no TLS, no entry", testFrontDoorPlain},
		{"check finds nothing wrong with it", testFrontDoorCheck},
		{"a released node enters where plain HTTP is chosen", testFrontDoorReleased},
		{"bodies are bounded", testFrontDoorBody},
		{"requests are bounded", testFrontDoorRate},
		{"no token is logged", testFrontDoorLog},
		{"the service is down", testFrontDoorDown}, // the last: it stops the gateway
	} {
		t.Run(scene.name, func(t *testing.T) { scene.play(t, d, door) })
	}
}

// serve starts nginx, and waits until the homeserver answers through it.
func (door *frontDoor) serve(t *testing.T, binary string) {
	t.Helper()
	door.process = must(startProcess("nginx", door.logFile(), exec.Command(binary, "-p", door.dir, "-c", "nginx.conf")))(t)
	if err := door.process.ready(t.Context(), func(ctx context.Context) bool {
		a, _, err := door.ask(ctx, http.MethodGet, versionsPath, nil)
		return err == nil && a.Status == http.StatusOK
	}); err != nil {
		t.Fatal(err)
	}
}

// choose writes another line than TLS at the guide's port.
func (door *frontDoor) choose(t *testing.T, from, to string) {
	t.Helper()
	breakFile(t, door.dir, "site.conf", regexp.QuoteMeta(from), to)
}

// Nobody leaves released nodes out, or their passwords in the clear, without having chosen so.
func testFrontDoorChoice(t *testing.T, door *frontDoor, binary string) {
	t.Helper()
	_, port, _ := strings.Cut(door.second, ":")
	chosen := "listen 127.0.0.1:" + port + " ssl;"
	door.choose(t, chosen, unchosen)
	out, err := exec.CommandContext(t.Context(), binary, "-t", "-p", door.dir, "-c", "nginx.conf").CombinedOutput()
	if err == nil || !strings.Contains(string(out), `"choose_plain_or_ssl"`) {
		t.Errorf("nginx -t of the file as it is shipped: %v\n%s", err, out)
	}
	door.choose(t, unchosen, chosen)
}

// doorSays is what check says of one subject, and how it ends.
func (door *frontDoor) doorSays(t *testing.T, d *Deployment, url, subject string) (finding string, code int) {
	t.Helper()
	r := must(d.Program.Run(t.Context(), d.Gateway.Dir, "check", "--all", "--public-url", url))(t)
	finding = regexp.MustCompile(`(?m)^\w+ +` + subject + `: .*(\n +.*)*`).FindString(r.Stdout)
	t.Logf("%s: exit %d: %s", url, r.Code, finding)
	if r.Code != 0 && !strings.HasPrefix(finding, "problem ") {
		t.Errorf("check says\n%s", r.Stdout)
	}
	if problems := regexp.MustCompile(`(?m)^problem `).FindAllString(r.Stdout, -1); r.Code != min(len(problems), 1) || len(problems) > 1 {
		t.Errorf("exit %d with %d problems:\n%s", r.Code, len(problems), r.Stdout)
	}
	return finding, r.Code
}

// Check finds nothing wrong with the file, whichever line was chosen; and says once what keeps it from asking over TLS.
func testFrontDoorCheck(t *testing.T, d *Deployment, door *frontDoor) {
	for _, test := range []struct{ name, url, certificate, says string }{
		{"plain HTTP at a port that speaks TLS", "http://" + door.second, "", "speaks TLS\n    give\n        --public-url https://" + door.second + "\n    and not checked: "},
		{"a certificate that is not known here", door.url, "", "x509: certificate signed by unknown authority\n    set SSL_CERT_FILE to the file of the certificate"},
		{"TLS", door.url, door.certificate, "it answers at " + door.url},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("SSL_CERT_FILE", test.certificate)
			finding, code := door.doorSays(t, d, test.url, "public URL")
			if !strings.Contains(finding, test.says) || (code == 0) != (test.certificate != "") {
				t.Errorf("exit %d, %s, want %q", code, finding, test.says)
			}
			r := must(d.Program.Run(t.Context(), d.Dir, "register", "--matrixdomain", d.Domain, "--server", test.url, "--generate", filepath.Join(t.TempDir(), "key")))(t)
			cure := map[string]string{"plain HTTP at a port that speaks TLS": "this port speaks TLS: give https://" + door.second, "a certificate that is not known here": "set SSL_CERT_FILE to the file of the certificate", "TLS": ""}[test.name]
			if (r.Code == 0) != (cure == "") || !strings.Contains(r.Stderr, cure) {
				t.Errorf("register: exit %d: %s, want %q", r.Code, r.Stderr, cure)
			}
		})
	}
}

// A released Photon node speaks plain HTTP to the guide's port, and check says what becomes of it there.
func testFrontDoorReleased(t *testing.T, d *Deployment, door *frontDoor) {
	n := newNode(t, d)
	plain := "http://" + door.second + registerPath
	want(t, must(n.RegisterAt(t.Context(), plain))(t), http.StatusBadRequest, "M_UNKNOWN")

	must(door.process.stop())(t)
	_, port, _ := strings.Cut(door.second, ":")
	door.choose(t, port+" ssl;", port+";")
	door.serve(t, must(findNginx())(t))
	want(t, must(n.RegisterAt(t.Context(), plain))(t), http.StatusOK, "")
	if got, code := door.doorSays(t, d, "http://"+door.second, "public URL released nodes"); code != 0 || !strings.HasPrefix(got, "ok ") {
		t.Errorf("exit %d: check does not see that released nodes get in: %q", code, got)
	}
}

func testFrontDoorEnters(t *testing.T, d *Deployment, door *frontDoor) {
	t.Setenv("SSL_CERT_FILE", door.certificate)
	r := must(d.Program.Run(t.Context(), d.Dir, "register", "--matrixdomain", d.Domain, "--server", door.url, "--generate", filepath.Join(d.Dir, "tls.key")))(t)
	if r.Code != 0 || !strings.Contains(r.Stdout, "register  200") {
		t.Fatalf("exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	t.Log(r.Stdout)
}

func testFrontDoorClient(t *testing.T, d *Deployment, door *frontDoor) {
	n := newNode(t, d)
	a, _, err := door.ask(t.Context(), http.MethodPost, registerPath, must(json.Marshal(n.Registration))(t), "X-Forwarded-For: 203.0.113.9")
	if err != nil {
		t.Fatal(err)
	}
	want(t, a, http.StatusOK, "")
	must(d.Gateway.WaitForLog(t.Context(), "Registered node", n.UserID, "client=127.0.0.1"))(t)
	if log := must(d.Gateway.Log())(t); strings.Contains(log, "203.0.113.9") {
		t.Error("a client can say that it is another")
	}
}

func testFrontDoorClosed(t *testing.T, d *Deployment, door *frontDoor) {
	hsToken := must(d.Gateway.tokens())(t)["hs_token"]
	for _, test := range []struct{ method, path string }{
		{"GET", "/"},
		{"GET", "/_synapse/admin/v1/register"},
		{"GET", "/_synapse/admin/v1/server_version"},
		{"GET", "/_synapse/client/"},
		{"PUT", "/regapp/1/transactions/1"},
		{"PUT", "/regapp/1/_matrix/app/v1/transactions/1"},
		{"POST", "/regapp/1/_matrix/app/v1/ping"},
		{"GET", "/regapp/1/users/x"},
		{"GET", "/regapp/1/_matrix/app/unstable/thirdparty/protocol/regapp." + d.Domain},
		{"POST", "/regapp/1/register/"},
		{"POST", "/regapp/1/registers"},
		{"POST", "/_matrix/client/api/v1/createUser"},
		{"POST", "/_matrix/client/r0/register"},
		{"POST", "/_matrix/client/v2_alpha/register"},
		{"POST", "/_matrix/client/unstable/register"},
		{"POST", "/_matrix/client/v3/register"},
		{"GET", "/_matrix/client/v2_alpha/admin/register"},
		{"GET", "/_matrix/client/r0/admin/whois/x%2f..%2f..%2f..%2f..%2f..%2f..%2f_matrix%2fx"},
		{"GET", "/_matrix/client/api/v1/admin/register"},
		{"GET", "/_matrix/client/r0/admin/register"},
		{"GET", "/_matrix/../_synapse/admin/v1/register"},
		{"GET", "/_matrix/%2e%2e/_synapse/admin/v1/register"},
		{"GET", "/_matrix/..%2f_synapse/admin/v1/register"},
		{"GET", "/_matrix/x/..%2F..%2F_synapse/admin/v1/register"},
		{"GET", "/_synapse/admin/v1/register/../../../../_matrix/client/versions"},
		{"GET", "/_synapse/../_matrix/client/versions"},
		{"GET", "/_matrix/client/./versions"},
		{"GET", "//_synapse/admin/v1/register"},
		{"GET", "//_matrix/client/versions"},
		{"GET", "/%5fsynapse/admin/v1/register"},
		{"GET", "/metrics"},
	} {
		a, _, err := door.ask(t.Context(), test.method, test.path+"?access_token="+hsToken, nil, "Authorization: Bearer "+hsToken)
		if err != nil {
			t.Errorf("%s %s: %v", test.method, test.path, err)
			continue
		}
		if a.Status != http.StatusNotFound || a.Errcode != "M_UNRECOGNIZED" || !strings.Contains(a.Message, "nginx passes nothing on here") {
			t.Errorf("%s %s: got %d %s, want nginx's own 404", test.method, test.path, a.Status, a.Body)
		}
	}
	if log := must(d.Gateway.Log())(t); strings.Contains(log, "/transactions/1") {
		t.Error("the application-service API was reached from outside")
	}
}

func testFrontDoorPlain(t *testing.T, d *Deployment, door *frontDoor) {
	n := newNode(t, d)
	plain := strings.Replace(door.url, "https", "http", 1) + registerPath
	want(t, must(n.RegisterAt(t.Context(), plain))(t), http.StatusBadRequest, "M_UNKNOWN")
	if log := must(d.Gateway.Log())(t); strings.Contains(log, n.UserID) {
		t.Error("a registration in the clear was passed on")
	}
}

func testFrontDoorBody(t *testing.T, _ *Deployment, door *frontDoor) {
	a, _, err := door.ask(t.Context(), http.MethodPost, registerPath, make([]byte, 8<<10+1))
	if err != nil {
		t.Fatal(err)
	}
	want(t, a, http.StatusRequestEntityTooLarge, "M_TOO_LARGE")
	if !strings.Contains(a.Message, "nginx") {
		t.Errorf("the service was asked: %s", a.Body)
	}
}

// A client gets sixty at once, and then one a second.
func testFrontDoorRate(t *testing.T, _ *Deployment, door *frontDoor) {
	const tries = 200
	for range tries {
		a, header, err := door.ask(t.Context(), http.MethodPost, registerPath, []byte("{}"))
		if err != nil {
			t.Fatal(err)
		}
		if a.Status == http.StatusBadRequest { // the service's answer
			continue
		}
		want(t, a, http.StatusTooManyRequests, "M_LIMIT_EXCEEDED")
		if header.Get("Retry-After") == "" || !strings.Contains(a.Body, "retry_after_ms") {
			t.Errorf("it does not say when to come again: %v %s", header, a.Body)
		}
		return
	}
	t.Fatalf("%d requests in a row were let through", tries)
}

func testFrontDoorLog(t *testing.T, d *Deployment, door *frontDoor) {
	content := string(must(os.ReadFile(filepath.Join(door.dir, "access.log")))(t))
	if !strings.Contains(content, registerPath) {
		t.Fatal("that is not the access log")
	}
	for kind, secret := range d.Secrets() {
		if strings.Contains(content, secret) {
			t.Errorf("nginx logs a secret: %s", kind)
		}
	}
}

func testFrontDoorDown(t *testing.T, d *Deployment, door *frontDoor) {
	if _, err := d.Gateway.Stop(); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(startTime) // the scene before may have used up the rate
	for {
		a, _, err := door.ask(t.Context(), http.MethodPost, registerPath, []byte("{}"))
		if err != nil {
			t.Fatal(err)
		}
		if a.Status == http.StatusTooManyRequests && time.Now().Before(deadline) {
			time.Sleep(pollPause)
			continue
		}
		want(t, a, http.StatusBadGateway, "M_UNKNOWN")
		return
	}
}
