package man

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gpuherd/generator/config"
	"gpuherd/generator/service"
)

// Every page is without an error for those who print it, and names pages that
// there are.
func TestPagesAreSound(t *testing.T) {
	t.Parallel()
	groff, err := exec.LookPath("groff")
	if err != nil {
		t.Fatalf("no groff: apt-get install groff-base: %v", err)
	}
	named := regexp.MustCompile(`\b(gpuherd[a-z.-]*|redis-worker) ?\(([1-8])\)`)
	for _, name := range pages(t) {
		if out, err := exec.CommandContext(t.Context(), groff, "-man", "-Tutf8", "-ww", "-z", name).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		for _, m := range named.FindAllStringSubmatch(open(t, name).text, -1) {
			if _, err := os.Stat(m[1] + "." + m[2]); err != nil {
				t.Errorf("%s names %s(%s): %v", name, m[1], m[2], err)
			}
		}
	}
}

// gpuherd.conf(5) has each key of each section, with the variables that set it
// and its default, and no other.
func TestConfigurationIsDocumented(t *testing.T) {
	t.Parallel()
	page := open(t, "gpuherd.conf.5")
	sections := map[string][]string{"Service NAME": {"Enabled=", "Instances=", "Stopped="}, "Environment": {"Pass="}}
	for _, s := range config.Settings() {
		sections[s.Section] = append(sections[s.Section], s.Key+"=")
		at := slices.IndexFunc(page.entries, func(e entry) bool { return e.section == "["+s.Section+"]" && e.terms()[0] == s.Key+"=" })
		if at < 0 {
			continue // told below
		}
		e := page.entries[at]
		if remark := "(" + strings.Join(s.Variables, ", "); len(s.Variables) > 0 && !strings.Contains(e.tag, remark) {
			t.Errorf("%s: %s lacks %s)", page.name, e.tag, remark)
		}
		if len(s.Variables) == 0 && regexp.MustCompile(`\([A-Z]`).MatchString(e.tag) {
			t.Errorf("%s: no variable sets %s", page.name, e.tag)
		}
		if !strings.Contains(e.text+e.tag, s.Default) {
			t.Errorf("%s: %s does not tell the default %s", page.name, e.tag, s.Default)
		}
	}
	for section, keys := range sections {
		page.same(t, "["+section+"]", keys)
	}
	for _, e := range page.entries {
		name := strings.Trim(e.section, "[]")
		if _, known := sections[name]; !known && name != e.section {
			t.Errorf("%s: there is no section %s", page.name, e.section)
		}
	}
}

// gpuherd.service-file(5) has each key of [X-GPU] and each variable of a worker,
// and no other.
func TestServiceFilesAreDocumented(t *testing.T) {
	t.Parallel()
	page := open(t, "gpuherd.service-file.5")
	var keys []string
	for _, key := range service.Keys() {
		keys = append(keys, key+"=")
	}
	page.same(t, "[X-GPU]", keys)
	page.same(t, "ENVIRONMENT", config.InstanceVariables)
}

// The page of each program has each of its options, and no other.
func TestOptionsAreDocumented(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"gpuherd-generator", "gpuherd-monitor", "gpuherd-setup", "redis-worker"} {
		page := open(t, program+".8")
		var named []string
		for _, term := range page.terms("OPTIONS") {
			option, _, _ := strings.Cut(term, " ")
			named = append(named, option)
		}
		declared := flags(t, "cmd/"+program)
		slices.Sort(named)
		slices.Sort(declared)
		if len(declared) == 0 || !slices.Equal(named, declared) {
			t.Errorf("%s has %v, the program %v", page.name, named, declared)
		}
	}
}

