// homeserver_yaml_test.go owns the tests of each setting of homeserver.yaml and dendrite.yaml: right, wrong, and by version.

package check

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
)

// goodSettings are all right for either Synapse.
const goodSettings = `
server_name: transport02.smartmesh.cn
listeners:
  - {port: 8007, type: http, x_forwarded: true, bind_addresses: ['127.0.0.1', '::1'], resources: [{names: [client, federation]}]}
enable_registration: false
user_directory: {search_all_users: true}
trusted_third_party_id_servers: []
app_service_config_files: [DIR/registration.yaml]
registration_shared_secret: "rather_secret~with^symbols"
password_config: {enabled: true}
bcrypt_rounds: 4
rc_login: {address: {per_second: 5, burst_count: 50}, account: {per_second: 1, burst_count: 10}, failed_attempts: {per_second: 1, burst_count: 10}}
rc_message: {per_second: 20, burst_count: 200}
rc_room_creation: {per_second: 2, burst_count: 200}
rc_joins: {local: {per_second: 5, burst_count: 200}}
rc_joins_per_room: {per_second: 20, burst_count: 200}
rc_invites: {per_user: {per_second: 1, burst_count: 200}, per_issuer: {per_second: 5, burst_count: 200}}
rc_presence: {per_user: {per_second: 1, burst_count: 10}}
rc_messages_per_second: 20
rc_message_burst_count: 200
`

const goodDendrite = `
global: {server_name: transport02.smartmesh.cn}
client_api: {registration_shared_secret: "rather_secret~with^symbols", rate_limiting: {enabled: false}}
app_service_api: {config_files: [registration.yaml]}
user_api: {bcrypt_cost: 4}
`

var (
	oldServer   = homeserver.Software{Name: homeserver.Synapse, Version: "0.34.0"}
	todayServer = homeserver.Software{Name: homeserver.Synapse, Version: "1.163.2"}
)

// judge writes the settings and judges them.
func judge(t *testing.T, name, content string, server homeserver.Software) []Finding {
	t.Helper()
	dir, err := os.MkdirTemp("", "judge") // t.TempDir has the test's name, of which YAML may make something
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, name)
	registration := filepath.Join(dir, config.RegistrationFile)
	content = strings.ReplaceAll(content, "DIR/", dir+"/")
	for file, text := range map[string]string{path: content, registration: "id: x\n", filepath.Join(dir, "secret"): ourSecret + "\n"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := config.Config{ServerName: ourServerName, Origin: "http://127.0.0.1:8007", Way: homeserver.SharedSecret, SharedSecret: ourSecret}
	settings := readSynapse([]string{path}, "as found here")
	if name == DendriteFile {
		settings = readSettings([]string{path})
	}
	found := judging{settings: settings, config: c, server: server, registration: registration, public: "http://127.0.0.1:8008"}.findings()
	for _, f := range found {
		if strings.Contains(f.Found+f.Do, ourSecret) || strings.Contains(f.Found+f.Do, "hunter2") {
			t.Errorf("holds a secret: %+v", f)
		}
		if (f.Do == "") != (f.Status == OK) || f.Found == "" {
			t.Errorf("incomplete: %+v", f)
		}
	}
	return found
}

// bad are the findings that are not ok, by their subject without the file's name.
func bad(found []Finding) map[string]Status {
	all := map[string]Status{}
	for _, f := range found {
		_, setting, _ := strings.Cut(f.Subject, " ")
		if f.Status != OK {
			all[setting] = f.Status
		}
	}
	return all
}

func TestGoodSettings(t *testing.T) {
	if got := bad(judge(t, config.HomeserverFile, goodSettings, todayServer)); len(got) > 0 {
		t.Errorf("today: got %v", got)
	}
	if got := bad(judge(t, config.HomeserverFile, goodSettings+"expire_access_token: True\n", oldServer)); len(got) > 0 {
		t.Errorf("2018: got %v", got)
	}
	if got := bad(judge(t, DendriteFile, goodDendrite, homeserver.Software{Name: homeserver.Dendrite, Version: "0.15.2"})); len(got) > 0 {
		t.Errorf("Dendrite: got %v", got)
	}
}

