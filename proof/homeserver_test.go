// homeserver_test.go owns the homeserver of these tests, and Matrix Authentication Service before it: every answer comes from
// the truth, unless a fault is planned for the call. Its right answers are those captured from Synapse 0.34.0 (createUser),
// Synapse 1.163.2 and Dendrite 0.15.2 (the shared secret) and Matrix Authentication Service 1.3 and 1.22.

package proof

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/mas"
	"github.com/SmartMeshFoundation/matrix-regservice/e2e/standin"
)

// The ways of creating accounts, by their paths.
const (
	createUser   = standin.CreateUserPath
	sharedSecret = standin.SharedSecretPath
	masUsers     = standin.MASPath
)

// A call is what the service asks.
type call string

const (
	callProfile  call = "profile"
	callCreate   call = "createUser"
	callNonce    call = "nonce"
	callRegister call = "register"
	callToken    call = "token"
	callAdd      call = "add"
	callByName   call = "by-name"
	callPassword call = "password"
	callSetName  call = "set name"
	callKey      call = "server name"
	callVersion  call = "version"
	callOther    call = "other"
)

// A fakeHomeserver is the homeserver, and Matrix Authentication Service at the same origin.
type fakeHomeserver struct {
	*truth
	*httptest.Server

	software      string // the body of its version
	oldMAS        bool   // before 1.18, deaf to a display name
	versionHidden bool   // Matrix Authentication Service does not tell its version, so that the display name is set once more

	active atomic.Int64 // calls under way
	plan   map[call][]fault
	asked  map[call]int // how many times
	nonces map[string]bool
	good   map[string]time.Time // tokens of the admin API, and until when
	kill   func()               // kills the service
}

// newFakeHomeserver starts one on a port of its own.
func newFakeHomeserver(h *truth) *fakeHomeserver {
	s := newFakeHandler(h)
	h.keepSecret(standin.ASToken, "the as_token")
	h.keepSecret(standin.HSToken, "the hs_token")
	h.keepSecret(standin.Secret, "the shared secret")
	h.keepSecret(standin.MASSecret, "the client secret")
	s.Server = httptest.NewServer(s)
	return s
}

// newFakeHandler makes one that listens nowhere.
func newFakeHandler(h *truth) *fakeHomeserver {
	return &fakeHomeserver{truth: h, software: `{"server":{"name":"Synapse","version":"1.163.2"}}`, plan: map[call][]fault{},
		asked: map[call]int{}, nonces: map[string]bool{}, good: map[string]time.Time{}}
}

// planned takes the next fault of the call.
func (s *fakeHomeserver) planned(c call) (f fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.plan[c]) > 0 {
		f, s.plan[c] = s.plan[c][0], s.plan[c][1:]
		s.counts[string(f)]++
	}
	return f
}

// notes notes that it is asked, and what a fault keeps from this service that is not about one call alone.
func (s *fakeHomeserver) notes(c call, localpart string, f fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked[c]++
	switch {
	case c == callProfile && f == forbidden:
		s.anew[localpart] = true
	case c == callVersion && f != "":
		s.isUntold = true
	}
}

// waitAsked waits until the call has been made since it was made that many times, and has its answer.
func (s *fakeHomeserver) waitAsked(c call, before int) {
	for s.timesAsked(c) == before {
		time.Sleep(2 * time.Millisecond)
	}
	s.waitIdle()
}

// timesAsked is how many times the call was made.
func (s *fakeHomeserver) timesAsked(c call) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[c]
}

// faults plans faults for the next calls.
func (s *fakeHomeserver) faults(plan []plannedFault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.plan)
	for _, p := range plan {
		s.plan[p.at] = append(s.plan[p.at], p.fault)
	}
}

// waitIdle waits until no call is under way.
func (s *fakeHomeserver) waitIdle() {
	for s.active.Load() > 0 {
		time.Sleep(2 * time.Millisecond)
	}
}

