// environment_test.go owns the tests of the environment variables: unknown ones are named, and other programs use none of them.

package config

import (
	"slices"
	"strings"
	"testing"
)

// What Kubernetes sets, name and value, is nothing to this program; what is nearly a flag's name is an error.
func TestCheckEnvironment(t *testing.T) {
	const missing = "there is no variable "
	for _, test := range []struct {
		entry   string
		unknown bool
		want    string // in the error
	}{
		{"PORT=8009", false, ""},
		{"PORT=tcp://10.96.0.12:8009", false, ""},
		{"PORT=tcp://[fd00::1]:8009", false, ""},
		{"SERVICE_HOST=10.96.0.12", false, ""},
		{"SERVICE_PORT=8009", false, ""},
		{"SERVICE_PORT_HTTP=8009", false, ""},
		{"PORT_8009_TCP=tcp://10.96.0.12:8009", false, ""},
		{"PORT_8009_TCP_PROTO=tcp", false, ""},
		{"PORT_8009_TCP_PORT=8009", false, ""},
		{"PORT_8009_TCP_ADDR=10.96.0.12", false, ""},
		{"DB_SERVICE_HOST=10.96.0.13", false, ""},
		{"DB_SERVICE_PORT_PG=5432", false, ""},
		{"DB_PORT=tcp://10.96.0.13:5432", false, ""},
		{"DB_PORT_5432_TCP_ADDR=10.96.0.13", false, ""},
		// The name alone is not enough, nor is the value.
		{"SERVICE_HOST=hunter2hunter2", true, ""},
		{"DB_PORT=5432", true, ""},
		{"DB_SERVICE_PORT=http", true, ""},
		{"PORT_8009_TCP_ADDR=gateway", true, ""},
		{"PORTS=tcp://10.96.0.12:8009", false, missing + "MATRIX_REGSERVICE_PORTS: is MATRIX_REGSERVICE_PORT meant?"},
		{"ADMIT_FLIE=hunter2", false, missing + "MATRIX_REGSERVICE_ADMIT_FLIE: is MATRIX_REGSERVICE_ADMIT_FILE meant?"},
		{"ADMITFILE=hunter2", false, "MATRIX_REGSERVICE_ADMIT_FILE meant?"},
		{"ADMIT-FILE=hunter2", false, "MATRIX_REGSERVICE_ADMIT_FILE meant?"},
		{"admit_file=hunter2", false, "MATRIX_REGSERVICE_ADMIT_FILE meant?"},
		{"ADMIT_FIL=", false, "MATRIX_REGSERVICE_ADMIT_FILE meant?"},
		{"MIN_BALANCES=1", false, "MATRIX_REGSERVICE_MIN_BALANCE meant?"},
		{"ADMITTED=hunter2", true, ""},
		{"IMAGE_TAG=hunter2", true, ""},
	} {
		t.Run(test.entry, func(t *testing.T) {
			name, value, _ := strings.Cut(test.entry, "=")
			t.Setenv(environmentPrefix+name, value)
			unknown, err := checkEnvironment()
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			if got := slices.Contains(unknown, environmentPrefix+name); got != test.unknown {
				t.Errorf("unknown: got %t of %v", got, unknown)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("quotes the value: %v", err)
			}
		})
	}
}

// A mistyped prefix is a mistyped name too.
func TestCheckEnvironmentPrefix(t *testing.T) {
	for name, refused := range map[string]bool{
		"MATRIX_REGSERVCE_ADMIT_FILE":         true,
		"MATRIXREGSERVICE_ADMIT_FILE":         true,
		"MATRIX_REG_SERVICE_MIN_BALANCE":      true,
		"MATRIX-REGSERVICE-ETH_RPC":           true,
		"matrix_regservce_admit_file":         true,
		"_MATRIX_REGSERVICE_HOST":             true,
		"MATRIX_REGSERVCE_SERVICE_PORT_ADMIN": false, // of another service
		"REGSERVICE_ADMIT_FILE":               false,
		"MATRIX_SYNAPSE_HOST":                 false,
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(name, "hunter2")
			unknown, err := checkEnvironment()
			if refused != (err != nil && strings.Contains(err.Error(), "there is no variable "+name)) || len(unknown) > 0 {
				t.Errorf("got %v, unknown %v; refused should be %t", err, unknown, refused)
			}
		})
	}
}

// No flag's own variable is nearly another's, so that each is told.
func TestVariablesAreApart(t *testing.T) {
	for _, row := range Table {
		if nearest, edits := nearestVariable(row.Variable()); nearest != row.Variable() || edits != 0 {
			t.Errorf("%s: got %s, %d edits", row.Variable(), nearest, edits)
		}
	}
}
