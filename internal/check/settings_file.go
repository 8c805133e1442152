// settings_file.go owns the settings of a server as a tree of keys: reading a value, and the line that writes one.

package check

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/nginx"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/synapse"
)

// A settingsFile is the configuration of a server, of one file or of several.
type settingsFile struct {
	path string // the first, for what stands in none
	keys map[any]any
	from map[any]string // the file that has the last word on a key
	err  error          // why it cannot be judged

	hidden error // a file among several that this user may not read

	ofSynapse synapse.Settings // the same, where Synapse reads it
	why       string           // these files and no others, where Synapse reads them
}

// at returns the value under the path of keys, or nil.
func (s settingsFile) at(path ...string) any {
	var value any = s.keys
	for _, key := range path {
		mapping, _ := value.(map[any]any)
		value = mapping[key]
	}
	return value
}

// isTrue reports whether the value is there and true.
func (s settingsFile) isTrue(path ...string) bool { value, _ := s.at(path...).(bool); return value }

func (s settingsFile) Text(path ...string) string { text, _ := s.at(path...).(string); return text }

// isNoText tells whether something else than a text is there: a number, a date, a truth value.
func (s settingsFile) isNoText(path ...string) bool {
	value := s.at(path...)
	_, isText := value.(string)
	return value != nil && !isText
}

// noText is what is wrong with a value that the homeserver reads as something else.
const noText = "the homeserver does not read it as a text: put it in quotes"

// number returns the value, or the default if there is none.
func (s settingsFile) number(otherwise float64, path ...string) float64 {
	switch value := s.at(path...).(type) {
	case int:
		return float64(value)
	case float64:
		return value
	}
	return otherwise
}

// A line is a setting to write.
type line struct {
	file    string
	path    []string // of keys
	value   string
	isInKey bool   // the first of the keys is in the file already
	and     string // a second line
}

// write is the cure that writes the value under the path of keys.
func (s settingsFile) write(value string, path ...string) line {
	_, isInKey := s.from[path[0]]
	return line{file: s.fileOf(path[0]), path: path, value: value, isInKey: isInKey}
}

// String says in which file, and where in it.
func (l line) String() string {
	under, last := l.path[:len(l.path)-1], l.path[len(l.path)-1]
	where := l.file
	if len(under) > 0 {
		where += ", under " + strings.Join(under, ".")
	}
	text := "write in " + where + ": " + paste(last+": "+l.value)
	if l.and != "" {
		text += " and, on a line of its own, " + paste(l.and)
	}
	return text + thenRestart
}

const thenRestart = "; then restart the homeserver"

// fileOf returns the file that has the key, or should have it.
func (s settingsFile) fileOf(key string) string {
	if from, ok := s.from[key]; ok {
		return from
	}
	return s.path
}

// isDendrite tells Dendrite's settings from Synapse's.
func (s settingsFile) isDendrite() bool {
	_, hasGlobal := s.keys["global"].(map[any]any)
	return hasGlobal || filepath.Base(s.path) == DendriteFile
}

// secrets are the secrets in the settings, which no finding may hold.
func (s settingsFile) secrets() []string {
	return []string{s.Text("registration_shared_secret"), s.Text("client_api", "registration_shared_secret"), s.Text("macaroon_secret_key"), s.Text("form_secret"), s.Text("matrix_authentication_service", "secret")}
}

// number writes a number as settings have it, without an exponent.
func number(value float64) string { return strconv.FormatFloat(value, 'f', -1, 64) }

// write is the cure that writes this location into the server of nginx that nodes reach.
func (chk *checking) write(location nginx.Location) string {
	return fmt.Sprintf("write in nginx, in the server of %s: %s", names.URLHost(chk.Public), paste(location.OneLine()))
}

// texts are the strings of a list.
func texts(value any) []string {
	list, _ := value.([]any)
	var all []string
	for _, item := range list {
		if text, ok := item.(string); ok {
			all = append(all, text)
		}
	}
	return all
}
