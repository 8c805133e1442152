// access.go owns whether a user may read a file, by what stands in the modes.

package synapse

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// A ModeError says what keeps a user from a file.
type ModeError struct {
	Path    string
	IsAbove bool // it is a directory above the file
	mode    os.FileMode
	owner   string
}

func (e ModeError) Error() string {
	return fmt.Sprintf("%s has mode %04o and is %s's", e.Path, e.mode, e.owner)
}

// ErrLists is that the modes do not tell.
var ErrLists = errors.New("it has an access control list, which is not looked into")

// MayRead returns nil where the user may read the file, as far as the modes of it and of the directories above it tell. What
// access control lists add to them is an ErrLists.
func (u User) MayRead(path string) error {
	if u.UID == 0 {
		return nil
	}
	whole, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	real, err := filepath.EvalSymlinks(whole)
	if err != nil {
		return err
	}
	for _, name := range []string{whole, real} {
		for dir := filepath.Dir(name); ; dir = filepath.Dir(dir) {
			if err := u.may(dir, 1); err != nil {
				return err
			}
			if dir == filepath.Dir(dir) {
				break
			}
		}
	}
	return u.may(real, 4)
}

// may holds the bit against the mode of the file: 4 to read it, 1 to enter a directory.
func (u User) may(path string, bit os.FileMode) error {
	stat, err := os.Stat(path)
	if err != nil {
		return err
	}
	owner, ok := stat.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	mode := stat.Mode().Perm()
	switch {
	case int(owner.Uid) == u.UID:
		bit <<= 6
	case slices.Contains(u.GIDs, int(owner.Gid)):
		bit <<= 3
	}
	if mode&bit != 0 {
		return nil
	}
	if hasList(path) {
		return fmt.Errorf("%s: %w", path, ErrLists)
	}
	return ModeError{path, stat.IsDir(), mode, User{UID: int(owner.Uid)}.Name()}
}
