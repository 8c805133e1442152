// yaml.go owns what Synapse makes of a YAML document. Synapse reads with PyYAML, which follows YAML 1.1: it reads 1:30 as 90
// and 1e10 as a text, where Go's libraries do the opposite.

package synapse

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"math/big"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// A SyntaxError says where a document cannot be read, and why. It quotes nothing of the document, which may hold a secret.
type SyntaxError struct {
	Line    int // 0 where the whole document is meant
	Problem string
}

func (e SyntaxError) Error() string {
	if e.Line == 0 {
		return e.Problem
	}
	return fmt.Sprintf("line %d: %s", e.Line, e.Problem)
}

// An Other is a value that is neither text, number, list nor mapping. It says what it is.
type Other string

// Decode reads the one document of a stream as PyYAML's safe_load does, to nil, bool, int, float64, string, Other, []any and
// map[any]any.
func Decode(content []byte) (any, error) {
	if !utf8.Valid(content) {
		return nil, SyntaxError{0, "it is not UTF-8"}
	}
	text := readLines(content)
	if line := text.forbidden(); line > 0 {
		return nil, SyntaxError{line, "a control character stands there"}
	}
	text.commentDirectives()
	document, err := text.parse(mostSpaces)
	if err != nil {
		return nil, err
	}
	if err := text.refuseTabs(document); err != nil {
		return nil, err
	}
	if len(document.Content) == 0 {
		return nil, nil
	}
	return (&construction{made: map[*yaml.Node]any{}}).value(document.Content[0])
}

// A construction makes the values of one document.
type construction struct {
	made   map[*yaml.Node]any // of what has an anchor; unmade while it is being made
	merged int                // keys and mappings so far
}

type unmade struct{}

var anchorForm = regexp.MustCompile(`^[0-9A-Za-z_-]*$`)

// value makes the value of a node.
func (c *construction) value(n *yaml.Node) (any, error) {
	if n.Kind == yaml.AliasNode {
		if made, ok := c.made[n.Alias]; ok {
			if made == (any)(unmade{}) {
				return Other("a value that holds itself"), nil
			}
			return made, nil
		}
		return c.value(n.Alias)
	}
	if n.Anchor == "" {
		return c.make(n)
	}
	c.made[n] = unmade{}
	value, err := c.make(n)
	c.made[n] = value
	return value, err
}

func (c *construction) make(n *yaml.Node) (any, error) {
	tag := tagOf(n)
	switch {
	case !anchorForm.MatchString(n.Anchor):
		return nil, SyntaxError{n.Line, "an anchor has other characters than letters, digits, - and _"}
	case n.Kind == yaml.ScalarNode:
		value, err := scalar(tag, n.Value)
		if err != nil {
			return nil, SyntaxError{n.Line, err.Error()}
		}
		return value, nil
	case n.Kind == yaml.SequenceNode && tag == "seq":
		list := make([]any, len(n.Content))
		for i, item := range n.Content {
			if err := refuseInFlow(n, item); err != nil {
				return nil, err
			}
			var err error
			if list[i], err = c.value(item); err != nil {
				return nil, err
			}
		}
		return list, nil
	case n.Kind == yaml.MappingNode && tag == "map":
		return c.mapping(n)
	case tag == "omap", tag == "pairs", tag == "set":
		return Other("a collection with the tag !!" + tag), nil
	}
	return nil, SyntaxError{n.Line, errTag.Error()}
}

// mapping makes a mapping. Of a key that is there twice the last value counts.
func (c *construction) mapping(n *yaml.Node) (any, error) {
	pairs, err := c.pairs(n)
	if err != nil {
		return nil, err
	}
	mapping := make(map[any]any, len(pairs))
	for _, p := range pairs {
		key, err := c.value(p.key)
		if tagOf(p.key) == "value" {
			key, err = p.key.Value, nil
		}
		if err != nil {
			return nil, err
		}
		switch key.(type) {
		case []any, map[any]any:
			return nil, SyntaxError{p.key.Line, "a list or a mapping is used as a key"}
		}
		if mapping[key], err = c.value(p.value); err != nil {
			return nil, err
		}
	}
	return mapping, nil
}

