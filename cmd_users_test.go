// cmd_users_test.go owns the test that a list in a pager does not keep the store locked.

package main

import (
	"bufio"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A list that somebody pages through by hand does not keep a daemon from its start, and says that it broke off.
func TestUsersInPager(t *testing.T) {
	const count = 8 * listPage // a pipe has room for a part of a page, and a page is read ahead
	dir := filepath.Dir(makeCopy(t, count))
	cmd := exec.Command(programForTest(t), "--datapath", dir, "users")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	lines := bufio.NewReader(stdout)
	if _, err := lines.ReadString('\n'); err != nil { // and the pipe takes no more than a part
		t.Fatal(err)
	}
	s, err := openBoltStore(dir, testServerName)
	if err != nil {
		t.Fatalf("a daemon cannot start: %v", err)
	}
	defer s.Close()
	rest, err := io.ReadAll(lines)
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil || !strings.Contains(stderr.String(), "the list broke off") || strings.Count(stderr.String(), "\n") != 1 {
		t.Errorf("got %v: %s", err, &stderr)
	}
	if strings.Count(string(rest), "\n") >= count {
		t.Error("all was listed: the test tests nothing")
	}
}
