// docs_test.go owns what the documents say the program says.

package main

import (
	"bytes"
	"cmp"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/check"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"gopkg.in/yaml.v2"
)

var (
	quotedLines = regexp.MustCompile("(?ms)^```log\n(.*?)^```$")
	lineStart   = regexp.MustCompile(`^(INFO|WARN|ERROR|matrix-regservice: )`)
	formatVerb  = regexp.MustCompile(`%[-+#0-9.]*[a-z]`)
)

// systemWords are what the operating system adds to a line.
var systemWords = []string{"listen tcp", "bind", syscall.EADDRINUSE.Error(), syscall.ENOSPC.Error(), syscall.EROFS.Error()}

// Each line that troubleshooting.md quotes is one that the program prints: but for values, which are … there, all of its
// words are in the program's strings.
func TestTroubleshootingQuotesTheProgram(t *testing.T) {
	fragments := sourceFragments(t)
	doc, err := os.ReadFile("docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, block := range quotedLines.FindAllStringSubmatch(string(doc), -1) {
		for line := range strings.Lines(block[1]) {
			line = strings.TrimSpace(line)
			if !lineStart.MatchString(line) {
				t.Errorf("that is not a line of the program: %s", line)
			}
			count++
			if rest := uncovered(lineStart.ReplaceAllString(line, ""), fragments); rest != "" {
				t.Errorf("the program does not say %q of\n%s", rest, line)
			}
		}
	}
	if count < 20 {
		t.Errorf("only %d lines are quoted: is the form of the document another?", count)
	}
}

// uncovered returns what of a quoted line is in none of the fragments.
func uncovered(line string, fragments []string) string {
	line = strings.ReplaceAll(line, `\"`, `"`) // as a log has it within quotation marks
	for _, text := range fragments {
		if strings.Contains(line, text) { // most are in no line: they are thousands
			line = wholeWords(text).ReplaceAllString(line, " ")
		}
	}
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) {
			return r
		}
		return ' '
	}, line))
}

// sourceFragments are the constant parts of all strings of the program, as whole words, the longest first.
func sourceFragments(t *testing.T) []string {
	t.Helper()
	seen := make(map[string]bool)
	for _, words := range systemWords {
		seen[words] = true
	}
	for _, file := range moduleFiles(t) {
		if !isProgram(file) {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			if literal, ok := n.(*ast.BasicLit); ok && literal.Kind == token.STRING {
				text, _ := strconv.Unquote(literal.Value)
				for _, part := range formatVerb.Split(text, -1) {
					seen[strings.TrimSpace(part)] = true
				}
			}
			return true
		})
	}
	texts := slices.SortedFunc(maps.Keys(seen), func(a, b string) int { return cmp.Compare(len(b), len(a)) })
	return slices.DeleteFunc(texts, func(text string) bool { return strings.IndexFunc(text, unicode.IsLetter) < 0 })
}

// wholeWords is the text where no word goes on before or behind it.
func wholeWords(text string) *regexp.Regexp {
	pattern := regexp.QuoteMeta(text)
	if isWord(text[0]) {
		pattern = `\b` + pattern
	}
	if isWord(text[len(text)-1]) {
		pattern += `\b`
	}
	return regexp.MustCompile(pattern)
}

func isWord(b byte) bool { return b == '_' || b < unicode.MaxASCII && unicode.IsLetter(rune(b)) }

// rateLimitLine begins a limit in homeserver.yaml.
var rateLimitLine = regexp.MustCompile(`^ *rc_[a-z_]+:`)

