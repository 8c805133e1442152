// house_ports_test.go owns the rule that no test chooses a port before it is bound: what a listener was closed on to be used
// again may be another's by then.

package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"testing"
)

// Nobody opens a listener for its port alone: the function that opens one accepts on it or hands it on.
func TestNoPortIsChosenBeforeItIsBound(t *testing.T) {
	for source, want := range map[string]int{
		`l, _ := net.Listen("tcp", "127.0.0.1:0"); defer l.Close(); return l.Addr()`:                         1,
		`l, _ := net.Listen("tcp", "127.0.0.1:0"); l.Close(); use(l.Addr())`:                                 1,
		`for { l, _ := net.Listen("tcp", address); defer l.Close(); ports = append(ports, 1) }`:              1,
		`l, _ := net.Listen("tcp", "127.0.0.1:0"); defer l.Close(); go serve(l)`:                             0,
		`l, _ := net.Listen("tcp", "127.0.0.1:0"); defer l.Close(); l.Accept()`:                              0,
		`l, _ := net.Listen("tcp", "127.0.0.1:0"); ts.Defer(func() { l.Close() }); ts.Setenv("P", l.Addr())`: 0, // held
	} {
		file, err := parser.ParseFile(token.NewFileSet(), "", "package p; func f() { "+source+" }", 0)
		if err != nil {
			t.Fatal(err)
		}
		if got := closedListeners(file); len(got) != want {
			t.Errorf("%s: found %d, want %d", source, len(got), want)
		}
	}

	set := token.NewFileSet()
	for _, path := range moduleFiles(t) {
		file, err := parser.ParseFile(set, path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range closedListeners(file) {
			t.Errorf("%s: this listener is closed unused: have the server listen at port 0 and say where it does", set.Position(at))
		}
	}
}

// closedListeners returns where a function opens a listener and closes it, and neither accepts on it nor hands it on.
func closedListeners(file *ast.File) (found []token.Pos) {
	ast.Inspect(file, func(n ast.Node) bool {
		assign, ok := n.(*ast.AssignStmt)
		if !ok || len(assign.Rhs) != 1 || len(assign.Lhs) != 2 || !isCallOf(assign.Rhs[0], "net", "Listen") {
			return true
		}
		name, ok := assign.Lhs[0].(*ast.Ident)
		if !ok || name.Obj == nil {
			return true
		}
		closed, used := false, false
		var known []*ast.Ident // that are no use of it
		ast.Inspect(file, func(n ast.Node) bool {
			var call ast.Expr
			switch n := n.(type) {
			case *ast.ExprStmt:
				call = n.X
			case *ast.DeferStmt:
				call = n.Call
			case *ast.FuncLit: // a function that closes it later holds it until then
				if within(n, assign.Pos()) {
					return true
				}
				ast.Inspect(n, func(n ast.Node) bool {
					ident, ok := n.(*ast.Ident)
					used = used || ok && ident.Obj == name.Obj
					return true
				})
				return false
			case *ast.SelectorExpr:
				if ident, ok := n.X.(*ast.Ident); ok && ident.Obj == name.Obj && (n.Sel.Name == "Addr" || n.Sel.Name == "Close") {
					known = append(known, ident)
				}
			case *ast.Ident:
				used = used || n.Obj == name.Obj && n != name && !slices.Contains(known, n)
			}
			if call, ok := call.(*ast.CallExpr); ok {
				if selected, ok := call.Fun.(*ast.SelectorExpr); ok && selected.Sel.Name == "Close" {
					ident, ok := selected.X.(*ast.Ident)
					closed = closed || ok && ident.Obj == name.Obj
				}
			}
			return true
		})
		if closed && !used {
			found = append(found, assign.Pos())
		}
		return true
	})
	return found
}

func within(n ast.Node, at token.Pos) bool { return n.Pos() <= at && at < n.End() }

// isCallOf tells whether the expression calls that function of that package.
func isCallOf(e ast.Expr, pkg, function string) bool {
	call, ok := e.(*ast.CallExpr)
	if !ok {
		return false
	}
	selected, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || selected.Sel.Name != function {
		return false
	}
	ident, ok := selected.X.(*ast.Ident)
	return ok && ident.Name == pkg
}
