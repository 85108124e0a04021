package man

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
)

// parse reads the Go files of a folder, without the tests.
func parse(t *testing.T, dir string) *ast.Package { //nolint:staticcheck // types are not needed
	t.Helper()
	found, err := parser.ParseDir(token.NewFileSet(), filepath.Join(root, dir), func(f fs.FileInfo) bool { //nolint:staticcheck // the same
		return !strings.HasSuffix(f.Name(), "_test.go")
	}, parser.SkipObjectResolution)
	if err != nil || len(found) != 1 {
		t.Fatalf("%s: %d packages, %v", dir, len(found), err)
	}
	for _, p := range found {
		return p
	}
	return nil
}

// fields are the names in the JSON of a struct, those of the structs that it
// embeds among them.
func fields(t *testing.T, dir, name string) []string {
	t.Helper()
	var all []string
	for _, f := range structure(t, dir, name).Fields.List {
		if len(f.Names) == 0 {
			switch of := f.Type.(type) {
			case *ast.Ident:
				all = append(all, fields(t, dir, of.Name)...)
			case *ast.SelectorExpr:
				// The packages of the monitor that have structs are siblings.
				all = append(all, fields(t, filepath.Join(filepath.Dir(dir), of.X.(*ast.Ident).Name), of.Sel.Name)...)
			}
			continue
		}
		if f.Tag == nil {
			continue
		}
		tag, err := strconv.Unquote(f.Tag.Value)
		if err != nil {
			t.Fatal(err)
		}
		if key, _, _ := strings.Cut(reflect.StructTag(tag).Get("json"), ","); key != "" && key != "-" {
			all = append(all, key)
		}
	}
	if len(all) == 0 {
		t.Fatalf("%s.%s has no fields in JSON", dir, name)
	}
	return all
}

// structure finds a struct by its name.
func structure(t *testing.T, dir, name string) (found *ast.StructType) {
	t.Helper()
	for _, file := range parse(t, dir).Files {
		ast.Inspect(file, func(n ast.Node) bool {
			if spec, ok := n.(*ast.TypeSpec); ok && spec.Name.Name == name {
				found, _ = spec.Type.(*ast.StructType)
			}
			return found == nil
		})
	}
	if found == nil {
		t.Fatalf("%s has no struct %s", dir, name)
	}
	return found
}

// flags are the options that a program declares with package flag.
func flags(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	for _, file := range parse(t, dir).Files {
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			method, ok := call.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			at := 0
			if strings.HasSuffix(method.Sel.Name, "Var") {
				at = 1
			}
			if set, ok := method.X.(*ast.Ident); !ok || set.Name != "flags" || len(call.Args) < at+3 {
				return true
			}
			if name, ok := call.Args[at].(*ast.BasicLit); ok && name.Kind == token.STRING {
				all = append(all, "--"+strings.Trim(name.Value, `"`))
			}
			return true
		})
	}
	return all
}