// readRateLimits finds each block of limits in a text, and reads it as YAML: rates and numbers by their names.
func readRateLimits(t *testing.T, text string) (blocks []map[string]homeserver.Rate) {
	t.Helper()
	var block string
	indent := 0
	end := func() {
		var settings map[string]any
		if err := yaml.Unmarshal([]byte(block), &settings); err != nil {
			t.Fatalf("%v in\n%s", err, block)
		}
		if rates := map[string]homeserver.Rate{}; block != "" {
			flattenRates(rates, "", settings)
			blocks = append(blocks, rates)
		}
		block = ""
	}
	for line := range strings.Lines(text) {
		itsIndent := len(line) - len(strings.TrimLeft(line, " "))
		switch {
		case rateLimitLine.MatchString(line) && (block == "" || itsIndent == indent):
			block, indent = block+line[itsIndent:], itsIndent
		case block != "" && itsIndent > indent && strings.TrimSpace(line) != "":
			block += line[indent:]
		default:
			end()
		}
	}
	end()
	return blocks
}

func flattenRates(into map[string]homeserver.Rate, under string, value any) {
	content, _ := yaml.Marshal(value)
	var rate homeserver.Rate
	var number float64
	if yaml.UnmarshalStrict(content, &rate) == nil {
		into[under] = rate
		return
	}
	if yaml.Unmarshal(content, &number) == nil {
		into[under] = homeserver.Rate{PerSecond: number}
		return
	}
	var settings map[string]any
	yaml.Unmarshal(content, &settings)
	for key, value := range settings {
		flattenRates(into, strings.TrimPrefix(under+"."+key, "."), value)
	}
}

// Every place that shows the homeserver's limits shows those of internal/homeserver. The homeservers of the tests let as much
// through, or more.
func TestRateLimitPlaces(t *testing.T) {
	today, low, lowBehindMAS := map[string]homeserver.Rate{}, map[string]homeserver.Rate{}, map[string]homeserver.Rate{}
	for _, l := range homeserver.RateLimits {
		today[l.Name()] = l.Set
		if l.Default.IsBelow(l.Needed) {
			low[l.Name()] = l.Set
			if !l.OfLogins {
				lowBehindMAS[l.Name()] = l.Set
			}
		}
		if l.Set.IsBelow(l.Needed) {
			t.Errorf("%s is set to less than a hub needs", l.Name())
		}
	}
	old := map[string]homeserver.Rate{
		homeserver.OldMessageRate:  {PerSecond: homeserver.OldMessageLimit.Set.PerSecond},
		homeserver.OldMessageBurst: {PerSecond: homeserver.OldMessageLimit.Set.Burst},
	}
	read := func(file string) string {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(content)
	}
	steps := func(w *homeserver.Way) string {
		var out bytes.Buffer
		c := config.Config{Way: w, Host: "127.0.0.1", Port: 8009, Origin: "http://127.0.0.1:1", APIOrigin: homeserver.GuideMAS} // where none is
		printSteps(&out, c, "/x", check.ReadLeft(t.Context(), newCheckInput(c)))
		return out.String()
	}
	for _, test := range []struct {
		place, text string
		want        []map[string]homeserver.Rate
		orMore      bool
	}{
		{"deploy/synapse.yaml", read("deploy/synapse.yaml"), []map[string]homeserver.Rate{today}, false},
		{"docs/homeservers/synapse-0.34.md", read("docs/homeservers/synapse-0.34.md"), []map[string]homeserver.Rate{old}, false},
		{"genconfig for the shared secret", steps(homeserver.SharedSecret), []map[string]homeserver.Rate{low}, false},
		{"genconfig for createUser", steps(homeserver.CreateUser), []map[string]homeserver.Rate{old}, false},
		{"genconfig for Matrix Authentication Service", steps(homeserver.MAS), []map[string]homeserver.Rate{lowBehindMAS}, false},
		{"today's Synapse of the tests", read("e2e/testdata/synapse-1.163.2/homeserver.yaml"), []map[string]homeserver.Rate{today}, true},
		{"the old Synapse of the tests", read("e2e/testdata/synapse-0.34.0/homeserver.yaml"), []map[string]homeserver.Rate{old}, true},
	} {
		got := readRateLimits(t, test.text)
		if len(got) != len(test.want) {
			t.Errorf("%s: got %d blocks of limits, want %d", test.place, len(got), len(test.want))
			continue
		}
		for i, want := range test.want {
			for name, rate := range want {
				if its := got[i][name]; its.IsBelow(rate) || its != rate && !test.orMore {
					t.Errorf("%s, %s: got %v, want %v", test.place, name, its, rate)
				}
			}
			if len(got[i]) != len(want) {
				t.Errorf("%s: got %v, want %v", test.place, got[i], want)
			}
		}
	}
	const page = "docs/homeservers/synapse.md"
	guide := read(page)
	for name := range today {
		if setting, _, _ := strings.Cut(name, "."); !strings.Contains(guide, "`"+setting+"`") {
			t.Errorf("%s does not name %s", page, setting)
		}
	}
}

