// server_admission_test.go owns who is let in by the list and by the balance, and that nobody without a proof costs a question.

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/admission"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/ethereum/go-ethereum/common"
)

func writeTemp(t testing.TB, content string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// newAdmissionGateway is a gateway that admits by the list, if it is not "none", and by the balance, if there is one.
func newAdmissionGateway(t *testing.T, list string, o admission.Options) *gateway {
	t.Helper()
	if list != "none" {
		o.File = writeTemp(t, list)
	}
	a, err := admission.New(o)
	if err != nil {
		t.Fatal(err)
	}
	d := newGateway(t, homeserver.SharedSecretPath)
	d.server.admission = a
	return d
}

// A stranger gets 403 with what to do, leaves no record, and the homeserver is not asked.
func TestStranger(t *testing.T) {
	proof, n := newProof(t)
	other, stranger := newProof(t)
	d := newAdmissionGateway(t, n.Localpart+"\n", admission.Options{})
	refused := func(a answered) {
		t.Helper()
		if a.status != 403 || a.Errcode != "M_FORBIDDEN" || !strings.Contains(a.Message, "ask the operator") {
			t.Errorf("got %d %s, want 403 M_FORBIDDEN", a.status, a.body)
		}
	}
	refused(d.send(other))
	if s := d.state(stranger); s != "" || d.homeserver.Asked() != "" {
		t.Errorf("a stranger left the record %q, or the homeserver was asked", s)
	}
	if got := d.send(proof); got.status != 200 {
		t.Errorf("got %d %s, want 200", got.status, got.body)
	}
	if !strings.Contains(d.log.String(), `"status":403`) || !strings.Contains(d.log.String(), stranger.UserID) {
		t.Errorf("the log does not say who was refused: %s", d.log)
	}

	// In the order of the contract: after the proof, before everything else.
	forged := other
	forged.Password = proof.Password
	if got := d.send(forged); got.status != 400 {
		t.Errorf("with a forged proof: got %d %s, want 400", got.status, got.body)
	}
	d.setState(stranger, stateRegistered)
	refused(d.send(other))
	d.server.registrar.stop()
	refused(d.send(other))
	if got := d.send(proof); got.status != 503 {
		t.Errorf("while stopping: got %d %s, want 503", got.status, got.body)
	}
}

// An empty list admits nobody; no list admits everybody.
func TestWithoutList(t *testing.T) {
	proof, _ := newProof(t)
	if got := newAdmissionGateway(t, "# nobody yet\n", admission.Options{}).send(proof); got.status != 403 {
		t.Errorf("an empty list: got %d %s, want 403", got.status, got.body)
	}
	d := newGateway(t, homeserver.SharedSecretPath)
	if d.server.admission != nil {
		t.Error("admission is not off by default")
	}
	if got := d.send(proof); got.status != 200 {
		t.Errorf("no list: got %d %s, want 200", got.status, got.body)
	}
}

// With both, an address must pass both, and a stranger to the list costs the chain no call.
func TestListAndChain(t *testing.T) {
	rich, richNode := newProof(t)
	poor, poorNode := newProof(t)
	stranger, _ := newProof(t)
	node := newEthNode(t)
	node.holds(richNode.Address, "0x64")
	node.holds(poorNode.Address, "0x63")
	d := newAdmissionGateway(t, richNode.Localpart+"\n"+poorNode.Localpart+"\n", node.asks(big.NewInt(100)))
	for _, test := range []struct {
		name       string
		proof      registration
		wantStatus int
		wantCalls  int
	}{
		{"a stranger to the list", stranger, http.StatusForbidden, 0},
		{"listed and too poor", poor, http.StatusForbidden, 1},
		{"listed and rich", rich, http.StatusOK, 2},
	} {
		if got := d.send(test.proof); got.status != test.wantStatus || node.calls() != test.wantCalls {
			t.Errorf("%s: got %d %s after %d calls, want %d after %d", test.name, got.status, got.body, node.calls(), test.wantStatus, test.wantCalls)
		}
	}
}

// An ethNode plays an Ethereum node where a fault is wanted; e2e's chain is a real one. Its answers are that one's.
type ethNode struct {
	*httptest.Server

	mu       sync.Mutex
	balances map[string]string // by address, in lowercase
	fault    http.HandlerFunc  // answers in place of its own
	count    int
}

func newEthNode(t *testing.T) *ethNode {
	n := &ethNode{balances: map[string]string{}}
	n.Server = httptest.NewServer(n)
	t.Cleanup(n.Close)
	return n
}

// asks are the options of an admission that asks the node.
func (n *ethNode) asks(least *big.Int) admission.Options {
	return admission.Options{URL: n.URL, MinBalance: least}
}

func (n *ethNode) holds(a common.Address, wei string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.balances[strings.ToLower(a.Hex())] = wei
}

func (n *ethNode) fail(fault http.HandlerFunc) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fault = fault
}

func (n *ethNode) calls() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.count
}