// gpuherd-redis(7) and gpuherd-api(7) have each field of each object, and no
// other; inventory.json has its page, too.
func TestObjectsAreDocumented(t *testing.T) {
	t.Parallel()
	for _, object := range []struct {
		page, section, dir, name string
		but                      []string // told elsewhere: those of what it embeds
	}{
		{page: "gpuherd-redis.7", section: "HEARTBEAT", dir: "monitor/relay", name: "Heartbeat"},
		{page: "gpuherd-redis.7", section: "UNITS", dir: "monitor/state", name: "Unit"},
		{page: "gpuherd-redis.7", section: "GPUS", dir: "monitor/state", name: "GPU"},
		{page: "gpuherd-redis.7", section: "GPUS/MIG devices", dir: "monitor/state", name: "MIG"},
		{page: "gpuherd-redis.7", section: "EVENTS/Of a unit", dir: "monitor/state", name: "UnitEvent", but: fields(t, "monitor/state", "Unit")},
		{page: "gpuherd-redis.7", section: "EVENTS/Of a GPU", dir: "monitor/state", name: "GPUEvent", but: fields(t, "monitor/state", "GPU")},
		{page: "gpuherd-redis.7", section: "EVENTS/Of a snapshot", dir: "monitor/state", name: "SnapshotEvent"},
		{page: "gpuherd-redis.7", section: "EVENTS/Of the host", dir: "monitor/state", name: "HostEvent"},
		{page: "gpuherd-redis.7", section: "EVENTS/Of a gap", dir: "monitor/state", name: "GapEvent"},
		{page: "gpuherd-api.7", section: "API//api/v1/host", dir: "monitor/web", name: "host"},
		{page: "gpuherd-api.7", section: "API//api/v1/units", dir: "monitor/web", name: "units"},
		{page: "gpuherd-api.7", section: "API//api/v1/gpus", dir: "monitor/web", name: "gpus"},
		{page: "gpuherd-api.7", section: "API//api/v1/jobs", dir: "monitor/web", name: "jobs"},
		{page: "gpuherd-api.7", section: "API/queue", dir: "monitor/fleet", name: "Queue"},
		{page: "gpuherd-api.7", section: "API//api/v1/hosts", dir: "monitor/fleet", name: "Fleet"},
		{page: "gpuherd-api.7", section: "API/A host of the fleet", dir: "monitor/fleet", name: "Host"},
		{page: "gpuherd-inventory.5", section: "INVENTORY", dir: "generator/gpu", name: "Inventory"},
		{page: "gpuherd-inventory.5", section: "INVENTORY/A GPU", dir: "generator/gpu", name: "GPU"},
		{page: "gpuherd-inventory.5", section: "INVENTORY/A MIG device", dir: "generator/gpu", name: "MIG"},
	} {
		want := slices.DeleteFunc(fields(t, object.dir, object.name), func(name string) bool { return slices.Contains(object.but, name) })
		open(t, object.page).same(t, object.section, want)
	}
	api := open(t, "gpuherd-api.7")
	api.same(t, "API/resources of a unit", append(fields(t, "monitor/resources", "Usage"), "reason"))
	// Of these there are but words.
	for _, object := range []struct{ section, entry, dir, name string }{
		{"API//api/v1/host", "checks", "monitor/web", "checked"},
		{"API//api/v1/jobs", "jobs", "monitor/web", "job"},
		{"API/resources of a unit", "pressure", "monitor/resources", "Pressure"},
		{"API/resources of a unit", "pressure", "monitor/resources", "Stalls"},
		{"API/resources of a unit", "pressure", "monitor/resources", "Stall"},
		{"API//api/v1/hosts", "total", "monitor/fleet", "Total"},
		{"API/A host of the fleet", "units", "monitor/fleet", "Units"},
		{"API/A host of the fleet", "gpus", "monitor/fleet", "GPUs"},
		{"API/A host of the fleet", "unhealthy", "monitor/fleet", "Ailing"},
		{"API//api/v1/events", "snapshot", "monitor/web", "snapshot"},
		{"API//api/v1/events", "event", "monitor/web", "event"},
		{"API//api/v1/events", "update", "monitor/web", "update"},
	} {
		at := slices.IndexFunc(api.entries, func(e entry) bool { return e.section == object.section && slices.Contains(e.terms(), object.entry) })
		if at < 0 {
			t.Errorf("%s: %s has no %s", api.name, object.section, object.entry)
			continue
		}
		for _, name := range fields(t, object.dir, object.name) {
			if !regexp.MustCompile(`\b` + name + `\b`).MatchString(api.entries[at].text) {
				t.Errorf("%s: %s of %s lacks %s", api.name, object.entry, object.section, name)
			}
		}
	}
}

// gpuherd-api(7) has each metric and each path, and no other.
func TestHTTPIsDocumented(t *testing.T) {
	t.Parallel()
	page := open(t, "gpuherd-api.7")
	metric := regexp.MustCompile(`(?:describe\("|Name: "gpuherd_)([a-z_]+)"`)
	path := regexp.MustCompile(`"GET (/[a-z0-9/]*[a-z0-9])"`)
	var metrics, paths []string
	sources, err := filepath.Glob(filepath.Join(root, "monitor/web/*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, source := range sources {
		if strings.HasSuffix(source, "_test.go") {
			continue
		}
		code, err := os.ReadFile(source)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range metric.FindAllStringSubmatch(string(code), -1) {
			metrics = append(metrics, "gpuherd_"+m[1])
		}
		for _, m := range path.FindAllStringSubmatch(string(code), -1) {
			paths = append(paths, m[1])
		}
	}
	named := regexp.MustCompile(`\bgpuherd_[a-z_]+`).FindAllString(page.text, -1)
	if len(metrics) < 25 || len(paths) < 10 {
		t.Fatalf("found only the metrics %v and the paths %v", metrics, paths)
	}
	for _, name := range metrics {
		if !slices.Contains(named, name) {
			t.Errorf("%s has no %s", page.name, name)
		}
	}
	for _, name := range named {
		if !slices.Contains(metrics, name) {
			t.Errorf("%s: there is no %s", page.name, name)
		}
	}
	for _, name := range paths {
		if !regexp.MustCompile(`(?m)(^|[\s(])` + name + `($|[\s),])`).MatchString(page.text) {
			t.Errorf("%s has no %s", page.name, name)
		}
	}
	for _, m := range regexp.MustCompile(`(?m)(?:^|[\s(])(/api/v1/[a-z0-9/]+)`).FindAllStringSubmatch(page.text, -1) {
		if !slices.Contains(paths, m[1]) {
			t.Errorf("%s: there is no %s", page.name, m[1])
		}
	}
}
