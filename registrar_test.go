// registrar_test.go owns the life of a registration: each row of the table in docs/design.md, one attempt at a time, and what
// the homeserver cannot do to it.

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	masplay "github.com/SmartMeshFoundation/matrix-regservice/e2e/mas"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
	"github.com/ethereum/go-ethereum/common"
)

// The life of a registration, as the contract's table has it. Every row runs with every API but where it names one. What a
// homeserver does wrong is in registrar_faults_test.go.
func TestLife(t *testing.T) { eachStoreOfMany(t, testLife) }

func testLife(t *testing.T, fresh func(testing.TB) opener) {
	const (
		same  = "same"  // the account shows this node's display name
		other = "other" // it shows another
		empty = "empty" // it shows none
	)
	inUse := says(400, `{"errcode":"M_USER_IN_USE","error":"User ID already taken."}`)
	exists := func(w http.ResponseWriter, r *http.Request) { // as each API says it
		if r.URL.Path == homeserver.MASUsersPath {
			titled(masplay.Exists)(w, r)
			return
		}
		inUse(w, r)
	}
	html404 := says(404, "<html>nginx</html>")
	limited := says(429, `{"errcode":"M_LIMIT_EXCEEDED","error":"Too Many Requests","retry_after_ms":1234}`)
	tests := []struct {
		name        string
		api         string // "" for all
		before      state
		account     string                      // at the homeserver, before
		faults      map[string]http.HandlerFunc // by call; "create" is the API's creating call
		wantStatus  int
		wantErrcode string
		wantAfter   state
		wantAsked   string // in the calls made; "" where it is no matter
	}{
		{name: "created", wantStatus: 200, wantAfter: stateRegistered},
		{name: "created, pending", before: statePending, wantStatus: 200, wantAfter: stateRegistered},

		{name: "exists with this name, pending", before: statePending, account: same, wantStatus: 200, wantAfter: stateRegistered},
		{name: "exists with another name, pending", before: statePending, account: other, wantStatus: 409, wantErrcode: "M_USER_IN_USE", wantAfter: stateRegistered},
		{name: "exists, profile unreadable, pending", before: statePending, faults: map[string]http.HandlerFunc{"create": exists, callProfile: html404}, wantStatus: 502, wantErrcode: "M_UNKNOWN", wantAfter: statePending},
		{name: "exists, profile limited, pending", before: statePending, faults: map[string]http.HandlerFunc{"create": exists, callProfile: limited}, wantStatus: 429, wantErrcode: "M_LIMIT_EXCEEDED", wantAfter: statePending},
		{name: "exists, no profile yet, pending", before: statePending, faults: map[string]http.HandlerFunc{"create": inUse}, wantStatus: 502, wantErrcode: "M_UNKNOWN", wantAfter: statePending},
		{name: "refused, pending", before: statePending, faults: map[string]http.HandlerFunc{"create": says(403, `{"errcode":"M_UNKNOWN"}`)}, wantStatus: 502, wantErrcode: "M_UNKNOWN", wantAfter: statePending},
		{name: "exists with this name", account: same, wantStatus: 200, wantAfter: stateRegistered},
		{name: "exists with another name", account: other, wantStatus: 409, wantErrcode: "M_USER_IN_USE", wantAfter: stateRegistered},
		{name: "exists without a name", account: empty, wantStatus: 409, wantErrcode: "M_USER_IN_USE", wantAfter: stateRegistered},
		{name: "exists, profile unreadable", faults: map[string]http.HandlerFunc{"create": exists, callProfile: html404}, wantStatus: 502, wantErrcode: "M_UNKNOWN"},
		{name: "exists, profile not one", faults: map[string]http.HandlerFunc{"create": exists, callProfile: says(200, "[]")}, wantStatus: 502, wantErrcode: "M_UNKNOWN"},
		{name: "exists, profile hidden", faults: map[string]http.HandlerFunc{"create": exists, callProfile: says(401, `{"errcode":"M_MISSING_TOKEN"}`)}, wantStatus: 502, wantErrcode: "M_UNKNOWN"},
		{name: "exists, profile lost", faults: map[string]http.HandlerFunc{"create": exists, callProfile: breaks}, wantStatus: 502, wantErrcode: "M_UNKNOWN"},
		{name: "exists, profile limited", faults: map[string]http.HandlerFunc{"create": exists, callProfile: limited}, wantStatus: 429, wantErrcode: "M_LIMIT_EXCEEDED"},
		{name: "another was faster", api: "createUser", faults: map[string]http.HandlerFunc{"create": inUse}, wantStatus: 409, wantErrcode: "M_USER_IN_USE", wantAfter: stateRegistered},

		{name: "look-up failed", api: "createUser", faults: map[string]http.HandlerFunc{callProfile: html404}, wantStatus: 502, wantErrcode: "M_UNKNOWN", wantAsked: "key profile"},
		{name: "look-up failed, pending", api: "createUser", before: statePending, faults: map[string]http.HandlerFunc{callProfile: html404}, wantStatus: 502, wantErrcode: "M_UNKNOWN", wantAfter: statePending},
		{name: "look-up broke", api: "createUser", faults: map[string]http.HandlerFunc{callProfile: breaks}, wantStatus: 502, wantErrcode: "M_UNKNOWN"},
		{name: "nonce failed", api: "shared secret", faults: map[string]http.HandlerFunc{callNonce: says(500, "{}")}, wantStatus: 502, wantErrcode: "M_UNKNOWN"},
		{name: "nonce broke", api: "shared secret", faults: map[string]http.HandlerFunc{callNonce: breaks}, wantStatus: 502, wantErrcode: "M_UNKNOWN"},
		{name: "no secret configured", api: "shared secret", faults: map[string]http.HandlerFunc{callNonce: says(400, `{"errcode":"M_UNKNOWN","error":"Shared secret registration is not enabled"}`)}, wantStatus: 502, wantErrcode: "M_UNKNOWN"},

		{name: "limited, registered", before: stateRegistered, faults: map[string]http.HandlerFunc{callProfile: limited}, wantStatus: 429, wantErrcode: "M_LIMIT_EXCEEDED", wantAfter: stateRegistered, wantAsked: "profile"},

		{name: "registered", before: stateRegistered, account: same, wantStatus: 409, wantErrcode: "M_USER_IN_USE", wantAfter: stateRegistered, wantAsked: "profile"},
		{name: "registered, profile unreadable", before: stateRegistered, faults: map[string]http.HandlerFunc{callProfile: html404}, wantStatus: 502, wantErrcode: "M_UNKNOWN", wantAfter: stateRegistered, wantAsked: "profile"},
		{name: "registered, 404 of another kind", before: stateRegistered, faults: map[string]http.HandlerFunc{callProfile: says(404, `{"errcode":"M_UNRECOGNIZED","error":"?"}`)}, wantStatus: 502, wantErrcode: "M_UNKNOWN", wantAfter: stateRegistered, wantAsked: "profile"},
		{name: "registered, gone", before: stateRegistered, wantStatus: 200, wantAfter: stateRegistered},
		{name: "registered, gone, refused", before: stateRegistered, faults: map[string]http.HandlerFunc{"create": says(403, `{"errcode":"M_UNKNOWN"}`)}, wantStatus: 502, wantErrcode: "M_UNKNOWN", wantAfter: stateRegistered},
		{name: "registered, gone, unanswered", before: stateRegistered, faults: map[string]http.HandlerFunc{"create": says(500, "")}, wantStatus: 502, wantErrcode: "M_UNKNOWN", wantAfter: stateRegistered},
		{name: "registered, gone, exists all the same", before: stateRegistered, faults: map[string]http.HandlerFunc{"create": inUse}, wantStatus: 409, wantErrcode: "M_USER_IN_USE", wantAfter: stateRegistered},
	}
	for _, api := range apis {
		for _, test := range tests {
			if test.api != "" && test.api != api.name {
				continue
			}
			if test.name == "registered, gone, unanswered" && api.path == homeserver.MASUsersPath { // it may be half made: TestMASLife
				continue
			}
			t.Run(api.name+"/"+test.name, func(t *testing.T) {
				d := newGatewayOn(t, api.path, fresh(t)(t))
				proof, n := newProof(t)
				d.setState(n, test.before)
				was := d.record(n)
				switch test.account {
				case same:
					d.homeserver.Users[n.UserID] = n.DisplayName
				case other:
					d.homeserver.Users[n.UserID] = "somebody"
				case empty:
					d.homeserver.Users[n.UserID] = ""
				}
				if test.account != "" && api.path == homeserver.MASUsersPath {
					d.homeserver.MAS.Add(n.Localpart)
				}
				for call, fault := range test.faults {
					if call == "create" {
						call = api.creates
					}
					d.homeserver.Fail(call, fault)
				}

				got := d.send(proof)
				if got.status != test.wantStatus || got.Errcode != test.wantErrcode {
					t.Errorf("answer: got %d %s %q, want %d %s", got.status, got.Errcode, got.Message, test.wantStatus, test.wantErrcode)
				}
				if got.status == 200 && got.UserID != n.UserID {
					t.Errorf("user_id: got %q", got.UserID)
				}
				if got.status == 429 && (got.RetryMS != 1234 || got.header.Get("Retry-After") != "2") {
					t.Errorf("retry: got %d ms and Retry-After %q, want 1234 and 2", got.RetryMS, got.header.Get("Retry-After"))
				}
				if after := d.state(n); after != test.wantAfter {
					t.Errorf("record: got %q, want %q", after, test.wantAfter)
				}
				if now := d.record(n); test.wantStatus >= 429 && test.before != "" && test.name != "registered, gone, unanswered" && now != was {
					t.Errorf("record: got %+v, want what it was, %+v", now, was)
				}
				if asked := d.homeserver.Asked(); test.wantAsked != "" && asked != test.wantAsked {
					t.Errorf("asked: got %q, want %q", asked, test.wantAsked)
				}
				foreign := test.wantStatus == 409 && test.before != stateRegistered
				if warned := strings.Contains(d.log.String(), `"lvl":"warn"`) && strings.Contains(d.log.String(), "does not show"); warned != foreign {
					t.Errorf("warned of a foreign account: got %v, want %v", warned, foreign)
				}
			})
		}
	}
}

