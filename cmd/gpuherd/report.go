package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gpuherd/cmd/gpuherd/internal/explanation"
	"gpuherd/cmd/gpuherd/internal/redaction"
	"gpuherd/generator"
	"gpuherd/generator/config"
	"gpuherd/generator/rootfs"
	"gpuherd/generator/version"
)

// commandTimeout bounds each program that a report asks, and maxPart what is
// taken of it or of a file.
const (
	commandTimeout = 20 * time.Second
	maxPart        = 8 << 20
)

func (a *app) report() *cobra.Command {
	var to string
	var lines int
	cmd := &cobra.Command{
		Use:   "report",
		Short: "Make an archive for a bug report, without secrets",
		Long: `Write what helps to find a fault into one archive (tar.gz): what doctor,
explain, verify and list say, the configuration and the service files, the
generated units, the inventory, the last lines of the journal of gpuherd's
units, versions of the machine. Nothing of Redis is in it, and nothing is sent
anywhere.

Passwords in URLs, values of variables and options whose names look secret, and
every value in /etc/gpuherd/environment and in gpuherd's credentials are
replaced by ***, wherever they stand. What workers print may hold more: look at
it before you hand it on. As root it has most; what could not be had is in the
file missing.txt.`,
		Example: "  gpuherd report\n  gpuherd report -o /tmp/report.tar.gz --lines 500",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if lines < 1 {
				return usagef("--lines %d is not positive; write --lines 2000", lines)
			}
			if to == "" {
				host, err := os.Hostname()
				if err != nil {
					host = "unknown"
				}
				to = fmt.Sprintf("gpuherd-report-%s-%s.tar.gz", filepath.Base(host), a.now().UTC().Format("20060102-150405"))
			}
			f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return fmt.Errorf("cannot write the report: %w", err)
			}
			err = a.gather(cmd.Context(), "/", lines).write(f, a.now())
			if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
				_ = os.Remove(to) // half of a report is none
				return fmt.Errorf("cannot write the report: %w", err)
			}
			a.stdout.say("wrote %s; look at it before you hand it on\n", to)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVarP(&to, "output", "o", "", "the archive, which must not be there yet; by default gpuherd-report-HOST-TIME.tar.gz here")
	f.IntVar(&lines, "lines", 2000, "lines of the journal")
	return cmd
}

// A bundle is the files of a report.
type bundle struct {
	files   map[string][]byte
	missing []string
	redact  *redaction.Redactor
}

// add takes text into the report, without its secrets.
func (b *bundle) add(name string, text []byte, err error) {
	if err != nil {
		b.missing = append(b.missing, name+": "+err.Error())
	}
	if len(text) > 0 {
		b.files[name] = b.redact.Text(text)
	}
}

func (b *bundle) addJSON(name string, v any, err error) {
	if err != nil {
		b.add(name, nil, err)
		return
	}
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false) // so that a secret stands as it is, and is found
	enc.SetIndent("", "  ")
	err = enc.Encode(v)
	b.add(name, text.Bytes(), err)
}

// secretFolders hold nothing but secrets; their values are replaced everywhere.
var secretFolders = []string{"/etc/gpuherd/environment", "/run/gpuherd/credentials"}

// reported are the files of the machine that are in a report.
var reported = []string{
	"/etc/gpuherd/gpuherd.conf", "/etc/gpuherd/gpuherd.conf.d/*.conf", "/run/gpuherd/gpuherd.conf.d/*.conf", "/usr/lib/gpuherd/gpuherd.conf.d/*.conf",
	"/etc/gpuherd/services/*.service", "/etc/gpuherd/services/*.service.d/*.conf", "/run/gpuherd/services/*.service", "/usr/lib/gpuherd/services/*.service",
	"/run/gpuherd/inventory.json", "/run/systemd/generator/*@.service", "/run/systemd/generator/*.service", "/run/systemd/generator/*.service.d/50-gpu.conf",
	"/etc/systemd/system/redis-worker*.service.d/*.conf", "/etc/os-release", "/proc/version", "/proc/cmdline", "/proc/meminfo", "/proc/driver/nvidia/version",
	"/proc/driver/nvidia/gpus/*/information", "/sys/fs/cgroup/cgroup.controllers",
}

