// linear_model_test.go owns what a register of one address is, for a checker of linearizability, and the history of calls
// that it is held against.
//
// The register is what all gateways together keep of one address: none, pending or done.
//
// Linearizable is what a node and the homeserver are told of it. Each call takes effect at one moment between its start and
// its end, whichever gateway it went to, whatever was killed, frozen or promoted meanwhile:
//   - A registration that is answered 200 finds none or pending and leaves done. There is one such answer.
//   - One that is answered 409 finds done.
//   - One that is refused, with 429 or 502, leaves done as it is, and of none at most pending.
//   - One without an answer, or answered 503, may have done any of that, or nothing, at any time from its start on.
//   - The homeserver's question for a user, which reads the record without claiming the address, is answered 200 where it is
//     done and 404 where it is not.
//   - After a failover to a synchronous standby nothing of that is lost.
//
// Not linearizable, and not claimed to be, is:
//   - Pending as such. An attempt writes it at its start and may take it back at its end, so that a reader of the
//     table sees it come and go. It is held against the model when no attempt runs.
//   - The calls to the homeserver: a gateway that was frozen beyond its lease may still send one that it had begun. They are
//     counted: one account was made, of this node's.
//   - The question for a user while the standby does not follow: a commit that gave up waiting for it can be read already, and
//     is lost if the standby is promoted then. Nor is it while a former primary still answers that does not know of its end.
//   - A node whose profile the homeserver hides. Its account is asked for anew, and if the answer to that is lost the node is told
//     200 once more. The stand-in hides none.
//   - Anything after a failover to an asynchronous standby. Then a register may go back: that is a step of its own, lost.

package e2e

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// A register is what is kept of an address.
type register string

const (
	regNone    register = "none"
	regPending register = "pending"
	regDone    register = "done"
)

// A linearCall is what is asked of a register.
type linearCall string

const (
	callRegister linearCall = "register"
	callUser     linearCall = "ask for the user"
	callRead     linearCall = "read the record" // while no attempt runs
	callLose     linearCall = "lose"            // a failover to a standby that did not have all
)

// A linearAnswer is what came of a call.
type linearAnswer string

const (
	saidAcknowledged linearAnswer = "acknowledged"
	saidTaken        linearAnswer = "taken"
	saidRefused      linearAnswer = "refused"
	saidNothing      linearAnswer = "nothing" // or that the store failed
	saidThere        linearAnswer = "there"
	saidNotThere     linearAnswer = "not there"
)

// A linearInput is a call to the register of one address.
type linearInput struct {
	Address string
	Call    linearCall
	Late    bool // a pending record may have been reconciled by the end of the call
}

// reconciledFrom is the age from which a pending record may be reconciled: the gateway's minute, less what clocks and answers take.
const reconciledFrom = 55 * time.Second

// registerModel is the sequential specification. Its states are what the register may be.
var registerModel = porcupine.NondeterministicModel{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		of := make(map[string][]porcupine.Operation)
		for _, op := range history {
			address := op.Input.(linearInput).Address
			of[address] = append(of[address], op)
		}
		var parts [][]porcupine.Operation
		for _, part := range of {
			parts = append(parts, part)
		}
		return parts
	},
	Init: func() []any { return []any{regNone} },
	Step: func(before, input, output any) []any {
		in := input.(linearInput)
		from := []register{before.(register)}
		if in.Late && before == regPending {
			from = []register{regNone, regPending, regDone}
		}
		var after []any
		for _, from := range from {
			for _, to := range step(from, in.Call, output) {
				after = append(after, to)
			}
		}
		return after
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%s: %v", input.(linearInput).Call, output) },
}

// step is what the register may be after the call, and nothing where it cannot have been answered so.
func step(before register, call linearCall, output any) []register {
	switch call {
	case callRead:
		if before == output.(register) {
			return []register{before}
		}
		return nil
	case callLose:
		return map[register][]register{
			regNone: {regNone}, regPending: {regPending, regNone}, regDone: {regDone, regPending, regNone},
		}[before]
	}
	isDone := before == regDone
	switch output.(linearAnswer) {
	case saidAcknowledged:
		if !isDone {
			return []register{regDone}
		}
	case saidTaken, saidThere:
		if isDone {
			return []register{before}
		}
	case saidNotThere:
		if !isDone {
			return []register{before}
		}
	case saidRefused:
		if before == regNone {
			return []register{regNone, regPending}
		}
		return []register{before}
	case saidNothing:
		if !isDone {
			return []register{before, regPending, regDone}
		}
		return []register{before}
	}
	return nil
}

// A linearHistory is all calls of a run, on one clock.
type linearHistory struct {
	start time.Time

	mu    sync.Mutex
	ops   []linearOp
	first map[string]int64 // call to each address
}

// A linearOp is a call that has ended, or was given up.
type linearOp struct {
	porcupine.Operation
	gateway int
	status  int // 0 where there was no answer
}

