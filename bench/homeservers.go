// homeservers.go measures what the gateway costs before a real homeserver: registrations through it, through the least that does
// it, and the same calls to the homeserver without either.

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
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e"
	"github.com/SmartMeshFoundation/matrix-regservice/e2e/daemon"
	"golang.org/x/crypto/bcrypt"
)

const (
	benchDomain = "bench.example"
	atOnce      = 8  // nodes
	rounds      = 12 // of each way, each first in turn: Synapse goes on working for those who registered before
)

// A subject is a homeserver that is measured.
type subject struct {
	recipe string
	rounds string // bcrypt_rounds of today's Synapse; the other is given hashes
	nodes  int    // in a round
}

var subjects = []subject{
	{recipe: "synapse-1.163.2", rounds: "4", nodes: 100},
	{recipe: "synapse-1.163.2", rounds: "12", nodes: 40},
	{recipe: "synapse-0.34.0", nodes: 150},
}

// A race is how many registrations a second each way made.
type race struct {
	title           string
	rate, without   float64
	through, leasts ratio
}

// A ratio is that of two ways in each round: its median, and its quartiles.
type ratio struct{ median, low, high float64 }

func ratioOf(values []float64) ratio {
	if len(values) == 0 {
		return ratio{}
	}
	slices.Sort(values)
	return ratio{values[len(values)/2], values[len(values)/4], values[len(values)*3/4]}
}

// runHomeservers measures each, and writes the table of all.
func runHomeservers(ctx context.Context, short bool) error {
	table := "| homeserver, 8 nodes at once | through the gateway | the same calls without it | ratio | half of the rounds | through the least |\n|---|---|---|---|---|---|\n"
	for _, s := range subjects {
		if short {
			s.nodes = atOnce
		}
		r, err := s.measure(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", s.recipe, err)
		}
		leasts := ""
		if r.leasts.median > 0 {
			leasts = format(r.leasts.median)
		}
		line := fmt.Sprintf("| %s | %s /s | %s /s | %s | %s to %s | %s |\n", r.title, format(r.rate), format(r.without),
			format(r.through.median), format(r.through.low), format(r.through.high), leasts)
		table += line
		fmt.Print(line)
	}
	if short {
		return nil
	}
	return intoDocument(map[string]string{"homeservers": taken() + "\n" + table})
}

// measure starts the homeserver with its gateway and has them race.
func (s subject) measure(ctx context.Context) (r race, err error) {
	recipe, err := e2e.RecipeNamed(s.recipe)
	if err != nil {
		return race{}, err
	}
	if err := recipe.Installed(ctx); err != nil {
		return race{}, err
	}
	dir, err := os.MkdirTemp("", "matrix-regservice-bench-")
	if err != nil {
		return race{}, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	d, err := e2e.Prepare(ctx, e2e.Plan{Recipe: recipe, Domain: benchDomain, Dir: dir, Flags: []string{"--rate-limit", "0", "--total-rate-limit", "0", "--verbosity", "3"}})
	if err != nil {
		return race{}, err
	}
	title := recipe.Title
	if s.rounds != "" {
		title += ", bcrypt_rounds " + s.rounds
		if err := setRounds(filepath.Join(d.Homeserver.Dir, "homeserver.yaml"), s.rounds); err != nil {
			return race{}, err
		}
	}
	if _, err := d.Genconfig(ctx); err != nil {
		return race{}, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	if err := d.Start(ctx); err != nil {
		return race{}, err
	}
	if err := waitSettled(ctx, d.Homeserver.LogFile); err != nil {
		return race{}, err
	}
	r, err = s.race(ctx, d)
	if err != nil {
		return race{}, fmt.Errorf("%w\n%s", err, d.LogTails())
	}
	r.title = title
	return r, nil
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

// race has each way register nodes in turn.
func (s subject) race(ctx context.Context, d *e2e.Deployment) (r race, err error) {
	creator, err := newCreator(d)
	if err != nil {
		return race{}, err
	}
	through := func(url string) func(*e2e.Node) error {
		return func(n *e2e.Node) error { return creator.registerThrough(ctx, url, n) }
	}
	ways := []func(*e2e.Node) error{func(n *e2e.Node) error { return creator.create(ctx, n) }, through(d.RegisterURL)}
	if !creator.createUser {
		url, end, err := startLeast(ctx, d.Homeserver)
		if err != nil {
			return race{}, err
		}
		defer end()
		ways = append(ways, through(url))
	}
	took := make([]time.Duration, len(ways))
	var throughs, leasts []float64
	for round := range rounds + 1 {
		nodes, err := s.newNodes(ctx, d, len(ways))
		if err != nil {
			return race{}, err
		}
		var now [3]time.Duration
		for i := range ways {
			way := (round + i) % len(ways)
			if now[way], err = eachAtOnce(nodes[way*s.nodes:][:s.nodes], ways[way]); err != nil {
				return race{}, err
			}
		}
		if round == 0 { // which warms all up
			continue
		}
		for way := range ways {
			took[way] += now[way]
		}
		throughs = append(throughs, now[0].Seconds()/now[1].Seconds())
		if len(ways) > 2 {
			leasts = append(leasts, now[0].Seconds()/now[2].Seconds())
		}
	}
	total := float64(rounds * s.nodes)
	return race{rate: total / took[1].Seconds(), without: total / took[0].Seconds(), through: ratioOf(throughs), leasts: ratioOf(leasts)}, nil
}

// startLeast builds and starts bench/least, and returns where it registers nodes.
func startLeast(ctx context.Context, h *e2e.Homeserver) (url string, end func(), err error) {
	dir, err := os.MkdirTemp("", "matrix-regservice-least-")
	if err != nil {
		return "", nil, err
	}
	binary := filepath.Join(dir, "least")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", binary, "./bench/least").CombinedOutput(); err != nil {
		return "", nil, errors.Join(fmt.Errorf("go build: %w\n%s", err, out), os.RemoveAll(dir))
	}
	cmd := exec.CommandContext(ctx, binary, dir, h.URL, benchDomain, h.SharedSecret)
	cmd.Stderr = os.Stderr
	notice, err := daemon.NewNotice(cmd)
	if err == nil {
		defer notice.Close()
		err = cmd.Start()
	}
	if err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	end = func() {
		cmd.Process.Kill()
		<-ended
		os.RemoveAll(dir)
	}
	address, _, err := notice.Wait(ended)
	if err != nil {
		end()
		return "", nil, err
	}
	return "http://" + address + daemon.RegisterPath, end, nil
}

// newNodes signs for a round of each way.
func (s subject) newNodes(ctx context.Context, d *e2e.Deployment, ways int) ([]*e2e.Node, error) {
	nodes := make([]*e2e.Node, ways*s.nodes)
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

// registerThrough registers a node as it registers itself, on a connection of its own. Where the homeserver was too slow to
// answer, which happens on a busy machine, its next try completes what was begun. The time that takes counts.
func (c *creator) registerThrough(ctx context.Context, url string, n *e2e.Node) error {
	for try := 1; ; try++ {
		status, said, err := c.send(ctx, http.MethodPost, url, "", n.Registration, true)
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
	status, said, err := c.send(ctx, method, c.url+path, token, body, false)
	if err == nil && status != want {
		err = fmt.Errorf("%s %s: got %d %s", method, path, status, said)
	}
	return said, err
}

// send makes one call, on a connection of its own or on a kept one, as the gateway does.
func (c *creator) send(ctx context.Context, method, url, token string, body any, ownConn bool) (status int, said []byte, err error) {
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
	req.Close = ownConn
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
