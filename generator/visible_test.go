package generator_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gpuherd/generator"
	"gpuherd/generator/plan"
)

// What NVIDIA's container toolkit was asked for decides nothing, as it does not
// say what came of it: the container has the GPUs whose nodes it was given. With
// none, it says why.
func TestVisibleDevices(t *testing.T) {
	t.Parallel()
	const given, none = "testdata/36-docker-toolkit/root", "testdata/39-docker-without-gpu/root"
	uuids := "GPU-a0000002-0000-4000-8000-000000000002,GPU-a0000003-0000-4000-8000-000000000003"
	for value, why := range map[string]string{
		"":     "", // an engine without the toolkit, `--device /dev/nvidia0`
		"all":  "gave none",
		"2,3":  "gave none",
		uuids:  "gave none",
		"none": "asked for no GPU",
		"void": "asked for no GPU", // by CDI, too
	} {
		environ := []string{"container=podman", "NVIDIA_VISIBLE_DEVICES=" + value}
		var got []string
		for _, g := range generator.Compute(generator.Options{Root: given, Environ: environ}).GPUs {
			got = append(got, g.PCI)
		}
		if diff := cmp.Diff([]string{"0000:19:00.0", "0000:1a:00.0"}, got); diff != "" {
			t.Errorf("%q with two GPUs given (-want +got):\n%s", value, diff)
		}

		r := generator.Compute(generator.Options{Root: none, Environ: environ})
		if len(r.GPUs) > 0 {
			t.Errorf("%q without a GPU given: %v", value, r.GPUs)
		}
		var told []string
		for _, d := range r.Decisions {
			if d.Kind == plan.KindMachine && strings.Contains(d.Reason, "NVIDIA_VISIBLE_DEVICES") {
				told = append(told, d.Reason)
			}
		}
		if text := strings.Join(told, "\n"); !strings.Contains(text, why) || (text == "") != (why == "") {
			t.Errorf("%q without a GPU given is told as %q, want %q", value, text, why)
		}
	}
}
