// lines.go owns what of a YAML text PyYAML refuses and the library takes, and in which line.

package synapse

import (
	"errors"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v4"
)

// A text is the characters of a document, with where its lines begin.
type text struct {
	runes []rune
	begin []int
}

func readLines(content []byte) text {
	t := text{runes: []rune(string(content)), begin: []int{0}}
	for i, r := range t.runes {
		if isBreak(r) && (r != '\r' || i+1 == len(t.runes) || t.runes[i+1] != '\n') {
			t.begin = append(t.begin, i+1)
		}
	}
	return t
}

func isBreak(r rune) bool {
	return r == '\n' || r == '\r' || r == 0x85 || r == 0x2028 || r == 0x2029
}

// line is the number of the line that has the character.
func (t text) line(at int) int {
	line, found := slices.BinarySearch(t.begin, at)
	if found {
		line++
	}
	return line
}

// lineBegin is where the line begins, or the end of the text.
func (t text) lineBegin(line int) int {
	if line > len(t.begin) {
		return len(t.runes)
	}
	return t.begin[line-1]
}

// forbidden is the line of the first character that no document may have, or 0.
func (t text) forbidden() int {
	at := slices.IndexFunc(t.runes, func(r rune) bool {
		return r < ' ' && r != '\t' && !isBreak(r) || r >= 0x7f && r < 0xa0 && r != 0x85 || r == 0xfffe || r == 0xffff
	})
	if at < 0 {
		return 0
	}
	return t.line(at)
}

// commentDirectives makes comments of the directives before a document that PyYAML passes over, and the library refuses.
func (t text) commentDirectives() {
	var passedOver []int
	for _, begin := range t.begin {
		line := string(t.runes[begin:min(begin+50, len(t.runes))])
		switch {
		case passedOverForm.MatchString(line) && (!strings.HasPrefix(line, "%YAML") || strings.HasPrefix(line, "%YAML 1.")):
			passedOver = append(passedOver, begin)
		case noContentForm.MatchString(line):
		case strings.HasPrefix(line, "---"): // which has to follow them
			for _, at := range passedOver {
				t.runes[at] = '#'
			}
			return
		default:
			return
		}
	}
}

var (
	passedOverForm = regexp.MustCompile(`^%[0-9A-Za-z_-]+(?:\s|$)`)
	noContentForm  = regexp.MustCompile(`^(?:#|%TAG | *[\n\r])`)
)

// parse parses the one document. The library wants a space before each comment, which PyYAML does not: where one is missing, it
// is put in, so many times at most.
func (t *text) parse(spaces int) (*yaml.Node, error) {
	decoder := yaml.NewDecoder(strings.NewReader(string(t.runes)))
	document, next := yaml.Node{Kind: yaml.DocumentNode}, yaml.Node{}
	err := decoder.Decode(&document)
	if err == nil {
		if err = decoder.Decode(&next); err == nil {
			return nil, SyntaxError{next.Line, "a second document begins, and Synapse reads one alone"}
		}
	}
	if errors.Is(err, io.EOF) {
		return &document, nil
	}
	its := (*yaml.LoadError)(nil)
	if errors.As(err, &its) && spaces > 0 && its.Message == "found a comment without preceding whitespace" {
		if at := t.lineBegin(its.Mark.Line) + its.Mark.Column - 1; at < len(t.runes) && t.runes[at] == '#' && !unicode.IsSpace(t.runes[at-1]) {
			*t = readLines([]byte(string(t.runes[:at]) + " " + string(t.runes[at:])))
			return t.parse(spaces - 1)
		}
	}
	return nil, t.syntaxError(err)
}

// refuseTabs refuses tabs that separate, which the library takes: they may be in quotes, in blocks and in comments alone.
func (t text) refuseTabs(document *yaml.Node) error {
	if !slices.Contains(t.runes, '\t') {
		return nil
	}
	ends := map[int]int{} // of what may have tabs, by where it begins
	block := -1
	t.findScalars(document, ends, &block)
	inComment := false
	for at := 0; at < len(t.runes); at++ {
		r := t.runes[at]
		end, isScalar := ends[at]
		switch {
		case isBreak(r):
			inComment = false
		case inComment:
		case isScalar:
			at = end - 1
		case r == '#' && (at == 0 || unicode.IsSpace(t.runes[at-1])):
			inComment = true
		case r == '\t':
			return SyntaxError{t.line(at), "a tab stands where Synapse takes spaces alone"}
		}
	}
	return nil
}

// findScalars notes where quoted and block scalars begin and end. A block ends before the line of the next node; it is noted as
// block until that is known.
func (t text) findScalars(n *yaml.Node, ends map[int]int, block *int) {
	if *block >= 0 && n.Kind != yaml.DocumentNode {
		ends[*block], *block = max(t.lineBegin(n.Line), *block+1), -1
	}
	switch {
	case n.Kind != yaml.ScalarNode:
	case n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0:
		*block = t.opening(n)
		ends[*block] = len(t.runes)
	case n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0:
		at := t.opening(n)
		ends[at] = t.closing(at)
	}
	for _, child := range n.Content {
		t.findScalars(child, ends, block)
	}
}

// opening is where a quoted or block scalar begins, behind its anchor and its tag.
func (t text) opening(n *yaml.Node) int {
	at := min(t.lineBegin(n.Line)+n.Column-1, len(t.runes)-1)
	for at < len(t.runes)-1 && !strings.ContainsRune(`"'|>`, t.runes[at]) {
		at++
	}
	return at
}

// closing is behind the quote that ends what begins with one.
func (t text) closing(at int) int {
	quote := t.runes[at]
	for at++; at < len(t.runes); at++ {
		switch {
		case quote == '"' && t.runes[at] == '\\':
			at++
		case t.runes[at] != quote:
		case quote == '\'' && at+1 < len(t.runes) && t.runes[at+1] == quote:
			at++
		default:
			return at + 1
		}
	}
	return at
}

// syntaxError is what the library says of the document, without what it quotes of it.
func (t text) syntaxError(err error) error {
	its := (*yaml.LoadError)(nil)
	if !errors.As(err, &its) {
		return SyntaxError{0, "it is not YAML"}
	}
	problem := quoted.ReplaceAllString(its.Message, "")
	if its.Stage == yaml.ComposerStage {
		problem = "an alias (*) names no anchor (&) before it"
	}
	line := min(its.Mark.Line, len(t.begin))
	if begin := its.ContextMark.Line; begin > 0 && begin < line {
		problem += " " + its.ContextMsg + ", which begins in line " + strconv.Itoa(begin)
	}
	return SyntaxError{line, problem}
}

// quoted is what a message of the library has of the document.
var quoted = regexp.MustCompile(` '.'(?: that)| \(value: [0-9]+\)`)
