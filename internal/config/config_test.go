// config_test.go owns the tests of URLs and paths among the settings.

package config

import (
	"strings"
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
)

func TestReadMatrixURL(t *testing.T) {
	tests := []struct {
		url        string
		wantOrigin string
		wantPath   string
		want       string // in the error
	}{
		{"http://127.0.0.1:8008/_matrix/client/api/v1/createUser", "http://127.0.0.1:8008", homeserver.CreateUserPath, ""},
		{"https://example.org/_synapse/admin/v1/register", "https://example.org", homeserver.SharedSecretPath, ""},
		{"HTTP://[::1]:8007/_synapse/admin/v1/register", "http://[::1]:8007", homeserver.SharedSecretPath, ""},
		{"", "", "", "absolute http or https URL"},
		{"/_synapse/admin/v1/register", "", "", "absolute http or https URL"},
		{"127.0.0.1:8008/_synapse/admin/v1/register", "", "", "absolute http or https URL"},
		{"ftp://x/_synapse/admin/v1/register", "", "", "absolute http or https URL"},
		{"http:///_synapse/admin/v1/register", "", "", "absolute http or https URL"},
		{"http://x:y/_synapse/admin/v1/register", "", "", "absolute http or https URL"},
		{"http://user:hunter2@x/_synapse/admin/v1/register", "", "", "has a user, a query or a fragment"},
		{"http://x/_synapse/admin/v1/register?access_token=hunter2", "", "", "has a user, a query or a fragment"},
		{"http://x/_synapse/admin/v1/register?", "", "", "has a user, a query or a fragment"},
		{"http://x/_synapse/admin/v1/register#y", "", "", "has a user, a query or a fragment"},
		{"http://x/_synapse/admin/v1/register/", "", "", "that no API has"},
		{"http://x/_matrix/client/v3/register", "", "", homeserver.SharedSecretPath},
		{"http://x/_matrix/client/api/v1/createUser%3Faccess_token=hunter2", "", "", "a path that no API has"},
		{"http://x:99999/_synapse/admin/v1/register", "", "", "a host or a port that cannot be"},
		{"http://[fe80::1%25lo]/_synapse/admin/v1/register", "", "", "a host or a port that cannot be"},
		{"http://x/_matrix/client/v3/register", "", "", homeserver.CreateUserPath},
	}
	for _, test := range tests {
		c := Config{MatrixURL: test.url}
		err := c.readMatrixURL()
		if test.want == "" && (err != nil || c.Origin != test.wantOrigin || c.Way.Path != test.wantPath) {
			t.Errorf("%s: got %q, %v, %v", test.url, c.Origin, c.Way, err)
		}
		if test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "hunter2")) {
			t.Errorf("%s: got %v, want %q", test.url, err, test.want)
		}
	}
}

func TestIsPlainRemote(t *testing.T) {
	for origin, want := range map[string]bool{
		"http://127.0.0.1:8008": false, "http://127.8.9.1": false, "http://[::1]:8008": false, "http://localhost": false,
		"https://example.org": false, "http://example.org": true, "http://192.168.1.1:8007": true, "http://[2001:db8::1]": true,
	} {
		if got := (Config{Origin: origin}).IsPlainRemote(); got != want {
			t.Errorf("%s: got %v, want %v", origin, got, want)
		}
	}
}

