// house_test.go owns how the house is laid out: CONTRIBUTING.md says it to people, the tests here hold it.

package main

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// rootFiles is the program's main job. What knows neither node nor record goes below internal, and not in here.
var rootFiles = []string{
	"main.go", "server.go", "verify.go", "store.go", "store_open.go", "store_record.go", "matrixclient.go", "registrar.go", "wire.go", "appservice.go",
	"store_postgres.go", "store_postgres_schema.go",
	"claims.go", "attempts.go", "bans.go", "probe.go", "ops.go", "ops_socket.go", "health.go", "metrics.go",
	"cmd_backup.go", "cmd_ban.go", "cmd_check.go", "cmd_completion.go", "cmd_genconfig.go", "cmd_migrate.go", "cmd_refused.go", "cmd_register.go", "cmd_users.go", "cmd_users_node.go",
}

// allowedImports is which packages each package below internal may import of this module. The root may import them all.
var allowedImports = map[string][]string{
	"redact":     {},
	"names":      {},
	"shell":      {},
	"limit":      {"redact"},
	"nginx":      {},
	"files":      {"redact"},
	"boltfile":   {"files"},
	"synapse":    {"files", "names"},
	"recent":     {},
	"homeserver": {"names", "recent", "redact"},
	"pgdb":       {"names", "redact"},
	"mas":        {"homeserver", "names", "recent"},
	"config":     {"files", "homeserver", "names", "pgdb", "redact", "shell"},
	"admission":  {"files", "homeserver", "limit", "names", "redact"},
	"check":      {"admission", "config", "files", "homeserver", "mas", "names", "nginx", "pgdb", "redact", "shell", "synapse"},
}

// oneOwner are libraries, each with the packages below internal that may know it.
var oneOwner = map[string][]string{
	"github.com/ant0ine/go-json-rest":     {},
	"github.com/asdine/storm":             {},
	"github.com/prometheus/client_golang": {},
	"github.com/jackc/pgx":                {"pgdb"},
	"github.com/urfave/cli":               {"config"},
	"go.etcd.io/bbolt":                    {"boltfile"},
	"go.yaml.in/yaml/v4":                  {"synapse"},
}

const (
	ourModule = "github.com/SmartMeshFoundation/matrix-regservice"
	belowRoot = ourModule + "/internal/"
)

// A listedPackage is what go list -json says of a package.
type listedPackage struct {
	ImportPath, Doc string
	GoFiles         []string
	Imports         []string
	TestImports     []string
	XTestImports    []string
}

func listPackages(t *testing.T) (packages []listedPackage) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Doc,GoFiles,Imports,TestImports,XTestImports", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listedPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}

// Each package knows less than the one above it: it imports what the table has, and says what it owns.
func TestImports(t *testing.T) {
	seen := 0
	for _, p := range listPackages(t) {
		for _, wrong := range wrongImports(p) {
			t.Error(wrong)
		}
		if strings.HasPrefix(p.ImportPath, belowRoot) {
			seen++
			if !strings.HasPrefix(p.Doc, "Package "+path.Base(p.ImportPath)+" ") {
				t.Errorf("%s has no comment that says what it owns: it begins with Package %s", p.ImportPath, path.Base(p.ImportPath))
			}
		}
	}
	if seen == 0 {
		t.Error("go list names no package below internal")
	}
}

func wrongImports(p listedPackage) (wrong []string) {
	name, inHouse := strings.CutPrefix(p.ImportPath, belowRoot)
	allowed, known := allowedImports[name]
	if inHouse && !known {
		wrong = append(wrong, p.ImportPath+" is not in allowedImports: which packages may it know?")
	}
	imports := p.Imports
	if !inHouse && p.ImportPath != ourModule { // and no more do tests that are apart from the code
		imports = slices.Concat(p.Imports, p.TestImports, p.XTestImports)
	}
	for _, imported := range imports {
		of, isOurs := strings.CutPrefix(imported, ourModule+"/")
		below, isBelow := strings.CutPrefix(imported, belowRoot)
		switch {
		case p.ImportPath == ourModule:
			if isOurs && !isBelow {
				wrong = append(wrong, "the program imports "+of)
			}
		case !inHouse:
			if isBelow {
				wrong = append(wrong, p.ImportPath+" plays the program from outside, and imports "+of)
			}
		case isOurs && (!isBelow || !slices.Contains(allowed, below)):
			wrong = append(wrong, p.ImportPath+" imports "+of+", which allowedImports does not have")
		}
		for library, owners := range oneOwner {
			if inHouse && strings.HasPrefix(imported, library) && !slices.Contains(owners, name) {
				wrong = append(wrong, p.ImportPath+" imports "+imported+", which oneOwner does not have")
			}
		}
	}
	return wrong
}

