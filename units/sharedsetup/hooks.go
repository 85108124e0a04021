package sharedsetup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"gpuherd/generator/config"
	"gpuherd/generator/gpu"
	"gpuherd/generator/rootfs"
)

const (
	hookDir  = "/etc/gpuherd/setup.d"
	stampDir = runDir + "/setup.d"

	// killDelay is what a program has between SIGTERM and SIGKILL.
	killDelay = 5 * time.Second
	// maxHookLine is where a line of output is broken.
	maxHookLine = 8 << 10
)

// runHooks runs the operator's executables in lexical order, each once a boot.
// Which have run is written down in /run/gpuherd/setup.d; one that failed runs
// again when setup does. It returns how many succeeded and what to say of the
// others.
func (s *Setup) runHooks(ctx context.Context, bootID string, c *config.Config, gpus int) (ran int, failed []string) {
	entries, err := os.ReadDir(s.path(hookDir))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	fail := func(name string, err error) {
		s.Log.Error(hookDir+": "+name+" failed", "error", err)
		failed = append(failed, fmt.Sprintf("%s (%v)", name, err))
	}
	if err == nil {
		var info fs.FileInfo
		if info, err = os.Stat(s.path(hookDir)); err == nil {
			err = trusted(info)
		}
	}
	if err == nil {
		err = s.makeDir(stampDir, 0o755)
	}
	if err != nil {
		fail("all", err)
		return 0, failed
	}
	for _, e := range entries {
		name := e.Name()
		if ctx.Err() != nil || leftover(name) {
			continue
		}
		info, err := os.Lstat(s.path(hookDir + "/" + name))
		switch {
		case err != nil:
			fail(name, err)
			continue
		case !info.Mode().IsRegular():
			fail(name, errors.New("not a regular file"))
			continue
		case info.Mode()&0o111 == 0:
			s.Log.Info("not executable, left alone: " + hookDir + "/" + name)
			continue
		}
		if err := trusted(info); err != nil {
			fail(name, err)
			continue
		}
		done := strconv.Quote(bootID) + " ok\n"
		stamp := stampDir + "/" + name
		if old, err := rootfs.ReadFile(s.Root, stamp, 4096); err == nil && string(old) == done {
			continue
		}
		s.status("running %s/%s", hookDir, name)
		start := time.Now()
		if err := s.runHook(ctx, name, s.hookEnvironment(c, gpus)); err != nil {
			fail(name, err)
			done = strconv.Quote(bootID) + " failed: " + err.Error() + "\n"
		} else {
			ran++
			s.Log.Info("ran "+hookDir+"/"+name, "took", time.Since(start).Round(time.Millisecond))
		}
		if err := s.writeFile(stamp, []byte(done), 0o644); err != nil {
			s.Log.Error(err.Error())
		}
	}
	return ran, failed
}

// leftover reports names that editors and package managers leave behind, as
// systemd's hidden_or_backup_file() has them.
func leftover(name string) bool {
	if strings.HasPrefix(name, ".") || strings.HasSuffix(name, "~") {
		return true
	}
	for _, suffix := range []string{
		".rpmnew", ".rpmsave", ".rpmorig", ".dpkg-old", ".dpkg-new", ".dpkg-tmp", ".dpkg-dist", ".dpkg-bak", ".dpkg-backup", ".dpkg-remove",
		".ucf-new", ".ucf-old", ".ucf-dist", ".swp", ".bak", ".old", ".new",
	} {
		if strings.HasSuffix(name, suffix) {
			return true
		}
	}
	return false
}

// trusted refuses what others than root, or who runs setup, could have written.
func trusted(info fs.FileInfo) error {
	if info.Mode()&0o022 != 0 {
		return fmt.Errorf("group or others may write to it (mode %04o)", info.Mode().Perm())
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("it belongs to user %d, not to root", st.Uid)
	}
	return nil
}

func (s *Setup) runHook(ctx context.Context, name string, env []string) error {
	ctx, cancel := context.WithTimeout(ctx, s.HookTimeout)
	defer cancel()
	out := &prefixWriter{w: s.Output, prefix: name + ": "}
	defer out.flush()
	cmd := exec.CommandContext(ctx, s.path(hookDir+"/"+name))
	cmd.Env = env
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = out, out
	// Its children are to end with it, so all are one process group.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = s.killDelay
	err := cmd.Run()
	if ctx.Err() != nil {
		if cmd.Process != nil {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		}
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return fmt.Errorf("still running after %v, killed", s.HookTimeout)
		}
		return errors.New("killed: setup was stopped")
	}
	if errors.Is(err, exec.ErrWaitDelay) {
		// It ended well, but left a process behind that holds its output.
		return nil
	}
	return err
}

// hookEnvironment is setup's own environment without what is meant for setup
// alone or may hold a password, and with what a program wants to know here.
func (s *Setup) hookEnvironment(c *config.Config, gpus int) []string {
	drop := secretVariables()
	for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "CREDENTIALS_DIRECTORY"} {
		drop[name] = true
	}
	var env []string
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); !drop[name] {
			env = append(env, v)
		}
	}
	for _, v := range c.Environment {
		env = append(env, v.Name+"="+v.Value)
	}
	return append(env, "NUM_GPUS="+strconv.Itoa(gpus), "GPUHERD_INVENTORY="+s.path("/"+gpu.InventoryPath))
}

// A prefixWriter puts the program's name before each line, so that the journal
// tells whose it is.
type prefixWriter struct {
	w      io.Writer
	prefix string
	line   []byte // what came since the last newline
}

func (p *prefixWriter) Write(data []byte) (int, error) {
	n := len(data)
	for len(data) > 0 {
		end := bytes.IndexByte(data, '\n')
		part := data
		if end >= 0 {
			part = data[:end]
		}
		if room := maxHookLine - len(p.line); len(part) > room {
			part, end = part[:room], -1
		}
		p.line = append(p.line, part...)
		data = data[len(part):]
		if end >= 0 {
			data = data[1:]
		}
		if end >= 0 || len(p.line) == maxHookLine {
			p.emit()
		}
	}
	return n, nil // a full journal must not stop the program
}

func (p *prefixWriter) emit() {
	_, _ = fmt.Fprintf(p.w, "%s%s\n", p.prefix, p.line)
	p.line = p.line[:0]
}

func (p *prefixWriter) flush() {
	if len(p.line) > 0 {
		p.emit()
	}
}
