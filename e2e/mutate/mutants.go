// mutants.go owns what a mutant is: the places in a file that can be changed, and the file with all of them woven in, each
// switched on by its number.

package main

import (
	"bytes"
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strings"
)

// A mutant is one change of the code. Its name has no line number, so that it stays the same when other lines come or go.
type mutant struct {
	number   int
	file     string
	line     int
	function string
	change   string // what becomes of which text
}

func (m mutant) name() string { return fmt.Sprintf("%s: %s: %s", m.file, m.function, m.change) }

// An insertion is text that goes in front of the byte at an offset. What reaches furthest stands outside.
type insertion struct {
	offset int
	reach  int // of the text that it opens or closes
	closes bool
	text   string
}

// A weaver finds the mutants of one file.
type weaver struct {
	set        *token.FileSet
	source     []byte
	file       string
	function   string
	errorLast  bool // the function's last result is an error
	results    int
	mutants    []mutant
	insertions []insertion
	names      map[string]int
	next       func() int
}

// weave returns the file with its mutants in it, and what they are. Numbers come from next.
func weave(file string, source []byte, next func() int) ([]byte, []mutant, error) {
	set := token.NewFileSet()
	parsed, err := parser.ParseFile(set, file, source, parser.SkipObjectResolution)
	if err != nil {
		return nil, nil, err
	}
	w := &weaver{set: set, source: source, file: file, names: map[string]int{}, next: next}
	for _, declaration := range parsed.Decls {
		if f, ok := declaration.(*ast.FuncDecl); ok && f.Body != nil {
			w.function = functionName(f)
			w.inFunction(f.Type, f.Body)
		}
	}
	return w.woven(), w.mutants, nil
}

func functionName(f *ast.FuncDecl) string {
	if f.Recv == nil {
		return f.Name.Name
	}
	of := f.Recv.List[0].Type
	if pointer, ok := of.(*ast.StarExpr); ok {
		of = pointer.X
	}
	if name, ok := of.(*ast.Ident); ok {
		return name.Name + "." + f.Name.Name
	}
	return f.Name.Name
}

func (w *weaver) inFunction(typ *ast.FuncType, body *ast.BlockStmt) {
	defer func(last bool, results int) { w.errorLast, w.results = last, results }(w.errorLast, w.results)
	w.errorLast, w.results = false, 0
	if typ.Results != nil {
		for _, field := range typ.Results.List {
			w.results += max(1, len(field.Names))
			name, ok := field.Type.(*ast.Ident)
			w.errorLast = ok && name.Name == "error"
		}
	}
	ast.Inspect(body, w.visit)
}

func (w *weaver) visit(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.FuncLit:
		w.inFunction(n.Type, n.Body)
		return false
	case *ast.IfStmt:
		w.force(n.Cond, "true")
		w.force(n.Cond, "false")
	case *ast.ForStmt:
		if n.Cond != nil {
			w.force(n.Cond, "false")
		}
	case *ast.SwitchStmt:
		if n.Tag == nil {
			for _, clause := range n.Body.List {
				for _, condition := range clause.(*ast.CaseClause).List {
					w.force(condition, "true")
					w.force(condition, "false")
				}
			}
		}
	case *ast.BinaryExpr:
		w.binary(n)
	case *ast.BlockStmt:
		w.statements(n.List)
	case *ast.CaseClause:
		w.statements(n.Body)
	case *ast.CommClause:
		w.statements(n.Body)
	case *ast.ReturnStmt:
		w.returned(n)
	case *ast.SelectorExpr:
		ast.Inspect(n.X, w.visit)
		return false
	case *ast.Ident:
		switch n.Name {
		case "true":
			w.replace(n, "!mutated(%d)", "false")
		case "false":
			w.replace(n, "mutated(%d)", "true")
		}
	}
	return true
}

// force makes a condition true or false, whatever it says; it is still evaluated.
func (w *weaver) force(condition ast.Expr, to string) {
	n := w.add(condition, w.text(condition)+" is "+to)
	if to == "true" {
		w.around(condition, "((", fmt.Sprintf(") || mutated(%d))", n))
	} else {
		w.around(condition, "((", fmt.Sprintf(") && !mutated(%d))", n))
	}
}

var boundaries = map[token.Token]string{token.LSS: "<=", token.LEQ: "<", token.GTR: ">=", token.GEQ: ">"}

func (w *weaver) binary(n *ast.BinaryExpr) {
	switch n.Op {
	case token.LAND:
		w.force(n.X, "true")
		w.force(n.Y, "true")
	case token.LOR:
		w.force(n.X, "false")
		w.force(n.Y, "false")
	case token.LSS, token.LEQ, token.GTR, token.GEQ:
		if simple(n.X) && simple(n.Y) {
			other := w.text(n.X) + " " + boundaries[n.Op] + " " + w.text(n.Y)
			id := w.add(n, w.text(n)+" is "+other)
			w.around(n, fmt.Sprintf("(mutated(%d) && %s || !mutated(%d) && ", id, other, id), ")")
		}
	}
}

