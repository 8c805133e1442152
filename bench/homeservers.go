// homeservers.go measures what the gateway costs before a real homeserver: registrations through it, and the same calls
// to the homeserver without it.

package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e"
	"golang.org/x/crypto/bcrypt"
)

const (
	benchDomain = "bench.example"
	atOnce      = 8 // nodes
	rounds      = 8 // of each way, either first in turn: Synapse goes on working for those who registered before
)

// A subject is a homeserver that is measured.
type subject struct {
	recipe string
	rounds string // bcrypt_rounds of today's Synapse; the other is given hashes
	nodes  int    // in a round
	least  float64
}

var subjects = []subject{
	{recipe: "synapse-1.163.2", rounds: "4", nodes: 200, least: .9},
	{recipe: "synapse-1.163.2", rounds: "12", nodes: 40},
	{recipe: "synapse-0.34.0", nodes: 150},
}

// runHomeservers measures each, and writes the table of all.
func runHomeservers(ctx context.Context, short bool) error {
	table := "| homeserver, 8 nodes at once | through the gateway | the same calls without it | ratio | target | reached |\n|---|---|---|---|---|---|\n"
	for _, s := range subjects {
		if short {
			s.nodes = atOnce
		}
		line, err := s.measure(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", s.recipe, err)
		}
		table += line
		fmt.Print(line)
	}
	if short {
		return nil
	}
	return intoDocument(map[string]string{"homeservers": taken() + "\n" + table})
}

// measure starts the homeserver with its gateway and returns its line of the table.
func (s subject) measure(ctx context.Context) (line string, err error) {
	recipe, err := e2e.RecipeNamed(s.recipe)
	if err != nil {
		return "", err
	}
	if err := recipe.Installed(ctx); err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "matrix-regservice-bench-")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	d, err := e2e.Prepare(ctx, e2e.Plan{Recipe: recipe, Domain: benchDomain, Dir: dir, Flags: []string{"--rate-limit", "0", "--total-rate-limit", "0", "--verbosity", "3"}})
	if err != nil {
		return "", err
	}
	title := recipe.Title
	if s.rounds != "" {
		title += ", bcrypt_rounds " + s.rounds
		if err := setRounds(filepath.Join(d.Homeserver.Dir, "homeserver.yaml"), s.rounds); err != nil {
			return "", err
		}
	}
	if _, err := d.Genconfig(ctx); err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	if err := d.Start(ctx); err != nil {
		return "", err
	}
	if err := waitSettled(ctx, d.Homeserver.LogFile); err != nil {
		return "", err
	}
	through, without, err := s.race(ctx, d)
	if err != nil {
		return "", fmt.Errorf("%w\n%s", err, d.LogTails())
	}
	reach, kept := "", ""
	if s.least > 0 {
		reach, kept = "at least "+format(s.least), mark(through/without >= s.least)
	}
	return fmt.Sprintf("| %s | %s /s | %s /s | %s | %s | %s |\n", title, format(through), format(without), format(through/without), reach, kept), nil
}

var roundsLine = regexp.MustCompile(`(?m)^bcrypt_rounds: .*$`)

func setRounds(path, rounds string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if !roundsLine.Match(content) {
		return fmt.Errorf("%s has no bcrypt_rounds", path)
	}
	return os.WriteFile(path, roundsLine.ReplaceAll(content, []byte("bcrypt_rounds: "+rounds)), 0o600)
}

// settledLine is what Synapse logs when it has brought a new database up to date, which takes it some seconds.
const settledLine = "No more background updates to do"

