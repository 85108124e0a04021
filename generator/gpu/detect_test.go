package gpu

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// link makes a symbolic link below root.
func link(t *testing.T, root, name, target string) {
	t.Helper()
	file := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, file); err != nil {
		t.Fatal(err)
	}
}

// reasons returns what is said of each device, a "+" before it where it is
// used.
func reasons(findings []Finding) map[string]string {
	got := map[string]string{}
	for _, f := range findings {
		mark := "- "
		if f.Used {
			mark = "+ "
		}
		got[f.PCI] = mark + f.Reason
	}
	return got
}

// Each device that is no usable GPU says why; no device costs another one.
func TestExcluded(t *testing.T) {
	t.Parallel()
	const address = "0000:41:00.0"
	const dir = "sys/devices/pci0000:00/" + address
	file := func(name, data string) func(*testing.T, string) {
		return func(t *testing.T, root string) { put(t, root, dir+"/"+name, data) }
	}
	driver := func(name string) func(*testing.T, string) {
		return func(t *testing.T, root string) { link(t, root, dir+"/driver", "../../../bus/pci/drivers/"+name) }
	}
	all := func(fs ...func(*testing.T, string)) func(*testing.T, string) {
		return func(t *testing.T, root string) {
			for _, f := range fs {
				f(t, root)
			}
		}
	}
	replace := func(name string, put func(t *testing.T, file string)) func(*testing.T, string) {
		return func(t *testing.T, root string) {
			file := filepath.Join(root, dir, name)
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
			put(t, file)
		}
	}
	folder := func(t *testing.T, file string) {
		if err := os.Mkdir(file, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	fifo := func(t *testing.T, file string) {
		if err := syscall.Mkfifo(file, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	loop := func(t *testing.T, file string) {
		if err := os.Symlink(filepath.Base(file), file); err != nil {
			t.Fatal(err)
		}
	}
	away := func(t *testing.T, file string) {
		other := filepath.Join(t.TempDir(), "secret")
		if err := os.WriteFile(other, []byte("root:x:0:0\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(other, file); err != nil {
			t.Fatal(err)
		}
	}
	const used = "+ usable NVIDIA GPU 1 in PCI bus order"
	tests := map[string]struct {
		change func(t *testing.T, root string)
		want   string
	}{
		"usable":                   {driver("nvidia"), used},
		"not bound":                {file("driver_override", "(null)\n"), used},
		"reserved for nvidia":      {file("driver_override", "nvidia\n"), used},
		"driver is no link":        {file("driver/x", ""), used},
		"no SR-IOV functions":      {all(driver("nvidia"), file("sriov_numvfs", "0\n"), file("sriov_totalvfs", "16\n")), used},
		"NUMA node is odd":         {file("numa_node", "0x1\n"), used},
		"VGA":                      {file("class", "0x030000\n"), used},
		"vfio-pci":                 {driver("vfio-pci"), "- bound to the driver vfio-pci, not nvidia"},
		"nouveau":                  {driver("nouveau"), "- bound to the driver nouveau, not nvidia"},
		"an odd driver":            {driver("a b\x1b[31m"), `- bound to the driver "a b\x1b[31m", not nvidia`},
		"reserved for vfio-pci":    {file("driver_override", "vfio-pci\n"), "- reserved for the driver vfio-pci, not nvidia"},
		"virtual function":         {all(driver("nvidia"), file("physfn/vendor", "")), "- SR-IOV virtual function: it belongs to a guest"},
		"vGPU host":                {all(driver("nvidia"), file("sriov_numvfs", "16\n")), "- its SR-IOV virtual functions are on (16): a vGPU host, which gives it to guests"},
		"vGPU host of old":         {all(driver("nvidia"), file("mdev_supported_types/nvidia-35/name", "")), "- it offers mediated devices: a vGPU host, which gives it to guests"},
		"display only":             {file("class", "0x038000\n"), "- class 0x038000 is neither a VGA nor a 3D controller"},
		"another vendor":           {file("vendor", "0x1a03\n"), "- vendor 0x1a03 is not NVIDIA (0x10de)"},
		"NVSwitch":                 {file("class", "0x068000\n"), ""},
		"sound":                    {file("class", "0x040300\n"), ""},
		"class is empty":           {file("class", ""), "- its class cannot be read"},
		"class is text":            {file("class", "0x03%s\n"), "- its class cannot be read"},
		"class is a folder":        {replace("class", folder), "- its class cannot be read"},
		"class is a FIFO":          {replace("class", fifo), "- its class cannot be read"},
		"class is a loop":          {replace("class", loop), "- its class cannot be read"},
		"class is elsewhere":       {replace("class", away), "- its class cannot be read"},
		"vendor is elsewhere":      {replace("vendor", away), "- its vendor cannot be read"},
		"vendor is a FIFO":         {replace("vendor", fifo), "- its vendor cannot be read"},
		"the device is a loop":     {replaceDevice, "- its class cannot be read"},
		"excluded":                 {file("../../../../proc/driver/nvidia/gpus/"+address+"/information", "GPU Excluded:\t Yes\n"), "- excluded in the NVIDIA driver"},
		"information is a folder":  {file("../../../../proc/driver/nvidia/gpus/"+address+"/information/x", ""), used},
		"information makes no use": {file("../../../../proc/driver/nvidia/gpus/"+address+"/information", "\x00\xff:\nDevice Minor: 99999999999\n"), used},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			for _, a := range []string{"0000:17:00.0", address, "0000:61:00.0"} {
				device(t, root, a, h100)
			}
			tt.change(t, root)
			gpus, findings := Detect(root, false)
			got := reasons(findings)
			if got[address] != tt.want {
				t.Errorf("%q, want %q", got[address], tt.want)
			}
			want := map[string]int{"0000:17:00.0": 0, "0000:61:00.0": 1}
			if tt.want == used {
				want = map[string]int{"0000:17:00.0": 0, address: 1, "0000:61:00.0": 2}
			}
			if diff := cmp.Diff(want, indices(gpus)); diff != "" {
				t.Errorf("indices (-want +got):\n%s", diff)
			}
		})
	}
}

// replaceDevice makes a device a link to itself.
func replaceDevice(t *testing.T, root string) {
	name := filepath.Join(root, sysDevices, "0000:41:00.0")
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("0000:41:00.0", name); err != nil {
		t.Fatal(err)
	}
}

func indices(gpus []GPU) map[string]int {
	got := map[string]int{}
	for _, g := range gpus {
		got[g.Address()] = g.Index
	}
	return got
}

// The driver's word on minors counts, and no guess takes one of them.
func TestMinors(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for _, a := range []string{"0000:17:00.0", "0000:18:00.0", "0000:19:00.0", "0000:1a:00.0", "0000:1b:00.0"} {
		device(t, root, a, h100)
	}
	put(t, root, procGPUs+"/0000:18:00.0/information", "Device Minor: \t 1\nGPU Excluded: Yes\n")
	put(t, root, procGPUs+"/0000:19:00.0/information", "Device Minor: \t 0\n")
	put(t, root, procGPUs+"/0000:1b:00.0/information", "Device Minor: \t 3\n")
	gpus, _ := Detect(root, false)
	got := map[string]int{}
	for _, g := range gpus {
		got[g.PCI] = g.Minor
	}
	if diff := cmp.Diff(map[string]int{"0000:17:00.0": 2, "0000:19:00.0": 0, "0000:1a:00.0": 4, "0000:1b:00.0": 3}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A container has the GPUs that it was given, by the best witness there is.
func TestContainer(t *testing.T) {
	t.Parallel()
	bus := func(t *testing.T, root string) {
		for _, a := range []string{"0000:17:00.0", "0000:18:00.0", "0000:19:00.0"} {
			device(t, root, a, h100)
		}
	}
	information := func(minors map[string]string) func(*testing.T, string) {
		return func(t *testing.T, root string) {
			for a, minor := range minors {
				put(t, root, procGPUs+"/"+a+"/information", "Device Minor: \t "+minor+"\n")
			}
		}
	}
	nodes := func(names ...string) func(*testing.T, string) {
		return func(t *testing.T, root string) {
			for _, name := range names {
				put(t, root, "dev/"+name, "")
			}
		}
	}
	tests := map[string]struct {
		machine []func(*testing.T, string)
		want    map[string]string
		minors  []int
	}{
		"nodes by position": {
			[]func(*testing.T, string){bus, nodes("nvidia1", "nvidiactl")},
			map[string]string{
				"0000:17:00.0": "- /dev/nvidia0 cannot be opened in this container: no such file or directory",
				"0000:18:00.0": "+ usable NVIDIA GPU 0 in PCI bus order, given to this container",
				"0000:19:00.0": "- /dev/nvidia2 cannot be opened in this container: no such file or directory",
			}, []int{1},
		},
		"the driver lists all": {
			[]func(*testing.T, string){bus, information(map[string]string{"0000:17:00.0": "2", "0000:18:00.0": "0", "0000:19:00.0": "1"}), nodes("nvidia1", "nvidia2")},
			map[string]string{
				"0000:17:00.0": "+ usable NVIDIA GPU 0 in PCI bus order, given to this container",
				"0000:18:00.0": "- /dev/nvidia0 cannot be opened in this container: no such file or directory",
				"0000:19:00.0": "+ usable NVIDIA GPU 1 in PCI bus order, given to this container",
			}, []int{2, 1},
		},
		// By position the first would get the node of the third.
		"the driver lists those given": {
			[]func(*testing.T, string){bus, information(map[string]string{"0000:19:00.0": "0"}), nodes("nvidia0")},
			map[string]string{
				"0000:17:00.0": "- not given to this container: the driver in it does not list it",
				"0000:18:00.0": "- not given to this container: the driver in it does not list it",
				"0000:19:00.0": "+ usable NVIDIA GPU 0 in PCI bus order, given to this container",
			}, []int{0},
		},
		"the driver tells no minor": {
			[]func(*testing.T, string){bus, information(map[string]string{"0000:17:00.0": "?", "0000:18:00.0": "0", "0000:19:00.0": "1"}), nodes("nvidia0", "nvidia1")},
			map[string]string{
				"0000:17:00.0": "- the driver does not tell which device node is its",
				"0000:18:00.0": "+ usable NVIDIA GPU 0 in PCI bus order, given to this container",
				"0000:19:00.0": "+ usable NVIDIA GPU 1 in PCI bus order, given to this container",
			}, []int{0, 1},
		},
		"no bus, but the driver": {
			[]func(*testing.T, string){information(map[string]string{"0000:18:00.0": "5", "0000:17:00.0": "7", "0000:19:00.0": "6"}), nodes("nvidia5", "nvidia7")},
			map[string]string{
				"0000:17:00.0": "+ usable NVIDIA GPU 0 in PCI bus order, by the driver alone: no PCI bus is shown in /sys, given to this container",
				"0000:18:00.0": "+ usable NVIDIA GPU 1 in PCI bus order, by the driver alone: no PCI bus is shown in /sys, given to this container",
				"0000:19:00.0": "- /dev/nvidia6 cannot be opened in this container: no such file or directory",
			}, []int{7, 5},
		},
		"nodes alone": {
			[]func(*testing.T, string){nodes("nvidia10", "nvidia2", "nvidiactl", "nvidia-uvm", "nvidia-modeset", "nvidia02", "nvidia255", "nvidia-1", "nvidia", "null")},
			map[string]string{
				"/dev/nvidia2":  "+ usable NVIDIA GPU 0, by its device node alone: no PCI bus is shown in /sys",
				"/dev/nvidia10": "+ usable NVIDIA GPU 1, by its device node alone: no PCI bus is shown in /sys",
			}, []int{2, 10},
		},
		"a node that leads nowhere": {
			[]func(*testing.T, string){nodes("nvidia2"), func(t *testing.T, root string) { link(t, root, "dev/nvidia0", "nvidia0") }},
			map[string]string{
				"/dev/nvidia0": "- cannot be opened in this container: too many levels of symbolic links",
				"/dev/nvidia2": "+ usable NVIDIA GPU 0, by its device node alone: no PCI bus is shown in /sys",
			}, []int{2},
		},
		"a bus without GPUs": {
			[]func(*testing.T, string){nodes("nvidia0"), func(t *testing.T, root string) {
				device(t, root, "0000:00:02.0", map[string]string{"vendor": "0x8086", "class": "0x030000"})
			}},
			map[string]string{"0000:00:02.0": "- vendor 0x8086 is not NVIDIA (0x10de)"}, nil,
		},
		"nothing": {nil, map[string]string{}, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			for _, f := range tt.machine {
				f(t, root)
			}
			gpus, findings := Detect(root, true)
			if diff := cmp.Diff(tt.want, reasons(findings)); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
			var minors []int
			for i, g := range gpus {
				minors = append(minors, g.Minor)
				if g.Index != i {
					t.Errorf("GPU %d has index %d", i, g.Index)
				}
			}
			if diff := cmp.Diff(tt.minors, minors); diff != "" {
				t.Errorf("minors (-want +got):\n%s", diff)
			}
		})
	}
	// Without a container nodes are no witness: they may be left over.
	root := t.TempDir()
	put(t, root, "dev/nvidia0", "")
	if gpus, _ := Detect(root, false); len(gpus) != 0 {
		t.Errorf("not in a container: %+v", gpus)
	}
}

func TestWithheld(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]string{
		"": "", "none": "asked for no GPU", "void": "asked for no GPU",
		"all": "gave none", "0,1": "gave none", "GPU-none": "gave none",
	} {
		if got := Withheld(value); !strings.Contains(got, want) || (got == "") != (want == "") {
			t.Errorf("%q: %q, want %q", value, got, want)
		}
	}
}

func TestLibraryWithheld(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]bool{
		"": false, "all": false, "utility": false, "compute,utility": false, "compute, utility": false,
		"compute": true, "compute,video": true, "utilities": true,
	} {
		if got := LibraryWithheld(value); got != want {
			t.Errorf("%q: %v, want %v", value, got, want)
		}
	}
}

// However many GPUs Windows has, there is one device.
func TestWSL(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	device(t, root, "b0ec:00:00.0", map[string]string{"vendor": "0x1414", "class": "0x030200"})
	put(t, root, "dev/dxg", "")
	gpus, findings := Detect(root, true)
	want := map[string]string{
		"b0ec:00:00.0": "- vendor 0x1414 is not NVIDIA (0x10de)",
		WSLNode:        "- WSL without the NVIDIA driver of Windows: /usr/lib/wsl has no libcuda.so",
	}
	if diff := cmp.Diff(want, reasons(findings)); diff != "" || len(gpus) != 0 {
		t.Errorf("without NVIDIA's driver: %+v (-want +got):\n%s", gpus, diff)
	}
	put(t, root, "usr/lib/wsl/lib/libcuda.so.1", "")
	gpus, findings = Detect(root, true)
	want[WSLNode] = "+ usable NVIDIA GPU 0, of Windows: WSL shows all of its GPUs as one device"
	if diff := cmp.Diff(want, reasons(findings)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]GPU{{Node: WSLNode, NUMANode: -1}}, gpus); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if a := gpus[0].Address(); a != WSLNode {
		t.Errorf("address %q", a)
	}
	// A real PCI GPU is the better one.
	device(t, root, "0000:17:00.0", h100)
	if gpus, _ := Detect(root, false); len(gpus) != 1 || gpus[0].PCI == "" {
		t.Errorf("with a PCI GPU: %+v", gpus)
	}
}

func TestJetson(t *testing.T) {
	t.Parallel()
	const file = "/sys/firmware/devicetree/base/compatible"
	root := t.TempDir()
	put(t, root, file, "nvidia,p3737-0000+p3701-0000\x00nvidia,p3701-0000\x00nvidia,tegra234\x00")
	want := map[string]string{file: "- the integrated GPU of an NVIDIA tegra234 (Jetson) is not supported: it has no device node of its own, and its memory is the machine's"}
	for _, container := range []bool{false, true} {
		if gpus, findings := Detect(root, container); len(gpus) != 0 || !cmp.Equal(want, reasons(findings)) {
			t.Errorf("%+v, %s", gpus, cmp.Diff(want, reasons(findings)))
		}
	}
	device(t, root, "0005:01:00.0", h100)
	if gpus, findings := Detect(root, false); len(gpus) != 1 || len(findings) != 1 {
		t.Errorf("with a PCI GPU: %+v, %+v", gpus, findings)
	}
	for text, want := range map[string]string{
		"nvidia,tegra210\x00": "tegra210", "nvidia,p1\x00nvidia,tegra264": "tegra264", "": "", "raspberrypi,4-model-b\x00brcm,bcm2711\x00": "",
		"nvidia,tegra\x00": "", "nvidia,tegraX\x00": "", "tegra234\x00": "", "nvidia,tegra234 x": "",
	} {
		if got := ParseTegra([]byte(text)); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// An inventory may have a GPU without an address, if it says by what it is known.
func TestInventoryByNode(t *testing.T) {
	t.Parallel()
	for node, want := range map[string]bool{WSLNode: true, "/dev/nvidia7": true, "": false, "/dev/sda": false, "/dev/nvidia07": false, "/dev/nvidia1 rw\nDeviceAllow=/dev/sda": false} {
		root := t.TempDir()
		put(t, root, bootIDPath, bootID+"\n")
		inv := &Inventory{Version: InventoryVersion, BootID: bootID, Source: SourceNVML, GPUs: []GPU{{Node: node, NUMANode: -1}}}
		if err := inv.Write(root); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadInventory(root); (err == nil) != want {
			t.Errorf("%q: %v", node, err)
		}
	}
}
