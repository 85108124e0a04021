package nvmltest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// A Scenario is the machine that the library tells of.
type Scenario struct {
	Driver    string        // empty: "550.54.15"
	InitDelay time.Duration // that initialising NVML takes a GPU, in milliseconds
	GPUs      []GPU         // in NVML's order
	Displays  []Display     // display devices that NVML does not have
	Fail      []Rule        // calls that fail with their Code
	Hang      []Rule        // calls that return once the scenario is one without the rule
}

// A GPU is one GPU of a Scenario. What is nil is not supported by it.
type GPU struct {
	PCI            string // "0000:17:00.0"
	UUID           string
	Name           string
	Minor          int
	MemoryBytes    uint64
	NUMANode       int // in sysfs; −1: none
	MIG            MIGMode
	MIGDevices     []MIG
	Virtualisation *int   // nvmlGpuVirtualizationMode_t
	Temperature    *int   // °C
	Utilisation    *int   // percent
	Recovery       *int   // nvmlDeviceGpuRecoveryAction_t
	Events         uint64 // the supported types; 0: the usual ones, with recovery where there is Recovery
	Silent         bool   // does not answer NVML yet
	Lost           bool   // has fallen off the bus
}

// A MIGMode is whether a GPU has MIG.
type MIGMode int

// The modes of a GPU.
const (
	MIGUnsupported MIGMode = iota
	MIGDisabled
	MIGEnabled
)

// A MIG is a MIG device of a GPU.
type MIG struct {
	Place           int // the M of N:M
	GPUInstance     int
	ComputeInstance int
	UUID            string
	Profile         string // "1g.10gb"
	MemoryBytes     uint64
}

// A Display is a display device of another vendor, or one that NVML leaves out.
type Display struct {
	PCI    string
	Vendor string // "0x1a03"
	Class  string // "0x030000"
}

// A Rule is about calls of one function of NVML.
type Rule struct {
	Function string // "nvmlDeviceGetUUID"
	Code     int    // nvmlReturn_t
	GPU      *int   // place in Scenario.GPUs; nil: any
}

// String returns the scenario as the library reads it.
func (s Scenario) String() string {
	var b strings.Builder
	if s.Driver != "" {
		fmt.Fprintf(&b, "driver %s\n", s.Driver)
	}
	if s.InitDelay > 0 {
		fmt.Fprintf(&b, "init-ms %d\n", s.InitDelay.Milliseconds())
	}
	for i, g := range s.GPUs {
		g.line(&b)
		for _, m := range g.MIGDevices {
			fmt.Fprintf(&b, "mig gpu=%d place=%d gi=%d ci=%d memory=%d uuid=%s name=%s MIG %s\n",
				i, m.Place, m.GPUInstance, m.ComputeInstance, m.MemoryBytes, m.UUID, g.Name, m.Profile)
		}
	}
	rule := func(line string, r Rule) {
		if r.GPU != nil {
			line += fmt.Sprintf(" %d", *r.GPU)
		}
		b.WriteString(line + "\n")
	}
	for _, r := range s.Fail {
		rule(fmt.Sprintf("fail %s %d", r.Function, r.Code), r)
	}
	for _, r := range s.Hang {
		rule("hang "+r.Function, r)
	}
	return b.String()
}

func (g GPU) line(b *strings.Builder) {
	fmt.Fprintf(b, "gpu pci=%s minor=%d uuid=%s memory=%d", g.PCI, g.Minor, g.UUID, g.MemoryBytes)
	if g.MIG != MIGUnsupported {
		fmt.Fprintf(b, " mig=%d", g.MIG-MIGDisabled)
	}
	for _, f := range []struct {
		key   string
		value *int
	}{{"virtualisation", g.Virtualisation}, {"temperature", g.Temperature}, {"utilisation", g.Utilisation}, {"recovery", g.Recovery}} {
		if f.value != nil {
			fmt.Fprintf(b, " %s=%d", f.key, *f.value)
		}
	}
	if g.Events != 0 {
		fmt.Fprintf(b, " events=%#x", g.Events)
	}
	if g.Silent {
		b.WriteString(" silent=1")
	}
	if g.Lost {
		b.WriteString(" lost=1")
	}
	fmt.Fprintf(b, " name=%s\n", g.Name)
}

// Write puts the scenario at path, at once: the library may read it at any
// moment.
func (s Scenario) Write(path string) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".scenario-*")
	if err != nil {
		return err
	}
	_, err = f.WriteString(s.String())
	if err == nil {
		err = f.Chmod(0o644)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

// Types of events, see nvml.h.
const (
	EventXID      = 0x8
	EventRecovery = 0x8000
)

// AppendEvent makes an event of the GPU at a place of the scenario at path.
// Those who registered for its type hear of it.
func AppendEvent(path string, gpu int, kind, data uint64) error {
	f, err := os.OpenFile(path+EventsSuffix, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%d %d %d\n", gpu, kind, data)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}
