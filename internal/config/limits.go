// limits.go owns the limits on clients and connections.

package config

import "net/netip"

// Limits are the limits on clients and connections. 0 is no limit.
type Limits struct {
	Rate, TotalRate   float64 // a second
	Burst, TotalBurst int
	TrustedProxies    []netip.Prefix
	MaxInflight       int
	MaxConnections    int
}
