package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"gpuherd/cmd/gpuherd/internal/lazyregexp"
	"gpuherd/cmd/gpuherd/internal/pm2"
	"gpuherd/cmd/gpuherd/internal/terminal"
	"gpuherd/generator/rootfs"
)

// nodeTimeout bounds an ecosystem.config.js, which is a program.
const nodeTimeout = 30 * time.Second

// nodeProgram prints what such a file exports, as JSON.
const nodeProgram = `const f=process.argv[1];import(require('url').pathToFileURL(f)).then(m=>{const c=m.default||m;` +
	`require('fs').writeSync(1,JSON.stringify(c.apps||c.pm2?c:{apps:c}))}).catch(e=>{console.error(String(e&&e.message||e));process.exit(1)})`

func (a *app) importPM2() *cobra.Command {
	var root, env string
	var write, dryRun, asJSON bool
	cmd := &cobra.Command{
		Use:   "import-pm2 [FILE]",
		Short: "Make service files of what PM2 runs",
		Long: `Read apps of PM2 and show the service files that do the same, and what has no
equal. FILE is a dump (pm2 save writes it; without FILE it is that of
PM2_HOME, or of ~/.pm2), the answer of pm2 jlist (- for standard input), or an
ecosystem file: JSON, YAML, or JavaScript where node is installed, which runs
it. Nothing is changed without --write, and no file is ever written over.

Apps that are one for each GPU by their names (worker-gpu0, worker-gpu1) become
one service with a worker on each GPU, if their command lines differ in nothing
but the GPU's number, or a number that counts with it, such as a port. If one
does not fit, each stays a service of its own, on the GPU that PM2 had it on.
cron_restart becomes a timer. Variables and arguments that look like secrets go
to a file in /etc/gpuherd/environment that only root may read, and are not
shown.

A dump has its env_NAME applied already; of an ecosystem file --env NAME applies
env_NAME.

--json prints an object: files (path, mode, text), notes (app, option, text),
services, timers, written.`,
		Example: `  gpuherd import-pm2
  gpuherd import-pm2 ecosystem.config.js --env production
  gpuherd import-pm2 /home/gpu/.pm2/dump.pm2 --write`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef("import-pm2 takes one file, got %q too", args[1])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if write && dryRun && cmd.Flags().Changed("dry-run") {
				return usagef("--write and --dry-run contradict each other")
			}
			if info, err := os.Stat(root); err != nil {
				return usagef("--root: %w", err)
			} else if !info.IsDir() {
				return usagef("--root: %s is no folder", root)
			}
			var file string
			var err error
			if len(args) > 0 {
				file = args[0]
			} else if file, err = pm2Dump(); err != nil {
				return err
			}
			apps, owner, err := readPM2(cmd.Context(), file)
			if err != nil {
				return err
			}
			result, err := pm2.Import(apps, env, pm2System(root, owner))
			if err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
			if write {
				if err := writeNew(root, result.Files); err != nil {
					return err
				}
			}
			if asJSON {
				return a.printJSON(struct {
					*pm2.Result
					Written bool `json:"written"`
				}{result, write})
			}
			a.printImport(result, write)
			return nil
		},
	}
	f := cmd.Flags()
	f.BoolVar(&write, "write", false, "write the files")
	f.BoolVar(&dryRun, "dry-run", true, "only show them")
	f.StringVar(&env, "env", "", "apply env_NAME of an ecosystem file")
	f.StringVar(&root, "root", "/", "look and write below DIR instead of /")
	_ = cmd.MarkFlagDirname("root")
	f.BoolVar(&asJSON, "json", false, "print a JSON object")
	return cmd
}