// which tells what is asked, and how it is done.
func (s *fakeHomeserver) which(r *http.Request) (call, http.HandlerFunc) {
	switch path := r.URL.EscapedPath(); {
	case path == "/_matrix/federation/v1/version":
		return callVersion, saying(200, s.software)
	case path == "/_matrix/key/v2/server":
		return callKey, saying(200, fmt.Sprintf(`{"server_name":%q,"verify_keys":{}}`, standin.ServerName))
	case strings.HasPrefix(path, "/_matrix/client/r0/profile/") && strings.HasSuffix(path, "/displayname"):
		return callProfile, s.profile
	case path == createUser:
		return callCreate, s.createUser
	case path == sharedSecret && r.Method == http.MethodGet:
		return callNonce, s.nonce
	case path == sharedSecret:
		return callRegister, s.register
	case strings.HasPrefix(path, "/_matrix/client/v3/profile/") && r.Method == http.MethodPut:
		return callSetName, s.setName
	case path == mas.TokenPath:
		return callToken, s.token
	case path == mas.VersionPath && !s.oldMAS && !s.versionHidden:
		return callOther, s.asAdmin(saying(200, `{"version":"v1.22.0"}`))
	case path == masUsers:
		return callAdd, s.asAdmin(s.add)
	case strings.HasPrefix(path, mas.ByNamePath):
		return callByName, s.asAdmin(s.byName)
	case strings.HasPrefix(path, masUsers+"/"):
		return callPassword, s.asAdmin(s.setPassword)
	}
	return callOther, saying(404, `{"errcode":"M_UNRECOGNIZED","error":"Unrecognized request"}`)
}

func (s *fakeHomeserver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.active.Add(1)
	defer s.active.Add(-1)
	c, right := s.which(r)
	f := s.planned(c)
	s.notes(c, localpartIn(r), f)
	s.told("  the homeserver is asked: %s %s %s", c, localpartIn(r), f)
	f.answer(s, w, r, right)
}

// localpartIn is whose account a call is about, where the path tells.
func localpartIn(r *http.Request) string {
	for _, part := range strings.Split(r.URL.Path, "/") {
		if localpart, ok := strings.CutPrefix(part, "@"); ok {
			part, _, _ = strings.Cut(localpart, ":")
		}
		if strings.HasPrefix(part, "0x") {
			return part
		}
	}
	return ""
}

// saying is an answer with this status and body.
func saying(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(body, "{") {
			w.Header().Set("Content-Type", "application/json")
		}
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}
}

func say(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body)
}

func (s *fakeHomeserver) profile(w http.ResponseWriter, r *http.Request) {
	localpart := localpartIn(r)
	s.mu.Lock()
	a := s.accounts[localpart]
	there := a != nil && a.profile
	s.lookedUp(localpart, there)
	said := map[string]string{}
	if there && a.name != "" {
		said["displayname"] = a.name
	}
	s.mu.Unlock()
	if !there {
		saying(404, `{"errcode":"M_NOT_FOUND","error":"Profile was not found"}`)(w, r)
		return
	}
	say(w, 200, said)
}

// newToken makes an access token. The lock is held.
func (s *fakeHomeserver) newToken(prefix, localpart string) string {
	token := prefix + base64.RawURLEncoding.EncodeToString([]byte("identifier "+rand.Text()))
	s.tokens[token] = localpart
	s.keepSecret(token, "an access token")
	return token
}

func (s *fakeHomeserver) createUser(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer "+standin.ASToken || r.URL.RawQuery != "" {
		saying(403, `{"errcode":"M_UNKNOWN","error":"Invalid application service token."}`)(w, r)
		return
	}
	var body struct {
		Localpart, DisplayName string
		Hash                   string `json:"password_hash"`
	}
	json.NewDecoder(r.Body).Decode(&body)
	if body.Localpart == "" {
		saying(400, `{"errcode":"M_MISSING_PARAM","error":"Missing params"}`)(w, r)
		return
	}
	s.mu.Lock()
	s.creates(body.Localpart, body.DisplayName, body.Hash)
	token := s.newToken("MDAyOGxvY2F0aW9u", body.Localpart)
	s.mu.Unlock()
	say(w, 200, map[string]string{"user_id": userID(body.Localpart), "access_token": token, "home_server": standin.ServerName})
}