type pair struct{ key, value *yaml.Node }

// pairs are the keys and values of a mapping, those first that it merges from others.
func (c *construction) pairs(n *yaml.Node) ([]pair, error) {
	var merged, own []pair
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if isPlain(key) && key.Value == "" && n.Style&yaml.FlowStyle == 0 {
			return nil, SyntaxError{key.Line, "no key stands before the colon"}
		}
		if err := cmp.Or(refuseInFlow(n, key), refuseInFlow(n, value)); err != nil {
			return nil, err
		}
		if key.Kind != yaml.ScalarNode || tagOf(key) != "merge" {
			own = append(own, pair{key, value})
			continue
		}
		value = target(value)
		from := []*yaml.Node{value}
		if value.Kind == yaml.SequenceNode {
			from = from[:0]
			for i := len(value.Content) - 1; i >= 0; i-- { // of two that are merged the earlier one counts
				from = append(from, target(value.Content[i]))
			}
		}
		for _, mapping := range from {
			if mapping.Kind != yaml.MappingNode {
				return nil, SyntaxError{mapping.Line, "<< merges what is not a mapping"}
			}
			if c.merged += 1 + len(mapping.Content); c.merged > mostMerged {
				return nil, SyntaxError{n.Line, "<< merges too much, or for ever"}
			}
			more, err := c.pairs(mapping)
			if err != nil {
				return nil, err
			}
			merged = append(merged, more...)
		}
	}
	return append(merged, own...), nil
}

// refuseInFlow refuses what may not begin a plain scalar between brackets, such as the address ::1.
func refuseInFlow(parent, n *yaml.Node) error {
	if parent.Style&yaml.FlowStyle != 0 && isPlain(n) && (strings.HasPrefix(n.Value, ":") || strings.HasPrefix(n.Value, "?")) {
		return SyntaxError{n.Line, "between brackets what begins with " + n.Value[:1] + " has to be in quotes"}
	}
	return nil
}

func isPlain(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) == 0
}

// What no file of settings reaches, and what would take for ever does.
const (
	mostMerged = 10_000
	mostSpaces = 100 // that are missing before comments
)