// pm2Dump is where PM2 saves by itself.
func pm2Dump() (string, error) {
	if home := os.Getenv("PM2_HOME"); home != "" {
		return filepath.Join(home, "dump.pm2"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", usagef("import what?; name a file: %w", err)
	}
	return filepath.Join(home, ".pm2", "dump.pm2"), nil
}

// readPM2 reads the apps of a file, and says who owns it.
func readPM2(ctx context.Context, name string) ([]pm2.Raw, string, error) {
	if name == "-" {
		data, err := io.ReadAll(os.Stdin)
		if err != nil {
			return nil, "", fmt.Errorf("cannot read standard input: %w", err)
		}
		apps, err := pm2.Parse(data, "/")
		if err != nil {
			err = fmt.Errorf("standard input %w", err)
		}
		return apps, "", err
	}
	file, err := filepath.Abs(name)
	if err != nil {
		return nil, "", err
	}
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) && strings.HasSuffix(file, "dump.pm2") {
		return nil, "", fmt.Errorf("cannot read %s: %w; pm2 save writes it", name, fs.ErrNotExist)
	}
	if err != nil {
		var path *fs.PathError
		if errors.As(err, &path) {
			err = path.Err
		}
		return nil, "", fmt.Errorf("cannot read %s: %w", name, err)
	}
	owner := ""
	if info, err := os.Stat(file); err == nil {
		if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Uid != 0 {
			owner = strconv.FormatUint(uint64(stat.Uid), 10)
			if u, err := user.LookupId(owner); err == nil {
				owner = u.Username
			}
		}
	}
	if slices.Contains([]string{".js", ".cjs", ".mjs"}, filepath.Ext(file)) {
		if data, err = runNode(ctx, file); err != nil {
			return nil, "", fmt.Errorf("cannot read %s: %w", name, err)
		}
	}
	apps, err := pm2.Parse(data, filepath.Dir(file))
	if err != nil {
		err = fmt.Errorf("%s %w", name, err)
	}
	return apps, owner, err
}

func runNode(ctx context.Context, file string) ([]byte, error) {
	node, err := exec.LookPath("node")
	if err != nil {
		return nil, errors.New("it is JavaScript, and node is not in PATH; import pm2 jlist or a dump instead")
	}
	ctx, cancel := context.WithTimeout(ctx, nodeTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, node, "-e", nodeProgram, file)
	cmd.Dir = filepath.Dir(file)
	cmd.WaitDelay = time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("node has not read it within %s", nodeTimeout)
	case err != nil:
		return nil, fmt.Errorf("node: %w: %s", err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}

// secretOptionName is how an option is called that takes a secret.
const secretOptionName = `(?:[a-z0-9]+[-_.])*(?:pass|passwd|password|passphrase|secret|token|(?:api|access|private|secret|auth)?-?key|credentials?|dsn)`

var secretArgument = lazyregexp.New(`(?i)^--?` + secretOptionName + `$`)

// pm2System is the machine below root.
func pm2System(root, owner string) pm2.System {
	stat := func(p string) (fs.FileInfo, error) { return os.Stat(rootfs.Path(root, p)) }
	return pm2.System{
		LookPath: func(program, path string) string {
			if path == "" {
				path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
			}
			dirs := filepath.SplitList(path)
			if filepath.IsAbs(program) {
				dirs = []string{"/"}
			} else if strings.Contains(program, "/") {
				return ""
			}
			for _, dir := range dirs {
				file := filepath.Join(dir, program)
				if info, err := stat(file); filepath.IsAbs(file) && err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
					return file
				}
			}
			return ""
		},
		Exists: func(p string) bool { _, err := stat(p); return err == nil },
		IsBinary: func(p string) bool {
			f, err := os.Open(rootfs.Path(root, p))
			if err != nil {
				return false
			}
			defer f.Close() //nolint:errcheck // only read
			head := make([]byte, 512)
			n, _ := io.ReadFull(f, head)
			return bytes.IndexByte(head[:n], 0) >= 0 || bytes.HasPrefix(head[:n], []byte("#!"))
		},
		Taken: func(name string) string {
			for _, file := range []string{
				"/usr/lib/gpuherd/services/" + name + ".service", "/etc/systemd/system/" + name + ".service", "/etc/systemd/system/" + name + "@.service",
				"/usr/lib/systemd/system/" + name + ".service", "/usr/lib/systemd/system/" + name + "@.service", "/lib/systemd/system/" + name + ".service",
			} {
				if _, err := os.Lstat(rootfs.Path(root, file)); err == nil {
					return file
				}
			}
			return ""
		},
		Secret: func(name, value string) bool { return redact(name + "=" + value).Redacted },
		SecretIn: func(argument string) (holds, names bool) {
			name, value, assigned := strings.Cut(argument, "=")
			if secretArgument().MatchString(name) {
				return assigned && value != "", !assigned
			}
			return redactURLs(argument) != argument, false
		},
		CPUs: runtime.NumCPU(),
		User: owner,
	}
}

