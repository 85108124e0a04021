package machine

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// umlEnvMax is how many variables fit: the kernel takes 32 for PID 1 and
// panics at one more, and counts mem=, HOME and TERM among them.
const umlEnvMax = 28

// umlLineMax is the length of the kernel command line.
const umlLineMax = 2048

// startUML boots the image's disk under user-mode-linux.
func (m *Machine) startUML(image Image) error {
	linux, err := exec.LookPath("linux")
	if err != nil {
		return fmt.Errorf("no user-mode-linux: %w: see packaging/machine/install-dependencies", err)
	}
	args, err := umlCommandLine(m.config, m.folder.path, image)
	if err != nil {
		return err
	}
	memoryDir, err := memoryFolder(m.config.Memory)
	if err != nil {
		return err
	}
	cpu, release, err := takeCPU(m.config.CacheDir)
	if err != nil {
		return err
	}
	m.release = release
	// The shell is the first process of the PID namespace, which no signal of
	// its own can end: the kernel process ends itself by one when it panics.
	// The machine outlives the context of its boot: Close ends it.
	cmd := exec.CommandContext(context.Background(), "/bin/sh", append([]string{"-c", `"$@"; exit $?`, "sh", linux}, args...)...)
	cmd.Dir = m.folder.path
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + m.folder.path /* for .uml */, "TMPDIR=" + memoryDir}
	cmd.Stdout, cmd.Stderr = m.console, m.console
	m.process, err = startProcess(cmd, syscall.CLONE_NEWPID, []int{cpu})
	return err
}

// umlCommandLine returns the arguments of linux, which are the kernel command
// line.
func umlCommandLine(config Config, folder string, image Image) ([]string, error) {
	if n := len(config.Env); n > umlEnvMax {
		return nil, fmt.Errorf("%d variables for PID 1: the kernel takes %d", n, umlEnvMax)
	}
	args := []string{
		"ubd0=" + filepath.Join(folder, "cow") + "," + image.Disk,
		"root=/dev/ubda", "rw", "rootfstype=ext4",
		fmt.Sprintf("mem=%dM", config.Memory>>20),
		"con=null", "con0=null,fd:1", "ssl=null",
		"init=" + stagePath,
		"loglevel=4",
		"gpuherd_machine.folder=" + filepath.Join(folder, "shared"),
	}
	args = append(args, config.KernelArgs...)
	for _, variable := range config.environ() {
		name, value, _ := strings.Cut(variable, "=")
		if strings.ContainsAny(value, " \t") {
			value = `"` + value + `"`
		}
		args = append(args, name+"="+value)
	}
	if n := len(strings.Join(args, " ")); n > umlLineMax {
		return nil, fmt.Errorf("the kernel command line has %d bytes, more than %d", n, umlLineMax)
	}
	return args, nil
}

// memoryFolder returns a folder whose file system can hold the machine's
// memory: user-mode-linux keeps it in an unlinked file, which it executes.
func memoryFolder(bytes int64) (string, error) {
	for _, dir := range []string{"/dev/shm", os.TempDir(), "/var/tmp"} {
		var fs unix.Statfs_t
		if err := unix.Statfs(dir, &fs); err != nil {
			continue
		}
		if fs.Flags&unix.ST_NOEXEC == 0 && int64(fs.Bavail)*fs.Bsize > bytes+64<<20 {
			return dir, nil
		}
	}
	return "", fmt.Errorf("no temporary folder has room for %d MB of memory (and may hold programs)", bytes>>20)
}

// takeCPU chooses the CPU for a machine, one that no other machine is pinned
// to if there is one. The machine's kernel and the processes that it traces
// only ever run by turns; on one CPU a turn costs a context switch, on two it
// costs waking the other, which made boots 2 to 5 times as long.
func takeCPU(lockDir string) (cpu int, release func() error, err error) {
	var allowed unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		return 0, nil, fmt.Errorf("cannot read the CPU affinity: %w", err)
	}
	var cpus []int
	for i := range len(allowed) * 64 {
		if allowed.IsSet(i) {
			cpus = append(cpus, i)
		}
	}
	// From the last on, as interrupts and their like gather on the first.
	for i := len(cpus) - 1; i >= 0; i-- {
		path := filepath.Join(lockDir, fmt.Sprintf("cpu%d.lock", cpus[i]))
		lock, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
		if err != nil {
			return 0, nil, fmt.Errorf("cannot take a CPU: %w", err)
		}
		if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err == nil {
			return cpus[i], lock.Close, nil
		}
		_ = lock.Close()
	}
	return cpus[os.Getpid()%len(cpus)], func() error { return nil }, nil
}
