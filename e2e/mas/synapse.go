// synapse.go owns the other half: a real Synapse that leaves its logins to the stand-in, and what is asked of it.

package mas

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// A Synapse is one whose homeserver.yaml has matrix_authentication_service, with this secret.
type Synapse struct {
	URL    string
	Secret string
}

// askTime is for one call.
const askTime = 10 * time.Second

// Available asks whether the homeserver lets the name be had.
func (s Synapse) Available(localpart string) (bool, error) {
	status, err := s.ask(http.MethodGet, "is_localpart_available?localpart="+url.QueryEscape(localpart), nil)
	if err != nil {
		return false, err
	}
	if status/100 == 5 {
		return false, fmt.Errorf("the homeserver answers %d", status)
	}
	return status == http.StatusOK, nil
}

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
	status, err := s.ask(method, path, body)
	if err == nil && status/100 != 2 {
		err = fmt.Errorf("%s: the homeserver answers %d", path, status)
	}
	return err
}

func (s Synapse) ask(method, path string, body any) (status int, err error) {
	payload, err := json.Marshal(body)
	if err != nil {
		return 0, err
	}
	req, err := http.NewRequest(method, s.URL+"/_synapse/mas/"+path, bytes.NewReader(payload))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+s.Secret)
	req.Header.Set("Content-Type", "application/json")
	res, err := (&http.Client{Timeout: askTime}).Do(req)
	if err != nil {
		return 0, err
	}
	res.Body.Close()
	return res.StatusCode, nil
}
