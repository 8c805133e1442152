// mas.go owns the stand-in: its users, its tokens, and what it answers to a gateway.

package mas

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
	buckets map[string]*bucket   // of logins, by address
}

// Settings are what may be otherwise than nodes need it.
type Settings struct {
	Version      string // "" for v1.22.0. Before v1.18.0 it is deaf to a display name
	NotAdmin     bool   // the client is not in policy.data.admin_clients
	NoAdminAPI   bool   // the listener does not have the resource adminapi
	PasswordsOff bool
	Registration bool          // anybody may make an account
	TokenLasts   time.Duration // 0 for 300 s
	Logins       Limit         // of each address; the zero value for the guide's

	// Keep is called when the homeserver has made its half of a new user, and before the service keeps its own. With an
	// error the service dies there. The context ends when who asked goes away.
	Keep func(context.Context) error
}

// Old is a version without site-config and version.
const Old = "v1.3.0"

// deaf tells whether it leaves a display name out.
func (is Settings) deaf() bool {
	var major, minor int
	n, _ := fmt.Sscanf(is.Version, "v%d.%d.", &major, &minor)
	return n == 2 && major == 1 && minor < 18
}

type user struct {
	id, name, password  string
	deactivated, locked bool
}

// New makes one without users.
func New(serverName, clientID, clientSecret string, h Homeserver) *Service {
	return &Service{
		ServerName: serverName, ClientID: clientID, ClientSecret: clientSecret, Homeserver: h,
		users: map[string]*user{}, tokens: map[string]time.Time{}, logins: map[string]login{},
		buckets: map[string]*bucket{},
	}
}

// Set changes the settings.
func (s *Service) Set(to Settings) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settled = to
	clear(s.buckets)
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
		s.refuse(w, NoAdminAPI, "")
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
		token := s.newToken(lasts)
		writeJSON(w, Answers[TokenGranted].Status, map[string]any{"access_token": token, "token_type": "Bearer", "expires_in": int(lasts.Seconds()), "scope": AdminScope})
	}
}

// newToken makes a token of the admin API. The caller has the lock.
func (s *Service) newToken(lasts time.Duration) string {
	token := "mat_" + rand.Text()
	s.tokens[token] = time.Now().Add(lasts)
	return token
}

// Token makes a token of the admin API, as an operator has one.
func (s *Service) Token() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.newToken(300 * time.Second)
}

// refuse answers a case that is an error.
func (s *Service) refuse(w http.ResponseWriter, c Case, value string, causes ...error) {
	is := Answers[c]
	switch {
	case is.IsHTML:
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.WriteHeader(is.Status)
		io.WriteString(w, "<!DOCTYPE html><html><body>Not found</body></html>")
	case is.Error != "":
		writeJSON(w, is.Status, map[string]string{"error": is.Error, "error_description": "in words"})
	case is.Errcode != "":
		writeJSON(w, is.Status, map[string]string{"errcode": is.Errcode, "error": string(c)})
	default:
		chain := []any{map[string]string{"title": cmp.Or(is.with(value), "in other words")}}
		for _, cause := range causes {
			chain = append(chain, map[string]string{"title": cause.Error()})
		}
		writeJSON(w, is.Status, map[string]any{"errors": chain})
	}
}

// admin answers the admin API.
func (s *Service) admin(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	is := s.settled
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	good := time.Now().Before(s.tokens[token])
	s.mu.Unlock()
	after, isUser := strings.CutPrefix(r.URL.Path, UsersPath+"/")
	id, step, _ := strings.Cut(after, "/")
	name, isName := strings.CutPrefix(r.URL.Path, ByNamePath)
	switch {
	case is.NoAdminAPI:
		s.refuse(w, NoAdminAPI, "")
	case r.Header.Get("Authorization") == "":
		s.refuse(w, NoHeader, "")
	case !good:
		s.refuse(w, NoToken, "")
	case r.URL.Path == UsersPath && r.Method == http.MethodPost:
		s.add(w, r, is)
	case isName && r.Method == http.MethodGet:
		s.byName(w, name)
	case isUser && "/"+step == PasswordPath && r.Method == http.MethodPost:
		s.setPassword(w, r, is, id)
	case isUser && ("/"+step == LockPath || "/"+step == UnlockPath) && r.Method == http.MethodPost:
		s.lock(w, id, "/"+step == LockPath)
	case r.URL.Path == SitePath && is.Version != Old:
		writeJSON(w, 200, map[string]any{"server_name": s.ServerName, "password_login_enabled": !is.PasswordsOff, "password_registration_enabled": is.Registration})
	case r.URL.Path == VersionPath && is.Version != Old:
		writeJSON(w, 200, map[string]string{"version": cmp.Or(is.Version, "v1.22.0")})
	default:
		s.refuse(w, NoAdminAPI, "")
	}
}

var nameForm = regexp.MustCompile(`^[a-z0-9=./+-][a-z0-9=_./+-]{0,254}$`)

// add has the homeserver make its half first and keeps its own after that, as the real one does: whatever comes between
// leaves an account at the homeserver alone.
func (s *Service) add(w http.ResponseWriter, r *http.Request, is Settings) {
	var body struct {
		Username, DisplayName string
		Skip                  bool `json:"skip_homeserver_check"`
	}
	json.NewDecoder(r.Body).Decode(&body)
	if _, there := s.Password(body.Username); there {
		s.refuse(w, Exists, "")
		return
	}
	if !nameForm.MatchString(body.Username) {
		s.refuse(w, BadName, "")
		return
	}
	free, err := s.Homeserver.Available(body.Username)
	switch {
	case errors.Is(err, ErrRefused):
		s.refuse(w, Refused, "", err)
		return
	case err != nil:
		s.refuse(w, Unreached, "", errors.New("error sending request"), err)
		return
	case !free && !body.Skip:
		s.refuse(w, Reserved, "")
		return
	}
	if is.deaf() {
		body.DisplayName = ""
	}
	if err := s.Homeserver.Provision(body.Username, body.DisplayName); err != nil {
		s.refuse(w, Unreached, "", err)
		return
	}
	if is.Keep != nil && is.Keep(r.Context()) != nil || r.Context().Err() != nil {
		panic(http.ErrAbortHandler) // which closes the connection
	}
	s.Add(body.Username)
	s.write(w, Created, body.Username)
}

// lock keeps a user out, or lets it in again.
func (s *Service) lock(w http.ResponseWriter, id string, locked bool) {
	c := map[bool]Case{true: Locked, false: Unlocked}[locked]
	s.mu.Lock()
	for name, u := range s.users {
		if u.id == id {
			u.locked = locked
			s.mu.Unlock()
			s.write(w, c, name)
			return
		}
	}
	s.mu.Unlock()
	s.refuse(w, PasswordNobody, id)
}

// write answers with a user.
func (s *Service) write(w http.ResponseWriter, c Case, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.users[name]
	lockedAt := any(nil)
	if u.locked {
		lockedAt = time.Now()
	}
	writeJSON(w, Answers[c].Status, map[string]any{"data": map[string]any{"type": "user", "id": u.id, "attributes": map[string]any{"username": u.name, "locked_at": lockedAt}}})
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

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body)
}
