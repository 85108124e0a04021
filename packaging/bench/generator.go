package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// fstabGenerator is systemd's own generator that every machine runs, and the
// measure for ours.
const fstabGenerator = "/usr/lib/systemd/system-generators/systemd-fstab-generator"

// gpus is how many GPUs the measured machine has.
const gpus = 8

// timeGenerators runs our generator, for a machine with 8 GPUs on its PCI bus,
// and systemd-fstab-generator in turn, and returns the wall time of each run.
func timeGenerators(tree string, runs int) (ours, theirs []time.Duration, err error) {
	work, err := os.MkdirTemp(memoryDir(), "gpuherd-bench-")
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	root := filepath.Join(work, "root")
	if err := layGPUs(root, tree); err != nil {
		return nil, nil, fmt.Errorf("cannot lay out a machine with %d GPUs: %w", gpus, err)
	}
	// Left to itself it reads the fstab of whatever machine this is.
	fstab := "SYSTEMD_FSTAB=" + filepath.Join(work, "fstab")
	text := "UUID=5f1c / ext4 errors=remount-ro 0 1\nUUID=71-0A /boot/efi vfat umask=0077 0 1\nUUID=9b3e /srv ext4 defaults 0 2\n"
	if err := write(filepath.Join(work, "fstab"), text); err != nil {
		return nil, nil, err
	}
	generator := filepath.Join(tree, "usr/lib/systemd/system-generators/gpuherd-generator")
	for i := range runs + 2 {
		a, err := timeGenerator(work, nil, generator, "--root", root)
		if err != nil {
			return nil, nil, err
		}
		if i == 0 {
			if err := wantInstances(filepath.Join(work, "normal")); err != nil {
				return nil, nil, err
			}
		}
		b, err := timeGenerator(work, []string{fstab}, fstabGenerator)
		if err != nil {
			return nil, nil, err
		}
		if i == 0 {
			if _, err := os.Stat(filepath.Join(work, "normal", "boot-efi.mount")); err != nil {
				return nil, nil, fmt.Errorf("%s did not read its fstab: %w", fstabGenerator, err)
			}
		}
		if i >= 2 { // the first runs only warm the page cache
			ours, theirs = append(ours, a), append(theirs, b)
		}
	}
	return ours, theirs, nil
}

// timeGenerator runs one generator as systemd does, with three new folders.
func timeGenerator(work string, env []string, program string, flags ...string) (time.Duration, error) {
	env = append([]string{"SYSTEMD_SCOPE=system"}, env...)
	argv := append([]string{program}, flags...)
	for _, name := range []string{"normal", "early", "late"} {
		dir := filepath.Join(work, name)
		if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o755)); err != nil {
			return 0, err
		}
		argv = append(argv, dir)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer func() { _ = null.Close() }()
	files := []uintptr{null.Fd(), null.Fd(), os.Stderr.Fd()}
	begin := time.Now()
	pid, err := syscall.ForkExec(program, argv, &syscall.ProcAttr{Env: env, Files: files})
	if err != nil {
		return 0, fmt.Errorf("cannot start %s: %w", program, err)
	}
	var status syscall.WaitStatus
	for {
		if _, err = syscall.Wait4(pid, &status, 0, nil); !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	took := time.Since(begin)
	if err != nil {
		return 0, fmt.Errorf("cannot wait for %s: %w", program, err)
	}
	if status.ExitStatus() != 0 {
		return 0, fmt.Errorf("%s ended with %d", program, status.ExitStatus())
	}
	return took, nil
}

// layGPUs makes a root with 8 GPUs, as PCI shows them, and the services of tree.
func layGPUs(root, tree string) error {
	devices := filepath.Join(root, "sys/bus/pci/devices")
	for i := range gpus {
		device := filepath.Join(root, fmt.Sprintf("sys/devices/pci0000:00/0000:%02x:00.0", 0x10+i))
		files := map[string]string{
			"vendor": "0x10de\n", "device": "0x2330\n", "class": "0x030200\n", "numa_node": fmt.Sprintf("%d\n", i/4),
			"local_cpulist": "0-31\n", "uevent": "DRIVER=nvidia\nPCI_CLASS=30200\nPCI_ID=10DE:2330\n",
		}
		for name, text := range files {
			if err := write(filepath.Join(device, name), text); err != nil {
				return err
			}
		}
		if err := os.MkdirAll(devices, 0o755); err != nil {
			return err
		}
		if err := os.Symlink(device, filepath.Join(devices, filepath.Base(device))); err != nil {
			return err
		}
	}
	services := filepath.Join(tree, "usr/lib/gpuherd/services")
	if err := os.MkdirAll(filepath.Join(root, "usr/lib/gpuherd"), 0o755); err != nil {
		return err
	}
	if err := os.CopyFS(filepath.Join(root, "usr/lib/gpuherd/services"), os.DirFS(services)); err != nil {
		return err
	}
	// The version decides which restart settings may be written.
	return errors.Join(
		write(filepath.Join(root, "usr/lib/systemd/libsystemd-shared-257.so"), ""),
		write(filepath.Join(root, "proc/1/environ"), "PATH=/usr/bin\x00"),
		write(filepath.Join(root, "proc/cmdline"), "root=/dev/sda1 rw\n"),
		write(filepath.Join(root, "proc/1/cmdline"), "/sbin/init\x00"),
		write(filepath.Join(root, "proc/sys/kernel/random/boot_id"), "5d3a8e2c-1f0b-4d7e-9a55-0c2b7f6e4d11\n"),
	)
}

// wantInstances fails where the generator did not do the work it is timed for.
func wantInstances(dir string) error {
	dropIns, err := filepath.Glob(filepath.Join(dir, "redis-worker@*.service.d", "50-gpu.conf"))
	if err == nil && len(dropIns) != gpus {
		err = fmt.Errorf("the generator made %d workers, want %d", len(dropIns), gpus)
	}
	return err
}

func write(path, text string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text), 0o644)
}

// memoryDir is where systemd's own output folders are: on a tmpfs.
func memoryDir() string {
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		return "/dev/shm"
	}
	return ""
}
