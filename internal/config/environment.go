// environment.go owns the other variables with this program's prefix: those of Kubernetes, mistyped names, and names that mean
// nothing.

package config

import (
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
)

const environmentPrefix = "MATRIX_REGSERVICE_"

// mostEdits is how many letters a mistyped name may add, drop or change. Two swapped letters are two changes.
const mostEdits = 2

// checkEnvironment refuses a variable whose name, prefix included, is nearly that of a flag: its value would be ignored, and with
// it perhaps a list of who may register. It returns the other names with this prefix, which mean nothing.
func checkEnvironment() (unknown []string, err error) { return checkVariables(os.Environ()) }

// checkVariables is that for variables from wherever, as "NAME=value".
func checkVariables(entries []string) (unknown []string, err error) {
	for _, entry := range entries {
		name, value, _ := strings.Cut(entry, "=")
		if isOfKubernetes(name, value) {
			continue
		}
		nearest, edits := nearestVariable(strings.ToUpper(name))
		switch {
		case edits == 0 && name == nearest:
		case nearest != "" && edits <= mostEdits:
			return nil, fmt.Errorf("there is no variable %s: is %s meant? Correct it, or unset it", name, nearest)
		case len(name) >= len(environmentPrefix) && strings.EqualFold(name[:len(environmentPrefix)], environmentPrefix):
			unknown = append(unknown, name)
		}
	}
	slices.Sort(unknown)
	return unknown, nil
}

// nearestVariable returns the variable of a flag that takes the fewest edits, and their number.
func nearestVariable(name string) (nearest string, edits int) {
	edits = len(name)
	variables := []string{environmentVariable}
	for i := range Table {
		variables = append(variables, Table[i].Variable())
	}
	for _, variable := range variables {
		if d := distance(name, variable); d < edits {
			nearest, edits = variable, d
		}
	}
	return nearest, edits
}

// distance is Levenshtein's, in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// kubernetesForms are what Kubernetes sets for each Service of the namespace, names and values: one called matrix-regservice, or
// matrix-regservice-db, has this program's prefix.
// https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
var kubernetesForms = []struct {
	name  *regexp.Regexp
	value func(string) bool
}{
	{regexp.MustCompile(`_SERVICE_HOST$|_PORT_[0-9]+_(TCP|UDP|SCTP)_ADDR$`), isIP},
	{regexp.MustCompile(`_SERVICE_PORT(_[A-Z0-9_]+)?$|_PORT_[0-9]+_(TCP|UDP|SCTP)_PORT$`), names.IsPort},
	{regexp.MustCompile(`_PORT_[0-9]+_(TCP|UDP|SCTP)_PROTO$`), regexp.MustCompile(`^(tcp|udp|sctp)$`).MatchString},
	{regexp.MustCompile(`_PORT(_[0-9]+_(TCP|UDP|SCTP))?$`), isServiceURL},
}

// isOfKubernetes reports whether both the name and the value have a form that Kubernetes sets.
func isOfKubernetes(name, value string) bool {
	for _, form := range kubernetesForms {
		if form.name.MatchString(name) && form.value(value) {
			return true
		}
	}
	return false
}

func isIP(text string) bool {
	_, err := netip.ParseAddr(text)
	return err == nil
}

// isServiceURL reports whether the text is a URL such as tcp://10.96.0.12:8009.
func isServiceURL(text string) bool {
	scheme, address, _ := strings.Cut(text, "://")
	_, err := netip.ParseAddrPort(address)
	return err == nil && (scheme == "tcp" || scheme == "udp" || scheme == "sctp")
}
