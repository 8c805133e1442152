// yaml.go owns the reading of YAML. Its errors name the file, the line or the key, and never quote a value.

package files

import (
	"fmt"
	"regexp"

	"gopkg.in/yaml.v2"
)

var yamlLineForm = regexp.MustCompile(`line [0-9]+`)

// A YAML is a YAML mapping and the file that it was read from.
type YAML struct {
	Path string
	Keys map[any]any
}

// ReadYAML reads a file of settings. Its error has only the line number of the library's, which quotes the file, tokens too.
func ReadYAML(path string) (YAML, error) {
	content, err := Read(path)
	if err != nil {
		return YAML{}, err
	}
	file := YAML{Path: path}
	if err := yaml.Unmarshal(content, &file.Keys); err != nil {
		where := yamlLineForm.FindString(err.Error())
		if where == "" {
			where = "it"
		}
		return YAML{}, fmt.Errorf("%s is not a YAML mapping of settings: %s cannot be read", path, where)
	}
	return file, nil
}

// Text returns the string under the key, or "" where there is none.
func (f YAML) Text(key string) (string, error) {
	switch value := f.Keys[key].(type) {
	case nil:
		return "", nil
	case string:
		return value, nil
	}
	return "", fmt.Errorf("%s: %s must be a string: put it in quotes", f.Path, key)
}
