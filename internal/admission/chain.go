// chain.go owns the calls to an Ethereum node: whether an address holds the balance, and how long an answer counts. It keeps
// the URL of the node, which may hold an API key, out of every error.

package admission

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/limit"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/redact"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/common/lru"
	"github.com/ethereum/go-ethereum/log"
	"golang.org/x/sync/singleflight"
)

const (
	balanceTime     = 4 * time.Second // for a call and its wait for a connection; the registrar's waits are added to it, and clients wait 30 s
	balancePeriod   = time.Minute     // how long an answer counts
	maxCalls        = 16              // at once: providers limit how many
	askersAtMost    = 256             // callers that wait for an answer: each keeps a client's connection
	balancesKept    = 1 << 16         // answers that are remembered, in 13 MB
	rpcAnswerLimit  = 16 << 10        // bytes of an answer that are read; a right one has 100
	shortestSecret  = 4               // of a URL's parts, in bytes: a shorter one would only blot words out
	latestBlock     = "latest"
	methodBalance   = "eth_getBalance"
	methodChainID   = "eth_chainId"
	addressOfNobody = "0x0000000000000000000000000000000000000000"
)

// A Chain asks for balances at a node that speaks Ethereum's JSON-RPC over HTTP.
type Chain struct {
	url     *url.URL
	secrets []string // of the URL; never to be seen in an error, even when the node repeats them
	least   *big.Int // what an address must hold, in wei
	http    *http.Client
	asking  singleflight.Group // by address: a client that asks meanwhile waits for the same answer
	askers  atomic.Int64
	calls   atomic.Int64 // made so far: each call's id, which its answer repeats
	known   *lru.Cache[common.Address, balance]
}

// A balance is what the chain said of an address. It is not a recent.Answer, since there is one for each address, and the one
// that was unused for longest makes room.
type balance struct {
	enough bool
	at     time.Time
}

// NewChain returns the chain of the node at the URL, and asks it nothing yet. An address must hold the least, in wei.
func NewChain(u *url.URL, least *big.Int) *Chain {
	client := homeserver.NewHTTPClient(homeserver.ClientOptions{HeaderTime: homeserver.HeaderTime, MostConns: maxCalls}) // one call at a time on each
	return &Chain{url: u, secrets: urlSecrets(u), least: least, http: client, known: lru.NewCache[common.Address, balance](balancesKept)}
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

// Where returns the part of the URL that may be seen.
func (c *Chain) Where() string { return c.url.Scheme + "://" + c.url.Host }

// ErrUntold says that the balance cannot be found out now. The reason is wrapped beside it, for the log alone.
var ErrUntold = errors.New("the balance of this address cannot be looked up now: try again later")

// A PoorError says that the address holds less than it must.
type PoorError struct{ least *big.Int } // in wei

func (e *PoorError) Error() string {
	return fmt.Sprintf("this address must hold at least %v wei on chain to be admitted: transfer it, and try again a minute later", e.least)
}

// Admit returns nil for an address that holds enough, in the latest block or in one of the last minute, and a *PoorError for
// one that does not. If that cannot be found out it returns ErrUntold and remembers nothing. If too many callers wait it
// returns limit.ErrCrowded.
func (c *Chain) Admit(n common.Address) error {
	enough, ok := c.remembered(n)
	if !ok {
		defer c.askers.Add(-1)
		if c.askers.Add(1) > askersAtMost {
			return limit.ErrCrowded
		}
		answer, err, _ := c.asking.Do(string(n.Bytes()), func() (any, error) { return c.ask(n) })
		if err != nil {
			return fmt.Errorf("%w: %w", ErrUntold, err)
		}
		enough = answer.(bool)
	}
	if !enough {
		return &PoorError{c.least}
	}
	return nil
}

// ask asks the node and remembers its answer. It does not end with the client that asked first, since others may be waiting.
func (c *Chain) ask(n common.Address) (enough bool, err error) {
	if enough, ok := c.remembered(n); ok { // by the call just before
		return enough, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), balanceTime)
	defer cancel()
	wei, err := c.quantity(ctx, methodBalance, strings.ToLower(n.Hex()), latestBlock)
	if err != nil {
		return false, err
	}
	enough = wei.Cmp(c.least) >= 0
	c.known.Add(n, balance{enough, time.Now()})
	return enough, nil
}

func (c *Chain) remembered(n common.Address) (enough, ok bool) {
	is, ok := c.known.Get(n)
	return is.enough, ok && time.Since(is.at) < balancePeriod
}

// ID returns the id of the chain, and an error if it does not tell balances.
func (c *Chain) ID(ctx context.Context) (*big.Int, error) {
	ctx, cancel := context.WithTimeout(ctx, balanceTime)
	defer cancel()
	id, err := c.quantity(ctx, methodChainID)
	if err != nil {
		return nil, err
	}
	return id, c.Ready(ctx)
}

// Ready returns an error while the node does not tell balances.
func (c *Chain) Ready(ctx context.Context) error {
	_, err := c.quantity(ctx, methodBalance, addressOfNobody, latestBlock)
	return err
}

// start asks for the id of the chain once, and logs a warning if something is wrong. It returns the keys of a log line, or nil
// if the service ends meanwhile.
func (c *Chain) start(ctx context.Context) []any {
	if names.IsPlainRemote(c.url) {
		log.Warn("Balances are read over an unencrypted connection and could be forged: use https, or an Ethereum node on this machine", "eth_rpc", c.Where())
	}
	id, err := c.ID(ctx)
	if ctx.Err() != nil {
		return nil
	}
	said := any(id)
	if err != nil {
		log.Warn("The Ethereum node returns no balances: nobody can register until it does", "eth_rpc", c.Where(), "err", err)
		said = "unknown"
	}
	return []any{"eth_rpc", c.Where(), "chain_id", said, "min_balance", c.least}
}

// quantity makes one call whose result is a number. Any other answer is an error.
func (c *Chain) quantity(ctx context.Context, method string, params ...string) (*big.Int, error) {
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
		return nil, errors.New("the Ethereum node's answer is not JSON-RPC: is its URL right?")
	case said.Error != nil:
		return nil, fmt.Errorf("the Ethereum node refused %s (%d): it says %q", method, said.Error.Code, c.scrub(said.Error.Message))
	case said.ID != id || said.Result == nil:
		return nil, errors.New("the Ethereum node's answer has no result, or answers another request")
	}
	number, err := hexutil.DecodeBig(*said.Result)
	if err != nil {
		return nil, errors.New("the Ethereum node's result is not a number")
	}
	return number, nil
}

// call makes one call and returns the body of an answer 200.
func (c *Chain) call(ctx context.Context, id int64, method string, params []string) ([]byte, error) {
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
	req.Header.Set("User-Agent", homeserver.UserAgent)
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

// notReached returns the error of a call without an answer. The error of net/http would name the URL.
func (c *Chain) notReached(err error) error {
	if slow := net.Error(nil); errors.As(err, &slow) && slow.Timeout() {
		return errors.New("the Ethereum node did not answer in time")
	}
	if named := (*url.Error)(nil); errors.As(err, &named) {
		err = named.Err
	}
	return fmt.Errorf("the Ethereum node could not be reached: %s", c.scrub(err.Error()))
}

// scrub makes an Ethereum node's words fit for a log.
func (c *Chain) scrub(text string) string { return redact.Mask(redact.Line(text, c.secrets...)) }
