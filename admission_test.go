package main

import (
	"cmp"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/log"
)

const (
	listedAddress = "0x6d12d262a2fe4fd9c714ad3521acbea52adb4aaf"
	mixedAddress  = "0x264690a49829370f1c539F1415870EFb8780fcB2"
)

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
		{"all capitals", "0x" + strings.ToUpper(listedAddress[2:]) + "\n", 0, ", line 1 has mixed case"},
		{"without 0x", listedAddress[2:] + "\n", 0, ", line 1 is not an address"},
		{"one digit short", listedAddress + "\n" + listedAddress[:41] + "\n", 0, ", line 2 is not an address"},
		{"one digit more", listedAddress + "0\n", 0, ", line 1 is not an address"},
		{"two on a line", listedAddress + " " + listedAddress, 0, ", line 1 is not an address"},
		{"a byte order mark", "\ufeff" + listedAddress, 0, ", line 1 is not an address"},
		{"NUL", listedAddress + "\x00", 0, ", line 1 is not an address"},
		{"a private key", "69e9944426af0a17549a3f0bbdc2841a524fa69e16bde3948053ef57e997dd8d\n", 0, ", line 1 is not an address"},
		{"a line of a megabyte", listedAddress + "\n" + strings.Repeat("0", 1<<20), 0, ", line 2 is not an address, but very long"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			path := writeTemp(t, test.content)
			list, err := readAdmitFile(path)
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
	if err := os.Truncate(large, admitFileLimit+1); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		pipe: "not a regular file", dir: "not a regular file", large: "is over 67108864 bytes", "/dev/zero": "not a regular file",
		filepath.Join(dir, "none"): "no such file",
	} {
		if _, err := readAdmitFile(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", path, err, want)
		}
	}
}

