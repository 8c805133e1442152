// software_test.go owns the tests of recognizing the homeserver's software, which may change.

package homeserver

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestIsOldSynapse(t *testing.T) {
	for version, want := range map[string]bool{"0.99.4": true, "1.22.1": true, "1.23.0": false, "1.100.0": false, "2.0": false, "": false, "x": false} {
		if got := isOldSynapse(Software{Name: "Synapse", Version: version}); got != want {
			t.Errorf("%q: got %v, want %v", version, got, want)
		}
	}
	if isOldSynapse(Software{Name: "Dendrite", Version: "0.15.2"}) {
		t.Error("Dendrite 0.15.2 is taken for an old Synapse")
	}
}

// A changingHomeserver answers without a network, so that a test can wait for minutes. It creates each account that it is
// asked for.
type changingHomeserver struct {
	software, name string
	asked          []string // the last segments of the paths
	password       string   // of the last account
}

func (s *changingHomeserver) RoundTrip(r *http.Request) (*http.Response, error) {
	s.asked = append(s.asked, r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:])
	answer := any(map[string]string{"nonce": "abc"})
	switch {
	case r.URL.Path == versionPath:
		name, version, _ := strings.Cut(s.software, " ")
		answer = map[string]any{"server": map[string]string{"name": name, "version": version}}
	case r.URL.Path == keyPath:
		answer = map[string]string{"server_name": s.name}
	case strings.HasPrefix(r.URL.Path, profilePath):
		answer = map[string]string{"displayname": "shown"}
	case r.Method == http.MethodPost:
		var sent struct{ Username, Password string }
		if err := json.NewDecoder(r.Body).Decode(&sent); err != nil {
			return nil, err
		}
		s.password = sent.Password
		answer = map[string]string{"user_id": "@" + sent.Username + ":" + s.name}
	}
	body, err := json.Marshal(answer)
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(body)), Request: r}, err
}

// A homeserver that was found unfit is asked again each time, and one that was fit is after a while: another may be in its
// place, with another rule for passwords or under another name.
func TestSoftwareChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &changingHomeserver{software: "Synapse 1.22.1", name: "example.org"}
		h := NewClient("http://homeserver", "example.org")
		h.http.Transport = server
		api := NewSharedSecretAPI(h, h, "secret")
		n := Account{Localpart: "node", UserID: "@node:example.org", DisplayName: "shown", Password: strings.Repeat("0123456789", 13)}
		create := func() (asked string, err error) {
			server.asked = nil
			_, err = api.Create(t.Context(), n, false, func() error { return nil })
			return strings.Join(server.asked, " "), err
		}

		if asked, err := create(); err == nil || asked != "version" {
			t.Errorf("too old: got %v, asked %q", err, asked)
		}
		server.software = "Dendrite 0.15.2"
		if asked, err := create(); err != nil || asked != "version server register register" || server.password != n.Password[:BcryptLength] {
			t.Errorf("another in its place: got %v, asked %q, %d characters of the password", err, asked, len(server.password))
		}
		server.software = "Tuwunel 1.7.0"
		if asked, err := create(); err != nil || asked != "register register" {
			t.Errorf("at once: got %v, asked %q", err, asked)
		}
		time.Sleep(knownTime)
		if asked, err := create(); err != nil || asked != "version server register register displayname" || server.password != n.Password {
			t.Errorf("after a while: got %v, asked %q, %d characters of the password", err, asked, len(server.password))
		}
		server.name = "example.com"
		time.Sleep(knownTime)
		if asked, err := create(); err == nil || asked != "version server" {
			t.Errorf("under another name: got %v, asked %q", err, asked)
		}
	})
}
