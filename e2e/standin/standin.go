// Package standin plays a homeserver where a fault is wanted that no real one makes on demand. It knows nothing of the program:
// its paths and its right answers are those captured from Synapse 0.34.0 (createUser) and 1.163.2 (the rest), and of Matrix
// Authentication Service those of e2e/mas.
package standin

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/mas"
)

// Who the stand-in is, and what it knows of the program that asks it.
const (
	ServerName = "transport02.smartmesh.cn"
	ASToken    = "LODE52N2CKVXMOURUMAWLEEEXMWB4DKIKRI246XD"
	HSToken    = "RNI4CGEDTKC4WJTB4RZWRK4NOKA7M4PREUW6F2GZ"
	Secret     = "rather_secret~with^symbols"

	MASClientID = "01J44RKQYM4G3TNVANTMTDYTX6"
	MASSecret   = "a_client_secret~without^digits"
)

// The paths that create accounts.
const (
	CreateUserPath   = "/_matrix/client/api/v1/createUser"
	SharedSecretPath = "/_synapse/admin/v1/register"
	MASPath          = mas.UsersPath
)

func userID(localpart string) string { return "@" + localpart + ":" + ServerName }

// A Homeserver is the stand-in, as it is started.
type Homeserver struct {
	*httptest.Server

	Version string       // the body of its version; "" for none
	Name    string       // its server_name
	Issuer  string       // who logs users in; "" for itself
	MAS     *mas.Service // Matrix Authentication Service, at the same origin

	Mu     sync.Mutex        // guards what follows, while it is asked
	Shows  Showing           // to whom it shows profiles
	Odd    Odd               // what it does as no Synapse does
	Users  map[string]string // display names by user ID
	Hashed map[string]string // what createUser was given as password_hash, by user ID
	Whole  map[string]string // what the shared-secret API was given as password, by user ID

	Sessions map[string]bool // access tokens that a login opened and no logout ended

	Deactivated map[string]bool // by user ID

	nonces map[string]bool
	calls  []string                    // what was asked, in order
	faults map[string]http.HandlerFunc // answers in place of its own, by call
}

// A Showing is to whom a homeserver shows profiles: two settings of today's Synapse, and whether it has loaded the as_token.
type Showing struct {
	WithToken bool // require_auth_for_profile_requests
	ToSharing bool // limit_profile_requests_to_users_who_share_rooms, with which Synapse starts only beside the other
	NoService bool // it has not loaded registration.yaml
}

// An Odd is what was read of Tuwunel 1.7.0: none was run. Others may do so too.
type Odd struct {
	Suffix     string // behind each display name that an account is made with
	HidesEmpty bool   // a user without a display name is not found
	NameLost   bool   // it makes the account with its password, and dies before its name
}

// The calls that it tells apart.
const (
	Version    = "version"
	Profile    = "profile"
	CreateUser = "createUser"
	Nonce      = "nonce"
	Register   = "register"
	Key        = "key"
	Versions   = "versions"
	Whoami     = "whoami"
	Issuer     = "issuer"
	Token      = "token"
	MASCreate  = "masCreate"
	LookUp     = "lookUp"
	Password   = "password"
	SetName    = "setName"
	Site       = "site"
	Login      = "login"
	Logout     = "logout"
	MASVersion = "masVersion"
	Discovery  = "discovery"
	Deactivate = "deactivate"
	Lock       = "lock"
)

// New starts one, which ends with the test.
func New(t testing.TB) *Homeserver {
	s := Start()
	t.Cleanup(s.Close)
	return s
}

// Start starts one, which the caller closes.
func Start() *Homeserver {
	s := &Homeserver{
		Version: `{"server":{"name":"Synapse","version":"1.163.2"}}`, Name: ServerName,
		Users: map[string]string{}, Hashed: map[string]string{}, Whole: map[string]string{},
		Sessions: map[string]bool{}, Deactivated: map[string]bool{}, nonces: map[string]bool{}, faults: map[string]http.HandlerFunc{},
	}
	s.MAS = mas.New(ServerName, MASClientID, MASSecret, masHalf{s})
	s.Server = httptest.NewServer(s)
	return s
}

// masHalf is the stand-in as Matrix Authentication Service sees it.
type masHalf struct{ s *Homeserver }

