package machine

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Backend is a way of having a machine; the package documentation compares them.
type Backend string

// The backends.
const (
	UML    Backend = "uml"
	Nspawn Backend = "nspawn"
	Host   Backend = "host"
)

// Suite is the Debian release that a machine runs.
type Suite string

// The suites, each with its own version of systemd.
const (
	Bookworm Suite = "bookworm" // Debian 12, systemd 252
	Trixie   Suite = "trixie"   // Debian 13, systemd 257
)

// Config describes a machine. The zero value is a bookworm under UML.
type Config struct {
	Backend Backend // default UML
	Suite   Suite   // default Bookworm
	// Packages are Debian's, installed beside those that every image has. Each
	// list makes an image of its own.
	Packages []string
	// Root is a folder of the host with the root file system to boot, which is
	// not written to; by default the suite's image. For Nspawn only.
	Root string

	// Env is the environment of PID 1, and so of generators.
	Env map[string]string
	// KernelArgs are words for the kernel command line (in a container: for
	// PID 1's argv, which stands for it), such as gpuherd.num_gpus=2.
	KernelArgs []string
	// Trees are folders of the host that are laid over the machine's root, in
	// this order, before systemd starts; their files belong to root there.
	Trees []string
	// Early is a shell script that runs in the machine before systemd, once
	// the trees are laid, so that generators find what it mounts: systemd
	// keeps /proc, /sys, /dev and /run as it leaves them. Where it fails, so
	// does the boot.
	Early string
	// Share is a folder of the host that is seen, writable, as SharePath. By
	// default a fresh one, deleted with the machine.
	Share string
	// Memory is the machine's memory in bytes; default DefaultMemory. It binds
	// under UML only.
	Memory int64
	// Hostname is the machine's host name; default "machine".
	Hostname string

	// BootTimeout bounds the boot, without the making of a missing image;
	// default DefaultBootTimeout.
	BootTimeout time.Duration
	// CacheDir holds the images; default CacheDir().
	CacheDir string
	// Log takes progress, and the console and journal of a machine that failed;
	// default: discarded.
	Log io.Writer
}

// Defaults of Config.
const (
	DefaultMemory      = 1500 << 20
	DefaultBootTimeout = 5 * time.Minute
)

// SharePath is where Config.Share is seen inside a machine. On the host
// backend, which has nothing inside, use Machine.Share.
const SharePath = "/run/machine/share"

var (
	// Debian Policy 5.6.1: neither an option nor a list to mmdebstrap.
	packageName = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`)

	envName  = regexp.MustCompile(`^[A-Z_][A-Za-z0-9_]*$`)
	hostName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)
)

// complete fills in the defaults and refuses what cannot be booted as asked.
func (c Config) complete() (Config, error) {
	if c.Backend == "" {
		c.Backend = UML
	}
	if c.Suite == "" {
		c.Suite = Bookworm
	}
	if c.Memory == 0 {
		c.Memory = DefaultMemory
	}
	if c.Hostname == "" {
		c.Hostname = "machine"
	}
	if c.BootTimeout == 0 {
		c.BootTimeout = DefaultBootTimeout
	}
	if c.Log == nil {
		c.Log = io.Discard
	}
	if c.CacheDir == "" {
		dir, err := CacheDir()
		if err != nil {
			return c, err
		}
		c.CacheDir = dir
	}
	switch c.Backend {
	case UML, Nspawn:
	case Host:
		if len(c.Packages)+len(c.Env)+len(c.KernelArgs)+len(c.Trees)+len(c.Early)+len(c.Root) > 0 {
			return c, errors.New("the host backend boots nothing: it takes no packages, environment, kernel arguments, trees, early script or root")
		}
		return c, nil
	default:
		return c, fmt.Errorf("unknown backend %q: want %s, %s or %s", c.Backend, UML, Nspawn, Host)
	}
	if c.Suite != Bookworm && c.Suite != Trixie {
		return c, fmt.Errorf("unknown suite %q: want %s or %s", c.Suite, Bookworm, Trixie)
	}
	for _, name := range c.Packages {
		if !packageName.MatchString(name) {
			return c, fmt.Errorf("bad package name %q", name)
		}
	}
	if c.Root != "" && c.Backend != Nspawn {
		return c, fmt.Errorf("a root of one's own is for the backend %s", Nspawn)
	}
	if !hostName.MatchString(c.Hostname) {
		return c, fmt.Errorf("bad host name %q", c.Hostname)
	}
	if c.Memory < 256<<20 {
		return c, fmt.Errorf("memory of %d bytes is less than 256M", c.Memory)
	}
	for name, value := range c.Env {
		// The kernel takes lower-case words for parameters of its own, and
		// leaves its quotes in a value that holds one.
		if !envName.MatchString(name) {
			return c, fmt.Errorf("bad environment variable %q: a name of PID 1's environment begins with a capital letter or _", name)
		}
		if strings.ContainsAny(value, "\"\n\x00") {
			return c, fmt.Errorf("environment variable %s: the kernel command line holds no quote, newline or NUL", name)
		}
	}
	for _, arg := range c.KernelArgs {
		if arg == "" || strings.ContainsAny(arg, "\"\n\x00 ") {
			return c, fmt.Errorf("bad kernel argument %q", arg)
		}
	}
	c.Trees = slices.Clone(c.Trees)
	for i, tree := range c.Trees {
		abs, err := filepath.Abs(tree)
		if err != nil {
			return c, fmt.Errorf("cannot find tree: %w", err)
		}
		c.Trees[i] = abs
	}
	if c.Share != "" {
		abs, err := filepath.Abs(c.Share)
		if err != nil {
			return c, fmt.Errorf("cannot find shared folder: %w", err)
		}
		c.Share = abs
	}
	return c, nil
}

// environ returns Env as NAME=value, in the order of the names.
func (c Config) environ() []string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(c.Env)) {
		list = append(list, name+"="+c.Env[name])
	}
	return list
}
