// admission.go owns the list of the addresses that are admitted, and how the list is read again.

// Package admission owns which addresses may register, if the operator limits that: those of a list, and those that hold a
// balance on an Ethereum chain. It knows neither proofs, nor flags, nor answers.
package admission

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/files"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/log"
)

// listLimit bounds the list, in bytes. It has room for one and a half million addresses, which take 31 MB of memory, and as
// much again while the list is reloaded.
const listLimit = 64 << 20

// An Admission tells who may register: the addresses that the list and the chain both admit. A nil one admits everybody.
type Admission struct {
	path  string                  // of the list; empty for none
	list  atomic.Pointer[reading] // never nil where there is a path
	chain *Chain                  // nil where no balance is asked for
}

// A reading is the list as it was read.
type reading struct {
	list  []common.Address // sorted
	since time.Time        // when it was read
}

// A Loaded says which list is in use.
type Loaded struct {
	File      string    `json:"file"`
	Addresses int       `json:"addresses"`
	Since     time.Time `json:"since"`
	Digest    string    `json:"digest"` // of the addresses, to compare it with a file
}

// Loaded says which list is in use, and returns nil where there is none.
func (a *Admission) Loaded() *Loaded {
	if a == nil || a.path == "" {
		return nil
	}
	its := a.list.Load()
	return &Loaded{File: a.path, Addresses: len(its.list), Since: its.since, Digest: Digest(its.list)}
}

// Digest is the same for lists of the same addresses alone.
func Digest(list []common.Address) string {
	sum := sha256.New()
	for _, address := range list {
		sum.Write(address[:])
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// Options say who is admitted.
type Options struct {
	File       string   // the list; "" for everybody
	URL        string   // of an Ethereum node; "" where no balance is asked for
	MinBalance *big.Int // what an address must hold there, in wei
}

// New reads the list, and asks the chain nothing yet. It returns nil if everybody is admitted.
func New(o Options) (*Admission, error) {
	if o.File == "" && o.URL == "" {
		return nil, nil
	}
	a := &Admission{path: o.File}
	if o.URL != "" {
		u, err := names.ParseEthereumURL(o.URL)
		if err != nil {
			return nil, fmt.Errorf("the URL of the balances is %w", err)
		}
		a.chain = NewChain(u, o.MinBalance)
	}
	if a.path == "" {
		return a, nil
	}
	if err := a.read(); err != nil {
		return nil, err
	}
	return a, nil
}

// read reads the list.
func (a *Admission) read() error {
	since := time.Now() // what is written from now on may not be in it
	list, err := ReadList(a.path)
	if err != nil {
		return err
	}
	a.list.Store(&reading{list, since.Round(0).UTC()})
	return nil
}

// ErrNotListed says that the list does not have the address. Only the owner of the address is told, whose proof holds.
var ErrNotListed = errors.New("this address is not admitted here: ask the operator of this homeserver to put it on the list")

// Admit returns nil for an address that the list and the chain admit, or else ErrNotListed or an error of the chain. The
// list is asked first: a stranger to it costs no call.
func (a *Admission) Admit(n common.Address) error {
	if a == nil {
		return nil
	}
	if a.path != "" {
		if _, listed := slices.BinarySearchFunc(a.list.Load().list, n, common.Address.Cmp); !listed {
			return ErrNotListed
		}
	}
	if a.chain != nil {
		return a.chain.Admit(n)
	}
	return nil
}

// Ready returns an error while nobody can be admitted because the chain does not tell balances.
func (a *Admission) Ready(ctx context.Context) error {
	if a == nil || a.chain == nil {
		return nil
	}
	return a.chain.Ready(ctx)
}

// LogStart logs in one line who may register. It asks the chain for its id first.
func (a *Admission) LogStart(ctx context.Context) {
	switch {
	case a == nil:
		log.Info("Everybody who proves an address may register")
	case a.chain == nil:
		a.logList()
	default:
		go a.logChain(ctx)
	}
}

// logList logs how many addresses the list admits.
func (a *Admission) logList() {
	addresses := len(a.list.Load().list)
	if addresses == 0 {
		log.Warn("The admit file lists no address: nobody can register", "file", a.path)
		return
	}
	log.Info("Only the addresses of the admit file may register", "file", a.path, "addresses", addresses)
}

// logChain logs which balance an address needs, and on which chain.
func (a *Admission) logChain(ctx context.Context) {
	keys := a.chain.start(ctx)
	switch {
	case keys == nil: // the service ends already
	case a.path == "":
		log.Info("Only addresses that hold enough may register", keys...)
	case len(a.list.Load().list) == 0:
		a.logList()
	default:
		log.Info("Only addresses of the admit file that hold enough may register", append([]any{"file", a.path, "addresses", len(a.list.Load().list)}, keys...)...)
	}
}

// reload reads the list again. If it cannot be read, the old list stays.
func (a *Admission) reload() {
	if a == nil || a.path == "" {
		log.Info("Nothing to reload: there is no admit file")
		return
	}
	if err := a.read(); err != nil {
		log.Error("The admit file cannot be read; the previous list stays in use", "err", err)
		return
	}
	a.logList()
}

// ReloadOn reloads at each of the signals until the context ends.
func (a *Admission) ReloadOn(ctx context.Context, signals <-chan os.Signal) {
	for {
		select {
		case <-signals:
			a.reload()
		case <-ctx.Done():
			return
		}
	}
}

// ReadList reads addresses, one a line, with blank lines and comments between and after them. Its errors name the
// line and quote nothing: the file may be another than was meant, one with a key for instance.
func ReadList(path string) ([]common.Address, error) {
	f, size, err := files.Open(path, listLimit)
	if err != nil {
		return nil, fmt.Errorf("read the admit file: %w", err)
	}
	defer f.Close()
	list := make([]common.Address, 0, size/int64(len("0x")+names.AddressDigits+len("\n")))
	lines := bufio.NewScanner(f)
	number := 0
	for lines.Scan() {
		number++
		text, _, _ := strings.Cut(lines.Text(), "#")
		if number == 1 {
			text = files.WithoutMark(text)
		}
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
	slices.SortFunc(list, common.Address.Cmp)
	return slices.Compact(list), nil
}
