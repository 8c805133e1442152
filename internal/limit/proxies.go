// proxies.go owns the address of a client.

package limit

import (
	"net/http"
	"net/netip"
	"strings"
)

// Proxies are the networks of the proxies that are trusted to say who a client is.
type Proxies []netip.Prefix

func (p Proxies) trust(a netip.Addr) bool {
	for _, prefix := range p {
		if prefix.Contains(a) {
			return true
		}
	}
	return false
}

// Client returns the address of the client. It reads the X-Forwarded-For of a trusted proxy from the right, since each proxy adds
// the peer that it saw. The first address that is no trusted proxy is the client's. Addresses left of it may be invented by the
// client. If all are trusted, the leftmost is the client's. Known is false if a trusted proxy names no readable address; then
// the address is the proxy's.
func (p Proxies) Client(r *http.Request) (client netip.Addr, known bool) {
	peer, _ := netip.ParseAddrPort(r.RemoteAddr)
	client = plain(peer.Addr())
	if !p.trust(client) {
		return client, client.IsValid()
	}
	values := r.Header["X-Forwarded-For"]
	for i := len(values) - 1; i >= 0; i-- {
		for rest, more := values[i], true; more; {
			entry := rest
			if comma := strings.LastIndexByte(rest, ','); comma >= 0 {
				rest, entry = rest[:comma], rest[comma+1:]
			} else {
				more = false
			}
			entry = strings.Trim(entry, " \t")
			if entry == "" { // which lists may have
				continue
			}
			named, ok := parseClient(entry)
			if !ok {
				return plain(peer.Addr()), false
			}
			client, known = named, true
			if !p.trust(client) {
				return client, true
			}
		}
	}
	return client, known
}

// parseClient reads an address, with a port too, as some proxies add one.
func parseClient(entry string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(entry, "["), "]"))
	if err != nil {
		withPort, err := netip.ParseAddrPort(entry)
		return plain(withPort.Addr()), err == nil
	}
	return plain(a), true
}

// plain returns the canonical form of an address: IPv4 is not mapped to IPv6, and there is no zone, which means something on this
// machine only.
func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }
