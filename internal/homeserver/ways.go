// ways.go owns the ways of creating accounts: the path that names each, what it needs, and what to do if it is missing. A further
// way is a value here, a package like internal/mas, its case in newAccounts of matrixclient.go, the flags that it reads in
// internal/config, and its rules in internal/check/rules.go.

package homeserver

import (
	"errors"
	"fmt"
	"strings"
)

// Paths that create accounts.
const (
	CreateUserPath   = "/_matrix/client/api/v1/createUser"
	SharedSecretPath = "/_synapse/admin/v1/register"
	MASUsersPath     = "/api/admin/v1/users"
)

// GuideMAS is where the guide has the admin API of Matrix Authentication Service: on a listener of its own, since that has one
// for its own use at port 8081 already, and does not start with two.
const GuideMAS = "http://127.0.0.1:8082"

// A Way is one way of creating accounts.
type Way struct {
	Path  string
	Name  string // in the operator's words
	Label string // in metrics
	needs string // which software has it

	TakesSecret bool // it needs the homeserver's registration_shared_secret
	TakesToken  bool // it needs the as_token
	IsMAS       bool // it is Matrix Authentication Service: a server of its own, where this service is a client with a secret

	Disabled string                   // what the log says where it is switched off
	Missing  func(is Software) string // what to do if a homeserver of this software does not have it
}

// The ways of creating accounts.
var (
	CreateUser = &Way{
		Path: CreateUserPath, Name: "createUser", Label: "createuser", needs: "Synapse up to 0.34.0",
		TakesToken: true,
		Missing:    func(Software) string { return CreateUserMissing },
	}
	SharedSecret = &Way{
		Path: SharedSecretPath, Name: "shared-secret registration", Label: "sharedsecret", needs: "Synapse 1.23.0 or later, Dendrite",
		TakesSecret: true,
		Disabled:    "The homeserver has shared-secret registration switched off",
		Missing:     sharedSecretIsMissing,
	}
	MAS = &Way{
		Path: MASUsersPath, Name: "Matrix Authentication Service", Label: "mas", needs: "Matrix Authentication Service",
		TakesToken: true, IsMAS: true,
		Disabled: "Matrix Authentication Service does not let this service make accounts",
		Missing:  func(Software) string { return ErrMASMissing.Error() },
	}

	Ways = []*Way{CreateUser, SharedSecret, MAS}
)

// WayAt returns the way that the path names.
func WayAt(path string) (*Way, error) {
	var known []string
	for _, w := range Ways {
		if w.Path == path {
			return w, nil
		}
		known = append(known, fmt.Sprintf("%s (%s)", w.Path, w.needs))
	}
	last := len(known) - 1
	return nil, fmt.Errorf("give %s or %s", strings.Join(known[:last], ", "), known[last])
}

// What to do if a way is missing.
const (
	CreateUserMissing = "only Synapse up to 0.34.0 has createUser, and only on Python 2; for Synapse 1.23.0 or later create accounts at http://127.0.0.1:8007" + SharedSecretPath + " (the homeserver's own port, not nginx's) with its registration_shared_secret"

	sharedSecretMissing     = "Synapse serves " + SharedSecretPath + " from 1.23.0 on, at its own port (8007 in the guide) and not through nginx, unless Matrix Authentication Service is in charge"
	createUserInstead       = "for Synapse up to 0.34.0 create accounts at http://127.0.0.1:8008" + CreateUserPath
	SharedSecretOff         = "set registration_shared_secret in homeserver.yaml and restart the homeserver"
	MASNotInCharge          = "write matrix_authentication_service: {enabled: true, endpoint: …, secret: …} into homeserver.yaml and restart it; or, without Matrix Authentication Service, create accounts at the homeserver" // at the homeserver
	sharedSecretOffDendrite = "set client_api.registration_shared_secret in dendrite.yaml and restart the homeserver"
)

func sharedSecretIsMissing(is Software) string {
	switch {
	case is.Name == Dendrite:
		return sharedSecretOffDendrite
	case is.Name == "" || isOldSynapse(is):
		return sharedSecretMissing + "; " + createUserInstead
	}
	return sharedSecretMissing
}

// ErrMASMissing says that no admin API of Matrix Authentication Service is there.
var ErrMASMissing = errors.New("no admin API is there: create accounts at a listener of Matrix Authentication Service with the resources adminapi, which is off by default, and oauth")
