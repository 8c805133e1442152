// newfiles.go owns the writing of files that hold secrets: new ones only, for their owner only, and whole or not at all.

package main

import (
	"errors"
	"fmt"
	"os"
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
		if err := linkNew(name, backup); err != nil {
			return nil, fmt.Errorf("%w: move it away first, so that no token is lost", err)
		}
		undo = append(undo, func() {
			os.Link(backup, name) // which is there already if its removal failed
			if isSameFile(backup, name) {
				os.Remove(backup)
			}
		})
		if err := os.Remove(name); err != nil {
			return nil, err
		}
		kept = append(kept, backup)
	}
	for i, file := range files {
		if err := linkNew(drafts[i], file.name); err != nil {
			return nil, err
		}
		undo = append(undo, func() { os.Remove(file.name) })
	}
	return kept, syncDir(".")
}

// linkNew gives a file a second name, which must be new: the one way of naming a file that is atomic and never
// replaces another.
func linkNew(from, to string) error {
	err := os.Link(from, to)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%s exists already", to)
	}
	return err
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
