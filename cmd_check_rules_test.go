// cmd_check_rules_test.go owns that check judges by each row of its table of rules, in their order.

package main

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	masplay "github.com/SmartMeshFoundation/matrix-regservice/e2e/mas"
	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
	"github.com/SmartMeshFoundation/matrix-regservice/e2e/standin"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/admission"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/check"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
)

// A deployment is all that check looks at, each part right until a test breaks it: the files of a directory, a homeserver, the
// service with its store, and a reverse proxy.
type deployment struct {
	t     *testing.T
	way   *homeserver.Way
	h     *standin.Homeserver
	node  *ethNode
	port  int               // where the service listens
	files map[string]string // by name; the words in capitals are filled in
	modes map[string]os.FileMode
	flags []string // more flags of run.sh
	args  []string // more arguments of check

	admits   admission.Options   // of the running service
	serves   string              // its server name
	hsToken  string              // its
	passes   func(string) bool   // what the proxy passes on
	replaces bool                // it replaces X-Forwarded-For
	answers  http.HandlerFunc    // what answers where nodes come in, in the place of the proxy
	usurps   http.HandlerFunc    // what answers where the service listens, in its place
	store    string              // the store that the daemon says it serves, if that is not its directory
	stopped  func(d *deployment) // what is stopped before check asks
	closers  map[string]func()   // of what can be stopped
	unknown  http.HandlerFunc    // the homeserver's answer to what a stand-in does not know
	words    map[string]string   // the words that are filled in
	settings masplay.Settings    // of Matrix Authentication Service
	issuer   string              // who logs users in
}

const rightSettings = `server_name: transport02.smartmesh.cn
listeners:
  - {port: HOMESERVERPORT, type: http, x_forwarded: true, bind_addresses: ['127.0.0.1'], resources: [{names: [client, federation]}]}
enable_registration: false
expire_access_token: EXPIRE
user_directory: {search_all_users: true}
trusted_third_party_id_servers: []
app_service_config_files: [DIR/registration.yaml]
password_config: {enabled: PASSWORDS}
bcrypt_rounds: 4
signing_key_path: DIR/signing.key
rc_login: {address: {per_second: 5, burst_count: 50}, account: {per_second: 1, burst_count: 10}, failed_attempts: {per_second: 1, burst_count: 10}}
rc_message: {per_second: 20, burst_count: 200}
rc_room_creation: {per_second: 2, burst_count: 200}
rc_joins: {local: {per_second: 5, burst_count: 200}}
rc_joins_per_room: {per_second: 20, burst_count: 200}
rc_invites: {per_room: {per_second: 5, burst_count: 100}, per_user: {per_second: 1, burst_count: 200}, per_issuer: {per_second: 5, burst_count: 200}}
rc_presence: {per_user: {per_second: 1, burst_count: 10}}
rc_messages_per_second: 20
rc_message_burst_count: 200
`

const rightDendrite = `global: {server_name: transport02.smartmesh.cn}
client_api: {registration_disabled: true, registration_shared_secret: "SECRET", rate_limiting: {enabled: false}}
app_service_api: {config_files: [registration.yaml]}
user_api: {bcrypt_cost: 4}
`

const rightMAS = `http:
  listeners:
    - {name: admin, resources: [{name: adminapi}, {name: oauth}], binds: [{address: "127.0.0.1:HOMESERVERPORT"}]}
matrix: {homeserver: transport02.smartmesh.cn, endpoint: "http://127.0.0.1:HOMESERVERPORT", secret: mas-and-synapse}
clients:
  - {client_id: CLIENTID, client_auth_method: client_secret_basic, client_secret: CLIENTSECRET}
policy: {data: {admin_clients: [CLIENTID]}}
passwords: {enabled: true}
rate_limiting: {login: {per_ip: {burst: 50, per_second: 5}}}
`

const rightRegistration = `id: x
url: http://127.0.0.1:SERVICEPORT/regapp/1
as_token: ASTOKEN
hs_token: HSTOKEN
sender_localpart: transport02.smartmesh.cn
namespaces: {users: [{exclusive: false, regex: 'NAMESPACE'}], aliases: [], rooms: []}
`

const rightScript = `#!/bin/sh
exec matrix-regservice --matrixdomain transport02.smartmesh.cn --matrixurl MATRIXURL --port SERVICEPORT FLAGS "$@"
`

// newDeployment is one where all is right, with a homeserver of that way of creating accounts.
func newDeployment(t *testing.T, kind string) *deployment {
	t.Helper()
	d := &deployment{
		t: t, h: newStandIn(t), node: newEthNode(t), serves: testServerName, hsToken: testHSToken, replaces: true,
		modes: map[string]os.FileMode{"run.sh": 0o700}, closers: map[string]func(){}, words: map[string]string{},
		files: map[string]string{"registration.yaml": rightRegistration, "run.sh": rightScript, "signing.key": "x"},
	}
	d.passes = func(path string) bool {
		return path == registerPath || strings.HasPrefix(path, "/_matrix/") && !strings.HasSuffix(path, "/register")
	}
	d.unknown = func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/ping"):
			says(200, `{"duration_ms":1}`)(w, r)
		case strings.HasSuffix(r.URL.Path, "/login") && d.way.IsMAS:
			d.h.MAS.ServeHTTP(w, r)
		case strings.HasPrefix(r.URL.Path, "/_synapse/mas/") && r.Header.Get("Authorization") == "Bearer mas-and-synapse":
			says(400, `{"errcode":"M_INVALID_USERNAME"}`)(w, r)
		case strings.HasPrefix(r.URL.Path, "/_synapse/mas/"):
			says(403, `{"errcode":"M_FORBIDDEN"}`)(w, r)
		default:
			says(404, `{"errcode":"M_UNRECOGNIZED","error":"Unrecognized request"}`)(w, r)
		}
	}
	words := map[string]string{"EXPIRE": "false", "PASSWORDS": "true", "NAMESPACE": `^@0x[0-9a-f]{40}:transport02\.smartmesh\.cn$`}
	switch kind {
	case "createUser":
		d.way, d.h.Version = homeserver.CreateUser, `{"server":{"name":"Synapse","version":"0.34.0"}}`
		d.files["homeserver.yaml"] = rightSettings
		words["EXPIRE"], words["NAMESPACE"] = "true", "@.*"
	case "MAS":
		d.way, d.issuer = homeserver.MAS, d.h.URL+"/"
		d.h.Fail(standin.Login, d.h.MAS.ServeHTTP)
		d.h.Fail(standin.Logout, says(401, `{"errcode":"M_UNKNOWN_TOKEN","error":"Unrecognised access token"}`))
		d.files["homeserver.yaml"] = rightSettings + "matrix_authentication_service: {enabled: true, secret: mas-and-synapse}\n"
		d.files["mas.yaml"], d.files["mas_client_secret"] = rightMAS, testMASSecret
		words["PASSWORDS"] = "false"
		d.flags = []string{"--homeserver-url", d.h.URL, "--mas-client-id", testMASClientID, "--mas-client-secret-file", "mas_client_secret"}
	case "Dendrite":
		d.way, d.h.Version = homeserver.SharedSecret, `{"server":{"name":"Dendrite","version":"0.15.2"}}`
		d.files["dendrite.yaml"] = rightDendrite
	default:
		d.way = homeserver.SharedSecret
		d.files["homeserver.yaml"] = rightSettings + "registration_shared_secret: SECRET\n"
	}
	if d.way.TakesSecret {
		d.files["shared_secret"] = testSecret + "\n"
		d.flags = append(d.flags, "--sharesecret-file", "shared_secret")
	}
	for word, value := range words {
		d.words[word] = value
	}
	return d
}

