package doctor

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gpuherd/generator"
	"gpuherd/generator/gpu"
	"gpuherd/generator/plan"
	"gpuherd/generator/rootfs"
)

// Leasts of systemd's version: what gpuherd needs, and what has all of it.
const (
	leastSystemd = 252
	fullSystemd  = 254
)

// SystemdVersion judges the version that systemd tells, such as
// "252.39-1~deb12u1".
func SystemdVersion(version string) Finding {
	number, _, _ := strings.Cut(version, ".")
	number, _, _ = strings.Cut(number, "-")
	number, _, _ = strings.Cut(number, "~")
	n, err := strconv.Atoi(strings.TrimPrefix(number, "v"))
	switch {
	case err != nil:
		return found("systemd", Warning, "", "systemd tells version %q, which is not understood", version)
	case n < leastSystemd:
		return found("systemd", Problem, "upgrade to a release with systemd 252, such as Debian 12 or Ubuntu 24.04", "systemd is version %d; gpuherd is made for %d and newer", n, leastSystemd)
	case n < fullSystemd:
		return found("systemd", OK, "", "systemd is version %s; restarts have a fixed delay below %d", version, fullSystemd)
	}
	return found("systemd", OK, "", "systemd is version %s", version)
}

// Cgroup looks for control groups of version 2, without which limits and
// device rules do not hold.
func Cgroup(root string) Finding {
	data, err := os.ReadFile(rootfs.Path(root, "/sys/fs/cgroup/cgroup.controllers"))
	switch controllers := strings.Fields(string(data)); {
	case errors.Is(err, fs.ErrNotExist):
		return found("cgroup", Problem, "boot with systemd.unified_cgroup_hierarchy=1; of a container, mend its host",
			"control groups are not of version 2: memory limits and device isolation may not hold")
	case err != nil:
		return found("cgroup", Skipped, "", "cannot look at control groups: %v", err)
	case !slices.Contains(controllers, "memory"):
		return found("cgroup", Problem, "take cgroup_disable=memory off the kernel command line; for a container, delegate the controller", "control groups have no memory controller: MemoryMax= does not hold")
	default:
		return found("cgroup", OK, "", "control groups are of version 2, with %s", strings.Join(controllers, " "))
	}
}

// GPUs looks at the driver, at the device nodes and at the inventory.
func GPUs(root string, r *generator.Result) []Finding {
	version, err := os.ReadFile(rootfs.Path(root, "/proc/driver/nvidia/version"))
	first, _, _ := strings.Cut(string(version), "\n")
	first = strings.TrimSpace(strings.TrimPrefix(first, "NVRM version:"))
	hardware := len(r.Found) > 0
	var all []Finding
	switch {
	case err == nil:
		all = append(all, found("driver", OK, "", "NVIDIA's driver is loaded: %s", strings.Join(strings.Fields(first), " ")))
	case hardware && !errors.Is(err, fs.ErrNotExist):
		all = append(all, found("driver", Skipped, "", "cannot look at the driver: %v", err))
	case hardware:
		all = append(all, found("driver", Problem, "install NVIDIA's driver, then modprobe nvidia; journalctl -k -g nvidia tells why it does not load", "there are %d NVIDIA GPUs, and the driver is not loaded", len(r.Found)))
	case len(r.GPUs) > 0:
		all = append(all, found("driver", OK, "", "no NVIDIA GPU and no driver; %d simulated", len(r.GPUs)))
	default:
		all = append(all, found("driver", Warning, "gpuherd explain tells what was looked at; [GPU] Simulate=yes makes simulated ones", "there is no NVIDIA GPU that can be used"))
	}
	if hardware {
		all = append(all, nodes(root, r.Found))
	}
	for _, g := range r.GPUs {
		if g.Fault != "" {
			all = append(all, found("gpu "+strconv.Itoa(g.Index), Problem, "journalctl -k -g NVRM has the driver's own words; nvidia-smi -r resets a GPU, else the machine has to be rebooted", "GPU %d does not work: %s", g.Index, g.Fault))
		}
	}
	return append(all, inventory(root))
}

