// limits.go owns how much is let in.

package config

import "net/netip"

// Limits are how much is let in. 0 is no limit.
type Limits struct {
	Rate, TotalRate   float64 // a second
	Burst, TotalBurst int
	TrustedProxies    []netip.Prefix
	MaxInflight       int
	MaxConnections    int
}