// A kept connection that the homeserver had closed is tried once more, and an account found then is our own.
func TestRetryOnKeptConnection(t *testing.T) {
	for _, api := range apis {
		right := func(d *gateway) http.HandlerFunc {
			return d.homeserver.Right(api.creates)
		}
		tests := []struct {
			name       string
			first      func(*gateway) http.HandlerFunc // what happens to the first send
			wantStatus int
			wantAfter  state
			wantSends  int
		}{
			{"lost before it was read", func(*gateway) http.HandlerFunc { return breaks }, 200, stateRegistered, 2},
			{"lost after it was done", func(d *gateway) http.HandlerFunc { return doesAndBreaks(right(d)) }, 200, stateRegistered, 0},
			{"lost after it was done, and the profile cannot be read", func(d *gateway) http.HandlerFunc {
				return func(w http.ResponseWriter, r *http.Request) {
					d.homeserver.Fail(callProfile, says(500, ""))
					doesAndBreaks(right(d))(w, r)
				}
			}, 502, statePending, 0},
			{"lost, and somebody else's is there", func(d *gateway) http.HandlerFunc {
				return func(w http.ResponseWriter, r *http.Request) {
					d.homeserver.Mu.Lock()
					localpart := localpartIn(r)
					d.homeserver.Users[names.UserID(localpart, testServerName)] = "somebody"
					d.homeserver.MAS.Add(localpart)
					d.homeserver.Mu.Unlock()
					breaks(w, r)
				}
			}, 409, stateRegistered, 0},
			{"lost, then refused", func(d *gateway) http.HandlerFunc {
				return func(w http.ResponseWriter, r *http.Request) {
					d.homeserver.Fail(api.creates, says(403, `{"errcode":"M_UNKNOWN"}`))
					breaks(w, r)
				}
			}, 502, statePending, 2},
			{"lost, then limited", func(d *gateway) http.HandlerFunc {
				return func(w http.ResponseWriter, r *http.Request) {
					d.homeserver.Fail(api.creates, says(429, `{"errcode":"M_LIMIT_EXCEEDED"}`))
					breaks(w, r)
				}
			}, 429, statePending, 2},
			{"lost, then the look-up fails", func(d *gateway) http.HandlerFunc {
				return func(w http.ResponseWriter, r *http.Request) {
					d.homeserver.Fail(callProfile, says(500, ""))
					d.homeserver.Fail(callNonce, says(500, ""))
					breaks(w, r)
				}
			}, 502, statePending, 1},
			{"lost twice", func(d *gateway) http.HandlerFunc {
				return func(w http.ResponseWriter, r *http.Request) {
					d.homeserver.Fail(api.creates, breaks)
					breaks(w, r)
				}
			}, 502, statePending, 2},
		}
		for _, test := range tests {
			if api.path == homeserver.MASUsersPath && test.name == "lost, then the look-up fails" { // it needs none
				continue
			}
			t.Run(api.name+"/"+test.name, func(t *testing.T) {
				d := newGateway(t, api.path)
				other, _ := newProof(t) // whose creation leaves a kept connection behind
				d.send(other)
				d.homeserver.Asked()
				proof, n := newProof(t)
				d.homeserver.FailOnce(api.creates, test.first(d))
				got := d.send(proof)
				if got.status != test.wantStatus {
					t.Errorf("got %d %s, want %d", got.status, got.body, test.wantStatus)
				}
				if after := d.state(n); after != test.wantAfter {
					t.Errorf("record: got %q, want %q", after, test.wantAfter)
				}
				if asked := d.homeserver.Asked(); test.wantSends > 0 && strings.Count(asked+" ", api.creates+" ") != test.wantSends {
					t.Errorf("asked: got %q, want %d times %s", asked, test.wantSends, api.creates)
				}
			})
		}
	}
}

