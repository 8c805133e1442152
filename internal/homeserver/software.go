// software.go owns which program a homeserver is, and under which name.

package homeserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/recent"
)

// A Software is the program that a homeserver runs, and its version.
type Software struct{ Name, Version string }

func (s Software) String() string { return strings.TrimSpace(s.Name + " " + s.Version) }

// What homeservers call themselves.
const (
	Synapse  = "Synapse"
	Dendrite = "Dendrite"
)

// IsSynapse tells whether it is a Synapse, with a version that can be compared.
func (s Software) IsSynapse() bool {
	_, _, ok := s.release()
	return ok && s.Name == Synapse
}

// Before tells whether the version is older than the given one.
func (s Software) Before(major, minor int) bool {
	itsMajor, itsMinor, ok := s.release()
	return ok && (itsMajor < major || itsMajor == major && itsMinor < minor)
}

// release is the first two numbers of the version.
func (s Software) release() (major, minor int, ok bool) {
	n, _ := fmt.Sscanf(s.Version, "%d.%d", &major, &minor)
	return major, minor, n == 2
}

// Software asks which program the homeserver is. The zero value where it does not tell, as a listener without
// the federation resource does not.
func (h *Client) Software(ctx context.Context) (Software, error) {
	a, err := h.Call(ctx, Request{Name: "version", Within: ReadTime, Method: http.MethodGet, Path: versionPath})
	switch {
	case err != nil:
		return Software{}, NotSent(h.NotReached(err))
	case a.TellsNothing():
		return Software{}, NotSent(h.Failure(a, "its version cannot be read"))
	}
	var said struct {
		Server struct{ Name, Version string } `json:"server"`
	}
	if a.Status != http.StatusOK || a.Cut != nil || json.Unmarshal(a.Body, &said) != nil {
		return Software{}, nil
	}
	version, _, _ := strings.Cut(said.Server.Version, " ") // Synapse run from a checkout adds its branch
	return Software{Name: h.scrub(said.Server.Name), Version: h.scrub(version)}, nil
}

var ErrOtherServerName = errors.New("its server_name")

// CheckServerName asks for the homeserver's server_name, and refuses one that is not ours: an account there would
// have another user ID than the one that was proven. A listener without the federation resource does not have it to tell;
// one that fails to answer is a failure.
func (h *Client) CheckServerName(ctx context.Context) error {
	a, err := h.Call(ctx, Request{Name: "key", Within: ReadTime, Method: http.MethodGet, Path: keyPath})
	if err != nil {
		return NotSent(h.NotReached(err))
	}
	if a.TellsNothing() {
		return NotSent(h.Failure(a, "its server_name cannot be read"))
	}
	var said struct {
		ServerName string `json:"server_name"`
	}
	if a.Status != http.StatusOK || a.Cut != nil || json.Unmarshal(a.Body, &said) != nil || names.CheckServerName(said.ServerName) != nil || said.ServerName == h.ServerName {
		return nil
	}
	return &Error{Reason: "the homeserver has another name than this service was told", Cause: fmt.Errorf("%w is %q and this service was told %q: give the homeserver's", ErrOtherServerName, said.ServerName, h.ServerName)}
}

// knownTime is how long a homeserver is taken for what it was. Another may be put in its place, under another name or with
// another rule for passwords.
const knownTime = time.Minute

// A KnownName remembers for a minute that the homeserver has our server name. The APIs take localparts, and create accounts
// under any server name.
type KnownName struct{ answer recent.Answer[struct{}] }

// Check asks for the homeserver's server name where that is too long ago. Its error is a *Error.
func (k *KnownName) Check(ctx context.Context, h *Client) error {
	_, err := Recently(ctx, &k.answer, func(ctx context.Context) (struct{}, time.Duration, error) {
		err := h.CheckServerName(ctx)
		return struct{}{}, ifGood(err, knownTime), err
	})
	return err
}

// Forget has it asked for anew.
func (k *KnownName) Forget() { k.answer.Forget(func(struct{}) bool { return true }) }

// ifGood is how long an answer counts that must be asked for again after an error.
func ifGood(err error, lasts time.Duration) time.Duration {
	if err != nil {
		return 0
	}
	return lasts
}

// Recently returns the answer of the homeserver, asking where none is kept. The errors of the Ask have to be *Error. Each
// caller that waits gets an *Error of its own, since callers add to it.
func Recently[T any](ctx context.Context, a *recent.Answer[T], ask recent.Ask[T]) (T, error) {
	value, err := a.Get(ctx, ask)
	if err == nil {
		return value, nil
	}
	failed, ok := errors.AsType[*Error](err)
	if !ok { // the caller's context has ended
		return value, &Error{Reason: "the homeserver did not answer in time"}
	}
	own := *failed
	return value, &own
}

// BcryptLength is how many bytes of a password bcrypt reads. A way whose homeserver ends in bcrypt sends as many, since
// Go's bcrypt and Dendrite refuse more. Every other sends the whole password, since the homeserver may hash with something
// that reads all of it.
//
// It is sound because those two log in by the same first 72 bytes, whatever follows them, and because these are 288
// bits of a signature that only the key's holder can make.
const BcryptLength = 72
