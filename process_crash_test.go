// process_crash_test.go owns what a power failure leaves, at each step of a registration: the test binary is the daemon, and kills
// itself there.

package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/daemon"
	masplay "github.com/SmartMeshFoundation/matrix-regservice/e2e/mas"
	"github.com/SmartMeshFoundation/matrix-regservice/e2e/standin"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/files"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/log"
	"github.com/urfave/cli/v3"
)

// A crashStep is a moment of a registration.
type crashStep string

const (
	afterVerify   crashStep = "after the proof was verified"
	beforePending crashStep = "before the pending record is written"
	afterPending  crashStep = "after the pending record was written"
	beforeCall    crashStep = "before the homeserver is called"
	duringCall    crashStep = "during the call" // the test kills the daemon, when the homeserver has been asked
	afterCall     crashStep = "after the call"

	duringPassword crashStep = "while the password is set" // likewise, where that is a call of its own
	duringName     crashStep = "while the display name is set"

	beforeFinal crashStep = "before the final write"
	afterFinal  crashStep = "after the final write"
	atAnswer    crashStep = "when the answer is written"

	beforeBan    crashStep = "before the ban is written"
	afterBan     crashStep = "between the ban and the homeserver"
	afterBanCall crashStep = "after the homeserver put the account out"
)

const (
	crashingName = "crashing-regservice" // this test binary as a daemon that kills itself
	crashAtEnv   = "CRASH_AT"            // the step where it does
)

// crashing is the daemon, with the parts of a registration wrapped so that it kills itself at one step.
func crashing() {
	root := newCommand(os.Stdout, os.Stderr)
	root.Action = crashingAction
	if err := root.Run(context.Background(), os.Args); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(1)
}

func crashingAction(ctx context.Context, cmd *cli.Command) error {
	c, err := config.ReadServing(cmd)
	if err != nil {
		return err
	}
	log.SetDefault(newLogger(cmd.Root().ErrWriter, c))
	listener, err := net.Listen("tcp", c.Address())
	if err != nil {
		return err
	}
	opsListener, err := listenOps(c)
	if err != nil {
		return err
	}
	made, err := newService(c, nil, opsListener != nil)
	if err != nil {
		return err
	}
	store, err := openBoltStore(c.DataPath, testServerName)
	if err != nil {
		return err
	}
	operated := made
	operated.accounts = crashingAccounts{made.accounts}
	if _, err := startOps(ctx, operated, crashingStore{store}, opsListener); err != nil {
		return err
	}
	s := newServer(made, store)
	s.registrar.store = crashingStore{s.registrar.store}
	s.registrar.accounts = crashingAccounts{s.registrar.accounts}
	tellReady(listener, opsListener)
	return s.serve(ctx, crashingListener{listener})
}