// localpartIn is the localpart in a creating request.
func localpartIn(r *http.Request) string {
	var body struct{ Localpart, Username string }
	json.NewDecoder(r.Body).Decode(&body)
	return cmp.Or(body.Localpart, body.Username)
}

// A registered address costs the homeserver one look-up a minute, unless the last one found it gone.
func TestLookUpOnceAMinute(t *testing.T) {
	d := newGateway(t, homeserver.SharedSecretPath)
	proof, n := newProof(t)
	d.send(proof)
	d.homeserver.Asked()
	for i := range 3 {
		if got := d.send(proof); got.status != 409 {
			t.Errorf("try %d: got %d", i, got.status)
		}
	}
	if asked := d.homeserver.Asked(); asked != "profile" {
		t.Errorf("asked: got %q, want one profile", asked)
	}

	d.server.registrar.profileLookUps[n.Address] = profileLookUp{at: time.Now().Add(-profileLookUpPeriod)}
	d.homeserver.Users = map[string]string{}
	d.homeserver.Fail(callRegister, says(500, ""))
	for i := range 2 { // found gone each time
		if got := d.send(proof); got.status != 502 {
			t.Errorf("gone, try %d: got %d", i, got.status)
		}
	}
	if asked := d.homeserver.Asked(); strings.Count(asked, "profile") != 2 {
		t.Errorf("asked: got %q, want two profiles", asked)
	}
}

