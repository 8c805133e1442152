// config_limits.go owns how much is let in.

package main

import "net/netip"

// limits are how much is let in. 0 is no limit.
type limits struct {
	rate, totalRate   float64 // a second
	burst, totalBurst int
	trustedProxies    []netip.Prefix
	maxInflight       int
	maxConnections    int
}