func TestWrongImports(t *testing.T) {
	for name, test := range map[string]struct {
		of, imports string
		want        int
	}{
		"the root may know all below it":    {ourModule, belowRoot + "check", 0},
		"the root knows no test":            {ourModule, ourModule + "/e2e/mas", 1},
		"as the table has it":               {belowRoot + "files", belowRoot + "redact", 0},
		"not as the table has it":           {belowRoot + "redact", belowRoot + "files", 1},
		"a package that is not in it":       {belowRoot + "helper", "fmt", 1},
		"a test from below":                 {belowRoot + "files", ourModule + "/e2e/need", 1},
		"a library of its owner":            {belowRoot + "boltfile", "go.etcd.io/bbolt", 0},
		"a library of another":              {belowRoot + "config", "github.com/prometheus/client_golang/prometheus", 1},
		"a test of the whole that knows it": {ourModule + "/e2e", belowRoot + "names", 1},
		"the tests of the whole":            {ourModule + "/e2e", ourModule + "/e2e/need", 0},
	} {
		if got := wrongImports(listedPackage{ImportPath: test.of, Imports: []string{test.imports}}); len(got) != test.want {
			t.Errorf("%s: got %q, want %d", name, got, test.want)
		}
	}
	for of, want := range map[string]int{ourModule + "/process": 1, belowRoot + "names": 0} { // by a test of it
		if got := wrongImports(listedPackage{ImportPath: of, TestImports: []string{belowRoot + "homeserver"}}); len(got) != want {
			t.Errorf("a test of %s: got %q, want %d", of, got, want)
		}
	}
}

// The root is the files of rootFiles, and each of its tests is named after the file that it tests.
func TestRootFiles(t *testing.T) {
	// These test no one file: the documents, the layout, a process that is killed at each step, and what several tests share.
	apart := []string{"docs_test.go", "docs_api_test.go", "docs_nodes_test.go", "docs_troubleshooting_test.go", "house_test.go", "house_ports_test.go", "process_crash_test.go", "harness_test.go"}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range rootFiles {
		if !slices.Contains(files, file) {
			t.Errorf("%s is not there: take it out of rootFiles", file)
		}
	}
	for _, file := range apart {
		if !slices.Contains(files, file) {
			t.Errorf("%s is not there: take it out of apart", file)
		}
	}
	for _, file := range files {
		if name, isTest := strings.CutSuffix(file, "_test.go"); isTest {
			if !slices.Contains(apart, file) && !slices.ContainsFunc(files, func(f string) bool {
				tested, _ := strings.CutSuffix(f, ".go")
				return !strings.HasSuffix(f, "_test.go") && (name == tested || strings.HasPrefix(name, tested+"_"))
			}) {
				t.Errorf("%s is named after no file of the root", file)
			}
		} else if !slices.Contains(rootFiles, file) {
			t.Errorf("%s is not in rootFiles: what knows neither node nor record goes below internal", file)
		}
	}
}

// Each file says first what it owns, so that the tree alone shows where things are.
func TestFilesSayWhatTheyOwn(t *testing.T) {
	for _, file := range moduleFiles(t) {
		if strings.HasPrefix(file, "docs"+string(filepath.Separator)) { // an example, to be taken as it is
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments|parser.PackageClauseOnly)
		if err != nil {
			t.Fatal(err)
		}
		first := ""
		for _, comment := range parsed.Comments {
			if first = comment.Text(); first != "" { // a build constraint has none
				break
			}
		}
		says := []string{filepath.Base(file) + " ", "Package " + parsed.Name.Name + " "}
		if parsed.Name.Name == "main" && filepath.Base(file) == "main.go" {
			says = append(says, "Command "+filepath.Base(filepath.Dir(file))+" ")
		}
		if !slices.ContainsFunc(says, func(begin string) bool { return strings.HasPrefix(first, begin) || strings.Contains(first, "\n"+begin) }) {
			t.Errorf("%s begins with %q: say what it owns, in a comment that begins with %q", file, strings.TrimSpace(first), says[0])
		}
	}
}

// A package that reads no flags does not name them either: the reader of the flag adds its name to the error.
func TestNoFlagsBelow(t *testing.T) {
	mayName := []string{"config", "check", "synapse"} // the last one names Synapse's own
	flag := regexp.MustCompile(`--[a-z]`)
	for _, file := range moduleFiles(t) {
		dir := filepath.ToSlash(filepath.Dir(file))
		name, inHouse := strings.CutPrefix(dir, "internal/")
		if !inHouse || slices.Contains(mayName, name) || strings.HasSuffix(file, "_test.go") {
			continue
		}
		set := token.NewFileSet()
		parsed, err := parser.ParseFile(set, file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			if literal, ok := n.(*ast.BasicLit); ok && literal.Kind == token.STRING {
				if text, _ := strconv.Unquote(literal.Value); flag.MatchString(text) {
					t.Errorf("%s: %s names a flag, and %s reads none", set.Position(literal.Pos()), literal.Value, dir)
				}
			}
			return true
		})
	}
}

