// check_test.go owns the check command on a whole deployment: all right, and then with one thing broken after the other.

package e2e

import (
	"context"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// A checkFinding is one finding, as check --json prints it.
type checkFinding struct{ Status, Subject, Found, Do, Because string }

// A checkRun is what the command said.
type checkRun struct {
	code     int
	findings map[string]checkFinding
}

// checkDir is a copy of the files that check reads, which a test may break. Its store is the deployment's own.
func checkDir(t *testing.T, d *Deployment) string {
	t.Helper()
	dir := t.TempDir()
	files := append([]string{"registration.yaml", "run.sh", "shared_secret", "mas_client_secret"}, d.Recipe.files...)
	for _, name := range files {
		content, err := os.ReadFile(filepath.Join(d.Gateway.Dir, name))
		if os.IsNotExist(err) {
			continue
		}
		stat := must(os.Stat(filepath.Join(d.Gateway.Dir, name)))(t)
		if err != nil || os.WriteFile(filepath.Join(dir, name), content, stat.Mode()) != nil {
			t.Fatalf("copy %s: %v", name, err)
		}
	}
	breakFile(t, dir, "run.sh", `--datapath \S+`, "--datapath "+filepath.Join(d.Gateway.Dir, ".matrix"))
	if isSynapse(d) {
		breakFile(t, dir, "homeserver.yaml", `- registration.yaml`, "- "+filepath.Join(dir, "registration.yaml")) // the homeserver runs elsewhere
	}
	return dir
}

func isSynapse(d *Deployment) bool { return slices.Contains(d.Recipe.files, "homeserver.yaml") }

// breakFile replaces in a file what is of the form, which must be there.
func breakFile(t *testing.T, dir, name, form, by string) {
	t.Helper()
	path := filepath.Join(dir, name)
	before := must(os.ReadFile(path))(t)
	if err := edit(path, regexp.MustCompile(form), by); err != nil {
		t.Fatal(err)
	}
	if after := must(os.ReadFile(path))(t); string(after) == string(before) {
		t.Fatalf("%s has nothing of the form %s", name, form)
	}
}

// runCheck runs check --json, whose output must hold no secret.
func runCheck(t *testing.T, d *Deployment, dir string, flags ...string) checkRun {
	t.Helper()
	if isSynapse(d) && dir != d.Gateway.Dir && !slices.Contains(flags, "--homeserver-config") { // else those that it was started with are read
		flags = append(flags, "--homeserver-config", "homeserver.yaml")
	}
	r := must(d.Program.Run(t.Context(), dir, append([]string{"check", "--json", "--public-url", d.NodeURL}, flags...)...))(t)
	for kind, secret := range d.Secrets() {
		if strings.Contains(r.Stdout+r.Stderr, secret) {
			t.Errorf("check prints a secret: %s", kind)
		}
	}
	var said struct{ Findings []checkFinding }
	if err := json.Unmarshal([]byte(r.Stdout), &said); err != nil || r.Stderr != "" {
		t.Fatalf("exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	run := checkRun{r.Code, map[string]checkFinding{}}
	for _, f := range said.Findings {
		unseen := f.Status == "note" && strings.HasPrefix(f.Found, "not checked, because ")
		if f.Status == "" || f.Found == "" || (f.Do == "") != (f.Status == "ok" || unseen) {
			t.Errorf("incomplete: %+v", f)
		}
		if _, twice := run.findings[f.Subject]; twice {
			t.Errorf("twice: %s", f.Subject)
		}
		run.findings[f.Subject] = f
	}
	return run
}

// differsBy is what changed from one run to another: the new statuses by subject, "" where a finding is gone.
func (r checkRun) differsBy(other checkRun) map[string]string {
	changed := map[string]string{}
	for subject, before := range r.findings {
		if now := other.findings[subject]; now.Status != before.Status {
			changed[subject] = now.Status
		}
	}
	for subject, now := range other.findings {
		if _, ok := r.findings[subject]; !ok {
			changed[subject] = now.Status
		}
	}
	return changed
}

// wantChange holds a run against what it should say that the one before did not.
func wantChange(t *testing.T, before, got checkRun, want map[string]string) {
	t.Helper()
	want = maps.Clone(want)
	maps.DeleteFunc(want, func(subject, status string) bool { return status == before.findings[subject].Status })
	if changed := before.differsBy(got); !maps.Equal(changed, want) {
		t.Errorf("changed are %v, want %v", changed, want)
	}
	wantCode := 0
	for _, f := range got.findings {
		if f.Status == "problem" {
			wantCode = 1
		}
		if cause := got.findings[f.Because]; f.Because != "" && (cause.Status != "problem" || cause.Because != "") {
			t.Errorf("%s follows from %s, which is no cause: %+v", f.Subject, f.Because, cause)
		}
	}
	if got.code != wantCode {
		t.Errorf("exit %d, want %d", got.code, wantCode)
	}
	for subject := range want {
		if f := got.findings[subject]; f.Subject != "" {
			t.Logf("%s %s: %s; %s", f.Status, f.Subject, f.Found, f.Do)
		}
	}
}

func testCheckAllRight(t *testing.T, d *Deployment) {
	for _, dir := range []string{d.Gateway.Dir, checkDir(t, d)} {
		r := must(d.Program.Run(t.Context(), dir, "check", "--all", "--public-url", d.NodeURL))(t)
		t.Log("\n" + r.Stdout)
		if r.Code != 0 || r.Stderr != "" || strings.Contains(r.Stdout, "problem ") || !strings.Contains(r.Stdout, "\n0 problems, ") {
			t.Errorf("exit %d\n%s", r.Code, r.Stderr)
		}
		for _, warned := range regexp.MustCompile(`(?m)^warning .*`).FindAllString(r.Stdout, -1) {
			if !strings.Contains(warned, "is relative to the directory that the homeserver is started in") { // the recipes name it so
				t.Errorf("after a setup by the book: %s", warned)
			}
		}
	}
}

// A checkBreak is one thing broken, and the findings that it changes: the new status by subject, "" where one is gone.
type checkBreak struct {
	name string
	do   func(t *testing.T, dir string)
	want map[string]string
}

// edits breaks a file by an edit.
func edits(file, form, by string) func(*testing.T, string) {
	return func(t *testing.T, dir string) { t.Helper(); breakFile(t, dir, file, form, by) }
}

// adds breaks a file by lines at its end.
func adds(file, lines string) func(*testing.T, string) { return edits(file, `$`, lines) }

// both breaks two things that would else contradict each other.
func both(one, other func(*testing.T, string)) func(*testing.T, string) {
	return func(t *testing.T, dir string) { t.Helper(); one(t, dir); other(t, dir) }
}

func modes(file string, mode os.FileMode) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		if err := os.Chmod(filepath.Join(dir, file), mode); err != nil {
			t.Fatal(err)
		}
	}
}

func removes(file string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		if err := os.Remove(filepath.Join(dir, file)); err != nil {
			t.Fatal(err)
		}
	}
}

