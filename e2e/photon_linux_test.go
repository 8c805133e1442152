// photon_linux_test.go owns a released Photon node as it is on the wire: plain HTTP, a connection for each call, its token in the
// query string, an address of its own. It reads no retry_after_ms.

package e2e

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
)

const (
	photonLogins   = 5 // times that it tries to log in, before it begins anew
	photonRoomTry  = 6 // times that it tries to join or make a room
	discoveryAlias = "photon_ropsten_discovery"
)

// counts are answers by what was asked and by status; 0 is none.
type counts struct {
	mu sync.Mutex
	by map[string]map[int]int
}

func (c *counts) add(what string, status int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.by == nil {
		c.by = map[string]map[int]int{}
	}
	if c.by[what] == nil {
		c.by[what] = map[int]int{}
	}
	c.by[what][status]++
}

// of counts the answers with the status, or all where it is 0: of what is named, or of all that was asked.
func (c *counts) of(status int, named ...string) (total int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for what, its := range c.by {
		if len(named) > 0 && !slices.Contains(named, what) {
			continue
		}
		for its, count := range its {
			if status == 0 || status == its {
				total += count
			}
		}
	}
	return total
}

func (c *counts) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var lines []string
	for what, its := range c.by {
		lines = append(lines, fmt.Sprintf("%s %v", what, its)) // fmt sorts maps
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// A photon is one such node.
type photon struct {
	*soakNode
	loginPassword string // its own, where none says otherwise
	server        string // where nodes reach the homeserver and the gateway
	token         string
	client        *http.Client
	answers       *counts
	sent          int
}

// newPhoton makes a node at the address of the number. Its server is to be set.
func newPhoton(t *testing.T, number int, answers *counts) *photon {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 1, byte(number/250), byte(1+number%250))}}
	client := &http.Client{Timeout: callTime, Transport: &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true}}
	return &photon{soakNode: newSoakNode(t), client: client, answers: answers}
}

// ask makes a call, and counts its answer under what.
func (p *photon) ask(ctx context.Context, what, method, path string, body any) (a Answer) {
	defer func() {
		if ctx.Err() == nil { // what was cut off at the end of a test says nothing
			p.answers.add(what, a.Status)
		}
	}()
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			panic(err) // a test's own
		}
		content = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, p.server+path, content)
	if err != nil {
		panic(err)
	}
	if p.token != "" {
		req.URL.RawQuery = "access_token=" + url.QueryEscape(p.token)
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := p.client.Do(req)
	if err != nil {
		return Answer{}
	}
	defer res.Body.Close()
	said, err := io.ReadAll(res.Body)
	if err != nil {
		return Answer{}
	}
	a = Answer{Body: string(said)}
	json.Unmarshal(said, &a) // what is not JSON has none of the fields
	a.Status = res.StatusCode
	return a
}

const photonClient = "/_matrix/client/r0/"

// login logs in, and registers where that is refused with 403. It tells whether the node is in.
func (p *photon) login(ctx context.Context) bool {
	p.token = ""
	if p.ask(ctx, "versions", http.MethodGet, versionsPath, nil).Status != http.StatusOK {
		return false
	}
	for range photonLogins {
		a := p.ask(ctx, "login", http.MethodPost, photonClient+"login", map[string]string{"type": "m.login.password", "user": p.Localpart, "password": cmp.Or(p.loginPassword, p.Password)})
		if a.Status == http.StatusOK {
			p.token = a.AccessToken
			return true
		}
		if a.Status == http.StatusForbidden && p.ask(ctx, "register", http.MethodPost, registerPath, p.Registration).Status != http.StatusOK {
			return false
		}
	}
	return false
}

// start is its start: it logs in, joins the discovery room, which the first one makes, and says that it is there.
func (p *photon) start(ctx context.Context, discoveryServer string) bool {
	if !p.login(ctx) || p.enter(ctx, discoveryAlias, discoveryServer) == "" {
		return false
	}
	return p.setPresence(ctx, "online")
}

func (p *photon) setPresence(ctx context.Context, presence string) bool {
	return p.ask(ctx, "presence", http.MethodPut, photonClient+"presence/"+url.PathEscape(p.userID)+"/status",
		map[string]string{"presence": presence, "status_msg": "other"}).Status == http.StatusOK
}

// stop is its end.
func (p *photon) stop(ctx context.Context) {
	p.setPresence(ctx, "offline")
	p.ask(ctx, "logout", http.MethodPost, photonClient+"logout", nil)
}

// enter joins the room of an alias, and makes it where that fails. It returns the room's ID, or nothing.
func (p *photon) enter(ctx context.Context, alias, server string, invited ...string) (room string) {
	for range photonRoomTry {
		a := p.ask(ctx, "join alias", http.MethodPost, photonClient+"join/"+url.PathEscape("#"+alias+":"+server), struct{}{})
		if a.Status == http.StatusOK {
			return roomOf(a)
		}
		if server != domain {
			return ""
		}
		p.makeRoom(ctx, alias, invited)
	}
	return roomOf(p.makeRoom(ctx, "", invited))
}

func (p *photon) makeRoom(ctx context.Context, alias string, invited []string) Answer {
	return p.ask(ctx, "createRoom", http.MethodPost, photonClient+"createRoom", struct {
		Alias  string   `json:"room_alias_name,omitempty"`
		Preset string   `json:"preset"`
		Invite []string `json:"invite,omitempty"`
	}{alias, "public_chat", invited})
}

func roomOf(a Answer) string {
	var said struct {
		RoomID string `json:"room_id"`
	}
	json.Unmarshal([]byte(a.Body), &said)
	return said.RoomID
}

// open makes the room of the channel with a partner, invites it, and has it join. It returns the room's ID where both are in.
func (p *photon) open(ctx context.Context, partner *photon) (room string) {
	p.ask(ctx, "user_directory", http.MethodPost, photonClient+"user_directory/search", map[string]string{"search_term": partner.Localpart})
	pair := []string{p.Localpart, partner.Localpart}
	slices.Sort(pair)
	if room = p.enter(ctx, "photon_ropsten_"+strings.Join(pair, "_"), domain, partner.userID); room == "" {
		return ""
	}
	p.ask(ctx, "account_data", http.MethodPut, photonClient+"user/"+url.PathEscape(p.userID)+"/account_data/network.photon.rooms", map[string]string{partner.Localpart: room})
	members := p.ask(ctx, "joined_members", http.MethodGet, photonClient+"rooms/"+url.PathEscape(room)+"/joined_members", nil)
	if !strings.Contains(members.Body, partner.userID) {
		p.ask(ctx, "invite", http.MethodPost, photonClient+"rooms/"+url.PathEscape(room)+"/invite", map[string]string{"user_id": partner.userID})
		if partner.ask(ctx, "join", http.MethodPost, photonClient+"join/"+url.PathEscape(room), struct{}{}).Status != http.StatusOK {
			return ""
		}
	}
	return room
}

// send sends a message into a room, and tells whether the homeserver took it.
func (p *photon) send(ctx context.Context, room string) bool {
	p.sent++
	path := fmt.Sprintf("%srooms/%s/send/m.room.message/%s-%d", photonClient, url.PathEscape(room), p.Localpart, p.sent)
	return p.ask(ctx, "send", http.MethodPut, path, map[string]string{"msgtype": "m.text", "body": "AAAA"}).Status == http.StatusOK
}