func (n *ethNode) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	n.count++
	fault := n.fault
	n.mu.Unlock()
	if fault != nil {
		fault(w, r)
		return
	}
	var asked struct {
		JSONRPC, Method string
		ID              json.RawMessage
		Params          []string
	}
	result := "0x539"
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil || r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json" || asked.JSONRPC != "2.0" {
		w.WriteHeader(http.StatusUnsupportedMediaType)
		return
	}
	if asked.Method == "eth_getBalance" && len(asked.Params) == 2 && asked.Params[1] == "latest" {
		n.mu.Lock()
		result = n.balances[asked.Params[0]]
		n.mu.Unlock()
		if result == "" {
			result = "0x0"
		}
	} else if asked.Method != "eth_chainId" || asked.Params == nil {
		says(200, fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"error":{"code":-32602,"message":"invalid argument"}}`, asked.ID))(w, r)
		return
	}
	fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":%q}`, asked.ID, result)
}

// ether is 10^18 wei, times the given, less one wei if that is asked for.
func ether(times int64, less int64) *big.Int {
	wei := new(big.Int).Mul(big.NewInt(times), big.NewInt(1e18))
	return wei.Sub(wei, big.NewInt(less))
}

func TestBalance(t *testing.T) {
	tests := []struct {
		name       string
		has        string
		least      *big.Int
		wantStatus int
	}{
		{"nothing", "0x0", big.NewInt(1), 403},
		{"a wei of a wei", "0x1", big.NewInt(1), 200},
		{"a wei short of an ether", "0x" + ether(1, 1).Text(16), ether(1, 0), 403},
		{"an ether", "0x" + ether(1, 0).Text(16), ether(1, 0), 200},
		{"beyond 64 bits, a wei short", "0x" + ether(100, 1).Text(16), ether(100, 0), 403},
		{"beyond 64 bits", "0x" + ether(100, 0).Text(16), ether(100, 0), 200},
		{"all that could be", "0x" + strings.Repeat("f", 64), ether(1, 0), 200},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			node := newEthNode(t)
			d := newAdmissionGateway(t, "none", node.asks(test.least))
			proof, n := newProof(t)
			node.holds(n.Address, test.has)
			got := d.send(proof)
			if got.status != test.wantStatus {
				t.Errorf("got %d %s, want %d", got.status, got.body, test.wantStatus)
			}
			if got.status == 403 && (got.Errcode != "M_FORBIDDEN" || !strings.Contains(got.Message, test.least.String()+" wei")) {
				t.Errorf("got %s, want what to do", got.body)
			}
			if got.status == 403 && d.homeserver.Asked() != "" {
				t.Error("the homeserver was asked")
			}
		})
	}
}

// Whatever is wrong with the node's answer, nobody is admitted and nothing is remembered.
func TestChainFails(t *testing.T) {
	const right = `{"jsonrpc":"2.0","id":1,"result":"0xffffffff"}`
	result := func(value string) http.HandlerFunc { return says(200, `{"jsonrpc":"2.0","id":1,"result":`+value+`}`) }
	tests := []struct {
		name  string
		fault http.HandlerFunc
		want  string // in the log
	}{
		{"breaks", breaks, "could not be reached"},
		{"401", says(401, right), "answered 401"},
		{"429", says(429, right), "answered 429"},
		{"500", says(500, right), "answered 500"},
		{"204", says(204, ""), "answered 204"},
		{"101", says(101, ""), "answered 101"},
		{"a redirect to a right answer", func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/elsewhere" {
				says(200, right)(w, r)
				return
			}
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		}, "answered 307"},
		{"empty", says(200, ""), "not JSON-RPC"},
		{"HTML", says(200, "<html>"), "not JSON-RPC"},
		{"null", says(200, "null"), "no result"},
		{"a batch", says(200, "["+right+"]"), "not JSON-RPC"},
		{"something behind it", says(200, right+right), "not JSON-RPC"},
		{"cut short", says(200, right[:30]), "not JSON-RPC"},
		{"fewer bytes than promised", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			io.WriteString(w, right)
		}, "could not be reached"},
		{"an error", says(200, `{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"missing trie node"}}`), "missing trie node"},
		{"an error and a result", says(200, right[:len(right)-1]+`,"error":{"code":1,"message":"x"}}`), "refused"},
		{"no result", says(200, `{"jsonrpc":"2.0","id":1}`), "no result"},
		{"to another question", says(200, strings.Replace(right, `"id":1`, `"id":2`, 1)), "answers another request"},
		{"to no question", says(200, strings.Replace(right, `"id":1`, `"id":null`, 1)), "answers another request"},
		{"result null", result("null"), "no result"},
		{"result a number", result("4294967295"), "not JSON-RPC"},
		{"result true", result("true"), "not JSON-RPC"},
		{"result in decimal", result(`"4294967295"`), "not a number"},
		{"result empty", result(`""`), "not a number"},
		{"result 0x", result(`"0x"`), "not a number"},
		{"result negative", result(`"-0x1"`), "not a number"},
		{"result over 256 bits", result(`"0x1` + strings.Repeat("0", 64) + `"`), "not a number"},
		{"no end", func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				io.WriteString(w, strings.Repeat(" ", 1<<10))
			}
		}, "is over 16384 bytes"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			node := newEthNode(t)
			node.fail(test.fault)
			d := newAdmissionGateway(t, "none", node.asks(big.NewInt(1)))
			proof, n := newProof(t)
			got := d.send(proof)
			if got.status != 503 || got.Errcode != "M_UNKNOWN" || d.homeserver.Asked() != "" || d.state(n) != "" {
				t.Errorf("got %d %s, want 503 M_UNKNOWN and nothing done", got.status, got.body)
			}
			if !strings.Contains(d.log.String(), test.want) || strings.Contains(got.body, test.want) {
				t.Errorf("want %q in the log alone: %s; answered %s", test.want, d.log, got.body)
			}
			node.fail(nil)
			node.holds(n.Address, "0x1")
			if got := d.send(proof); got.status != 200 {
				t.Errorf("when the node is right again: got %d %s, want 200", got.status, got.body)
			}
		})
	}
}