// edit replaces a part of a file, which has to be there.
func (d *deployment) edit(file, from, to string) {
	d.t.Helper()
	before := d.files[file]
	if d.files[file] = strings.Replace(before, from, to, 1); d.files[file] == before {
		d.t.Fatalf("%s has no %q", file, from)
	}
}

// check starts all of it, and returns the exit code of check and what it found, by subject.
func (d *deployment) check() (code int, found map[string]check.Finding) {
	t := d.t
	t.Helper()
	dir := t.TempDir()
	t.Chdir(dir)
	captureLog(t)
	d.h.Fail("", d.unknown)
	d.h.Issuer = d.issuer
	d.h.MAS.Set(d.settings)

	service := httptest.NewUnstartedServer(nil)
	service.Config.MaxHeaderBytes = 8 << 10 // as serve has it
	d.port = names.URLPort("http://" + service.Listener.Addr().String())
	c := config.Config{ServerName: d.serves, Origin: d.h.URL, Way: d.way, ASToken: testASToken, HSToken: d.hsToken, SharedSecret: testSecret,
		MASClientID: testMASClientID, MASClientSecret: testMASSecret, DataPath: filepath.Join(dir, ".matrix"), EthRPC: d.admits.URL, MinBalance: d.admits.MinBalance, AdmitFile: d.admits.File}
	for word, value := range map[string]string{
		"MATRIXURL": d.h.URL + d.way.Path, "SERVICEPORT": fmt.Sprint(d.port), "HOMESERVERPORT": fmt.Sprint(names.URLPort(d.h.URL)), "DIR": dir,
		"ASTOKEN": testASToken, "HSTOKEN": testHSToken, "CLIENTID": testMASClientID, "CLIENTSECRET": testMASSecret, "FLAGS": strings.Join(d.flags, " "), "ETHNODE": d.node.URL,
	} {
		if d.words[word] == "" {
			d.words[word] = value
		}
	}
	for name, content := range d.files {
		content = strings.ReplaceAll(d.fill(d.fill(content)), "SECRET", testSecret)
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if mode, ok := d.modes[name]; ok {
			os.Chmod(name, mode)
		}
	}
	admits, err := admission.New(d.admits)
	if err != nil {
		t.Fatal(err)
	}
	made, err := newService(c, admits, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(c.DataPath, 0o700); err != nil {
		t.Fatal(err)
	}
	bolt, err := openBoltStore(c.DataPath, testServerName)
	if err != nil {
		t.Fatal(err)
	}
	operated := made
	operated.DataPath = cmp.Or(d.store, made.DataPath)
	stopOps, err := startOps(t.Context(), operated, bolt, nil)
	if err != nil {
		t.Fatal(err)
	}
	service.Config.Handler = newServer(made, bolt).handler()
	if d.usurps != nil {
		service.Config.Handler = d.usurps
	}
	service.Start()
	proxy := front(t, d.h.URL, service.URL, func(path string) bool { return d.passes(path) }, d.replaces)
	if d.answers != nil {
		other := httptest.NewServer(d.answers)
		t.Cleanup(other.Close)
		proxy = other.URL
	}
	closed := map[string]bool{}
	for name, end := range map[string]func(){"service": func() { service.Config.Close() }, "ops": stopOps, "store": func() { bolt.Close() }, "homeserver": d.h.Server.Close} {
		d.closers[name] = func() {
			if !closed[name] {
				closed[name] = true
				end()
			}
		}
	}
	t.Cleanup(func() {
		for _, name := range []string{"service", "ops", "store"} {
			d.closers[name]()
		}
	})
	if d.stopped != nil {
		d.stopped(d)
	}
	args := append([]string{"check", "--json", "--public-url", proxy}, d.args...)
	for i := range args {
		args[i] = d.fill(args[i])
	}
	before := filesBelow(t, dir, !closed["store"])
	code, said := runs(t, args...)
	if after := filesBelow(t, dir, !closed["store"]); !maps.Equal(before, after) {
		t.Errorf("check changes files: before %v, after %v", before, after)
	}
	var report check.Report
	if err := json.Unmarshal([]byte(said), &report); err != nil {
		t.Fatalf("exit %d: %s", code, said)
	}
	found = map[string]check.Finding{}
	for _, f := range report.Findings {
		if _, twice := found[f.Subject]; twice {
			t.Errorf("twice: %+v", f)
		}
		found[f.Subject] = f
		for _, secret := range []string{testASToken, testHSToken, testSecret, testMASSecret} {
			if strings.Contains(f.Found+f.Do, secret) {
				t.Errorf("holds a secret: %+v", f)
			}
		}
	}
	return code, found
}

// filesBelow are all files of the directory, with all that shows a change, but for those of a store that a daemon has open.
func filesBelow(t *testing.T, dir string, isOpen bool) map[string]string {
	t.Helper()
	all := map[string]string{}
	if err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || isOpen && entry.Name() == ".matrix" {
			return cmp.Or(err, fs.SkipDir)
		}
		stat, err := entry.Info()
		if err != nil {
			return err
		}
		content := []byte{}
		if stat.Mode().IsRegular() {
			if content, err = os.ReadFile(path); err != nil {
				return err
			}
		}
		all[path] = fmt.Sprintf("%v %v %x", stat.Mode(), stat.ModTime(), sha256.Sum256(content))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

// fill puts the values of the words in capitals.
func (d *deployment) fill(text string) string {
	for word, value := range d.words {
		text = strings.ReplaceAll(text, word, value)
	}
	return text
}

// A ruleRow breaks one thing, and says what becomes of one subject.
type ruleRow struct {
	subject string
	kind    string // of deployment
	what    string // is broken
	do      func(*deployment)
	want    check.Status
	because string // the cause that it stands under
}

func (r ruleRow) name() string { return r.subject + "/" + r.what }

// A ruleOutcome is what check says of a deployment.
type ruleOutcome struct {
	code  int
	found map[string]check.Finding
}

// brokenTogether are rows that break parts which do not touch each other, or the same part: one deployment shows them all. Those
// that lower a limit are in the first.
var brokenTogether = [][]string{
	{
		"environment/a variable of no flag",
		"homeserver.yaml server_name/another, while the homeserver says ours",
		"homeserver.yaml enable_registration/true",
		"homeserver.yaml user_directory/false",
		"homeserver.yaml expire_access_token/true",
		"homeserver.yaml trusted_third_party_id_servers/one",
		"homeserver.yaml listeners port/another, while the homeserver answers",
		"homeserver.yaml listeners bind_addresses/everywhere",
		"homeserver.yaml listeners x_forwarded/false",
		"homeserver.yaml listeners webclient/there",
		"homeserver.yaml app_service_config_files/not listed, while the homeserver knows it",
		"homeserver.yaml registration_shared_secret/another, while the homeserver has ours",
		"homeserver.yaml password_config/off",
		"homeserver.yaml bcrypt_rounds/12",
		"homeserver.yaml limit_usage_by_mau/true",
		"homeserver.yaml rc_profile/low",
		"registration.yaml/for everybody",
		"registration.yaml namespace/everybody",
		"run.sh/for everybody",
		"run.sh arguments/dropped",
		"run.sh flags/another was given",
		"shared secret/for everybody",
		"public URL application-service API/passed on",
		"public URL /_synapse/admin/passed on",
		"public URL X-Forwarded-For/the client's own",
		"Ethereum node URL/in a file for everybody",
	},
	{
		"dendrite.yaml global.server_name/another",
		"dendrite.yaml global.disable_federation/true",
		"dendrite.yaml client_api.registration_disabled/false",
		"dendrite.yaml client_api.registration_shared_secret/another",
		"dendrite.yaml client_api.rate_limiting/on",
		"dendrite.yaml app_service_api.config_files/not listed",
		"dendrite.yaml user_api.bcrypt_cost/10",
	},
	{
		"mas.yaml matrix.homeserver/another, while it says ours",
		"mas.yaml matrix.endpoint/nobody",
		"mas.yaml matrix.secret/another",
		"mas.yaml passwords/off",
		"mas.yaml account/open",
		"mas.yaml rate_limiting.login.per_ip/low",
		"mas.yaml http.listeners/open",
		"client secret/for everybody",
		"Matrix Authentication Service passwords/off",
		"Matrix Authentication Service registration/open",
		"public URL login/not passed on",
		"public URL /api/admin/passed on",
	},
	{
		"homeserver.yaml rc_messages_per_second/low",
		"registration.yaml namespace/nodes alone",
		"homeserver profiles/hidden",
		"public URL client register/passed on",
	},
	{"homeserver/down", "homeserver server_name/down", "service readiness/the homeserver is down", "public URL /_matrix/the homeserver is down"},
	{"service/down", "service hs_token/down", "public URL " + registerPath + "/the service is down"},
	{"service/another program", "public URL " + registerPath + "/another program has the service's port"},
	{"service access/registration.yaml is another's", "service/it may not read registration.yaml"},
	{"Matrix Authentication Service client/unknown", "Matrix Authentication Service passwords/the client is unknown"},
	{"public URL/nobody", "public URL /_matrix/nobody", "public URL released nodes/nobody"},
	{"store/another homeserver's", "service/the store is another homeserver's"},
	{"store/PostgreSQL is down", "service readiness/of another store"},
	{"service readiness/with PostgreSQL", "admit file/the running service with PostgreSQL has another list"},
	{"Ethereum node/it fails", "service readiness/the Ethereum node fails"},
}

// groupOf are the rows that are broken together with the row, itself among them.
func groupOf(t *testing.T, rows []ruleRow, row ruleRow) []ruleRow {
	t.Helper()
	for at, names := range brokenTogether {
		isLowered := func(r ruleRow) bool { return at == 0 && r.what == lowered }
		if !slices.Contains(names, row.name()) && !isLowered(row) {
			continue
		}
		var group []ruleRow
		for _, other := range rows {
			if slices.Contains(names, other.name()) || isLowered(other) {
				group = append(group, other)
				names = slices.DeleteFunc(slices.Clone(names), func(name string) bool { return name == other.name() })
			}
		}
		if len(names) > 0 {
			t.Fatalf("there are no rows %q", names)
		}
		return group
	}
	return []ruleRow{row}
}

const lowered = "lowered"

// limitRows lower each limit of Synapse.
func limitRows() []ruleRow {
	var rows []ruleRow
	for _, l := range homeserver.RateLimits {
		want := check.Warning
		if l.LocksOut {
			want = check.Problem
		}
		subject := "homeserver.yaml " + l.Name()
		rows = append(rows, ruleRow{subject, "", lowered, func(d *deployment) {
			before, its, isThere := strings.Cut(d.files["homeserver.yaml"], "\n"+l.Path[0]+": ")
			if len(l.Path) > 1 {
				its = strings.Replace(its, l.Path[1]+": {per_second", l.Path[1]+": {per_second: 0, x", 1)
			} else {
				its = strings.Replace(its, "{per_second", "{per_second: 0, x", 1)
			}
			if !isThere {
				d.t.Fatalf("there is no %s", subject)
			}
			d.files["homeserver.yaml"] = before + "\n" + l.Path[0] + ": " + its
		}, want, ""})
	}
	return rows
}

// in edits a file.
func in(file, from, to string) func(*deployment) {
	return func(d *deployment) { d.t.Helper(); d.edit(file, from, to) }
}

// adds writes lines at the end of a file.
func adds(file, lines string) func(*deployment) {
	return func(d *deployment) { d.files[file] += lines }
}

func mode(file string, mode os.FileMode) func(*deployment) {
	return func(d *deployment) { d.modes[file] = mode }
}

// all does one after the other.
func all(each ...func(*deployment)) func(*deployment) {
	return func(d *deployment) {
		for _, do := range each {
			do(d)
		}
	}
}

// lets makes the proxy pass on more.
func lets(more func(path string) bool) func(*deployment) {
	return func(d *deployment) {
		before := d.passes
		d.passes = func(path string) bool { return before(path) || more(path) }
	}
}

// keeps makes it pass on less.
func keeps(less func(path string) bool) func(*deployment) {
	return func(d *deployment) {
		before := d.passes
		d.passes = func(path string) bool { return before(path) && !less(path) }
	}
}

// stops stops a part before check asks.
func stops(parts ...string) func(*deployment) {
	return func(d *deployment) {
		d.stopped = func(d *deployment) {
			for _, part := range parts {
				d.closers[part]()
			}
		}
	}
}

// fails has the homeserver answer a call otherwise.
func fails(call string, status int, body string) func(*deployment) {
	return func(d *deployment) { d.h.Fail(call, says(status, body)) }
}

const unknownToken = `{"errcode":"M_UNKNOWN_TOKEN","error":"Invalid access token passed."}`

var ruleRows = []ruleRow{
	{"environment", "", "a variable of no flag", func(d *deployment) { d.t.Setenv("MATRIX_REGSERVICE_COLOUR", "blue") }, check.Warning, ""},

	{"homeserver", "", "down", stops("homeserver"), check.Problem, ""},
	{"homeserver", "", "unfit", func(d *deployment) { d.h.Version = `{"server":{"name":"Synapse","version":"1.140.0"}}` }, check.Problem, ""},
	{"homeserver", "", "another port in --matrixurl", in("run.sh", "MATRIXURL", "http://127.0.0.1:1/_synapse/admin/v1/register"), check.Problem, ""},
	{"homeserver.yaml listeners port", "", "another port in --matrixurl", in("run.sh", "MATRIXURL", "http://127.0.0.1:1/_synapse/admin/v1/register"), check.Problem, "homeserver"},
	{"homeserver server_name", "", "another", func(d *deployment) { d.h.Name = "example.org" }, check.Problem, ""},
	{"homeserver server_name", "", "down", stops("homeserver"), check.Note, "homeserver"},
	{"homeserver server_name", "", "it does not tell", fails(callKey, 404, `{"errcode":"M_UNRECOGNIZED"}`), check.Note, ""},

	{"homeserver.yaml", "", "no YAML", in("homeserver.yaml", "server_name", "\tserver_name"), check.Problem, ""},
	{"homeserver.yaml", "", "not here", func(d *deployment) { delete(d.files, "homeserver.yaml") }, check.Warning, ""},
	{"homeserver.yaml files passed over", "", "a .yml", all(func(d *deployment) { d.files["conf.yml"] = "a: 1\n"; d.args = []string{"--homeserver-config", "."} }), check.Warning, ""},
	{"homeserver.yaml server_name", "", "another, while the homeserver says ours", in("homeserver.yaml", "server_name: t", "server_name: x"), check.Warning, ""},
	{"homeserver.yaml server_name", "", "another, while the homeserver is down", all(in("homeserver.yaml", "transport02.smartmesh.cn", "example.org"), stops("homeserver")), check.Problem, ""},
	{"homeserver.yaml server_name", "", "another, and the homeserver says so", all(in("homeserver.yaml", "transport02.smartmesh.cn", "example.org"), func(d *deployment) { d.h.Name = "example.org" }), check.Problem, "homeserver server_name"},
	{"homeserver.yaml enable_registration", "", "true", in("homeserver.yaml", "enable_registration: false", "enable_registration: true"), check.Problem, ""},
	{"homeserver.yaml user_directory", "", "false", in("homeserver.yaml", "search_all_users: true", "search_all_users: false"), check.Problem, ""},
	{"homeserver.yaml expire_access_token", "", "true", in("homeserver.yaml", "EXPIRE", "true"), check.Warning, ""},
	{"homeserver.yaml trusted_third_party_id_servers", "", "one", in("homeserver.yaml", "servers: []", "servers: [vector.im]"), check.Warning, ""},
	{"homeserver.yaml listeners port", "", "another, while the homeserver answers", in("homeserver.yaml", "HOMESERVERPORT", "1"), check.Warning, ""},
	{"homeserver.yaml listeners bind_addresses", "", "everywhere", in("homeserver.yaml", "'127.0.0.1'", "'0.0.0.0'"), check.Warning, ""},
	{"homeserver.yaml listeners x_forwarded", "", "false", in("homeserver.yaml", "x_forwarded: true", "x_forwarded: false"), check.Problem, ""},
	{"homeserver.yaml listeners webclient", "", "there", in("homeserver.yaml", "[client, ", "[webclient, client, "), check.Problem, ""},
	{"homeserver.yaml app_service_config_files", "", "not listed, and the homeserver does not know it", all(in("homeserver.yaml", "[DIR/registration.yaml]", "[]"), fails(callWhoami, 401, unknownToken)), check.Problem, ""},
	{"homeserver.yaml app_service_config_files", "", "not listed, while the homeserver knows it", in("homeserver.yaml", "[DIR/registration.yaml]", "[]"), check.Warning, ""},
	{"homeserver.yaml registration_shared_secret", "", "another, and the homeserver has it", all(in("homeserver.yaml", "secret: SECRET", "secret: another-one"), fails(callRegister, 403, `{"errcode":"M_UNKNOWN","error":"HMAC incorrect"}`)), check.Problem, ""},
	{"homeserver.yaml registration_shared_secret", "", "another, while the homeserver has ours", in("homeserver.yaml", "secret: SECRET", "secret: another-one"), check.Warning, ""},
	{"homeserver.yaml password_config", "", "off", in("homeserver.yaml", "PASSWORDS", "false"), check.Problem, ""},
	{"homeserver.yaml matrix_authentication_service", "MAS", "not in charge", in("homeserver.yaml", "matrix_authentication_service: {enabled: true", "mas: {x: y"), check.Warning, ""},
	{"homeserver.yaml bcrypt_rounds", "", "12", in("homeserver.yaml", "bcrypt_rounds: 4", "bcrypt_rounds: 12"), check.Warning, ""},
	{"homeserver.yaml limit_usage_by_mau", "", "true", adds("homeserver.yaml", "limit_usage_by_mau: true\n"), check.Warning, ""},
	{"homeserver.yaml rc_profile", "", "low", adds("homeserver.yaml", "rc_profile: {per_second: 0.1, burst_count: 5}\n"), check.Warning, ""},
	{"homeserver.yaml rc_messages_per_second", "createUser", "low", in("homeserver.yaml", "rc_messages_per_second: 20", "rc_messages_per_second: 0.2"), check.Warning, ""},
	{"homeserver.yaml access", "", "registration.yaml is another's", func(d *deployment) {
		if os.Getuid() != 0 {
			need.Skip(d.t, need.Missing{What: "root, to give files away", Cure: "run the tests as root"})
		}
		d.stopped = func(d *deployment) {
			if err := os.Chown("signing.key", 54321, -1); err != nil {
				d.t.Fatal(err)
			}
		}
	}, check.Warning, ""},

	{"dendrite.yaml", "Dendrite", "no YAML", in("dendrite.yaml", "global", "\tglobal"), check.Problem, ""},
	{"dendrite.yaml global.server_name", "Dendrite", "another", in("dendrite.yaml", "server_name: t", "server_name: x"), check.Warning, ""},
	{"dendrite.yaml global.disable_federation", "Dendrite", "true", in("dendrite.yaml", "global: {", "global: {disable_federation: true, "), check.Problem, ""},
	{"dendrite.yaml client_api.registration_disabled", "Dendrite", "false", in("dendrite.yaml", "disabled: true", "disabled: false"), check.Problem, ""},
	{"dendrite.yaml client_api.registration_shared_secret", "Dendrite", "another", in("dendrite.yaml", `"SECRET"`, "another-one"), check.Warning, ""},
	{"dendrite.yaml client_api.rate_limiting", "Dendrite", "on", in("dendrite.yaml", "{enabled: false}", "{enabled: true}"), check.Warning, ""},
	{"dendrite.yaml app_service_api.config_files", "Dendrite", "not listed", in("dendrite.yaml", "[registration.yaml]", "[]"), check.Warning, ""},
	{"dendrite.yaml user_api.bcrypt_cost", "Dendrite", "10", in("dendrite.yaml", "bcrypt_cost: 4", "bcrypt_cost: 10"), check.Warning, ""},

	{"mas.yaml", "MAS", "no YAML", in("mas.yaml", "http:", "\thttp:"), check.Problem, ""},
	{"mas.yaml clients", "MAS", "another, and it refuses ours", all(in("mas.yaml", "client_id: CLIENTID", "client_id: 01J44RKQYM4G3TNVANTMTDYTX7"), fails(callToken, 401, `{"error":"invalid_client"}`)), check.Problem, ""},
	{"mas.yaml policy.data.admin_clients", "MAS", "none", all(in("mas.yaml", "[CLIENTID]", "[]"), func(d *deployment) { d.settings.NotAdmin = true }), check.Problem, ""},
	{"mas.yaml matrix.homeserver", "MAS", "another, while it says ours", in("mas.yaml", "homeserver: t", "homeserver: x"), check.Warning, ""},
	{"mas.yaml matrix.endpoint", "MAS", "nobody", in("mas.yaml", `"http://127.0.0.1:HOMESERVERPORT"`, "http://127.0.0.1:1"), check.Problem, ""},
	{"mas.yaml matrix.secret", "MAS", "another", in("mas.yaml", "mas-and-synapse", "another-secret"), check.Problem, ""},
	{"mas.yaml passwords", "MAS", "off", all(in("mas.yaml", "passwords: {enabled: true}", "passwords: {enabled: false}"), func(d *deployment) { d.settings.PasswordsOff = true }), check.Problem, ""},
	{"mas.yaml account", "MAS", "open", all(adds("mas.yaml", "account: {password_registration_enabled: true}\n"), func(d *deployment) { d.settings.Registration = true }), check.Problem, ""},
	{"mas.yaml rate_limiting.login.per_ip", "MAS", "low", in("mas.yaml", "burst: 50", "burst: 3"), check.Problem, ""},
	{"mas.yaml http.listeners", "MAS", "open", in("mas.yaml", `"127.0.0.1:`, `"[::]:`), check.Problem, ""},

	{"service access", "", "registration.yaml is another's", givenTo(54321, "service", "ops", "store"), check.Problem, ""},
	{"service access", "", "registration.yaml is another's, while the service answers", givenTo(54321, "ops"), check.Warning, ""},
	{"service", "", "it may not read registration.yaml", givenTo(54321, "service", "ops", "store"), check.Problem, "service access"},

	{"registration.yaml", "", "for everybody", mode("registration.yaml", 0o644), check.Problem, ""},
	{"registration.yaml tokens", "", "no id", in("registration.yaml", "id: x", "x: id"), check.Problem, ""},
	{"registration.yaml url", "", "another port, and nobody comes through", all(in("registration.yaml", "SERVICEPORT", "1"), func(d *deployment) { d.unknown = says(404, "{}") }), check.Problem, ""},
	{"registration.yaml url", "", "another port, while the homeserver comes through", in("registration.yaml", "SERVICEPORT", "1"), check.Warning, ""},
	{"registration.yaml url", "", "another name, while the homeserver comes through", in("registration.yaml", "127.0.0.1:SERVICEPORT", "gateway.invalid:1"), check.OK, ""},
	{"registration.yaml url", "", "through a proxy", func(d *deployment) {
		proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			says(401, `{"errcode":"M_MISSING_TOKEN","error":"no token"}`)(w, r)
		}))
		d.t.Cleanup(proxy.Close)
		d.edit("registration.yaml", "http://127.0.0.1:SERVICEPORT", proxy.URL)
		d.unknown = says(404, "{}")
	}, check.OK, ""},
	{"registration.yaml namespace", "", "everybody", func(d *deployment) { d.words["NAMESPACE"] = "@.*" }, check.Warning, ""},
	{"registration.yaml namespace", "createUser", "nodes alone", func(d *deployment) { d.words["NAMESPACE"] = `@0x[0-9a-f]{40}:transport02\.smartmesh\.cn` }, check.OK, ""},
	{"registration.yaml as Synapse loads it", "", "a date", in("registration.yaml", "id: x", "id: 2024-01-01"), check.Problem, ""},

	{"run.sh", "", "for everybody", mode("run.sh", 0o755), check.Problem, ""},
	{"run.sh arguments", "", "dropped", in("run.sh", ` "$@"`, ""), check.Warning, ""},
	{"run.sh tokens", "", "another", in("run.sh", "FLAGS", "FLAGS --hstoken another-hs-token"), check.Problem, ""},
	{"run.sh flags", "", "another was given", func(d *deployment) {
		d.args = []string{"--max-inflight", "4"}
		d.edit("run.sh", "FLAGS", "FLAGS --max-inflight 5")
	}, check.Problem, ""},

	{"shared secret", "", "for everybody", mode("shared_secret", 0o644), check.Problem, ""},
	{"client secret", "MAS", "for everybody", mode("mas_client_secret", 0o644), check.Problem, ""},

	{"homeserver registration", "", "switched off", fails(callNonce, 400, `{"errcode":"M_UNKNOWN","error":"Shared secret registration is not enabled"}`), check.Problem, ""},
	{"homeserver registration", "", "switched off in its settings", all(in("homeserver.yaml", "registration_shared_secret: SECRET", ""), fails(callNonce, 400, `{"errcode":"M_UNKNOWN","error":"Shared secret registration is not enabled"}`)), check.Problem, "homeserver.yaml registration_shared_secret"},
	{"homeserver as_token", "", "unknown", fails(callWhoami, 401, unknownToken), check.Problem, ""},
	{"homeserver as_token", "", "unknown and not listed", all(in("homeserver.yaml", "[DIR/registration.yaml]", "[]"), fails(callWhoami, 401, unknownToken)), check.Problem, "homeserver.yaml app_service_config_files"},
	{"homeserver profiles", "createUser", "hidden", fails(callProfile, 403, `{"errcode":"M_FORBIDDEN","error":"Profile isn't available"}`), check.Problem, ""},
	{"homeserver shared secret", "", "another", fails(callRegister, 403, `{"errcode":"M_UNKNOWN","error":"HMAC incorrect"}`), check.Problem, ""},

	{"Matrix Authentication Service client", "MAS", "unknown", fails(callToken, 401, `{"error":"invalid_client"}`), check.Problem, ""},
	{"Matrix Authentication Service scope", "MAS", "not granted", func(d *deployment) { d.settings.NotAdmin = true }, check.Problem, ""},
	{"Matrix Authentication Service admin API", "MAS", "none", func(d *deployment) { d.settings.NoAdminAPI = true }, check.Problem, ""},
	{"Matrix Authentication Service passwords", "MAS", "off", func(d *deployment) { d.settings.PasswordsOff = true }, check.Problem, ""},
	{"Matrix Authentication Service passwords", "MAS", "the client is unknown", fails(callToken, 401, `{"error":"invalid_client"}`), check.Note, "Matrix Authentication Service client"},
	{"Matrix Authentication Service registration", "MAS", "open", func(d *deployment) { d.settings.Registration = true }, check.Problem, ""},
	{"Matrix Authentication Service server name", "MAS", "another", fails(callSite, 200, `{"server_name":"example.org","password_login_enabled":true,"password_registration_enabled":false}`), check.Problem, ""},
	{"homeserver logins", "MAS", "of its own", func(d *deployment) { d.issuer = "" }, check.Problem, ""},
	{"Matrix Authentication Service listener", "MAS", "on another machine", in("run.sh", "MATRIXURL", "http://192.0.2.1:1/api/admin/v1/users"), check.Warning, ""},

	{"service", "", "down", stops("service"), check.Problem, ""},
	{"service", "", "another program", func(d *deployment) { d.usurps = says(404, "{}") }, check.Problem, ""},
	{"public URL " + registerPath, "", "another program has the service's port", func(d *deployment) { d.usurps = says(404, "{}") }, check.Problem, "service"},
	{"service", "", "of another server name", func(d *deployment) { d.serves = "example.org" }, check.Problem, ""},
	{"service hs_token", "", "another, and the homeserver does not come through", all(func(d *deployment) { d.hsToken = "another-hs-token"; d.unknown = says(404, "{}") }), check.Problem, ""},
	{"service hs_token", "", "down", stops("service"), check.Note, "service"},
	{"homeserver ping", "", "it does not come through", func(d *deployment) { d.unknown = says(502, `{"errcode":"M_CONNECTION_FAILED"}`) }, check.Problem, ""},
	{"homeserver ping", "", "the url is wrong", all(in("registration.yaml", "SERVICEPORT", "1"), func(d *deployment) { d.unknown = says(502, `{"errcode":"M_CONNECTION_FAILED"}`) }), check.Problem, "registration.yaml url"},
	{"service readiness", "", "the store cannot be written", stops("store"), check.Problem, ""},
	{"service readiness", "", "the homeserver is down", stops("homeserver"), check.Problem, "homeserver"},

	{"public URL", "", "nobody", func(d *deployment) { d.args = []string{"--public-url", "http://127.0.0.1:1"} }, check.Problem, ""},
	{"public URL /_matrix", "", "nobody", func(d *deployment) { d.args = []string{"--public-url", "http://127.0.0.1:1"} }, check.Note, "public URL"},
	{"public URL", "", "it speaks TLS", func(d *deployment) {
		secure := httptest.NewTLSServer(says(404, ""))
		d.t.Cleanup(secure.Close)
		d.args = []string{"--public-url", strings.Replace(secure.URL, "https", "http", 1)}
	}, check.Problem, ""},
	{"public URL " + registerPath, "", "not passed on", keeps(func(p string) bool { return p == registerPath }), check.Problem, ""},
	{"public URL " + registerPath, "", "the service is down", stops("service"), check.Problem, "service"},
	{"public URL /_matrix", "", "not passed on", keeps(func(p string) bool { return strings.HasPrefix(p, "/_matrix/") }), check.Problem, ""},
	{"public URL /_matrix", "", "the homeserver is down", stops("homeserver"), check.Problem, "homeserver"},
	{"public URL application-service API", "", "passed on", lets(func(p string) bool { return strings.HasPrefix(p, appServicePath) }), check.Warning, ""},
	{"public URL", "", "it redirects", func(d *deployment) {
		d.answers = http.RedirectHandler("https://example.org/", http.StatusMovedPermanently).ServeHTTP
	}, check.Problem, ""},
	{"public URL /_synapse/admin", "", "passed on", lets(func(p string) bool { return strings.HasPrefix(p, "/_synapse/") }), check.Problem, ""},
	{"public URL /_synapse/admin", "", "passed on, where the homeserver has it not", all(lets(func(p string) bool { return strings.HasPrefix(p, "/_synapse/") }), fails(callNonce, 404, `{"errcode":"M_UNRECOGNIZED","error":"Unrecognized request"}`)), check.Problem, ""},
	{"public URL /_synapse/admin", "", "nginx's own 404 in JSON", func(d *deployment) {
		d.answers = says(404, `{"errcode":"M_UNRECOGNIZED","error":"nginx passes nothing on here"}`)
	}, check.OK, ""},
	{"public URL client register", "createUser", "passed on", lets(func(p string) bool { return strings.HasSuffix(p, "/register") && strings.HasPrefix(p, "/_matrix/") }), check.Warning, ""},
	{"public URL X-Forwarded-For", "", "the client's own", func(d *deployment) { d.replaces = false }, check.Problem, ""},
	{"public URL released nodes", "", "nobody", func(d *deployment) { d.args = []string{"--public-url", "http://127.0.0.1:1"} }, check.Note, "public URL"}, // TestReleasedNodes has TLS there
	{"public URL login", "MAS", "not passed on", keeps(func(p string) bool { return strings.HasSuffix(p, "/login") }), check.Problem, ""},
	{"public URL logout", "MAS", "the token does not arrive", fails(standin.Logout, 401, `{"errcode":"M_MISSING_TOKEN","error":"Missing access token"}`), check.Warning, ""},
	{"public URL /api/admin", "MAS", "passed on", lets(func(p string) bool { return strings.HasPrefix(p, "/api/admin/") }), check.Warning, ""},

	{"store's URL", "", "in a file for everybody", func(d *deployment) {
		d.files["url"], d.modes["url"] = "postgres:///x?host=/nowhere\n", 0o644
		d.flags = append(d.flags, "--datapath-file", "url")
	}, check.Problem, ""},
	{"store's URL", "", "in a file of its own", func(d *deployment) {
		d.files["url"] = "postgres:///x?host=/nowhere\n"
		d.flags = append(d.flags, "--datapath-file", "url")
	}, check.OK, ""},
	{"store", "", "PostgreSQL is down", func(d *deployment) { d.flags = append(d.flags, "--datapath", "postgres:///x?host=/nowhere") }, check.Problem, ""},
	{"store", "", "another homeserver's", isElsewheres, check.Problem, ""},
	{"service", "", "the store is another homeserver's", isElsewheres, check.Problem, "store"},
	{"store", "", "another homeserver's, as this one says", all(isElsewheres, func(d *deployment) { d.h.Name = "example.org" }), check.Problem, "homeserver server_name"},
	{"store", "", "another process has it", stops("service", "ops"), check.Warning, ""},

	{"admit file", "", "no address", func(d *deployment) { d.files["list"] = "nobody\n"; d.flags = append(d.flags, "--admit-file", "list") }, check.Problem, ""},
	{"admit file", "", "the running service has no list", func(d *deployment) { d.files["list"] = aListed; d.flags = append(d.flags, "--admit-file", "list") }, check.Problem, ""},
	{"admit file", "", "the running service has another list", func(d *deployment) {
		d.files["list"], d.admits.File = aListed, writeTemp(d.t, "# nobody yet\n")
		d.flags = append(d.flags, "--admit-file", "list")
	}, check.Problem, ""},
	{"admit file", "", "the running service has one that run.sh does not name", func(d *deployment) { d.admits.File = writeTemp(d.t, aListed) }, check.Warning, ""},
	{"admit file", "", "the running service does not tell", stops("ops"), check.Note, ""},
	{"admit file", "", "the running service with PostgreSQL has another list", func(d *deployment) {
		d.files["list"], d.admits.File = aListed, writeTemp(d.t, "# nobody yet\n")
		d.store = "postgres:///x?host=/nowhere"
		d.flags = append(d.flags, "--admit-file", "list", "--datapath", d.store)
	}, check.Problem, ""},
	{"service readiness", "", "with PostgreSQL", func(d *deployment) {
		d.store = "postgres:///x?host=/nowhere"
		d.flags = append(d.flags, "--datapath", d.store)
	}, check.OK, ""},
	{"service readiness", "", "of another store", func(d *deployment) { d.flags = append(d.flags, "--datapath", "postgres:///x?host=/nowhere") }, check.Note, ""},
	{"admit file", "", "the same in both", func(d *deployment) {
		d.files["list"], d.admits.File = aListed, writeTemp(d.t, "# the same\n"+aListed)
		d.flags = append(d.flags, "--admit-file", "list")
	}, check.OK, ""},
	{"Ethereum node URL", "", "in a file for everybody", func(d *deployment) {
		d.files["eth"], d.modes["eth"] = "ETHNODE\n", 0o644
		d.admits = d.node.asks(big.NewInt(7))
		d.flags = append(d.flags, "--eth-rpc-file", "eth", "--min-balance", "7")
	}, check.Problem, ""},
	{"Ethereum node URL", "", "in a file of its own", func(d *deployment) {
		d.files["eth"] = "ETHNODE\n"
		d.admits = d.node.asks(big.NewInt(7))
		d.flags = append(d.flags, "--eth-rpc-file", "eth", "--min-balance", "7")
	}, check.OK, ""},
	{"Ethereum node", "", "it answers", func(d *deployment) {
		d.admits = d.node.asks(big.NewInt(7))
		d.flags = append(d.flags, "--eth-rpc", "ETHNODE", "--min-balance", "7")
	}, check.OK, ""},
	{"Ethereum node", "", "it fails", func(d *deployment) {
		d.admits = d.node.asks(big.NewInt(7))
		d.node.fail(says(500, ""))
		d.flags = append(d.flags, "--eth-rpc", "ETHNODE", "--min-balance", "7")
	}, check.Problem, ""},
	{"Ethereum node", "", "the running service asks for no balance", func(d *deployment) { d.flags = append(d.flags, "--eth-rpc", "ETHNODE", "--min-balance", "7") }, check.Problem, ""},
	{"service readiness", "", "the Ethereum node fails", func(d *deployment) {
		d.admits = d.node.asks(big.NewInt(7))
		d.node.fail(says(500, ""))
		d.flags = append(d.flags, "--eth-rpc", "ETHNODE", "--min-balance", "7")
	}, check.Problem, "Ethereum node"},
}

