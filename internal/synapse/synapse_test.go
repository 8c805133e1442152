// synapse_test.go owns the test that files are read as the installed Synapse versions read them.

package synapse

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A golden is what Synapse itself makes of documents and of files. testdata/golden.py asked it, and e2e asks again.
type golden struct {
	Documents []struct {
		Text  string
		Value any
		Line  *int // of the fault, where it refuses; 0 where it does not tell
	}
	Trees []struct {
		Name  string
		Tree  map[string]*string
		Paths []string
		Files []string
		Keys  any // nil where it refuses
	}
}

func readGolden(t *testing.T, version string) (g golden) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("testdata", "synapse-"+version+".json"))
	if err == nil {
		err = json.Unmarshal(content, &g)
	}
	if err != nil || len(g.Documents) == 0 || len(g.Trees) == 0 {
		t.Fatal(err)
	}
	return g
}

// shown brings a value of the golden file and one of ours to the same form.
func shown(value any) any {
	switch v := value.(type) {
	case map[string]any:
		return shownJSON(v)
	case map[any]any:
		var pairs []string
		for key, value := range v {
			pairs = append(pairs, fmt.Sprintf("%#v: %#v", shown(key), shown(value)))
		}
		slices.Sort(pairs)
		return pairs
	case []any:
		list := make([]any, len(v))
		for i := range v {
			list[i] = shown(v[i])
		}
		return list
	case float64:
		if math.IsNaN(v) {
			return "not a number"
		}
	case Other:
		return "other"
	}
	return value
}

func shownJSON(v map[string]any) any {
	if text, ok := v["int"].(string); ok {
		whole, _ := new(big.Int).SetString(text, 10)
		if whole.IsInt64() {
			return int(whole.Int64())
		}
		large, _ := whole.Float64()
		return large
	}
	if text, ok := v["float"].(string); ok {
		number, _ := strconv.ParseFloat(text, 64)
		return shown(number)
	}
	if pairs, ok := v["map"].([]any); ok {
		mapping := map[any]any{}
		for _, p := range pairs {
			mapping[shown(p.([]any)[0])] = shown(p.([]any)[1])
		}
		return shown(mapping)
	}
	return "other"
}

// Every document is read as PyYAML reads it, and what that refuses is refused, with the line of the fault.
func TestDecode(t *testing.T) {
	refusedMore := []string{"a: {? x : y}"} // nobody writes these, and what to do is said
	refused := 0
	for _, d := range readGolden(t, "1.163.2").Documents {
		got, err := Decode([]byte(d.Text))
		syntax := SyntaxError{}
		switch {
		case d.Line == nil && err != nil && !slices.Contains(refusedMore, d.Text):
			t.Errorf("%q: refused: %v; Synapse reads %v", d.Text, err, d.Value)
		case d.Line == nil && err == nil && !reflect.DeepEqual(shown(got), shown(d.Value)):
			t.Errorf("%q: got %#v, want %#v", d.Text, shown(got), shown(d.Value))
		case d.Line == nil:
		case err == nil:
			t.Errorf("%q: got %#v; Synapse refuses it", d.Text, got)
		case !errors.As(err, &syntax) || syntax.Line != *d.Line && *d.Line > 0:
			t.Errorf("%q: got %v, want line %d", d.Text, err, *d.Line)
		default:
			refused++
		}
	}
	if refused < 50 {
		t.Errorf("only %d were refused: is the golden file whole?", refused)
	}
}

// What is wrong is said without a word of the document, whose lines hold secrets.
func TestDecodeQuotesNothing(t *testing.T) {
	const secret = "hunter2"
	for _, text := range []string{
		"a: *hunter2", "a: !hunter2 x", "a: !!python/hunter2 x", "a: !hunter2\x60 x", "a: [hunter2", "hunter2\nb: 1", "a: 'hunter2", "a: hunter2: b", "%hunter2 \na: 1",
		"a: &hunter2. x", "hunter2\t: 1", "a: \"hunter2\\q\"", "? [hunter2]\n: 1", "<<: hunter2", "a: hunter2\n---\nhunter2: 1", "a: hunter2\x07", "{a: :hunter2}",
	} {
		if _, err := Decode([]byte(text)); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%q: got %v", text, err)
		}
	}
}

