package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Machine is a booted machine. Its methods may be called at the same time.
type Machine struct {
	// BootTime is the wall time from the machine's start to systemd's "boot
	// finished"; making an image is not in it.
	BootTime time.Duration
	// State is what `systemctl is-system-running` said then: running, or
	// degraded where a unit had failed.
	State string
	// Share is the host's name of the folder that the machine sees as SharePath.
	Share string

	config  Config
	folder  *folder
	control *control
	console *console
	process *process     // nil on the host backend
	release func() error // gives back what the machine held; nil: nothing
	closed  sync.Once
}

// Boot boots a machine and waits until systemd has finished booting, a failed
// unit being no error. When ctx ends, so does the boot, but not a machine that
// has booted: that is for Close. A boot that fails has its console, and the
// journal if it can be had, written to config.Log.
func Boot(ctx context.Context, config Config) (*Machine, error) {
	config, err := config.complete()
	if err != nil {
		return nil, err
	}
	if config.Backend == Host {
		return bootHost(ctx, config)
	}
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("a machine of backend %s needs root", config.Backend)
	}
	image := Image{Tree: config.Root}
	if config.Root == "" {
		image, err = EnsureImage(ctx, config.CacheDir, config.Suite, config.Packages, config.Log)
		if err != nil {
			return nil, err
		}
	}
	m := &Machine{config: config, console: newConsole()}
	if err := m.prepare(); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot prepare a machine: %w", err), m.Close())
	}
	start := time.Now()
	switch config.Backend {
	case Nspawn:
		err = m.startNspawn(image)
	default:
		err = m.startUML(image)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot start a machine: %w", err), m.Close())
	}
	if err := m.waitForBoot(ctx); err != nil {
		if !errors.Is(ctx.Err(), context.Canceled) { // else nothing is wrong with it
			m.Report(config.Log)
		}
		return nil, errors.Join(fmt.Errorf("cannot boot %s on %s: %w", config.Suite, config.Backend, err), m.Close())
	}
	m.BootTime = time.Since(start)
	_, _ = fmt.Fprintf(config.Log, "machine: %s on %s booted in %s (%s)%s\n",
		config.Suite, config.Backend, seconds(m.BootTime), m.State, m.bootParts())
	return m, nil
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

// prepare makes the host's folder for the machine, as guest/boot and
// guest/agent expect it.
func (m *Machine) prepare() error {
	folder, err := newFolder()
	if err != nil {
		return err
	}
	m.folder = folder
	shared := m.shared()
	m.control = &control{dir: filepath.Join(shared, "control")}
	m.Share = m.config.Share
	if m.Share == "" {
		m.Share = filepath.Join(folder.path, "share")
	}
	base := filepath.Join(folder.path, "base")
	units := filepath.Join(base, "etc/systemd/system")
	for _, dir := range []string{m.control.dir, filepath.Join(shared, "share"), filepath.Join(units, "sysinit.target.wants")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if m.config.Share == "" {
		if err := os.Mkdir(m.Share, 0o755); err != nil {
			return err
		}
	}
	if m.config.Early != "" {
		if err := os.WriteFile(filepath.Join(shared, "early"), []byte(m.config.Early), 0o644); err != nil {
			return err
		}
	}
	trees := append([]string{base}, m.config.Trees...)
	for _, file := range []struct {
		path string
		data []byte
		mode os.FileMode
	}{
		{filepath.Join(shared, "agent"), guestFile("agent"), 0o755},
		{filepath.Join(shared, "boot"), guestFile("boot"), 0o644},
		{filepath.Join(shared, "init"), guestFile("init"), 0o644},
		{filepath.Join(shared, "trees"), []byte(lines(trees)), 0o644},
		{filepath.Join(shared, "share-folder"), []byte(m.Share + "\n"), 0o644},
		{filepath.Join(units, "machine-agent.service"), guestFile("machine-agent.service"), 0o644},
		{filepath.Join(base, "etc/hostname"), []byte(m.config.Hostname + "\n"), 0o644},
		{filepath.Join(base, "etc/hosts"), []byte("127.0.0.1 localhost " + m.config.Hostname + "\n::1 localhost\n"), 0o644},
	} {
		if err := os.WriteFile(file.path, file.data, file.mode); err != nil {
			return err
		}
	}
	for _, tree := range trees {
		if info, err := os.Stat(tree); err != nil {
			return err
		} else if !info.IsDir() {
			return fmt.Errorf("tree %s is no folder", tree)
		}
		if strings.ContainsAny(tree+m.Share, " ,:\n") {
			return fmt.Errorf("folder %s or %s: a name with a blank, comma or colon cannot be mounted", tree, m.Share)
		}
	}
	return os.Symlink("../machine-agent.service", filepath.Join(units, "sysinit.target.wants/machine-agent.service"))
}

// lines is the list as the scripts read it.
func lines(list []string) string {
	var text strings.Builder
	for _, line := range list {
		text.WriteString(line + "\n")
	}
	return text.String()
}

// shared is the folder that the machine sees as /run/machine.
func (m *Machine) shared() string { return filepath.Join(m.folder.path, "shared") }

// waitForBoot returns when systemd has booted, or cannot.
func (m *Machine) waitForBoot(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, m.config.BootTimeout,
		fmt.Errorf("not booted within %s", m.config.BootTimeout))
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		if words, ok := m.control.ready("booted"); ok && len(words) > 0 {
			m.State = words[0]
			if m.State == "running" || m.State == "degraded" {
				return nil
			}
			return fmt.Errorf("systemd is %s", m.State)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-m.console.panicked:
			return errors.New(m.console.panicLine())
		case <-m.process.done:
			return fmt.Errorf("the machine ended by itself: %w", m.ended())
		case <-tick.C:
		}
	}
}

