package gpu

import (
	"path/filepath"

	"gpuherd/generator/rootfs"
)

// WSLNode is the device node of the Windows Subsystem for Linux: all of
// Windows' GPUs are behind this one. There is no /dev/nvidiaN, and what PCI
// shows is a virtual device of Microsoft's.
const WSLNode = "/dev/dxg"

// wslDriver is where Windows puts the libraries of its NVIDIA driver, on a
// host and, by NVIDIA's toolkit, in a container.
var wslDriver = []string{"/usr/lib/wsl/lib/libcuda.so*", "/usr/lib/wsl/drivers/*/libcuda.so*"}

// wsl makes one GPU of WSLNode, however many Windows has: a worker that may
// open the node can use them all, so two workers could not be kept apart.
func (d *detection) wsl(root string) {
	if err := openable(root, WSLNode); err != nil {
		return // no WSL
	}
	for _, pattern := range wslDriver {
		if found, err := filepath.Glob(rootfs.Path(root, pattern)); err == nil && len(found) > 0 {
			d.use(GPU{Node: WSLNode, NUMANode: -1}, ", of Windows: WSL shows all of its GPUs as one device")
			return
		}
	}
	d.skip(WSLNode, "WSL without the NVIDIA driver of Windows: /usr/lib/wsl has no libcuda.so")
}
