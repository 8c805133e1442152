// node.go owns the node's side: a key of the program's own making, and the calls of a Matrix client that tests need.

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"time"
)

// callTime bounds one call: longer than the gateway may take over an answer.
const callTime = time.Minute

// A Node is one Photon node.
type Node struct {
	UserID  string
	KeyFile string
	Registration

	deployment *Deployment
}

// A Registration is what a node sends, as `register --print` prints it.
type Registration struct {
	Localpart   string `json:"localpart"`
	DisplayName string `json:"displayname"`
	Password    string `json:"password"`
}

// An Answer is what a server said: the status, the body, and of that what tests look at.
type Answer struct {
	Status int    `json:"-"`
	Body   string `json:"-"`

	Errcode     string `json:"errcode"`
	Message     string `json:"error"`
	UserID      string `json:"user_id"`
	HomeServer  string `json:"home_server"`
	AccessToken string `json:"access_token"`
	DisplayName string `json:"displayname"`
	Session     string `json:"session"`
}

// NewNode makes a node with a key of its own. The program signs for it.
func (d *Deployment) NewNode(ctx context.Context) (*Node, error) {
	d.mu.Lock()
	d.nodes++
	n := &Node{KeyFile: filepath.Join(d.Dir, fmt.Sprintf("node%d.key", d.nodes)), deployment: d}
	d.mu.Unlock()

	out, err := d.Program.mustRun(ctx, d.Dir, "register", "--matrixdomain", d.Domain, "--generate", n.KeyFile, "--print")
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal([]byte(out), &n.Registration); err != nil {
		return nil, fmt.Errorf("what register --print prints: %w", err)
	}
	n.UserID = "@" + n.Localpart + ":" + d.Domain
	d.AddSecret("password", n.Password)
	_, signature, _ := strings.Cut(n.DisplayName, "-")
	d.AddSecret("signature in a display name", signature)
	return n, nil
}

// Register registers the node where nodes do.
func (n *Node) Register(ctx context.Context) (Answer, error) {
	return n.RegisterAt(ctx, n.deployment.RegisterURL)
}

// RegisterAt registers the node at another URL. It tries again, as nodes do, while the homeserver takes longer than the gateway
// waits for it, which on a machine without time is nobody's fault.
func (n *Node) RegisterAt(ctx context.Context, url string) (Answer, error) {
	deadline := time.Now().Add(startTime)
	for {
		a, err := n.deployment.call(ctx, http.MethodPost, url, "", n.Registration)
		if err != nil || !tookTooLong(a.Message) || time.Now().After(deadline) {
			return a, err
		}
	}
}

// tookTooLong reports whether the service said so of its homeserver.
func tookTooLong(said string) bool {
	return strings.Contains(said, "the homeserver did not answer in time")
}

// Login logs the node in.
func (n *Node) Login(ctx context.Context) (Answer, error) { return n.LoginWith(ctx, n.Password) }

// LoginWith logs the node in with another password than its own.
func (n *Node) LoginWith(ctx context.Context, password string) (Answer, error) {
	return n.client(ctx, http.MethodPost, "login", "", map[string]string{
		"type": "m.login.password", "user": n.Localpart, "password": password,
	})
}

// WhoAmI asks whose session an access token is.
func (n *Node) WhoAmI(ctx context.Context, token string) (Answer, error) {
	return n.client(ctx, http.MethodGet, "account/whoami", token, nil)
}

// DisplayNameOf reads the display name of another node, with this one's session.
func (n *Node) DisplayNameOf(ctx context.Context, token, userID string) (Answer, error) {
	return n.client(ctx, http.MethodGet, "profile/"+url.PathEscape(userID)+"/displayname", token, nil)
}

// Find looks for users in the homeserver's directory; the answer's body lists them.
func (n *Node) Find(ctx context.Context, token, term string) (Answer, error) {
	return n.client(ctx, http.MethodPost, "user_directory/search", token, map[string]string{"search_term": term})
}

// Deactivate ends the node's account for good, which the homeserver lets its owner do who gives the password once
// more.
func (n *Node) Deactivate(ctx context.Context, token string) (Answer, error) {
	first, err := n.client(ctx, http.MethodPost, "account/deactivate", token, struct{}{})
	if err != nil || first.Status != http.StatusUnauthorized {
		return first, err
	}
	return n.client(ctx, http.MethodPost, "account/deactivate", token, map[string]any{"auth": map[string]any{
		"type": "m.login.password", "session": first.Session, "password": n.Password,
		"user": n.UserID, "identifier": map[string]string{"type": "m.id.user", "user": n.UserID},
	}})
}

// client makes a call of the client-server API.
func (n *Node) client(ctx context.Context, method, path, token string, body any) (Answer, error) {
	return n.deployment.call(ctx, method, n.deployment.NodeURL+"/_matrix/client/r0/"+path, token, body)
}

// call makes a call and notes the session that it may have opened.
func (d *Deployment) call(ctx context.Context, method, url, token string, body any) (Answer, error) {
	a, err := call(ctx, method, url, token, body)
	d.AddSecret("access token", a.AccessToken)
	return a, err
}

// call makes one call with a JSON body, or none where it is nil.
func call(ctx context.Context, method, url, token string, body any) (Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	var payload io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return Answer{}, err
		}
		payload = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, url, payload)
	if err != nil {
		return Answer{}, err
	}
	req.Close = true // nodes send Connection: close
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return Answer{}, err
	}
	defer res.Body.Close()
	content, err := io.ReadAll(res.Body)
	if err != nil {
		return Answer{}, err
	}
	a := Answer{Status: res.StatusCode, Body: string(content)}
	json.Unmarshal(content, &a) // what is not JSON has none of the fields, and the body to be seen
	return a, nil
}