// One setting broken, and the one finding of it: with the Synapse of 2018 (expire_access_token is set there), with
// today's, and where none answers.
func TestBrokenSettings(t *testing.T) {
	const none = Status("")
	tests := []struct {
		name, from, to, subject string
		old, today, both        Status
	}{
		{"another server_name", "server_name: transport02", "server_name: transport03", "server_name", Problem, Problem, Problem},
		{"a number for a server_name", "server_name: transport02.smartmesh.cn", "server_name: 1:30", "server_name", Problem, Problem, Problem},
		{"no server_name", "server_name: transport02.smartmesh.cn", "", "server_name", Problem, Problem, Problem},
		{"open", "enable_registration: false", "enable_registration: true", "enable_registration", Problem, Problem, Problem},
		{"open, as a text", "enable_registration: false", "enable_registration: 'Yes'", "enable_registration", Problem, Problem, Problem},
		{"open by its older name", "enable_registration: false", "disable_registration: false", "enable_registration", Problem, Problem, Problem},
		{"shut by its older name", "enable_registration: false", "enable_registration: true\ndisable_registration: true", "", none, none, none},
		{"not found", "search_all_users: true", "search_all_users: false", "user_directory", Problem, Problem, Problem},
		{"no directory", "search_all_users: true", "search_all_users: true, enabled: false", "user_directory", Problem, Problem, Problem},
		{"identity servers", "id_servers: []", "id_servers: [vector.im]", "trusted_third_party_id_servers", Warning, Warning, Warning},
		{"default identity servers", "trusted_third_party_id_servers: []", "", "trusted_third_party_id_servers", Warning, none, none},
		{"port of nginx", "port: 8007", "port: 8008", "listeners port", Problem, Problem, Problem},
		{"another port", "port: 8007", "port: 8006", "listeners port", Problem, Problem, Problem},
		{"everybody's port", "['127.0.0.1', '::1']", "['0.0.0.0']", "listeners bind_addresses", Warning, Warning, Warning},
		{"everybody's port by default", "bind_addresses: ['127.0.0.1', '::1'], ", "", "listeners bind_addresses", Warning, Warning, Warning},
		{"not forwarded", "x_forwarded: true, ", "", "listeners x_forwarded", Warning, Problem, Problem},
		{"webclient", "[client, federation]", "[client, webclient]", "listeners webclient", Warning, Problem, Problem},
		{"no list", "[DIR/registration.yaml]", "registration.yaml", "app_service_config_files", Problem, Problem, Problem},
		{"an empty list", "[DIR/registration.yaml]", "[]", "app_service_config_files", Problem, Problem, Problem},
		{"another file", "[DIR/registration.yaml]", "[DIR/homeserver.yaml]", "app_service_config_files", Problem, Problem, Problem},
		{"another file of the directory", "[DIR/registration.yaml]", "[homeserver.yaml]", "app_service_config_files", Problem, Problem, Problem},
		{"no file", "[DIR/registration.yaml]", "[DIR/nowhere.yaml]", "app_service_config_files", Problem, Problem, Problem},
		{"a file of the directory", "[DIR/registration.yaml]", "[registration.yaml]", "app_service_config_files", Warning, Warning, Warning},
		{"a file of another directory", "[DIR/registration.yaml]", "[nowhere.yaml]", "app_service_config_files", Warning, Warning, Warning},
		{"one file among others", "[DIR/registration.yaml]", "[DIR/homeserver.yaml, DIR/registration.yaml]", "", none, none, none},
		{"a list of numbers", "[DIR/registration.yaml]", "[1]", "app_service_config_files", Problem, Problem, Problem},
		{"a list of dates", "[DIR/registration.yaml]", "[2024-01-01]", "app_service_config_files", Problem, Problem, Problem},
		{"another secret", ourSecret, "hunter2-hunter2", "registration_shared_secret", Problem, Problem, Problem},
		{"no secret", `registration_shared_secret: "rather_secret~with^symbols"`, "", "registration_shared_secret", Problem, Problem, Problem},
		{"a date for a secret", `"rather_secret~with^symbols"`, "2024-01-01", "registration_shared_secret", Problem, Problem, Problem},
		{"a number for a secret's file", `registration_shared_secret: "rather_secret~with^symbols"`, "registration_shared_secret_path: 1:30", "registration_shared_secret", Problem, Problem, Problem},
		{"a secret's file", `registration_shared_secret: "rather_secret~with^symbols"`, "registration_shared_secret_path: DIR/secret", "registration_shared_secret", Problem, none, none},
		{"a secret's file of the directory", `registration_shared_secret: "rather_secret~with^symbols"`, "registration_shared_secret_path: secret", "registration_shared_secret", Problem, Warning, Warning},
		{"no secret's file", `registration_shared_secret: "rather_secret~with^symbols"`, "registration_shared_secret_path: DIR/nowhere", "registration_shared_secret", Problem, Problem, Problem},
		{"a secret's file of another directory", `registration_shared_secret: "rather_secret~with^symbols"`, "registration_shared_secret_path: nowhere", "registration_shared_secret", Problem, Warning, Warning},
		{"two secrets", "bcrypt_rounds: 4", "bcrypt_rounds: 4\nregistration_shared_secret_path: DIR/secret", "registration_shared_secret", Problem, Problem, Problem},
		{"passwords off", "password_config: {enabled: true}", "password_config: {enabled: false}", "password_config", Problem, Problem, Problem},
		{"passwords for little", "password_config: {enabled: true}", "password_config: {enabled: only_for_reauth}", "password_config", Problem, Problem, Problem},
		{"passwords elsewhere", "password_config: {enabled: true}", "password_config: {localdb_enabled: false}", "password_config", Problem, Problem, Problem},
		{"passwords by default", "password_config: {enabled: true}", "password_config:", "", none, none, none},
		{"many rounds", "bcrypt_rounds: 4", "bcrypt_rounds: 12", "bcrypt_rounds", none, Warning, Warning},
		{"many rounds by default", "bcrypt_rounds: 4", "", "bcrypt_rounds", none, Warning, Warning},
		{"few logins of an address", "burst_count: 50", "burst_count: 5", "rc_login.address", none, Problem, Problem},
		{"slow logins of an account", "per_second: 1,", "per_second: 0.003,", "rc_login.account", none, Problem, Problem},
		{"three refused logins", "failed_attempts: {per_second: 1, burst_count: 10}", "", "rc_login.failed_attempts", none, Warning, Warning},
		{"few messages", "rc_message: {per_second: 20, ", "rc_message: {per_second: 1, ", "rc_message", none, Warning, Warning},
		{"few messages at once", "rc_message_burst_count: 200", "rc_message_burst_count: 10", "rc_messages_per_second", Warning, none, none},
		{"few messages by default", "rc_messages_per_second: 20", "", "rc_messages_per_second", Warning, none, none},
		{"messages by their older names", "rc_message: {per_second: 20, burst_count: 200}", "", "", none, none, none},
		{"few rooms by default", "rc_room_creation: {per_second: 2, burst_count: 200}", "", "rc_room_creation", none, Warning, Warning},
		{"few joins", "local: {per_second: 5, burst_count: 200}", "local: {burst_count: 20}", "rc_joins.local", none, Warning, Warning},
		{"few joins of a room", "rc_joins_per_room: {per_second: 20, burst_count: 200}", "", "rc_joins_per_room", none, Warning, Warning},
		{"one invitation of a room", "rc_invites: {", "rc_invites: {per_room: {per_second: 1, burst_count: 1}, ", "rc_invites.per_room", none, Warning, Warning},
		{"few invitations to a node", "per_user: {per_second: 1, burst_count: 200}, ", "", "rc_invites.per_user", none, Warning, Warning},
		{"few invitations by a node", ", per_issuer: {per_second: 5, burst_count: 200}", "", "rc_invites.per_issuer", none, Warning, Warning},
		{"presence by default", "rc_presence: {per_user: {per_second: 1, burst_count: 10}}", "", "rc_presence.per_user", none, Warning, Warning},
		{"few look-ups of profiles", "bcrypt_rounds: 4", "bcrypt_rounds: 4\nrc_profile: {per_second: 0.1, burst_count: 500}", "rc_profile", none, Warning, Warning},
		{"few of them at once", "bcrypt_rounds: 4", "bcrypt_rounds: 4\nrc_profile: {burst_count: 10}", "rc_profile", none, Warning, Warning},
		{"many of them", "bcrypt_rounds: 4", "bcrypt_rounds: 4\nrc_profile: {per_second: 10, burst_count: 500}", "", none, none, none},
		{"a limit on users", "bcrypt_rounds: 4", "bcrypt_rounds: 4\nlimit_usage_by_mau: true\nmax_mau_value: 50", "limit_usage_by_mau", Warning, Warning, Warning},
		{"no limit on users", "bcrypt_rounds: 4", "bcrypt_rounds: 4\nlimit_usage_by_mau: false\nmax_mau_value: 50", "", none, none, none},
		{"another login", "bcrypt_rounds: 4", "bcrypt_rounds: 4\nmatrix_authentication_service: {enabled: true}", "matrix_authentication_service", none, Problem, Problem},
		{"another login by its older name", "bcrypt_rounds: 4", "bcrypt_rounds: 4\nexperimental_features: {msc3861: {enabled: true}}", "matrix_authentication_service", none, Problem, Problem},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			broken := strings.Replace(goodSettings, test.from, test.to, 1)
			if broken == goodSettings {
				t.Fatalf("there is no %s", test.from)
			}
			for _, of := range []struct {
				server homeserver.Software
				more   string
				want   Status
			}{{oldServer, "expire_access_token: true\n", test.old}, {todayServer, "", test.today}, {homeserver.Software{}, "", test.both}} {
				want := map[string]Status{}
				if of.want != none {
					want[test.subject] = of.want
				}
				got := bad(judge(t, config.HomeserverFile, broken+of.more, of.server))
				if !maps.Equal(got, want) {
					t.Errorf("%v: got %v, want %v", of.server, got, want)
				}
			}
		})
	}
}

