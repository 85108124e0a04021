//go:build acceptance || machine

package acceptance

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"

	"gpuherd/generator/gpu/nvml/nvmltest"
)

// A machine without GPUs is given some: NVML is a library that answers what a
// scenario says, sysfs and procfs have folders mounted over them before systemd
// starts, and device nodes are made that no driver stands behind.
const (
	// scenarioFile holds the scenario that the machine boots with.
	scenarioFile = "/opt/hardware.json"
	// oldDriver is the folder of an NVML that lacks a symbol.
	oldDriver = "/opt/old-driver"
	// libraryPath is where the dynamic linker finds NVML.
	libraryPath = "/usr/lib/" + nvmltest.Library
	// hardwareDir holds what is mounted over sysfs and procfs.
	hardwareDir = "/run/hardware"
	// capsDir holds the nodes of MIG capabilities.
	capsDir = "/dev/nvidia-caps"
	// majorCaps is NVIDIA's for MIG capabilities in what nvmltest writes.
	majorCaps   = 234
	majorNVIDIA = 195
)

// servicesDir takes the operator's service files.
const servicesDir = "/etc/gpuherd/services"

// readmeFile is where the machine has the README.
const readmeFile = "/opt/README.md"

// What `make uninstall` runs, and what it gives to that.
const (
	uninstallProgram = "/opt/uninstall"
	uninstallList    = "/opt/uninstall.list"
)

// pm2Dir is where a machine has PM2, in node_modules.
const pm2Dir = "/opt/pm2"

// changing are the folders below hardwareDir that follow the scenario.
var changing = []string{"sys/bus/pci", "sys/devices/pci0000:00", "proc/driver"}

func readScenario() (s nvmltest.Scenario, err error) {
	data, err := os.ReadFile(scenarioFile)
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	return s, err
}

// mountHardware is what the machine runs before systemd.
func mountHardware() error {
	s, err := readScenario()
	if err != nil {
		return err
	}
	if err := writeTrees(s, hardwareDir); err != nil {
		return err
	}
	// What else there is on buses stays: systemd and udev look for it.
	for _, dir := range []string{"sys/bus", "sys/devices"} {
		entries, err := os.ReadDir("/" + dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			to := filepath.Join(hardwareDir, dir, e.Name())
			if _, err := os.Stat(to); err == nil {
				continue
			}
			if err := os.Mkdir(to, 0o755); err != nil {
				return err
			}
			if err := bind(filepath.Join("/", dir, e.Name()), to); err != nil {
				return err
			}
		}
	}
	// systemd looks up its own devices here.
	devices, err := os.ReadFile("/proc/devices")
	if err != nil {
		return err
	}
	changed := strings.Replace(string(devices), "\n\nBlock", fmt.Sprintf("\n%d nvidia\n%d nvidiactl\n%d nvidia-caps\n511 nvidia-uvm\n\nBlock", majorNVIDIA, majorNVIDIA, majorCaps), 1)
	if err := os.WriteFile(filepath.Join(hardwareDir, "proc/devices"), []byte(changed), 0o644); err != nil {
		return err
	}
	for _, path := range []string{"sys/bus", "sys/devices", "proc/driver", "proc/devices"} {
		if err := bind(filepath.Join(hardwareDir, path), "/"+path); err != nil {
			return err
		}
	}
	return makeNodes(s)
}

func bind(from, to string) error {
	if err := unix.Mount(from, to, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("cannot mount %s over %s: %w", from, to, err)
	}
	return nil
}

// writeTrees makes sysfs and procfs below dir, as a loaded driver has them.
func writeTrees(s nvmltest.Scenario, dir string) error {
	if err := errors.Join(s.WritePCI(dir), s.WriteDriver(dir)); err != nil {
		return err
	}
	var errs []error
	file := func(path, text string) {
		path = filepath.Join(dir, path)
		errs = append(errs, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644))
	}
	for _, g := range s.GPUs {
		device := "sys/devices/pci0000:00/" + g.PCI
		file(device+"/uevent", "DRIVER=nvidia\nPCI_CLASS=30200\nPCI_ID=10DE:2330\nPCI_SLOT_NAME="+g.PCI+"\n")
		errs = append(errs, os.Symlink("../../../bus/pci", filepath.Join(dir, device, "subsystem")))
		capabilities := fmt.Sprintf("proc/driver/nvidia/capabilities/gpu%d/mig", g.Minor)
		if g.MIG == nvmltest.MIGEnabled {
			errs = append(errs, os.MkdirAll(filepath.Join(dir, capabilities), 0o755))
		}
		for _, m := range g.MIGDevices {
			file(fmt.Sprintf("%s/gi%d/access", capabilities, m.GPUInstance), "")
			file(fmt.Sprintf("%s/gi%d/ci%d/access", capabilities, m.GPUInstance, m.ComputeInstance), "")
		}
	}
	return errors.Join(errs...)
}

