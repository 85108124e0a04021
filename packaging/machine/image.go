package machine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// stagePath is PID 1 of a UML machine until systemd takes over.
const stagePath = "/usr/lib/gpuherd-machine/stage"

// Image is a root file system to boot machines from; it is never written to.
type Image struct {
	Tree string // as a folder
	Disk string // as an ext4 disk image
}

// CacheDir returns the folder that images are kept in by default.
func CacheDir() (string, error) {
	user, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("cannot find the cache folder: %w", err)
	}
	return filepath.Join(user, "gpuherd", "machines"), nil
}

// EnsureImage returns the suite's image, with more packages than every image
// has, out of cacheDir, and makes it where it is missing or was made otherwise:
// that takes about half a minute and the network. Progress goes to log. Calls of
// several programs wait for each other.
func EnsureImage(ctx context.Context, cacheDir string, suite Suite, more []string, log io.Writer) (Image, error) {
	dir, err := newRecipe(suite, more).ensure(ctx, cacheDir, log)
	if err != nil {
		return Image{}, err
	}
	return Image{Tree: filepath.Join(dir, "tree"), Disk: filepath.Join(dir, "disk.ext4")}, nil
}

// EnsureTree returns a root file system of the suite with Debian's essential
// packages and those named, as they are installed and not made for machines. It
// is kept in cacheDir as images are.
func EnsureTree(ctx context.Context, cacheDir string, suite Suite, packages []string, log io.Writer) (string, error) {
	dir, err := plainRecipe(suite, packages).ensure(ctx, cacheDir, log)
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "tree"), nil
}

