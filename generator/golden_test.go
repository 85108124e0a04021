package generator_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gpuherd/generator"
	"gpuherd/generator/config"
)

var update = flag.Bool("update", false, "write what the generator does now into testdata/*/expected")

// program is the built generator: the golden trees are compared through it, so
// that they hold for what is installed.
var program string

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "gpuherd-generator-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		program = filepath.Join(dir, "gpuherd-generator")
		build := exec.Command("go", "build", "-o", program, "gpuherd/cmd/gpuherd-generator")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "cannot build the generator: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// machines returns the names of the machines in testdata.
func machines(t *testing.T) []string {
	t.Helper()
	dirs, err := filepath.Glob("testdata/*/root")
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no machines in testdata: %v", err)
	}
	var names []string
	for _, d := range dirs {
		names = append(names, filepath.Base(filepath.Dir(d)))
	}
	return names
}

// machine returns a copy of a machine's root, with what every installed
// machine has: the shipped service files, and systemd 252 where the machine
// says nothing else.
func machine(t *testing.T, name string) string {
	t.Helper()
	root := t.TempDir()
	if err := os.CopyFS(root, os.DirFS(filepath.Join("testdata", name, "root"))); err != nil {
		t.Fatal(err)
	}
	shipped, err := filepath.Glob("../units/services/*.service")
	if err != nil || len(shipped) == 0 {
		t.Fatalf("no shipped service files: %v", err)
	}
	for _, file := range shipped {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		put(t, root, "usr/lib/gpuherd/services/"+filepath.Base(file), string(data))
	}
	if generator.SystemdVersion(root) == 0 {
		put(t, root, "usr/lib/x86_64-linux-gnu/systemd/libsystemd-shared-252.so", "")
	}
	return root
}

func put(t *testing.T, root, name, data string) {
	t.Helper()
	file := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(data), 0o644); err != nil {
		t.Fatal(err)
	}
}

// run runs the generator and returns its exit status, stdout and stderr.
func run(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.Command(program, args...)
	cmd.Env = []string{"NUM_GPUS=99"} // its own environment must not matter under --root
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// tree returns every file and link below dir, by path. Folders are not listed:
// git does not keep empty ones, and none is expected.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if d.Type()&fs.ModeSymlink != 0 {
			target, err := os.Readlink(path)
			files[name] = "-> " + target
			return err
		}
		data, err := os.ReadFile(path)
		files[name] = string(data)
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return files
}

// explained is what `gpuherd explain` and `gpuherd verify` have to tell.
func explained(t *testing.T, root string) (decisions, problems string) {
	t.Helper()
	src, err := config.HostSource(root)
	if err != nil {
		t.Fatal(err)
	}
	var b, p strings.Builder
	r := generator.Compute(generator.Options{Root: src.Root, Environ: src.Environ})
	for _, problem := range r.Problems {
		kind := "error"
		if problem.Warning {
			kind = "warning"
		}
		fmt.Fprintf(&p, "%s %v\n", kind, problem)
	}
	for _, d := range r.Decisions {
		if d.Kind == "" || d.Subject == "" || d.Verdict == "" || d.Reason == "" {
			t.Errorf("incomplete decision %+v", d)
		}
		fmt.Fprintf(&b, "%s %s: %s: %s\n", d.Kind, d.Subject, d.Verdict, d.Reason)
	}
	return b.String(), p.String()
}

func TestMachines(t *testing.T) {
	t.Parallel()
	for _, name := range machines(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root, out := machine(t, name), t.TempDir()
			status, stdout, stderr := run(t, "--root", root, out, t.TempDir(), t.TempDir())
			if stdout != "" {
				t.Errorf("something on stdout: %s", stdout)
			}
			got := tree(t, out)
			got["log"] = stderr
			got["explain"], got["problems"] = explained(t, root)
			got["status"] = fmt.Sprintln(status)

			expected := filepath.Join("testdata", name, "expected")
			if *update {
				write(t, expected, got)
			}
			if diff := cmp.Diff(tree(t, expected), got); diff != "" {
				t.Errorf("what is generated differs (-expected +got), -update accepts it:\n%s", diff)
			}

			again := t.TempDir()
			run(t, "--root", root, again)
			if diff := cmp.Diff(tree(t, out), tree(t, again)); diff != "" {
				t.Errorf("a second run differs (-first +second):\n%s", diff)
			}
			run(t, "--root", root, out)
			if diff := cmp.Diff(tree(t, again), tree(t, out)); diff != "" {
				t.Errorf("a run into the same folder differs (-fresh +same):\n%s", diff)
			}
		})
	}
}

// write replaces the expected tree. Links are made as links.
func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	for name, data := range files {
		target, isLink := strings.CutPrefix(data, "-> ")
		if !isLink {
			put(t, dir, name, data)
			continue
		}
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
}
