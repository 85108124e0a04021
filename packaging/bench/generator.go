package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"gpuherd/generator/gpu"
)

// fstabGenerator is systemd's own generator that every machine runs, and the
// measure for ours.
const fstabGenerator = "/usr/lib/systemd/system-generators/systemd-fstab-generator"

// A shape is a machine that the generator is measured on. Beside the services
// that gpuherd ships it has some of the operator's, on each GPU or on each MIG
// device.
type shape struct {
	name     string
	gpus     int
	mig      int // devices on each GPU; 0: the GPUs are whole, and PCI alone shows them
	services int
	goal     float64 // ratio to systemd-fstab-generator, at most
}

// redis-worker, which is shipped, is the third of the first shape.
var shapes = []shape{
	{name: "8 GPUs × 3 services", gpus: 8, services: 2, goal: 1.5},
	{name: "16 GPUs × 7 MIG × 5 services", gpus: 16, mig: 7, services: 5, goal: 4},
}

// peakGoal is the most memory that the generator may ever hold, in MB.
const peakGoal = 15

// A generatorRun is one run of a generator.
type generatorRun struct {
	took time.Duration
	peak float64 // RSS in MB
}

// timeGenerators runs our generator for a machine of the shape, and
// systemd-fstab-generator, in turn.
func timeGenerators(tree string, s shape, runs int) (ours, theirs []generatorRun, err error) {
	work, err := os.MkdirTemp(memoryDir(), "gpuherd-bench-")
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	root := filepath.Join(work, "root")
	if err := layMachine(root, tree, s); err != nil {
		return nil, nil, fmt.Errorf("cannot lay out a machine with %s: %w", s.name, err)
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
			if err := wantInstances(filepath.Join(work, "normal"), s); err != nil {
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
func timeGenerator(work string, env []string, program string, flags ...string) (generatorRun, error) {
	env = append([]string{"SYSTEMD_SCOPE=system"}, env...)
	argv := append([]string{program}, flags...)
	for _, name := range []string{"normal", "early", "late"} {
		dir := filepath.Join(work, name)
		if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o755)); err != nil {
			return generatorRun{}, err
		}
		argv = append(argv, dir)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return generatorRun{}, err
	}
	defer func() { _ = null.Close() }()
	files := []uintptr{null.Fd(), null.Fd(), os.Stderr.Fd()}
	begin := time.Now()
	pid, err := syscall.ForkExec(program, argv, &syscall.ProcAttr{Env: env, Files: files})
	if err != nil {
		return generatorRun{}, fmt.Errorf("cannot start %s: %w", program, err)
	}
	var (
		status syscall.WaitStatus
		usage  syscall.Rusage
	)
	for {
		if _, err = syscall.Wait4(pid, &status, 0, &usage); !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	took := time.Since(begin)
	if err != nil {
		return generatorRun{}, fmt.Errorf("cannot wait for %s: %w", program, err)
	}
	if status.ExitStatus() != 0 {
		return generatorRun{}, fmt.Errorf("%s ended with %d", program, status.ExitStatus())
	}
	// The kernel counts what this process held when it forked, too.
	return generatorRun{took: took, peak: float64(usage.Maxrss) * 1024 / 1e6}, nil
}

// layMachine makes a root with GPUs, as PCI shows them and, where they have MIG
// devices, as gpuherd-setup wrote them down, and with the services of tree.
func layMachine(root, tree string, s shape) error {
	const boot = "5d3a8e2c-1f0b-4d7e-9a55-0c2b7f6e4d11"
	inventory := gpu.Inventory{Version: gpu.InventoryVersion, BootID: boot, Source: gpu.SourceNVML, DriverVersion: "570.86.15"}
	devices := filepath.Join(root, "sys/bus/pci/devices")
	for i := range s.gpus {
		g := gpu.GPU{
			Index: i, UUID: fmt.Sprintf("GPU-7d7b6f5e-0000-4c1d-9d2e-%012d", i), PCI: fmt.Sprintf("0000:%02x:00.0", 0x10+i), Minor: i,
			Name: "NVIDIA A100-SXM4-40GB", MemoryBytes: 40 << 30, NUMANode: 2 * i / s.gpus, MIGMode: s.mig > 0,
		}
		for m := range s.mig {
			g.MIG = append(g.MIG, gpu.MIG{
				Index: m, UUID: fmt.Sprintf("MIG-5a6b7c8d-0000-4c1d-9d2e-%06d%06d", i, m), Profile: "1g.5gb", MemoryBytes: 5 << 30,
				GPUInstance: 7 + m, GIMinor: 30 + 9*m, CIMinor: 31 + 9*m,
			})
		}
		inventory.GPUs = append(inventory.GPUs, g)
		device := filepath.Join(root, "sys/devices/pci0000:00", g.PCI)
		files := map[string]string{
			"vendor": "0x10de\n", "device": "0x2330\n", "class": "0x030200\n", "numa_node": fmt.Sprintf("%d\n", g.NUMANode),
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
	per := "gpu"
	if s.mig > 0 {
		per = "mig"
		if err := inventory.Write(root); err != nil {
			return err
		}
	}
	for i := range s.services {
		text := fmt.Sprintf("[Unit]\nDescription=Model %d on GPU %%i\n\n[X-GPU]\nPer=%s\n\n[Service]\nType=exec\nExecStart=/opt/model/bin/serve --port 8%d%%i\nMemoryMax=24G\n", i, per, i)
		if err := write(filepath.Join(root, fmt.Sprintf("etc/gpuherd/services/model%d.service", i)), text); err != nil {
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
	return errors.Join(
		// The version decides which restart settings may be written.
		write(filepath.Join(root, "usr/lib/systemd/libsystemd-shared-257.so"), ""),
		write(filepath.Join(root, "proc/1/environ"), "PATH=/usr/bin\x00"),
		write(filepath.Join(root, "proc/cmdline"), "root=/dev/sda1 rw\n"),
		write(filepath.Join(root, "proc/1/cmdline"), "/sbin/init\x00"),
		write(filepath.Join(root, "proc/sys/kernel/random/boot_id"), boot+"\n"),
		os.MkdirAll(filepath.Join(root, "sys/devices/system/node/node0"), 0o755),
		os.MkdirAll(filepath.Join(root, "sys/devices/system/node/node1"), 0o755),
	)
}

// wantInstances fails where the generator did not do the work it is timed for.
func wantInstances(dir string, s shape) error {
	dropIns, err := filepath.Glob(filepath.Join(dir, "*@*.service.d", "50-gpu.conf"))
	want := s.gpus + s.gpus*max(s.mig, 1)*s.services
	if err == nil && len(dropIns) != want {
		err = fmt.Errorf("the generator made %d workers, want %d", len(dropIns), want)
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
