// config_limits.go owns the flags of the limits: their defaults, what they may be, and which of them run.sh needs.

package main

import (
	"fmt"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
	"github.com/urfave/cli/v3"
)

const (
	flagRateLimit      = "rate-limit"
	flagRateBurst      = "rate-burst"
	flagTotalRateLimit = "total-rate-limit"
	flagTotalRateBurst = "total-rate-burst"
	flagTrustedProxies = "trusted-proxies"
	flagMaxInflight    = "max-inflight"
	flagMaxConnections = "max-connections"
)

// limitFlags are the flags with their defaults, for whose reasons see docs/deployment.md.
var limitFlags = []struct {
	name  string
	value any
	usage string
}{
	{flagRateLimit, 1.0, "registrations a second that a client address may ask for; 0: no limit"},
	{flagRateBurst, 60, "how many it may ask for at once; 0: no limit"},
	{flagTotalRateLimit, 10.0, "new nodes a second in all, counted when their proof holds; 0: no limit"},
	{flagTotalRateBurst, 300, "how many at once; 0: no limit"},
	{flagTrustedProxies, "127.0.0.0/8,::1", "`ADDRESSES` and networks whose X-Forwarded-For is believed, with commas between"},
	{flagMaxInflight, 64, "attempts that ask the homeserver at once; 0: no limit"},
	{flagMaxConnections, 2000, "connections that are held at once; 0: no limit"},
}

// Bounds of what the flags may be.
const (
	slowestRate = 0.001 // a second: one in a quarter of an hour
	fastestRate = 1e6
	mostAtOnce  = 1_000_000
)

// limits are how much is let in. 0 is no limit.
type limits struct {
	rate, totalRate   float64 // a second
	burst, totalBurst int
	trustedProxies    proxies
	maxInflight       int
	maxConnections    int

	unusual []string // flags and values that are not the defaults, for run.sh
}

// rootLimitFlags are the limits among rootFlags.
func rootLimitFlags(fromEnvironment func(name string) cli.ValueSourceChain) []cli.Flag {
	var flags []cli.Flag
	for _, f := range limitFlags {
		switch value := f.value.(type) {
		case float64:
			flags = append(flags, &cli.FloatFlag{Name: f.name, Value: value, Usage: f.usage, Sources: fromEnvironment(f.name)})
		case int:
			flags = append(flags, &cli.IntFlag{Name: f.name, Value: value, Usage: f.usage, Sources: fromEnvironment(f.name)})
		case string:
			flags = append(flags, &cli.StringFlag{Name: f.name, Value: value, Usage: f.usage, Sources: fromEnvironment(f.name)})
		}
	}
	return flags
}

// readLimits checks the flags of the limits.
func readLimits(cmd *cli.Command) (limits, error) {
	l := limits{
		rate:           cmd.Float(flagRateLimit),
		burst:          cmd.Int(flagRateBurst),
		totalRate:      cmd.Float(flagTotalRateLimit),
		totalBurst:     cmd.Int(flagTotalRateBurst),
		maxInflight:    cmd.Int(flagMaxInflight),
		maxConnections: cmd.Int(flagMaxConnections),
	}
	for _, f := range limitFlags {
		switch value := cmd.Value(f.name).(type) {
		case float64:
			if value != 0 && !(value >= slowestRate && value <= fastestRate) { // NaN is not in there either
				return limits{}, fmt.Errorf("--%s %v is not a rate: give one from %v to %d a second, or 0 for no limit", f.name, value, slowestRate, int(fastestRate))
			}
		case int:
			if value < 0 || value > mostAtOnce {
				return limits{}, fmt.Errorf("--%s %d is not a number of them: give one from 1 to %d, or 0 for no limit", f.name, value, mostAtOnce)
			}
		}
		if value := cmd.Value(f.name); value != f.value {
			l.unusual = append(l.unusual, "--"+f.name, fmt.Sprint(value))
		}
	}
	var err error
	if l.trustedProxies, err = names.ParseNetworks(cmd.String(flagTrustedProxies)); err != nil {
		return limits{}, fmt.Errorf("--%s: %w", flagTrustedProxies, err)
	}
	return l, nil
}
