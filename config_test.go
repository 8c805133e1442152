package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestCheckServerName(t *testing.T) {
	tests := []struct {
		name string
		want string // in the error; "" for none
	}{
		{"transport02.smartmesh.cn", ""},
		{"localhost", ""},
		{"example.org:8448", ""},
		{"192.0.2.1", ""},
		{"192.0.2.1:8448", ""},
		{strings.Repeat("a", 211), ""},
		{"", "is missing"},
		{"[2001:db8::1]", "IPv6 literal"},
		{"[2001:db8::1]:8448", "IPv6 literal"},
		{"2001:db8::1", "IPv6 literal"},
		{"example.org:", "not a Matrix server name"},
		{"example.org:123456", "not a Matrix server name"},
		{"example.org:port", "not a Matrix server name"},
		{":8448", "not a Matrix server name"},
		{"exa mple.org", "not a Matrix server name"},
		{"example.org\n", "not a Matrix server name"},
		{"exämple.org", "not a Matrix server name"},
		{"under_score.org", "not a Matrix server name"},
		{"https://example.org", "not a Matrix server name"},
		{"@user", "not a Matrix server name"},
		{"-", "not a Matrix server name"},
		{strings.Repeat("a", 212), "longer than Matrix allows"},
	}
	for _, test := range tests {
		err := checkServerName(test.name)
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%q: got %v, want %q", test.name, err, test.want)
		}
	}
}

func TestReadMatrixURL(t *testing.T) {
	tests := []struct {
		url        string
		wantOrigin string
		wantPath   string
		want       string // in the error
	}{
		{"http://127.0.0.1:8008/_matrix/client/api/v1/createUser", "http://127.0.0.1:8008", createUserPath, ""},
		{"https://example.org/_synapse/admin/v1/register", "https://example.org", sharedSecretPath, ""},
		{"HTTP://[::1]:8007/_synapse/admin/v1/register", "http://[::1]:8007", sharedSecretPath, ""},
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
		{"http://x/_matrix/client/v3/register", "", "", sharedSecretPath},
		{"http://x/_matrix/client/api/v1/createUser%3Faccess_token=hunter2", "", "", "a path that no API has"},
		{"http://x:99999/_synapse/admin/v1/register", "", "", "a host or a port that cannot be"},
		{"http://[fe80::1%25lo]/_synapse/admin/v1/register", "", "", "a host or a port that cannot be"},
		{"http://x/_matrix/client/v3/register", "", "", createUserPath},
	}
	for _, test := range tests {
		c := config{matrixURL: test.url}
		err := c.readMatrixURL()
		if test.want == "" && (err != nil || c.origin != test.wantOrigin || c.apiPath != test.wantPath) {
			t.Errorf("%s: got %q, %q, %v", test.url, c.origin, c.apiPath, err)
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
		if got := (config{origin: origin}).isPlainRemote(); got != want {
			t.Errorf("%s: got %v, want %v", origin, got, want)
		}
	}
}

// An error about a file names the file and the key, and never quotes what stands there.
func TestReadRegistration(t *testing.T) {
	tests := []struct {
		name, content string
		given         config
		want          string
	}{
		{"good", "as_token: sekrit1\nhs_token: sekrit2\n", config{}, ""},
		{"a flag repeats it", "as_token: sekrit1\nhs_token: sekrit2\n", config{asToken: "sekrit1"}, ""},
		{"a flag contradicts", "as_token: sekrit1\nhs_token: sekrit2\n", config{hsToken: "sekrit3"}, "--hstoken is not the hs_token of"},
		{"no hs_token", "as_token: sekrit1\n", config{}, "has no hs_token"},
		{"empty", "", config{}, "has no as_token"},
		{"a number", "as_token: 5318008\nhs_token: sekrit2\n", config{}, "as_token must be a string"},
		{"a list", "as_token: [sekrit1]\nhs_token: sekrit2\n", config{}, "as_token must be a string"},
		{"a list of all", "- sekrit1\n", config{}, "is not a YAML mapping"},
		{"text", "sekrit1", config{}, "is not a YAML mapping"},
		{"broken", "as_token: sekrit1\n\ths_token: sekrit2\n", config{}, "is not a YAML mapping of settings: line 2"},
		{"a line break", "as_token: \"sekrit1\\nX: y\"\nhs_token: sekrit2\n", config{}, "as_token has characters"},
		{"a space", "as_token: sekrit1 sekrit\nhs_token: sekrit2\n", config{}, "as_token has characters"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "registration.yaml")
			if err := os.WriteFile(path, []byte(test.content), 0o600); err != nil {
				t.Fatal(err)
			}
			c := test.given
			err := c.readRegistration(path, true)
			if test.want == "" && (err != nil || c.asToken != "sekrit1" || c.hsToken != "sekrit2") {
				t.Errorf("got %+v, %v", c, err)
			}
			if test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), path)) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			if err != nil && (strings.Contains(err.Error(), "sekrit") || strings.Contains(err.Error(), "5318008")) {
				t.Errorf("quotes the file: %v", err)
			}
		})
	}
}

// What is no file, or is no small one, is not waited for.
func TestReadFile(t *testing.T) {
	dir := t.TempDir()
	pipe, large := filepath.Join(dir, "pipe"), filepath.Join(dir, "large")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	os.WriteFile(large, make([]byte, fileLimit+1), 0o600)
	for path, want := range map[string]string{pipe: "not a regular file", "/dev/zero": "not a regular file", dir: "not a regular file", large: "is over"} {
		if _, err := readFile(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", path, err, want)
		}
	}
}

func TestReadSecret(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	if _, err := readSecret(path); err == nil {
		t.Error("a file that is not there: no error")
	}
	os.WriteFile(path, []byte(" \n"), 0o600)
	if _, err := readSecret(path); err == nil || !strings.Contains(err.Error(), "is empty") {
		t.Errorf("an empty file: got %v", err)
	}
	os.WriteFile(path, []byte("open sesame\n"), 0o600)
	if got, err := readSecret(path); got != "open sesame" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}