func userID(localpart string) string { return "@" + localpart + ":" + standin.ServerName }

func (s *fakeHomeserver) nonce(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	nonce := hex.EncodeToString([]byte(rand.Text()))
	s.nonces[nonce] = true
	s.mu.Unlock()
	say(w, 200, map[string]string{"nonce": nonce})
}

func (s *fakeHomeserver) register(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Nonce, Username, DisplayName, Password, Mac string
		Admin                                       *bool
	}
	json.NewDecoder(r.Body).Decode(&body)
	mac := hmac.New(sha1.New, []byte(standin.Secret))
	fmt.Fprintf(mac, "%s\x00%s\x00%s\x00notadmin", body.Nonce, body.Username, body.Password)
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.nonces[body.Nonce]
	delete(s.nonces, body.Nonce)
	s.keepSecret(body.Mac, "a mac of the shared secret")
	switch _, there := s.accounts[body.Username]; {
	case !known && s.isDendrite:
		saying(500, `{"message":"incorrect or expired nonce: `+body.Nonce+`"}`)(w, r)
	case !known:
		saying(400, `{"errcode":"M_UNKNOWN","error":"unrecognised nonce"}`)(w, r)
	case body.Mac != hex.EncodeToString(mac.Sum(nil)), body.Admin == nil || *body.Admin:
		saying(403, `{"errcode":"M_UNKNOWN","error":"HMAC incorrect"}`)(w, r)
	case strings.Trim(body.Username, "abcdefghijklmnopqrstuvwxyz0123456789=_-./+") != "": // which the start uses to prove the secret
		saying(400, `{"errcode":"M_INVALID_USERNAME","error":"User ID can only contain characters a-z, 0-9, or '=_-./+'"}`)(w, r)
	case s.isDendrite && len(body.Password) > bcryptReads:
		saying(500, `{"errcode":"M_UNKNOWN","error":"failed to set display name: sql: no rows in result set"}`)(w, r)
	case there:
		saying(400, `{"errcode":"M_USER_IN_USE","error":"User ID already taken."}`)(w, r)
	default:
		said := map[string]string{"user_id": userID(body.Username), "home_server": standin.ServerName}
		if s.mayMake(body.Username, body.DisplayName) {
			s.accounts[body.Username] = &account{name: body.DisplayName, password: body.Password, profile: true}
		}
		if s.isDendrite {
			said["access_token"] = s.newToken("", body.Username)
		}
		say(w, 200, said)
	}
}

func (s *fakeHomeserver) setName(w http.ResponseWriter, r *http.Request) {
	var body struct{ DisplayName string }
	json.NewDecoder(r.Body).Decode(&body)
	localpart := localpartIn(r)
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.accounts[localpart]
	switch {
	case r.Header.Get("Authorization") != "Bearer "+standin.ASToken:
		saying(401, `{"errcode":"M_UNKNOWN_TOKEN","error":"Unrecognised access token"}`)(w, r)
	case a == nil || !a.profile || r.FormValue("user_id") != userID(localpart):
		saying(403, `{"errcode":"M_FORBIDDEN","error":"Application service has not registered this user"}`)(w, r)
	default:
		s.mayChange(localpart, "a new display name")
		if s.mayMake(localpart, body.DisplayName) {
			a.name = body.DisplayName
		}
		saying(200, "{}")(w, r)
	}
}

func (s *fakeHomeserver) token(w http.ResponseWriter, r *http.Request) {
	id, given, _ := r.BasicAuth()
	if id != standin.MASClientID || given != standin.MASSecret {
		say(w, 401, map[string]string{"error": "invalid_client"})
		return
	}
	s.mu.Lock()
	token := s.newToken("mat_", "")
	s.good[token] = time.Now().Add(5 * time.Minute)
	s.mu.Unlock()
	say(w, 200, map[string]any{"access_token": token, "token_type": "Bearer", "expires_in": 300, "scope": "urn:mas:admin"})
}

// refuse answers with an error of Matrix Authentication Service.
func refuse(w http.ResponseWriter, status int, title string) {
	say(w, status, map[string]any{"errors": []any{map[string]string{"title": title}}})
}

