// software.go owns which program a homeserver is, and under which name.

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
)

// A software is the program that a homeserver runs, and its version.
type software struct{ Name, Version string }

func (s software) String() string { return strings.TrimSpace(s.Name + " " + s.Version) }

// What homeservers call themselves.
const (
	synapse  = "Synapse"
	dendrite = "Dendrite"
)

// isSynapse tells whether it is a Synapse, with a version that can be compared.
func (s software) isSynapse() bool {
	_, _, ok := s.release()
	return ok && s.Name == synapse
}

// before tells whether the version is older than the given one.
func (s software) before(major, minor int) bool {
	itsMajor, itsMinor, ok := s.release()
	return ok && (itsMajor < major || itsMajor == major && itsMinor < minor)
}

// release is the first two numbers of the version.
func (s software) release() (major, minor int, ok bool) {
	n, _ := fmt.Sscanf(s.Version, "%d.%d", &major, &minor)
	return major, minor, n == 2
}

// software asks which program the homeserver is. The zero value where it does not tell, as a listener without
// the federation resource does not.
func (h *homeserver) software(ctx context.Context) (software, error) {
	a, err := h.call(ctx, request{name: "version", within: lookUpTime, method: http.MethodGet, path: versionPath})
	switch {
	case err != nil:
		return software{}, notSent(h.notReached(err))
	case a.tellsNothing():
		return software{}, notSent(h.failure(a, "its version cannot be read"))
	}
	var said struct {
		Server struct{ Name, Version string } `json:"server"`
	}
	if a.status != http.StatusOK || a.cut != nil || json.Unmarshal(a.body, &said) != nil {
		return software{}, nil
	}
	version, _, _ := strings.Cut(said.Server.Version, " ") // Synapse run from a checkout adds its branch
	return software{Name: h.scrub(said.Server.Name), Version: h.scrub(version)}, nil
}

var errOtherServerName = errors.New("its server_name")

// checkServerName asks for the homeserver's server_name, and refuses one that is not ours: an account there would
// have another user ID than the one that was proven. A listener without the federation resource does not have it to tell;
// one that fails to answer is a failure.
func (h *homeserver) checkServerName(ctx context.Context) error {
	a, err := h.call(ctx, request{name: "key", within: lookUpTime, method: http.MethodGet, path: keyPath})
	if err != nil {
		return notSent(h.notReached(err))
	}
	if a.tellsNothing() {
		return notSent(h.failure(a, "its server_name cannot be read"))
	}
	var said struct {
		ServerName string `json:"server_name"`
	}
	if a.status != http.StatusOK || a.cut != nil || json.Unmarshal(a.body, &said) != nil || names.CheckServerName(said.ServerName) != nil || said.ServerName == h.serverName {
		return nil
	}
	return &homeserverError{reason: "the homeserver has another name than this service was told", cause: fmt.Errorf("%w is %q and this service was told %q: give the homeserver's", errOtherServerName, said.ServerName, h.serverName)}
}

// knownTime is for how long a homeserver is taken for what it was. Another may be put in its place, under another name
// or with another rule for passwords.
const knownTime = time.Minute

// A knownName remembers that the homeserver has our server name. The APIs go by localparts and create under any.
type knownName struct{ until atomic.Pointer[time.Time] }

// check asks for the homeserver's server name where that is too long ago.
func (k *knownName) check(ctx context.Context, h *homeserver) error {
	if until := k.until.Load(); until != nil && time.Now().Before(*until) {
		return nil
	}
	if err := h.checkServerName(ctx); err != nil {
		return err
	}
	until := time.Now().Add(knownTime)
	k.until.Store(&until)
	return nil
}

// bcryptLength is how many bytes of a password bcrypt reads. A way whose homeserver ends in bcrypt sends as many, since
// Go's bcrypt and Dendrite refuse more. Every other sends the whole password, since the homeserver may hash with something
// that reads all of it.
//
// It is sound because those two log in by the same first 72 bytes, whatever follows them, and because these are 288
// bits of a signature that only the key's holder can make.
const bcryptLength = 72