// simple is an expression that has no mutant in it, so that its text can stand there twice.
func simple(e ast.Expr) (yes bool) {
	yes = true
	ast.Inspect(e, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncLit:
			yes = false
		case *ast.BinaryExpr:
			yes = yes && n.Op != token.LAND && n.Op != token.LOR && boundaries[n.Op] == ""
		case *ast.Ident:
			yes = yes && n.Name != "true" && n.Name != "false"
		}
		return yes
	})
	return yes
}

// statements leaves out one after another what a statement can do without the compiler's complaint.
func (w *weaver) statements(list []ast.Stmt) {
	for _, s := range list {
		switch s := s.(type) {
		case *ast.ExprStmt:
			if call, ok := s.X.(*ast.CallExpr); ok && isPanic(call) {
				continue // it may be what ends the function
			}
		case *ast.AssignStmt:
			if s.Tok == token.DEFINE {
				continue
			}
		case *ast.IncDecStmt, *ast.DeferStmt, *ast.GoStmt, *ast.SendStmt:
		case *ast.BranchStmt:
			if s.Tok != token.CONTINUE {
				continue
			}
		default:
			continue
		}
		n := w.add(s, "without "+w.text(s))
		w.around(s, fmt.Sprintf("if !mutated(%d) { ", n), " }")
	}
}

func isPanic(call *ast.CallExpr) bool {
	name, ok := call.Fun.(*ast.Ident)
	return ok && name.Name == "panic"
}

// returned forgets an error that is returned.
func (w *weaver) returned(s *ast.ReturnStmt) {
	if !w.errorLast || len(s.Results) == 0 || len(s.Results) != w.results {
		return
	}
	last := s.Results[len(s.Results)-1]
	if name, ok := last.(*ast.Ident); ok && name.Name == "nil" {
		return
	}
	n := w.add(last, "return nil for "+w.text(last))
	w.around(last, fmt.Sprintf("mutatedNil(%d, ", n), ")")
}

// replace puts other text in the place of an identifier.
func (w *weaver) replace(n *ast.Ident, format, to string) {
	id := w.add(n, n.Name+" is "+to+" in "+w.lineOf(n))
	w.around(n, "("+fmt.Sprintf(format, id)+" /* ", " */)")
}

func (w *weaver) lineOf(n ast.Node) string {
	start := w.offset(n.Pos())
	from := bytes.LastIndexByte(w.source[:start], '\n') + 1
	to := start + bytes.IndexByte(w.source[start:], '\n')
	line, _, _ := strings.Cut(string(w.source[from:to]), " // ")
	return short(line)
}

func (w *weaver) add(at ast.Node, change string) int {
	n := w.next()
	m := mutant{number: n, file: w.file, line: w.set.Position(at.Pos()).Line, function: w.function, change: change}
	w.names[m.name()]++
	if k := w.names[m.name()]; k > 1 {
		m.change += fmt.Sprintf(" (%d)", k)
	}
	w.mutants = append(w.mutants, m)
	return n
}

func (w *weaver) around(n ast.Node, open, closing string) {
	from, to := w.offset(n.Pos()), w.offset(n.End())
	w.insertions = append(w.insertions,
		insertion{offset: from, reach: to - from, text: open}, insertion{offset: to, reach: to - from, closes: true, text: closing})
}

func (w *weaver) offset(p token.Pos) int { return w.set.Position(p).Offset }

// text is the source of a node in one line.
func (w *weaver) text(n ast.Node) string {
	return short(string(w.source[w.offset(n.Pos()):w.offset(n.End())]))
}

func short(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > 100 {
		return text[:100] + "..."
	}
	return text
}

func (w *weaver) woven() []byte {
	// Of what was added at one place around one text, later additions stand inside.
	order := make(map[*insertion]int, len(w.insertions))
	sorted := make([]*insertion, len(w.insertions))
	for i := range w.insertions {
		sorted[i] = &w.insertions[i]
		order[sorted[i]] = i
	}
	slices.SortFunc(sorted, func(a, b *insertion) int {
		switch {
		case a.offset != b.offset:
			return cmp.Compare(a.offset, b.offset)
		case a.closes != b.closes: // what ends here ends before something begins
			return map[bool]int{true: -1, false: 1}[a.closes]
		case a.closes:
			return cmp.Or(cmp.Compare(a.reach, b.reach), cmp.Compare(order[b], order[a]))
		default:
			return cmp.Or(cmp.Compare(b.reach, a.reach), cmp.Compare(order[a], order[b]))
		}
	})
	var out bytes.Buffer
	at := 0
	for _, i := range sorted {
		out.Write(w.source[at:i.offset])
		out.WriteString(i.text)
		at = i.offset
	}
	out.Write(w.source[at:])
	return out.Bytes()
}
