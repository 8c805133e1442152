// config_values.go owns the values that a command was given for the flags that it reads, and where each came from: the
// command line, the environment, run.sh for check, or the default, the first that has one.

package main

import (
	"fmt"
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
	fromScript
	fromEnvironment
	fromArgument
)

// A flagValue is the value of a flag as it was written.
type flagValue struct {
	text  string
	from  origin
	place int // among those of the command line, or of run.sh
}

// flagValues are what a command was given for the flags that it reads; of any other flag it has the default.
type flagValues struct {
	command string
	values  map[string]flagValue
}

// readValues takes what the command line and the environment have for the flags that the command reads.
func readValues(cmd *cli.Command) flagValues {
	s := flagValues{command: cmd.Name, values: map[string]flagValue{}}
	for i := range flagTable {
		row := &flagTable[i]
		if !row.isReadBy(s.command) {
			continue
		}
		if given, ok := cmd.Value(row.name).(argument); ok && given.place > 0 {
			s.values[row.name] = flagValue{given.text, fromArgument, given.place}
			continue
		}
		value, ok := os.LookupEnv(row.variable())
		if !ok || isOfKubernetes(row.variable(), value) || value == "" && row.empty != emptyOpensAGate {
			continue
		}
		s.values[row.name] = flagValue{text: value, from: fromEnvironment}
	}
	return s
}

// of returns the flag's flagValue, which is the default where nothing was given.
func (s flagValues) of(name string) flagValue {
	if given, ok := s.values[name]; ok {
		return given
	}
	return flagValue{text: rowOf(name).value}
}

func (s flagValues) text(name string) string { return s.of(name).text }

// isGiven tells whether the flag has a value that is not its default.
func (s flagValues) isGiven(name string) bool { return s.of(name).from != fromDefault }

// inCommandLine tells whether the value is, or will be, in the command line of the service.
func (s flagValues) inCommandLine(name string) bool {
	from := s.of(name).from
	return from == fromArgument || from == fromScript
}

// spell is the flag as it was given: the name of the flag or of the variable.
func (s flagValues) spell(name string) string {
	if s.of(name).from == fromEnvironment {
		return rowOf(name).variable()
	}
	return "--" + name
}

// choose decides between two flags of which one can be given in the place of the other: the later one on the command line
// counts, and the command line before the environment.
func (s flagValues) choose() error {
	for i := range flagTable {
		row := &flagTable[i]
		if row.instead == "" || !s.isGiven(row.name) || !s.isGiven(row.instead) {
			continue
		}
		file, itself := s.of(row.name), s.of(row.instead)
		switch {
		case file.from == fromEnvironment && itself.from == fromEnvironment:
			return fmt.Errorf("%s and %s are both given: keep the file", s.spell(row.instead), s.spell(row.name))
		case file.from > itself.from || file.from == itself.from && file.place > itself.place:
			delete(s.values, row.instead)
		default:
			delete(s.values, row.name)
		}
	}
	return nil
}

// into checks each value against its row, and puts it into the config.
func (s flagValues) into(c *config) error {
	if err := s.choose(); err != nil {
		return err
	}
	for i := range flagTable {
		row := &flagTable[i]
		given := s.of(row.name)
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
			return fmt.Errorf("%s%s is not %s", s.spell(row.name), shortNumber(given.text), row.form)
		}
	}
	return nil
}

func (s flagValues) refuseEmpty(row *flagRow) error {
	if row.empty == emptyOpensAGate {
		return fmt.Errorf("%s is set and empty, which would let more register than it says: give it a value, or leave it out", s.spell(row.name))
	}
	if row.name == flagDataPath {
		return checkDataPath("")
	}
	return fmt.Errorf("%s is empty: give it a value, or leave it out", s.spell(row.name))
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

// readRate reads a number that is 0 or within the bounds.
func readRate(text string, least, most float64) (float64, bool) {
	number, err := strconv.ParseFloat(text, 64)
	return number, err == nil && (number == 0 || number >= least && number <= most) // NaN is not in there either
}

// shortNumber quotes a value that is too short a number to be a secret, with a space before it, and nothing else.
func shortNumber(text string) string {
	if numberForm.MatchString(text) {
		return " " + text
	}
	return ""
}

// fillIn takes from run.sh what was not given, and returns the flags that were given otherwise.
func (s flagValues) fillIn(script runScript) (contradicted []string) {
	given := func(name string) bool { return s.of(name).from > fromScript }
	for i := range flagTable {
		row := &flagTable[i]
		value, ok := script.flags[row.name]
		if !ok || row.key != "" || !row.isReadBy(s.command) { // a token is compared with the file's
			continue
		}
		switch {
		case given(row.name):
			if s.text(row.name) != value {
				contradicted = append(contradicted, "--"+row.name)
			}
		case slices.ContainsFunc(alternatives(row), given):
		case row.onlyFor != "" && given(flagMatrixURL) && !strings.HasSuffix(s.text(flagMatrixURL), row.onlyFor):
		default:
			s.values[row.name] = flagValue{value, fromScript, script.places[row.name]}
		}
	}
	return contradicted
}

// alternatives are the flags in whose place this one can be given, or that can be given in its.
func alternatives(row *flagRow) []string {
	var names []string
	for i := range flagTable {
		if other := &flagTable[i]; other.instead == row.name || other.name == row.instead {
			names = append(names, other.name)
		}
	}
	return names
}

// arguments are the flags of run.sh that start the service with this config.
func (c *config) arguments() []string {
	var words []string
	add := func(row *flagRow) {
		value := written(row.at(c))
		switch {
		case row.name == flagDataPath && c.dataPathFile != "":
			words = append(words, "--"+flagDataPathFile, c.dataPathFile)
		case row.name == flagDataPathFile || row.script != alwaysInGuide && value == row.value:
		case row.kind == kindYes:
			words = append(words, "--"+row.name)
		default:
			words = append(words, "--"+row.name, value)
		}
	}
	for _, name := range guideOrder {
		add(rowOf(name))
	}
	for i := range flagTable {
		if flagTable[i].script == inScript {
			add(&flagTable[i])
		}
	}
	return words
}

// written is the value of a flag as it is given.
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
