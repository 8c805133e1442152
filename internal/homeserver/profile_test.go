// profile_test.go owns the tests of profile look-ups: with and without the token, and when each form is tried again.

package homeserver

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

const (
	profileToken = "LODE52N2CKVXMOURUMAWLEEEXMWB4DKIKRI246XD"
	thereID      = "@0x1111111111111111111111111111111111111111:example.org"
	goneID       = "@0x2222222222222222222222222222222222222222:example.org"
)

// A profiles is Synapse 1.163.2 as it was measured: what it answers to who asks for a profile, by two of its settings and
// by whether it knows the token.
type profiles struct {
	*httptest.Server
	mu             sync.Mutex
	require, limit bool
	knows          bool
	answer         http.HandlerFunc // in the place of its own
	asked          []string         // in which form
}

func newProfiles(t *testing.T) *profiles {
	p := new(profiles)
	p.Server = httptest.NewServer(p)
	t.Cleanup(p.Close)
	return p
}

func (p *profiles) set(require, limit, knows bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.require, p.limit, p.knows = require, limit, knows
}

// forms are those in which it was asked since this was last called.
func (p *profiles) forms() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	asked := strings.Join(p.asked, " ")
	p.asked = nil
	return asked
}

func (p *profiles) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	token, as := r.Header.Get("Authorization"), r.URL.Query().Get("user_id")
	userID, _ := url.PathUnescape(strings.Split(r.URL.EscapedPath(), "/")[5])
	form := "nobody"
	if token != "" {
		form = "service"
	}
	if as != "" {
		form = "user"
	}
	p.asked = append(p.asked, form)
	says := func(status int, body string) { w.WriteHeader(status); fmt.Fprint(w, body) }
	switch {
	case p.answer != nil:
		p.answer(w, r)
	case token == "" && p.require:
		says(401, `{"errcode":"M_MISSING_TOKEN","error":"Missing access token"}`)
	case token != "" && (!p.knows || token != "Bearer "+profileToken):
		says(401, `{"errcode":"M_UNKNOWN_TOKEN","error":"Invalid access token passed.","soft_logout":false}`)
	case as != "" && userID != thereID:
		says(403, `{"errcode":"M_FORBIDDEN","error":"Application service has not registered this user (`+userID+`)"}`)
	case token != "" && as != userID && p.limit:
		says(403, `{"errcode":"M_FORBIDDEN","error":"Profile isn't available"}`)
	case userID != thereID:
		says(404, `{"errcode":"M_NOT_FOUND","error":"Profile was not found"}`)
	default:
		says(200, `{"displayname":"shown"}`)
	}
}

// What is learned of a user who is there and of one who is not, under each setting, and in which forms it is asked: the
// first time, and when the form that told is known.
func TestWhoAsksForProfile(t *testing.T) {
	const told, hidden = true, false
	for name, test := range map[string]struct {
		require, limit, knows, hasToken bool
		there, gone                     bool
		firstThere, thenThere           string
		firstGone, thenGone             string
		cure                            string // of what is hidden
	}{
		"public":                  {false, false, true, true, told, told, "nobody", "nobody", "nobody", "nobody", ""},
		"public, unknown token":   {false, false, false, true, told, told, "nobody", "nobody", "nobody", "nobody", ""},
		"public, no token":        {false, false, false, false, told, told, "nobody", "nobody", "nobody", "nobody", ""},
		"required":                {true, false, true, true, told, told, "nobody service", "service", "nobody service", "service", ""},
		"required, unknown token": {true, false, false, true, hidden, hidden, "nobody service", "nobody service", "nobody service", "nobody service", "list this registration.yaml"},
		"required, no token":      {true, false, false, false, hidden, hidden, "nobody", "nobody", "nobody", "nobody", "has no as_token"},
		"and limited":             {true, true, true, true, told, hidden, "nobody service user", "user", "nobody service user", "nobody service user", "limit_profile_requests_to_users_who_share_rooms: false"},
		"and limited, unknown":    {true, true, false, true, hidden, hidden, "nobody service", "nobody service", "nobody service", "nobody service", "list this registration.yaml"},
		"and limited, no token":   {true, true, false, false, hidden, hidden, "nobody", "nobody", "nobody", "nobody", "has no as_token"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProfiles(t)
			p.set(test.require, test.limit, test.knows)
			ask := func(h *Client, userID string, tells bool, forms string) {
				t.Helper()
				shown, err := h.DisplayName(t.Context(), userID)
				failed, _ := errors.AsType[*Error](err)
				switch {
				case !tells && (failed == nil || !failed.Hidden || failed.Fate != NotCreated || !strings.Contains(err.Error(), test.cure)):
					t.Errorf("%s: got %q, %v, want it hidden, with the cure %q", userID, shown, err, test.cure)
				case !tells && strings.Contains(failed.Reason, "registration.yaml"):
					t.Errorf("a node is told the cure: %s", failed.Reason)
				case tells && userID == thereID && (shown != "shown" || err != nil):
					t.Errorf("%s: got %q, %v", userID, shown, err)
				case tells && userID == goneID && !errors.Is(err, ErrNoUser):
					t.Errorf("%s: got %q, %v", userID, shown, err)
				}
				if got := p.forms(); got != forms {
					t.Errorf("%s: asked as %s, want %s", userID, got, forms)
				}
			}
			for _, first := range []string{thereID, goneID} {
				h := NewClient(p.URL, "example.org", profileToken)
				if test.hasToken {
					h.ASToken = profileToken
				}
				if first == thereID {
					ask(h, thereID, test.there, test.firstThere)
					ask(h, thereID, test.there, test.thenThere)
				} else {
					ask(h, goneID, test.gone, test.firstGone)
					ask(h, goneID, test.gone, test.thenGone)
				}
			}
		})
	}
}

