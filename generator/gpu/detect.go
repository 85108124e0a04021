package gpu

import (
	"fmt"
	"slices"
)

// A Finding is one device that was looked at, and what became of it.
type Finding struct {
	PCI    string `json:"pci"` // or the file that stands for the device where it has no PCI address
	Used   bool   `json:"used"`
	Reason string `json:"reason"`
}

// Detect finds the NVIDIA GPUs of the machine below root, in PCI bus order.
// Where the driver is loaded, its files in procfs fill in minor, UUID and name;
// until then the minor is the one that the driver will choose on a healthy
// machine. In a container the GPUs are those that were given to it. The
// findings say for each display device why it is used or not. A device that
// cannot be read costs that device only.
func Detect(root string, container bool) ([]GPU, []Finding) {
	var d detection
	d.pci(root)
	d.driver(root)
	if container {
		d.given(root)
	}
	if !d.any() {
		d.wsl(root)
		d.jetson(root)
	}
	return d.result()
}

// Scan is Detect on the PCI bus alone: it does not ask the driver, which can
// wake a sleeping GPU.
func Scan(root string) ([]GPU, []Finding) {
	var d detection
	d.pci(root)
	return d.result()
}

// A detection is what has been found so far, in the order of the findings.
type detection struct {
	list  []candidate
	noBus bool // /sys shows no PCI bus
}

// A candidate is a device that may be a GPU to use.
type candidate struct {
	where string // the address, or the file that stands for it
	gpu   GPU    // its Index is not set, its Minor may be unknown
	how   string // what there is to say of it, after "usable NVIDIA GPU 3"
	out   string // why it is not used; empty: it is
}

// unknown is the minor of a GPU that the driver has not told.
const unknown = -1

func (d *detection) use(g GPU, how string) {
	d.list = append(d.list, candidate{where: g.Address(), gpu: g, how: how})
}

// skip adds a device that is not used.
func (d *detection) skip(where, why string) {
	d.list = append(d.list, candidate{where: where, gpu: GPU{Minor: unknown}, out: why})
}

// used calls f for each GPU that is used so far, and drops it where f returns
// a reason to.
func (d *detection) used(f func(c *candidate) string) {
	for i := range d.list {
		if c := &d.list[i]; c.out == "" {
			c.out = f(c)
		}
	}
}

// any reports whether a GPU is used so far.
func (d *detection) any() bool {
	return slices.ContainsFunc(d.list, func(c candidate) bool { return c.out == "" })
}

// result gives the GPUs their indices, and the minors that are not told: the
// driver takes the lowest free one for each GPU that it meets
// (nv_linux_assign_minor_locked), and it meets them in PCI bus order.
func (d *detection) result() ([]GPU, []Finding) {
	taken := map[int]bool{}
	for _, c := range d.list {
		taken[c.gpu.Minor] = true
	}
	var (
		gpus     []GPU
		findings []Finding
		free     int
	)
	for _, c := range d.list {
		f := Finding{PCI: c.where, Reason: c.out}
		if g := c.gpu; c.out == "" {
			g.Index = len(gpus)
			if g.Minor == unknown {
				for taken[free] {
					free++
				}
				g.Minor, taken[free] = free, true
			}
			gpus = append(gpus, g)
			f.Used, f.Reason = true, fmt.Sprintf("usable NVIDIA GPU %d%s", g.Index, c.how)
		}
		findings = append(findings, f)
	}
	return gpus, findings
}
