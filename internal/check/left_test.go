// left_test.go owns the tests of what is left to do, with different files of settings.

package check

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"gopkg.in/yaml.v2"
)

// readLeft reads what is left in a directory of these files, before a homeserver that says it is this software, or that does not run
// where it says nothing. The text is all of it, with DIR/ for the directory and ORIGIN for where the homeserver is.
func readLeft(t *testing.T, files map[string]string, way *homeserver.Way, software string) (left Left, text string) {
	t.Helper()
	dir := t.TempDir()
	t.Chdir(dir)
	for name, content := range files {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(strings.ReplaceAll(content, "DIR/", dir+"/")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	origin := "http://127.0.0.1:1"
	if software != "" {
		name, version, _ := strings.Cut(software, " ")
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Write([]byte(`{"server":{"name":"` + name + `","version":"` + version + `"}}`))
		}))
		t.Cleanup(server.Close)
		origin = server.URL
	}
	c := config.Config{ServerName: ourServerName, Origin: origin, Way: way, SharedSecret: ourSecret, RegistrationPath: config.RegistrationFile}
	left = ReadLeft(t.Context(), Input{Config: c, Public: "http://127.0.0.1:8008"})
	var all []string
	for _, file := range left.Write {
		var keys yaml.MapSlice
		if err := yaml.UnmarshalStrict([]byte(strings.Join(file.Lines, "\n")), &keys); err != nil || len(keys) == 0 {
			t.Errorf("these lines for %s are no settings: %v\n%s", file.Path, err, strings.Join(file.Lines, "\n"))
		}
		all = append(append(all, "in "+file.Path), file.Lines...)
	}
	return left, strings.NewReplacer(dir+"/", "DIR/", origin, "ORIGIN").Replace(strings.Join(append(all, left.Do...), "\n"))
}

// What the settings have is not asked for; what they lack is, and nothing of another homeserver.
func TestLeft(t *testing.T) {
	onHere := func(port, settings string) string { return strings.ReplaceAll(settings, "port: 8007", "port: "+port) }
	good := onHere("1", goodSettings) // where nothing answers
	with := func(from, to string) map[string]string {
		if !strings.Contains(good, from) {
			t.Fatalf("no %q in the settings", from)
		}
		return map[string]string{"homeserver.yaml": strings.Replace(good, from, to, 1), "registration.yaml": "id: x\n", "other.yaml": "id: y\n"}
	}
	tests := []struct {
		name     string
		files    map[string]string
		way      *homeserver.Way
		software string
		want     string
	}{
		{"all is done", with("bcrypt_rounds: 4", "bcrypt_rounds: 4"), homeserver.SharedSecret, "", ""},
		{"a port of nginx", with("port: 1,", "port: 8008,"), homeserver.SharedSecret, "", "write port: 8007 in the place of 8008 in homeserver.yaml, and let nginx listen on 8008"},
		{"search", with("search_all_users: true", "prefer_local_users: true"), homeserver.SharedSecret, "",
			"in homeserver.yaml\nuser_directory:    # is there already: add to it\n  search_all_users: true"},
		{"no directory of users", with("user_directory: {search_all_users: true}\n", ""), homeserver.SharedSecret, "",
			"in homeserver.yaml\nuser_directory:\n  search_all_users: true"},
		{"bcrypt", with("bcrypt_rounds: 4\n", ""), homeserver.SharedSecret, "", "in homeserver.yaml\nbcrypt_rounds: 4"},
		{"two limits", with("account: {per_second: 1, burst_count: 10}, failed_attempts: {per_second: 1, burst_count: 10}", "account: {per_second: 0.003, burst_count: 5}"), homeserver.SharedSecret, "",
			"in homeserver.yaml\n# limits: the defaults are too low for a hub with 20 channels\nrc_login:    # is there already: add to it\n  account: {per_second: 1, burst_count: 10}\n  failed_attempts: {per_second: 1, burst_count: 10}"},
		{"not listed", with("[DIR/registration.yaml]", "[DIR/other.yaml, DIR/gone.yaml]"), homeserver.SharedSecret, "",
			"in homeserver.yaml\napp_service_config_files: [\"DIR/other.yaml\", \"DIR/registration.yaml\"]"},
		{"not forwarded", with("x_forwarded: true, ", ""), homeserver.SharedSecret, "", "write for port 1 in homeserver.yaml: x_forwarded: true"},
		{"a key of conf.d", map[string]string{"homeserver.yaml": good, "registration.yaml": "id: x\n", "conf.d/late.yaml": "bcrypt_rounds: 12\n"}, homeserver.SharedSecret, "",
			"in conf.d/late.yaml\nbcrypt_rounds: 4"},
		{"a Synapse without some limits", with("rc_presence: {per_user: {per_second: 1, burst_count: 10}}\n", ""), homeserver.SharedSecret, "Synapse 1.100.0",
			"write in run.sh, or where else the service gets its flags: --matrixurl http://127.0.0.1:1/_synapse/admin/v1/register; then restart the service"},
		{"one that is unfit", with("port: 1,", "type: http, path: /x, port: 1,"), homeserver.SharedSecret, "Synapse 1.140.0",
			"Synapse 1.140.0 at ORIGIN is unfit: its registration and login answer 500 to passwords of more than 72 bytes, and nodes have 130 (element-hq/synapse#19063): install Synapse 1.141.0 or later"},
		{"Dendrite, all done", map[string]string{"dendrite.yaml": goodDendrite, "registration.yaml": "id: x\n"}, homeserver.SharedSecret, "Dendrite 0.15.2", ""},
		{"Dendrite that does not run", map[string]string{"dendrite.yaml": strings.Replace(goodDendrite, "bcrypt_cost: 4", "x: 4", 1), "registration.yaml": "id: x\n"}, homeserver.SharedSecret, "",
			"in dendrite.yaml\nuser_api:    # is there already: add to it\n  bcrypt_cost: 4"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			left, got := readLeft(t, test.files, test.way, test.software)
			if got != test.want {
				t.Errorf("got:\n%s\nwant:\n%s", got, test.want)
			}
			if !left.Found {
				t.Error("its settings are not found")
			}
		})
	}
}

