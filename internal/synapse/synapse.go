// Package synapse owns how Synapse is configured: which files it reads, in which order and what it makes of them, with which of
// them a running Synapse was started, and as which user it reads them. It judges nothing, and does not know which settings
// there are.
//
// synapse.go owns the files: those that are named, those of a directory, and one configuration made of all of them.
package synapse

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/files"
)

const (
	ConfigFile = "homeserver.yaml" // the name that its documentation gives the file of settings
	configDir  = "conf.d"          // beside it: Debian's package starts Synapse with both
)

// Settings are the configuration of one Synapse.
type Settings struct {
	Paths   []string // files and directories as they were named
	Files   []string // that were read, in their order
	Skipped []Skipped
	Hidden  []string // that this user may not read
	sure    int      // from this one of Files on, no hidden file takes a key's place

	Keys map[any]any
	From map[any]string // the file that has the last word on a key
}

// A Skipped is a file among those of a directory, or one that was named, that Synapse passes over.
type Skipped struct {
	Path, Why    string
	HoldsNothing bool // it is empty, or all comments
	StopsOld     bool // Synapse 0.34.0 and older do not start with it
}

// A FileError says which file keeps Synapse from starting.
type FileError struct {
	Path string
	Err  error // a SyntaxError, or why it cannot be opened
}

func (e FileError) Error() string {
	if syntax := (SyntaxError{}); errors.As(e.Err, &syntax) && syntax.Line > 0 {
		return fmt.Sprintf("%s, line %d: %s", e.Path, syntax.Line, syntax.Problem)
	}
	if path := (*os.PathError)(nil); errors.As(e.Err, &path) {
		return e.Err.Error() // which names it
	}
	return fmt.Sprintf("%s: %v", e.Path, e.Err)
}
func (e FileError) Unwrap() error { return e.Err }

// DefaultPaths are what Synapse is started with in the directory, where it is started as Debian's package does: homeserver.yaml,
// and conf.d beside it if there is one. Without homeserver.yaml there are none.
func DefaultPaths(dir string) []string {
	file, more := filepath.Join(dir, ConfigFile), filepath.Join(dir, configDir)
	if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if stat, err := os.Stat(more); err != nil || !stat.IsDir() {
		return []string{file}
	}
	return []string{file, more}
}

// Choose returns which settings to read where none were named: those that the process was started with, if they are seen, or
// those that are here. why says which they are. Without either there are none.
func Choose(p Process, seen error) (paths []string, why string) {
	if len(p.Configs) > 0 && seen == nil {
		return p.Configs, fmt.Sprintf("which the running Synapse, process %d, was started with", p.PID)
	}
	why = "as found here"
	if p.PID > 0 {
		why += fmt.Sprintf("; which the running Synapse, process %d, was started with is not seen: %v", p.PID, seen)
	}
	return DefaultPaths("."), why
}

// Text returns the text under the key, or "" if there is none.
func (s Settings) Text(key string) (string, error) {
	switch value := s.Keys[key].(type) {
	case nil:
		return "", nil
	case string:
		return value, nil
	}
	return "", fmt.Errorf("%s: %s is not read as a text: put it in quotes", s.From[key], key)
}

// Read reads the files, and those of the directories, as one configuration: a key of a later file takes the place of the whole
// key of an earlier one. An error is a FileError, and what was read before it is returned as well; where this user may not read a
// file, all the others are.
func Read(paths []string) (Settings, error) {
	s := Settings{Paths: paths, Keys: map[any]any{}, From: map[any]string{}}
	err := readEach(paths, s.readPath)
	return s, err
}

// readEach reads until an error, and goes on past what this user may not read, whose first error it returns.
func readEach(paths []string, read func(string) error) (hidden error) {
	for _, path := range paths {
		if err := read(path); errors.Is(err, os.ErrPermission) {
			hidden = cmp.Or(hidden, err)
		} else if err != nil {
			return err
		}
	}
	return hidden
}

// IsSure tells whether the key has this value in Synapse, too: no file that this user may not read can have another.
func (s Settings) IsSure(key string) bool {
	from, isThere := s.From[key]
	return len(s.Hidden) == 0 || isThere && slices.Index(s.Files, from) >= s.sure
}

// hide notes a file that this user may not read.
func (s *Settings) hide(path string) {
	s.Hidden, s.sure = append(s.Hidden, path), len(s.Files)
}

func (s *Settings) readPath(path string) error {
	if stat, err := os.Stat(path); err != nil || !stat.IsDir() {
		return s.readFile(path)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		if errors.Is(err, os.ErrPermission) {
			s.hide(path)
		}
		return FileError{path, err}
	}
	var inside []string
	for _, entry := range entries {
		name := filepath.Join(path, entry.Name())
		switch stat, err := os.Stat(name); {
		case err != nil && !errors.Is(err, os.ErrNotExist):
			return FileError{name, err}
		case err != nil, !stat.Mode().IsRegular():
			s.Skipped = append(s.Skipped, Skipped{Path: name, Why: "is no regular file"})
		case !strings.HasSuffix(name, ".yaml"):
			s.Skipped = append(s.Skipped, Skipped{Path: name, Why: "does not end in .yaml"})
		default:
			inside = append(inside, name)
		}
	}
	slices.Sort(inside)
	return readEach(inside, s.readFile)
}

func (s *Settings) readFile(path string) error {
	value, err := DecodeFile(path)
	if errors.Is(err, os.ErrPermission) {
		s.hide(path)
	}
	if err != nil {
		return err
	}
	s.Files = append(s.Files, path)
	keys, isMapping := value.(map[any]any)
	if !isMapping {
		s.Skipped = append(s.Skipped, Skipped{Path: path, Why: "holds no mapping of settings", HoldsNothing: value == nil, StopsOld: true})
		return nil
	}
	for key, value := range keys {
		s.Keys[key], s.From[key] = value, path
	}
	return nil
}

// DecodeFile reads one file as Decode does. An error is a FileError.
func DecodeFile(path string) (any, error) {
	content, err := files.Read(path)
	if err != nil {
		return nil, FileError{path, err}
	}
	value, err := Decode(content)
	if err != nil {
		return nil, FileError{path, err}
	}
	return value, nil
}
