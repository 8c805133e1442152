// linear_homeserver_test.go owns what is wrong with the homeserver in the tests of linearizability: it is slow, refuses now and
// then, and loses answers before and after it did what was asked.

package e2e

import (
	"bytes"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/standin"
)

// A linearHomeserver is a stand-in, and who asks it to create.
type linearHomeserver struct {
	*standin.Homeserver

	mu         sync.Mutex
	random     *rand.Rand
	faulty     bool
	leasesHold bool           // no gateway was frozen yet: one at a time has an account made for an address
	making     map[string]int // creating calls that are under way, by localpart
	crowded    []string       // localparts of more than one, while leases hold
}

func newLinearHomeserver(t *testing.T, random *rand.Rand) *linearHomeserver {
	t.Helper()
	h := &linearHomeserver{Homeserver: standin.New(t), random: random, leasesHold: true, making: make(map[string]int)}
	// A profile that is hidden, with 401 or 403, is not among the faults: then a registered node's account is asked for anew, and if
	// the answer to that is lost, the node is told 200 once more.
	for call, statuses := range map[string][]int{standin.Profile: {500, 429}, standin.Nonce: {503, 429}, standin.Register: {403, 500, 429}} {
		h.Fail(call, func(w http.ResponseWriter, r *http.Request) { h.badly(w, r, h.Right(call), statuses) })
	}
	return h
}

// setFaulty has it answer badly from now on, or well.
func (h *linearHomeserver) setFaulty(faulty bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.faulty = faulty
}

// leasesEnd says that from now on an attempt may find its lease over.
func (h *linearHomeserver) leasesEnd() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.leasesHold = false
}

// begin notes that a creating call for the address is under way, until the function that it returns is called.
func (h *linearHomeserver) begin(localpart string) (end func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.making[localpart]++; h.making[localpart] > 1 && h.leasesHold {
		h.crowded = append(h.crowded, localpart)
	}
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.making[localpart]--
	}
}

// A linearFault is what is wrong with an answer.
type linearFault int

const (
	faultNone linearFault = iota
	faultLost             // nothing is done, and the connection ends
	faultDone             // all is done, and the connection ends
	faultSays             // it answers with an error, and does nothing
)

// fault chooses how the next call of a node's registration goes, how long it takes, and a number for what else there is to
// choose.
func (h *linearHomeserver) fault() (fault linearFault, wait time.Duration, choice int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.faulty {
		return faultNone, 0, 0
	}
	wait, choice = time.Duration(h.random.IntN(20))*time.Millisecond, h.random.IntN(60)
	if h.random.IntN(4) == 0 {
		wait = time.Duration(h.random.IntN(300)) * time.Millisecond
	}
	switch n := h.random.IntN(100); {
	case n < 6:
		fault = faultLost
	case n < 14:
		fault = faultDone
	case n < 22:
		fault = faultSays
	}
	return fault, wait, choice
}

// badly answers with the handler, or as a fault has it: one says one of the statuses.
func (h *linearHomeserver) badly(w http.ResponseWriter, r *http.Request, right http.HandlerFunc, statuses []int) {
	fault, wait, choice := h.fault()
	content, err := io.ReadAll(r.Body)
	if err != nil {
		standin.Breaks(w, r)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(content))
	end := func() {}
	if r.Method == http.MethodPost {
		var body struct{ Username string }
		json.Unmarshal(content, &body)
		end = h.begin(body.Username)
	}
	time.Sleep(wait / 2)
	answer := standin.Breaks
	switch fault {
	case faultDone:
		right(httptest.NewRecorder(), r)
	case faultSays:
		answer = standin.Says(statuses[choice%len(statuses)], `{"errcode":"M_UNKNOWN","error":"a stand-in says so"}`)
	case faultNone:
		made := httptest.NewRecorder()
		right(made, r)
		time.Sleep(wait / 2)
		answer = standin.Says(made.Code, made.Body.String())
	}
	end() // before the caller can ask again
	answer(w, r)
}

// account returns the display name and the password of the user's account, and whether there is one.
func (h *linearHomeserver) account(userID string) (displayName, password string, there bool) {
	h.Mu.Lock()
	defer h.Mu.Unlock()
	displayName, there = h.Users[userID]
	return displayName, h.Whole[userID], there
}