// The homeserver's own URL, where --matrixurl is of something beside it.
func TestReadHomeserverURL(t *testing.T) {
	for _, test := range []struct {
		path, given         string
		wantOrigin, wantAPI string
		want                string // in the error
		wantPlain           bool
	}{
		{homeserver.SharedSecretPath, "", "http://127.0.0.1:8082", "", "", false},
		{homeserver.SharedSecretPath, "http://127.0.0.1:8007", "http://127.0.0.1:8007", "http://127.0.0.1:8082", "", false},
		{homeserver.MASUsersPath, "https://matrix.example.org/", "https://matrix.example.org", "http://127.0.0.1:8082", "", false},
		{homeserver.MASUsersPath, "http://192.0.2.1:8007", "http://192.0.2.1:8007", "http://127.0.0.1:8082", "", true},
		{homeserver.MASUsersPath, "", "", "", "is of Matrix Authentication Service, so give the homeserver's own URL as well", false},
		{homeserver.MASUsersPath, "127.0.0.1:8007", "", "", "give scheme, host and port alone", false},
		{homeserver.MASUsersPath, "http://user:hunter2@127.0.0.1:8007", "", "", "give scheme, host and port alone", false},
		{homeserver.MASUsersPath, "http://127.0.0.1:8007/?access_token=hunter2", "", "", "give scheme, host and port alone", false},
		{homeserver.MASUsersPath, "http://127.0.0.1:8007/_matrix", "", "", "give scheme, host and port alone", false},
		{homeserver.MASUsersPath, "http://127.0.0.1:99999", "", "", "give scheme, host and port alone", false},
	} {
		c := Config{MatrixURL: "http://127.0.0.1:8082" + test.path}
		err := c.readMatrixURL()
		if err == nil {
			err = c.readHomeserverURL(test.given)
		}
		if test.want != "" {
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%q: got %v, want %q", test.given, err, test.want)
			}
			continue
		}
		if remote := (Config{Origin: test.wantOrigin, APIOrigin: "http://192.0.2.1:8082"}); !remote.IsPlainRemote() {
			t.Errorf("%q: what creates accounts is elsewhere, and is not minded", test.given)
		}
		if err != nil || c.Origin != test.wantOrigin || c.APIOrigin != test.wantAPI || c.IsPlainRemote() != test.wantPlain {
			t.Errorf("%q: got %q, %q, plain %t, %v", test.given, c.Origin, c.APIOrigin, c.IsPlainRemote(), err)
		}
	}
}

// What only looks a little like PostgreSQL is a directory, but for ~, which a shell was to replace.
func TestCheckDataPath(t *testing.T) {
	for dataPath, want := range map[string]string{
		".matrix": "", "/data/env=prod/x": "", "/data/host=a/user=b/x": "", "env=prod": "", "host=a": "", "data/12:30": "", "a@b": "", "/data/x:y@z": "",
		"./u:p@h": "", "postgres": "", "postgres/data": "", "my.host=1/port": "",
		"postgres://u:p%40ss@h/db": "", "postgres://u:p@ss@h/db": "", "postgres://u@h/d%40b?password=p%40ss": "", "postgres://u@h1:1,h2:2/db?application_name=x": "",
		"~/x": "no shell has replaced", "~": "no shell has replaced",
		"host=a port=b": "looks like a PostgreSQL URL", "": "is empty", "mysql://u@h/db": "not PostgreSQL's", "jdbc:postgresql://h/db?user=u": "not PostgreSQL's",
		"postgres://u@h/d@b": "percent-encode", "postgres://u@h/db#x": "percent-encode", "postgres://u@h/db?x": "percent-encode",
	} {
		if err := checkDataPath(dataPath); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", dataPath, err, want)
		}
	}
}

func TestCheckOpsListen(t *testing.T) {
	for _, test := range []struct {
		address string
		public  bool
		want    string // of the error
	}{
		{"", false, ""}, {"127.0.0.1:8010", false, ""}, {"[::1]:8010", false, ""}, {"localhost:8010", false, ""}, {"127.1.2.3:1", false, ""},
		{":8010", false, "other machines"}, {"0.0.0.0:8010", false, "other machines"}, {"192.0.2.1:8010", false, "other machines"},
		{"example.org:8010", false, "other machines"}, {":8010", true, ""}, {"0.0.0.0:8010", true, ""},
		{"8010", true, "not an address and a port"}, {"127.0.0.1", false, "not an address and a port"}, {"127.0.0.1:http", false, "not an address and a port"}, {"127.0.0.1:", false, "not an address and a port"},
		{"127.0.0.1:65536", false, "not an address and a port"}, {"127.0.0.1:0", false, ""}, {":0", false, "other machines"},
	} {
		c := Config{OpsListen: test.address, OpsListenPublic: test.public}
		if err := c.checkOpsListen(); (err != nil) != (test.want != "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q, public %v: got %v, want %q", test.address, test.public, err, test.want)
		}
	}
}
