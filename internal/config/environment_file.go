// environment_file.go owns the file of variables that systemd gives the service, as the other commands read it: the settings of a
// packaged install are there and nowhere else.

package config

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/files"
	"github.com/urfave/cli/v3"
)

// FlagEnvironment names that file, and so does its variable.
const (
	FlagEnvironment     = "environment"
	environmentVariable = environmentPrefix + "ENVIRONMENT"
)

// environmentFile is the EnvironmentFile of the unit.
var environmentFile = "/etc/matrix-regservice/environment"

// credentials is where systemd has the files of secrets while the service runs. The unit takes each from beside the environment
// file, where root finds it whether the service runs or not.
const credentials = "/run/credentials/matrix-regservice.service/"

// EnvironmentFlag is the flag of every command that names the file.
func EnvironmentFlag() cli.Flag {
	return &cli.StringFlag{Name: FlagEnvironment, Usage: "`FILE` of variables, as systemd reads it, for flags that are given nowhere else (default: " + environmentFile + ", except for the daemon and genconfig)"}
}

// readFile takes the values of the environment file that nothing else gives. The daemon is given its own by systemd, and genconfig
// writes new ones: they read the file only where it is named. It is for root alone, and passed over where this user may not enter.
func (s *Values) readFile(cmd *cli.Command) error {
	path := cmp.Or(cmd.String(FlagEnvironment), os.Getenv(environmentVariable))
	if path == os.DevNull { // which is no file of this form
		return nil
	}
	if path == "" {
		if cmd.Name == Program || cmd.Name == "genconfig" {
			return nil
		}
		path = environmentFile
	} else {
		s.fileIsNamed = true
	}
	content, err := files.Read(path)
	if !s.fileIsNamed && (errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission)) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the environment file: %w", err)
	}
	variables, err := parseEnvironment(files.WithoutMark(string(content)))
	if err != nil {
		return fmt.Errorf("%s, %w", path, err)
	}
	if _, err := checkVariables(variables); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for _, entry := range variables {
		name, value, _ := strings.Cut(entry, "=")
		row := rowOfVariable(name)
		if row == nil || !row.IsReadBy(s.command) {
			continue
		}
		if s.values[row.Name].from > fromFile {
			continue
		}
		delete(s.values, row.Name) // of a variable that is there twice the last one counts
		if value == "" && row.empty != emptyOpensAGate {
			continue
		}
		if file, ok := strings.CutPrefix(value, credentials); ok && cmd.Name != Program {
			value = filepath.Join(filepath.Dir(path), file)
		}
		s.values[row.Name] = setting{text: value, from: fromFile}
	}
	s.file = path
	return nil
}

// rowOfVariable returns the row of the flag whose variable it is, or nil.
func rowOfVariable(name string) *Row {
	for i := range Table {
		if Table[i].Variable() == name {
			return &Table[i]
		}
	}
	return nil
}

// parseEnvironment reads "NAME=value" lines as systemd.exec(5) has them: comments begin with # or ;, a value may be in quotes, and a
// backslash at its end joins two lines. The error quotes nothing.
func parseEnvironment(text string) (variables []string, err error) {
	lines := strings.Split(strings.ReplaceAll(text, "\r\n", "\n"), "\n")
	for i := 0; i < len(lines); i++ {
		number, line := i+1, strings.TrimSpace(lines[i])
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		for strings.HasSuffix(line, `\`) && i+1 < len(lines) {
			i++
			line = strings.TrimSuffix(line, `\`) + strings.TrimSpace(lines[i])
		}
		name, value, ok := strings.Cut(line, "=")
		if name = strings.TrimSpace(name); !ok || name == "" || strings.ContainsAny(name, " \t") {
			return nil, fmt.Errorf("line %d is not NAME=value, as systemd needs it: correct it, or put # before it", number)
		}
		if value, ok = unquote(strings.TrimSpace(value)); !ok {
			return nil, fmt.Errorf("line %d opens a quotation mark that it does not close", number)
		}
		variables = append(variables, name+"="+value)
	}
	return variables, nil
}

// unquote takes the quotation marks off a value, and the backslashes off what they protect.
func unquote(value string) (text string, ok bool) {
	var out strings.Builder
	quote := byte(0)
	isBegin := true // of the value, or behind a closed quotation mark, where another may open
	for i := 0; i < len(value); i++ {
		c := value[i]
		switch {
		case quote == 0 && isBegin && (c == '"' || c == '\''):
			quote = c
		case quote != 0 && c == quote:
			quote, isBegin = 0, true
		case c == '\\' && quote != '\'' && i+1 < len(value):
			i++
			out.WriteByte(value[i])
			isBegin = false
		default:
			out.WriteByte(c)
			isBegin = false
		}
	}
	return out.String(), quote == 0
}