// reach ends this process, as a power failure would, where it is to end.
func (step crashStep) reach() {
	if os.Getenv(crashAtEnv) == string(step) {
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}

type (
	crashingStore    struct{ store }
	crashingClaim    struct{ claim }
	crashingAccounts struct{ homeserver.Accounts }
	crashingListener struct{ net.Listener }
	crashingConn     struct{ net.Conn }
)

func (s crashingStore) Claim(ctx context.Context, a common.Address) (claim, error) {
	afterVerify.reach()
	held, err := s.store.Claim(ctx, a)
	return crashingClaim{held}, err
}

func (c crashingClaim) Save(r record) error {
	before, after := beforeFinal, afterFinal
	if r.State == statePending {
		before, after = beforePending, afterPending
	}
	before.reach()
	err := c.claim.Save(r)
	after.reach()
	return err
}

func (c crashingClaim) Ban(b ban) error {
	beforeBan.reach()
	return c.claim.Ban(b)
}

func (a crashingAccounts) Ban(ctx context.Context, userID string) error {
	afterBan.reach()
	err := a.Accounts.Ban(ctx, userID)
	afterBanCall.reach()
	return err
}

func (c crashingClaim) Drop() error {
	beforeFinal.reach()
	err := c.claim.Drop()
	afterFinal.reach()
	return err
}

func (a crashingAccounts) Create(ctx context.Context, n homeserver.Account, begun bool, recorded func() error) (string, error) {
	token, err := a.Accounts.Create(ctx, n, begun, func() error {
		err := recorded()
		beforeCall.reach()
		return err
	})
	afterCall.reach()
	return token, err
}

func (l crashingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	return crashingConn{conn}, err
}

func (c crashingConn) Write(p []byte) (int, error) {
	atAnswer.reach()
	return c.Conn.Write(p)
}

// Wherever the daemon is killed, with a homeserver that made the account or did not: the store opens, the node tries again
// and is registered, with one account.
func TestCrash(t *testing.T) {
	tests := []struct {
		at         crashStep
		made       bool // by the homeserver, before the daemon died
		wantAfter  state
		wantAnswer int // to the next try
	}{
		{afterVerify, false, "", 200},
		{beforePending, false, "", 200},
		{afterPending, false, statePending, 200},
		{beforeCall, false, statePending, 200},
		{duringCall, false, statePending, 200},
		{duringCall, true, statePending, 200},
		{duringPassword, false, statePending, 200},
		{duringPassword, true, statePending, 200},
		{duringName, false, statePending, 200},
		{duringName, true, statePending, 200},
		{afterCall, false, statePending, 200},
		{afterCall, true, statePending, 200},
		{beforeFinal, false, statePending, 200},
		{beforeFinal, true, statePending, 200},
		{afterFinal, false, "", 200},
		{afterFinal, true, stateRegistered, 409},
		{atAnswer, false, "", 200},
		{atAnswer, true, stateRegistered, 409},
	}
	t.Parallel()
	for _, api := range apis {
		for _, test := range tests {
			if (test.at == duringPassword || test.at == duringName) && api.path != homeserver.MASUsersPath {
				continue
			}
			t.Run(fmt.Sprintf("%s/%s/made %v", api.name, test.at, test.made), func(t *testing.T) {
				t.Parallel()
				dir, backend := t.TempDir(), newCountingStandIn(t, api.creates)
				d := daemon.Start(t, crashingName, dir, backend.URL+api.path, crashAtEnv+"="+string(test.at))
				if test.at == duringName {
					backend.MAS.Set(masplay.Settings{Version: "v1.17.0"}) // no later one needs the call
				}
				during := map[crashStep]string{duringCall: api.creates, duringPassword: callPassword, duringName: callSetName}[test.at]
				if !test.made && (during == "" || during == api.creates) {
					backend.Fail(api.creates, says(403, `{"errcode":"M_UNKNOWN","error":"no"}`))
				}
				if during != "" {
					right := map[string]http.HandlerFunc{api.creates: backend.counted, callPassword: backend.Right(callPassword), callSetName: backend.Right(callSetName)}[during]
					if !test.made {
						right = says(403, "{}")
					}
					backend.Fail(during, func(w http.ResponseWriter, r *http.Request) {
						right(httptest.NewRecorder(), r)
						d.Cmd.Process.Kill()
						<-d.Done
					})
				}

				proof, n := newProof(t)
				if got, err := d.Send(proof); err == nil {
					t.Fatalf("answered %d %s", got.Status, got.Body)
				}
				select {
				case <-d.Done:
				case <-time.After(daemon.Patience):
					t.Fatal("it did not die")
				}
				if d.Cmd.ProcessState.ExitCode() != -1 {
					t.Fatalf("it was not killed: %s", d.Log())
				}
				if counts := checkWhole(t, filepath.Join(dir, storeFile)); counts[test.wantAfter] != min(1, len(test.wantAfter)) || counts[statePending]+counts[stateRegistered] != min(1, len(test.wantAfter)) {
					t.Errorf("killed: the store has %v, want one record if any, %q", counts, test.wantAfter)
				}

				backend.Fail(during, nil)
				backend.Fail(api.creates, backend.counted)
				d = daemon.Start(t, programName, dir, backend.URL+api.path)
				if got := d.MustSend(proof); got.Status != test.wantAnswer {
					t.Errorf("next try: got %d %s, want %d", got.Status, got.Body, test.wantAnswer)
				}
				if got := d.MustSend(proof); got.Status != 409 {
					t.Errorf("and again: got %d %s, want 409", got.Status, got.Body)
				}
				if code := d.Stop(); code != 0 {
					t.Errorf("exit %d: %s", code, d.Log())
				}
				if counts := checkWhole(t, filepath.Join(dir, storeFile)); counts[stateRegistered] != 1 || counts[statePending] != 0 {
					t.Errorf("in the end the store has %v", counts)
				}
				if password, _ := backend.MAS.Password(n.Localpart); api.path == homeserver.MASUsersPath && password != n.Password {
					t.Error("the account does not have the node's password")
				}
				backend.Mu.Lock()
				defer backend.Mu.Unlock()
				if name, ok := backend.Users[n.UserID]; !ok || name != n.DisplayName || len(backend.Users) != 1 || backend.made != 1 {
					t.Errorf("the homeserver has %v, made by %d calls, want one by one", backend.Users, backend.made)
				}
			})
		}
	}
}

// Wherever the daemon is killed while an address is banned, the command fails and can be typed again: once the ban is on disk it
// stands.
func TestBanCrash(t *testing.T) {
	t.Parallel()
	for _, at := range []crashStep{beforeBan, afterBan, afterBanCall} {
		t.Run(string(at), func(t *testing.T) {
			t.Parallel()
			dir, backend := t.TempDir(), newStandIn(t)
			d := daemon.Start(t, crashingName, dir, backend.URL+homeserver.SharedSecretPath, crashAtEnv+"="+string(at), "MATRIX_REGSERVICE_ASTOKEN="+testASToken)
			proof, n := newProof(t)
			if got := d.MustSend(proof); got.Status != 200 {
				t.Fatalf("got %d %s", got.Status, got.Body)
			}
			var out, errs strings.Builder
			if code := run([]string{programName, "--datapath", dir, "ban", n.Localpart}, &out, &errs); code != 1 {
				t.Errorf("killed: exit %d\n%s%s", code, &out, &errs)
			}
			select {
			case <-d.Done:
			case <-time.After(daemon.Patience):
				t.Fatal("it did not die")
			}
			backend.Mu.Lock()
			if got, want := backend.Deactivated[n.UserID], at == afterBanCall; got != want {
				t.Errorf("deactivated: got %v, want %v", got, want)
			}
			backend.Mu.Unlock()

			d = daemon.Start(t, programName, dir, backend.URL+homeserver.SharedSecretPath, "MATRIX_REGSERVICE_ASTOKEN="+testASToken)
			wantStatus, wantSaid := 403, n.UserID+" is banned since "
			if at == beforeBan {
				wantStatus, wantSaid = 409, n.UserID+" is banned\n"
			}
			if got := d.MustSend(proof); got.Status != wantStatus {
				t.Errorf("after the crash: got %d %s, want %d", got.Status, got.Body, wantStatus)
			}
			out.Reset()
			if code := run([]string{programName, "--datapath", dir, "ban", n.Localpart}, &out, &errs); code != 0 || !strings.Contains(out.String(), wantSaid) {
				t.Errorf("again: exit %d, want %q\n%s%s", code, wantSaid, &out, &errs)
			}
			if got := d.MustSend(proof); got.Status != 403 {
				t.Errorf("banned: got %d %s", got.Status, got.Body)
			}
			backend.Mu.Lock()
			defer backend.Mu.Unlock()
			if !backend.Deactivated[n.UserID] {
				t.Error("the account is not deactivated")
			}
		})
	}
}

// A countingStandIn counts the calls that made an account, or would have: createUser does something to one that is there.
type countingStandIn struct {
	*standin.Homeserver
	counted http.HandlerFunc // its creating call

	count sync.Mutex
	made  int
}

func newCountingStandIn(t *testing.T, creates string) *countingStandIn {
	s := &countingStandIn{Homeserver: standin.New(t)}
	right := s.Right(creates)
	s.counted = func(w http.ResponseWriter, r *http.Request) {
		answer := httptest.NewRecorder()
		right(answer, r)
		if answer.Code/100 == 2 {
			s.count.Lock()
			s.made++
			s.count.Unlock()
		}
		w.WriteHeader(answer.Code)
		w.Write(answer.Body.Bytes())
	}
	s.Fail(creates, s.counted)
	return s
}

// A restore that is killed leaves the old store or the new one, whole, and the old one has a name.
func TestRestoreKilled(t *testing.T) {
	t.Parallel()
	backup := makeCopy(t, 500)
	replaced := 0
	for i := range 24 {
		store := makeCopy(t, 30)
		old, err := os.Stat(store)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(programForTest(t), "--datapath", filepath.Dir(store), "restore", backup, "--force")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(i) * 15 * time.Millisecond) // no moment is wrong: these are spread over all that it does
		cmd.Process.Kill()
		cmd.Wait()
		counts := checkWhole(t, store)
		if counts[stateRegistered] == 450 {
			replaced++
			if kept, err := os.Stat(store + files.BackupTail); err != nil || !os.SameFile(kept, old) {
				t.Errorf("the old store has no name: %v", err)
			}
		} else if counts[stateRegistered] != 27 {
			t.Errorf("the store has %v", counts)
		}
	}
	t.Logf("%d of 24 were killed when the new store was in place", replaced)
}
