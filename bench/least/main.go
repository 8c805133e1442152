// Command least registers nodes with the least that does it, on the same libraries: it reads the body, recovers two signers, makes two
// commits and the same calls to the homeserver. It has no routes, limits, log, metrics, and believes everybody. The benchmarks
// hold the program against it.
//
//	least DIRECTORY HOMESERVER SERVER_NAME SECRET [promises | mas]
//
// With promises it also does what the program promises besides, in the simplest way on the same libraries: a router, time limits, a
// look-up of the record, a line in the log, metrics. What it takes more for them is the floor of what the program may. With mas it
// makes the calls to Matrix Authentication Service, whose token is the SECRET.
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
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ant0ine/go-json-rest/rest"
	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/ethereum/go-ethereum/log"
	"github.com/prometheus/client_golang/prometheus"
	bolt "go.etcd.io/bbolt"
)

var (
	dir, homeserver, serverName, secret = os.Args[1], os.Args[2], os.Args[3], os.Args[4]

	promises = slices.Contains(os.Args[5:], "promises")
	atMAS    = slices.Contains(os.Args[5:], "mas")
	observed = prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "least"}, []string{"step"})

	client = http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 128}}
	db     *bolt.DB
)

func main() {
	debug.SetGCPercent(200) // as the program does
	var err error
	db, err = bolt.Open(filepath.Join(dir, "least.db"), 0o600, nil)
	check(err)
	check(db.Update(func(tx *bolt.Tx) error {
		_, err := tx.CreateBucket([]byte("pending"))
		_, err2 := tx.CreateBucket([]byte("registered"))
		return errors.Join(err, err2)
	}))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt)
	go func() { <-signals; os.Exit(0) }()
	_, err = daemon.SdNotify(false, "READY=1\nSTATUS=Serving nodes at "+listener.Addr().String())
	check(err)
	server := http.Server{Handler: http.HandlerFunc(answer)}
	if promises {
		log.SetDefault(log.NewLogger(log.NewTerminalHandler(os.Stderr, false)))
		router, err := rest.MakeRouter(rest.Post("/regapp/1/register", func(w rest.ResponseWriter, r *rest.Request) {
			start := time.Now()
			answer(w.(http.ResponseWriter), r.Request)
			log.Info("Registered node", "client", r.RemoteAddr, "took", time.Since(start))
		}))
		check(err)
		api := rest.NewApi()
		api.SetApp(router)
		server = http.Server{Handler: api.MakeHandler(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, IdleTimeout: time.Minute}
	}
	check(server.Serve(listener))
}

// observe times a step, as the program does.
func observe(step string, since time.Time) {
	if promises {
		observed.WithLabelValues(step).Observe(time.Since(since).Seconds())
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "least:", err)
		os.Exit(1)
	}
}

type registration struct{ Localpart, DisplayName, Password string }

type creation struct {
	Nonce        string `json:"nonce"`
	Username     string `json:"username"`
	DisplayName  string `json:"displayname"`
	Password     string `json:"password"`
	MAC          string `json:"mac"`
	Admin        bool   `json:"admin"`
	InhibitLogin bool   `json:"inhibit_login"`
}

func answer(w http.ResponseWriter, r *http.Request) {
	var n registration
	body, err := io.ReadAll(r.Body)
	if err == nil {
		err = json.Unmarshal(body, &n)
	}
	userID := "@" + n.Localpart + ":" + serverName
	_, nameSignature, _ := strings.Cut(n.DisplayName, "-")
	w.Header().Set("Content-Type", "application/json")
	if err != nil || !signed(serverName, n.Password, n.Localpart) || !signed(userID, nameSignature, n.Localpart) {
		w.WriteHeader(http.StatusBadRequest)
	} else if err := register(userID, n); err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
	} else {
		json.NewEncoder(w).Encode(struct {
			UserID     string `json:"user_id"`
			HomeServer string `json:"home_server"`
		}{userID, serverName})
	}
}

func signed(text, signature, localpart string) bool {
	raw, err := hex.DecodeString(signature)
	if err != nil || len(raw) != crypto.SignatureLength {
		return false
	}
	raw[crypto.RecoveryIDOffset] -= 27
	key, err := crypto.Ecrecover(crypto.Keccak256([]byte(text)), raw)
	return err == nil && common.BytesToAddress(crypto.Keccak256(key[1:])[12:]) == common.HexToAddress(localpart)
}

