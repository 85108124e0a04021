package layout

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "gpuherd"

// root is the top of the repository as seen from this package.
const root = "../.."

// packageFiles returns the Go files of the repository by folder, relative to
// the root. What go itself ignores (testdata, hidden folders) is left out.
func packageFiles(t *testing.T) map[string][]string {
	t.Helper()
	files := map[string][]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if path != root && (name == "testdata" || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_")) {
				return filepath.SkipDir
			}
			return nil
		}
		if strings.HasSuffix(name, ".go") {
			rel, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			dir := filepath.Dir(rel)
			files[dir] = append(files[dir], rel)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 10 {
		t.Fatalf("found Go files in only %d folders: is %s the repository?", len(files), root)
	}
	return files
}

func TestOnePackageComment(t *testing.T) {
	t.Parallel()
	for dir, files := range packageFiles(t) {
		var commented []string
		for _, file := range files {
			parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, file), nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Errorf("%s: %v", file, err)
				continue
			}
			if parsed.Doc != nil && strings.TrimSpace(parsed.Doc.Text()) != "" {
				commented = append(commented, file)
			}
		}
		if len(commented) != 1 {
			t.Errorf("%s: want one file with a package comment, have %d: %v", dir, len(commented), commented)
		}
	}
}

// mayImport lists, for each layer, the layers of ours below it.
var mayImport = map[string][]string{
	"generator": {"generator"},
	"units":     {"units", "generator"},
	"monitor":   {"monitor", "units", "generator"},
	"cmd":       {"cmd", "monitor", "units", "generator"},
	"packaging": {"packaging", "cmd", "monitor", "units", "generator"},
}

func TestImportsGoOneWay(t *testing.T) {
	t.Parallel()
	for dir, files := range packageFiles(t) {
		layer, _, _ := strings.Cut(filepath.ToSlash(dir), "/")
		allowed, known := mayImport[layer]
		if !known {
			t.Errorf("%s: code outside of cmd, generator, units, monitor and packaging", dir)
			continue
		}
		for _, file := range files {
			parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, file), nil, parser.ImportsOnly)
			if err != nil {
				t.Errorf("%s: %v", file, err)
				continue
			}
			for _, spec := range parsed.Imports {
				path := strings.Trim(spec.Path.Value, `"`)
				rest, ours := strings.CutPrefix(path, module+"/")
				if !ours {
					continue
				}
				target, _, _ := strings.Cut(rest, "/")
				if !slices.Contains(allowed, target) {
					t.Errorf("%s imports %s: %s may import only %v", file, path, layer, allowed)
				}
			}
		}
	}
}

// The generator runs before everything else at each boot and reload, so it
// stays free of whatever would slow its start or reach out of the machine.
func TestGeneratorStaysLight(t *testing.T) {
	t.Parallel()
	forbidden := []string{"net", "net/http", "os/exec", "C"}
	for dir, files := range packageFiles(t) {
		slashed := filepath.ToSlash(dir)
		if slashed != "cmd/gpuherd-generator" && !strings.HasPrefix(slashed+"/", "generator/") {
			continue
		}
		if strings.HasPrefix(slashed+"/", "generator/gpu/nvml/") {
			continue // setup's, which runs later and as a service
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, file), nil, parser.ImportsOnly)
			if err != nil {
				t.Errorf("%s: %v", file, err)
				continue
			}
			for _, spec := range parsed.Imports {
				if path := strings.Trim(spec.Path.Value, `"`); slices.Contains(forbidden, path) {
					t.Errorf("%s imports %q", file, path)
				}
			}
		}
	}
}

func TestMainsStaySmall(t *testing.T) {
	t.Parallel()
	mains, err := filepath.Glob(filepath.Join(root, "cmd", "*", "main.go"))
	if err != nil || len(mains) == 0 {
		t.Fatalf("no programs found: %v", err)
	}
	for _, main := range mains {
		source, err := os.ReadFile(main)
		if err != nil {
			t.Fatal(err)
		}
		if lines := strings.Count(string(source), "\n"); lines > 150 {
			t.Errorf("%s has %d lines: parse, wire, run in 150", main, lines)
		}
	}
}

func TestTopLevelHoldsTheLayers(t *testing.T) {
	t.Parallel()
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	built := []string{"bin", "dist"} // ignored by git
	for _, entry := range entries {
		if !entry.IsDir() || strings.HasPrefix(entry.Name(), ".") || slices.Contains(built, entry.Name()) {
			continue
		}
		if _, known := mayImport[entry.Name()]; !known {
			t.Errorf("folder %s at the top level", entry.Name())
		}
	}
}