func (s *fakeHomeserver) asAdmin(do http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		s.mu.Lock()
		good := time.Now().Before(s.good[token])
		s.mu.Unlock()
		if !good {
			refuse(w, 401, "Unknown access token")
			return
		}
		do(w, r)
	}
}

// forgetTokens has the tokens of the admin API be no longer good.
func (s *fakeHomeserver) forgetTokens() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.good)
}

// sayUser answers with a user of Matrix Authentication Service. The lock is held.
func (s *fakeHomeserver) sayUser(w http.ResponseWriter, status int, localpart string) {
	say(w, status, map[string]any{"data": map[string]any{"type": "user", "id": s.accounts[localpart].id, "attributes": map[string]any{"username": localpart, "locked_at": nil}}})
}

// add makes an account: at the homeserver first, and then at Matrix Authentication Service, unless that is cut off between
// the two.
func (s *fakeHomeserver) add(w http.ResponseWriter, r *http.Request) { s.adds(w, r, true) }

func (s *fakeHomeserver) adds(w http.ResponseWriter, r *http.Request, commits bool) {
	var body struct {
		Username, DisplayName string
		Skip                  bool `json:"skip_homeserver_check"`
	}
	json.NewDecoder(r.Body).Decode(&body)
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.accounts[body.Username]
	switch {
	case a != nil && a.id != "":
		refuse(w, 409, "User already exists")
		return
	case a != nil && a.profile && !body.Skip:
		refuse(w, 409, "Username is reserved by the homeserver")
		return
	}
	s.mayChange(body.Username, "an account at Matrix Authentication Service for it")
	if !s.mayMake(body.Username, body.DisplayName) {
		refuse(w, 400, "Username is not valid")
		return
	}
	if a == nil {
		a = &account{name: body.DisplayName, profile: true}
		if s.oldMAS {
			a.name = body.Username // the homeserver's own choice
		}
		s.accounts[body.Username] = a
	}
	if commits {
		a.id = newULID(time.Now())
		s.sayUser(w, 201, body.Username)
	}
}

func (s *fakeHomeserver) byName(w http.ResponseWriter, r *http.Request) {
	localpart := localpartIn(r)
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := s.accounts[localpart]; a == nil || a.id == "" {
		refuse(w, 404, fmt.Sprintf("User with username %q not found", localpart))
		return
	}
	s.sayUser(w, 200, localpart)
}

func (s *fakeHomeserver) setPassword(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Password string
		Skip     bool `json:"skip_password_check"`
	}
	json.NewDecoder(r.Body).Decode(&body)
	id := strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, masUsers+"/"), mas.PasswordPath)
	s.mu.Lock()
	defer s.mu.Unlock()
	for localpart, a := range s.accounts {
		if a.id != id || !body.Skip {
			continue
		}
		s.mayChange(localpart, "a new password")
		if proven, ok := s.proven[localpart]; !ok || body.Password != proven.Password {
			s.breaks("no account without both proofs: a password for %s that it did not prove", localpart)
		}
		a.password = body.Password
		w.WriteHeader(http.StatusNoContent)
		return
	}
	refuse(w, 404, "User ID "+id+" not found")
}

// newULID makes a ULID: ten digits of the time, and random ones.
func newULID(made time.Time) string {
	const digits = "0123456789ABCDEFGHJKMNPQRSTVWXYZ" // Crockford's
	id := make([]byte, 26)
	rand.Read(id)
	for i, b := range id {
		id[i] = digits[b%32]
	}
	for i, ms := 9, made.UnixMilli(); i >= 0; i, ms = i-1, ms>>5 {
		id[i] = digits[ms%32]
	}
	return string(id)
}

// others makes an account that has nothing to do with this service.
func (s *fakeHomeserver) others(localpart, name string, where halves, made time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := &account{name: name, password: "of somebody else", othersMade: true, profile: where != atMASAlone}
	if where != atHomeserverAlone {
		a.id = newULID(made)
	}
	s.accounts[localpart] = a
}

// halves is where an account is, behind Matrix Authentication Service.
type halves int

const (
	atBoth halves = iota
	atMASAlone
	atHomeserverAlone
)
