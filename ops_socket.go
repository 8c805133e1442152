// ops_socket.go owns the unix socket of the operator: the daemon makes it in the data directory, and commands ask the daemon there.

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/redact"
)

const (
	socketFile = "ops.sock"
	socketDial = 2 * time.Second
)

var errSocketTaken = errors.New("this file is not this daemon's socket, and is not replaced: find out what the file is, or which program listens there, and move the file away")

// listenSocket makes the socket in the directory, and returns the function that removes it. It makes the socket in a directory
// that only the owner can enter, and moves it once its mode is set: at no moment can others connect to it. With hasLock the
// caller holds the lock of the store that the directory is for.
func listenSocket(dir string, hasLock bool) (listener net.Listener, remove func(), err error) {
	err = withShortName(dir, func(dir string) error {
		path := filepath.Join(dir, socketFile)
		if err := checkStale(path, hasLock); err != nil {
			return err
		}
		private, err := os.MkdirTemp(dir, ".ops-") // with mode 0700
		if err != nil {
			return err
		}
		defer os.RemoveAll(private)
		made := filepath.Join(private, socketFile)
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: made, Net: "unix"})
		if err != nil {
			return err
		}
		l.SetUnlinkOnClose(false) // by then the name may be another's
		if err := errors.Join(os.Chmod(made, 0o600), os.Rename(made, path)); err != nil {
			l.Close()
			return err
		}
		listener = l
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("make %s: %w", filepath.Join(dir, socketFile), err)
	}
	path := filepath.Join(dir, socketFile)
	ours, err := os.Lstat(path)
	if err != nil {
		listener.Close()
		return nil, nil, err
	}
	return listener, func() {
		if there, err := os.Lstat(path); err == nil && os.SameFile(ours, there) {
			os.Remove(path)
		}
	}, nil
}

// checkStale returns nil if the socket's name may be taken: nothing is there, or a socket that nobody listens on. The socket
// of another user cannot be tried: the holder of the store's lock is its only daemon, so that no other listens there.
func checkStale(path string, hasLock bool) error {
	stat, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case stat.Mode().Type() != os.ModeSocket:
		return errSocketTaken
	}
	conn, err := net.DialTimeout("unix", path, socketDial)
	if err == nil {
		conn.Close()
		return errSocketTaken
	}
	if hasLock && errors.Is(err, os.ErrPermission) {
		return nil
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("%w: %w", errSocketTaken, err)
	}
	return nil
}

// withShortName calls the function with a short name of the directory: the name of a socket has at most 107 bytes.
func withShortName(dir string, use func(dir string) error) error {
	const longest = 107 - len("/.ops-0123456789/"+socketFile)
	if len(dir) <= longest {
		return use(dir)
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return use(fmt.Sprintf("/proc/self/fd/%d", d.Fd())) // without /proc its use fails and says so
}

var (
	errNoDaemon    = errors.New("no daemon answers")
	errUnknownPath = errors.New("the daemon is of another version, which does not know the question")
)

// askDaemon asks the daemon that serves the store in the directory. It returns errNoDaemon if none does, and for a store in
// PostgreSQL, which can be read without a daemon.
func askDaemon(ctx context.Context, dir, path string, query url.Values) (*http.Response, error) {
	if names.IsPostgres(dir) {
		return nil, errNoDaemon
	}
	return askDaemonAt(ctx, http.MethodGet, dir, path, query)
}

// askGateway is askDaemon, with a method, for what only a daemon knows. It finds the socket of a daemon whose store is in PostgreSQL too.
func askGateway(ctx context.Context, method, dataPath, path string, query url.Values) (*http.Response, error) {
	asked := url.Values{}
	maps.Copy(asked, query)
	if names.IsPostgres(dataPath) {
		asked.Set(storeParameter, storeName(dataPath))
	}
	for _, dir := range config.SocketDirs(dataPath) {
		res, err := askDaemonAt(ctx, method, dir, path, asked)
		if !errors.Is(err, errNoDaemon) {
			return res, err
		}
	}
	return nil, errNoDaemon
}

// askDaemonAt asks the daemon whose socket is in the directory.
func askDaemonAt(ctx context.Context, method, dir, path string, query url.Values) (*http.Response, error) {
	headerTime := opsAnswerTime // a daemon that hangs accepts the connection and does not answer
	switch path {
	case backupPath:
		headerTime = opsPatience // its answer begins when the copy is made
	case banPath, unbanPath:
		headerTime = banTime
	}
	client := homeserver.NewHTTPClient(homeserver.ClientOptions{HeaderTime: headerTime, Dial: func(ctx context.Context, _, _ string) (conn net.Conn, err error) {
		err = withShortName(dir, func(dir string) (err error) {
			dialer := net.Dialer{Timeout: socketDial}
			conn, err = dialer.DialContext(ctx, "unix", filepath.Join(dir, socketFile))
			return err
		})
		return conn, err
	}})
	u := url.URL{Scheme: "http", Host: socketFile, Path: path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Close = true
	res, err := client.Do(req)
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, errNoDaemon
	case err != nil:
		return nil, fmt.Errorf("ask the daemon at %s: %w", filepath.Join(dir, socketFile), errors.Unwrap(err))
	case res.StatusCode == http.StatusMisdirectedRequest:
		res.Body.Close()
		return nil, errNoDaemon
	case res.StatusCode == http.StatusNotFound:
		res.Body.Close()
		return nil, errUnknownPath
	case res.StatusCode != http.StatusOK:
		defer res.Body.Close()
		said, _ := io.ReadAll(io.LimitReader(res.Body, 1<<10))
		return nil, fmt.Errorf("the daemon answers %d: %s", res.StatusCode, redact.Line(string(said)))
	}
	return res, nil
}