// A node whose look-up was limited is told to wait until the homeserver is asked again, not for as long as the homeserver said.
func TestLimitedLookUpIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistrar(nil, nil)
		a := common.Address{1}
		r.remember(a, &homeserver.Error{Limited: true, RetryAfter: time.Second, Reason: "limited"})
		time.Sleep(20 * time.Second)
		got, ok := errors.AsType[*homeserver.Error](r.remembered(a))
		if !ok || !got.Limited || got.RetryAfter != profileLookUpPeriod-20*time.Second {
			t.Errorf("got %#v, want a limit that ends %v after the look-up", got, profileLookUpPeriod)
		}
		time.Sleep(got.RetryAfter)
		if err := r.remembered(a); err != nil {
			t.Errorf("after that wait: got %v, want a look-up", err)
		}
	})
}

func TestLookUpsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistrar(nil, nil)
		for i := range 1000 {
			a := common.Address{byte(i), byte(i >> 8)}
			if r.remembered(a) != nil {
				t.Fatalf("%v was not looked up", a)
			}
			r.remember(a, errRegistered)
			time.Sleep(time.Second)
		}
		if len(r.profileLookUps) > 130 {
			t.Errorf("%d look-ups are remembered, want at most those of two minutes", len(r.profileLookUps))
		}
	})
}

// A slowAccounts homeserver holds each creation until the attempt's time is over, or for as long as it is told.
type slowAccounts struct {
	homeserver.OneCall
	takes   time.Duration
	mu      sync.Mutex
	created int
	inHand  int
	most    int
}

func (s *slowAccounts) Create(ctx context.Context, n homeserver.Account, _ bool, _ func() error) (string, error) {
	s.mu.Lock()
	s.inHand++
	s.most = max(s.most, s.inHand)
	s.mu.Unlock()
	defer func() { s.mu.Lock(); s.inHand--; s.mu.Unlock() }()
	select {
	case <-ctx.Done():
		return "", &homeserver.Error{Fate: homeserver.MayBeCreated, Reason: "slow"}
	case <-time.After(s.takes):
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.created++
	return "", nil
}

func (s *slowAccounts) DisplayName(context.Context, string) (string, error) { return "", nil }
func (s *slowAccounts) Probe(context.Context) (homeserver.State, error) {
	return homeserver.Present, nil
}
func (s *slowAccounts) Answers(context.Context) error           { return nil }
func (s *slowAccounts) Refused(context.Context) (string, error) { return "", nil }

func openTestStore(t testing.TB) *boltStore {
	t.Helper()
	store, err := openBoltStore(t.TempDir(), testServerName)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return store
}

// One attempt at a time holds an address; another waits a second longer than one may take, and meets what the first left.
func TestOneAttemptAtATime(t *testing.T) {
	tests := []struct {
		name  string
		takes time.Duration
		want  []error // of requests that begin a millisecond apart
		after time.Duration
	}{
		{"the first is done in time", 5 * time.Second, []error{nil, errRegistered, errRegistered}, 5 * time.Second},
		{"the first runs out of time", time.Minute, []error{errAny, errAny, errBusy}, 2 * attemptTime},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			store := openTestStore(t)
			_, n := newProof(t)
			synctest.Test(t, func(t *testing.T) {
				slow := &slowAccounts{takes: test.takes}
				r := newRegistrar(slow, store)
				got := make([]error, len(test.want))
				start := time.Now()
				var all sync.WaitGroup
				for i := range test.want {
					all.Go(func() { _, _, got[i] = r.register(t.Context(), n) })
					time.Sleep(time.Millisecond)
					synctest.Wait()
				}
				all.Wait()
				for i, want := range test.want {
					if !matches(got[i], want) {
						t.Errorf("request %d: got %v, want %v", i, got[i], want)
					}
				}
				if slow.most != 1 {
					t.Errorf("%d attempts at once", slow.most)
				}
				if took := time.Since(start).Round(time.Second); took != test.after {
					t.Errorf("took %v, want %v", took, test.after)
				}
			})
		})
	}
}

// errAny stands for any error of the homeserver.
var errAny = errors.New("any")

func matches(got, want error) bool {
	if want == errAny {
		failed := (*homeserver.Error)(nil)
		return errors.As(got, &failed)
	}
	return errors.Is(got, want) && (want != nil || got == nil)
}

// Once shutdown begins no attempt starts, waiting requests get 503, and the attempt that runs is finished and recorded.
func TestShutdown(t *testing.T) {
	store := openTestStore(t)
	_, n := newProof(t)
	synctest.Test(t, func(t *testing.T) {
		slow := &slowAccounts{takes: 5 * time.Second}
		r := newRegistrar(slow, store)
		var running, waiting error
		var all sync.WaitGroup
		all.Go(func() { _, _, running = r.register(t.Context(), n) })
		synctest.Wait()
		all.Go(func() { _, _, waiting = r.register(t.Context(), n) })
		synctest.Wait()
		start := time.Now()
		r.stop()
		synctest.Wait()
		if !errors.Is(waiting, errStopping) || time.Since(start) != 0 {
			t.Errorf("who waits: got %v after %v", waiting, time.Since(start))
		}
		if _, _, err := r.register(t.Context(), n); !errors.Is(err, errStopping) {
			t.Errorf("who comes: got %v", err)
		}
		all.Wait()
		if running != nil || slow.created != 1 {
			t.Errorf("who runs: got %v, %d created", running, slow.created)
		}
	})
}

