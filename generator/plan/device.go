package plan

import (
	"fmt"
	"strconv"
	"strings"

	"gpuherd/generator/gpu"
	"gpuherd/generator/service"
	"gpuherd/generator/unitfile"
)

// Device numbers of the NVIDIA driver that never change (nv-linux.h): its
// major, and the minor of /dev/nvidiactl.
const (
	nvidiaMajor    = 195
	nvidiactlMinor = 255
)

// EnvDir holds one environment file a device, written by gpuherd-setup: what
// is known only once the driver is up.
const EnvDir = "/run/gpuherd/gpu"

// EnvFile returns the environment file of the device that an instance runs on.
func EnvFile(in service.Instance) string {
	in.Worker = 1
	return EnvDir + "/" + in.String() + ".env"
}

// A device is what one instance is bound to: a GPU or a part of one.
type device struct {
	gpu gpu.GPU
	mig *gpu.MIG // nil: the whole GPU
}

func (d device) instance(worker int) service.Instance {
	in := service.Instance{GPU: d.gpu.Index, MIG: -1, Worker: worker}
	if d.mig != nil {
		in.MIG = d.mig.Index
	}
	return in
}

// devices lists what a service can run on.
func (m *maker) devices(c *choice) []device {
	var list []device
	for _, g := range m.GPUs {
		if c.Per == service.PerGPU {
			list = append(list, device{gpu: g})
			continue
		}
		for i := range g.MIG {
			list = append(list, device{gpu: g, mig: &g.MIG[i]})
		}
	}
	return list
}

// takes reports whether a service runs on a device, and why: the GPU has to
// work, and Model= and MinMemory= have to let it. What is not known yet does
// not pass: gpuherd-setup, which every worker waits for, writes the inventory
// and has the plan made again.
func takes(s *service.Service, g gpu.GPU, mig *gpu.MIG) (why string, ok bool) {
	what := "GPU " + strconv.Itoa(g.Index)
	memory := g.MemoryBytes
	if mig != nil {
		what = fmt.Sprintf("MIG device %d of %s", mig.Index, what)
		memory = mig.MemoryBytes
	}
	if g.Fault != "" {
		return what + " at " + g.Address() + ": " + g.Fault, false
	}
	if mig == nil && g.MIGMode && len(g.MIG) == 0 {
		return what + " at " + g.Address() + " is in MIG mode and has no MIG device: programs would find no GPU", false
	}
	if len(s.Models) > 0 {
		if g.Name == "" {
			return what + " has no known name yet for Model=: gpuherd-setup finds it once the driver is up", false
		}
		if !s.MatchModel(g.Name) {
			return fmt.Sprintf("%s is %q, which Model=%s does not take", what, g.Name, strings.Join(s.Models, " ")), false
		}
	}
	if s.MinMemory > 0 {
		if memory == 0 {
			return what + " has no known memory yet for MinMemory=: gpuherd-setup finds it once the driver is up", false
		}
		if memory < s.MinMemory {
			return fmt.Sprintf("%s has %s of memory, less than MinMemory= of %s", what, unitfile.FormatSize(memory), unitfile.FormatSize(s.MinMemory)), false
		}
	}
	if g.Simulated {
		return "for the simulated " + what, true
	}
	return "for " + what + " at " + g.Address(), true
}

// dropIn binds one instance to its device. UUID, name and memory are not in
// it: they are known only after the driver is up, and the units must be the
// same before and after. It returns what is worth saying about it.
func (m *maker) dropIn(c *choice, d device, in service.Instance) (why []string, ok bool) {
	f := &unitfile.File{Name: c.Path, Header: []string{Header}}
	f.Add("Unit", "SourcePath", unitfile.EscapeSpecifiers(c.Path))
	id := "%H"
	if m.Config.Worker.ID != "" {
		id = unitfile.EscapeSpecifiers(m.Config.Worker.ID)
	}
	index := strconv.Itoa(d.gpu.Index)
	for _, v := range [][2]string{
		{"GPU_INDEX", index},
		{"GPU_ID", index},
		{"GPU_PCI_BUS_ID", d.gpu.PCI},
		{"CUDA_DEVICE_ORDER", "PCI_BUS_ID"},
		{"WORKER_ID", id + "-gpu" + in.String()},
	} {
		if v[1] == "" {
			continue // some GPUs have no PCI address
		}
		value, err := assignment(v[0], v[1])
		if err != nil {
			m.problem(&unitfile.Problem{File: c.Path, Msg: err.Error()})
			return nil, false
		}
		f.Add("Service", "Environment", value)
	}
	f.Add("Service", "EnvironmentFile", "-"+EnvFile(in))
	if c.Isolate {
		m.isolate(f, d)
	}
	why = m.numa(f, c, d.gpu)
	if d.gpu.MIGMode && d.mig == nil {
		why = append(why, "the GPU is in MIG mode: programs see one of its MIG devices, Per=mig runs on each")
	}
	return why, m.file(c, dropInPath(c.InstanceUnit(in)), f)
}

