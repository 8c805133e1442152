// store_postgres_schema_test.go owns what opening the store in PostgreSQL has to do: one schema, no matter which gateway
// comes first, what is refused, and no password in any message.

package main

import (
	"context"
	"errors"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
)

// However many instances start at once on an empty database, its schema is made once.
func TestPostgresStartTogether(t *testing.T) {
	url := newDatabase(t)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			s, err := openStore(t.Context(), url, testServerName)
			if err != nil {
				t.Error(err)
				return
			}
			s.Close()
		})
	}
	all.Wait()
}

// What is no store, or another's.
func TestPostgresRefuses(t *testing.T) {
	p := postgresServer(t)
	tests := []struct {
		name, do string
		want     string
	}{
		{"a later version", "UPDATE matrix_regservice.meta SET version = 1000", "its schema has version 1000 and this program knows up to"},
		{"another homeserver", "UPDATE matrix_regservice.meta SET server_name = 'example.org'", "it belongs to example.org"},
		{"no version", "DELETE FROM matrix_regservice.meta", "meta is empty"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			url := newDatabase(t)
			openedPostgres(t, url).Close()
			sql(t, p, databaseOf(url), test.do)
			_, err := openStore(t.Context(), url, testServerName)
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
	if _, err := readStore(t.Context(), newDatabase(t)); !errors.Is(err, errNoStore) {
		t.Errorf("an empty database: got %v", err)
	}
	if _, err := readStore(t.Context(), "postgres://u@127.0.0.1:1/db"); err == nil || errors.Is(err, errNoStore) {
		t.Errorf("no database: got %v", err)
	}
	for what, open := range map[string]func(url string) (store, error){
		"to write": func(url string) (store, error) { return openStore(t.Context(), url, testServerName) },
		"to read":  func(url string) (store, error) { return readStore(t.Context(), url) },
	} {
		if _, err := open("postgres://u@127.0.0.1:1/db?sslmode=maybe"); err == nil || !strings.Contains(err.Error(), "a parameter that cannot be") {
			t.Errorf("%s, by a URL that cannot be read: got %v", what, err)
		}
	}
}

// A store that a command opens belongs to nobody until a daemon starts, and to the daemon's server name then.
func TestPostgresServerName(t *testing.T) {
	url := newDatabase(t)
	for _, step := range []struct{ opens, want string }{{"", ""}, {testServerName, testServerName}, {"", testServerName}, {testServerName, testServerName}} {
		s, err := openPostgresStore(t.Context(), url, step.opens)
		if err != nil {
			t.Fatal(err)
		}
		if name, err := s.serverName(); err != nil || name != step.want {
			t.Errorf("opened for %q: got %q, %v, want %q", step.opens, name, err, step.want)
		}
		s.Close()
	}
}

// Records that go over a network in the clear are warned of, and only those.
func TestPostgresPlainIsWarnedOf(t *testing.T) {
	lines := captureLog(t)
	const warning = "Records go to PostgreSQL unencrypted"
	openedPostgres(t, newDatabase(t))
	if strings.Contains(lines.String(), warning) {
		t.Errorf("by a socket: %s", lines)
	}
	stopped, stop := context.WithCancel(t.Context())
	stop()
	if _, err := openStore(stopped, "postgres://u@192.0.2.1/db", testServerName); err == nil || !strings.Contains(lines.String(), warning) {
		t.Errorf("to another machine: %v, log: %s", err, lines)
	}
}

// No error and no log line holds the password, however wrong the URL is.
func TestPostgresPasswordUnseen(t *testing.T) {
	lines := captureLog(t)
	p := postgresServer(t)
	const password = "Geheim0815"
	address := p.Address()
	host, port, _ := net.SplitHostPort(address)
	for name, dataPath := range map[string]string{
		"wrong":              "postgres://postgres:" + password + "@" + address + "/postgres",
		"no such host":       "postgres://postgres:" + password + "@does-not-exist.invalid/postgres",
		"nobody there":       "postgres://postgres:" + password + "@127.0.0.1:1/postgres",
		"several":            "postgres://postgres:" + password + "@127.0.0.1:1,127.0.0.1:2/postgres",
		"with a hash":        "postgres://postgres:x#" + password + "@" + address + "/postgres",
		"with a slash":       "postgres://postgres:x/" + password + "@" + address + "/postgres",
		"with a percent":     "postgres://postgres:%zz" + password + "@" + address + "/postgres",
		"with a space":       "postgres://postgres:x " + password + "@" + address + "/postgres",
		"as a parameter":     "postgres://postgres@/postgres?host=" + host + "&port=" + port + "&password=" + password,
		"with a bad setting": "postgres://postgres:" + password + "@" + address + "/postgres?sslmode=maybe",
		"another scheme":     "postgress://postgres:" + password + "@" + address + "/postgres",
		"a slash after port": "postgres://postgres:12/" + password + "@127.0.0.1:1/postgres",
		"an @ in the path":   "postgres://postgres:x@12/" + password + "@127.0.0.1:1/postgres",
		"before a slash":     "postgres://" + password + ":12/3@127.0.0.1:1/postgres",
		"before a question":  "postgres://postgres:" + password + "@12?3@127.0.0.1:1/postgres",
		"an & in it":         "postgres://postgres@127.0.0.1:1/postgres?password=x&" + password,
		"a hash after port":  "postgres://" + password + ":12#3@127.0.0.1:1/postgres",
		"no slashes":         "postgres:postgres:" + password + "@127.0.0.1:1/postgres",
		"one slash":          "postgresql:/postgres:" + password + "@127.0.0.1:1/postgres",
		"in capitals":        "Postgres://postgres:" + password + "@127.0.0.1:1/postgres",
		"in quotes":          `"postgres://postgres:` + password + `@127.0.0.1:1/postgres"`,
		"no colon":           "postgres//postgres:" + password + "@127.0.0.1:1/postgres",
		"no scheme":          "postgres:" + password + "@127.0.0.1:1/postgres",
		"slashes alone":      "//u:" + password + "@127.0.0.1:1/postgres",
		"keywords":           "host=127.0.0.1 user=postgres password=" + password,
		"other keywords":     "service = x; PASSWORD = '" + password + "'",
	} {
		t.Run(name, func(t *testing.T) {
			file := t.TempDir() + "/url"
			if err := os.WriteFile(file, []byte(dataPath+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			for _, args := range [][]string{
				{"--datapath", dataPath, "users"}, {"--datapath-file", file, "users"}, {"migrate", "--to", dataPath}, {"migrate", "--to-file", file},
				{"--matrixdomain", testServerName, "--hstoken", "x", "--astoken", "x", "--port", "0", "--datapath-file", file},
			} {
				var out, errs strings.Builder
				if code := run(append([]string{programName}, args...), &out, &errs); code != 1 {
					t.Errorf("%v: exit %d", args, code)
				}
				said := out.String() + errs.String()
				if lastLine := strings.LastIndex(strings.TrimSpace(said), "\n") + 1; strings.Contains(said, password) || !strings.HasPrefix(said[lastLine:], programName+": ") {
					t.Errorf("%v: %s", args[0], said)
				}
			}
		})
	}
	if strings.Contains(lines.String(), password) {
		t.Errorf("log: %s", lines)
	}
}

// A password in the URL works, one of a role that the server asks for it.
func TestPostgresPassword(t *testing.T) {
	p := postgresServer(t)
	const password = "p@ss/w#rd%"
	sql(t, p, "postgres", "CREATE ROLE with_password LOGIN SUPERUSER PASSWORD '"+password+"'")
	name := databaseOf(newDatabase(t))
	u := url.URL{Scheme: "postgres", User: url.UserPassword("with_password", password), Host: p.Address(), Path: "/" + name}
	s := openedPostgres(t, u.String())
	if got := storeName(u.String()); got != "postgres://"+p.Address()+"/"+name {
		t.Errorf("it is called %s", got)
	}
	s.Close()

	passFile := t.TempDir() + "/pgpass"
	if err := os.WriteFile(passFile, []byte("127.0.0.1:*:*:with_password:"+password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PGPASSFILE", passFile)
	u.User = url.User("with_password")
	openedPostgres(t, u.String())
}

// A pooler that gives each statement another connection cannot be worked with, and the start says so.
func TestPostgresStatementPooling(t *testing.T) {
	direct := newDatabase(t)
	_, err := openStore(t.Context(), newPooler(t, "statement").URL(databaseOf(direct)), testServerName)
	if err == nil || !strings.Contains(err.Error(), "statement pooling") || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v", err)
	}
}
