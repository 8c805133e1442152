// software.go owns which software a homeserver runs, and under which server name.

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

// IsSynapse reports whether it is a Synapse with a version that can be compared.
func (s Software) IsSynapse() bool {
	return s.IsRelease() && s.Name == Synapse
}

// IsUntried reports whether it says which homeserver it is, and this service was never run with that one.
func (s Software) IsUntried() bool { return s.Name != "" && s.Name != Synapse && s.Name != Dendrite }

// Before reports whether the version is older than the given one.
func (s Software) Before(major, minor int) bool {
	itsMajor, itsMinor, ok := s.release()
	return ok && (itsMajor < major || itsMajor == major && itsMinor < minor)
}

// IsRelease tells whether the version can be compared.
func (s Software) IsRelease() bool {
	_, _, ok := s.release()
	return ok
}

// release is the first two numbers of the version.
func (s Software) release() (major, minor int, ok bool) {
	n, _ := fmt.Sscanf(s.Version, "%d.%d", &major, &minor)
	return major, minor, n == 2
}

// Software asks which software the homeserver runs. It returns the zero value if the homeserver does not tell: a listener without
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

// ErrOtherServerName is in the error of CheckServerName if the homeserver has another name.
var ErrOtherServerName = errors.New("its server_name")

// TellServerName asks for the homeserver's server_name. A listener without the federation resource does not tell it, for which it
// returns "". Its error is a *Error.
func (h *Client) TellServerName(ctx context.Context) (string, error) {
	a, err := h.Call(ctx, Request{Name: "key", Within: ReadTime, Method: http.MethodGet, Path: keyPath})
	if err != nil {
		return "", NotSent(h.NotReached(err))
	}
	if a.TellsNothing() {
		return "", NotSent(h.Failure(a, "its server_name cannot be read"))
	}
	var said struct {
		ServerName string `json:"server_name"`
	}
	if a.Status != http.StatusOK || a.Cut != nil || json.Unmarshal(a.Body, &said) != nil || names.CheckServerName(said.ServerName) != nil {
		return "", nil
	}
	return said.ServerName, nil
}

// CheckServerName refuses a homeserver of another server_name than this service was told: an account there would have another user
// ID than the one that was proven. One that does not tell is accepted. If the call fails, that is an error.
func (h *Client) CheckServerName(ctx context.Context) error {
	name, err := h.TellServerName(ctx)
	if err != nil || name == "" || name == h.ServerName {
		return err
	}
	return &Error{Reason: "the homeserver has another name than this service was told", Cause: fmt.Errorf("%w is %q and this service was told %q: give the homeserver's", ErrOtherServerName, name, h.ServerName)}
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

// Forget lets the next Check ask again.
func (k *KnownName) Forget() { k.answer.Forget(func(struct{}) bool { return true }) }

// ifGood returns how long an answer counts: 0 if it is an error.
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

// BcryptLength is how many bytes of a password bcrypt reads. createUser and Dendrite get no more, since Go's bcrypt and Dendrite
// refuse a longer one. Every other homeserver gets the whole password, since its hash may read all of it.
//
// That is safe: a login at those two compares the same 72 bytes, and they are 288 bits of a signature that only the holder of the
// key can make.
const BcryptLength = 72
