// store.go owns the record: what is kept of a node, its states, and the store's errors.

package main

import (
	"errors"
	"time"
)

// A state is how far a node's registration has come. A node without a record is unknown.
type state string

const (
	statePending    state = "pending"    // an attempt was begun and its end is not known: the account may be there
	stateRegistered state = "registered" // the account is there
)

// A record is what is kept of a node: never its password, a hash or a token.
type record struct {
	Localpart   string    `json:"localpart"`
	UserID      string    `json:"user_id"`
	DisplayName string    `json:"displayname"` // the one last proven; the homeserver's may differ (see register's table)
	State       state     `json:"state"`
	Created     time.Time `json:"created"` // when the first attempt began
	Updated     time.Time `json:"updated"` // when the record was last written
}

var (
	errNoRecord    = errors.New("no record")
	errStoreLocked = errors.New("the store is in use by another matrix-regservice: stop that one, or give this one a --datapath of its own")
)
