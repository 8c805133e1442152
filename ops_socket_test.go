// ops_socket_test.go owns the tests of the operator's socket: its owner, and when a daemon replaces one.

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
)

// The socket is its owner's alone from the first moment, with any umask, however long its path, and is gone after.
func TestSocket(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0))
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 40))
	if err := os.Mkdir(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	seen := make(chan string, 1)
	ctx, stop := context.WithCancel(t.Context())
	go func() { // nobody else can open it at any moment
		wider := ""
		for ctx.Err() == nil {
			filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
				if err == nil && path != dir {
					if stat, err := os.Lstat(path); err == nil && stat.Mode().Perm()&0o077 != 0 && filepath.Dir(path) == dir {
						wider = fmt.Sprintf("%s has mode %v", path, stat.Mode())
					}
				}
				return nil
			})
		}
		seen <- wider
	}()
	for range 200 {
		listener, remove, err := listenSocket(dir, true)
		if err != nil {
			t.Fatal(err)
		}
		if stat, err := os.Lstat(filepath.Join(dir, socketFile)); err != nil || stat.Mode() != os.ModeSocket|0o600 {
			t.Fatalf("got %v, %v", stat.Mode(), err)
		}
		remove()
		listener.Close()
	}
	stop()
	if wider := <-seen; wider != "" {
		t.Error(wider)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A socket that a crash left is replaced; one that somebody listens on, or what is no socket, never.
func TestSocketReplaces(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, socketFile)
	other, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	other.SetUnlinkOnClose(false)
	if _, _, err := listenSocket(dir, true); !errors.Is(err, errSocketTaken) {
		t.Errorf("a live one: got %v", err)
	}
	other.Close() // as a crash does
	listener, remove, err := listenSocket(dir, true)
	if err != nil {
		t.Fatalf("a stale one: %v", err)
	}
	listener.Close()
	os.Remove(path)
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	remove() // which is not ours any more
	if _, _, err := listenSocket(dir, true); !errors.Is(err, errSocketTaken) {
		t.Errorf("a file: got %v", err)
	}
	if content, _ := os.ReadFile(path); string(content) != "mine" {
		t.Error("the file was touched")
	}
}

// What root left in the directory: a store that cannot be read is told with what to type, and a socket is replaced, since the
// daemon has the store's lock.
func TestLeftByRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		need.Skip(t, need.Missing{What: "root, to leave files to another user", Cure: "run the tests as root"})
	}
	const uid = 54321
	dir, bin := t.TempDir(), filepath.Join(t.TempDir(), programName)
	for _, above := range []string{filepath.Dir(dir), filepath.Dir(filepath.Dir(dir)), dir, filepath.Dir(bin)} {
		if above != os.TempDir() && os.Chmod(above, 0o755) != nil {
			t.Fatal("no way to the directory for another user")
		}
	}
	content, err := os.ReadFile(programForTest(t))
	if err := errors.Join(err, os.WriteFile(bin, content, 0o755)); err != nil {
		t.Fatal(err)
	}
	store := filepath.Join(dir, "store")
	s, err := openBoltStore(store, testServerName)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	served := func() *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), bin, "--matrixdomain", testServerName, "--astoken", testASToken, "--hstoken", testHSToken, "--port", "0", "--datapath", store)
		cmd.Dir = dir
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		return cmd
	}
	refused := func() {
		t.Helper()
		out, err := served().CombinedOutput()
		if want := "is root's: if this is the user that runs the service, type as root: chown -R 54321: " + store; err == nil || !strings.Contains(string(out), want) {
			t.Errorf("got %v, %s, want %q", err, out, want)
		}
	}
	refused()
	if err := os.Chown(store, uid, uid); err != nil {
		t.Fatal(err)
	}
	refused() // the file in it is root's still

	socket := filepath.Join(store, socketFile)
	left, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	left.SetUnlinkOnClose(false)
	left.Close()
	if err := errors.Join(os.Chmod(socket, 0o600), os.Chown(filepath.Join(store, storeFile), uid, uid)); err != nil {
		t.Fatal(err)
	}
	cmd := served()
	logged, err := cmd.StderrPipe()
	if err := errors.Join(err, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	var lines strings.Builder
	for scanner := bufio.NewScanner(logged); scanner.Scan(); {
		fmt.Fprintln(&lines, scanner.Text())
		if strings.Contains(scanner.Text(), " Listening ") {
			break
		}
	}
	stat, err := os.Lstat(socket)
	if err != nil {
		t.Fatal(err)
	}
	if owner := stat.Sys().(*syscall.Stat_t).Uid; owner != uid {
		t.Errorf("the socket belongs to %d: %s", owner, lines.String())
	}
	cmd.Process.Kill()
	cmd.Wait()
}

// The socket answers its owner and root alone, even where its mode was changed.
func TestSocketPeers(t *testing.T) {
	if os.Geteuid() != 0 {
		need.Skip(t, need.Missing{What: "root, to connect as another user", Cure: "run the tests as root"})
	}
	if _, err := exec.LookPath("curl"); err != nil {
		need.Skip(t, need.Missing{What: "curl", Cure: "apt-get install curl"})
	}
	dir, _ := startTestOps(t)
	for path := dir; path != "/"; path = filepath.Dir(path) {
		if stat, err := os.Stat(path); err == nil && stat.Mode().Perm()&0o001 == 0 {
			if err := os.Chmod(path, stat.Mode().Perm()|0o055); err != nil {
				t.Fatal(err)
			}
		}
	}
	socket := filepath.Join(dir, socketFile)
	if err := os.Chmod(socket, 0o666); err != nil {
		t.Fatal(err)
	}
	for uid, want := range map[uint32]bool{0: true, 65534: false} {
		cmd := exec.CommandContext(t.Context(), "curl", "--silent", "--show-error", "--unix-socket", socket, "http://daemon/status")
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		said, err := cmd.CombinedOutput()
		if answered := err == nil && strings.Contains(string(said), testServerName); answered != want {
			t.Errorf("user %d: answered %v, want %v: %s, %v", uid, answered, want, said, err)
		}
	}
}
