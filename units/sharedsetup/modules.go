package sharedsetup

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"gpuherd/generator/gpu"
)

// Programs that load NVIDIA's kernel modules and make the device nodes. The
// nodes are no business of udev's: the driver announces none.
const (
	nvidiaModprobe = "/usr/bin/nvidia-modprobe"
	nvidiaCTK      = "/usr/bin/nvidia-ctk"

	toolTimeout = 30 * time.Second
)

// Minors that nvidia-modprobe's -c takes: that of nvidiactl, and the first of
// the two of nvidia-uvm, which stands for both.
const (
	nvidiactlMinor = 255
	uvmMinor       = 0
)

// prepare sees to it that the driver is loaded and the nodes are there, by
// NVIDIA's own programs where they are installed. It reports whether one ran:
// the driver may know more then. What fails is told, and NVML has the last
// word on what it means.
func (s *Setup) prepare(ctx context.Context, found []gpu.GPU) (ran bool) {
	if s.Tool == nil {
		return false
	}
	modprobe, ctk := s.exists(nvidiaModprobe), s.exists(nvidiaCTK)
	run := func(argv ...string) bool {
		ran = true
		s.status("running %s", strings.Join(argv, " "))
		begin := time.Now()
		ctx, cancel := context.WithTimeout(ctx, toolTimeout)
		defer cancel()
		if err := s.Tool(ctx, argv...); err != nil {
			s.fault(fmt.Sprintf("%s: %v", strings.Join(argv, " "), err))
			return false
		}
		s.Log.Info("ran "+strings.Join(argv, " "), "took", time.Since(begin).Round(time.Millisecond))
		return true
	}
	loaded := s.exists("/proc/driver/nvidia/version")
	switch complete := loaded && s.exists("/dev/nvidiactl") && s.exists("/dev/nvidia-uvm") && s.exists("/dev/nvidia-uvm-tools"); {
	case complete:
	case modprobe:
		if run(nvidiaModprobe, "-c", strconv.Itoa(nvidiactlMinor)) {
			run(nvidiaModprobe, "-u", "-c", strconv.Itoa(uvmMinor))
		}
	case ctk:
		run(nvidiaCTK, "system", "create-device-nodes", "--control-devices", "--load-kernel-modules")
	case !loaded:
		s.Log.Warn("the NVIDIA driver is not loaded, and neither nvidia-modprobe nor nvidia-ctk is installed to load it")
	}
	if !modprobe {
		return ran
	}
	// Once the driver is there, procfs tells the minors.
	gpus := found
	if !loaded {
		gpus, _ = gpu.Detect(s.Root, false)
	}
	nodes := []string{nvidiaModprobe}
	for _, g := range gpus {
		if !s.exists("/dev/nvidia" + strconv.Itoa(g.Minor)) {
			nodes = append(nodes, "-c", strconv.Itoa(g.Minor))
		}
	}
	if len(nodes) > 1 {
		run(nodes...)
	}
	return ran
}

// prepareMIG makes the nodes of MIG devices' capabilities, which a worker
// needs beside its GPU's.
func (s *Setup) prepareMIG(ctx context.Context, gpus []gpu.GPU) {
	if s.Tool == nil || !s.exists(nvidiaModprobe) {
		return
	}
	const caps = "/proc/driver/nvidia/capabilities"
	argv := []string{nvidiaModprobe}
	for _, g := range gpus {
		for _, m := range g.MIG {
			gi := fmt.Sprintf("%s/gpu%d/mig/gi%d", caps, g.Minor, m.GPUInstance)
			for _, c := range []struct {
				minor int
				file  string
			}{{m.GIMinor, gi + "/access"}, {m.CIMinor, fmt.Sprintf("%s/ci%d/access", gi, m.ComputeInstance)}} {
				if c.minor >= 0 && !s.exists("/dev/nvidia-caps/nvidia-cap"+strconv.Itoa(c.minor)) && s.exists(c.file) {
					argv = append(argv, "-f", c.file)
				}
			}
		}
	}
	if len(argv) == 1 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, toolTimeout)
	defer cancel()
	if err := s.Tool(ctx, argv...); err != nil {
		s.fault(fmt.Sprintf("%s: %v", strings.Join(argv, " "), err))
		return
	}
	s.Log.Info("made the nodes of MIG devices", "count", (len(argv)-1)/2)
}

// RunTool runs a program of NVIDIA's to its end; what it prints goes to the
// journal as ours does.
func RunTool(ctx context.Context, argv ...string) error {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	out := &prefixWriter{w: os.Stderr, prefix: filepath.Base(argv[0]) + ": "}
	defer out.flush()
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if ctx.Err() != nil {
		return fmt.Errorf("still running after %v, killed", toolTimeout)
	}
	return err
}
