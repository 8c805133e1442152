// values.go owns the values that a command was given for the flags that it reads, and where each came from: the
// command line, the environment, run.sh for check, or the default, the first that has one.

package config

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v3"
)

// An origin is where a value came from. A greater one beats a lesser.
type origin int

const (
	fromDefault origin = iota
	fromFile           // of variables
	fromScript
	fromEnvironment
	fromArgument
)

// A setting is the value of a flag as it was written.
type setting struct {
	text  string
	from  origin
	place int // among those of the command line, or of run.sh
}

// Values are what a command was given for the flags that it reads; of any other flag it has the default.
type Values struct {
	command string
	values  map[string]setting

	file        string // of variables, if one was read
	fileIsNamed bool   // on the command line
	fileErr     error  // why it could not be read
}

// ReadValues takes what the command line and the environment have for the flags that the command reads. A run.sh in the working
// directory counts below them, since a command that is typed there is meant for that service, and not for one of the package. check takes it by
// itself, since it judges it too; the daemon is started by it, and genconfig writes it.
func ReadValues(cmd *cli.Command) Values {
	s := readValuesOf(cmd, cmd.Name)
	switch cmd.Name {
	case Program, "genconfig", "check":
	default:
		if script, err := ReadScript(RunFile); err == nil {
			s.FillIn(script)
		}
	}
	return s
}

// readValuesOf is ReadValues for what another command reads.
func readValuesOf(cmd *cli.Command, command string) Values {
	s := Values{command: command, values: map[string]setting{}}
	for i := range Table {
		row := &Table[i]
		if !row.IsReadBy(s.command) {
			continue
		}
		if given, ok := cmd.Value(row.Name).(argument); ok && given.place > 0 {
			s.values[row.Name] = setting{given.text, fromArgument, given.place}
			continue
		}
		value, ok := os.LookupEnv(row.Variable())
		if !ok || isOfKubernetes(row.Variable(), value) || value == "" && row.empty != emptyOpensAGate {
			continue
		}
		s.values[row.Name] = setting{text: value, from: fromEnvironment}
	}
	s.fileErr = s.readFile(cmd)
	return s
}

// of returns the flag's setting, which is the default if no value was given.
func (s Values) of(name string) setting {
	if given, ok := s.values[name]; ok {
		return given
	}
	return setting{text: rowOf(name).Value}
}

func (s Values) Text(name string) string { return s.of(name).text }

// IsGiven reports whether the flag was given a value.
func (s Values) IsGiven(name string) bool { return s.of(name).from != fromDefault }

// inCommandLine reports whether the value is, or will be, in the command line of the service.
func (s Values) inCommandLine(name string) bool {
	from := s.of(name).from
	return from == fromArgument || from == fromScript
}

// spell returns the name by which the flag was given: that of the flag, or of the variable.
func (s Values) spell(name string) string {
	switch s.of(name).from {
	case fromEnvironment:
		return rowOf(name).Variable()
	case fromFile:
		return rowOf(name).Variable() + " of " + s.file
	case fromScript:
		return "--" + name + " of " + RunFile
	}
	return "--" + name
}

// choose decides between two flags that can be given in the place of each other. The command line counts before the environment,
// and on the command line the later flag counts.
func (s Values) choose() error {
	for i := range Table {
		row := &Table[i]
		if row.instead == "" || !s.IsGiven(row.Name) || !s.IsGiven(row.instead) {
			continue
		}
		file, itself := s.of(row.Name), s.of(row.instead)
		switch {
		case file.from == itself.from && (file.from == fromEnvironment || file.from == fromFile):
			return fmt.Errorf("%s and %s are both given: keep the file", s.spell(row.instead), s.spell(row.Name))
		case file.from > itself.from || file.from == itself.from && file.place > itself.place:
			delete(s.values, row.instead)
		default:
			delete(s.values, row.Name)
		}
	}
	return nil
}

// into checks each value against its row, and stores it in the config.
func (s Values) into(c *Config) error {
	if s.fileErr != nil {
		return s.fileErr
	}
	if err := s.choose(); err != nil {
		return err
	}
	for i := range Table {
		row := &Table[i]
		given := s.of(row.Name)
		if given.text == "" && given.from != fromDefault && (row.kind != kindText || row.empty != emptyIsDefault) {
			return s.refuseEmpty(row)
		}
		var ok bool
		switch at := row.at(c).(type) {
		case *string:
			*at, ok = given.text, true
		case *int:
			*at, ok = readCount(given.text, row.most)
		case *float64:
			*at, ok = readRate(given.text, row.least, row.most)
		case *bool:
			var err error
			*at, err = strconv.ParseBool(given.text)
			ok = err == nil
		}
		if !ok {
			return fmt.Errorf("%s%s is not %s", s.spell(row.Name), shortNumber(given.text), row.form)
		}
	}
	return nil
}

