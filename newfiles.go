// newfiles.go owns the writing of files that hold secrets: new ones only, for their owner only, and whole or not at all.

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

const backupTail = ".bak" // of what a forced write keeps

// A generatedFile is a file that genconfig writes.
type generatedFile struct {
	name    string
	mode    os.FileMode
	content []byte
}

// writeFiles writes all of the files or none. Where one exists it touches nothing, unless forced: then it keeps
// the old ones under another name, which it returns. Nobody sees a file before it is whole.
func writeFiles(files []generatedFile, force bool) (kept []string, err error) {
	var existing []string
	for _, file := range files {
		if _, err := os.Lstat(file.name); err == nil {
			existing = append(existing, file.name)
		} else if !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	if len(existing) > 0 && !force {
		return nil, fmt.Errorf("nothing was written, since there is already %s: the homeserver may be using the tokens; genconfig --%s makes new ones and keeps the old files as %s", strings.Join(existing, ", "), flagForce, backupTail)
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
		draft, err := writeDraft(file)
		if err != nil {
			return nil, err
		}
		defer os.Remove(draft)
		drafts = append(drafts, draft)
	}
	for _, name := range existing {
		backup := name + backupTail
		if err := keepNew(name, backup); errors.Is(err, os.ErrExist) {
			return nil, fmt.Errorf("%w: move it away first, so that no token is lost", err)
		} else if err != nil {
			return nil, err
		}
		undo = append(undo, func() {
			if nameNew(backup, name) != nil && isSameFile(backup, name) { // it is there if its removal failed
				os.Remove(backup)
			}
		})
		if err := os.Remove(name); err != nil {
			return nil, err
		}
		kept = append(kept, backup)
	}
	for i, file := range files {
		if err := nameNew(drafts[i], file.name); err != nil {
			return nil, err
		}
		undo = append(undo, func() { os.Remove(file.name) })
	}
	return kept, syncDir(".")
}

// A takenError says that a name which must be new is not.
type takenError struct{ name string }

func (e takenError) Error() string { return e.name + " exists already" }
func (e takenError) Unwrap() error { return os.ErrExist }

// nameNew gives a draft its name, which must be new: to link it is the one way that is atomic and never replaces another.
// Where there are no hard links, an empty file holds the name until the draft takes its place.
func nameNew(draft, name string) error {
	err := os.Link(draft, name)
	if err == nil {
		os.Remove(draft)
		return nil
	}
	if errors.Is(err, os.ErrExist) {
		return takenError{name}
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, os.ErrExist) {
		return takenError{name}
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

// keepNew gives a file a second name, which must be new. Where there are no hard links, a copy gets it.
func keepNew(file, second string) error {
	err := os.Link(file, second)
	if err == nil {
		return nil
	}
	if errors.Is(err, os.ErrExist) {
		return takenError{second}
	}
	draft, err := draftIn(filepath.Dir(second), filepath.Base(second), func(f *os.File) error { return copyFile(file, f) })
	if err != nil {
		return err
	}
	defer os.Remove(draft)
	return nameNew(draft, second)
}

// writeDraft writes the content under a temporary name, with the mode and the owner of the file to be.
func writeDraft(file generatedFile) (name string, err error) {
	name, err = draftIn(".", file.name, func(draft *os.File) error {
		if err := draft.Chmod(file.mode); err != nil {
			return err
		}
		if stat, err := os.Stat(homeserverFile); err == nil && os.Geteuid() == 0 {
			if owner, ok := stat.Sys().(*syscall.Stat_t); ok { // the homeserver must be able to read what root makes
				if err := draft.Chown(int(owner.Uid), int(owner.Gid)); err != nil {
					return err
				}
			}
		}
		_, err := draft.Write(file.content)
		return err
	})
	if failed := (*os.PathError)(nil); errors.As(err, &failed) {
		return "", fmt.Errorf("write %s: %w", file.name, failed.Err) // the temporary name would only puzzle
	}
	return name, err
}

// draftIn writes a file under a temporary name beside the one it is to have, readable for its owner alone and safe on
// the disk.
func draftIn(dir, name string, write func(*os.File) error) (draft string, err error) {
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

// writeNewFile writes a secret to a file that must not exist, and leaves none behind when it cannot.
func writeNewFile(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%w: use it with --%s, or give another name", err, flagKey)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		os.Remove(path)
	}
	return err
}

// syncDir makes sure that a file made in the directory survives a power failure.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