// A Synapse is not told to raise a limit that it does not have yet.
func TestRateLimitsOfAVersion(t *testing.T) {
	without := goodSettings[:strings.Index(goodSettings, "rc_message:")]
	for version, want := range map[string]int{"1.23.0": 3, "1.63.0": 4, "1.64.0": 5, "1.124.0": 6, "1.133.0": 7, "1.163.2": 7} {
		limited := 0
		for subject := range bad(judge(t, config.HomeserverFile, without, homeserver.Software{Name: homeserver.Synapse, Version: version})) {
			if strings.HasPrefix(subject, "rc_") {
				limited++
			}
		}
		if limited != want {
			t.Errorf("%s: %d limits are too low, want %d", version, limited, want)
		}
	}
}

// Behind Matrix Authentication Service the homeserver limits all but logins; where none answers, --matrixurl tells which it is.
func TestRateLimitsOfAWay(t *testing.T) {
	for _, test := range []struct {
		way    *homeserver.Way
		server homeserver.Software
		want   []string
	}{
		{homeserver.MAS, todayServer, []string{"rc_message", "rc_room_creation", "rc_joins.local", "rc_joins_per_room", "rc_invites.per_user", "rc_invites.per_issuer", "rc_presence.per_user"}},
		{homeserver.CreateUser, oldServer, []string{"rc_messages_per_second"}},
		{homeserver.CreateUser, homeserver.Software{}, []string{"rc_messages_per_second"}},
	} {
		j := judging{settings: settingsFile{path: config.HomeserverFile, keys: map[any]any{}}, config: config.Config{Way: test.way}, server: test.server}
		var got []string
		for _, f := range j.rateLimits() {
			if f.Status != OK {
				got = append(got, strings.TrimPrefix(f.Subject, config.HomeserverFile+" "))
			}
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s at %v: got %v, want %v", test.way.Name, test.server, got, test.want)
		}
	}
}