// Where no settings are, all is left that this homeserver needs, and nothing of another.
func TestLeftWithoutSettings(t *testing.T) {
	synapse := []string{"server_name", "user_directory", "listeners", "app_service_config_files", "bcrypt_rounds"}
	for _, l := range homeserver.RateLimits {
		if l.Needed.Burst > l.Default.Burst || l.Needed.PerSecond > l.Default.PerSecond {
			synapse = append(synapse, l.Path[0])
		}
	}
	synapse = unique(synapse)
	tests := []struct {
		name, software string
		way            *homeserver.Way
		file           string
		keys           []string
	}{
		{"nobody answers", "", homeserver.SharedSecret, "homeserver.yaml", synapse},
		{"Synapse", "Synapse 1.163.2", homeserver.SharedSecret, "homeserver.yaml", synapse},
		{"an older Synapse", "Synapse 1.120.0", homeserver.SharedSecret, "homeserver.yaml", without(synapse, "rc_room_creation", "rc_presence")},
		{"Dendrite", "Dendrite 0.15.2", homeserver.SharedSecret, "dendrite.yaml", []string{"global", "client_api", "app_service_api", "user_api"}},
		{"createUser", "", homeserver.CreateUser, "homeserver.yaml", []string{"server_name", "user_directory", "expire_access_token", "trusted_third_party_id_servers", "listeners", "app_service_config_files", homeserver.OldMessageRate, homeserver.OldMessageBurst}},
		{"Matrix Authentication Service", "", homeserver.MAS, "homeserver.yaml", without(synapse, "rc_login", "bcrypt_rounds")},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			left, _ := readLeft(t, nil, test.way, test.software)
			if left.Found || left.Software.String() != test.software || len(left.Write) != 1 || left.Write[0].Path != test.file {
				t.Fatalf("got %+v", left)
			}
			var settings yaml.MapSlice
			if err := yaml.Unmarshal([]byte(strings.Join(left.Write[0].Lines, "\n")), &settings); err != nil {
				t.Fatal(err)
			}
			var keys []string
			for _, item := range settings {
				keys = append(keys, item.Key.(string))
			}
			slices.Sort(keys)
			slices.Sort(test.keys)
			if !slices.Equal(keys, test.keys) {
				t.Errorf("got %v, want %v", keys, test.keys)
			}
		})
	}
}

// Nothing of what it tells holds the secret of the settings.
func TestLeftHidesSecrets(t *testing.T) {
	_, text := readLeft(t, map[string]string{"homeserver.yaml": "registration_shared_secret: hunter2-hunter2\nserver_name: hunter2-hunter2\napp_service_config_files: [hunter2-hunter2]\n"}, homeserver.SharedSecret, "")
	if strings.Contains(text, "hunter2") || strings.Contains(text, ourSecret) || !strings.Contains(text, "registration_shared_secret") {
		t.Errorf("got %s", text)
	}
}

func unique(all []string) []string {
	slices.Sort(all)
	return slices.Compact(all)
}

func without(all []string, left ...string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(key string) bool { return slices.Contains(left, key) })
}