func writeTemp(t testing.TB, content string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// newAdmissionDoor is a door that admits by the list, if it is not "none", and by the chain, if there is one.
func newAdmissionDoor(t *testing.T, list string, c *chain) *door {
	t.Helper()
	d := newDoor(t, sharedSecretPath)
	a := &admission{chain: c}
	if list != "none" {
		listing, err := newAdmission(config{admitFile: writeTemp(t, list)})
		if err != nil {
			t.Fatal(err)
		}
		listing.chain = c
		a = listing
	}
	d.server.admission = a
	return d
}

// A stranger gets 403 with what to do, leaves no record, and the homeserver is not asked.
func TestStranger(t *testing.T) {
	proof, n := newProof(t)
	other, stranger := newProof(t)
	d := newAdmissionDoor(t, n.Localpart+"\n", nil)
	refused := func(a answered) {
		t.Helper()
		if a.status != 403 || a.Errcode != "M_FORBIDDEN" || !strings.Contains(a.Message, "ask the operator") {
			t.Errorf("got %d %s, want 403 M_FORBIDDEN", a.status, a.body)
		}
	}
	refused(d.send(other))
	if s := d.state(stranger); s != "" || d.homeserver.asked() != "" {
		t.Errorf("a stranger left the record %q, or the homeserver was asked", s)
	}
	if got := d.send(proof); got.status != 200 {
		t.Errorf("got %d %s, want 200", got.status, got.body)
	}
	if !strings.Contains(d.log.String(), `"status":403`) || !strings.Contains(d.log.String(), stranger.UserID) {
		t.Errorf("the log does not say who was refused: %s", d.log)
	}

	// In the order of the contract: after the proof, before everything else.
	forged := other
	forged.Password = proof.Password
	if got := d.send(forged); got.status != 400 {
		t.Errorf("with a forged proof: got %d %s, want 400", got.status, got.body)
	}
	d.setState(stranger, stateRegistered)
	refused(d.send(other))
	d.server.registrar.stop()
	refused(d.send(other))
	if got := d.send(proof); got.status != 503 {
		t.Errorf("while stopping: got %d %s, want 503", got.status, got.body)
	}
}

// An empty list admits nobody; no list admits everybody.
func TestWithoutList(t *testing.T) {
	proof, _ := newProof(t)
	if got := newAdmissionDoor(t, "# nobody yet\n", nil).send(proof); got.status != 403 {
		t.Errorf("an empty list: got %d %s, want 403", got.status, got.body)
	}
	d := newDoor(t, sharedSecretPath)
	if d.server.admission != nil {
		t.Error("admission is not off by default")
	}
	if got := d.send(proof); got.status != 200 {
		t.Errorf("no list: got %d %s, want 200", got.status, got.body)
	}
}

// A good list takes the place of the old one; one that cannot be read does not.
func TestReload(t *testing.T) {
	lines := captureLog(t)
	path := writeTemp(t, listedAddress+"\n")
	a, err := newAdmission(config{admitFile: path})
	if err != nil {
		t.Fatal(err)
	}
	first, second := common.HexToAddress(listedAddress), common.HexToAddress(mixedAddress)
	admits := func(when string, wantFirst, wantSecond bool) {
		t.Helper()
		if got := a.admit(first) == nil; got != wantFirst {
			t.Errorf("%s: the first is admitted: %v, want %v", when, got, wantFirst)
		}
		if got := a.admit(second) == nil; got != wantSecond {
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
	logged(`"lvl":"info"`, `"addresses":1`)
	rewrite(listedAddress + "\nrubbish\n")
	admits("with a bad file", false, true)
	logged(`"lvl":"error"`, "line 2")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	a.reload()
	admits("with no file", false, true)
	rewrite("")
	admits("with an empty file", false, false)
	logged(`"lvl":"warn"`, "lists no address")

	lines.Reset()
	(*admission)(nil).reload()
	logged("Nothing to reload")
}

// SIGHUP has the list read again, and never ends the daemon, with a list or without.
func TestHangup(t *testing.T) {
	homeserver := newStandIn(t)
	proof, n := newProof(t)
	for _, withList := range []bool{true, false} {
		t.Run(fmt.Sprintf("list=%v", withList), func(t *testing.T) {
			secret, list := writeTemp(t, testSecret), writeTemp(t, listedAddress+"\n")
			args := []string{"--matrixdomain", testServerName, "--matrixurl", homeserver.URL + sharedSecretPath,
				"--hstoken", testHSToken, "--port", "0", "--sharesecret-file", secret}
			wantStatus, wantLog := 200, "Nothing to reload"
			if withList {
				args = append(args, "--admit-file", list)
				wantStatus, wantLog = 403, "addresses=2"
			}
			cmd := exec.Command(programForTest(t), args...)
			cmd.Dir = t.TempDir()
			said := new(strings.Builder)
			stderr := &lockedWriter{w: said}
			cmd.Stderr = stderr
			told := announced(t, cmd)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer cmd.Process.Kill()
			nodes, _ := told(nil)
			url := "http://" + nodes + registerPath
			if got := postTo(t, url, proof); got != wantStatus {
				t.Errorf("got %d, want %d", got, wantStatus)
			}
			if err := os.WriteFile(list, []byte(listedAddress+"\n"+n.Localpart+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			cmd.Process.Signal(syscall.SIGHUP)
			waitFor(t, stderr, said, wantLog)
			if got := postTo(t, url, proof); got != 200 && got != 409 {
				t.Errorf("after SIGHUP: got %d", got)
			}
			cmd.Process.Signal(syscall.SIGTERM)
			if err := cmd.Wait(); err != nil {
				t.Errorf("it ended with %v: %s", err, said)
			}
		})
	}
}

// waitFor waits until what was written has the words.
func waitFor(t *testing.T, w *lockedWriter, said *strings.Builder, words string) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		w.mu.Lock()
		has := strings.Contains(said.String(), words)
		w.mu.Unlock()
		if has {
			return
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	t.Fatalf("it does not say %q: %s", words, said)
}

// With both, an address must pass both, and a stranger to the list costs the chain no call.
func TestListAndChain(t *testing.T) {
	rich, richNode := newProof(t)
	poor, poorNode := newProof(t)
	stranger, _ := newProof(t)
	node := newEthNode(t)
	node.holds(richNode.Address, "0x64")
	node.holds(poorNode.Address, "0x63")
	d := newAdmissionDoor(t, richNode.Localpart+"\n"+poorNode.Localpart+"\n", node.chain(t, 100))
	for _, test := range []struct {
		name       string
		proof      registration
		wantStatus int
		wantCalls  int
	}{
		{"a stranger to the list", stranger, http.StatusForbidden, 0},
		{"listed and too poor", poor, http.StatusForbidden, 1},
		{"listed and rich", rich, http.StatusOK, 2},
	} {
		if got := d.send(test.proof); got.status != test.wantStatus || node.calls() != test.wantCalls {
			t.Errorf("%s: got %d %s after %d calls, want %d after %d", test.name, got.status, got.body, node.calls(), test.wantStatus, test.wantCalls)
		}
	}
}

// The start says in one line who may register.
func TestStartSaysWhoMayRegister(t *testing.T) {
	node := newEthNode(t)
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
			var c config
			if test.list != "none" {
				c.admitFile = writeTemp(t, test.list)
			}
			if test.chain {
				c.ethRPC, c.minBalance = node.URL, big.NewInt(7)
			}
			node.fail(nil)
			if test.down {
				node.fail(says(500, ""))
			}
			a, err := newAdmission(c)
			if err != nil {
				t.Fatal(err)
			}
			captureLog(t) // puts the log back afterwards
			var said strings.Builder
			log.SetDefault(log.NewLogger(log.LogfmtHandler(&said)))
			if a != nil && a.chain != nil {
				a.logChain(t.Context()) // as logStart does, beside the start
			} else {
				a.logStart(t.Context())
			}
			var lines []string
			for line := range strings.Lines(said.String()) {
				_, line, _ = strings.Cut(line, "msg=")
				line = strings.NewReplacer(`"`, "", cmp.Or(c.admitFile, "none"), "LIST", node.URL, "NODE").Replace(strings.TrimSpace(line))
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
