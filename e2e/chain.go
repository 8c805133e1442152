// chain.go owns the Ethereum chain that admission is tested on: e2e/chain, a module of its own, built and started here.

package e2e

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// A Chain is a real one, with one node that answers JSON-RPC.
type Chain struct {
	URL string // with a key in its path, as providers have it
	Key string

	process *process
	pays    io.Writer // the process's input
	logFile string    // and its output
}

// StartChain builds the chain's program into the directory and starts it.
func StartChain(ctx context.Context, dir string) (*Chain, error) {
	root, err := moduleRoot(ctx)
	if err != nil {
		return nil, err
	}
	program := filepath.Join(dir, "chain")
	build := exec.CommandContext(ctx, "go", "build", "-o", program, ".")
	build.Dir = filepath.Join(root, "e2e", "chain")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("go build: %w\n%s", err, out)
	}
	ports, err := freePorts(1)
	if err != nil {
		return nil, err
	}
	c := &Chain{Key: rand.Text(), logFile: filepath.Join(dir, "chain.log")}
	path := "v3/" + c.Key
	c.URL = fmt.Sprintf("http://127.0.0.1:%d/%s", ports[0], path)

	cmd := exec.CommandContext(context.WithoutCancel(ctx), program, strconv.Itoa(ports[0]), path)
	if c.pays, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if c.process, err = startProcess("the chain", c.logFile, cmd); err != nil {
		return nil, err
	}
	return c, c.process.ready(ctx, func(ctx context.Context) bool {
		a, err := call(ctx, http.MethodPost, c.URL, "", map[string]any{"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": []string{}})
		return err == nil && a.Status == http.StatusOK
	})
}

// Pay gives so many wei to the address, in a block of its own. Each amount that one address gets must be another.
func (c *Chain) Pay(ctx context.Context, address string, wei *big.Int) error {
	if _, err := fmt.Fprintln(c.pays, address, wei); err != nil {
		return err
	}
	return c.process.ready(ctx, func(context.Context) bool {
		content, err := os.ReadFile(c.logFile)
		return err == nil && strings.Contains(string(content), fmt.Sprintln("paid", wei, "to", address))
	})
}

// Stop ends the chain.
func (c *Chain) Stop() error {
	_, err := c.process.stop()
	return err
}