// ended says how the machine's process ended.
func (m *Machine) ended() error {
	if m.process.err != nil {
		return m.process.err
	}
	return errors.New("powered off")
}

// bootParts tells how a UML machine's boot time came about, as the guest's
// clock has it.
func (m *Machine) bootParts() string {
	staged, err := os.ReadFile(filepath.Join(m.shared(), "staged"))
	if err != nil {
		return "" // a container has neither kernel nor stage
	}
	booted, _ := m.control.ready("booted")
	words := append(strings.Fields(string(staged)), booted...)
	if len(words) != 4 {
		return ""
	}
	var at [3]float64
	for i, word := range []string{words[0], words[1], words[3]} {
		if at[i], err = strconv.ParseFloat(word, 64); err != nil {
			return ""
		}
	}
	return fmt.Sprintf(": kernel %.1f s, trees %.1f s, systemd %.1f s", at[0], at[1]-at[0], at[2]-at[1])
}

// Run runs argv in the machine as root, in /, with the output going to stdout
// and stderr (nil discards) as it comes, and returns its exit status. The
// error is about the machine alone; when ctx ends, the command is killed.
func (m *Machine) Run(ctx context.Context, argv []string, stdout, stderr io.Writer) (int, error) {
	if len(argv) == 0 {
		return -1, errors.New("no command to run in the machine")
	}
	if m.process == nil {
		return runOnHost(ctx, argv, stdout, stderr)
	}
	gone := make(chan struct{})
	returned := make(chan struct{})
	defer close(returned)
	go func() {
		select {
		case <-m.process.done:
		case <-m.console.panicked:
		case <-returned:
		}
		close(gone)
	}()
	status, err := m.control.run(ctx, argv, stdout, stderr, gone)
	if line := m.console.panicLine(); line != "" && err != nil {
		err = fmt.Errorf("%w: %s", err, line)
	}
	return status, err
}

// Report writes what helps to find out why a machine is not well: the end of
// its console, and of its journal if the machine still answers.
func (m *Machine) Report(w io.Writer) {
	if m.process == nil {
		return
	}
	_, _ = fmt.Fprintf(w, "--- console of the machine ---\n%s\n", m.console)
	_, answers := m.control.ready("up")
	select {
	case <-m.process.done:
		answers = false
	case <-m.console.panicked:
		answers = false
	default:
	}
	if !answers {
		_, _ = fmt.Fprintln(w, "--- its journal cannot be reached ---")
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	for _, argv := range [][]string{
		{"systemctl", "--no-pager", "list-jobs"},
		{"journalctl", "--no-pager", "--quiet", "-b", "-n", "300", "-o", "short-monotonic"},
	} {
		_, _ = fmt.Fprintf(w, "--- %s ---\n", strings.Join(argv, " "))
		if _, err := m.Run(ctx, argv, w, w); err != nil {
			_, _ = fmt.Fprintf(w, "cannot be had: %v\n", err)
		}
	}
}

// Halt sends PID 1 the signal on which systemd stops everything and ends a
// container (systemd(1), SIGRTMIN+3), as the stop command of a container engine
// does, and waits until the machine has ended.
func (m *Machine) Halt(ctx context.Context) error {
	if m.process == nil {
		return errors.New("the host is not to be halted")
	}
	if _, err := m.Run(ctx, []string{"bash", "-c", "kill -s RTMIN+3 1"}, nil, nil); err != nil && !errors.Is(err, errMachineEnded) {
		return fmt.Errorf("cannot halt the machine: %w", err)
	}
	select {
	case <-m.process.done:
		return m.process.err
	case <-ctx.Done():
		return fmt.Errorf("the machine has not halted: %w", context.Cause(ctx))
	}
}

// Console returns the end of what the machine has printed on its console.
func (m *Machine) Console() string {
	if m.process == nil {
		return ""
	}
	return m.console.String()
}

// Close ends the machine at once and deletes all that it wrote. Closing twice
// is no error.
func (m *Machine) Close() error {
	var errs []error
	m.closed.Do(func() {
		if m.process != nil {
			m.process.kill()
		}
		if m.release != nil {
			errs = append(errs, m.release())
		}
		if m.folder != nil {
			errs = append(errs, m.folder.remove())
		}
	})
	return errors.Join(errs...)
}