// The client going away changes nothing: the attempt is finished and recorded.
func TestClientGoesAway(t *testing.T) {
	store := openTestStore(t)
	_, n := newProof(t)
	synctest.Test(t, func(t *testing.T) {
		r := newRegistrar(&slowAccounts{takes: 5 * time.Second}, store)
		ctx, leave := context.WithCancel(t.Context())
		var err error
		var all sync.WaitGroup
		all.Go(func() { _, _, err = r.register(ctx, n) })
		synctest.Wait()
		leave()
		all.Wait()
		if err != nil {
			t.Errorf("got %v", err)
		}
	})
	if r, err := store.Load(t.Context(), n.Address); err != nil || r.State != stateRegistered || r.UserID != n.UserID {
		t.Errorf("record: got %+v, %v", r, err)
	}
}

// A panicAccounts homeserver's client panics.
type panicAccounts struct{ slowAccounts }

func (*panicAccounts) Create(context.Context, homeserver.Account, bool, func() error) (string, error) {
	panic("secret words")
}

// A panic, the homeserver client's or the store's, answers 500 and releases the address.
func TestPanicReleases(t *testing.T) {
	for name, breakPart := range map[string]func(*registrar){
		"the homeserver's": func(r *registrar) { r.accounts = &panicAccounts{} },
		"the store's":      func(r *registrar) { r.store = &hookedStore{r.store.(*boltStore), func() { panic("secret words") }} },
	} {
		t.Run(name, func(t *testing.T) {
			d := newGateway(t, homeserver.SharedSecretPath)
			accounts, store := d.server.registrar.accounts, d.server.registrar.store
			breakPart(d.server.registrar)
			proof, n := newProof(t)
			if got := d.send(proof); got.status != 500 || got.Errcode != "M_UNKNOWN" || strings.Contains(got.body, "secret") {
				t.Errorf("got %d %s", got.status, got.body)
			}
			if strings.Contains(d.log.String(), "secret words") || !strings.Contains(d.log.String(), "panicked") {
				t.Errorf("log: %s", d.log)
			}
			d.server.registrar.accounts, d.server.registrar.store = accounts, store
			if got := d.send(proof); got.status != 200 || d.state(n) != stateRegistered {
				t.Errorf("next try: got %d", got.status)
			}
		})
	}
}

// A write that panics beside the first call is no record: nothing is created, and the address is free again.
func TestPanicBesideTheCall(t *testing.T) {
	for _, api := range apis {
		t.Run(api.name, func(t *testing.T) {
			d := newGateway(t, api.path)
			first := true
			d.server.registrar.store = &hookedStore{d.bolt(), func() {
				if first {
					first = false
					panic("secret words")
				}
			}}
			proof, n := newProof(t)
			if got := d.send(proof); got.status != 500 || d.state(n) != "" || len(d.homeserver.Users) != 0 {
				t.Errorf("got %d %s, record %q, %d accounts", got.status, got.body, d.state(n), len(d.homeserver.Users))
			}
			if strings.Contains(d.log.String(), "secret words") || strings.Count(d.log.String(), "panicked\",") != 1 {
				t.Errorf("log: %s", d.log)
			}
			if got := d.send(proof); got.status != 200 {
				t.Errorf("next try: got %d %s", got.status, got.body)
			}
		})
	}
}

// A hookedStore does something before it saves a record.
type hookedStore struct {
	*boltStore
	before func()
}

type hookedClaim struct {
	claim
	before func()
}

func (s *hookedStore) Claim(ctx context.Context, a common.Address) (claim, error) {
	held, err := s.boltStore.Claim(ctx, a)
	return &hookedClaim{held, s.before}, err
}

func (c *hookedClaim) Save(r record) error {
	c.before()
	return c.claim.Save(r)
}

// slowStore is the store, a while at each write, so that who does not wait for it comes first.
func slowStore(s *boltStore) *hookedStore {
	return &hookedStore{s, func() { time.Sleep(50 * time.Millisecond) }}
}

// A brokenStore fails at some of its writes.
type brokenStore struct {
	*boltStore
	fails  func(write int) bool // from 0
	writes int
}

type brokenClaim struct {
	claim
	store *brokenStore
}

func (s *brokenStore) Claim(ctx context.Context, a common.Address) (claim, error) {
	held, err := s.boltStore.Claim(ctx, a)
	return &brokenClaim{held, s}, err
}

func (c *brokenClaim) write(do func() error) error {
	c.store.writes++
	if c.store.fails(c.store.writes - 1) {
		return errors.New("no space left on device")
	}
	return do()
}

func (c *brokenClaim) Save(r record) error { return c.write(func() error { return c.claim.Save(r) }) }
func (c *brokenClaim) Drop() error         { return c.write(c.claim.Drop) }

