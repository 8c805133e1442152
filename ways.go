// ways.go owns which ways of creating accounts there are: the path that names each, what it needs, and what to do where it
// is missing. To add one is to add its value here.

package main

import (
	"errors"
	"fmt"
	"strings"
)

// Paths that create accounts.
const (
	createUserPath   = "/_matrix/client/api/v1/createUser"
	sharedSecretPath = "/_synapse/admin/v1/register"
	masUsersPath     = "/api/admin/v1/users"
)

// A way is one way of creating accounts.
type way struct {
	Path  string
	Name  string // in the operator's words
	Label string // in metrics
	Needs string // which software has it

	TakesSecret bool // it needs the homeserver's registration_shared_secret
	TakesToken  bool // it needs the as_token
	IsApart     bool // it is at a server of its own, where this service is a client with a secret

	Disabled string                   // what the log says where it is switched off
	Missing  func(is software) string // what to do where the homeserver, which is that, does not have it
}

// The ways of creating accounts.
var (
	createUserWay = &way{
		Path: createUserPath, Name: "createUser", Label: "createuser", Needs: "Synapse up to 0.34.0",
		TakesToken: true,
		Missing:    func(software) string { return createUserMissing },
	}
	sharedSecretWay = &way{
		Path: sharedSecretPath, Name: "shared-secret registration", Label: "sharedsecret", Needs: "Synapse 1.23.0 or later, Dendrite",
		TakesSecret: true,
		Disabled:    "The homeserver has shared-secret registration switched off",
		Missing:     sharedSecretIsMissing,
	}
	masWay = &way{
		Path: masUsersPath, Name: "Matrix Authentication Service", Label: "mas", Needs: "Matrix Authentication Service",
		TakesToken: true, IsApart: true,
		Disabled: "Matrix Authentication Service does not let this service make accounts",
		Missing:  func(software) string { return errMASMissing.Error() },
	}

	ways = []*way{createUserWay, sharedSecretWay, masWay}
)

// wayAt is the way that the path names.
func wayAt(path string) (*way, error) {
	var known []string
	for _, w := range ways {
		if w.Path == path {
			return w, nil
		}
		known = append(known, fmt.Sprintf("%s (%s)", w.Path, w.Needs))
	}
	last := len(known) - 1
	return nil, fmt.Errorf("give %s or %s", strings.Join(known[:last], ", "), known[last])
}

// What to do where a way is missing.
const (
	createUserMissing = "only Synapse up to 0.34.0 has createUser, and only on Python 2; for Synapse 1.23.0 or later create accounts at http://127.0.0.1:8007" + sharedSecretPath + " (the homeserver's own port, not nginx's) with its registration_shared_secret"

	sharedSecretMissing     = "Synapse serves " + sharedSecretPath + " since 1.23.0 as it is needed here, on its own port (8007 in the guide) and not through nginx, and not where Matrix Authentication Service is in charge"
	createUserInstead       = "for Synapse up to 0.34.0 create accounts at http://127.0.0.1:8008" + createUserPath
	sharedSecretOff         = "set registration_shared_secret in homeserver.yaml and restart the homeserver"
	masNotInCharge          = "write matrix_authentication_service: {enabled: true, endpoint: …, secret: …} into homeserver.yaml and restart it; or, without Matrix Authentication Service, create accounts at the homeserver" // at the homeserver
	sharedSecretOffDendrite = "set client_api.registration_shared_secret in dendrite.yaml and restart the homeserver"
)

func sharedSecretIsMissing(is software) string {
	switch {
	case is.Name == dendrite:
		return sharedSecretOffDendrite
	case is.Name == "" || isOldSynapse(is):
		return sharedSecretMissing + "; " + createUserInstead
	}
	return sharedSecretMissing
}

// errMASMissing is that Matrix Authentication Service has no admin API where it was asked.
var errMASMissing = errors.New("no admin API is there: create accounts at a listener of Matrix Authentication Service with the resources adminapi, which is off by default, and oauth")