// ensure returns the folder of what the recipe makes.
func (r recipe) ensure(ctx context.Context, cacheDir string, log io.Writer) (string, error) {
	suite := r.Suite
	final := filepath.Join(cacheDir, r.key())
	if _, err := os.Stat(final); err == nil {
		touch(final)
		return final, nil
	}
	if os.Geteuid() != 0 {
		return "", errors.New("making a machine's image needs root")
	}
	if err := os.MkdirAll(cacheDir, 0o755); err != nil {
		return "", fmt.Errorf("cannot make the cache folder: %w", err)
	}
	unlock, err := lockFile(ctx, filepath.Join(cacheDir, string(suite)+".lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(final); err == nil { // made by whom we waited for
		return final, nil
	}
	// Only the holder of the lock has such a folder: what is there was left by
	// one that was killed.
	building := filepath.Join(cacheDir, string(suite)+".new")
	if err := os.RemoveAll(building); err != nil {
		return "", fmt.Errorf("cannot remove an unfinished image: %w", err)
	}
	if err := os.Mkdir(building, 0o755); err != nil {
		return "", fmt.Errorf("cannot make an image: %w", err)
	}
	start := time.Now()
	_, _ = fmt.Fprintf(log, "machine: making the %s image, once, by mmdebstrap (about half a minute)\n", suite)
	if err := r.build(ctx, building, log); err != nil {
		return "", errors.Join(fmt.Errorf("cannot make the %s image: %w", suite, err), os.RemoveAll(building))
	}
	if err := os.Rename(building, final); err != nil {
		return "", fmt.Errorf("cannot keep the %s image: %w", suite, err)
	}
	_, _ = fmt.Fprintf(log, "machine: made the %s image in %.0f s: %s\n", suite, time.Since(start).Seconds(), final)
	removeOld(cacheDir, suite, log)
	return final, nil
}

// imageKept is how long an image is kept that no machine is booted from,
// because its recipe has changed.
const imageKept = 7 * 24 * time.Hour

// touch notes that an image is in use. A failure shortens its life, no more.
func touch(dir string) { _ = os.Chtimes(dir, time.Time{}, time.Now()) }

// removeOld removes the suite's images that have fallen out of use.
func removeOld(cacheDir string, suite Suite, log io.Writer) {
	dirs, _ := filepath.Glob(filepath.Join(cacheDir, string(suite)+"-*")) // the pattern is good
	for _, dir := range dirs {
		info, err := os.Stat(dir)
		if err != nil || time.Since(info.ModTime()) < imageKept {
			continue
		}
		if err := os.RemoveAll(dir); err != nil {
			_, _ = fmt.Fprintf(log, "machine: cannot remove an old image: %v\n", err)
		}
	}
}

// build makes the image's tree and disk in dir.
func (r recipe) build(ctx context.Context, dir string, log io.Writer) error {
	tree := filepath.Join(dir, "tree")
	args := []string{
		"--mode=root", "--format=directory", "--variant=minbase",
		"--aptopt=Acquire::Retries \"5\"",
		"--dpkgopt=force-unsafe-io", // an image is whole or it is not there
		"--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*",
		"--dpkgopt=path-exclude=/usr/share/locale/*",
		"--include=" + strings.Join(r.Packages, ","),
	}
	for _, option := range hostAptOptions(ctx) {
		args = append(args, "--aptopt="+option)
	}
	args = append(args, string(r.Suite), tree, hostMirror("/etc/apt", r.Suite))
	if err := runContained(ctx, log, "mmdebstrap", args...); err != nil {
		return err
	}
	if r.Plain {
		return nil
	}
	if err := r.customise(tree); err != nil {
		return err
	}
	_, _ = fmt.Fprintf(log, "machine: making the disk of the %s image\n", r.Suite)
	disk := filepath.Join(dir, "disk.ext4")
	// No journal: no disk outlives its machine's crash.
	return runQuietly(ctx, log, "mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-m", "0",
		"-d", tree, disk, fmt.Sprintf("%dk", r.DiskBytes>>10))
}

// customise makes Debian's tree into ours.
func (r recipe) customise(tree string) error {
	units := filepath.Join(tree, "etc/systemd/system")
	for _, unit := range r.Masked {
		path := filepath.Join(units, unit)
		if err := os.RemoveAll(path); err != nil {
			return err
		}
		if err := os.Symlink("/dev/null", path); err != nil {
			return err
		}
	}
	if err := os.Symlink("/usr/lib/systemd/system/multi-user.target", filepath.Join(units, "default.target")); err != nil {
		return err
	}
	generators, err := os.ReadDir(filepath.Join(tree, "usr/lib/systemd/system-generators"))
	if err != nil {
		return err
	}
	off := filepath.Join(tree, "etc/systemd/system-generators")
	if err := os.MkdirAll(off, 0o755); err != nil {
		return err
	}
	for _, generator := range generators {
		if slices.Contains(r.Generators, generator.Name()) {
			continue
		}
		if err := os.Symlink("/dev/null", filepath.Join(off, generator.Name())); err != nil {
			return err
		}
	}
	for _, file := range []struct {
		path, data string
		mode       os.FileMode
	}{
		{stagePath, r.Stage, 0o755},
		{"etc/systemd/journald.conf.d/machine.conf", r.Journald, 0o644},
		// Empty: every machine gets an identity of its own, without being taken
		// for one that boots for the first time, which would preset all units.
		{"etc/machine-id", "", 0o444},
	} {
		path := filepath.Join(tree, file.path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(file.data), file.mode); err != nil {
			return err
		}
	}
	for _, name := range []string{"etc/fstab", "etc/resolv.conf", "var/lib/dbus/machine-id"} {
		if err := os.RemoveAll(filepath.Join(tree, name)); err != nil {
			return err
		}
	}
	return nil
}

// private keeps the mounts that follow from being seen outside. In a chroot /
// is no mount point, and there is nothing that could be made private.
const private = `{ mount --make-rprivate / 2>/dev/null || ! grep -q '^[^ ]* [^ ]* [^ ]* [^ ]* / ' /proc/self/mountinfo; }`

// contained runs its arguments as a program whose mounts are seen by it alone.
const contained = private + ` && mount -t proc proc /proc || exit; "$@"; exit $?`

// runContained is runQuietly for a program that mounts: if it is killed, no
// mount of it is left in what is deleted then.
func runContained(ctx context.Context, log io.Writer, name string, args ...string) error {
	return runProgram(ctx, log, syscall.CLONE_NEWPID|syscall.CLONE_NEWNS, name, args)
}

// runQuietly runs a program, and shows what it printed if it fails. A run that
// lasts tells so now and then.
func runQuietly(ctx context.Context, log io.Writer, name string, args ...string) error {
	return runProgram(ctx, log, 0, name, args)
}

func runProgram(ctx context.Context, log io.Writer, namespaces uintptr, name string, args []string) error {
	path, err := exec.LookPath(name)
	if err != nil {
		return fmt.Errorf("%w: see packaging/machine/install-dependencies", err)
	}
	cmd := exec.CommandContext(ctx, path, args...)
	if namespaces != 0 {
		cmd = exec.CommandContext(ctx, "/bin/sh", append([]string{"-c", contained, "sh", path}, args...)...)
	}
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	start := time.Now()
	p, err := startProcess(cmd, namespaces, nil)
	switch {
	case err != nil && ctx.Err() != nil:
		return fmt.Errorf("%s: %w", name, context.Cause(ctx))
	case err != nil:
		return err
	}
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-p.done:
			switch {
			case p.err == nil:
				return nil
			case ctx.Err() != nil: // which killed it
				return fmt.Errorf("%s: %w", name, context.Cause(ctx))
			}
			return fmt.Errorf("%s: %w\n%s", name, p.err, bytes.TrimSpace(output.Bytes()))
		case <-tick.C:
			_, _ = fmt.Fprintf(log, "machine: %s runs for %.0f s\n", name, time.Since(start).Seconds())
		}
	}
}

// lockFile takes an exclusive lock on the file, waiting for it until ctx ends.
func lockFile(ctx context.Context, path string) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, fmt.Errorf("cannot lock: %w", err)
	}
	for {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = file.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			_ = file.Close()
			return nil, fmt.Errorf("cannot lock %s: %w", path, err)
		}
		select {
		case <-ctx.Done():
			_ = file.Close()
			return nil, fmt.Errorf("cannot lock %s: %w", path, context.Cause(ctx))
		case <-time.After(100 * time.Millisecond):
		}
	}
}