// Without a durable record no account is made; when the last write fails the record stays as it was.
func TestStoreCannotBeWritten(t *testing.T) {
	tests := []struct {
		name      string
		good      int
		refuse    bool
		wantAfter state
		wantMade  bool
	}{
		{"first write", 0, false, "", false},
		{"last write", 1, false, statePending, true},
		{"dropping", 1, true, statePending, true},
	}
	for _, api := range apis {
		for _, test := range tests {
			t.Run(api.name+"/"+test.name, func(t *testing.T) {
				d := newGateway(t, api.path)
				d.server.registrar.store = &brokenStore{boltStore: d.bolt(), fails: func(write int) bool { return write >= test.good }}
				if test.refuse {
					d.homeserver.Fail(api.creates, says(403, `{"errcode":"M_UNKNOWN"}`))
				}
				proof, n := newProof(t)
				if got := d.send(proof); got.status != 503 || got.Errcode != "M_UNKNOWN" || strings.Contains(got.body, "space") {
					t.Errorf("got %d %s", got.status, got.body)
				}
				if after := d.state(n); after != test.wantAfter {
					t.Errorf("record: got %q, want %q", after, test.wantAfter)
				}
				if made := strings.Contains(" "+d.homeserver.Asked()+" ", " "+api.creates+" "); made != test.wantMade {
					t.Errorf("asked to make it: got %v", made)
				}
				if !strings.Contains(d.log.String(), "no space left") {
					t.Error("the log does not say why")
				}
			})
		}
	}
}

// An attempt that ends before its first record is on disk leaves what it would have left otherwise: nothing when the
// homeserver refused, and when it panicked the record, with the address free.
func TestEndsBeforeItIsRecorded(t *testing.T) {
	for _, api := range apis {
		t.Run(api.name, func(t *testing.T) {
			d := newGateway(t, api.path)
			d.server.registrar.store = slowStore(d.bolt())
			proof, n := newProof(t)
			d.homeserver.Close()
			if got := d.send(proof); got.status != 502 || d.state(n) != "" {
				t.Errorf("nobody listens: got %d %s, record %q", got.status, got.body, d.state(n))
			}
			d.server.registrar.accounts = &panicAccounts{}
			if got := d.send(proof); got.status != 500 || d.state(n) != statePending {
				t.Errorf("panic: got %d %s, record %q", got.status, got.body, d.state(n))
			}
		})
	}
}

// Sixteen at once make one account.
func TestSixteenAtOnce(t *testing.T) { eachStore(t, testSixteenAtOnce) }

func testSixteenAtOnce(t *testing.T, fresh func(testing.TB) opener) {
	for _, api := range apis {
		t.Run(api.name, func(t *testing.T) {
			d := newGatewayOn(t, api.path, fresh(t)(t))
			proof, _ := newProof(t)
			var mu sync.Mutex
			count := map[int]int{}
			var all sync.WaitGroup
			for range 16 {
				all.Go(func() {
					got := d.send(proof)
					mu.Lock()
					defer mu.Unlock()
					count[got.status]++
				})
			}
			all.Wait()
			if count[200] != 1 || count[409] != 15 {
				t.Errorf("got %v, want one 200 and fifteen 409", count)
			}
			if asked := d.homeserver.Asked(); strings.Count(" "+asked+" ", " "+api.creates+" ") != 1 {
				t.Errorf("asked: %q", asked)
			}
		})
	}
}

// While the homeserver is slow a node's requests do not pile up: each would keep a connection, until nobody else has one.
func TestRequestsDoNotPileUp(t *testing.T) {
	d := newGateway(t, homeserver.SharedSecretPath)
	goOn := make(chan struct{})
	d.homeserver.Fail(callNonce, func(w http.ResponseWriter, r *http.Request) {
		<-goOn
		says(500, "{}")(w, r)
	})
	proof, _ := newProof(t)
	const sent = 3 * usersAtMost
	answers := make(chan int, sent)
	var all sync.WaitGroup
	for range sent {
		all.Go(func() { answers <- d.send(proof).status })
	}
	for range sent - usersAtMost {
		if got := <-answers; got != 429 {
			t.Errorf("got %d, want 429", got)
		}
	}
	close(goOn)
	all.Wait()
	if got := d.send(proof).status; got != 502 { // and the address is free again
		t.Errorf("afterwards: got %d, want 502", got)
	}
}

// Nor do the requests of many nodes; and one that is alone waits for nobody.
func TestWaitingIsBounded(t *testing.T) {
	var c claims
	ctx, stop := context.WithCancel(t.Context())
	var all sync.WaitGroup
	var busy atomic.Int64
	const addresses = 2 * waitingAtMost / usersAtMost
	for i := range addresses {
		release, err := c.acquire(ctx, common.Address{byte(i)})
		if err != nil {
			t.Fatalf("address %d: %v", i, err)
		}
		defer release()
		for range usersAtMost {
			all.Go(func() {
				if _, err := c.acquire(ctx, common.Address{byte(i)}); errors.Is(err, errBusy) {
					busy.Add(1)
				}
			})
		}
	}
	for busy.Load() < addresses*usersAtMost-waitingAtMost { // all of them are in
		time.Sleep(time.Millisecond)
	}
	stop()
	all.Wait()
	if got := busy.Load(); got != addresses*usersAtMost-waitingAtMost || c.waiting != 0 {
		t.Errorf("%d were sent away and %d wait, want %d and 0", got, c.waiting, addresses*usersAtMost-waitingAtMost)
	}
}

