// admission.go owns who may register of those whose proof holds, where the operator limits that: the list of
// --admit-file, and how it is read again on SIGHUP. The balance that --min-balance asks for is chain.go's.

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/files"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/log"
)

// admitFileLimit bounds the list, in bytes: a million and a half of addresses, which take 31 MB of memory, and as much
// once more while they are read again.
const admitFileLimit = 64 << 20

// An admission tells who may register: whoever the list and the chain both admit. A nil one admits everybody.
type admission struct {
	path  string                    // of the list; empty for none
	list  atomic.Pointer[[]address] // sorted; never nil where there is a path
	chain *chain                    // nil where no balance is asked for
}

// newAdmission reads the list, and asks the chain nothing yet. It is nil where everybody is admitted.
func newAdmission(c config) (*admission, error) {
	if c.admitFile == "" && c.ethRPC == "" {
		return nil, nil
	}
	a := &admission{path: c.admitFile}
	if c.ethRPC != "" {
		var err error
		if a.chain, err = newChain(c.ethRPC, c.minBalance); err != nil {
			return nil, err
		}
	}
	if a.path == "" {
		return a, nil
	}
	list, err := readAdmitFile(a.path)
	if err != nil {
		return nil, err
	}
	a.list.Store(&list)
	return a, nil
}

// errNotListed is for the owner of a node, who alone gets it: his proof holds.
var errNotListed = &matrixError{status: http.StatusForbidden, Errcode: errcodeForbidden, Message: "this address is not admitted here: ask the operator of this homeserver to put it on the list"}

// admit returns nil for whom the list and the chain admit. The list is asked first: a stranger to it costs no call.
func (a *admission) admit(n address) error {
	if a == nil {
		return nil
	}
	if a.path != "" {
		if _, listed := slices.BinarySearchFunc(*a.list.Load(), n, address.Cmp); !listed {
			return errNotListed
		}
	}
	if a.chain != nil {
		return a.chain.admit(n)
	}
	return nil
}

// look tells whether it can be told now who is admitted.
func (a *admission) look(ctx context.Context) error {
	if a == nil || a.chain == nil {
		return nil
	}
	return a.chain.look(ctx)
}

// logStart says in one line who may register, once the chain has been asked which it is.
func (a *admission) logStart(ctx context.Context) {
	switch {
	case a == nil:
		log.Info("Everybody who proves an address may register")
	case a.chain == nil:
		a.logList()
	default:
		go a.logChain(ctx)
	}
}

// logList says how many the list admits.
func (a *admission) logList() {
	addresses := len(*a.list.Load())
	if addresses == 0 {
		log.Warn("The admit file lists no address: nobody can register", "file", a.path)
		return
	}
	log.Info("Only the addresses of the admit file may register", "file", a.path, "addresses", addresses)
}

// logChain says which balance is asked for, of whom, and on which chain.
func (a *admission) logChain(ctx context.Context) {
	keys := a.chain.start(ctx)
	switch {
	case keys == nil: // the service ends already
	case a.path == "":
		log.Info("Only addresses that hold enough may register", keys...)
	case len(*a.list.Load()) == 0:
		a.logList()
	default:
		log.Info("Only addresses of the admit file that hold enough may register", append([]any{"file", a.path, "addresses", len(*a.list.Load())}, keys...)...)
	}
}

// reload reads the list again. One that cannot be read changes nothing.
func (a *admission) reload() {
	if a == nil || a.path == "" {
		log.Info("Nothing to reload: there is no admit file")
		return
	}
	list, err := readAdmitFile(a.path)
	if err != nil {
		log.Error("The admit file cannot be read; the list of before stays", "err", err)
		return
	}
	a.list.Store(&list)
	a.logList()
}

// reloadOn reloads at each of the signals until the context ends.
func (a *admission) reloadOn(ctx context.Context, signals <-chan os.Signal) {
	for {
		select {
		case <-signals:
			a.reload()
		case <-ctx.Done():
			return
		}
	}
}

// readAdmitFile reads addresses, one a line, with blank lines and comments between and behind them. Its errors name the
// line and quote nothing: the file may be another than was meant, one with a key for instance.
func readAdmitFile(path string) ([]address, error) {
	f, size, err := files.Open(path, admitFileLimit)
	if err != nil {
		return nil, fmt.Errorf("read the admit file: %w", err)
	}
	defer f.Close()
	list := make([]address, 0, size/int64(len("0x")+names.AddressDigits+len("\n")))
	lines := bufio.NewScanner(f)
	number := 0
	for lines.Scan() {
		number++
		text, _, _ := strings.Cut(lines.Text(), "#")
		text = strings.TrimSpace(text)
		switch {
		case text == "":
			continue
		case !names.IsHexAddress(text):
			return nil, fmt.Errorf("%s, line %d is not an address: write 0x and %d hex digits, or a comment behind #", path, number, names.AddressDigits)
		case !names.IsAddress(text):
			return nil, fmt.Errorf("%s, line %d has mixed case, and is not what its EIP-55 checksum says: look for a typing error, or write it in lowercase", path, number)
		}
		list = append(list, common.HexToAddress(text))
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		return nil, fmt.Errorf("%s, line %d is not an address, but very long", path, number+1)
	}
	if lines.Err() != nil {
		return nil, fmt.Errorf("read the admit file: %w", lines.Err())
	}
	slices.SortFunc(list, address.Cmp)
	return slices.Compact(list), nil
}
