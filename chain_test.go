package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/limit"
	"github.com/ethereum/go-ethereum/common"
)

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

func (n *ethNode) chain(t *testing.T, least int64) *chain {
	t.Helper()
	c, err := newChain(n.URL, big.NewInt(least))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (n *ethNode) holds(a address, wei string) {
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
			c := node.chain(t, 1)
			c.least = test.least
			d := newAdmissionDoor(t, "none", c)
			proof, n := newProof(t)
			node.holds(n.Address, test.has)
			got := d.send(proof)
			if got.status != test.wantStatus {
				t.Errorf("got %d %s, want %d", got.status, got.body, test.wantStatus)
			}
			if got.status == 403 && (got.Errcode != "M_FORBIDDEN" || !strings.Contains(got.Message, test.least.String()+" wei")) {
				t.Errorf("got %s, want what to do", got.body)
			}
			if got.status == 403 && d.homeserver.asked() != "" {
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
		{"to another question", says(200, strings.Replace(right, `"id":1`, `"id":2`, 1)), "not to what was asked"},
		{"to no question", says(200, strings.Replace(right, `"id":1`, `"id":null`, 1)), "not to what was asked"},
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
			d := newAdmissionDoor(t, "none", node.chain(t, 1))
			proof, n := newProof(t)
			got := d.send(proof)
			if got.status != 503 || got.Errcode != "M_UNKNOWN" || d.homeserver.asked() != "" || d.state(n) != "" {
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
	d := newAdmissionDoor(t, "none", node.chain(t, 1))
	node.Close()
	proof, _ := newProof(t)
	if got := d.send(proof); got.status != 503 || !strings.Contains(d.log.String(), "connection refused") {
		t.Errorf("got %d %s, want 503; log %s", got.status, got.body, d.log)
	}
}

// Who has not proven his address makes nobody ask the chain.
func TestUnprovenAsksNoChain(t *testing.T) {
	node := newEthNode(t)
	d := newAdmissionDoor(t, "none", node.chain(t, 1))
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

// A transport answers in the caller's goroutine, so that a test's clock can stand still meanwhile.
type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// answering is a chain whose node answers from this process; asked is how often it did.
func answering(t *testing.T, wei func() string) (c *chain, asked *atomic.Int64) {
	t.Helper()
	c, err := newChain("http://127.0.0.1:8545", big.NewInt(1))
	if err != nil {
		t.Fatal(err)
	}
	asked = new(atomic.Int64)
	c.http = &http.Client{Transport: transport(func(*http.Request) (*http.Response, error) {
		body := fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"result":%q}`, asked.Add(1), wei())
		return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(body))}, nil
	})}
	return c, asked
}

// An answer counts for a minute, whichever it was.
func TestBalanceIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wei := "0x0"
		c, asked := answering(t, func() string { return wei })
		n := common.HexToAddress(listedAddress)
		admits := func(when string, want bool, wantAsked int64) {
			t.Helper()
			if got := c.admit(n) == nil; got != want || asked.Load() != wantAsked {
				t.Errorf("%s: admitted %v after %d calls, want %v after %d", when, got, asked.Load(), want, wantAsked)
			}
		}
		admits("poor", false, 1)
		wei = "0x1"
		time.Sleep(balancePeriod - time.Nanosecond)
		admits("rich, within the minute", false, 1)
		time.Sleep(time.Nanosecond)
		admits("rich, after it", true, 2)
		wei = "0x0"
		time.Sleep(balancePeriod - time.Nanosecond)
		admits("poor, within the minute", true, 2)
		time.Sleep(time.Nanosecond)
		admits("poor, after it", false, 3)
	})
}

// A node that hangs is given up in time.
func TestChainHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := answering(t, nil)
		c.http.Transport = transport(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})
		start := time.Now()
		err := c.admit(common.HexToAddress(listedAddress))
		if took := time.Since(start); took != balanceTime || !errors.Is(err, errChain) || !strings.Contains(err.Error(), "in time") {
			t.Errorf("got %v after %v, want a failure after %v", err, took, balanceTime)
		}
	})
}

// Many at once for one address share one call.
func TestBalanceIsAskedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, asked := answering(t, func() string { time.Sleep(time.Second); return "0x1" })
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				if err := c.admit(common.HexToAddress(listedAddress)); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if asked.Load() != 1 {
			t.Errorf("the chain was asked %d times, want once", asked.Load())
		}
	})
}

// The node is asked so many things at once, and not more.
func TestChainCallsAreBounded(t *testing.T) {
	node := newEthNode(t)
	var mu sync.Mutex
	now, most, full := 0, 0, make(chan struct{})
	release := sync.OnceFunc(func() { close(full) })
	node.fail(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		now++
		most = max(most, now)
		if most == balanceCalls && now == most {
			time.AfterFunc(50*time.Millisecond, release) // for one too many to come
		}
		mu.Unlock()
		<-full
		mu.Lock()
		now--
		mu.Unlock()
		says(200, `{"jsonrpc":"2.0","id":1,"result":"0x1"}`)(w, r)
	})
	c := node.chain(t, 1)
	var all sync.WaitGroup
	for i := range 3 * balanceCalls {
		all.Go(func() { c.admit(address{byte(i + 1)}) })
	}
	all.Wait()
	if most != balanceCalls {
		t.Errorf("%d at once, want %d", most, balanceCalls)
	}
}

// While the node is slow only so many wait for it: each keeps a connection, and whoever has keys enough would keep all.
func TestAskersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := answering(t, func() string { time.Sleep(time.Second); return "0x1" })
		var crowded atomic.Int64
		var all sync.WaitGroup
		for range askersAtMost + 3 {
			all.Go(func() {
				if err := c.admit(common.HexToAddress(listedAddress)); errors.Is(err, limit.ErrCrowded) {
					crowded.Add(1)
				} else if err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		if crowded.Load() != 3 {
			t.Errorf("%d were told to come later, want 3", crowded.Load())
		}
		all.Wait()
		if err := c.admit(address{1}); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	})
}

// The table of what is remembered has an end, whoever comes.
func TestBalancesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := answering(t, nil)
		fill := func(from int) {
			for i := from; i < from+balancesKept; i++ {
				c.remember(address{byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)}, true)
			}
		}
		fill(0)
		time.Sleep(2 * balancePeriod)
		c.remember(address{0xff}, true)
		if len(c.known) != 1 {
			t.Errorf("%d are remembered, want the one that counts", len(c.known))
		}
		fill(0)
		fill(balancesKept)
		if len(c.known) != balancesKept {
			t.Errorf("%d are remembered, want %d", len(c.known), balancesKept)
		}
	})
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
				c, err := newChain(strings.Replace(of, "HOST", node.Listener.Addr().String(), 1), big.NewInt(1))
				if err != nil {
					t.Fatal(err)
				}
				d := newAdmissionDoor(t, "none", c)
				proof, _ := newProof(t)
				got := d.send(proof)
				c.start(t.Context())
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

func TestReadMinBalance(t *testing.T) {
	most := new(big.Int).Lsh(big.NewInt(1), 256)
	const rpc = "http://127.0.0.1:8545"
	tests := []struct {
		name, rpc, file, wei string
		want                 string // in the error; "" for none
	}{
		{"off", "", "", "", ""},
		{"a wei", rpc, "", "1", ""},
		{"an ether", rpc, "", "1000000000000000000", ""},
		{"in a file", "", "eth_rpc", "1", ""},
		{"leading zeros", rpc, "", "0001", ""},
		{"the most", rpc, "", new(big.Int).Sub(most, big.NewInt(1)).String(), ""},
		{"more than the most", rpc, "", most.String(), "is not an amount"},
		{"very long", rpc, "", strings.Repeat("9", 1<<16), "is not an amount"},
		{"nothing", rpc, "", "0", "is not an amount"},
		{"negative", rpc, "", "-1", "is not an amount"},
		{"plus", rpc, "", "+1", "is not an amount"},
		{"hex", rpc, "", "0x1", "is not an amount"},
		{"a fraction", rpc, "", "0.5", "is not an amount"},
		{"an exponent", rpc, "", "1e18", "is not an amount"},
		{"underscores", rpc, "", "1_000", "is not an amount"},
		{"with a unit", rpc, "", "1 ether", "is not an amount"},
		{"no amount", rpc, "", "", "--min-balance is missing: give the wei that an address must hold to register, or leave --eth-rpc out"},
		{"no amount for the file", "", "eth_rpc", "", "or leave --eth-rpc-file out"},
		{"no node", "", "", "1", "give --eth-rpc, or --eth-rpc-file"},
		{"not a URL", "localhost:8545", "", "1", "is not the http or https URL of an Ethereum node"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := config{ethRPC: test.rpc, ethRPCFile: test.file}
			err := c.readMinBalance(test.wei)
			if test.want == "" && (err != nil || (c.minBalance != nil) != (test.wei != "")) || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

// Nobody can register while balances cannot be looked up: it is not ready.
func TestReadyWithoutChain(t *testing.T) {
	node := newEthNode(t)
	d := newAdmissionDoor(t, "none", node.chain(t, 1))
	c := config{serverName: testServerName, origin: d.homeserver.URL, way: createUserWay}
	s := serviceOf(c)
	s.admission = d.server.admission
	ready := func() *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		newHealth(context.Background(), s, d.store).ready(w, httptest.NewRequest(http.MethodGet, "/readyz", nil))
		return w
	}
	if got := ready(); got.Code != 200 {
		t.Errorf("got %d %s, want 200", got.Code, got.Body)
	}
	node.fail(says(500, ""))
	if got := ready(); got.Code != 503 || got.Body.String() != "the Ethereum node does not tell balances\n" {
		t.Errorf("got %d %s, want 503", got.Code, got.Body)
	}
}