// writeNew writes files that are not there yet: all of them or none.
func writeNew(root string, files []pm2.File) (err error) {
	for _, f := range files {
		if _, err := os.Lstat(rootfs.Path(root, f.Path)); err == nil {
			return fmt.Errorf("%s exists, so nothing was written; move it away, or leave its app out", f.Path)
		}
	}
	var written []string
	defer func() {
		if err != nil {
			for _, name := range written {
				_ = os.Remove(name)
			}
			err = fmt.Errorf("nothing was written: %w", err)
		}
	}()
	for _, f := range files {
		name := rootfs.Path(root, f.Path)
		mode := fs.FileMode(0o755)
		if filepath.Dir(f.Path) == pm2.EnvironmentDir {
			mode = 0o700
		}
		if err := os.MkdirAll(filepath.Dir(name), mode); err != nil {
			return err
		}
		if err := writeOne(name, f); err != nil {
			return err
		}
		written = append(written, name)
	}
	return nil
}

// writeOne makes a whole file appear, and never in the place of another.
func writeOne(name string, f pm2.File) error {
	temp, err := os.CreateTemp(filepath.Dir(name), ".import-pm2-*")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name()) //nolint:errcheck // what is left of it has no name that is read
	_, err = temp.WriteString(f.Text)
	if err = errors.Join(err, temp.Chmod(fs.FileMode(f.Mode)), temp.Sync(), temp.Close()); err != nil {
		return err
	}
	return os.Link(temp.Name(), name)
}

func (a *app) printImport(r *pm2.Result, written bool) {
	for _, f := range r.Files {
		if written {
			a.stdout.say("wrote %s\n", f.Path)
			continue
		}
		a.stdout.say("%s\n", a.out.Paint(terminal.Strong, fmt.Sprintf("==> %s (%04o)", f.Path, f.Mode)))
		for line := range strings.Lines(f.Public) {
			a.stdout.say("%s\n", terminal.Inert(strings.TrimSuffix(line, "\n")))
		}
		a.stdout.say("\n")
	}
	if len(r.Notes) > 0 {
		t := &terminal.Table{Columns: []terminal.Column{{Title: "APP"}, {Title: "OPTION"}, {Title: "WHAT BECOMES OF IT"}}}
		for _, n := range r.Notes {
			t.Add(terminal.Cell{Text: n.App}, terminal.Cell{Text: n.Option}, terminal.Cell{Text: n.Text})
		}
		if written {
			a.stdout.say("\n")
		}
		_ = t.Write(a.stdout, terminal.Screen{Color: a.out.Color}) // long lines may wrap; stdout remembers its errors
	}
	if !written {
		a.stdout.say("\nnothing was written; --write does it\n")
		return
	}
	a.stdout.say("\nnow: gpuherd verify, pm2 kill, systemctl daemon-reload, systemctl start gpuherd.target\n")
	if len(r.Timers) > 0 {
		a.stdout.say("and the timers: systemctl enable --now %s\n", strings.Join(r.Timers, " "))
	}
	a.stdout.say("and, once all is well: pm2 unstartup\n")
}
