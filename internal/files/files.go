// files.go owns the reading of small files: settings, secrets and lists.

// Package files owns files as such: it reads small ones, YAML among them, and writes new ones whole or not at all. It does not
// know what they are for, and its errors never quote their contents.
package files

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"strconv"
	"strings"
	"syscall"
)

// smallLimit bounds the size of a file of settings or of a secret, in bytes.
const smallLimit = 1 << 20

// Read reads a small file whole.
func Read(path string) ([]byte, error) {
	f, _, err := Open(path, smallLimit)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, smallLimit))
}

// byteOrderMark begins a text that some editors save as UTF-8.
const byteOrderMark = "\ufeff"

// WithoutMark is the text without a byte order mark, where nobody else reads the file, so that the mark can be no part of it.
func WithoutMark(text string) string { return strings.TrimPrefix(text, byteOrderMark) }

// RefuseMark refuses a secret that begins with a byte order mark, or is UTF-16: other programs take the mark for a part of it.
func RefuseMark(path, secret string) error {
	for _, mark := range []string{byteOrderMark, "\xff\xfe", "\xfe\xff"} {
		if strings.HasPrefix(secret, mark) {
			return fmt.Errorf("%s begins with a byte order mark, which other programs take for a part of the secret: save it as UTF-8 without one", path)
		}
	}
	return nil
}

// Open opens a file of at most limit bytes. It refuses anything but a regular file: reading a device or a pipe may never end.
func Open(path string, limit int64) (f *os.File, size int64, err error) {
	f, err = os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe would otherwise wait for its writer
	if err != nil {
		return nil, 0, withReader(err)
	}
	stat, err := f.Stat()
	switch {
	case err != nil:
	case !stat.Mode().IsRegular():
		err = fmt.Errorf("%s is not a regular file", path)
	case stat.Size() > limit:
		err = fmt.Errorf("%s is over %d bytes", path, limit)
	default:
		return f, stat.Size(), nil
	}
	f.Close()
	return nil, 0, err
}

// withReader adds to the error who may not read the file.
func withReader(err error) error {
	if !errors.Is(err, os.ErrPermission) {
		return err
	}
	return fmt.Errorf("%w for %s: let this user read the file, or run this as the file's owner", err, Me())
}

// Me is the name of the user that this process runs as, or the user's number if there is no name.
func Me() string {
	if me, err := user.Current(); err == nil {
		return me.Username
	}
	return strconv.Itoa(os.Geteuid())
}

// ReadSecret reads a file that holds one secret, and trims the space around it, as Synapse does. Its errors say what the file
// should hold.
func ReadSecret(path, holds string) (string, error) {
	content, err := Read(path)
	if errors.Is(err, os.ErrNotExist) {
		return "", missingError{path, holds}
	}
	if err != nil {
		return "", fmt.Errorf("read %s: %w", holds, err)
	}
	secret := strings.TrimSpace(string(content))
	if secret == "" {
		return "", fmt.Errorf("%s is empty: it should hold %s", path, holds)
	}
	return secret, RefuseMark(path, secret)
}

// A missingError says what a file that does not exist should hold.
type missingError struct{ path, holds string }

func (e missingError) Error() string {
	return fmt.Sprintf("%s does not exist: it should hold %s", e.path, e.holds)
}

func (e missingError) Is(target error) bool { return target == os.ErrNotExist }

// Copy writes the contents of the file, which may have any size, to w.
func Copy(path string, w io.Writer) error {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe would otherwise wait for its writer
	if err != nil {
		return err
	}
	defer f.Close()
	if stat, err := f.Stat(); err != nil || !stat.Mode().IsRegular() {
		return errors.Join(err, errors.New("it is not a regular file"))
	}
	_, err = io.Copy(w, f)
	return err
}

// IsSame reports whether both names lead to the same file, also through links.
func IsSame(a, b string) bool {
	statA, errA := os.Stat(a)
	statB, errB := os.Stat(b)
	return errA == nil && errB == nil && os.SameFile(statA, statB)
}

// OwnAs gives an open file to the owner of the model, if this process is root's. Otherwise it does nothing.
func OwnAs(f *os.File, model string) error {
	stat, err := os.Stat(model)
	if err != nil {
		return err
	}
	if owner, ok := stat.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
		return f.Chown(int(owner.Uid), int(owner.Gid))
	}
	return nil
}
