// docs_api_test.go owns the test that docs/openapi.yaml and docs/nodes.md list exactly the answers of the service.

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"maps"
	"math/big"
	"mime"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/admission"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/ethereum/go-ethereum/common"
	"github.com/getkin/kin-openapi/openapi3"
)

// A documentedAPI is docs/openapi.yaml, and which of its answers were seen.
type documentedAPI struct {
	*testing.T
	doc  *openapi3.T
	seen map[string]bool
}

func readAPI(t *testing.T) *documentedAPI {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromFile("docs/openapi.yaml")
	if err == nil {
		err = doc.Validate(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	return &documentedAPI{t, doc, map[string]bool{}}
}

// pair is how an answer of a path is written here: the path, the status, and the errcode where there is one.
func pair(path string, status int, errcode string) string {
	return strings.TrimSpace(fmt.Sprint(path, " ", status, " ", errcode))
}

// documented lists all answers of the document.
func (d *documentedAPI) documented() (pairs []string) {
	for path, item := range d.doc.Paths.Map() {
		for _, operation := range item.Operations() {
			for status, response := range operation.Responses.Map() {
				code, err := strconv.Atoi(status)
				if err != nil {
					d.Errorf("%s: the status %s", path, status)
				}
				content := response.Value.Content
				var codes []any
				if body := content["application/json"]; body != nil {
					codes = errcodesOf(body.Schema.Value)
				}
				for _, errcode := range codes {
					pairs = append(pairs, pair(path, code, errcode.(string)))
				}
				if _, isText := content["text/plain"]; len(codes) == 0 || isText {
					pairs = append(pairs, pair(path, code, ""))
				}
			}
		}
	}
	return pairs
}

func errcodesOf(schema *openapi3.Schema) []any {
	for _, part := range schema.AllOf {
		if errcode := part.Value.Properties["errcode"]; errcode != nil && errcode.Value.Enum != nil {
			return errcode.Value.Enum
		}
	}
	return nil
}

// check holds an answer of the service against the document.
func (d *documentedAPI) check(name, method, path string, status int, header http.Header, body []byte) {
	d.Helper()
	item := d.doc.Paths.Value(path)
	if item == nil || item.GetOperation(method) == nil {
		d.Errorf("%s: openapi.yaml has no %s %s", name, method, path)
		return
	}
	response := item.GetOperation(method).Responses.Value(strconv.Itoa(status))
	if response == nil {
		d.Errorf("%s: openapi.yaml has no %d of %s: %s", name, status, path, body)
		return
	}
	for key, documented := range response.Value.Headers {
		if documented.Value.Required && header.Get(key) == "" {
			d.Errorf("%s: %d of %s has no %s", name, status, path, key)
		}
	}
	media, _, _ := mime.ParseMediaType(header.Get("Content-Type"))
	content := response.Value.Content[media]
	if content == nil && (media != "" || len(body) > 0) {
		d.Errorf("%s: openapi.yaml has no %q of the %d of %s: %s", name, media, status, path, body)
		return
	}
	errcode := ""
	switch media {
	case "application/json", "application/x-ndjson":
		for line := range bytes.Lines(body) {
			var value any
			if err := json.Unmarshal(line, &value); err != nil {
				d.Errorf("%s: %d of %s: %v in %s", name, status, path, err, line)
				continue
			}
			if err := content.Schema.Value.VisitJSON(value, openapi3.MultiErrors()); err != nil {
				d.Errorf("%s: %d of %s is not as openapi.yaml has it: %v\n%s", name, status, path, err, line)
			}
			if object, ok := value.(map[string]any); ok && status >= 400 {
				errcode, _ = object["errcode"].(string)
			}
		}
	case "text/plain":
		if err := content.Schema.Value.VisitJSON(string(body)); err != nil {
			d.Errorf("%s: %d of %s is not as openapi.yaml has it: %v\n%s", name, status, path, err, body)
		}
	}
	d.seen[pair(path, status, errcode)] = true
}

// recorded has a handler answer a request, and checks the answer.
func (d *documentedAPI) recorded(name, path string, handler http.Handler, r *http.Request) {
	d.Helper()
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	method := r.Method
	if path == registerPath { // its 405 is that of another method, its 404 that of another path
		method = http.MethodPost
	}
	d.check(name, method, path, w.Code, w.Header(), w.Body.Bytes())
}

// compare wants that all answers of the document were seen.
func (d *documentedAPI) compare() {
	d.Helper()
	documented := d.documented()
	for _, pair := range documented {
		if !d.seen[pair] {
			d.Errorf("no request was answered with %q, which openapi.yaml has", pair)
		}
	}
	for pair := range d.seen {
		if !slices.Contains(documented, pair) {
			d.Errorf("a request was answered with %q, which openapi.yaml does not have", pair)
		}
	}
}

// Each answer to a node is as docs/openapi.yaml has it, and each answer there is given. So it is with what the operator asks.
func TestOpenAPI(t *testing.T) {
	api := readAPI(t)
	api.askAsNode()
	api.askRaw()
	api.askAsOperator()
	api.askSocket()
	api.compare()
}

// askAsNode has each error of wire.go happen that a node can meet.
func (d *documentedAPI) askAsNode() {
	post := func(body string) *http.Request {
		return httptest.NewRequest(http.MethodPost, registerPath, strings.NewReader(body))
	}
	proof, n := newProof(d.T)
	sent, _ := json.Marshal(proof)
	with := func(field, value string) string {
		fields := map[string]string{"localpart": proof.Localpart, "displayname": proof.DisplayName, "password": proof.Password, field: value}
		text, _ := json.Marshal(fields)
		return string(text)
	}
	form := post("")
	form.Header.Set("Content-Type", "text/html")
	one := config.Limits{Rate: 1e-9, Burst: 1}
	for _, test := range []struct {
		name string
		of   func(g *gateway) *http.Request
	}{
		{"created", func(g *gateway) *http.Request { return post(string(sent)) }},
		{"no JSON", func(*gateway) *http.Request { return post("{") }},
		{"no object", func(*gateway) *http.Request { return post("[]") }},
		{"a field missing", func(*gateway) *http.Request { return post("{}") }},
		{"another localpart", func(*gateway) *http.Request { return post(with("localpart", "0x")) }},
		{"another password", func(*gateway) *http.Request { return post(with("password", "00")) }},
		{"another signature", func(*gateway) *http.Request {
			return post(with("password", strings.TrimPrefix(proof.DisplayName, proof.Localpart[2:6]+"-")))
		}},
		{"not admitted", func(g *gateway) *http.Request {
			g.server.admission = newAdmissionGateway(d.T, common.Address{}.Hex(), admission.Options{}).server.admission
			return post(string(sent))
		}},
		{"holds too little", func(g *gateway) *http.Request {
			g.server.admission = newAdmissionGateway(d.T, "none", newEthNode(d.T).asks(big.NewInt(1))).server.admission
			return post(string(sent))
		}},
		{"the chain does not tell", func(g *gateway) *http.Request {
			node := newEthNode(d.T)
			node.fail(says(500, ""))
			g.server.admission = newAdmissionGateway(d.T, "none", node.asks(big.NewInt(1))).server.admission
			return post(string(sent))
		}},
		{"banned", func(g *gateway) *http.Request {
			claimed := g.claim(n)
			defer claimed.Release()
			if err := claimed.Ban(ban{n.UserID, time.Now()}); err != nil {
				d.Fatal(err)
			}
			return post(string(sent))
		}},
		{"another path", func(*gateway) *http.Request {
			return httptest.NewRequest(http.MethodPost, registerPath+"/x", nil)
		}},
		{"an unclean path", func(*gateway) *http.Request {
			return httptest.NewRequest(http.MethodPost, "/x/.."+registerPath, nil)
		}},
		{"another method", func(*gateway) *http.Request { return httptest.NewRequest(http.MethodGet, registerPath, nil) }},
		{"registered", func(g *gateway) *http.Request {
			g.send(proof)
			return post(string(sent))
		}},
		{"too large", func(*gateway) *http.Request { return post(strings.Repeat("x", bodyLimit+1)) }},
		{"another media type", func(*gateway) *http.Request { return form }},
		{"too often", func(g *gateway) *http.Request {
			g.limited(one)
			g.server.handler().ServeHTTP(httptest.NewRecorder(), post("{"))
			return post("{")
		}},
		{"the homeserver limits", func(g *gateway) *http.Request {
			g.homeserver.Fail(callCreateUser, says(429, `{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":2000}`))
			return post(string(sent))
		}},
		{"a panic", func(g *gateway) *http.Request {
			g.server.registrar.accounts = &panicAccounts{}
			return post(string(sent))
		}},
		{"the homeserver fails", func(g *gateway) *http.Request {
			g.homeserver.Fail(callCreateUser, says(500, "{}"))
			return post(string(sent))
		}},
		{"shutting down", func(g *gateway) *http.Request {
			g.server.registrar.stop()
			return post(string(sent))
		}},
	} {
		g := newGateway(d.T, homeserver.CreateUserPath)
		request := test.of(g)
		d.recorded(test.name, registerPath, g.server.handler(), request)
	}
}

// askRaw sends what no HTTP client does: net/http itself answers, and not in JSON.
func (d *documentedAPI) askRaw() {
	address := newGateway(d.T, homeserver.CreateUserPath).serveLimited(config.Limits{})
	for name, request := range map[string]string{
		"no Host":                 "POST " + registerPath + " HTTP/1.1\r\n\r\n",
		"another Expect":          hostileHead + "Expect: x\r\nContent-Length: 0\r\n\r\n",
		"long headers":            hostileHead + "X: " + strings.Repeat("x", 2*headerLimit) + "\r\n\r\n",
		"another Transfer-Coding": hostileHead + "Transfer-Encoding: x\r\n\r\n",
	} {
		p := newPeer(d.T, address)
		io.WriteString(p, request)
		res, err := http.ReadResponse(p.in, nil)
		if err != nil {
			d.Errorf("%s: %v", name, err)
			continue
		}
		body, _ := io.ReadAll(res.Body)
		d.check(name, http.MethodPost, registerPath, res.StatusCode, res.Header, body)
	}
}

// askAsOperator asks at the listener of --ops-listen.
func (d *documentedAPI) askAsOperator() {
	for name, origin := range map[string]string{"ready": newStandIn(d.T).URL, "not ready": "http://127.0.0.1:1"} {
		s := openTestStore(d.T)
		c := measuredOf(d.T, config.Config{ServerName: testServerName, Origin: origin, Way: homeserver.CreateUser, ASToken: testASToken})
		c.metrics.watch(s)
		o := &ops{service: c, store: s, health: newHealth(d.Context(), c, s)}
		for _, path := range []string{"/livez", "/readyz", "/metrics"} {
			d.recorded(name, path, o.healthHandler(), httptest.NewRequest(http.MethodGet, path, nil))
		}
	}
}

// askSocket asks at the socket.
func (d *documentedAPI) askSocket() {
	backend := newStandIn(d.T)
	dir := d.TempDir()
	s := opened(d.T, dir)
	fillStore(d.T, s.(*boltStore), 20)
	c := serviceOf(config.Config{DataPath: dir, ServerName: testServerName, Origin: backend.URL, Way: homeserver.CreateUser, ASToken: testASToken, MinBalance: big.NewInt(1), Limits: config.Limits{}})
	c.attempts = newAttempts()
	o := &ops{service: c, store: s, health: newHealth(d.Context(), c, s)}
	ask := func(name, method, path string, query url.Values) {
		d.recorded(name, path, o.socketHandler(), httptest.NewRequest(method, path+"?"+query.Encode(), nil))
	}
	node := url.Values{nodeParameter: {testRecord(0, stateRegistered).Localpart}}
	paths := []struct{ method, path string }{
		{"GET", usersPath}, {"GET", backupPath}, {"GET", statusPath}, {"GET", refusedPath}, {"GET", lookUpPath}, {"POST", banPath}, {"POST", unbanPath}, {"GET", readinessPath},
	}
	for _, each := range paths {
		ask("right", each.method, each.path, node)
		ask("of another store", each.method, each.path, url.Values{storeParameter: {"another"}})
	}
	_, refused := newProof(d.T)
	c.attempts.note(netip.IPv6Loopback(), refused, "", errBanned)
	c.attempts.note(netip.IPv6Loopback(), refused, "created", nil)
	ask("with a refusal", "GET", refusedPath, nil)
	ask("with attempts", "GET", lookUpPath, url.Values{nodeParameter: {refused.Localpart}})
	ask("banned", "POST", banPath, node)
	ask("the banned", "GET", usersPath, url.Values{"state": {"banned"}})
	ask("a wrong state", "GET", usersPath, url.Values{"state": {"lost"}})
	for _, each := range []struct{ method, path string }{{"GET", lookUpPath}, {"POST", banPath}, {"POST", unbanPath}} {
		ask("no node", each.method, each.path, nil)
	}
	o.copies.Lock()
	ask("another backup", "GET", backupPath, nil)
	o.copies.Unlock()
	s.Close()
	for _, each := range paths {
		ask("the store fails", each.method, each.path, node)
	}
}

// What openapi.yaml has of the node's path is what wire.go can answer, but for what only the homeserver is answered.
func TestOpenAPIHasWire(t *testing.T) {
	api := readAPI(t)
	var documented []string
	for _, pair := range api.documented() {
		if rest, ok := strings.CutPrefix(pair, registerPath+" "); ok && strings.Contains(rest, "M_") {
			documented = append(documented, rest)
		}
	}
	inWire := wirePairs(t)
	for _, homeservers := range []string{"401 M_MISSING_TOKEN", "404 M_NOT_FOUND"} {
		if !inWire[homeservers] {
			t.Errorf("wire.go has no %s any more", homeservers)
		}
		delete(inWire, homeservers)
	}
	slices.Sort(documented)
	if got, want := strings.Join(slices.Sorted(maps.Keys(inWire)), "\n"), strings.Join(documented, "\n"); got != want {
		t.Errorf("wire.go has\n%s\nopenapi.yaml has\n%s", got, want)
	}

	page, err := os.ReadFile("docs/nodes.md")
	if err != nil {
		t.Fatal(err)
	}
	var rows []string
	for _, row := range regexp.MustCompile("(?m)^\\| ([0-9]{3}) \\| `(M_[A-Z_]+)` \\|").FindAllStringSubmatch(string(page), -1) {
		rows = append(rows, row[1]+" "+row[2])
	}
	slices.Sort(rows)
	if got, want := strings.Join(rows, "\n"), strings.Join(documented, "\n"); got != want {
		t.Errorf("the table of docs/nodes.md has\n%s\nopenapi.yaml has\n%s", got, want)
	}
}

// wirePairs reads from wire.go which status goes with which errcode.
func wirePairs(t *testing.T) map[string]bool {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), "wire.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	errcodes, statuses := map[string]string{}, map[string]int{"StatusBadRequest": 400}
	for _, status := range statusNames {
		statuses["Status"+strings.ReplaceAll(strings.ReplaceAll(http.StatusText(status), " ", ""), "-", "")] = status
	}
	pairs := map[string]bool{"404 M_UNRECOGNIZED": true, "405 M_UNRECOGNIZED": true} // the router's, which wire.go writes anew
	ast.Inspect(parsed, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok && len(spec.Values) == 1 && strings.HasPrefix(spec.Names[0].Name, "errcode") {
			if value, ok := spec.Values[0].(*ast.BasicLit); ok {
				errcodes[spec.Names[0].Name], _ = strconv.Unquote(value.Value)
			}
		}
		return true
	})
	used := map[string]bool{}
	ast.Inspect(parsed, func(n ast.Node) bool {
		literal, ok := n.(*ast.CompositeLit)
		if !ok {
			return true
		}
		status, errcode := 0, ""
		for _, element := range literal.Elts {
			if keyed, ok := element.(*ast.KeyValueExpr); ok {
				element = keyed.Value
			}
			switch e := element.(type) {
			case *ast.SelectorExpr:
				if s, ok := statuses[e.Sel.Name]; ok {
					status = s
				}
			case *ast.Ident:
				if errcodes[e.Name] != "" {
					errcode, used[e.Name] = errcodes[e.Name], true
					if of, ok := literal.Type.(*ast.MapType); ok && of != nil { // requestFaults
						pairs["400 "+errcode] = true
					}
				}
			}
		}
		if status != 0 && errcode != "" {
			pairs[fmt.Sprint(status, " ", errcode)] = true
		}
		return true
	})
	for name := range errcodes {
		if !used[name] {
			t.Errorf("wire.go answers nothing with %s", name)
		}
	}
	return pairs
}

// statusNames are the statuses that wire.go may name.
var statusNames = []int{400, 401, 403, 404, 409, 413, 415, 429, 500, 502, 503}
