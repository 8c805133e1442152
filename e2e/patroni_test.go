// patroni_test.go owns the gateways on PostgreSQL as operators run it: three of it under Patroni, which replaces the primary by
// itself, in whatever way that goes.

package e2e

import (
	"testing"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
)

// newPatroni starts a cluster of three with the gateways' database.
func newPatroni(t *testing.T) *PatroniCluster {
	t.Helper()
	p, err := StartPatroni(t.Context(), 3)
	t.Cleanup(func() {
		if p == nil {
			return
		}
		if t.Failed() {
			for _, h := range p.Hosts {
				t.Logf("--- the end of %s of %s ---\n%s", h.LogFile, h.Name, logTail(h.LogFile))
			}
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	primary := must(p.Primary(t.Context(), nil))(t)
	if err := primary.MakeDatabase(t.Context(), linearDatabase); err != nil {
		t.Fatal(err)
	}
	return p
}

// Whatever becomes of the primary, Patroni puts another in its place, the gateways find it by themselves, and are one register
// for each address throughout.
func TestPatroni(t *testing.T) {
	need.OnlyLong(t)
	need.All(t, PatroniInstalled())
	t.Parallel()
	p := newPatroni(t)
	var addresses []string
	for _, h := range p.Hosts {
		addresses = append(addresses, h.Address())
	}
	c := newLinearCluster(t, FailoverURL(linearDatabase, addresses...))
	c.start(t)
	c.homeserver.setFaulty(true)
	primary := must(p.Primary(t.Context(), nil))(t)
	ways := []struct {
		name       string
		goes, back func(*PatroniHost) error
		stays      bool // the same host may be the primary again
	}{
		{"the primary's host dies", (*PatroniHost).Kill, func(h *PatroniHost) error { return h.Start(t.Context()) }, false},
		{"PostgreSQL alone dies", (*PatroniHost).Crash, nil, true},
		{"the primary's host hangs", (*PatroniHost).Freeze, func(h *PatroniHost) error { return h.Reset(t.Context()) }, false},
	}
	c.under(t, func() {
		for _, way := range ways {
			time.Sleep(2 * time.Second)
			c.quiet.Add(1)
			gone, since := primary, c.history.now()
			t.Logf("%s: %s", way.name, gone.Name)
			if err := way.goes(gone); err != nil {
				t.Fatal(err)
			}
			former := gone
			if way.stays {
				former = nil
			}
			primary = must(p.Primary(t.Context(), former))(t)
			t.Logf("%s: %s is the primary after %v", way.name, primary.Name, time.Duration(c.history.now()-since).Round(time.Millisecond))
			c.reachable(t, since)
			if way.back != nil {
				if err := way.back(gone); err != nil {
					t.Fatal(err)
				}
			}
			if err := p.WaitWhole(t.Context()); err != nil {
				t.Fatalf("%v\n%s", err, p.State(t.Context()))
			}
			c.quiet.Add(1)
			primary = must(p.Primary(t.Context(), nil))(t)
		}
	})
	c.conclude(t, primary.Postgres)
	c.mustBeLinear(t)
}