// The table of docs/design.md row by row: what it says, and what decide makes of it. Every row there is here.
func TestDecide(t *testing.T) {
	const either, begun, known = "none, or pending", "pending", "registered"
	both := []state{"", statePending}
	anew := []state{stateRegistered}
	fails, completes := decision{unchanged, "", errAsItFailed, false}, decision{statePending, "", errAsItFailed, false}
	tests := []struct {
		row    string
		before []state
		found  account
		lost   bool // a send of this very attempt went unanswered
		whole  bool
		want   map[state]decision
	}{
		{either + " | creates the account | registered | 200", both, accountMade, false, true, map[state]decision{
			"": {stateRegistered, outcomeCreated, nil, false}, statePending: {stateRegistered, outcomeCreated, nil, false}}},
		{either + " | has the account, with exactly this display name | registered | 200", both, accountOwn, false, true, map[state]decision{
			"": {stateRegistered, outcomeAdopted, nil, false}, statePending: {stateRegistered, outcomeCompleted, nil, false}}},
		{either + " | has the account, with exactly this display name | registered | 200", both, accountOwn, true, true, map[state]decision{
			"": {stateRegistered, outcomeCreated, nil, false}, statePending: {stateRegistered, outcomeCompleted, nil, false}}},
		{either + " | has the account, with another display name or none | registered, with a warning in the log | 409", both, accountForeign, false, true, map[state]decision{
			"": {stateRegistered, "", errForeign, false}, statePending: {stateRegistered, "", errForeign, false}}},
		{either + " | has the account, and does not show whose it is | unchanged | 502, or 429 if it limits requests", both, accountUnclear, false, true, map[state]decision{"": fails, statePending: fails}},
		{either + " | has the account, and does not show whose it is | unchanged | 502, or 429 if it limits requests", both, accountUnclear, false, false, map[state]decision{"": fails, statePending: fails}},
		{either + " | refuses, or cannot be reached | unchanged | 502, or 429 if it limits requests", both, accountNotMade, false, true, map[state]decision{"": fails, statePending: fails}},
		{either + " | refuses, or cannot be reached | unchanged | 502, or 429 if it limits requests", both, accountNotMade, false, false, map[state]decision{"": fails, statePending: fails}},
		{either + " | fails (5xx, 408) or gives no readable answer | pending | 502, and the next try completes it", both, accountMayBeThere, false, true, map[state]decision{"": completes, statePending: completes}},
		{either + " | fails (5xx, 408) or gives no readable answer | pending | 502, and the next try completes it", both, accountMayBeThere, false, false, map[state]decision{"": completes, statePending: completes}},
		{either + " | leaves the account half made | pending | 502, and the next try completes it", both, accountMade, false, false, map[state]decision{"": completes, statePending: completes}},
		{either + " | leaves the account half made | pending | 502, and the next try completes it", both, accountOwn, false, false, map[state]decision{"": completes, statePending: completes}},
		{begun + " | is asked without the node, and has no such account | none | ", both[1:], accountGone, false, true, map[state]decision{statePending: {}}},
		{known + " | has the account | registered | 409", anew, accountThere, false, true, map[state]decision{stateRegistered: {unchanged, "", errRegistered, false}}},
		{known + " | has the account | registered | 409", anew, accountOwn, false, true, map[state]decision{stateRegistered: {unchanged, "", errRegistered, false}}},
		{known + " | has the account | registered | 409", anew, accountForeign, true, true, map[state]decision{stateRegistered: {unchanged, "", errRegistered, false}}},
		{known + " | does not say whether it has the account | registered | 502, or 429 if it limits requests", anew, accountUnclear, false, true, map[state]decision{stateRegistered: fails}},
		{known + " | says that the account is missing | registered, and the service asks it to create the account | ", anew, accountGone, false, true, map[state]decision{stateRegistered: {record: unchanged, creates: true}}},
		{known + " | hides the profile (401, 403), and creates no account twice | registered, and the service asks it to create the account | ", anew, accountHidden, false, true, map[state]decision{stateRegistered: {record: unchanged, creates: true}}},
		{known + " | has lost the account, and creates it | registered | 200", anew, accountMade, false, true, map[state]decision{stateRegistered: {stateRegistered, outcomeRecreated, nil, false}}},
		{known + " | has lost the account, and creates it | registered | 200", anew, accountOwn, true, true, map[state]decision{stateRegistered: {stateRegistered, outcomeRecreated, nil, false}}},
		{known + " | has lost the account, and refuses, fails or gives no readable answer | registered | 502, or 429 if it limits requests", anew, accountNotMade, false, true, map[state]decision{stateRegistered: fails}},
		{known + " | has lost the account, and refuses, fails or gives no readable answer | registered | 502, or 429 if it limits requests", anew, accountMayBeThere, false, true, map[state]decision{stateRegistered: fails}},
		{known + " | has lost the account, and leaves it half made | pending | 502, and the next try completes it", anew, accountMayBeThere, false, false, map[state]decision{stateRegistered: completes}},
		{known + " | has lost the account, and leaves it half made | pending | 502, and the next try completes it", anew, accountMade, false, false, map[state]decision{stateRegistered: completes}},
	}
	design, err := os.ReadFile("docs/design.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(design), "| record before | the homeserver | record after | answer |\n|---|---|---|---|\n")
	table, _, _ = strings.Cut(table, "\n\n")
	untried := map[string]bool{}
	for row := range strings.SplitSeq(table, "\n") {
		untried[strings.TrimSuffix(strings.TrimPrefix(row, "| "), "|")] = true
	}
	documented := maps.Clone(untried)
	for _, test := range tests {
		row := strings.TrimSuffix(test.row, " ") + " "
		if !documented[row] {
			t.Errorf("docs/design.md does not have the row %q", test.row)
		}
		delete(untried, row)
		for _, before := range test.before {
			got := decide(before, test.found, before == statePending || test.lost, test.whole)
			if got != test.want[before] {
				t.Errorf("%s (%s): got %+v, want %+v", test.row, orUnknown(before), got, test.want[before])
			}
		}
	}
	for row := range untried {
		t.Errorf("docs/design.md has a row that is not tried: %q", row)
	}
}

// Whatever is known before: nobody is registered, and nothing of a record changes, by what could not be found out; and an
// account that is not the node's never gets a success.
func TestDecideKeepsItsPromises(t *testing.T) {
	yesNo := []bool{false, true}
	for _, before := range []state{"", statePending, stateRegistered} {
		for found := accountNotMade; found <= accountUnclear; found++ {
			for _, begun := range yesNo {
				for _, whole := range yesNo {
					got := decide(before, found, begun, whole)
					own := found == accountMade || found == accountOwn
					untold := found == accountNotMade || found == accountUnclear || found == accountHidden
					switch {
					case got.did != "" && !(own && whole && got.record == stateRegistered && got.err == nil):
						t.Errorf("%q, %v, %v, %v: a success: %+v", before, found, begun, whole, got)
					case got.record == stateRegistered && !own && got.err != errForeign:
						t.Errorf("%q, %v, %v, %v: registered: %+v", before, found, begun, whole, got)
					case untold && got.record != unchanged, before == stateRegistered && got.record == "":
						t.Errorf("%q, %v, %v, %v: the record changes: %+v", before, found, begun, whole, got)
					case got.creates != (before == stateRegistered && (found == accountGone || found == accountHidden)):
						t.Errorf("%q, %v, %v, %v: creates: %+v", before, found, begun, whole, got)
					}
				}
			}
		}
	}
}

// Whatever the homeserver does before, a foreign account whose profile cannot be read is never the node's, however often
// it asks; and its password is never set.
func TestForeignAccountIsNeverAdopted(t *testing.T) {
	eachStoreOfMany(t, testForeignAccountIsNeverAdopted)
}

func testForeignAccountIsNeverAdopted(t *testing.T, fresh func(testing.TB) opener) {
	for _, api := range apis {
		for name, first := range map[string]http.HandlerFunc{"at once": nil, "after a 500": says(500, "{}"), "after a lost answer": breaks, "after 503": says(503, "<html>")} {
			for _, before := range []state{"", statePending} {
				t.Run(api.name+"/"+name+"/"+orUnknown(before), func(t *testing.T) {
					d := newGatewayOn(t, api.path, fresh(t)(t))
					proof, n := newProof(t)
					d.setState(n, before) // pending: a crash between the record and the creating call
					d.homeserver.Users[n.UserID] = "somebody"
					d.homeserver.MAS.AddOld(n.Localpart)
					d.homeserver.Fail(callProfile, says(403, `{"errcode":"M_FORBIDDEN"}`))
					if first != nil {
						d.homeserver.FailOnce(api.creates, first)
					}
					for range 5 {
						if got := d.send(proof); got.status != 502 {
							t.Errorf("got %d %s, want 502", got.status, got.body)
						}
					}
					d.homeserver.Fail(callProfile, nil)
					if got := d.send(proof); got.status != 409 || !strings.Contains(d.log.String(), "does not show this node") {
						t.Errorf("with a profile: got %d %s, want 409 and a warning", got.status, got.body)
					}
					password, _ := d.homeserver.MAS.Password(n.Localpart)
					if password != "" || d.homeserver.Hashed[n.UserID] != "" || d.homeserver.Whole[n.UserID] != "" || d.homeserver.Users[n.UserID] != "somebody" {
						t.Error("the account was changed")
					}
				})
			}
		}
	}
}

// What a look-up of a registered node's account did not tell is not told for its minute either, and costs no second one.
func TestRememberedKeepsItsKind(t *testing.T) {
	for _, api := range apis {
		for _, test := range []struct {
			fault http.HandlerFunc
			want  int
		}{{says(500, "{}"), 502}, {says(404, "<html>"), 502}, {breaks, 502}, {says(429, `{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":1234}`), 429}, {nil, 409}} {
			d := newGateway(t, api.path)
			proof, n := newProof(t)
			d.setState(n, stateRegistered)
			d.homeserver.Users[n.UserID] = n.DisplayName
			d.homeserver.Fail(callProfile, test.fault)
			for i := range 3 {
				if got := d.send(proof); got.status != test.want {
					t.Errorf("%s, try %d: got %d %s, want %d", api.name, i, got.status, got.body, test.want)
				}
			}
			if asked := d.homeserver.Asked(); asked != callProfile {
				t.Errorf("%s: asked %q, want one profile", api.name, asked)
			}
		}
	}
}

// Nobody is banned at a slow homeserver.
func (*slowAccounts) Ban(context.Context, string) error   { return nil }
func (*slowAccounts) Unban(context.Context, string) error { return nil }
func (*slowAccounts) Standing(context.Context, string) (homeserver.Standing, error) {
	return homeserver.Standing{}, nil
}