func (h masHalf) Available(localpart string) (bool, error) {
	h.s.Mu.Lock()
	defer h.s.Mu.Unlock()
	_, there := h.s.Users[userID(localpart)]
	return !there, nil
}

func (h masHalf) Provision(localpart, displayName string) error {
	h.s.Mu.Lock()
	defer h.s.Mu.Unlock()
	h.s.Users[userID(localpart)] = cmp.Or(displayName, localpart)
	return nil
}

func (h masHalf) AddDevice(string, string) error { return nil }

func (h masHalf) Delete(localpart string) error {
	h.s.Mu.Lock()
	defer h.s.Mu.Unlock()
	delete(h.s.Users, userID(localpart))
	return nil
}

// Fail answers the call with the handler from now on; with nil, rightly again.
func (s *Homeserver) Fail(call string, handler http.HandlerFunc) {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	s.faults[call] = handler
}

// FailOnce answers the next such call with the handler.
func (s *Homeserver) FailOnce(call string, handler http.HandlerFunc) {
	s.Fail(call, func(w http.ResponseWriter, r *http.Request) {
		s.Fail(call, nil)
		handler(w, r)
	})
}

// Asked returns the calls made since it was last asked.
func (s *Homeserver) Asked() string {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	calls := strings.Join(s.calls, " ")
	s.calls = nil
	return calls
}

// Right is the right answer to the call.
func (s *Homeserver) Right(call string) http.HandlerFunc {
	switch call {
	case Version:
		return s.version
	case Key:
		return Says(200, fmt.Sprintf(`{"server_name":%q,"verify_keys":{}}`, s.Name))
	case Versions:
		return Says(200, `{"versions":["r0.6.1","v1.12"]}`)
	case Whoami:
		return s.whoami
	case Profile:
		return s.profile
	case CreateUser:
		return s.createUser
	case Nonce:
		return s.nonce
	case Register:
		return s.register
	case Issuer:
		return s.authMetadata
	case SetName:
		return s.setName
	case Login:
		return s.login
	case Logout:
		return s.logout
	case Deactivate:
		return s.deactivate
	case Discovery, Token, MASCreate, LookUp, Password, Lock, Site, MASVersion:
		return s.MAS.ServeHTTP
	}
	return unrecognized
}

var unrecognized = Says(404, `{"errcode":"M_UNRECOGNIZED","error":"Unrecognized request"}`)

// callOf is which call the request is, "" for none.
func callOf(r *http.Request) string {
	switch path := r.URL.EscapedPath(); {
	case path == "/_matrix/federation/v1/version":
		return Version
	case path == "/_matrix/key/v2/server":
		return Key
	case path == "/_matrix/client/versions":
		return Versions
	case path == "/_matrix/client/r0/account/whoami":
		return Whoami
	case strings.HasPrefix(path, "/_matrix/client/r0/profile/") && strings.HasSuffix(path, "/displayname"):
		return Profile
	case path == CreateUserPath:
		return CreateUser
	case path == SharedSecretPath && r.Method == http.MethodGet:
		return Nonce
	case path == SharedSecretPath:
		return Register
	case path == "/_matrix/client/v1/auth_metadata" || path == "/_matrix/client/unstable/org.matrix.msc2965/auth_metadata":
		return Issuer
	case strings.HasPrefix(path, "/_matrix/client/v3/profile/") && r.Method == http.MethodPut:
		return SetName
	case path == "/_matrix/client/r0/login":
		return Login
	case path == "/_matrix/client/r0/logout":
		return Logout
	case path == mas.DiscoveryPath:
		return Discovery
	case path == mas.TokenPath:
		return Token
	case path == mas.UsersPath:
		return MASCreate
	case strings.HasPrefix(path, mas.ByNamePath):
		return LookUp
	case strings.HasSuffix(path, mas.PasswordPath):
		return Password
	case strings.HasSuffix(path, mas.LockPath), strings.HasSuffix(path, mas.UnlockPath):
		return Lock
	case path == mas.SitePath:
		return Site
	case path == mas.VersionPath:
		return MASVersion
	case path == "/_matrix/client/r0/account/deactivate":
		return Deactivate
	}
	return ""
}

func (s *Homeserver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	call := callOf(r)
	s.Mu.Lock()
	s.calls = append(s.calls, call)
	answer := s.faults[call]
	s.Mu.Unlock()
	if answer == nil {
		answer = s.Right(call)
	}
	answer(w, r)
}

func (s *Homeserver) version(w http.ResponseWriter, r *http.Request) {
	if s.Version == "" {
		unrecognized(w, r)
		return
	}
	Says(200, s.Version)(w, r)
}

func (s *Homeserver) whoami(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer "+ASToken || s.Shows.NoService {
		Says(401, `{"errcode":"M_UNKNOWN_TOKEN","error":"Invalid access token passed."}`)(w, r)
		return
	}
	Says(200, `{"user_id":"@transport02.smartmesh.cn:transport02.smartmesh.cn","is_guest":false}`)(w, r)
}

func (s *Homeserver) authMetadata(w http.ResponseWriter, r *http.Request) {
	if s.Issuer == "" {
		unrecognized(w, r)
		return
	}
	Says(200, fmt.Sprintf(`{"issuer":%q}`, s.Issuer))(w, r)
}

// setName sets the display name of the user that the application service acts for.
func (s *Homeserver) setName(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer "+ASToken {
		Says(401, `{"errcode":"M_UNKNOWN_TOKEN","error":"Unrecognised access token"}`)(w, r)
		return
	}
	var body struct{ DisplayName string }
	json.NewDecoder(r.Body).Decode(&body)
	s.Mu.Lock()
	defer s.Mu.Unlock()
	id := strings.Split(r.URL.Path, "/")[5]
	if _, ok := s.Users[id]; !ok || r.FormValue("user_id") != id {
		Says(403, `{"errcode":"M_FORBIDDEN","error":"Application service has not registered this user"}`)(w, r)
		return
	}
	s.Users[id] = body.DisplayName
	Says(200, "{}")(w, r)
}

// deactivate ends the account of the user that the application service acts for, as both Synapses were seen to: twice, too.
func (s *Homeserver) deactivate(w http.ResponseWriter, r *http.Request) {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	id := r.FormValue("user_id")
	_, there := s.Users[id]
	switch {
	case r.Header.Get("Authorization") != "Bearer "+ASToken:
		Says(401, `{"errcode":"M_UNKNOWN_TOKEN","error":"Invalid access token passed."}`)(w, r)
	case !there:
		Says(403, `{"errcode":"M_FORBIDDEN","error":"Application service has not registered this user (`+id+`)"}`)(w, r)
	default:
		s.Deactivated[id] = true
		Says(200, `{"id_server_unbind_result":"success"}`)(w, r)
	}
}

// profile answers as Synapse 1.163.2 does, with a token or without.
func (s *Homeserver) profile(w http.ResponseWriter, r *http.Request) {
	s.Mu.Lock()
	id := strings.Split(r.URL.Path, "/")[5]
	name, ok := s.Users[id]
	ok = ok && (name != "" || !s.Odd.HidesEmpty)
	shows := s.Shows
	s.Mu.Unlock()
	token, as := r.Header.Get("Authorization"), r.FormValue("user_id")
	switch {
	case token == "" && shows.WithToken:
		Says(401, `{"errcode":"M_MISSING_TOKEN","error":"Missing access token"}`)(w, r)
	case token != "" && (token != "Bearer "+ASToken || shows.NoService):
		Says(401, `{"errcode":"M_UNKNOWN_TOKEN","error":"Invalid access token passed.","soft_logout":false}`)(w, r)
	case as != "" && !ok:
		Says(403, `{"errcode":"M_FORBIDDEN","error":"Application service has not registered this user (`+as+`)"}`)(w, r)
	case token != "" && as != id && shows.ToSharing:
		Says(403, `{"errcode":"M_FORBIDDEN","error":"Profile isn't available"}`)(w, r)
	case !ok:
		Says(404, `{"errcode":"M_NOT_FOUND","error":"Profile was not found"}`)(w, r)
	default:
		json.NewEncoder(w).Encode(map[string]string{"displayname": name})
	}
}