func newLinearHistory() *linearHistory {
	return &linearHistory{start: time.Now(), first: make(map[string]int64)}
}

func (h *linearHistory) now() int64 { return int64(time.Since(h.start)) }

// add notes a call that began at this time and ends now.
func (h *linearHistory) add(client, gateway int, address string, call linearCall, began int64, status int, output any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	ends := h.now()
	if _, known := h.first[address]; !known {
		h.first[address] = began
	}
	h.ops = append(h.ops, linearOp{gateway: gateway, status: status, Operation: porcupine.Operation{
		ClientId: client, Call: began, Return: ends, Output: output,
		Input: linearInput{Address: address, Call: call, Late: time.Duration(ends-h.first[address]) >= reconciledFrom},
	}})
}

// lose notes that a failover may have lost what there is, between this time and now.
func (h *linearHistory) lose(began int64) {
	h.mu.Lock()
	addresses := slices.Collect(maps.Keys(h.first))
	h.mu.Unlock()
	for _, address := range addresses {
		h.add(0, -1, address, callLose, began, 0, nil)
	}
}

// acknowledged is how many registrations were, of the address, or of all for "".
func (h *linearHistory) acknowledged(address string) (count int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, op := range h.ops {
		if op.Output == saidAcknowledged && (address == "" || op.Input.(linearInput).Address == address) {
			count++
		}
	}
	return count
}

// operations is the history as the checker takes it. What came of an unanswered call may come at any time after it, up to the
// next moment at which no attempt ran; so of all that were made between two such moments, or between two losses, the first alone
// can stand for whatever any of them did, and the checker need not try them all. Losses can be left out, as if there were none.
func (h *linearHistory) operations(losses bool) []porcupine.Operation {
	h.mu.Lock()
	defer h.mu.Unlock()
	ops := slices.DeleteFunc(slices.Clone(h.ops), func(op linearOp) bool { return !losses && op.Input.(linearInput).Call == callLose })
	slices.SortStableFunc(ops, func(a, b linearOp) int { return int(a.Call - b.Call) })
	unanswered := make(map[string]int) // place in all of the one that stands for the address's others
	var all []porcupine.Operation
	for _, op := range ops {
		in := op.Input.(linearInput)
		switch {
		case in.Call == callRead || in.Call == callLose:
			if i, waits := unanswered[in.Address]; waits && in.Call == callRead {
				all[i].Return = op.Call - 1 // times that are equal are taken for the same moment
			}
			delete(unanswered, in.Address)
		case op.Output == saidNothing:
			if _, waits := unanswered[in.Address]; waits {
				continue
			}
			unanswered[in.Address] = len(all)
			op.Return, in.Late = int64(time.Duration(1<<62)), false
			op.Input = in
		}
		all = append(all, op.Operation)
	}
	return all
}

// checkTime is what the checker may take over the histories of all addresses, which is a matter of milliseconds.
const checkTime = 2 * time.Minute

// verdict holds the history against the model. A checker that does not come to an end has found nothing out, which is an
// error.
func verdict(history []porcupine.Operation, limit time.Duration) (illegal []string, err error) {
	model := registerModel.ToModel()
	for _, part := range registerModel.Partition(history) {
		address := part[0].Input.(linearInput).Address
		switch porcupine.CheckOperationsTimeout(model, part, limit) {
		case porcupine.Ok:
		case porcupine.Illegal:
			illegal = append(illegal, address)
		default:
			return nil, fmt.Errorf("the checker did not come to an end with the %d calls to %s within %v: nothing was found out", len(part), address, limit)
		}
	}
	slices.Sort(illegal)
	return illegal, nil
}

// describe is the history of one address, for a person who looks for the fault.
func (h *linearHistory) describe(address string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var lines []string
	for _, op := range h.ops {
		if in := op.Input.(linearInput); in.Address == address {
			lines = append(lines, fmt.Sprintf("  %9.3fs to %9.3fs, client %d, gateway %d: %s: %d, %v",
				time.Duration(op.Call).Seconds(), time.Duration(op.Return).Seconds(), op.ClientId, op.gateway, in.Call, op.status, op.Output))
		}
	}
	return address + "\n" + strings.Join(lines, "\n")
}

// meaning is what an answer to the call says, "" where it says nothing of the register.
func meaning(call linearCall, status int) linearAnswer {
	if call == callUser {
		switch status {
		case http.StatusOK:
			return saidThere
		case http.StatusNotFound:
			return saidNotThere
		}
		return ""
	}
	switch status {
	case http.StatusOK:
		return saidAcknowledged
	case http.StatusConflict:
		return saidTaken
	case http.StatusTooManyRequests, http.StatusBadGateway:
		return saidRefused
	}
	return saidNothing
}

