package generator_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// What is held to be an ordering cycle is one to systemd, nothing else is, and
// in what is written there is none. systemd reads the service files as they
// would be without the check, and then what is generated.
func TestSystemdFindsTheSameCycles(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Fatal("this needs systemd-analyze: apt-get install systemd")
	}
	const setup = "After=shared-setup.service\nRequires=shared-setup.service\n"
	tests := map[string]struct {
		files map[string]string // name of the unit → [Unit] without what every service gets
		bare  map[string]bool   // those that opt out of waiting for setup
		cycle bool
	}{
		"two":               {map[string]string{"a.service": "After=b.service", "b.service": "After=a.service"}, nil, true},
		"three":             {map[string]string{"a.service": "After=b.service", "b.service": "After=c@1.service", "c@.service": "Before=x.target\nAfter=a.service"}, nil, true},
		"none":              {map[string]string{"a.service": "After=b.service", "b.service": "After=c@1.service", "c@.service": "After=network.target"}, nil, false},
		"requires":          {map[string]string{"a.service": "Requires=b.service", "b.service": "Wants=a.service"}, nil, false},
		"absent":            {map[string]string{"a.service": "After=x.service y.target", "b.service": "Before=x.service y.target\nAfter=a.service"}, nil, false},
		"before setup":      {map[string]string{"a.service": "Before=shared-setup.service"}, nil, true},
		"opted out":         {map[string]string{"a.service": "Before=shared-setup.service"}, map[string]bool{"a.service": true}, false},
		"before boot":       {map[string]string{"a@.service": "Before=local-fs.target"}, nil, true},
		"before boot, bare": {map[string]string{"a@.service": "Before=local-fs.target\nDefaultDependencies=no"}, map[string]bool{"a@.service": true}, false},
		"after all":         {map[string]string{"a.service": "After=gpuherd.target gpuherd-monitor.service multi-user.target"}, nil, false},
		"before target":     {map[string]string{"a.service": "Before=gpuherd.target gpuherd-monitor.service"}, nil, false},
		"round the monitor": {map[string]string{"a.service": "After=gpuherd-monitor.service", "b.service": "Before=shared-setup.service\nAfter=a.service"}, map[string]bool{"a.service": true, "b.service": true}, true},
		"instances":         {map[string]string{"a@.service": "After=b@%i.service", "b@.service": "After=a@.service"}, nil, true},
		"other instances":   {map[string]string{"a@.service": "After=b@0.service", "b@.service": "After=a@7.service"}, nil, false},
		"first first":       {map[string]string{"a@.service": "After=a@0.service"}, nil, false},
		"one after another": {map[string]string{"a@.service": "After=a@1.service\nBefore=a@1.service"}, nil, true},
		"of the name":       {map[string]string{"a-b@.service": "After=%j@%i.service %p.service", "b@.service": "After=%N.service a-b@%i.service"}, nil, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root, raw, out := machine(t, "01-two-simulated"), t.TempDir(), t.TempDir()
			const exec = "\n[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n"
			put(t, raw, "shared-setup.service", exec)
			put(t, root, "usr/lib/gpuherd/services/shared-setup.service", "[X-GPU]\nPer=host"+exec)
			put(t, root, "etc/gpuherd/gpuherd.conf.d/50-off.conf", "[Service redis-worker]\nEnabled=no\n")
			for unit, text := range tt.files {
				name, isTemplate := strings.CutSuffix(unit, "@.service")
				per, instances := "host", []string{unit}
				if name = strings.TrimSuffix(name, ".service"); isTemplate {
					per, instances = "gpu", []string{name + "@0.service", name + "@1.service"}
				}
				written, optOut := "[Unit]\n"+text+"\n", ""
				if tt.bare[unit] {
					optOut = "After=\nRequires=\n"
					put(t, raw, unit, written+exec)
				} else {
					put(t, raw, unit, written+setup+exec)
				}
				put(t, root, "etc/gpuherd/services/"+name+".service", "[X-GPU]\nPer="+per+"\n"+written+optOut+exec)
				for _, instance := range instances {
					link(t, raw, "gpuherd.target.wants/"+instance, "../"+unit)
				}
			}
			status, _, stderr := run(t, "--root", root, out)
			if found := strings.Contains(stderr, "ordering cycle"); found != tt.cycle || (status != 0) != tt.cycle {
				t.Errorf("the generator ended with %d: %s", status, stderr)
			}
			if says := systemdSays(t, raw); strings.Contains(says, "cycle") != tt.cycle {
				t.Errorf("systemd says of the files as they are: %s", says)
			}
			// a@0 cannot wait for itself, which systemd mentions.
			if says := systemdSays(t, out); says != "" && says != "a@0.service: Dependency After=a@0.service is dropped.\n" {
				t.Errorf("systemd says of what is generated: %s", says)
			}
		})
	}
}

// systemdSays is what systemd has to say of gpuherd.target with the units in dir.
func systemdSays(t *testing.T, dir string) string {
	t.Helper()
	for _, unit := range []string{"gpuherd.target", "gpuherd.slice", "gpuherd-monitor.service", "gpuherd-up.service", "gpuherd-verify.service", "gpuherd-verify.timer"} {
		data, err := os.ReadFile("../packaging/systemd/" + unit)
		if err != nil {
			t.Fatal(err)
		}
		// Programs of the installed machine are not on this one.
		text := strings.ReplaceAll(string(data), "/usr/lib/gpuherd/gpuherd-monitor", "/bin/true")
		put(t, dir, unit, strings.ReplaceAll(text, "/usr/bin/gpuherd ", "/bin/true "))
	}
	cmd := exec.Command("systemd-analyze", "verify", "--man=no", "gpuherd.target")
	cmd.Env = append(os.Environ(), "SYSTEMD_UNIT_PATH="+dir+":")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Logf("systemd-analyze: %v", err)
	}
	return string(out)
}

func link(t *testing.T, dir, name, target string) {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, file); err != nil {
		t.Fatal(err)
	}
}