// Files are found, and made one, as Synapse does it.
func TestRead(t *testing.T) {
	old := map[string]bool{} // what Synapse 0.34.0 refuses
	for _, tree := range readGolden(t, "0.34.0").Trees {
		old[tree.Name] = tree.Keys == nil
	}
	for _, tree := range readGolden(t, "1.163.2").Trees {
		t.Run(tree.Name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			for path, content := range tree.Tree {
				plant(t, path, content)
			}
			got, err := Read(tree.Paths)
			if fault := (FileError{}); tree.Keys == nil {
				if !errors.As(err, &fault) || !slices.Contains(slices.Concat(tree.Paths, slices.Collect(maps.Keys(tree.Tree))), fault.Path) {
					t.Errorf("got %v; Synapse refuses it", err)
				}
				return
			}
			if err != nil || !slices.Equal(got.Files, tree.Files) || !reflect.DeepEqual(shown(got.Keys), shown(tree.Keys)) {
				t.Errorf("got %q, %v, %v\nwant %q, %v", got.Files, shown(got.Keys), err, tree.Files, shown(tree.Keys))
			}
			if stops := slices.ContainsFunc(got.Skipped, func(s Skipped) bool { return s.StopsOld }); stops != old[tree.Name] {
				t.Errorf("Synapse 0.34.0 stops: got %v in %+v", stops, got.Skipped)
			}
			for key, from := range got.From {
				if !slices.Contains(got.Files, from) {
					t.Errorf("%v is from %q", key, from)
				}
			}
		})
	}
}

// plant makes a file, a directory where there is no content, or a link.
func plant(t *testing.T, path string, content *string) {
	t.Helper()
	dir := filepath.Dir(path)
	if content == nil {
		dir = path
	}
	err := os.MkdirAll(dir, 0o700)
	if content != nil && err == nil {
		if to, isLink := strings.CutPrefix(*content, "->"); isLink {
			err = os.Symlink(to, path)
		} else {
			err = os.WriteFile(path, []byte(*content), 0o600)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestFrom(t *testing.T) {
	t.Chdir(t.TempDir())
	for path, content := range map[string]string{"homeserver.yaml": "a: 1\nb: 1\n", "conf.d/x.yaml": "b: 2\nc: 2\n"} {
		plant(t, path, &content)
	}
	s, err := Read(DefaultPaths("."))
	if want := map[any]string{"a": "homeserver.yaml", "b": "conf.d/x.yaml", "c": "conf.d/x.yaml"}; err != nil || !maps.Equal(s.From, want) {
		t.Errorf("got %v, %v", s.From, err)
	}
}

func TestDefaultPaths(t *testing.T) {
	text := ""
	for _, test := range []struct {
		name string
		tree map[string]*string
		want []string
	}{
		{"nothing", nil, nil},
		{"a file", map[string]*string{"homeserver.yaml": &text}, []string{"homeserver.yaml"}},
		{"Debian's", map[string]*string{"homeserver.yaml": &text, "conf.d": nil}, []string{"homeserver.yaml", "conf.d"}},
		{"a file in its place", map[string]*string{"homeserver.yaml": &text, "conf.d": &text}, []string{"homeserver.yaml"}},
		{"the directory alone", map[string]*string{"conf.d": nil}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			for path, content := range test.tree {
				plant(t, path, content)
			}
			if got := DefaultPaths("."); !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// A fault is told with its file and its line; a file that is not there, or that this user may not read, as such.
func TestFileErrors(t *testing.T) {
	t.Chdir(t.TempDir())
	for path, content := range map[string]string{"homeserver.yaml": "a: 1\n", "conf.d/a.yaml": "# one\n# two\na: b: c\n"} {
		plant(t, path, &content)
	}
	if _, err := Read([]string{"homeserver.yaml", "conf.d"}); err == nil || err.Error() != "conf.d/a.yaml, line 3: mapping values are not allowed in this context" {
		t.Errorf("got %v", err)
	}
	if _, err := Read([]string{"nowhere.yaml"}); !errors.Is(err, os.ErrNotExist) || err.Error() != "open nowhere.yaml: no such file or directory" {
		t.Errorf("got %v", err)
	}
}