// The model tells right histories from wrong ones.
func TestRegisterModel(t *testing.T) {
	type call struct {
		from, to int64
		call     linearCall
		output   any
	}
	for name, test := range map[string]struct {
		calls []call
		legal bool
	}{
		"one is acknowledged, the next is taken": {[]call{{0, 1, callRegister, saidAcknowledged}, {2, 3, callRegister, saidTaken}}, true},
		"two are acknowledged":                   {[]call{{0, 1, callRegister, saidAcknowledged}, {2, 3, callRegister, saidAcknowledged}}, false},
		"two at once are acknowledged":           {[]call{{0, 5, callRegister, saidAcknowledged}, {1, 4, callRegister, saidAcknowledged}}, false},
		"taken, and nobody was there":            {[]call{{0, 1, callRegister, saidTaken}}, false},
		"taken by one that is still under way":   {[]call{{0, 9, callRegister, saidAcknowledged}, {1, 2, callRegister, saidTaken}}, true},
		"taken by one that was not answered":     {[]call{{0, 1, callRegister, saidNothing}, {2, 3, callRegister, saidTaken}}, true},
		"taken by one that was refused":          {[]call{{0, 1, callRegister, saidRefused}, {2, 3, callRegister, saidTaken}}, false},
		"unanswered, and then acknowledged":      {[]call{{0, 1, callRegister, saidNothing}, {2, 3, callRegister, saidAcknowledged}}, true},
		"unanswered is late":                     {[]call{{0, 1, callRegister, saidNothing}, {2, 3, callUser, saidNotThere}, {4, 5, callUser, saidThere}}, true},
		"unanswered ends when nothing runs":      {[]call{{0, 1, callRegister, saidNothing}, {2, 3, callRead, regNone}, {4, 5, callUser, saidThere}}, false},
		"unanswered leaves pending":              {[]call{{0, 1, callRegister, saidNothing}, {2, 3, callRead, regPending}}, true},
		"several unanswered, one after the end":  {[]call{{0, 1, callRegister, saidNothing}, {2, 3, callRegister, saidNothing}, {4, 5, callRead, regNone}, {6, 7, callRegister, saidNothing}, {8, 9, callUser, saidThere}}, true},
		"refused leaves pending":                 {[]call{{0, 1, callRegister, saidRefused}, {2, 3, callRead, regPending}}, true},
		"a question leaves nothing":              {[]call{{0, 1, callUser, saidNotThere}, {2, 3, callRead, regPending}}, false},
		"lost after it was acknowledged":         {[]call{{0, 1, callRegister, saidAcknowledged}, {2, 3, callUser, saidNotThere}}, false},
		"there, and then not":                    {[]call{{0, 9, callRegister, saidNothing}, {1, 2, callUser, saidThere}, {3, 4, callUser, saidNotThere}}, false},
		"an old state is read":                   {[]call{{0, 1, callRegister, saidAcknowledged}, {2, 3, callRead, regPending}}, false},
		"a failover that loses":                  {[]call{{0, 1, callRegister, saidAcknowledged}, {2, 3, callLose, nil}, {4, 5, callRegister, saidAcknowledged}, {6, 7, callRegister, saidTaken}}, true},
		"a failover that loses once":             {[]call{{0, 1, callRegister, saidAcknowledged}, {2, 3, callLose, nil}, {4, 5, callRegister, saidAcknowledged}, {6, 7, callRegister, saidAcknowledged}}, false},
		"pending is reconciled":                  {[]call{{0, 1, callRegister, saidRefused}, {int64(reconciledFrom), int64(reconciledFrom) + 1, callUser, saidThere}}, true},
		"pending is reconciled too early":        {[]call{{0, 1, callRegister, saidRefused}, {2, 3, callUser, saidThere}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			h := newLinearHistory()
			for i, c := range test.calls {
				h.ops = append(h.ops, linearOp{Operation: porcupine.Operation{ClientId: i, Call: c.from, Return: c.to, Output: c.output,
					Input: linearInput{Address: "0x1", Call: c.call, Late: time.Duration(c.to) >= reconciledFrom}}})
			}
			illegal, err := verdict(h.operations(true), checkTime)
			if err != nil {
				t.Fatal(err)
			}
			if legal := len(illegal) == 0; legal != test.legal {
				t.Errorf("got legal %v\n%s", legal, h.describe("0x1"))
			}
		})
	}
}

// A checker that is out of time says so. This history takes it longer than there are seconds: none of so many calls at once
// explains the last, and it has to try all their orders.
func TestVerdictHasToBeFoundOut(t *testing.T) {
	var history []porcupine.Operation
	for i := range 40 {
		history = append(history, porcupine.Operation{ClientId: i, Call: 0, Return: 100, Output: saidNothing, Input: linearInput{Address: "0x1", Call: callRegister}})
	}
	for i, output := range []any{regDone, regNone} {
		history = append(history, porcupine.Operation{ClientId: 40, Call: 200 + int64(i), Return: 200 + int64(i), Output: output, Input: linearInput{Address: "0x1", Call: callRead}})
	}
	if illegal, err := verdict(history, 50*time.Millisecond); err == nil {
		t.Errorf("got the verdict %q", illegal)
	}
}
