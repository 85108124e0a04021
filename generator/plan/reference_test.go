package plan

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"gpuherd/generator/config"
	"gpuherd/generator/gpu"
	"gpuherd/generator/service"
	"gpuherd/generator/unitfile"
)

const reference = "../../packaging/service-file.example"

// assignments are the lines of a section of the reference file that are
// commented out, as "Key=value".
func assignments(text, section string) []string {
	_, text, _ = strings.Cut(text, "\n["+section+"]\n")
	text, _, _ = strings.Cut(text, "\n[")
	var list []string
	for _, m := range regexp.MustCompile(`(?m)^#([A-Z][A-Za-z]*=.*)$`).FindAllStringSubmatch(text, -1) {
		list = append(list, m[1])
	}
	return list
}

// The reference file is a service file without a mistake, names every key, and
// tells the default of each: with all of them written it is the same service.
func TestReferenceServiceFile(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	read := func(text string) *service.Service {
		f, problems := unitfile.Parse("/etc/gpuherd/services/example.service", []byte(text))
		s, more := service.Parse("example", f.Name, f)
		if problems = append(problems, more...); len(problems) > 0 {
			t.Fatalf("problems %v", problems)
		}
		return s
	}
	var keys []string
	written := string(data)
	for _, a := range assignments(written, service.Section) {
		key, _, _ := strings.Cut(a, "=")
		keys = append(keys, key)
		written = strings.Replace(written, "\n#"+a+"\n", "\n"+a+"\n", 1)
	}
	if diff := cmp.Diff(service.Keys(), keys); diff != "" {
		t.Errorf("keys of the reference file (-known +there):\n%s", diff)
	}
	as, with := read(string(data)), read(written)
	if diff := cmp.Diff(as, with, cmpopts.IgnoreFields(service.Service{}, "File", "At")); diff != "" {
		t.Errorf("a default is another (-without +as written):\n%s", diff)
	}

	p := Make(Input{Config: config.Default(), GPUs: gpu.Simulated(1), Systemd: 257, Services: []*service.Service{as}})
	if len(p.Workers) != 1 || len(p.Problems) > 0 {
		t.Fatalf("units %v, problems %v", p.Workers, p.Problems)
	}
	var gets []string
	for _, e := range unit(t, p, "example@.service").Entries("Service") {
		gets = append(gets, e.Key+"="+e.Value)
	}
	inherited := assignments(string(data), "Service")
	if len(inherited) < 5 {
		t.Fatalf("found only %v", inherited)
	}
	for _, a := range inherited {
		if !slices.Contains(gets, a) {
			t.Errorf("the file says that a service gets %s, but it gets %q", a, gets)
		}
	}
}