// wire.go alone makes Matrix errors. Every other file of the root returns plain errors: it names no status and no errcode of an
// answer. It may compare an errcode that it reads, and metrics.go lists those that are counted from the start.
func TestMatrixErrors(t *testing.T) {
	checked := 0
	for _, file := range rootFiles {
		if file == "wire.go" {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		checked++
		for _, wrong := range matrixErrorsIn(file, parsed) {
			t.Error(wrong)
		}
	}
	if checked == 0 {
		t.Error("no file was read")
	}
}

func matrixErrorsIn(file string, parsed *ast.File) (wrong []string) {
	errcode := regexp.MustCompile(`^errcode[A-Z]`)
	answersOperator := slices.Contains([]string{"ops.go", "health.go"}, file) // in plain text, over HTTP without Matrix
	compared := map[ast.Node]bool{}
	ast.Inspect(parsed, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.BinaryExpr:
			compared[n.X], compared[n.Y] = true, true
		case *ast.CompositeLit:
			if of, ok := n.Type.(*ast.Ident); ok && of.Name == "matrixError" {
				wrong = append(wrong, file+" makes a matrixError")
			}
		case *ast.Ident:
			if errcode.MatchString(n.Name) && !compared[n] && file != "metrics.go" {
				wrong = append(wrong, file+" gives "+n.Name+" away")
			}
		case *ast.BasicLit:
			if n.Kind == token.STRING && strings.HasPrefix(n.Value, `"M_`) {
				wrong = append(wrong, file+" spells "+n.Value)
			}
		case *ast.SelectorExpr:
			if of, ok := n.X.(*ast.Ident); (n.Sel.Name == "WriteHeader" || ok && of.Name == "http" && n.Sel.Name == "Error") && !answersOperator {
				wrong = append(wrong, file+" answers with "+n.Sel.Name)
			}
		}
		return true
	})
	return wrong
}

func TestMatrixErrorsIn(t *testing.T) {
	for body, want := range map[string]int{
		"":                                  0,
		"_ = a.Errcode == errcodeUserInUse": 0,
		"_ = &matrixError{status: 415}":     1,
		"_ = badRequest(errcodeMissingParam, `x`)":              1,
		"_ = &matrixError{Errcode: errcodeNotJSON}":             2,
		"_ = errors.New(`x`); code := errcodeNotJSON; _ = code": 1,
		`_ = "M_NOT_JSON"`:        1,
		"w.WriteHeader(404)":      1,
		"http.Error(w, `x`, 500)": 1,
		"switch { case errcode == errcodeNotJSON || errcode == errcodeX: }": 0,
	} {
		parsed, err := parser.ParseFile(token.NewFileSet(), "server.go", "package main\nfunc f() {\n"+body+"\n}", 0)
		if err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		if got := matrixErrorsIn("server.go", parsed); len(got) != want {
			t.Errorf("%s: got %q, want %d", body, got, want)
		}
	}
}

// Where code starts goroutines, the package's tests end with a look for those that are left.
func TestLeaksAreLookedFor(t *testing.T) {
	starts, looks := map[string]string{}, map[string]bool{}
	for _, file := range moduleFiles(t) {
		dir := filepath.ToSlash(filepath.Dir(file))
		if dir != "." && !strings.HasPrefix(dir, "internal/") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, imported := range parsed.Imports {
			looks[dir] = looks[dir] || imported.Path.Value == `"go.uber.org/goleak"`
		}
		if isProgram(file) {
			ast.Inspect(parsed, func(n ast.Node) bool {
				if _, ok := n.(*ast.GoStmt); ok {
					starts[dir] = file
				}
				return true
			})
		}
	}
	if starts["."] == "" {
		t.Error("the program starts no goroutine: is this not looking at it?")
	}
	for dir, file := range starts {
		if !looks[dir] {
			t.Errorf("%s starts a goroutine, and no test of %s looks for those that are left: func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }", file, dir)
		}
	}
}

// A test that does not run says what it needs and what brings it, so that the table at the end of make test has it.
func TestSkipsNameACure(t *testing.T) {
	set := token.NewFileSet()
	for _, file := range moduleFiles(t) {
		if filepath.ToSlash(filepath.Dir(file)) == "e2e/need" {
			continue
		}
		parsed, err := parser.ParseFile(set, file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			selected, ok := call.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			of, _ := selected.X.(*ast.Ident)
			if name := selected.Sel.Name; name == "SkipNow" || name == "Skipf" || name == "Skip" && (of == nil || of.Name != "need") {
				t.Errorf("%s: %s without a cure: use need.All, need.Skip or need.OnlyLong", set.Position(call.Pos()), name)
			}
			return true
		})
	}
}