// Whatever form told last and whatever became of the token since, what is public stays so; and so does what the token shows.
func TestProfileFormChanges(t *testing.T) {
	type setting struct{ require, limit, knows bool }
	settings := []setting{{false, false, true}, {false, false, false}, {true, false, true}, {true, true, true}, {true, false, false}}
	for _, before := range settings {
		for _, after := range settings {
			p := newProfiles(t)
			h := NewClient(p.URL, "example.org", profileToken)
			h.ASToken = profileToken
			p.set(before.require, before.limit, before.knows)
			h.DisplayName(t.Context(), thereID)
			p.set(after.require, after.limit, after.knows)
			shown, err := h.DisplayName(t.Context(), thereID)
			if tells := !after.require || after.knows; tells && (shown != "shown" || err != nil) {
				t.Errorf("%+v, then %+v: got %q, %v", before, after, shown, err)
			}
			_, err = h.DisplayName(t.Context(), goneID)
			if tells := !after.require || after.knows && !after.limit; tells != errors.Is(err, ErrNoUser) {
				t.Errorf("%+v, then %+v: of who is not there got %v", before, after, err)
			}
		}
	}
}

// Another answer to a token than Synapse's hides nothing public either.
func TestOddAnswerToToken(t *testing.T) {
	for _, status := range []int{400, 401, 403, 404, 405} {
		p := newProfiles(t)
		h := NewClient(p.URL, "example.org", profileToken)
		h.ASToken = profileToken
		p.set(true, false, true)
		h.DisplayName(t.Context(), thereID) // with the token
		p.mu.Lock()
		p.answer = func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "" {
				w.WriteHeader(status)
				return
			}
			fmt.Fprint(w, `{"displayname":"shown"}`)
		}
		p.mu.Unlock()
		if shown, err := h.DisplayName(t.Context(), thereID); shown != "shown" || err != nil {
			t.Errorf("%d: got %q, %v", status, shown, err)
		}
	}
}

// An answer without a question of tokens is taken as it is, and no token is sent after it.
func TestNoTokenWithoutNeed(t *testing.T) {
	for _, test := range []struct {
		status int
		body   string
		hidden bool
	}{
		{401, `{"errcode":"M_UNKNOWN"}`, true}, {401, "<html>", true}, {403, `{"errcode":"M_FORBIDDEN"}`, true},
		{404, "<html>", false}, {404, `{"errcode":"M_UNRECOGNIZED"}`, false}, {400, `{"errcode":"M_MISSING_TOKEN"}`, false},
		{429, `{"errcode":"M_LIMIT_EXCEEDED"}`, false}, {500, `{"errcode":"M_MISSING_TOKEN"}`, false}, {302, "", false}, {200, "[]", false},
	} {
		p := newProfiles(t)
		h := NewClient(p.URL, "example.org", profileToken)
		h.ASToken = profileToken
		p.answer = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(test.status); fmt.Fprint(w, test.body) }
		_, err := h.DisplayName(t.Context(), thereID)
		failed, _ := errors.AsType[*Error](err)
		if got := p.forms(); failed == nil || failed.Hidden != test.hidden || failed.Limited != (test.status == 429) || got != "nobody" {
			t.Errorf("%d %s: got %+v, asked as %s", test.status, test.body, failed, got)
		}
	}
}

// An inProcess transport has a handler answer, without a network, so that a test can wait for a minute.
type inProcess struct{ http.Handler }

func (s inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w.Result(), nil
}

// The form that told is tried first for a minute, and not longer.
func TestProfileFormIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &profiles{require: true, knows: true}
		h := NewClient("http://homeserver", "example.org", profileToken)
		h.ASToken, h.http.Transport = profileToken, inProcess{p}
		for _, test := range []struct {
			after time.Duration
			want  string
		}{{0, "nobody service"}, {59 * time.Second, "service"}, {time.Second, "nobody service"}, {59 * time.Second, "service"}} {
			time.Sleep(test.after)
			if _, err := h.DisplayName(t.Context(), thereID); err != nil {
				t.Error(err)
			}
			if got := p.forms(); got != test.want {
				t.Errorf("after %v more: asked as %s, want %s", test.after, got, test.want)
			}
		}
	})
}