// overruled is one problem; where what was measured is ok and says otherwise, a warning.
func overruled(subject, by string) map[string]string {
	return map[string]string{subject: "warning where " + by + " is, else problem"}
}

// settled is what is wanted, where that depends on what was measured before.
func settled(want map[string]string, before checkRun) map[string]string {
	want = maps.Clone(want)
	for subject, status := range want {
		measured, otherwise, depends := strings.Cut(status, ", else ")
		if !depends {
			continue
		}
		want[subject] = otherwise
		status, by, _ := strings.Cut(measured, " where ")
		if before.findings[strings.TrimSuffix(by, " is")].Status == "ok" {
			want[subject] = status
		}
	}
	return want
}

func oneProblem(subject string) map[string]string { return map[string]string{subject: "problem"} }
func oneWarning(subject string) map[string]string { return map[string]string{subject: "warning"} }

// noRegistration is what is not said without the tokens.
func noRegistration() map[string]string {
	return map[string]string{
		"registration.yaml": "problem", "registration.yaml tokens": "", "registration.yaml url": "note", "registration.yaml namespace": "",
		"registration.yaml as Synapse loads it": "",
		"homeserver as_token":                   "note", "homeserver ping": "note", "service hs_token": "note",
	}
}

// commonBreaks are of the service's own files.
var commonBreaks = []checkBreak{
	{"registration.yaml is no YAML", edits("registration.yaml", `^id`, "\tid"), noRegistration()},
	{"registration.yaml for everybody", modes("registration.yaml", 0o644), oneProblem("registration.yaml")},
	{"registration.yaml for a group", modes("registration.yaml", 0o640), oneWarning("registration.yaml")},
	{"another port in the url", edits("registration.yaml", `:\d+/regapp/1`, ":1/regapp/1"), overruled("registration.yaml url", "homeserver ping")},
	{"another path in the url", edits("registration.yaml", `/regapp/1`, "/regapp"), overruled("registration.yaml url", "homeserver ping")},
	{"another host in the url", edits("registration.yaml", `//127.0.0.1:`, "//192.0.2.1:"), map[string]string{"registration.yaml url": "ok where homeserver ping is, else warning"}},
	{"no url", edits("registration.yaml", `(?m)^url.*$`, ""), oneProblem("registration.yaml url")},
	{"an exclusive namespace", edits("registration.yaml", `exclusive: false`, "exclusive: true"), oneProblem("registration.yaml namespace")},
	{"a namespace of everybody", edits("registration.yaml", `regex: \S+`, `regex: "@.*"`), oneWarning("registration.yaml namespace")},
	{"no sender_localpart", edits("registration.yaml", `sender_localpart`, "sender"), oneProblem("registration.yaml tokens")},
	{"another as_token in run.sh", edits("run.sh", `--astoken \S+`, "--astoken another-as-token"), oneProblem("run.sh tokens")},
	{"another hs_token in run.sh", edits("run.sh", `--hstoken \S+`, "--hstoken another-hs-token"), oneProblem("run.sh tokens")},
	{"run.sh for everybody", modes("run.sh", 0o755), oneProblem("run.sh")},
	{"run.sh cannot be run", modes("run.sh", 0o600), oneProblem("run.sh")},
	{"an as_token that the homeserver was not told", both(
		edits("run.sh", `--astoken \S+`, "--astoken another-as-token"), edits("registration.yaml", `as_token: \S+`, "as_token: another-as-token"),
	), map[string]string{"homeserver as_token": "problem", "homeserver ping": "note"}},
	{"an hs_token that the service was not told", both(
		edits("run.sh", `--hstoken \S+`, "--hstoken another-hs-token"), edits("registration.yaml", `hs_token: \S+`, "hs_token: another-hs-token"),
	), overruled("service hs_token", "homeserver ping")},
	{"another --matrixdomain", edits("run.sh", `--matrixdomain \S+`, "--matrixdomain elsewhere.example"), map[string]string{
		"homeserver server_name": "problem", "homeserver profiles": "note", "service": "problem", "service hs_token": "note", "homeserver ping": "note", "service readiness": "note",
	}},
}