// moduleFiles returns all Go files of the checkout: the program's, the tests', and those of the tools beside them.
func moduleFiles(t *testing.T) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != "." && (strings.HasPrefix(d.Name(), ".") || strings.HasPrefix(d.Name(), "_")): // as go list leaves them out
			return fs.SkipDir
		case !d.IsDir() && strings.HasSuffix(path, ".go"):
			files = append(files, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"main.go", "internal/redact/redact.go", "e2e/process.go", "e2e/cover/main.go"} {
		if !slices.Contains(files, filepath.FromSlash(want)) {
			t.Fatalf("%s is not among the files of the module: %v", want, files)
		}
	}
	return files
}

// isProgram reports whether the program is built from the file: it is in the root or below internal, and no test.
func isProgram(file string) bool {
	inTheHouse := filepath.Dir(file) == "." || strings.HasPrefix(file, "internal"+string(filepath.Separator))
	return inTheHouse && !strings.HasSuffix(file, "_test.go")
}

var (
	tableCell = regexp.MustCompile(`(?m)^\| ([^|]+) \|`)
	makeName  = regexp.MustCompile("`([a-z-]+)`")
)

// CONTRIBUTING.md has each package and each file of the root, and no target of make that is not there.
func TestContributingIsTrue(t *testing.T) {
	doc, err := os.ReadFile("CONTRIBUTING.md")
	if err != nil {
		t.Fatal(err)
	}
	_, tables, _ := strings.Cut(string(doc), "\n| in the root |")
	root, rest, _ := strings.Cut(tables, "\n| below internal/ |")
	below, rest, _ := strings.Cut(rest, "\n## ")
	_, targets, found := strings.Cut(rest, "\n| make |")
	if !found {
		t.Fatal("the form of CONTRIBUTING.md is another")
	}

	var files, packages []string
	for _, row := range tableCell.FindAllStringSubmatch(root, -1) {
		files = append(files, strings.Split(row[1], ", ")...)
	}
	for _, file := range rootFiles {
		if !slices.ContainsFunc(files, func(row string) bool { matches, _ := path.Match(row, file); return matches }) {
			t.Errorf("it has no %s", file)
		}
	}
	for _, row := range tableCell.FindAllStringSubmatch(below, -1) {
		packages = append(packages, row[1])
		if _, known := allowedImports[row[1]]; !known {
			t.Errorf("allowedImports has no package %s", row[1])
		}
	}
	for name := range allowedImports {
		if !slices.Contains(packages, name) {
			t.Errorf("it has no package %s", name)
		}
	}
	makefile, err := os.ReadFile("Makefile")
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range tableCell.FindAllStringSubmatch(targets, -1) {
		for _, name := range makeName.FindAllStringSubmatch(row[1], -1) {
			if !regexp.MustCompile("(?m)^" + name[1] + ":").Match(makefile) {
				t.Errorf("make has no %s", name[1])
			}
		}
	}
}

// No client has limits of its own, or none.
func TestOneClient(t *testing.T) {
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			if d != nil && d.IsDir() && (path == "e2e" || path == "bench" || path == "testdata" || path == "docs") {
				return fs.SkipDir
			}
			return err
		}
		files := token.NewFileSet()
		f, err := parser.ParseFile(files, path, nil, 0)
		if err != nil {
			return err
		}
		for _, i := range f.Imports { // which make clients of their own
			if strings.HasSuffix(i.Path.Value, `/ethclient"`) || strings.HasSuffix(i.Path.Value, `go-ethereum/rpc"`) {
				t.Errorf("%s imports %s", path, i.Path.Value)
			}
		}
		in := ""
		ast.Inspect(f, func(n ast.Node) bool {
			if fn, ok := n.(*ast.FuncDecl); ok {
				in = fn.Name.Name
			}
			if s, ok := n.(*ast.StarExpr); ok { // a type, which makes none
				if x, ok := s.X.(*ast.SelectorExpr); ok && (x.Sel.Name == "Client" || x.Sel.Name == "Transport") {
					return false
				}
			}
			x, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			pkg, ok := x.X.(*ast.Ident)
			if !ok || pkg.Name != "http" || strings.EqualFold(in, "newHTTPClient") {
				return true
			}
			switch x.Sel.Name {
			case "Client", "Transport", "DefaultClient", "DefaultTransport", "Get", "Head", "Post", "PostForm":
				t.Errorf("%v makes calls with http.%s: use homeserver.NewHTTPClient", files.Position(x.Pos()), x.Sel.Name)
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
