// chain.go owns what is asked of an Ethereum chain: whether an address holds the balance that --min-balance asks for,
// how long an answer counts, and that the URL of --eth-rpc, which may hold an API key, is never seen.

package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/limit"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/redact"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/log"
	"golang.org/x/sync/singleflight"
)

const (
	balanceTime     = 4 * time.Second // for a call, its wait for a connection included: with the registrar's waits, less than the 30 s that clients wait
	balancePeriod   = time.Minute     // how long an answer counts
	balanceCalls    = 16              // at once: providers limit how many
	askersAtMost    = 256             // who waits for an answer: each keeps a connection
	balancesKept    = 1 << 16         // answers that are remembered, in 5 MB
	rpcAnswerLimit  = 16 << 10        // bytes of an answer that are read; a right one has 100
	shortestSecret  = 4               // of a URL's parts, in bytes: a shorter one would only blot words out
	latestBlock     = "latest"
	methodBalance   = "eth_getBalance"
	methodChainID   = "eth_chainId"
	addressOfNobody = "0x0000000000000000000000000000000000000000"
)

// A chain is asked for balances, at a node that speaks Ethereum's JSON-RPC over HTTP.
type chain struct {
	url     *url.URL
	secrets []string // of the URL; never to be seen in an error, even when the node repeats them
	least   *big.Int // what an address must hold, in wei
	http    *http.Client
	asking  singleflight.Group // by address: who asks meanwhile waits for the same answer
	askers  atomic.Int64
	calls   atomic.Int64 // made so far: each call's id, which its answer repeats

	mu        sync.Mutex
	known     map[address]balance
	lastSweep time.Time
}

// A balance is what the chain said of an address.
type balance struct {
	enough bool
	at     time.Time
}

func newChain(rpcURL string, least *big.Int) (*chain, error) {
	u, err := names.ParseEthereumURL(rpcURL)
	if err != nil {
		return nil, fmt.Errorf("its URL is %w", err)
	}
	return &chain{
		url:     u,
		secrets: urlSecrets(u),
		least:   least,
		http:    newHTTPClient(clientOptions{headerTime: headerTime, mostConns: balanceCalls}), // one call at a time on each connection
		known:   make(map[address]balance),
	}, nil
}

// urlSecrets are the parts of the URL that may be a key, the longest first.
func urlSecrets(u *url.URL) []string {
	password, _ := u.User.Password()
	parts := []string{u.RawQuery, u.User.Username(), password}
	for _, path := range []string{u.Path, u.EscapedPath()} {
		parts = append(parts, strings.Trim(path, "/"))
		parts = append(parts, strings.Split(path, "/")...)
	}
	for _, values := range u.Query() {
		parts = append(parts, values...)
	}
	parts = slices.DeleteFunc(parts, func(part string) bool { return len(part) < shortestSecret })
	slices.SortFunc(parts, func(a, b string) int { return cmp.Compare(len(b), len(a)) })
	return slices.Compact(parts)
}

// where is what may be seen of the URL.
func (c *chain) where() string { return c.url.Scheme + "://" + c.url.Host }

// errChain is for a node that would perhaps be admitted. What keeps the chain from telling is for the log alone.
var errChain = &matrixError{status: http.StatusServiceUnavailable, Errcode: errcodeUnknown, Message: "the balance of this address cannot be looked up now: try again later"}

// admit returns nil for an address that holds enough, as of the latest block or of one of the last minute. Where that
// cannot be told nobody is admitted, and nothing is remembered; where too many wait to be told, errCrowded.
func (c *chain) admit(n address) error {
	enough, ok := c.remembered(n)
	if !ok {
		defer c.askers.Add(-1)
		if c.askers.Add(1) > askersAtMost {
			return limit.ErrCrowded
		}
		asked, err, _ := c.asking.Do(string(n.Bytes()), func() (any, error) { return c.ask(n) })
		if err != nil {
			return fmt.Errorf("%w: %w", errChain, err)
		}
		enough = asked.(bool)
	}
	if !enough {
		return &matrixError{status: http.StatusForbidden, Errcode: errcodeForbidden, Message: fmt.Sprintf("this address must hold at least %v wei on chain to be admitted: pay it in, and try again a minute later", c.least)}
	}
	return nil
}

// ask asks the node and remembers what it says. Whoever asked may go away: others may be waiting.
func (c *chain) ask(n address) (enough bool, err error) {
	if enough, ok := c.remembered(n); ok { // of whoever was just before
		return enough, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), balanceTime)
	defer cancel()
	wei, err := c.quantity(ctx, methodBalance, strings.ToLower(n.Hex()), latestBlock)
	if err != nil {
		return false, err
	}
	enough = wei.Cmp(c.least) >= 0
	c.remember(n, enough)
	return enough, nil
}