// gather collects a report of the machine below root.
func (a *app) gather(ctx context.Context, root string, lines int) *bundle {
	b := &bundle{files: map[string][]byte{}, redact: redaction.New(redactLine)}
	b.learn(root)
	b.add("version.txt", []byte("gpuherd "+version.String()+"\n"), nil)

	seen := map[string]bool{}
	for _, pattern := range reported {
		found, _ := filepath.Glob(rootfs.Path(root, pattern)) // a bad pattern is none of these
		for _, file := range found {
			if !seen[file] {
				seen[file] = true
				text, err := readPart(file)
				b.add("files/"+strings.TrimPrefix(strings.TrimPrefix(file, filepath.Clean(root)), "/"), text, err)
			}
		}
	}

	source, err := config.HostSource(root)
	if err != nil {
		b.missing = append(b.missing, "PID 1's environment: "+err.Error())
		source = config.Source{Root: root}
	}
	result := generator.Compute(generator.Options{Root: source.Root, Environ: source.Environ})
	b.addJSON("explain.json", explanation.Of(result).Lines(), nil)
	b.addJSON("verify.json", problemsOf(root, result), nil)
	b.addJSON("doctor.json", a.examine(ctx), nil)
	workers, err := a.herd(ctx, nil, true)
	b.addJSON("list.json", workers, err)

	units := []string{"--unit=gpuherd*", "--unit=shared-setup.service"}
	for _, s := range result.Services {
		units = append(units, "--unit="+s.Name+".service", "--unit="+s.Name+"@*.service")
	}
	b.command(ctx, "journal.txt", "journalctl", append([]string{"--no-pager", "--output=short-iso-precise", "--lines=" + strconv.Itoa(lines)}, units...)...)
	b.command(ctx, "generator-journal.txt", "journalctl", "--no-pager", "--boot", "--output=short-iso", "--lines=500", "--grep=gpuherd-generator")
	b.command(ctx, "kernel.txt", "journalctl", "--no-pager", "--dmesg", "--output=short-iso", "--lines=500", "--grep=nvidia|NVRM|oom|memory cgroup", "--case-sensitive=no")
	b.command(ctx, "units.txt", "systemctl", "--no-pager", "--full", "status", "gpuherd.target", "gpuherd-monitor.service", "shared-setup.service")
	b.command(ctx, "jobs.txt", "systemctl", "--no-pager", "list-jobs")
	b.command(ctx, "nvidia-smi.txt", "nvidia-smi", "-q")
	return b
}

// learn reads the secrets of the machine, so as to find them.
func (b *bundle) learn(root string) {
	var names []string
	for _, dir := range secretFolders {
		found, _ := filepath.Glob(rootfs.Path(root, dir) + "/*")
		names = append(names, found...)
	}
	for _, dir := range []string{"/etc/credstore", "/run/credstore"} {
		found, _ := filepath.Glob(rootfs.Path(root, dir) + "/gpuherd.*")
		names = append(names, found...)
	}
	for _, name := range names {
		text, err := readPart(name)
		if err != nil {
			continue // whoever cannot read it does not put it into the report
		}
		b.redact.Learn(string(text))
	}
}

func readPart(file string) ([]byte, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("is no file")
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	return io.ReadAll(io.LimitReader(f, maxPart))
}

// command takes what a program of the machine says into the report.
func (b *bundle) command(ctx context.Context, name, program string, args ...string) {
	path, err := exec.LookPath(program)
	if err != nil {
		b.missing = append(b.missing, name+": "+program+" is not in PATH")
		return
	}
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "SYSTEMD_COLORS=0", "LC_ALL=C.UTF-8")
	cmd.WaitDelay = time.Second
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	text := out.Bytes()
	if len(text) > maxPart {
		text = text[len(text)-maxPart:]
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && len(text) > 0 {
		err = nil // systemctl status of a unit that is down; what it says is there
	}
	b.add(name, text, err)
}

// write writes the archive, the same files always in the same order.
func (b *bundle) write(w io.Writer, now time.Time) error {
	if len(b.missing) > 0 {
		b.files["missing.txt"] = b.redact.Text([]byte(strings.Join(b.missing, "\n") + "\n"))
	}
	names := make([]string, 0, len(b.files))
	for name := range b.files {
		names = append(names, name)
	}
	slices.Sort(names)
	zip := gzip.NewWriter(w)
	archive := tar.NewWriter(zip)
	for _, name := range names {
		header := &tar.Header{Typeflag: tar.TypeReg, Name: "gpuherd-report/" + name, Mode: int64(fs.FileMode(0o600)), Size: int64(len(b.files[name])), ModTime: now}
		if err := archive.WriteHeader(header); err != nil {
			return err
		}
		if _, err := archive.Write(b.files[name]); err != nil {
			return err
		}
	}
	return errors.Join(archive.Close(), zip.Close())
}
