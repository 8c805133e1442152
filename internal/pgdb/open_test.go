// open_test.go owns the tests of PostgreSQL's URL, environment and error messages.

package pgdb

import (
	"errors"
	"strings"
	"testing"
)

// What goes to another machine without TLS, or may, goes in the clear.
func TestIsPlain(t *testing.T) {
	for rawURL, want := range map[string]bool{
		"postgres://u@/db?host=/run/postgresql":              false,
		"postgres://u@localhost/db":                          false,
		"postgres://u@127.0.0.1/db":                          false,
		"postgres://u@192.0.2.1/db":                          true, // sslmode=prefer falls back
		"postgres://u@192.0.2.1/db?sslmode=disable":          true,
		"postgres://u@192.0.2.1/db?sslmode=require":          false,
		"postgres://u@db.example/db?sslmode=verify-full":     false,
		"postgres://u@127.0.0.1,192.0.2.1/db":                true,
		"postgres://u@127.0.0.1,db.example/?sslmode=require": false,
	} {
		if err := CheckURL(rawURL); err != nil {
			t.Fatal(err)
		}
		if got := IsPlain(rawURL); got != want {
			t.Errorf("%s: got %v", rawURL, got)
		}
	}
}

// Neither user nor password is in a name, nor anything of a URL that cannot be read.
func TestName(t *testing.T) {
	for rawURL, want := range map[string]string{
		"postgres://u:secret@db.example:5433/d":               "postgres://db.example:5433/d",
		"postgres://u@[::1]/d?password=secret":                "postgres://[::1]:5432/d",
		"postgres://u:secret@/d?host=/run/postgresql":         "postgres:///d?host=/run/postgresql&port=5432",
		"postgres://u:secret@db.example:5433/d?sslmode=maybe": "postgres://…",
		"postgres://u:%zzsecret@db.example/d":                 "postgres://…",
	} {
		if got := Name(rawURL); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// A variable of PostgreSQL's clients that is wrong is named, and not the URL. No value is quoted.
func TestEnvironment(t *testing.T) {
	for name, value := range map[string]string{
		"PGSERVICE": "sekrit", "PGPORT": "sekrit", "PGSSLMODE": "sekrit", "PGCONNECT_TIMEOUT": "sekrit", "PGSSLROOTCERT": "/sekrit",
		"PGTARGETSESSIONATTRS": "sekrit", "PGMINPROTOCOLVERSION": "sekrit", "PGCHANNELBINDING": "sekrit",
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(name, value)
			err := CheckURL("postgres://u@127.0.0.1/db")
			if err == nil || !strings.HasSuffix(err.Error(), ": unset or correct "+name) || strings.Contains(err.Error(), value) {
				t.Errorf("got %v", err)
			}
		})
	}
	t.Setenv("PGUSER", "u")
	if err := CheckURL("postgres://u@127.0.0.1/db?sslmode=maybe"); err == nil || strings.Contains(err.Error(), "environment") {
		t.Errorf("got %v", err)
	}
}

// What the library says of each host is printed once.
func TestFailure(t *testing.T) {
	for said, want := range map[string]string{
		"failed to connect to `user=u database=d`:\n\tone: refused\n\tone: refused":                 "failed to connect to `user=u database=d`: one: refused",
		"failed to connect to `user=u database=d`:\n\tone: refused\n\ttwo: refused\n\tone: refused": "failed to connect to `user=u database=d`: one: refused; two: refused",
		"failed to connect to `user=u database=d`: one: refused":                                    "failed to connect to `user=u database=d`: one: refused",
	} {
		if got := (&failure{errors.New(said)}).Error(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