var (
	testName   = regexp.MustCompile("`((?:Test|Fuzz|test)[A-Z][A-Za-z0-9]*)`")
	testMaking = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|test)[A-Z][A-Za-z0-9]*)\(\w+ \*testing\.[TF]\b`)
)

// Each test that SECURITY.md names is there.
func TestSecurityNamesTests(t *testing.T) {
	there := make(map[string]bool)
	for _, file := range moduleFiles(t) {
		if !strings.HasSuffix(file, "_test.go") {
			continue
		}
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range testMaking.FindAllStringSubmatch(string(source), -1) {
			there[match[1]] = true
		}
	}
	doc, err := os.ReadFile("SECURITY.md")
	if err != nil {
		t.Fatal(err)
	}
	named := testName.FindAllStringSubmatch(string(doc), -1)
	if len(named) < 30 {
		t.Errorf("only %d tests are named: is the form of the document another?", len(named))
	}
	for _, match := range named {
		if !there[match[1]] {
			t.Errorf("there is no %s", match[1])
		}
	}
}

// README.md has at most 200 lines, and a line for every command.
func TestReadme(t *testing.T) {
	doc, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	if got := bytes.Count(doc, []byte("\n")); got > 200 {
		t.Errorf("it has %d lines, want at most 200", got)
	}
	for _, cmd := range newCommand(io.Discard, io.Discard).Commands {
		if !regexp.MustCompile("(?m)^\\| [^|]*`" + cmd.Name + "`").Match(doc) {
			t.Errorf("there is no line for %s", cmd.Name)
		}
	}
}

// flagRow is the row of a flag in a table of docs/reference.md.
var flagRow = regexp.MustCompile("(?m)^\\| `(?:[a-z]+ )?--([a-z-]+)` \\|.*\\|$")

// docs/reference.md has every command, flag and metric. For every flag of config.Table it has form, default, purpose and errors.
func TestReferenceNamesEverything(t *testing.T) {
	doc, err := os.ReadFile("docs/reference.md")
	if err != nil {
		t.Fatal(err)
	}
	reference := string(doc)
	root := newCommand(io.Discard, io.Discard)
	for _, cmd := range append(root.Commands, root) {
		if !regexp.MustCompile(`(?m)^### .*\b`+cmd.Name+`\b`).MatchString(reference) && cmd != root {
			t.Errorf("there is no heading for %s", cmd.Name)
		}
		for _, flag := range cmd.Flags {
			name := flag.Names()[0]
			if !strings.Contains(reference, "`--"+name+"`") && !strings.Contains(reference, "`"+cmd.Name+" --"+name+"`") {
				t.Errorf("%s: there is no `--%s`", cmd.Name, name)
			}
		}
	}
	_, global, _ := strings.Cut(reference, "\n## Global flags\n")
	global, _, _ = strings.Cut(global, "\n## ")
	rows := make(map[string][]string)
	for _, row := range flagRow.FindAllStringSubmatch(global, -1) {
		rows[row[1]] = strings.Split(strings.Trim(row[0], "| "), " | ")
	}
	for _, row := range config.Table {
		cells := rows[row.Name]
		if len(cells) != 5 || slices.Contains(cells, "") {
			t.Errorf("--%s: got the cells %q, want five", row.Name, cells)
			continue
		}
		if row.Value != "" && row.Value != "false" && !strings.Contains(cells[2], "`"+row.Value+"`") {
			t.Errorf("--%s: the default is %q there, want %s", row.Name, cells[2], row.Value)
		}
	}
	metrics := newMetrics(config.Config{Way: homeserver.SharedSecret})
	metrics.watch(openTestStore(t))
	metrics.called("profile", "ok", time.Millisecond) // what has no labels yet is not gathered
	families, err := metrics.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if name := family.GetName(); strings.HasPrefix(name, metricsPrefix) && !strings.Contains(reference, "`"+name+"`") {
			t.Errorf("there is no metric %s", name)
		}
	}
}

