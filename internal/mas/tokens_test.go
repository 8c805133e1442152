// tokens_test.go owns the tests of the access token: one request for all that wait, and when it is dropped.

package mas

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	masplay "github.com/SmartMeshFoundation/matrix-regservice/e2e/mas"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tokensOf are those of a service that gives them out. What comes first is answered by first, where that is set.
func tokensOf(t *testing.T, is masplay.Settings, first http.HandlerFunc) (of *tokens, fetches *atomic.Int32) {
	t.Helper()
	const id, secret = "01J44RKQYM4G3TNVANTMTDYTX6", "the client's secret"
	service := masplay.New("example.org", id, secret, nil)
	service.Set(is)
	fetches = new(atomic.Int32)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if fetches.Add(1) == 1 && first != nil {
			first(w, r)
			return
		}
		service.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return &tokens{admin: homeserver.NewClient(server.URL, "example.org"), clientID: id, clientSecret: secret}, fetches
}

// A fetch that fails fails for all who wait for it, and for nobody after it.
func TestTokenFailsForAll(t *testing.T) {
	begun, release := make(chan bool), make(chan bool)
	tokens, fetches := tokensOf(t, masplay.Settings{}, func(w http.ResponseWriter, r *http.Request) {
		begun <- true
		<-release
		w.WriteHeader(http.StatusInternalServerError)
	})
	const waiting = 8
	failed := make(chan error, waiting)
	for i := range waiting {
		go func() {
			_, err := tokens.get(t.Context(), "")
			failed <- err
		}()
		if i == 0 {
			<-begun // the others find it under way, or the good one after it
		}
	}
	close(release)
	seen := map[*homeserver.Error]bool{}
	for range waiting {
		err := <-failed
		known, ok := errors.AsType[*homeserver.Error](err)
		if err != nil && (!ok || known.Fate != homeserver.NotCreated) {
			t.Errorf("got %v", err)
		}
		if ok && seen[known] {
			t.Error("two share one error, and each adds to its own what it was about")
		}
		seen[known] = true
	}
	if token, err := tokens.get(t.Context(), ""); err != nil || token == "" {
		t.Errorf("afterwards: got %v", err)
	}
	if got := fetches.Load(); got != 2 {
		t.Errorf("%d fetches, want 2", got)
	}
}

// A token is kept until shortly before it expires.
func TestTokenExpires(t *testing.T) {
	for _, test := range []struct{ lasts, kept time.Duration }{
		{300 * time.Second, 270 * time.Second},
		{40 * time.Second, 20 * time.Second},
		{2 * time.Second, time.Second},
	} {
		tokens, _ := tokensOf(t, masplay.Settings{TokenLasts: test.lasts}, nil)
		start := time.Now()
		_, kept, err := tokens.fetch(t.Context())
		if took := time.Since(start); err != nil || kept > test.kept || kept < test.kept-took {
			t.Errorf("%v: kept for %v, %v, want %v", test.lasts, kept, err, test.kept)
		}
	}
	for name, test := range map[string]struct {
		lasts time.Duration
		again bool
	}{"kept": {time.Hour, true}, "expired": {-time.Hour, false}} {
		tokens, _ := tokensOf(t, masplay.Settings{TokenLasts: test.lasts}, nil)
		first, err := tokens.get(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		if second, err := tokens.get(t.Context(), ""); err != nil || (second == first) != test.again {
			t.Errorf("%s: got the same token %v, %v", name, second == first, err)
		}
	}
}

// A token that was refused is fetched anew, once for all who were refused with it.
func TestTokenRefused(t *testing.T) {
	tokens, fetches := tokensOf(t, masplay.Settings{}, nil)
	first, err := tokens.get(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if second, err := tokens.get(t.Context(), first); err != nil || second == first {
			t.Errorf("got the refused token %v, %v", second == first, err)
		}
	}
	if got := fetches.Load(); got != 2 {
		t.Errorf("%d fetches, want 2", got)
	}
}
