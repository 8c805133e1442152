// names.go owns the names that Matrix and this service know: server names, user IDs, addresses, tokens and ids.

// Package names owns the grammar of names in texts: Matrix server names and user IDs, Ethereum addresses, tokens, hosts, networks
// and URLs. It does not know flags: the reader of a flag adds the flag's name to an error.
package names

import (
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"

	"github.com/ethereum/go-ethereum/common"
)

// longestUserID is the specification's limit, in bytes.
const longestUserID = 255

// AddressDigits is how many hex digits follow the 0x of an address.
const AddressDigits = 2 * common.AddressLength

var (
	serverPort = regexp.MustCompile(`^[0-9]{1,5}$`)
	hexAddress = regexp.MustCompile(fmt.Sprintf("^0x[0-9a-fA-F]{%d}$", AddressDigits))
)

// CheckServerName checks the name against the grammar of Matrix server names, and checks that the user IDs of nodes are not too
// long. IPv6 literals, which the grammar has, are not supported.
func CheckServerName(name string) error {
	if strings.HasPrefix(name, "[") || strings.Count(name, ":") > 1 {
		return fmt.Errorf("%q is an IPv6 literal, which is not supported: give the homeserver a name", name)
	}
	host, port, hasPort := strings.Cut(name, ":")
	if !hostForm.MatchString(host) || strings.Contains(host, "_") || hasPort && !serverPort.MatchString(port) {
		return fmt.Errorf("%q is not a Matrix server name: give the server_name of homeserver.yaml, such as example.org or example.org:8448", name)
	}
	if longest := longestUserID - len(UserID("", "")) - len("0x") - AddressDigits; len(name) > longest {
		return fmt.Errorf("%q has %d characters: with more than %d its user IDs are longer than Matrix allows", name, len(name), longest)
	}
	return nil
}

// UserID returns the Matrix user ID that a localpart has on a homeserver.
func UserID(localpart, serverName string) string {
	return "@" + localpart + ":" + serverName
}

// IsLocalpart reports whether the text is an Ethereum address in lowercase, the form of a node's localpart.
func IsLocalpart(text string) bool {
	digits, ok := strings.CutPrefix(text, "0x")
	return ok && IsLowerHex(digits, AddressDigits)
}

// Localpart returns the localpart of the node with the address.
func Localpart(address []byte) string { return "0x" + hex.EncodeToString(address) }

// IsAddress reports whether the text is an Ethereum address as people paste it: in one case, or in mixed case with a right
// EIP-55 checksum, which finds mistyped addresses. Capitals alone have no checksum, as some wallets print them.
func IsAddress(text string) bool {
	if !IsHexAddress(text) {
		return false
	}
	digits := text[len("0x"):]
	return digits == strings.ToLower(digits) || digits == strings.ToUpper(digits) || common.HexToAddress(text).Hex() == text
}

// IsHexAddress reports whether the text is an Ethereum address in any case, whatever its checksum.
func IsHexAddress(text string) bool { return hexAddress.MatchString(text) }

// IsLowerHex reports whether the text is exactly so many lowercase hex digits.
func IsLowerHex(text string, digits int) bool {
	return len(text) == digits && strings.Trim(text, "0123456789abcdef") == ""
}

// IsToken reports whether the text can be a token in an HTTP header. The empty text can.
func IsToken(text string) bool {
	return strings.IndexFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }) < 0
}
