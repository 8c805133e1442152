// login.go owns the half that nodes meet: login, logout, the limit of logins, and whose an access token is.

package mas

import (
	"cmp"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"strings"
	"time"
)

type login struct{ localpart, device string }

// A Limit is how many logins one address has, and how many more come each second.
type Limit struct{ Burst, PerSecond float64 }

// Limits of logins: that of the guide, and what the service has where nothing is written.
var (
	GuideLogins   = Limit{50, 5}
	DefaultLogins = Limit{3, 0.05}
)

// A bucket is what is left of a Limit.
type bucket struct {
	left float64
	at   time.Time
}

// mayLogIn counts one login of an existing user, a refused one too. The address is the one that nginx names.
func (s *Service) mayLogIn(r *http.Request, is Limit) bool {
	is = cmp.Or(is, GuideLogins)
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	host = cmp.Or(r.Header.Get("X-Forwarded-For"), host)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	b := s.buckets[host]
	if b == nil {
		b = &bucket{is.Burst, now}
		s.buckets[host] = b
	}
	b.left, b.at = min(is.Burst, b.left+now.Sub(b.at).Seconds()*is.PerSecond), now
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}

var loginForm = regexp.MustCompile(`^/_matrix/client/(api/v1|r0|v3)/(login|logout)$`)

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
		s.logout(w, r)
	default:
		s.passwordLogin(w, r, is)
	}
}

// logout reads the token from the header alone.
func (s *Service) logout(w http.ResponseWriter, r *http.Request) {
	token, given := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	s.mu.Lock()
	_, good := s.logins[token]
	delete(s.logins, token)
	s.mu.Unlock()
	switch {
	case !given:
		s.refuse(w, LogoutNoHeader, "")
	case !good:
		s.refuse(w, LogoutAgain, "")
	default:
		writeJSON(w, Answers[LoggedOut].Status, struct{}{})
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
		s.refuse(w, LoginSwitched, "")
		return
	}
	s.mu.Lock()
	u := s.users[localpart]
	there := u != nil && !u.deactivated
	locked := there && u.locked
	good := there && u.password != "" && u.password == body.Password
	s.mu.Unlock()
	switch {
	case !there:
		s.refuse(w, LoginNobody, "")
		return
	case locked:
		s.refuse(w, LoginLocked, "")
		return
	case !s.mayLogIn(r, is.Logins):
		s.refuse(w, LoginLimited, "")
		return
	case !good:
		s.refuse(w, LoginWrong, "")
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
	writeJSON(w, Answers[LoggedIn].Status, map[string]string{"access_token": token, "device_id": opened.device, "user_id": fmt.Sprintf("@%s:%s", localpart, s.ServerName)})
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
