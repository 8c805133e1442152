// script.go owns the reading of run.sh: the flags that it starts the service with, and whether it passes its arguments on.

package config

import (
	"cmp"
	"errors"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/files"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/shell"
)

// A Script is the command in run.sh that starts the service.
type Script struct {
	Path  string
	Flags map[string]string

	places map[string]int // of the flags among its words

	PassesOn bool // it passes its own arguments on, after these flags
}

// ErrNoCommand is that a script does not start the service.
var ErrNoCommand = errors.New("no line of it starts " + Program)

// ReadScript finds the command in run.sh and takes its flags apart.
func ReadScript(path string) (Script, error) {
	script := Script{Path: path, Flags: map[string]string{}, places: map[string]int{}}
	content, err := files.Read(path)
	if err != nil {
		return script, err
	}
	for line := range strings.Lines(strings.ReplaceAll(string(content), "\\\n", " ")) {
		words := shell.Words(line)
		for i, word := range words {
			if filepath.Base(word) == Program && !strings.HasPrefix(word, "#") {
				script.PassesOn = script.takeFlags(words[i+1:])
				return script, nil
			}
		}
	}
	return script, ErrNoCommand
}

// takeFlags reads --name value and --name=value as the program does, up to the first word that is for the shell. PassesOn is
// true if "$@" ends the flags.
func (s Script) takeFlags(words []string) (passesOn bool) {
	for i := 0; i < len(words); i++ {
		word := words[i]
		if target := redirection.FindStringSubmatch(word); target != nil { // which may stand anywhere in a command
			if target[1] == "" {
				i++
			}
			continue
		}
		if word == "$@" { // a person may have added more after it
			passesOn = true
			continue
		}
		if len(word) < 2 || word[0] != '-' {
			return passesOn
		}
		passesOn = false
		name, value, hasValue := strings.Cut(strings.TrimPrefix(word[1:], "-"), "=")
		if row := rowOf(name); row != nil && row.kind == kindYes {
			value = cmp.Or(value, "true")
		} else if !hasValue && i+1 < len(words) {
			i++
			value = words[i]
		}
		s.Flags[name], s.places[name] = value, i+1
	}
	return passesOn
}

// redirection matches a word that a shell takes out of a command. Its group is the target, if that is in the same word.
var redirection = regexp.MustCompile(`^(?:[0-9]*|&)(?:>>|>\||>&|>|<<<|<<|<>|<&|<)(.*)$`)