var (
	markdownLink = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading      = regexp.MustCompile("(?m)^#+ (.+)$")
	codeBlock    = regexp.MustCompile("(?ms)^```.*?^```$|^    [^\n]*$|`[^`\n]+`")
)

// anchors are what links can name in a document, as GitHub makes it of the headings.
func anchors(doc string) map[string]bool {
	found := make(map[string]bool)
	for _, match := range heading.FindAllStringSubmatch(regexp.MustCompile("(?ms)^```.*?^```$|(?m)^    [^\n]*$").ReplaceAllString(doc, ""), -1) {
		var anchor strings.Builder
		for _, r := range strings.ToLower(match[1]) {
			switch {
			case unicode.IsLetter(r), unicode.IsDigit(r), r == '-', r == '_':
				anchor.WriteRune(r)
			case r == ' ':
				anchor.WriteRune('-')
			}
		}
		name := anchor.String()
		for n := 1; found[name]; n++ { // of two headings with one text
			name = anchor.String() + "-" + strconv.Itoa(n)
		}
		found[name] = true
	}
	return found
}

// quotedMessage is a line of the log that a text quotes: three words or more, the first with a capital.
var quotedMessage = regexp.MustCompile(`"([A-Z][^"\n]* [^"\n]+ [^"\n]+)"`)

// Each message that the text of a document quotes is one of the program's.
func TestQuotedMessages(t *testing.T) {
	fragments := sourceFragments(t)
	count := 0
	for _, file := range trackedDocuments(t) {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.Join(strings.Fields(codeBlock.ReplaceAllString(string(content), "")), " ")
		for _, match := range quotedMessage.FindAllStringSubmatch(text, -1) {
			count++
			if message := strings.TrimSpace(lineStart.ReplaceAllString(match[1], "")); !slices.Contains(fragments, message) {
				t.Errorf("%s: the program does not say %q", file, message)
			}
		}
	}
	if count < 5 {
		t.Errorf("only %d messages are quoted: is their form another?", count)
	}
}

// Each link of a document to a file of this repository leads to that file, and to a heading there if it names one.
func TestDocumentLinks(t *testing.T) {
	documents := trackedDocuments(t)
	count := 0
	for _, file := range documents {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range markdownLink.FindAllStringSubmatch(codeBlock.ReplaceAllString(string(content), ""), -1) {
			target, anchor, _ := strings.Cut(match[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			count++
			linked := file
			if target != "" {
				linked = filepath.Join(filepath.Dir(file), target)
			}
			text, err := os.ReadFile(linked)
			if stat, statErr := os.Stat(linked); statErr == nil && stat.IsDir() {
				continue
			}
			if err != nil {
				t.Errorf("%s: the link %s leads nowhere", file, match[1])
			} else if anchor != "" && !anchors(string(text))[anchor] {
				t.Errorf("%s: there is no heading for the link %s", file, match[1])
			}
		}
	}
	if count < 50 {
		t.Errorf("only %d links are there: is their form another?", count)
	}
}

// trackedDocuments are the Markdown files of the repository.
func trackedDocuments(t *testing.T) (documents []string) {
	t.Helper()
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/*/*.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		documents = append(documents, found...)
	}
	return documents
}