// settingsBreaks are of the homeserver's settings, by its recipe's directory or name.
var settingsBreaks = map[string][]checkBreak{
	"synapse-1.163.2": {
		{"server_name", edits("homeserver.yaml", `server_name: \S+`, "server_name: elsewhere.example"), overruled("homeserver.yaml server_name", "homeserver server_name")},
		{"enable_registration", edits("homeserver.yaml", `enable_registration: false`, "enable_registration: true"), oneProblem("homeserver.yaml enable_registration")},
		{"search_all_users", edits("homeserver.yaml", `search_all_users: true`, "search_all_users: false"), oneProblem("homeserver.yaml user_directory")},
		{"expire_access_token", adds("homeserver.yaml", "expire_access_token: true\n"), oneWarning("homeserver.yaml expire_access_token")},
		{"identity servers", adds("homeserver.yaml", "trusted_third_party_id_servers: [vector.im]\n"), oneWarning("homeserver.yaml trusted_third_party_id_servers")},
		{"port", edits("homeserver.yaml", `port: \d+`, "port: 1"), overruled("homeserver.yaml listeners port", "homeserver")},
		{"bind_addresses", edits("homeserver.yaml", `bind_addresses: .*`, "bind_addresses: ['0.0.0.0']"), oneWarning("homeserver.yaml listeners bind_addresses")},
		{"no bind_addresses", edits("homeserver.yaml", `bind_addresses: .*`, ""), oneWarning("homeserver.yaml listeners bind_addresses")},
		{"x_forwarded", edits("homeserver.yaml", `x_forwarded: true`, "x_forwarded: false"), oneProblem("homeserver.yaml listeners x_forwarded")},
		{"webclient", edits("homeserver.yaml", `client, federation`, "client, federation, webclient"), oneProblem("homeserver.yaml listeners webclient")},
		{"no list of application services", edits("homeserver.yaml", `\n  - \S*registration.yaml`, " registration.yaml"), overruled("homeserver.yaml app_service_config_files", "homeserver as_token")},
		{"another application service", edits("homeserver.yaml", `- \S*registration.yaml`, "- homeserver.yaml"), overruled("homeserver.yaml app_service_config_files", "homeserver as_token")},
		{"an application service that is not there", edits("homeserver.yaml", `- \S*registration.yaml`, "- nowhere.yaml"), overruled("homeserver.yaml app_service_config_files", "homeserver as_token")},
		{"no application service", edits("homeserver.yaml", `app_service_config_files:\n  - \S*registration.yaml`, ""), overruled("homeserver.yaml app_service_config_files", "homeserver as_token")},
		{"another secret", edits("homeserver.yaml", `registration_shared_secret: \S+`, "registration_shared_secret: "+wrongSecret), overruled("homeserver.yaml registration_shared_secret", "homeserver shared secret")},
		{"no secret", edits("homeserver.yaml", `registration_shared_secret: \S+`, ""), overruled("homeserver.yaml registration_shared_secret", "homeserver shared secret")},
		{"two secrets", adds("homeserver.yaml", "registration_shared_secret_path: shared_secret\n"), overruled("homeserver.yaml registration_shared_secret", "homeserver shared secret")},
		{"the secret in a file of the directory", edits("homeserver.yaml", `registration_shared_secret: \S+`, "registration_shared_secret_path: shared_secret"), oneWarning("homeserver.yaml registration_shared_secret")},
		{"an application service of the directory", edits("homeserver.yaml", `- \S*registration.yaml`, "- registration.yaml"), oneWarning("homeserver.yaml app_service_config_files")},
		{"a date for a server_name", edits("homeserver.yaml", `server_name: \S+`, "server_name: 2024-01-01"), overruled("homeserver.yaml server_name", "homeserver server_name")},
		{"a secret that the homeserver was not told", both(
			edits("homeserver.yaml", `registration_shared_secret: \S+`, "registration_shared_secret: "+wrongSecret), edits("shared_secret", `\S+`, wrongSecret),
		), oneProblem("homeserver shared secret")},
		{"a secret for a group", modes("shared_secret", 0o640), oneWarning("shared secret")},
		{"no file of the secret", removes("shared_secret"), map[string]string{"shared secret": "problem", "homeserver shared secret": "note"}},
		{"passwords off", adds("homeserver.yaml", "password_config: {enabled: false}\n"), oneProblem("homeserver.yaml password_config")},
		{"no passwords of its own", adds("homeserver.yaml", "password_config: {localdb_enabled: false}\n"), oneProblem("homeserver.yaml password_config")},
		{"authentication service", adds("homeserver.yaml", "matrix_authentication_service: {enabled: true}\n"), overruled("homeserver.yaml matrix_authentication_service", "homeserver registration")},
		{"rc_login.address", edits("homeserver.yaml", `address: \{.*\}`, "address: {per_second: 0.003, burst_count: 5}"), oneProblem("homeserver.yaml rc_login.address")},
		{"rc_login.account", edits("homeserver.yaml", `account: \{.*\}`, "account: {per_second: 50, burst_count: 5}"), oneProblem("homeserver.yaml rc_login.account")},
		{"rc_room_creation", edits("homeserver.yaml", `rc_room_creation: .*`, ""), oneWarning("homeserver.yaml rc_room_creation")},
		{"bcrypt_rounds", edits("homeserver.yaml", `bcrypt_rounds: 4`, ""), oneWarning("homeserver.yaml bcrypt_rounds")},
	},
	"synapse-0.34.0": {
		{"server_name", edits("homeserver.yaml", `server_name: \S+`, "server_name: elsewhere.example"), overruled("homeserver.yaml server_name", "homeserver server_name")},
		{"enable_registration", edits("homeserver.yaml", `enable_registration: False`, "enable_registration: True"), oneProblem("homeserver.yaml enable_registration")},
		{"search_all_users", edits("homeserver.yaml", `search_all_users: True`, ""), oneProblem("homeserver.yaml user_directory")},
		{"expire_access_token", edits("homeserver.yaml", `expire_access_token: True`, ""), oneWarning("homeserver.yaml expire_access_token")},
		{"identity servers", edits("homeserver.yaml", `servers: \[\]`, "servers: [vector.im]"), oneWarning("homeserver.yaml trusted_third_party_id_servers")},
		{"bind_addresses", edits("homeserver.yaml", `bind_addresses: .*`, "bind_address: '0.0.0.0'"), oneWarning("homeserver.yaml listeners bind_addresses")},
		{"x_forwarded", edits("homeserver.yaml", `x_forwarded: True`, ""), oneWarning("homeserver.yaml listeners x_forwarded")},
		{"webclient", edits("homeserver.yaml", `client, federation`, "client, webclient"), oneWarning("homeserver.yaml listeners webclient")},
		{"web_client", edits("homeserver.yaml", `web_client: False`, "web_client: True"), oneWarning("homeserver.yaml listeners webclient")},
		{"no client", edits("homeserver.yaml", `client, federation`, "federation"), map[string]string{
			"homeserver.yaml listeners port": "warning", "homeserver.yaml listeners bind_addresses": "", "homeserver.yaml listeners x_forwarded": "",
		}},
		{"no list of application services", edits("homeserver.yaml", `- \S*registration.yaml`, "registration.yaml"), overruled("homeserver.yaml app_service_config_files", "homeserver as_token")},
		{"passwords off", adds("homeserver.yaml", "password_config: {enabled: False}\n"), oneProblem("homeserver.yaml password_config")},
		{"rc_messages_per_second", edits("homeserver.yaml", `rc_messages_per_second: .*`, ""), oneWarning("homeserver.yaml rc_messages_per_second")},
		{"a shared secret that nobody needs", adds("homeserver.yaml", "registration_shared_secret: "+wrongSecret+"\n"), oneWarning("homeserver.yaml registration_shared_secret")},
	},
	"dendrite": {
		{"server_name", edits("dendrite.yaml", `server_name: \S+`, "server_name: elsewhere.example"), overruled("dendrite.yaml global.server_name", "homeserver server_name")},
		{"disable_federation", edits("dendrite.yaml", `disable_federation: false`, "disable_federation: true"), oneProblem("dendrite.yaml global.disable_federation")},
		{"registration_disabled", edits("dendrite.yaml", `registration_disabled: true`, "registration_disabled: false"), oneProblem("dendrite.yaml client_api.registration_disabled")},
		{"another secret", edits("dendrite.yaml", `registration_shared_secret: \S+`, "registration_shared_secret: "+wrongSecret), overruled("dendrite.yaml client_api.registration_shared_secret", "homeserver shared secret")},
		{"a secret that the homeserver was not told", both(
			edits("dendrite.yaml", `registration_shared_secret: \S+`, "registration_shared_secret: "+wrongSecret), edits("registration_shared_secret", `\S+`, wrongSecret),
		), oneProblem("homeserver shared secret")},
		{"rate_limiting", edits("dendrite.yaml", `enabled: false`, "enabled: true"), oneWarning("dendrite.yaml client_api.rate_limiting")},
		{"no list of application services", edits("dendrite.yaml", `- registration.yaml`, "registration.yaml"), overruled("dendrite.yaml app_service_api.config_files", "homeserver as_token")},
		{"bcrypt_cost", edits("dendrite.yaml", `bcrypt_cost: 4`, "bcrypt_cost: 10"), oneWarning("dendrite.yaml user_api.bcrypt_cost")},
	},
}