// A node that is not there is a failure too.
func TestChainStopped(t *testing.T) {
	node := newEthNode(t)
	d := newAdmissionGateway(t, "none", node.asks(big.NewInt(1)))
	node.Close()
	proof, _ := newProof(t)
	if got := d.send(proof); got.status != 503 || !strings.Contains(d.log.String(), "connection refused") {
		t.Errorf("got %d %s, want 503; log %s", got.status, got.body, d.log)
	}
}

// Who has not proven his address makes nobody ask the chain.
func TestUnprovenAsksNoChain(t *testing.T) {
	node := newEthNode(t)
	d := newAdmissionGateway(t, "none", node.asks(big.NewInt(1)))
	for _, v := range readVectors(t) {
		if v.WantStatus/100 == 4 {
			if got := d.post(v.Body); got.status != v.WantStatus {
				t.Errorf("%s: got %d %s, want %d", v.Name, got.status, got.body, v.WantStatus)
			}
		}
	}
	if node.calls() != 0 {
		t.Errorf("the chain was asked %d times", node.calls())
	}
}

// A key in the URL is in no log and no answer, even where the node repeats it.
func TestEthKeyIsNotTold(t *testing.T) {
	const key = "sup3rsecretkey"
	echoes := func(status int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			user, password, _ := r.BasicAuth()
			said := r.URL.EscapedPath() + " " + r.URL.RawQuery + " " + user + " " + password
			body, _ := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": 1, "error": map[string]any{"code": 1, "message": said}})
			says(status, string(body))(w, r)
		}
	}
	faults := map[string]http.HandlerFunc{
		"echoes": echoes(200), "refuses": echoes(403), "breaks": breaks,
		"no HTTP": func(w http.ResponseWriter, r *http.Request) {
			conn, _, _ := w.(http.Hijacker).Hijack()
			io.WriteString(conn, "HTTP/1.1 no "+key+"\r\n\r\n")
			conn.Close()
		},
	}
	for form, of := range map[string]string{"path": "http://HOST/v3/" + key, "query": "http://HOST/?apikey=" + key, "user": "http://" + key + ":x@HOST/", "password": "http://me:" + key + "@HOST"} {
		for name, fault := range faults {
			t.Run(form+"/"+name, func(t *testing.T) {
				node := newEthNode(t)
				node.fail(fault)
				o := node.asks(big.NewInt(1))
				o.URL = strings.Replace(of, "HOST", node.Listener.Addr().String(), 1)
				d := newAdmissionGateway(t, "none", o)
				proof, _ := newProof(t)
				got := d.send(proof)
				if got.status != 503 || !strings.Contains(d.log.String(), "Ethereum node") {
					t.Errorf("got %d %s", got.status, got.body)
				}
				if strings.Contains(got.body+d.log.String(), key) {
					t.Errorf("the key is told: %s\n%s", got.body, d.log)
				}
			})
		}
	}
}

// The node is asked so many things at once, and not more.
func TestChainCallsAreBounded(t *testing.T) {
	const allowed = 16
	node := newEthNode(t)
	var mu sync.Mutex
	now, most, full := 0, 0, make(chan struct{})
	release := sync.OnceFunc(func() { close(full) })
	node.fail(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		now++
		most = max(most, now)
		if most == allowed && now == most {
			time.AfterFunc(50*time.Millisecond, release) // for one too many to come
		}
		mu.Unlock()
		<-full
		mu.Lock()
		now--
		mu.Unlock()
		says(200, `{"jsonrpc":"2.0","id":1,"result":"0x1"}`)(w, r)
	})
	a, err := admission.New(node.asks(big.NewInt(1)))
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for i := range 3 * allowed {
		all.Go(func() { a.Admit(common.Address{byte(i + 1)}) })
	}
	all.Wait()
	if most != allowed {
		t.Errorf("%d at once, want %d", most, allowed)
	}
}