// givenTo stops parts, and gives the store to that user.
func givenTo(uid int, parts ...string) func(*deployment) {
	return func(d *deployment) {
		if os.Getuid() != 0 {
			need.Skip(d.t, need.Missing{What: "root, to give files away", Cure: "run the tests as root"})
		}
		d.stopped = func(d *deployment) {
			for _, part := range parts {
				d.closers[part]()
			}
			if err := os.Chown(".matrix", uid, -1); err != nil {
				d.t.Fatal(err)
			}
		}
	}
}

// isElsewheres stops the service, and leaves the store of another homeserver.
func isElsewheres(d *deployment) {
	d.stopped = func(d *deployment) {
		for _, part := range []string{"service", "ops", "store"} {
			d.closers[part]()
		}
		s, err := openBoltStore(".matrix", "example.org")
		if err != nil {
			d.t.Fatal(err)
		}
		defer s.Close()
		_, n := newProof(d.t)
		n.UserID = names.UserID(n.Localpart, "example.org")
		held := claimed(d.t, s, n.Address)
		defer held.Release()
		if err := save(held, record{}, n, stateRegistered); err != nil {
			d.t.Fatal(err)
		}
	}
}

const aListed = "0x6d12d262a2fe4fd9c714ad3521acbea52adb4aaf\n"