// changeHardware makes the running machine one of another scenario.
func changeHardware(s nvmltest.Scenario) error {
	fresh := hardwareDir + ".new"
	if err := errors.Join(os.RemoveAll(fresh), writeTrees(s, fresh)); err != nil {
		return err
	}
	if err := s.Write(nvmltest.ScenarioPath); err != nil {
		return err
	}
	for _, dir := range changing {
		if err := follow(filepath.Join(fresh, dir), filepath.Join(hardwareDir, dir)); err != nil {
			return err
		}
	}
	return makeNodes(s)
}

// follow makes the folder live, which is mounted elsewhere, like the folder
// fresh, whose parts it takes.
func follow(fresh, live string) error {
	old, err := os.ReadDir(live)
	if err != nil {
		return err
	}
	for _, e := range old {
		if _, err := os.Lstat(filepath.Join(fresh, e.Name())); errors.Is(err, fs.ErrNotExist) {
			if err := os.RemoveAll(filepath.Join(live, e.Name())); err != nil {
				return err
			}
		}
	}
	entries, err := os.ReadDir(fresh)
	if err != nil {
		return err
	}
	for _, e := range entries {
		from, to := filepath.Join(fresh, e.Name()), filepath.Join(live, e.Name())
		if info, err := os.Lstat(to); err == nil && info.IsDir() && e.IsDir() {
			err = follow(from, to)
			if err != nil {
				return err
			}
			continue
		}
		if err := os.Rename(from, to); err != nil {
			return err
		}
	}
	return nil
}

// ours are the nodes that come and go with GPUs.
var ours = regexp.MustCompile(`^(nvidia[0-9]+|nvidia-cap[0-9]+)$`)

// makeNodes makes the device nodes of a scenario, and removes those of others.
func makeNodes(s nvmltest.Scenario) error {
	if err := os.MkdirAll(capsDir, 0o755); err != nil {
		return err
	}
	want := map[string]uint64{"/dev/nvidiactl": unix.Mkdev(majorNVIDIA, 255)}
	for _, g := range s.GPUs {
		want[gpuNode(g.Minor)] = unix.Mkdev(majorNVIDIA, uint32(g.Minor))
		for _, m := range g.MIGDevices {
			for _, ci := range []int{-1, m.ComputeInstance} {
				minor, err := capability(g.Minor, m.GPUInstance, ci)
				if err != nil {
					return err
				}
				want[capNode(minor)] = unix.Mkdev(majorCaps, uint32(minor))
			}
		}
	}
	for _, dir := range []string{"/dev", capsDir} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			if _, ok := want[path]; !ok && ours.MatchString(e.Name()) {
				if err := os.Remove(path); err != nil {
					return err
				}
			}
		}
	}
	for path, device := range want {
		if err := unix.Mknod(path, unix.S_IFCHR|0o666, int(device)); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("cannot make %s: %w", path, err)
		}
		// mknod is subject to the umask.
		if err := os.Chmod(path, 0o666); err != nil {
			return err
		}
	}
	return nil
}

func gpuNode(minor int) string { return fmt.Sprintf("/dev/nvidia%d", minor) }
func capNode(minor int) string { return fmt.Sprintf(capsDir+"/nvidia-cap%d", minor) }

// capability returns the minor of the capability of a GPU instance, or with
// ci ≥ 0 of a compute instance, as the driver tells it.
func capability(gpu, gi, ci int) (int, error) {
	const minors = "/proc/driver/nvidia-caps/mig-minors"
	data, err := os.ReadFile(minors)
	if err != nil {
		return 0, err
	}
	name := fmt.Sprintf("gpu%d/gi%d/", gpu, gi)
	if ci >= 0 {
		name += fmt.Sprintf("ci%d/", ci)
	}
	for line := range strings.Lines(string(data)) {
		var minor int
		if rest, ok := strings.CutPrefix(line, name+"access "); ok {
			_, err := fmt.Sscan(rest, &minor)
			return minor, err
		}
	}
	return 0, fmt.Errorf("%s has no %saccess", minors, name)
}

// copyFile copies from to a new file with the given mode, whatever the umask.
func copyFile(from, to string, mode os.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		_ = out.Close()
		return fmt.Errorf("cannot copy %s to %s: %w", from, to, err)
	}
	if err := out.Chmod(mode); err != nil {
		_ = out.Close()
		return err
	}
	return out.Close()
}
