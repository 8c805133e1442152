// new.go owns the writing of new files: for their owner alone, and whole or not at all.

package files

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// BackupTail ends the name of an old file that is kept.
const BackupTail = ".bak"

// A New is a file to be written.
type New struct {
	Name    string
	Mode    os.FileMode
	Content []byte
}

// An Owner is whose a file is.
type Owner struct{ UID, GID int }

// A TakenError says that files exist whose names must be new. It is an os.ErrExist.
type TakenError struct{ Names []string }

func (e TakenError) Error() string {
	if len(e.Names) == 1 {
		return e.Names[0] + " exists already"
	}
	return strings.Join(e.Names, ", ") + " exist already"
}
func (e TakenError) Unwrap() error { return os.ErrExist }

// WriteAll writes all of the files or none. If one exists already it writes nothing and returns a TakenError. With force it keeps
// the old files under other names, and returns those. No file is visible before it is whole. If root writes them, they belong
// to the owner, if there is one.
func WriteAll(files []New, owner *Owner, force bool) (kept []string, err error) {
	var existing []string
	for _, file := range files {
		if _, err := os.Lstat(file.Name); err == nil {
			existing = append(existing, file.Name)
		} else if !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	if len(existing) > 0 && !force {
		return nil, TakenError{existing}
	}

	var undo []func()
	defer func() {
		if err != nil {
			for i := len(undo) - 1; i >= 0; i-- {
				undo[i]()
			}
		}
	}()
	var drafts []string
	for _, file := range files {
		draft, err := writeDraft(file, owner)
		if err != nil {
			return nil, err
		}
		defer os.Remove(draft)
		drafts = append(drafts, draft)
	}
	for _, name := range existing {
		backup := name + BackupTail
		if err := Keep(name, backup); errors.Is(err, os.ErrExist) {
			return nil, fmt.Errorf("%w: move it away first, so that nothing is lost", err)
		} else if err != nil {
			return nil, err
		}
		undo = append(undo, func() {
			if Publish(backup, name) != nil && IsSame(backup, name) { // it is there if its removal failed
				os.Remove(backup)
			}
		})
		if err := os.Remove(name); err != nil {
			return nil, err
		}
		kept = append(kept, backup)
	}
	for i, file := range files {
		if err := Publish(drafts[i], file.Name); err != nil {
			return nil, err
		}
		undo = append(undo, func() { os.Remove(file.Name) })
	}
	for _, file := range files {
		err = errors.Join(err, SyncDir(filepath.Dir(file.Name)))
	}
	return kept, err
}

// writeDraft writes the content under a temporary name, with the mode and the owner that the file will have.
func writeDraft(file New, owner *Owner) (name string, err error) {
	name, err = Draft(filepath.Dir(file.Name), filepath.Base(file.Name), func(draft *os.File) error {
		if err := draft.Chmod(file.Mode); err != nil {
			return err
		}
		if owner != nil && os.Geteuid() == 0 {
			if err := draft.Chown(owner.UID, owner.GID); err != nil {
				return err
			}
		}
		_, err := draft.Write(file.Content)
		return err
	})
	if failed := (*os.PathError)(nil); errors.As(err, &failed) {
		return "", fmt.Errorf("write %s: %w", file.Name, failed.Err) // the temporary name would only puzzle
	}
	return name, err
}

// Draft writes a file under a temporary name in the directory where it will be. Only its owner can read it, and it is on disk
// when Draft returns its name.
func Draft(dir, name string, write func(*os.File) error) (draft string, err error) {
	f, err := os.CreateTemp(dir, "."+name+"-") // with mode 0600
	if err != nil {
		return "", err
	}
	err = write(f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		os.Remove(f.Name())
		return "", err
	}
	return f.Name(), nil
}

// Publish gives a draft its name, which must be new. Only a hard link is atomic and never replaces another file. On a file system
// without hard links, an empty file reserves the name until the draft replaces it.
func Publish(draft, name string) error {
	err := os.Link(draft, name)
	if err == nil {
		os.Remove(draft)
		return nil
	}
	if errors.Is(err, os.ErrExist) {
		return TakenError{[]string{name}}
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, os.ErrExist) {
		return TakenError{[]string{name}}
	}
	if err != nil {
		return err
	}
	if err := errors.Join(f.Close(), os.Rename(draft, name)); err != nil {
		os.Remove(name)
		return err
	}
	return nil
}

// Keep gives a file a second name, which must be new. On a file system without hard links it makes a copy.
func Keep(file, second string) error {
	err := os.Link(file, second)
	if err == nil {
		return nil
	}
	if errors.Is(err, os.ErrExist) {
		return TakenError{[]string{second}}
	}
	draft, err := Draft(filepath.Dir(second), filepath.Base(second), func(f *os.File) error { return Copy(file, f) })
	if err != nil {
		return err
	}
	defer os.Remove(draft)
	return Publish(draft, second)
}

// WriteNew writes a secret to a file that must be new, and removes the file if it fails. The error is an os.ErrExist if there is
// one already.
func WriteNew(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		os.Remove(path)
	}
	return err
}

// SyncDir makes sure that a file made in the directory survives a power failure.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