func nodes(root string, gpus []gpu.GPU) Finding {
	names := []string{"/dev/nvidiactl", "/dev/nvidia-uvm"}
	for _, g := range gpus {
		if g.Node != "" {
			return found("nodes", OK, "", "GPUs are known by their device nodes")
		}
		names = append(names, "/dev/nvidia"+strconv.Itoa(g.Minor))
	}
	var missing []string
	for _, name := range names {
		if _, err := os.Stat(rootfs.Path(root, name)); err != nil {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return found("nodes", Problem, "systemctl restart shared-setup, which makes them; of a container, hand the devices in", "device nodes are missing: %s", strings.Join(missing, " "))
	}
	return found("nodes", OK, "", "all %d device nodes are there", len(names))
}

func inventory(root string) Finding {
	inv, err := gpu.ReadInventory(root)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return found("inventory", Warning, "systemctl start shared-setup; gpuherd logs shared-setup tells why it did not", "shared-setup has written no inventory in this boot")
	case err != nil:
		return found("inventory", Problem, "systemctl restart shared-setup", "the inventory cannot be used: %v", err)
	}
	return found("inventory", OK, "", "the inventory of this boot has %d GPUs, from %s", len(inv.GPUs), inv.Source)
}

// Generator says whether the generator ran, when, and whether what it read has
// changed since.
func Generator(root string, r *generator.Result, now time.Time) Finding {
	const check = "generator"
	generated := ""
	files, _ := filepath.Glob(filepath.Join(rootfs.Path(root, "/"+plan.GeneratorDir), "*.service"))
	for _, file := range files {
		if head, err := os.ReadFile(file); err == nil && strings.HasPrefix(string(head), "# "+plan.Header) {
			generated = file
			break
		}
	}
	if generated == "" {
		if len(r.Services) == 0 {
			return found(check, Warning, "gpuherd explain tells why", "the generator made nothing, and there is nothing to make")
		}
		return found(check, Problem, "systemctl daemon-reload; if that does not help: journalctl -b -g gpuherd-generator", "the generator has not run, or failed: there are no units of it")
	}
	info, err := os.Stat(generated)
	if err != nil {
		return found(check, Skipped, "", "cannot look at what the generator made: %v", err)
	}
	var newer []string
	for _, dir := range []string{"/etc/gpuherd", "/run/gpuherd/services", "/run/gpuherd/gpuherd.conf.d", "/usr/lib/gpuherd/services"} {
		_ = filepath.WalkDir(rootfs.Path(root, dir), func(file string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() && d.Name() == "environment" || d.IsDir() && d.Name() == "setup.d" {
				return fs.SkipDir
			}
			if i, err := d.Info(); err == nil && !d.IsDir() && i.ModTime().After(info.ModTime()) && slices.Contains([]string{".service", ".conf"}, filepath.Ext(file)) {
				newer = append(newer, "/"+strings.TrimPrefix(strings.TrimPrefix(file, filepath.Clean(root)), "/"))
			}
			return nil
		})
	}
	if len(newer) > 0 {
		return found(check, Warning, "systemctl daemon-reload", "the generator ran %s; changed since: %s", ago(now, info.ModTime()), strings.Join(newer, " "))
	}
	return found(check, OK, "", "the generator ran %s", ago(now, info.ModTime()))
}

// Clock says whether the kernel takes its clock for right, see adjtimex(2).
func Clock() Finding {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	return clock(state, t.Status, err)
}

func clock(state int, status int32, err error) Finding {
	const check = "clock"
	switch {
	case err != nil:
		return found(check, Skipped, "", "cannot ask the kernel about its clock: %v", err)
	case state == unix.TIME_ERROR || status&unix.STA_UNSYNC != 0:
		return found(check, Warning, "timedatectl set-ntp yes, or install chrony; of a container, mend its host", "the clock is not synchronised: times in events and heartbeats may be wrong")
	}
	return found(check, OK, "", "the clock is synchronised")
}