func target(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// tagOf is the tag of a node without its prefix: the one that it has, or else what a plain scalar looks like.
func tagOf(n *yaml.Node) string {
	switch {
	case n.Style&yaml.TaggedStyle != 0:
		tag, known := strings.CutPrefix(n.Tag, "!!")
		if !known {
			return n.Tag
		}
		return tag
	case n.Kind == yaml.SequenceNode:
		return "seq"
	case n.Kind == yaml.MappingNode:
		return "map"
	case isPlain(n):
		for _, form := range plainForms {
			if form.is.MatchString(n.Value) {
				return form.tag
			}
		}
	}
	return "str"
}

// plainForms are the forms of plain scalars that are no text: YAML 1.1's, as PyYAML has them.
var plainForms = []struct {
	tag string
	is  *regexp.Regexp
}{
	{"bool", regexp.MustCompile(`^(?:yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)$`)},
	{"float", regexp.MustCompile(`^(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+][0-9]+)?` +
		`|\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?` +
		`|[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]*` +
		`|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$`)},
	{"int", regexp.MustCompile(`^(?:[-+]?0b[0-1_]+|[-+]?0[0-7_]+|[-+]?(?:0|[1-9][0-9_]*)|[-+]?0x[0-9a-fA-F_]+` +
		`|[-+]?[1-9][0-9_]*(?::[0-5]?[0-9])+)$`)},
	{"merge", regexp.MustCompile(`^<<$`)},
	{"null", regexp.MustCompile(`^(?:~|null|Null|NULL|)$`)},
	{"timestamp", regexp.MustCompile(`^(?:[0-9]{4}-[0-9]{2}-[0-9]{2}` +
		`|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt]|[ \t]+)[0-9]{1,2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]*)?(?:[ \t]*(?:Z|[-+][0-9]{1,2}(?::[0-9]{2})?))?)$`)},
	{"value", regexp.MustCompile(`^=$`)},
}

var errTag = errors.New("it has a tag that Synapse does not read")

// scalar makes the value of a scalar with this tag.
func scalar(tag, text string) (any, error) {
	switch tag {
	case "str":
		return text, nil
	case "null":
		return nil, nil
	case "bool":
		switch strings.ToLower(text) {
		case "yes", "true", "on":
			return true, nil
		case "no", "false", "off":
			return false, nil
		}
	case "int":
		if value, ok := integer(strings.ReplaceAll(text, "_", "")); ok {
			return value, nil
		}
	case "float":
		if value, ok := float(strings.ToLower(strings.ReplaceAll(text, "_", ""))); ok {
			return value, nil
		}
	case "timestamp":
		if isTime(text) {
			return Other("a date"), nil
		}
		return nil, errors.New("it looks like a date and is none: put it in quotes")
	case "binary":
		return Other("binary data"), nil
	case "merge", "value":
		return nil, fmt.Errorf("a plain %s is no value: put it in quotes", text)
	default:
		return nil, errTag
	}
	return nil, errors.New("it looks like a number or a truth value and is none: put it in quotes")
}

// integer reads a whole number, of base 60 where it has colons.
func integer(text string) (any, bool) {
	sign, digits := signOf(text)
	base := 10
	switch {
	case digits == "0":
		return 0, true
	case strings.HasPrefix(digits, "0b"):
		digits, base = digits[2:], 2
	case strings.HasPrefix(digits, "0x"):
		digits, base = digits[2:], 16
	case strings.HasPrefix(digits, "0"):
		base = 8
	}
	whole := new(big.Int)
	for part := range strings.SplitSeq(digits, ":") {
		next, ok := new(big.Int).SetString(part, base)
		if !ok || part[0] == '-' || part[0] == '+' {
			return nil, false
		}
		whole.Add(whole.Mul(whole, big.NewInt(60)), next)
	}
	whole.Mul(whole, big.NewInt(int64(sign)))
	if !whole.IsInt64() {
		large, _ := whole.Float64()
		return large, true
	}
	return int(whole.Int64()), true
}

// float reads a number with a point, of base 60 where it has colons.
func float(text string) (any, bool) {
	sign, digits := signOf(text)
	switch digits {
	case ".inf":
		return math.Inf(sign), true
	case ".nan":
		return math.NaN(), true
	}
	whole := 0.0
	for part := range strings.SplitSeq(digits, ":") {
		next, err := strconv.ParseFloat(part, 64)
		if err != nil && !errors.Is(err, strconv.ErrRange) { // which gives infinity, as Python does
			return nil, false
		}
		whole = whole*60 + next
	}
	return float64(sign) * whole, true
}

func signOf(text string) (sign int, rest string) {
	switch {
	case strings.HasPrefix(text, "-"):
		return -1, text[1:]
	case strings.HasPrefix(text, "+"):
		return 1, text[1:]
	}
	return 1, text
}

var timeForm = regexp.MustCompile(`^([0-9]{4})-([0-9]{1,2})-([0-9]{1,2})(?:(?:[Tt]|[ \t]+)([0-9]{1,2}):([0-9]{2}):([0-9]{2})(?:\.[0-9]*)?` +
	`(?:[ \t]*(?:Z|[-+]([0-9]{1,2})(?::([0-9]{2}))?))?)?$`)

// isTime tells whether there is such a day and such a time of day. PyYAML stops at one that there is not.
func isTime(text string) bool {
	parts := timeForm.FindStringSubmatch(text)
	if parts == nil {
		return false
	}
	var of [9]int
	for i, part := range parts[1:] {
		of[i+1], _ = strconv.Atoi(part) // of digits alone, or empty
	}
	day := time.Date(of[1], time.Month(of[2]), of[3], 0, 0, 0, 0, time.UTC)
	return of[1] > 0 && day.Year() == of[1] && int(day.Month()) == of[2] && day.Day() == of[3] &&
		of[4] < 24 && of[5] < 60 && of[6] < 60 && of[7]*60+of[8] < 24*60
}
