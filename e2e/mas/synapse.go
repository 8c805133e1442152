// synapse.go owns the other half: a real Synapse that leaves its logins to the stand-in, and what is asked of it.

package mas

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"
)

// A Synapse is one whose homeserver.yaml has matrix_authentication_service, with this secret.
type Synapse struct {
	URL    string
	Secret string
}

// askTime is for one call.
const askTime = 10 * time.Second

// Available asks whether the homeserver lets the name be had. Its error is ErrRefused where the homeserver answers and
// does not say.
func (s Synapse) Available(localpart string) (bool, error) {
	status, errcode, err := s.ask(http.MethodGet, "is_localpart_available?localpart="+url.QueryEscape(localpart), nil)
	switch {
	case err != nil:
		return false, err
	case status == http.StatusOK:
		return true, nil
	case slices.Contains([]string{"M_INVALID_USERNAME", "M_USER_IN_USE", "M_EXCLUSIVE"}, errcode):
		return false, nil
	}
	return false, fmt.Errorf("%w: %d %s", ErrRefused, status, errcode)
}

// ErrRefused is that the homeserver answered what the service was not prepared for, as where it does not know the secret.
var ErrRefused = errors.New("the homeserver refused")

// Provision makes the user.
func (s Synapse) Provision(localpart, displayName string) error {
	body := map[string]string{"localpart": localpart}
	if displayName != "" {
		body["set_displayname"] = displayName
	}
	return s.must(http.MethodPost, "provision_user", body)
}

// AddDevice makes a device.
func (s Synapse) AddDevice(localpart, device string) error {
	return s.must(http.MethodPost, "upsert_device", map[string]string{"localpart": localpart, "device_id": device})
}

// Delete deactivates a user, and erases the profile.
func (s Synapse) Delete(localpart string) error {
	return s.must(http.MethodPost, "delete_user", map[string]any{"localpart": localpart, "erase": true})
}

func (s Synapse) must(method, path string, body any) error {
	status, _, err := s.ask(method, path, body)
	if err == nil && status/100 != 2 {
		err = fmt.Errorf("%s: the homeserver answers %d", path, status)
	}
	return err
}

func (s Synapse) ask(method, path string, body any) (status int, errcode string, err error) {
	payload, err := json.Marshal(body)
	if err != nil {
		return 0, "", err
	}
	req, err := http.NewRequest(method, s.URL+"/_synapse/mas/"+path, bytes.NewReader(payload))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Authorization", "Bearer "+s.Secret)
	req.Header.Set("Content-Type", "application/json")
	res, err := (&http.Client{Timeout: askTime}).Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	var said struct{ Errcode string }
	json.NewDecoder(res.Body).Decode(&said) // what is no error has none
	return res.StatusCode, said.Errcode, nil
}
