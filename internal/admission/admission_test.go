// admission_test.go owns the tests of the admit list: reading it, its bounds, reading it again.

package admission

import (
	"bytes"
	"cmp"
	"errors"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/log"
	"go.uber.org/goleak"
)

const (
	listedAddress = "0x6d12d262a2fe4fd9c714ad3521acbea52adb4aaf"
	mixedAddress  = "0x264690a49829370f1c539F1415870EFb8780fcB2"
)

func writeTemp(t testing.TB, content string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestMain looks for goroutines that are left.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// captureLog returns what is logged from now on, as logfmt.
func captureLog(t *testing.T) *bytes.Buffer {
	t.Helper()
	before := log.Root()
	t.Cleanup(func() { log.SetDefault(before) })
	lines := new(bytes.Buffer)
	log.SetDefault(log.NewLogger(log.LogfmtHandler(lines)))
	return lines
}

func TestReadAdmitFile(t *testing.T) {
	tests := []struct {
		name, content string
		want          int    // addresses
		wantErr       string // in the error
	}{
		{"empty", "", 0, ""},
		{"lowercase", listedAddress + "\n", 1, ""},
		{"no newline at the end", listedAddress, 1, ""},
		{"EIP-55", mixedAddress + "\n", 1, ""},
		{"the same twice, in two spellings", mixedAddress + "\n" + strings.ToLower(mixedAddress) + "\n", 1, ""},
		{"comments and blank lines", "# who\n\n  \t\n" + listedAddress + " # the first\n  " + mixedAddress + "\t\n#" + listedAddress + "\n", 2, ""},
		{"of Windows", listedAddress + "\r\n" + mixedAddress + "\r\n", 2, ""},
		{"wrong checksum", "\n\n" + strings.Replace(mixedAddress, "F1", "f1", 1) + "\n", 0, ", line 3 has mixed case, and is not what its EIP-55 checksum says"},
		{"all capitals", "0x" + strings.ToUpper(listedAddress[2:]) + "\n", 1, ""},
		{"without 0x", listedAddress[2:] + "\n", 0, ", line 1 is not an address"},
		{"one digit short", listedAddress + "\n" + listedAddress[:41] + "\n", 0, ", line 2 is not an address"},
		{"one digit more", listedAddress + "0\n", 0, ", line 1 is not an address"},
		{"two on a line", listedAddress + " " + listedAddress, 0, ", line 1 is not an address"},
		{"a byte order mark", "\ufeff" + listedAddress + "\n", 1, ""},
		{"a byte order mark further down", listedAddress + "\n\ufeff" + listedAddress, 0, ", line 2 is not an address"},
		{"NUL", listedAddress + "\x00", 0, ", line 1 is not an address"},
		{"a private key", "69e9944426af0a17549a3f0bbdc2841a524fa69e16bde3948053ef57e997dd8d\n", 0, ", line 1 is not an address"},
		{"a line of a megabyte", listedAddress + "\n" + strings.Repeat("0", 1<<20), 0, ", line 2 is not an address, but very long"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			path := writeTemp(t, test.content)
			list, err := ReadList(path)
			if test.wantErr == "" && (err != nil || len(list) != test.want) {
				t.Errorf("got %d addresses, %v, want %d", len(list), err, test.want)
			}
			if test.wantErr != "" && (err == nil || !strings.Contains(err.Error(), path+test.wantErr)) {
				t.Errorf("got %v, want %q", err, test.wantErr)
			}
			if err != nil && (strings.Contains(err.Error(), "69e9") || strings.Contains(err.Error(), listedAddress[2:])) {
				t.Errorf("the error quotes the file: %v", err)
			}
		})
	}
}

// What may have no end is not read.
func TestAdmitFileIsBounded(t *testing.T) {
	dir := t.TempDir()
	pipe, large := filepath.Join(dir, "pipe"), filepath.Join(dir, "large")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(large, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(large, listLimit+1); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		pipe: "not a regular file", dir: "not a regular file", large: "is over 67108864 bytes", "/dev/zero": "not a regular file",
		filepath.Join(dir, "none"): "no such file",
	} {
		if _, err := ReadList(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", path, err, want)
		}
	}
}