func (c *chain) remembered(n address) (enough, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	is, ok := c.known[n]
	return is.enough, ok && time.Since(is.at) < balancePeriod
}

// remember notes an answer. Where there are too many it forgets those that no longer count, once a period, or else
// any one: that costs the chain a question more.
func (c *chain) remember(n address, enough bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if len(c.known) >= balancesKept && now.Sub(c.lastSweep) >= balancePeriod {
		c.lastSweep = now
		maps.DeleteFunc(c.known, func(_ address, is balance) bool { return now.Sub(is.at) >= balancePeriod })
	}
	if len(c.known) >= balancesKept {
		for other := range c.known {
			delete(c.known, other)
			break
		}
	}
	c.known[n] = balance{enough, now}
}

// chainID tells which chain it is, if balances can be looked up on it now.
func (c *chain) chainID(ctx context.Context) (*big.Int, error) {
	ctx, cancel := context.WithTimeout(ctx, balanceTime)
	defer cancel()
	id, err := c.quantity(ctx, methodChainID)
	if err != nil {
		return nil, err
	}
	return id, c.look(ctx)
}

// look tells whether balances can be looked up now.
func (c *chain) look(ctx context.Context) error {
	_, err := c.quantity(ctx, methodBalance, addressOfNobody, latestBlock)
	return err
}

// start asks once what answers there, and warns of what is wrong with it. It returns what the log says of it; nil when the service
// ends meanwhile.
func (c *chain) start(ctx context.Context) []any {
	if names.IsPlainRemote(c.url) {
		log.Warn("Balances are asked for in the clear, and could be forged on the way: use https, or a node of your own on this machine", "eth_rpc", c.where())
	}
	id, err := c.chainID(ctx)
	if ctx.Err() != nil {
		return nil
	}
	said := any(id)
	if err != nil {
		log.Warn("The Ethereum node does not tell balances: nobody can register until it does", "eth_rpc", c.where(), "err", err)
		said = "unknown"
	}
	return []any{"eth_rpc", c.where(), "chain_id", said, "min_balance", c.least}
}

// quantity makes one call whose result is a number. Anything else that the node answers is an error.
func (c *chain) quantity(ctx context.Context, method string, params ...string) (*big.Int, error) {
	id := c.calls.Add(1)
	body, err := c.call(ctx, id, method, params)
	if err != nil {
		return nil, err
	}
	var said struct {
		ID     int64
		Result *string
		Error  *struct {
			Code    int
			Message string
		}
	}
	switch err := json.Unmarshal(body, &said); {
	case err != nil:
		return nil, errors.New("the Ethereum node's answer is not JSON-RPC: is --" + flagEthRPC + " its URL?")
	case said.Error != nil:
		return nil, fmt.Errorf("the Ethereum node refused %s (%d): it says %q", method, said.Error.Code, c.scrub(said.Error.Message))
	case said.ID != id || said.Result == nil:
		return nil, errors.New("the Ethereum node's answer has no result, or is not to what was asked")
	}
	number, err := hexutil.DecodeBig(*said.Result)
	if err != nil {
		return nil, errors.New("the Ethereum node's result is not a number")
	}
	return number, nil
}

// call makes one call and returns the body of an answer 200.
func (c *chain) call(ctx context.Context, id int64, method string, params []string) ([]byte, error) {
	if params == nil {
		params = []string{}
	}
	question, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": id, "method": method, "params": params})
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url.String(), bytes.NewReader(question))
	if err != nil {
		return nil, errors.New("the Ethereum node cannot be asked")
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", programName)
	res, err := c.http.Do(req)
	if err != nil {
		return nil, c.notReached(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the Ethereum node answered %d", res.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, rpcAnswerLimit+1))
	switch {
	case err != nil:
		return nil, c.notReached(err)
	case len(body) > rpcAnswerLimit:
		return nil, fmt.Errorf("the Ethereum node's answer is over %d bytes", rpcAnswerLimit)
	}
	return body, nil
}

// notReached is the error of a call without an answer. net/http's own names the URL.
func (c *chain) notReached(err error) error {
	if isTimeout(err) {
		return errors.New("the Ethereum node did not answer in time")
	}
	if named := (*url.Error)(nil); errors.As(err, &named) {
		err = named.Err
	}
	return fmt.Errorf("the Ethereum node could not be reached: %s", c.scrub(err.Error()))
}

// scrub makes a node's words fit for a log.
func (c *chain) scrub(text string) string { return redact.Mask(redact.Line(text, c.secrets...)) }
