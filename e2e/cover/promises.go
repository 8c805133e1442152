// promises.go owns which functions keep which promise: SECURITY.md says it, in a comment below its table of promises.

package main

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// A promise is a row of the table, as its line in the comment abbreviates it.
type promise struct {
	text      string
	functions []function
}

// A function is one that is declared in this module.
type function struct {
	name string // name, or type.name of a method, with its package before it where that is not main
	at   string // import path, file and line
}

var (
	tableRow    = regexp.MustCompile("(?m)^\\| (.+?) \\| `")
	commentText = regexp.MustCompile(`(?s)<!-- make cover[^\n]*\n(.*?)-->`)
)

// readPromises reads the document and looks for each function in the code. Each promise has to have a line, and each line
// names functions that are there.
func readPromises(root string) ([]promise, error) {
	content, err := os.ReadFile(filepath.Join(root, document))
	if err != nil {
		return nil, err
	}
	declared, err := declaredIn(root)
	if err != nil {
		return nil, err
	}
	return matchPromises(string(content), declared)
}

func matchPromises(doc string, declared []function) (promises []promise, err error) {
	table, _, _ := strings.Cut(doc, "<!-- make cover")
	comment := commentText.FindStringSubmatch(doc)
	if comment == nil {
		return nil, fmt.Errorf("%s has no comment that begins with \"make cover\"", document)
	}
	lines := map[string]int{}
	for line := range strings.Lines(comment[1]) {
		text, names, ok := strings.Cut(strings.TrimSpace(line), ": ")
		if !ok {
			err = errors.Join(err, fmt.Errorf("%s: not \"PROMISE: FUNCTIONS\": %s", document, line))
			continue
		}
		lines[text]++
		p := promise{text: text}
		for _, name := range strings.Fields(names) {
			found := named(name, declared)
			if len(found) != 1 {
				err = errors.Join(err, fmt.Errorf("%s: %q: %d functions are called %s", document, text, len(found), name))
				continue
			}
			p.functions = append(p.functions, function{name, found[0].at})
		}
		promises = append(promises, p)
	}
	for _, row := range tableRow.FindAllStringSubmatch(table, -1) {
		count := 0
		for text := range lines {
			if strings.HasPrefix(row[1], text) {
				count++
				lines[text] = 0
			}
		}
		if count != 1 {
			err = errors.Join(err, fmt.Errorf("%s: %d lines of its comment are of the promise %q", document, count, row[1]))
		}
	}
	for text, left := range lines {
		if left != 0 {
			err = errors.Join(err, fmt.Errorf("%s: there is no promise %q", document, text))
		}
	}
	return promises, err
}

// named returns the functions of this name.
func named(name string, declared []function) (found []function) {
	for _, f := range declared {
		if f.name == name {
			found = append(found, f)
		}
	}
	return found
}

// declaredIn are the functions of the module's packages, for this system and without tests.
func declaredIn(root string) (declared []function, err error) {
	list := exec.Command("go", "list", "-f", "{{$p := .}}{{range .GoFiles}}{{$p.ImportPath}} {{$p.Name}} {{$p.Dir}} {{.}}\n{{end}}{{range .CgoFiles}}{{$p.ImportPath}} {{$p.Name}} {{$p.Dir}} {{.}}\n{{end}}", "./...")
	list.Dir = root
	out, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	for line := range strings.Lines(string(out)) {
		var path, pkg, dir, file string
		if n, _ := fmt.Sscan(line, &path, &pkg, &dir, &file); n != 4 {
			continue
		}
		files := token.NewFileSet()
		parsed, err := parser.ParseFile(files, filepath.Join(dir, file), nil, 0)
		if err != nil {
			return nil, err
		}
		for _, d := range parsed.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			name := f.Name.Name
			if f.Recv != nil {
				name = receiver(f.Recv.List[0].Type) + "." + name
			}
			if pkg != "main" {
				name = pkg + "." + name
			}
			declared = append(declared, function{name, fmt.Sprintf("%s/%s:%d", path, file, files.Position(f.Pos()).Line)})
		}
	}
	return declared, nil
}

// receiver is the name of a method's type.
func receiver(of ast.Expr) string {
	switch of := of.(type) {
	case *ast.StarExpr:
		return receiver(of.X)
	case *ast.IndexExpr:
		return receiver(of.X)
	case *ast.IndexListExpr:
		return receiver(of.X)
	case *ast.Ident:
		return of.Name
	}
	return ""
}