// assignment writes NAME=value as one word of Environment=, specifiers in
// value left alone.
func assignment(name, value string) (string, error) {
	word, err := unitfile.QuoteWord(name + "=" + value)
	if err != nil {
		return "", err
	}
	// QuoteWord doubles every %; here they are meant.
	return strings.ReplaceAll(word, "%%", "%"), nil
}

// isolate closes every device but the instance's own and what CUDA needs
// beside it. Numbers work where the node does not exist at start yet;
// "char-nvidia" would be every GPU.
func (m *maker) isolate(f *unitfile.File, d device) {
	f.Add("Service", "DevicePolicy", "closed")
	allow := func(device, access string) { f.Add("Service", "DeviceAllow", device+" "+access) }
	if d.gpu.Node == gpu.WSLNode {
		allow(d.gpu.Node, "rw") // there is nothing else
		return
	}
	allow(number(nvidiaMajor, d.gpu.Minor), "rw")
	allow(number(nvidiaMajor, nvidiactlMinor), "rw")
	if d.gpu.Simulated {
		return
	}
	// By its name in /proc/devices, as its major is known only once the module
	// is loaded: that is /dev/nvidia-uvm and /dev/nvidia-uvm-tools.
	allow("char-nvidia-uvm", "rw")
	parts := d.gpu.MIG
	if d.mig != nil {
		parts = []gpu.MIG{*d.mig}
	}
	for _, mig := range parts {
		for _, minor := range []int{mig.GIMinor, mig.CIMinor} {
			if minor >= 0 {
				allow(m.capability(minor), "r")
			}
		}
	}
}

func number(major, minor int) string { return fmt.Sprintf("/dev/char/%d:%d", major, minor) }

// capability names the device of an NVIDIA capability. Its major is dynamic.
func (m *maker) capability(minor int) string {
	if major, ok := m.Majors["nvidia-caps"]; ok {
		return number(major, minor)
	}
	return fmt.Sprintf("/dev/nvidia-caps/nvidia-cap%d", minor)
}

// placement are the directives by which a service file places its workers
// itself. A drop-in would win over them.
var placement = []string{"NUMAPolicy", "NUMAMask", "CPUAffinity", "AllowedCPUs", "StartupAllowedCPUs", "AllowedMemoryNodes", "StartupAllowedMemoryNodes"}

// numa keeps an instance near its GPU. preferred is a default that a program
// may change for itself; strict is a limit of its control group as well.
//
// In a container it is a control group in either case: systemd fails the start
// where set_mempolicy(2) is forbidden, as container engines do by default, and
// where none of the CPUs is the container's. Of a control group the kernel
// takes the part that can be had.
func (m *maker) numa(f *unitfile.File, c *choice, g gpu.GPU) []string {
	strict := c.NUMA == service.NUMAStrict
	if c.NUMA == service.NUMAOff || g.NUMANode < 0 && !strict {
		return nil
	}
	if g.NUMANode < 0 {
		return []string{"NUMA=strict has no effect: the GPU is on no NUMA node that is known"}
	}
	for _, key := range placement {
		if _, own := c.File.Last("Service", key); own {
			return []string{"the service file places it itself, by " + key + "="}
		}
	}
	node, cpus := strconv.Itoa(g.NUMANode), m.NodeCPUs[g.NUMANode]
	if !m.Container {
		policy := "preferred"
		if strict {
			policy = "bind"
		}
		f.Add("Service", "NUMAPolicy", policy)
		f.Add("Service", "NUMAMask", node)
		if cpus != "" { // a start without any CPU fails
			f.Add("Service", "CPUAffinity", "numa")
		}
	}
	if (strict || m.Container) && cpus != "" {
		f.Add("Service", "AllowedCPUs", cpus)
	}
	if strict {
		f.Add("Service", "AllowedMemoryNodes", node)
	}
	return []string{near(node, cpus != "", strict, m.Container)}
}

// near says where an instance runs.
func near(node string, cpus, strict, container bool) string {
	what := "memory and CPUs"
	if !cpus {
		what = "memory"
	}
	switch {
	case strict:
		return what + " of NUMA node " + node + " only"
	case !container:
		return what + " of NUMA node " + node + " preferred"
	case cpus:
		return "CPUs of NUMA node " + node + "; its memory cannot be preferred in a container"
	}
	return "NUMA=preferred has no effect: in a container memory cannot be preferred, and node " + node + " has no CPUs"
}