// Of what is there and is read as no text, that is said, and not that it is missing.
func TestNoText(t *testing.T) {
	for subject, edit := range map[string][2]string{
		"server_name":                {"server_name: transport02.smartmesh.cn", "server_name: 1:30"},
		"registration_shared_secret": {`"rather_secret~with^symbols"`, "2024-01-01"},
	} {
		found := judge(t, config.HomeserverFile, strings.Replace(goodSettings, edit[0], edit[1], 1), todayServer)
		if !slices.ContainsFunc(found, func(f Finding) bool { return strings.HasSuffix(f.Subject, " "+subject) && f.Found == noText }) {
			t.Errorf("%s: got %+v", subject, found)
		}
	}
}

func TestExpireAccessToken(t *testing.T) {
	for _, test := range []struct {
		line   string
		server homeserver.Software
		want   Status
		found  string
	}{
		{"", oldServer, Warning, "not set, and the guide has it set"},
		{"expire_access_token: True\n", oldServer, OK, "true"},
		{"", todayServer, OK, "not set, and unknown to this version"},
		{"expire_access_token: True\n", todayServer, Warning, "it has no effect any more"},
	} {
		for _, f := range judge(t, config.HomeserverFile, goodSettings+test.line, test.server) {
			if strings.HasSuffix(f.Subject, "expire_access_token") && (f.Status != test.want || f.Found != test.found) {
				t.Errorf("%q on %v: got %+v", test.line, test.server, f)
			}
		}
	}
}