func (s Values) refuseEmpty(row *Row) error {
	if row.empty == emptyOpensAGate {
		return fmt.Errorf("%s is set but empty, and an empty value would limit nobody: give it a value, or leave it out", s.spell(row.Name))
	}
	if row.Name == FlagDataPath {
		return checkDataPath("")
	}
	return fmt.Errorf("%s is empty: give it a value, or leave it out", s.spell(row.Name))
}

var (
	countForm  = regexp.MustCompile(`^-?[0-9]{1,18}$`)
	numberForm = regexp.MustCompile(`^(-?[0-9.]{1,8}|NaN)$`)
)

// readCount reads a whole number, in decimal: 08009 is 8009.
func readCount(text string, most float64) (int, bool) {
	if !countForm.MatchString(text) {
		return 0, false
	}
	number, err := strconv.Atoi(text)
	return number, err == nil && number >= 0 && float64(number) <= most
}

// readRate reads a number, in decimal, that is 0 or within the bounds.
func readRate(text string, least, most float64) (float64, bool) {
	number, err := strconv.ParseFloat(text, 64)
	return number, err == nil && !strings.ContainsAny(text, "xX_") && (number == 0 || number >= least && number <= most) // NaN is not in there either
}

// shortNumber quotes a value that is too short a number to be a secret, with a space before it, and nothing else.
func shortNumber(text string) string {
	if numberForm.MatchString(text) {
		return " " + text
	}
	return ""
}

// Err is why the environment file could not be read.
func (s Values) Err() error { return s.fileErr }

// FillIn takes the values that were not given from run.sh, which counts in the place of an environment file that was not named. It returns the flags that were given another value than run.sh has.
func (s Values) FillIn(script Script) (contradicted []string) {
	given := func(name string) bool {
		from := s.of(name).from
		return from > fromScript || from == fromFile && s.fileIsNamed
	}
	if len(script.Flags) > 0 && !s.fileIsNamed {
		maps.DeleteFunc(s.values, func(_ string, v setting) bool { return v.from == fromFile })
	}
	for i := range Table {
		row := &Table[i]
		value, ok := script.Flags[row.Name]
		if !ok || row.key != "" || !row.IsReadBy(s.command) { // a token is compared with the file's
			continue
		}
		switch {
		case given(row.Name):
			if s.Text(row.Name) != value {
				contradicted = append(contradicted, "--"+row.Name)
			}
		case slices.ContainsFunc(alternatives(row), given):
		case row.onlyFor != "" && given(FlagMatrixURL) && !strings.HasSuffix(s.Text(FlagMatrixURL), row.onlyFor):
		default:
			s.values[row.Name] = setting{value, fromScript, script.places[row.Name]}
		}
	}
	return contradicted
}

// alternatives are the flags that can be given in the place of this one, and those in whose place it can be given.
func alternatives(row *Row) []string {
	var names []string
	for i := range Table {
		if other := &Table[i]; other.instead == row.Name || other.Name == row.instead {
			names = append(names, other.Name)
		}
	}
	return names
}

// Arguments returns the flags that start the service with this config, in the order of run.sh.
func (c *Config) Arguments() []string {
	var words []string
	add := func(row *Row) {
		value := written(row.at(c))
		switch {
		case row.Name == FlagDataPath && c.DataPathFile != "":
			words = append(words, "--"+FlagDataPathFile, c.DataPathFile)
		case row.Name == FlagDataPathFile || row.script != alwaysInGuide && value == row.Value:
		case row.kind == kindYes:
			words = append(words, "--"+row.Name)
		default:
			words = append(words, "--"+row.Name, value)
		}
	}
	for _, name := range guideOrder {
		add(rowOf(name))
	}
	for i := range Table {
		if Table[i].script == inScript {
			add(&Table[i])
		}
	}
	return words
}

// written returns the value as it is given on a command line.
func written(at any) string {
	switch at := at.(type) {
	case *string:
		return *at
	case *int:
		return strconv.Itoa(*at)
	case *float64:
		return strconv.FormatFloat(*at, 'g', -1, 64)
	case *bool:
		return strconv.FormatBool(*at)
	}
	panic(fmt.Sprintf("a flag cannot be a %T", at))
}