// isSeenRunning tells whether the homeserver itself, and not nginx, listens where --matrixurl says.
func isSeenRunning(_ *testing.T, d *Deployment) bool { return isSynapse(d) && !d.Recipe.createByNginx }

// What the running homeserver was started with is read from anywhere; what is named, and conf.d, outranks what is here.
func testCheckReads(t *testing.T, d *Deployment) {
	dir := checkDir(t, d)
	read := func(flags ...string) string {
		t.Helper()
		f := runCheck(t, d, dir, flags...).findings["homeserver.yaml"]
		return f.Status + " " + f.Found
	}
	if err := os.MkdirAll(filepath.Join(dir, "conf.d"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "conf.d", "a.yaml"), []byte("bcrypt_rounds: 5\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	its := filepath.Join(must(filepath.EvalSymlinks(d.Gateway.Dir))(t), "homeserver.yaml")
	if got := read("--homeserver-config", "homeserver.yaml", "--homeserver-config", "conf.d"); got != "ok read homeserver.yaml, conf.d/a.yaml, as --homeserver-config names them" {
		t.Errorf("named: got %q", got)
	}
	with := must(d.Program.Run(t.Context(), dir, "check", "--json", "--public-url", d.NodeURL))(t)
	if want := "read " + its + ", which the running Synapse, process "; !strings.Contains(with.Stdout, want) {
		t.Errorf("running: no %q in\n%s", want, with.Stdout)
	}
	if err := d.Homeserver.Restart(t.Context(), func() error {
		without := must(d.Program.Run(t.Context(), dir, "check", "--json", "--public-url", d.NodeURL))(t)
		if want := `"read homeserver.yaml, conf.d/a.yaml, as found here"`; !strings.Contains(without.Stdout, want) {
			t.Errorf("stopped: no %q in\n%s", want, without.Stdout)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func testCheckFiles(t *testing.T, d *Deployment) {
	withoutRateLimit(t, d)
	d.AddSecret("wrong shared secret", wrongSecret)
	before := runCheck(t, d, checkDir(t, d))
	accounts := countAll(t, d)
	of := d.Recipe.Name
	if d.Recipe.dir != "" {
		of = d.Recipe.dir
	}
	for _, broken := range slices.Concat(commonBreaks, settingsBreaks[of]) {
		t.Run(broken.name, func(t *testing.T) {
			dir := checkDir(t, d)
			broken.do(t, dir)
			want := settled(broken.want, before)
			const namespace = "registration.yaml namespace"
			isWide := d.Recipe.createPath == CreateUserPath // as the guide has it
			switch {
			case broken.name == "a namespace of everybody" && isWide:
				delete(want, namespace)
			case broken.name == "another --matrixdomain":
				alsoElsewhere(want, before)
				if !isWide {
					want[namespace] = "warning"
				}
			}
			wantChange(t, before, runCheck(t, d, dir), want)
		})
	}
	if now := countAll(t, d); now != accounts {
		t.Errorf("the homeserver has %d accounts, and had %d before", now, accounts)
	}
}

// withoutRateLimit lets check ask as often as a scene likes, each time four questions from this one address.
func withoutRateLimit(t *testing.T, d *Deployment) {
	t.Helper()
	path := filepath.Join(d.Gateway.Dir, "run.sh")
	limited := must(os.ReadFile(path))(t)
	restart := func(script []byte) {
		t.Helper()
		if err := d.Gateway.Restart(context.WithoutCancel(t.Context()), func() error { return os.WriteFile(path, script, 0o700) }); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { restart(limited) })
	restart([]byte(strings.TrimSuffix(string(limited), "\n") + " --rate-limit 0\n"))
}

// alsoElsewhere adds what is said of the other end of a --matrixdomain that is not the homeserver's.
func alsoElsewhere(want map[string]string, before checkRun) {
	for _, subject := range []string{"homeserver.yaml server_name", "dendrite.yaml global.server_name", "public URL /regapp/1/register", "public URL /_matrix"} {
		if _, ok := before.findings[subject]; ok {
			want[subject] = "problem"
		}
	}
}

// countAll counts all accounts of the homeserver.
func countAll(t *testing.T, d *Deployment) int {
	t.Helper()
	command := slices.Clone(d.Recipe.count)
	for i, word := range command {
		command[i] = strings.ReplaceAll(word, " = ?", " LIKE ?")
	}
	accounts := must(d.Homeserver.Count(t.Context(), command, "%"))(t)
	if accounts == 0 {
		newMember(t, d) // so that the count is seen to count
		return countAll(t, d)
	}
	return accounts
}

// nginxBreaks are of nginx. Those of one API alone have its path.
var nginxBreaks = []struct {
	name, createPath, form, by string
	want                       map[string]string
}{
	{"the whole service", "", `= /regapp/1/register \{\n(\s*proxy_pass [^;]*)/regapp/1/register;`, "/regapp/1 {\n$1;", oneWarning("public URL application-service API")},
	{"the path as the client wrote it", "", `(proxy_pass [^;]*)/regapp/1/register;`, "$1;", oneWarning("public URL application-service API")},
	{"no register path", SharedSecretPath, `location = /regapp/1`, "location = /elsewhere", map[string]string{"public URL /regapp/1/register": "problem"}},
	{"no /_matrix", SharedSecretPath, `location /_matrix/`, "location /elsewhere/", oneProblem("public URL /_matrix")},
	{"the admin API", SharedSecretPath, `location /_matrix/`, "location /_", oneProblem("public URL /_synapse/admin")},
	{"the homeserver's register", CreateUserPath, `\(register\|admin\)`, "admin", oneWarning("public URL client register")},
	{"the homeserver's register under one prefix", CreateUserPath, `\[\^/\]\+/\(register\|admin\)`, "(r0|unstable)/(register|admin)", oneWarning("public URL client register")},
	{"the client's own X-Forwarded-For for the service", "", `(?s)(location [^{]*/regapp[^{]*\{[^;]*;)[^;]*;`, "$1", oneProblem("public URL X-Forwarded-For")},
}

func testCheckLive(t *testing.T, d *Deployment) {
	withoutRateLimit(t, d)
	dir := checkDir(t, d)
	before := runCheck(t, d, dir)
	isDendrite := d.Recipe.dir == "dendrite"
	for _, broken := range nginxBreaks {
		if broken.createPath != "" && broken.createPath != d.Recipe.createPath {
			continue
		}
		t.Run("nginx: "+broken.name, func(t *testing.T) {
			want := maps.Clone(broken.want)
			if isDendrite && broken.name == "no register path" {
				want["public URL X-Forwarded-For"] = "warning"
			}
			withNginx(t, d, broken.form, broken.by)
			wantChange(t, before, runCheck(t, d, dir), want)
		})
	}
	if d.Recipe.Name == "synapse-1.163.2" {
		t.Run("nginx: the client's own X-Forwarded-For for the homeserver", func(t *testing.T) {
			withNginx(t, d, `(?s)(location /_matrix/ \{.*?proxy_pass[^;]*;)[^;]*;`, "$1")
			wantChange(t, before, runCheck(t, d, dir), oneProblem("public URL X-Forwarded-For"))
		})
	}
	t.Run("the service is stopped", func(t *testing.T) { testCheckNoService(t, d, dir, before) })
	t.Run("the homeserver is stopped", func(t *testing.T) { testCheckNoHomeserver(t, d, dir, before) })

	// All is well again, once the service has asked the homeserver anew.
	after := runCheck(t, d, dir)
	for tries := 0; tries < 60 && after.findings["service readiness"].Status != before.findings["service readiness"].Status; tries++ {
		time.Sleep(time.Second)
		after = runCheck(t, d, dir)
	}
	wantChange(t, before, after, map[string]string{})
}

// withNginx breaks nginx's configuration until the test ends.
func withNginx(t *testing.T, d *Deployment, form, by string) {
	t.Helper()
	path := d.nginx.configFile()
	whole := must(os.ReadFile(path))(t)
	broken := regexp.MustCompile(form).ReplaceAll(whole, []byte(by))
	if string(broken) == string(whole) {
		t.Fatalf("nginx.conf has nothing of the form %s", form)
	}
	put := func(content []byte) error {
		return d.nginx.restart(context.WithoutCancel(t.Context()), func() error { return os.WriteFile(path, content, 0o600) })
	}
	t.Cleanup(func() {
		if err := put(whole); err != nil {
			t.Error(err)
		}
	})
	if err := put(broken); err != nil {
		t.Fatal(err)
	}
}

func testCheckNoService(t *testing.T, d *Deployment, dir string, before checkRun) {
	if _, err := d.Gateway.Stop(); err != nil {
		t.Fatal(err)
	}
	got := runCheck(t, d, dir)
	if err := d.Gateway.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"service": "problem", "service hs_token": "note", "homeserver ping": "note", "service readiness": "note", "public URL /regapp/1/register": "problem"}
	if before.findings["public URL application-service API"].Status == "warning" {
		want["public URL application-service API"] = "ok"
	}
	if d.Recipe.Name != "synapse-1.163.2" { // of the others it is the service alone that can be asked
		want["public URL X-Forwarded-For"] = "warning"
	}
	if strings.HasPrefix(d.Recipe.Name, "dendrite-") { // it asks the service for users that it does not have
		want["homeserver profiles"] = "warning"
	}
	wantChange(t, before, got, want)
	if store := got.findings["store"]; !strings.Contains(store.Found, " registered, ") {
		t.Errorf("the store is not counted: %+v", store)
	}
}

func testCheckNoHomeserver(t *testing.T, d *Deployment, dir string, before checkRun) {
	want := map[string]string{"homeserver": "problem", "public URL /_matrix": "problem", "public URL client register": "note", "service readiness": "problem"}
	for _, gone := range []string{"server_name", "registration", "as_token", "profiles", "shared secret", "ping"} {
		if _, ok := before.findings["homeserver "+gone]; ok {
			want["homeserver "+gone] = "note"
		}
	}
	if err := d.Homeserver.Restart(t.Context(), func() error {
		wantChange(t, before, runCheck(t, d, dir), want)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}