// A good list takes the place of the old one; one that cannot be read does not.
func TestReload(t *testing.T) {
	lines := captureLog(t)
	path := writeTemp(t, listedAddress+"\n")
	a, err := New(Options{File: path})
	if err != nil {
		t.Fatal(err)
	}
	first, second := common.HexToAddress(listedAddress), common.HexToAddress(mixedAddress)
	admits := func(when string, wantFirst, wantSecond bool) {
		t.Helper()
		if got := a.Admit(first) == nil; got != wantFirst {
			t.Errorf("%s: the first is admitted: %v, want %v", when, got, wantFirst)
		}
		if got := a.Admit(second) == nil; got != wantSecond {
			t.Errorf("%s: the second is admitted: %v, want %v", when, got, wantSecond)
		}
	}
	rewrite := func(content string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		lines.Reset()
		a.reload()
	}
	logged := func(words ...string) {
		t.Helper()
		for _, word := range words {
			if !strings.Contains(lines.String(), word) {
				t.Errorf("got %s, want %q in it", lines, word)
			}
		}
	}

	admits("at the start", true, false)
	rewrite(strings.ToLower(mixedAddress) + "\n")
	admits("reloaded", false, true)
	logged("lvl=info", "addresses=1")
	rewrite(listedAddress + "\nrubbish\n")
	admits("with a bad file", false, true)
	logged("lvl=error", "line 2")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	a.reload()
	admits("with no file", false, true)
	rewrite("")
	admits("with an empty file", false, false)
	logged("lvl=warn", "lists no address")

	lines.Reset()
	(*Admission)(nil).reload()
	logged("Nothing to reload")
}

// The start says in one line who may register.
func TestStartSaysWhoMayRegister(t *testing.T) {
	for _, test := range []struct {
		name, list string // "none" for no list
		chain      bool
		down       bool
		want       string
	}{
		{"everybody", "none", false, false, "Everybody who proves an address may register"},
		{"a list", listedAddress, false, false, "Only the addresses of the admit file may register file=LIST addresses=1"},
		{"an empty list", "", false, false, "The admit file lists no address: nobody can register file=LIST"},
		{"a balance", "none", true, false, "Only addresses that hold enough may register eth_rpc=NODE chain_id=1337 min_balance=7"},
		{"both", listedAddress, true, false, "Only addresses of the admit file that hold enough may register file=LIST addresses=1 eth_rpc=NODE chain_id=1337 min_balance=7"},
		{"a balance that nobody tells", "none", true, true, "Only addresses that hold enough may register eth_rpc=NODE chain_id=unknown min_balance=7"},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := Options{}
			if test.list != "none" {
				o.File = writeTemp(t, test.list)
			}
			if test.chain {
				o.URL, o.MinBalance = "http://127.0.0.1:8545", big.NewInt(7)
			}
			a, err := New(o)
			if err != nil {
				t.Fatal(err)
			}
			if a != nil && a.chain != nil {
				a.chain.http = &http.Client{Transport: transport(func(r *http.Request) (*http.Response, error) {
					if test.down {
						return nil, errors.New("it is down")
					}
					return answer(t, r, "0x539"), nil
				})}
			}
			said := captureLog(t)
			if a != nil && a.chain != nil {
				a.logChain(t.Context()) // as LogStart does, beside the start
			} else {
				a.LogStart(t.Context())
			}
			var lines []string
			for line := range strings.Lines(said.String()) {
				_, line, _ = strings.Cut(line, "msg=")
				line = strings.NewReplacer(`"`, "", cmp.Or(o.File, "none"), "LIST", cmp.Or(o.URL, "none"), "NODE").Replace(strings.TrimSpace(line))
				if strings.Contains(line, " may register") || strings.Contains(line, "admit file lists") {
					lines = append(lines, line)
				}
			}
			if len(lines) != 1 || lines[0] != test.want {
				t.Errorf("got %q, want %q", lines, test.want)
			}
		})
	}
}
