// hosts.go owns hosts, ports and networks.

package names

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

var hostForm = regexp.MustCompile(`^[0-9A-Za-z]([0-9A-Za-z._-]*[0-9A-Za-z])?$`)

// IsHost reports whether the text is an address or a host name. It is false for an address with a zone, which URLs spell in
// another way.
func IsHost(text string) bool {
	address, err := netip.ParseAddr(text)
	return err == nil && address.Zone() == "" || hostForm.MatchString(text)
}

// IsPort reports whether the text is a port from 1 to 65535.
func IsPort(text string) bool {
	port, err := strconv.Atoi(text)
	return err == nil && port >= 1 && port <= 65535
}

// IsAnyPort reports whether the text is port 0, for which the system chooses a free one.
func IsAnyPort(text string) bool {
	port, err := strconv.Atoi(text)
	return err == nil && port == 0
}

// IsLoopback reports whether the host is a loopback name or address.
func IsLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// ReachableHost returns the host at which a client on this machine reaches a daemon that listens on the given one. They
// differ where it listens on every address.
func ReachableHost(host string) string {
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsUnspecified() {
		if ip.Is6() {
			return "::1"
		}
		return "127.0.0.1"
	}
	return host
}

// ParseNetworks reads addresses and networks, with commas between them. An address becomes a network of one address.
func ParseNetworks(text string) ([]netip.Prefix, error) {
	var networks []netip.Prefix
	for entry := range strings.SplitSeq(text, ",") {
		entry = strings.TrimSpace(entry)
		if entry == "" {
			continue
		}
		prefix, err := netip.ParsePrefix(entry)
		if a, alone := netip.ParseAddr(entry); alone == nil && a.Zone() == "" {
			a = a.Unmap()
			prefix, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if err != nil || prefix.Addr().Is4In6() {
			return nil, fmt.Errorf("%q is neither an address nor a network: give such as 127.0.0.1 or 10.0.0.0/8, separated by commas", entry)
		}
		networks = append(networks, prefix.Masked())
	}
	return networks, nil
}
