// mas.go owns the stand-in: its users, its tokens, and what it answers.

package mas

import (
	"cmp"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"
)

// A Homeserver is where the service has its users provisioned.
type Homeserver interface {
	Available(localpart string) (bool, error)
	Provision(localpart, displayName string) error // with "" the homeserver's own choice
	AddDevice(localpart, device string) error
	Delete(localpart string) error // and erase the profile
}

// A Service is the stand-in.
type Service struct {
	ServerName             string
	ClientID, ClientSecret string
	HomeserverSecret       string // what the homeserver introspects tokens with
	Homeserver             Homeserver

	mu      sync.Mutex
	settled Settings
	users   map[string]*user
	tokens  map[string]time.Time // of the admin API: until when they are good
	logins  map[string]login     // by access token
}

// Settings are what may be otherwise than nodes need it.
type Settings struct {
	Old          bool // as version 1.3: without site-config, and deaf to a display name
	NotAdmin     bool // the client is not in policy.data.admin_clients
	NoAdminAPI   bool // the listener does not have the resource adminapi
	PasswordsOff bool
	Registration bool          // anybody may make an account
	TokenLasts   time.Duration // 0 for 300 s
}

type user struct {
	id, name, password string
	deactivated        bool
}

type login struct{ localpart, device string }

// New makes one without users.
func New(serverName, clientID, clientSecret string, h Homeserver) *Service {
	return &Service{
		ServerName: serverName, ClientID: clientID, ClientSecret: clientSecret, Homeserver: h,
		users: map[string]*user{}, tokens: map[string]time.Time{}, logins: map[string]login{},
	}
}

// Set changes the settings.
func (s *Service) Set(to Settings) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settled = to
}

// Add adds a user behind the homeserver's back.
func (s *Service) Add(localpart string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users[localpart] = &user{id: newID(time.Now()), name: localpart}
}

// AddOld adds a user that was made before this service came.
func (s *Service) AddOld(localpart string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users[localpart] = &user{id: newID(time.Now().AddDate(-1, 0, 0)), name: localpart}
}

// Password returns a user's password, and whether there is such a user.
func (s *Service) Password(localpart string) (password string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.users[localpart]
	if u == nil {
		return "", false
	}
	return u.password, true
}

// Deactivate puts a user out, as the admin API does it: the homeserver erases it too.
func (s *Service) Deactivate(localpart string) error {
	s.mu.Lock()
	if u := s.users[localpart]; u != nil {
		u.deactivated = true
	}
	s.mu.Unlock()
	return s.Homeserver.Delete(localpart)
}

// ForgetUsers forgets every user, as when its database is lost.
func (s *Service) ForgetUsers() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.users)
}

// Forget forgets the tokens of the admin API, as when they expire.
func (s *Service) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.tokens)
}

// ulidDigits are Crockford's.
const ulidDigits = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

// newID makes a ULID: ten digits of the time, and random ones.
func newID(made time.Time) string {
	raw := make([]byte, 26)
	rand.Read(raw)
	for i, b := range raw {
		raw[i] = ulidDigits[b%32]
	}
	for i, ms := 9, made.UnixMilli(); i >= 0; i, ms = i-1, ms>>5 {
		raw[i] = ulidDigits[ms%32]
	}
	return string(raw)
}

var loginForm = regexp.MustCompile(`^/_matrix/client/(api/v1|r0|v3)/(login|logout)$`)

func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch path := r.URL.Path; {
	case path == DiscoveryPath:
		origin := "http://" + r.Host + "/"
		writeJSON(w, 200, map[string]any{"issuer": origin, "token_endpoint": origin + TokenPath[1:], "account_management_uri": origin + "account/"})
	case path == TokenPath && r.Method == http.MethodPost:
		s.token(w, r)
	case path == IntrospectPath && r.Method == http.MethodPost:
		s.introspect(w, r)
	case loginForm.MatchString(path):
		s.login(w, r)
	case strings.HasPrefix(path, "/api/admin/v1/"):
		s.admin(w, r)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func (s *Service) token(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id, secret, _ := r.BasicAuth()
	switch {
	case id != s.ClientID || secret != s.ClientSecret:
		s.refuse(w, TokenBadSecret, "")
	case r.FormValue("grant_type") != "client_credentials" || r.FormValue("scope") != AdminScope:
		writeJSON(w, 400, map[string]string{"error": "invalid_request"})
	case s.settled.NotAdmin:
		s.refuse(w, TokenNotAdmin, "")
	default:
		lasts := cmp.Or(s.settled.TokenLasts, 300*time.Second)
		token := "mat_" + rand.Text()
		s.tokens[token] = time.Now().Add(lasts)
		writeJSON(w, Answers[TokenGranted].Status, map[string]any{"access_token": token, "token_type": "Bearer", "expires_in": int(lasts.Seconds()), "scope": AdminScope})
	}
}

// refuse answers a case that is an error.
func (s *Service) refuse(w http.ResponseWriter, c Case, value string) {
	is := Answers[c]
	if is.Error != "" {
		writeJSON(w, is.Status, map[string]string{"error": is.Error, "error_description": "in words"})
		return
	}
	writeJSON(w, is.Status, map[string]any{"errors": []any{map[string]string{"title": cmp.Or(is.with(value), "in other words")}}})
}

// admin answers the admin API.
func (s *Service) admin(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	is := s.settled
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	good := time.Now().Before(s.tokens[token])
	s.mu.Unlock()
	id, isPassword := strings.CutSuffix(strings.TrimPrefix(r.URL.Path, UsersPath+"/"), PasswordPath)
	name, isName := strings.CutPrefix(r.URL.Path, ByNamePath)
	switch {
	case is.NoAdminAPI:
		w.WriteHeader(http.StatusNotFound)
	case !good:
		s.refuse(w, NoToken, "")
	case r.URL.Path == UsersPath && r.Method == http.MethodPost:
		s.add(w, r, is)
	case isName && r.Method == http.MethodGet:
		s.byName(w, name)
	case isPassword && r.Method == http.MethodPost:
		s.setPassword(w, r, is, id)
	case r.URL.Path == SitePath && !is.Old:
		writeJSON(w, 200, map[string]any{"server_name": s.ServerName, "password_login_enabled": !is.PasswordsOff, "password_registration_enabled": is.Registration})
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

var nameForm = regexp.MustCompile(`^[a-z0-9=./+-][a-z0-9=_./+-]{0,254}$`)

func (s *Service) add(w http.ResponseWriter, r *http.Request, is Settings) {
	var body struct{ Username, DisplayName string }
	json.NewDecoder(r.Body).Decode(&body)
	if _, there := s.Password(body.Username); there {
		s.refuse(w, Exists, "")
		return
	}
	if !nameForm.MatchString(body.Username) {
		s.refuse(w, BadName, "")
		return
	}
	if free, err := s.Homeserver.Available(body.Username); err != nil {
		s.refuse(w, CannotTell, "")
		return
	} else if !free {
		s.refuse(w, Reserved, "")
		return
	}
	if is.Old {
		body.DisplayName = ""
	}
	if err := s.Homeserver.Provision(body.Username, body.DisplayName); err != nil {
		s.refuse(w, CannotTell, "")
		return
	}
	s.Add(body.Username)
	s.write(w, Created, body.Username)
}

// write answers with a user.
func (s *Service) write(w http.ResponseWriter, c Case, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.users[name]
	writeJSON(w, Answers[c].Status, map[string]any{"data": map[string]any{"type": "user", "id": u.id, "attributes": map[string]any{"username": u.name, "locked_at": nil}}})
}

func (s *Service) byName(w http.ResponseWriter, name string) {
	if _, there := s.Password(name); !there {
		s.refuse(w, NotFound, name)
		return
	}
	s.write(w, Found, name)
}

func (s *Service) setPassword(w http.ResponseWriter, r *http.Request, is Settings, id string) {
	var body struct {
		Password string
		Skip     bool `json:"skip_password_check"`
	}
	json.NewDecoder(r.Body).Decode(&body)
	if is.PasswordsOff {
		s.refuse(w, PasswordsOff, "")
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, u := range s.users {
		if u.id == id && body.Skip && body.Password != "" {
			u.password = body.Password
			w.WriteHeader(Answers[PasswordSet].Status)
			return
		}
	}
	s.refuse(w, PasswordNobody, id)
}

// login answers the old paths of a homeserver's login and logout.
func (s *Service) login(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	is := s.settled
	s.mu.Unlock()
	switch {
	case r.Method == http.MethodGet:
		flows := []map[string]any{{"type": "m.login.sso", "org.matrix.msc3824.delegated_oidc_compatibility": true}, {"type": "m.login.token"}}
		if !is.PasswordsOff {
			flows = append([]map[string]any{{"type": "m.login.password"}}, flows...)
		}
		writeJSON(w, 200, map[string]any{"flows": flows})
	case strings.HasSuffix(r.URL.Path, "/logout"):
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.logins, strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
		writeJSON(w, 200, struct{}{})
	default:
		s.passwordLogin(w, r, is)
	}
}

func (s *Service) passwordLogin(w http.ResponseWriter, r *http.Request, is Settings) {
	var body struct {
		Type, User, Password string
		Identifier           struct{ User string }
	}
	json.NewDecoder(r.Body).Decode(&body)
	localpart := strings.TrimSuffix(strings.TrimPrefix(cmp.Or(body.User, body.Identifier.User), "@"), ":"+s.ServerName)
	if is.PasswordsOff || body.Type != "m.login.password" {
		writeJSON(w, 400, map[string]string{"errcode": "M_UNRECOGNIZED", "error": "Invalid login type"})
		return
	}
	s.mu.Lock()
	u := s.users[localpart]
	good := u != nil && !u.deactivated && u.password != "" && u.password == body.Password
	s.mu.Unlock()
	if !good {
		writeJSON(w, 403, map[string]string{"errcode": "M_FORBIDDEN", "error": "Invalid username/password"})
		return
	}
	opened := login{localpart, rand.Text()[:10]}
	if err := s.Homeserver.AddDevice(localpart, opened.device); err != nil {
		writeJSON(w, 500, map[string]string{"errcode": "M_UNKNOWN", "error": "Internal server error"})
		return
	}
	token := "mct_" + rand.Text()
	s.mu.Lock()
	s.logins[token] = opened
	s.mu.Unlock()
	writeJSON(w, 200, map[string]string{"access_token": token, "device_id": opened.device, "user_id": fmt.Sprintf("@%s:%s", localpart, s.ServerName)})
}

// introspect tells the homeserver whose an access token is.
func (s *Service) introspect(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Header.Get("Authorization") != "Bearer "+s.HomeserverSecret {
		writeJSON(w, 401, map[string]string{"error": "invalid_client"})
		return
	}
	opened, ok := s.logins[r.FormValue("token")]
	if !ok {
		writeJSON(w, 200, map[string]bool{"active": false})
		return
	}
	writeJSON(w, 200, map[string]any{"active": true, "scope": "urn:matrix:client:api:*", "username": opened.localpart, "device_id": opened.device, "token_type": "access_token"})
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body)
}