func register(userID string, n registration) error {
	if promises {
		start := time.Now()
		if err := db.View(func(tx *bolt.Tx) error {
			for _, bucket := range []string{"pending", "registered"} {
				if tx.Bucket([]byte(bucket)).Get(common.HexToAddress(n.Localpart).Bytes()) != nil {
					return errors.New("it is there")
				}
			}
			return nil
		}); err != nil {
			return err
		}
		observe("load", start)
	}
	first := func() error { return keep(n, userID, "pending", "registered") }
	create := createAtSynapse
	if atMAS {
		create = createAtMAS
	}
	if err := create(n, userID, first); err != nil {
		return err
	}
	return keep(n, userID, "registered", "pending")
}

const synapsePath = "/_synapse/admin/v1/register"

func createAtSynapse(n registration, userID string, keepFirst func() error) error {
	first := make(chan error, 1)
	go func() { first <- keepFirst() }() // while the nonce comes
	var given struct{ Nonce string }
	if err := errors.Join(call(http.MethodGet, synapsePath, nil, &given), <-first); err != nil {
		return err
	}
	mac := hmac.New(sha1.New, []byte(secret))
	io.WriteString(mac, strings.Join([]string{given.Nonce, n.Localpart, n.Password, "notadmin"}, "\x00"))
	var made struct {
		UserID string `json:"user_id"`
	}
	err := call(http.MethodPost, synapsePath, creation{given.Nonce, n.Localpart, n.DisplayName, n.Password, hex.EncodeToString(mac.Sum(nil)), false, true}, &made)
	if err != nil || made.UserID != userID {
		return fmt.Errorf("the homeserver made %q: %v", made.UserID, err)
	}
	return nil
}

func createAtMAS(n registration, _ string, keepFirst func() error) error {
	if err := keepFirst(); err != nil {
		return err
	}
	const users = "/api/admin/v1/users"
	var made struct{ Data struct{ ID string } }
	if err := call(http.MethodPost, users, map[string]any{"username": n.Localpart, "displayname": n.DisplayName}, &made); err != nil {
		return err
	}
	return call(http.MethodPost, users+"/"+made.Data.ID+"/set-password", map[string]any{"password": n.Password, "skip_password_check": true}, nil)
}

func call(method, path string, body, answer any) error {
	defer observe(method, time.Now())
	ctx := context.Background()
	if promises {
		limited, cancel := context.WithTimeout(ctx, 6*time.Second)
		defer cancel()
		ctx = limited
	}
	var sent io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return err
		}
		sent = bytes.NewReader(encoded)
	}
	req, err := http.NewRequestWithContext(ctx, method, homeserver+path, sent)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	if atMAS {
		req.Header.Set("Authorization", "Bearer "+secret)
	}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	said, err := io.ReadAll(res.Body)
	switch {
	case err != nil:
		return err
	case res.StatusCode/100 != 2:
		return fmt.Errorf("the homeserver answers %s", res.Status)
	case answer == nil:
		return nil
	}
	return json.Unmarshal(said, answer)
}

// keep writes the record into one bucket and removes it from the other.
func keep(n registration, userID, to, from string) error {
	now := time.Now().UTC()
	defer observe("save", now)
	record, err := json.Marshal(struct {
		Localpart, UserID, DisplayName, State string
		Created, Updated                      time.Time
	}{n.Localpart, userID, n.DisplayName, to, now, now})
	if err != nil {
		return err
	}
	key := common.HexToAddress(n.Localpart).Bytes()
	return commit(func(tx *bolt.Tx) error {
		return errors.Join(tx.Bucket([]byte(from)).Delete(key), tx.Bucket([]byte(to)).Put(key, record))
	})
}

// A change waits for its turn: to commit those that wait, or that one of them did.
type change struct {
	do   func(*bolt.Tx) error
	turn chan bool
	err  error
}

var (
	mu         sync.Mutex
	queue      []*change
	committing bool
)

// commit shares a commit among those that come while one waits for the disk, as the program does.
func commit(do func(*bolt.Tx) error) error {
	c := &change{do: do, turn: make(chan bool, 1)}
	mu.Lock()
	queue = append(queue, c)
	first := !committing
	committing = true
	mu.Unlock()
	if !first && !<-c.turn {
		return c.err
	}
	runtime.Gosched() // as the program does
	mu.Lock()
	group := queue
	queue = nil
	mu.Unlock()
	c.err = db.Update(func(tx *bolt.Tx) (err error) {
		for _, each := range group {
			err = errors.Join(err, each.do(tx))
		}
		return err
	})
	mu.Lock()
	if committing = len(queue) > 0; committing {
		queue[0].turn <- true
	}
	mu.Unlock()
	for _, each := range group[1:] {
		each.err = c.err
		each.turn <- false
	}
	return c.err
}