// TestCheckRules breaks each rule of check, and has one that is right for each. What is broken is found, stands under its cause,
// and makes the exit code.
func TestCheckRules(t *testing.T) {
	isRight, isBroken := map[string]bool{}, map[string]bool{}
	ran := 0
	note := func(t *testing.T, found map[string]check.Finding) {
		t.Helper()
		for subject, f := range found {
			if !slices.Contains(check.Subjects(registerPath), subject) {
				t.Errorf("the table of rules has no %s", subject)
			}
			isRight[subject] = isRight[subject] || f.Status == check.OK
		}
	}
	kinds := []string{"shared secret", "createUser", "MAS", "Dendrite"}
	for _, kind := range kinds {
		t.Run("all right/"+kind, func(t *testing.T) {
			ran++
			code, found := newDeployment(t, kind).check()
			note(t, found)
			if code != 0 {
				t.Errorf("exit %d, want 0", code)
			}
			for _, f := range found {
				if f.Status == check.Problem || f.Status == check.Warning {
					t.Errorf("got %+v", f)
				}
			}
		})
	}
	rows := slices.Concat(ruleRows, limitRows())
	checked := map[string]*ruleOutcome{}
	for _, row := range rows {
		t.Run(row.name(), func(t *testing.T) {
			ran++
			group := groupOf(t, rows, row)
			its := checked[group[0].name()]
			if its == nil {
				d := newDeployment(t, row.kind)
				for _, other := range group {
					other.do(d)
				}
				its = &ruleOutcome{}
				its.code, its.found = d.check()
				checked[group[0].name()] = its
			}
			note(t, its.found)
			f := its.found[row.subject]
			if f.Status != row.want || f.Because != row.because {
				t.Errorf("got %+v, want %s because of %q", f, row.want, row.because)
			}
			isBroken[row.subject] = isBroken[row.subject] || f.Status != check.OK
			wantCode := 0
			for _, f := range its.found {
				if f.Status == check.Problem && f.Because == "" {
					wantCode = 1
				}
			}
			if its.code != wantCode {
				t.Errorf("exit %d, want %d", its.code, wantCode)
			}
			t.Logf("%s: %s; %s", f.Status, f.Found, f.Do)
		})
	}
	if t.Failed() || ran < len(kinds)+len(rows) { // -run chose some
		return
	}
	for _, subject := range check.Subjects(registerPath) {
		if !isRight[subject] {
			t.Errorf("%s: no row is right", subject)
		}
		if !isBroken[subject] && !(strings.HasSuffix(subject, " access") && os.Getuid() != 0) {
			t.Errorf("%s: no row breaks it", subject)
		}
	}
}