func (s *Homeserver) createUser(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer "+ASToken || r.URL.RawQuery != "" {
		Says(403, `{"errcode":"M_UNKNOWN","error":"Invalid application service token."}`)(w, r)
		return
	}
	var body map[string]any
	json.NewDecoder(r.Body).Decode(&body)
	id := userID(body["localpart"].(string))
	s.Mu.Lock()
	defer s.Mu.Unlock()
	if len(body) != 3 {
		Says(400, `{"errcode":"M_UNKNOWN","error":"unexpected fields"}`)(w, r)
		return
	}
	s.Users[id] = body["displayname"].(string) // of an account that is there, too
	if s.Hashed[id] == "" {
		s.Hashed[id] = body["password_hash"].(string)
	}
	fmt.Fprintf(w, `{"user_id":%q,"access_token":"MDAyOGxvY2F0aW9uIHRva2VuMTIzNDU2Nzg5","home_server":%q}`, id, ServerName)
}

func (s *Homeserver) nonce(w http.ResponseWriter, r *http.Request) {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	nonce := fmt.Sprintf("%0128x", len(s.calls))
	s.nonces[nonce] = true
	fmt.Fprintf(w, `{"nonce":%q}`, nonce)
}

func (s *Homeserver) register(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Nonce, Username, DisplayName, Password, Mac string
		Admin                                       *bool
		InhibitLogin                                bool `json:"inhibit_login"`
	}
	json.NewDecoder(r.Body).Decode(&body)
	s.Mu.Lock()
	defer s.Mu.Unlock()
	mac := hmac.New(sha1.New, []byte(Secret))
	fmt.Fprintf(mac, "%s\x00%s\x00%s\x00notadmin", body.Nonce, body.Username, body.Password)
	id := userID(body.Username)
	switch _, exists := s.Users[id]; {
	case !s.nonces[body.Nonce]:
		Says(400, `{"errcode":"M_UNKNOWN","error":"unrecognised nonce"}`)(w, r)
		return
	case body.Mac != hex.EncodeToString(mac.Sum(nil)), body.Admin == nil || *body.Admin, !body.InhibitLogin:
		Says(403, `{"errcode":"M_UNKNOWN","error":"HMAC incorrect"}`)(w, r)
		return
	case strings.Trim(body.Username, "abcdefghijklmnopqrstuvwxyz0123456789=_-./+") != "":
		Says(400, `{"errcode":"M_INVALID_USERNAME","error":"User ID can only contain characters a-z, 0-9, or '=_-./+'"}`)(w, r)
		return
	case exists:
		Says(400, `{"errcode":"M_USER_IN_USE","error":"User ID already taken."}`)(w, r)
		return
	}
	delete(s.nonces, body.Nonce)
	if s.Odd.NameLost {
		s.Users[id], s.Whole[id] = "", body.Password
		Says(500, "{}")(w, r)
		return
	}
	s.Users[id], s.Whole[id] = body.DisplayName+s.Odd.Suffix, body.Password
	fmt.Fprintf(w, `{"user_id":%q,"home_server":%q}`, id, ServerName)
}

// login takes the password that the shared-secret API was given.
func (s *Homeserver) login(w http.ResponseWriter, r *http.Request) {
	var body struct{ User, Password string }
	json.NewDecoder(r.Body).Decode(&body)
	s.Mu.Lock()
	defer s.Mu.Unlock()
	id := userID(body.User)
	if body.Password == "" || s.Whole[id] != body.Password {
		Says(403, `{"errcode":"M_FORBIDDEN","error":"Invalid username or password"}`)(w, r)
		return
	}
	token := fmt.Sprintf("syt_%064d_%06d", len(s.calls), len(s.Sessions))
	s.Sessions[token] = true
	Says(200, fmt.Sprintf(`{"user_id":%q,"access_token":%q,"device_id":"X"}`, id, token))(w, r)
}

func (s *Homeserver) logout(w http.ResponseWriter, r *http.Request) {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	delete(s.Sessions, strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
	Says(200, "{}")(w, r)
}

// Says is an answer with this status and body.
func Says(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(body, "{") {
			w.Header().Set("Content-Type", "application/json")
		}
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

// Breaks closes the connection without an answer.
func Breaks(w http.ResponseWriter, _ *http.Request) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err == nil {
		conn.Close()
	}
}

// DoesAndBreaks does what was asked and loses the answer.
func DoesAndBreaks(do http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		do(httptest.NewRecorder(), r)
		Breaks(w, r)
	}
}
