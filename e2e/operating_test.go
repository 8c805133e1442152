// operating_test.go owns what an operator sees: settings that do not fit, starting twice, stopping, the log.

package e2e

import (
	"net/http"
	"strings"
	"testing"
)

// A misfit is a gateway whose settings do not fit the homeserver.
type misfit struct {
	name       string
	createPath string
	flags      []string
	atStart    []string // words of one line of the log, before any node came
	atRequest  []string // and of one more, after one did
}

const wrongSecret = "not-the-secret-of-this-homeserver"

// misfits are by the API that the homeserver has. Each gateway has tokens of its own, which the homeserver was
// never told: as after genconfig --new-tokens without a restart.
var misfits = map[string][]misfit{
	CreateUserPath: {
		{
			name: "shared-secret-at-the-old-one", createPath: SharedSecretPath, flags: []string{"--sharesecret", wrongSecret},
			atStart:   []string{"does not have the API of --matrixurl", "use --matrixurl", CreateUserPath},
			atRequest: []string{"Refused registration", "502", "Synapse 0.34.0"},
		},
		{
			name: "unknown-as-token", createPath: CreateUserPath,
			atStart:   []string{"does not accept what this service creates accounts with", "restart"},
			atRequest: []string{"Refused registration", "502", "it does not know the as_token"},
		},
	},
	SharedSecretPath: {
		{
			name: "create-user-at-the-new-one", createPath: CreateUserPath,
			atStart:   []string{"does not have the API of --matrixurl", "use --matrixurl", SharedSecretPath},
			atRequest: []string{"Refused registration", "502", SharedSecretPath},
		},
		{
			name: "wrong-shared-secret", createPath: SharedSecretPath, flags: []string{"--sharesecret", wrongSecret},
			atStart:   []string{"does not accept what this service creates accounts with", "registration_shared_secret"},
			atRequest: []string{"Refused registration", "502", "the shared secret is not the homeserver's"},
		},
	},
}

func testMisconfigured(t *testing.T, d *Deployment) {
	d.AddSecret("wrong shared secret", wrongSecret)
	for _, wrong := range misfits[d.Recipe.createPath] {
		t.Run(wrong.name, func(t *testing.T) {
			g := must(d.AddGateway(t.Context(), wrong.name, d.Homeserver.URL+wrong.createPath, wrong.flags...))(t)
			t.Log(must(g.WaitForLog(t.Context(), wrong.atStart...))(t))

			n := newNode(t, d)
			want(t, must(n.RegisterAt(t.Context(), g.RegisterURL))(t), http.StatusBadGateway, "M_UNKNOWN")
			t.Log(must(g.WaitForLog(t.Context(), wrong.atRequest...))(t))

			if accounts := must(d.Homeserver.Accounts(t.Context(), n.UserID))(t); accounts != 0 {
				t.Errorf("the homeserver has %d accounts, want none", accounts)
			}
			if code := must(g.Stop())(t); code != 0 {
				t.Errorf("stopped with exit code %d, want 0", code)
			}
		})
	}
}

func testSecondGateway(t *testing.T, d *Deployment) {
	onItsPort := must(d.Gateway.RunAgain(t.Context()))(t)

	port := must(freePorts(1))(t)[0]
	onItsStore := must(d.Gateway.RunElsewhere(t.Context(), port))(t)

	for _, test := range []struct {
		name, says string
		got        Result
	}{
		{"on the port of the first", "address already in use", onItsPort},
		{"on the store of the first", "register.db", onItsStore},
	} {
		line, more, _ := strings.Cut(test.got.Stderr, "\n")
		if test.got.Code != 1 || test.got.Stdout != "" || more != "" || !strings.HasPrefix(line, programName+": ") || !strings.Contains(line, test.says) {
			t.Errorf("%s: exit %d\n%s%s\nwant exit 1 and one line with %q", test.name, test.got.Code, test.got.Stdout, test.got.Stderr, test.says)
		}
		t.Log(line)
	}
	newMember(t, d) // the first serves on
}

func testTerminated(t *testing.T, d *Deployment) {
	n, _ := newMember(t, d)
	if code := must(d.Gateway.Stop())(t); code != 0 {
		t.Errorf("SIGTERM ends the gateway with exit code %d, want 0", code)
	}
	if err := d.Gateway.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	want(t, must(n.Register(t.Context()))(t), http.StatusConflict, "M_USER_IN_USE") // the record outlives it
}

func testNoSecretLogged(t *testing.T, d *Deployment) {
	secrets := d.Secrets()
	t.Logf("%d secrets were in use", len(secrets))
	for _, prefix := range []string{"$2a$", "$2b$"} {
		secrets["bcrypt hash "+prefix] = prefix
	}
	for _, g := range append([]*Gateway{d.Gateway}, d.extra...) {
		log := must(g.Log())(t)
		if !strings.Contains(log, "Listening") {
			t.Errorf("%s is not a gateway's log", g.LogFile)
		}
		for kind, secret := range secrets {
			if strings.Contains(log, secret) {
				t.Errorf("%s holds a secret: %s", g.LogFile, kind)
			}
		}
	}
}
