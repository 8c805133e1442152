// chain_test.go owns how balances are asked for: once for all who wait, kept a while, within bounds, and without a key in a
// log.

package admission

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/limit"
	"github.com/ethereum/go-ethereum/common"
)

// A transport answers in the caller's goroutine, so that a test's clock can stand still meanwhile.
type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// answer is a node's right answer to the request.
func answer(t *testing.T, r *http.Request, result string) *http.Response {
	var asked struct{ ID json.RawMessage }
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
		t.Error(err)
	}
	body := fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"result":%q}`, asked.ID, result)
	return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(body))}
}

// answering is a chain whose node answers from this process; asked is how often it did.
func answering(t *testing.T, wei func() string) (c *Chain, asked *atomic.Int64) {
	t.Helper()
	asked = new(atomic.Int64)
	c = NewChain(&url.URL{Scheme: "http", Host: "127.0.0.1:8545"}, big.NewInt(1))
	c.http.Transport = transport(func(r *http.Request) (*http.Response, error) {
		asked.Add(1)
		return answer(t, r, wei()), nil
	})
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
			if got := c.Admit(n) == nil; got != want || asked.Load() != wantAsked {
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
		err := c.Admit(common.HexToAddress(listedAddress))
		if took := time.Since(start); took != balanceTime || !errors.Is(err, ErrUntold) || !strings.Contains(err.Error(), "in time") {
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
				if err := c.Admit(common.HexToAddress(listedAddress)); err != nil {
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

// While the node is slow only so many wait for it: each keeps a connection, and a client with many keys would keep all.
func TestAskersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := answering(t, func() string { time.Sleep(time.Second); return "0x1" })
		var crowded atomic.Int64
		var all sync.WaitGroup
		for range askersAtMost + 3 {
			all.Go(func() {
				if err := c.Admit(common.HexToAddress(listedAddress)); errors.Is(err, limit.ErrCrowded) {
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
		if err := c.Admit(common.Address{1}); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	})
}

// The table of remembered balances is bounded. An address that keeps asking stays in it.
func TestBalancesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // no minute passes
		c, asked := answering(t, func() string { return "0x1" })
		for i := range 2 * balancesKept {
			c.known.Add(common.Address{byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)}, balance{true, time.Now()})
			if err := c.Admit(common.Address{0xff}); err != nil {
				t.Fatal(err)
			}
		}
		if c.known.Len() != balancesKept || asked.Load() != 1 {
			t.Errorf("%d are remembered, want %d; %d calls, want 1", c.known.Len(), balancesKept, asked.Load())
		}
	})
}

// The key in the URL is in no line of the start, whatever the node answers.
func TestStartTellsNoKey(t *testing.T) {
	const key = "sup3rsecretkey"
	for form, text := range map[string]string{"path": "http://HOST/v3/" + key, "query": "http://HOST/?apikey=" + key, "user": "http://" + key + ":x@HOST/", "password": "http://me:" + key + "@HOST"} {
		for name, sent := range map[string]string{
			"echoes":  "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n" + `{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"no ` + key + `"}}`,
			"refuses": "HTTP/1.1 403 " + key + "\r\nContent-Length: 0\r\n\r\n", "no HTTP": "HTTP/1.1 no " + key + "\r\n\r\n", "breaks": "",
		} {
			t.Run(form+"/"+name, func(t *testing.T) {
				node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					conn, _, err := w.(http.Hijacker).Hijack()
					if err != nil {
						t.Error(err)
						return
					}
					io.WriteString(conn, sent)
					conn.Close()
				}))
				defer node.Close()
				u, err := url.Parse(strings.Replace(text, "HOST", node.Listener.Addr().String(), 1))
				if err != nil {
					t.Fatal(err)
				}
				said := captureLog(t)
				(&Admission{chain: NewChain(u, big.NewInt(1))}).logChain(t.Context())
				if got := said.String(); !strings.Contains(got, "returns no balances") || strings.Contains(got, key) {
					t.Errorf("got %s", got)
				}
			})
		}
	}
}