// Where none answers, --matrixurl tells which Synapse it can be.
func TestSince(t *testing.T) {
	before, since := warning("x", "do", "of then"), problem("x", "do", "of now")
	both := since
	both.Found = "before Synapse 1.53: of then; since then: of now"
	for _, test := range []struct {
		server homeserver.Software
		way    *homeserver.Way
		minor  int
		want   Finding
	}{
		{oldServer, homeserver.CreateUser, 3, before},
		{oldServer, homeserver.SharedSecret, 3, before},
		{todayServer, homeserver.SharedSecret, 3, since},
		{todayServer, homeserver.CreateUser, 3, since},
		{homeserver.Software{}, homeserver.CreateUser, 3, before},
		{homeserver.Software{}, homeserver.CreateUser, 53, before},
		{homeserver.Software{}, homeserver.SharedSecret, 3, since},
		{homeserver.Software{}, homeserver.MAS, 3, since},
		{homeserver.Software{}, homeserver.SharedSecret, 53, both},
	} {
		if got := (judging{config: config.Config{Way: test.way}, server: test.server}).since(1, test.minor, before, since); got != test.want {
			t.Errorf("%v, %s, 1.%d: got %+v, want %+v", test.server, test.way.Name, test.minor, got, test.want)
		}
	}
}

func TestBrokenDendrite(t *testing.T) {
	for _, test := range []struct {
		from, to, subject string
		want              Status
	}{
		{"transport02", "transport03", "global.server_name", Problem},
		{"smartmesh.cn}", "smartmesh.cn, disable_federation: true}", "global.disable_federation", Problem},
		{"client_api: {", "client_api: {registration_disabled: false, ", "client_api.registration_disabled", Problem},
		{ourSecret, "hunter2-hunter2", "client_api.registration_shared_secret", Problem},
		{ourSecret, "", "client_api.registration_shared_secret", Problem},
		{"{enabled: false}", "{enabled: true, threshold: 20}", "client_api.rate_limiting", Warning},
		{", rate_limiting: {enabled: false}", "", "client_api.rate_limiting", Warning},
		{"[registration.yaml]", "[]", "app_service_api.config_files", Problem},
		{"{bcrypt_cost: 4}", "{}", "user_api.bcrypt_cost", Warning},
	} {
		got := bad(judge(t, DendriteFile, strings.Replace(goodDendrite, test.from, test.to, 1), homeserver.Software{Name: homeserver.Dendrite, Version: "0.15.2"}))
		if want := map[string]Status{test.subject: test.want}; !maps.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", test.to, got, want)
		}
	}
}

// As Debian has it: a later file's key takes the place of an earlier one's, and it is named as the one to mend.
func TestSplitSettings(t *testing.T) {
	dir := t.TempDir()
	os.Mkdir(filepath.Join(dir, "conf.d"), 0o700)
	for name, content := range map[string]string{
		"homeserver.yaml": "enable_registration: false\nuser_directory: {search_all_users: true}\n",
		"conf.d/b.yaml":   "enable_registration: true\n",
		"conf.d/a.yaml":   "enable_registration: false\nserver_name: example.org\n",
		"conf.d/README":   "no settings\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := readSynapse([]string{filepath.Join(dir, "homeserver.yaml"), filepath.Join(dir, "conf.d")}, "as found here")
	if s.err != nil || !s.isTrue("enable_registration") || !s.isTrue("user_directory", "search_all_users") || s.Text("server_name") != "example.org" {
		t.Errorf("got %+v", s)
	}
	if got, want := s.write("false", "enable_registration").String(), "write in "+filepath.Join(dir, "conf.d/b.yaml")+": "+paste("enable_registration: false")+thenRestart; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := s.write("1", "new", "setting").String(), "write in "+filepath.Join(dir, "homeserver.yaml")+", under new: "+paste("setting: 1")+thenRestart; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