func waitSettled(ctx context.Context, log string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	for {
		content, err := os.ReadFile(log)
		if err != nil || bytes.Contains(content, []byte(settledLine)) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the homeserver does not log %q: %w", settledLine, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// race returns how many registrations a second either way makes.
func (s subject) race(ctx context.Context, d *e2e.Deployment) (through, without float64, err error) {
	creator, err := newCreator(d)
	if err != nil {
		return 0, 0, err
	}
	var tookThrough, tookWithout time.Duration
	for round := range rounds + 1 {
		nodes, err := s.newNodes(ctx, d)
		if err != nil {
			return 0, 0, err
		}
		direct := func() error {
			took, err := eachAtOnce(nodes[:s.nodes], func(n *e2e.Node) error { return creator.create(ctx, n) })
			tookWithout += took
			return err
		}
		passed := func() error {
			took, err := eachAtOnce(nodes[s.nodes:], func(n *e2e.Node) error { return creator.registerThrough(ctx, d.RegisterURL, n) })
			tookThrough += took
			return err
		}
		if round%2 == 0 {
			direct, passed = passed, direct
		}
		if err := errors.Join(direct(), passed()); err != nil {
			return 0, 0, err
		}
		if round == 0 { // which warms both up
			tookThrough, tookWithout = 0, 0
		}
	}
	total := float64(rounds * s.nodes)
	return total / tookThrough.Seconds(), total / tookWithout.Seconds(), nil
}

// newNodes signs for two rounds, one for each way.
func (s subject) newNodes(ctx context.Context, d *e2e.Deployment) ([]*e2e.Node, error) {
	nodes := make([]*e2e.Node, 2*s.nodes)
	places := make([]**e2e.Node, len(nodes))
	for i := range nodes {
		places[i] = &nodes[i]
	}
	_, err := eachAtOnce(places, func(n **e2e.Node) (err error) {
		*n, err = d.NewNode(ctx)
		return err
	})
	return nodes, err
}

// eachAtOnce does something for each, for as many at once as are measured, and returns how long all took.
func eachAtOnce[T any](all []T, do func(T) error) (time.Duration, error) {
	queue, errs := make(chan T, len(all)), make(chan error, atOnce)
	for _, one := range all {
		queue <- one
	}
	close(queue)
	start := time.Now()
	var workers sync.WaitGroup
	for range atOnce {
		workers.Go(func() {
			for one := range queue {
				if err := do(one); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	workers.Wait()
	close(errs)
	return time.Since(start), <-errs
}

// A creator makes the calls that the gateway makes, and nothing else of what it does.
type creator struct {
	url, secret, asToken string
	createUser           bool
	http                 *http.Client
}

var asTokenLine = regexp.MustCompile(`(?m)^as_token: (\S+)$`)

func newCreator(d *e2e.Deployment) (*creator, error) {
	registration, err := os.ReadFile(filepath.Join(d.Gateway.Dir, "registration.yaml"))
	if err != nil {
		return nil, err
	}
	token := asTokenLine.FindSubmatch(registration)
	if token == nil {
		return nil, errors.New("registration.yaml does not hold an as_token")
	}
	return &creator{
		url: d.Homeserver.URL, secret: d.Homeserver.SharedSecret, asToken: string(token[1]), createUser: d.Homeserver.Name == "synapse-0.34.0",
		http: &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: atOnce}},
	}, nil
}

func (c *creator) create(ctx context.Context, n *e2e.Node) error {
	if c.createUser {
		hash, err := bcrypt.GenerateFromPassword([]byte(n.Password[:72]), bcrypt.MinCost)
		if err != nil {
			return err
		}
		if _, err := c.call(ctx, http.MethodGet, "/_matrix/client/r0/profile/"+url.PathEscape(n.UserID)+"/displayname", http.StatusNotFound, nil); err != nil {
			return err
		}
		_, err = c.call(ctx, http.MethodPost, e2e.CreateUserPath, http.StatusOK, map[string]any{"localpart": n.Localpart, "displayname": n.DisplayName, "password_hash": string(hash)})
		return err
	}
	said, err := c.call(ctx, http.MethodGet, e2e.SharedSecretPath, http.StatusOK, nil)
	if err != nil {
		return err
	}
	var given struct{ Nonce string }
	if err := json.Unmarshal(said, &given); err != nil {
		return err
	}
	mac := hmac.New(sha1.New, []byte(c.secret))
	io.WriteString(mac, strings.Join([]string{given.Nonce, n.Localpart, n.Password, "notadmin"}, "\x00"))
	_, err = c.call(ctx, http.MethodPost, e2e.SharedSecretPath, http.StatusOK, map[string]any{
		"nonce": given.Nonce, "username": n.Localpart, "displayname": n.DisplayName, "password": n.Password,
		"admin": false, "mac": hex.EncodeToString(mac.Sum(nil)), "inhibit_login": true,
	})
	return err
}

// registerThrough registers a node as it registers itself, but on a kept connection. Where the homeserver was too slow to
// answer, which happens on a busy machine, its next try completes what was begun. The time that takes counts.
func (c *creator) registerThrough(ctx context.Context, url string, n *e2e.Node) error {
	for try := 1; ; try++ {
		status, said, err := c.send(ctx, http.MethodPost, url, "", n.Registration)
		switch {
		case err != nil:
			return err
		case status == http.StatusOK:
			return nil
		case status != http.StatusBadGateway || try == 3:
			return fmt.Errorf("register: got %d %s", status, said)
		}
	}
}

// call makes one call to the homeserver, and wants this status.
func (c *creator) call(ctx context.Context, method, path string, want int, body any) ([]byte, error) {
	token := ""
	if c.createUser && body != nil {
		token = c.asToken
	}
	status, said, err := c.send(ctx, method, c.url+path, token, body)
	if err == nil && status != want {
		err = fmt.Errorf("%s %s: got %d %s", method, path, status, said)
	}
	return said, err
}

// send makes one call on a kept connection, as the gateway does.
func (c *creator) send(ctx context.Context, method, url, token string, body any) (status int, said []byte, err error) {
	var payload io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return 0, nil, err
		}
		payload = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, url, payload)
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	said, err = io.ReadAll(res.Body)
	return res.StatusCode, said, err
}
