// Package nvmltest makes a machine with NVIDIA GPUs for tests: a
// libnvidia-ml.so.1 that programs really load, which answers what a scenario
// says, and the sysfs and procfs that go with the scenario.
package nvmltest

import (
	"cmp"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const (
	// Library is the file that Build makes.
	Library = "libnvidia-ml.so.1"
	// ScenarioVariable is the environment variable that names the scenario.
	ScenarioVariable = "GPUHERD_FAKE_NVML"
	// ScenarioPath is the scenario where the variable is not set.
	ScenarioPath = "/etc/fake-nvml"
	// EventsSuffix behind the scenario's path is where events are read from.
	EventsSuffix = ".events"
)

//go:embed library/nvml.c
var source string

// Build makes the library in the folder dir, which exists, and returns its
// path. The symbols named in without are left out, as in an old driver. It
// needs gcc, or the compiler that the variable CC names; what gcc makes needs no
// newer C library than Debian 12 has.
func Build(dir string, without ...string) (string, error) {
	hidden := ""
	for _, symbol := range without {
		hidden += symbol + "; "
	}
	work, err := os.MkdirTemp("", "nvmltest")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(work) }()
	script := filepath.Join(work, "symbols")
	if err := os.WriteFile(script, []byte("{ global: nvml*; local: "+hidden+"*; };\n"), 0o644); err != nil {
		return "", err
	}
	library := filepath.Join(dir, Library)
	compiler := cmp.Or(os.Getenv("CC"), "gcc")
	cmd := exec.Command(compiler, "-std=gnu17", "-O1", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wl,-soname,"+Library,
		"-Wl,--version-script="+script, "-o", library, "-x", "c", "-")
	cmd.Stdin = strings.NewReader(source)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s (apt-get install gcc libc6-dev): %w\n%s", compiler, err, out)
	}
	return library, nil
}
