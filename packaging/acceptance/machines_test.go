//go:build machine

package acceptance

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gpuherd/generator/gpu/nvml/nvmltest"
	"gpuherd/packaging/machine"
	"gpuherd/packaging/npm"
)

// installed is what `make tree` lays down: gpuherd as it is on a machine.
const installed = "../../bin/tree"

var long = flag.Bool("long", false, "boot the machines, too, that take minutes and show on another systemd what one shows already")

var withPM2 = flag.Bool("pm2", false, "boot the machines, too, with a real PM2, which npm installs")

var soak = flag.Duration("soak", 0, "how long TestLoss does harm; 0: as it does by itself")

// A setting is one kind of machine, and the tests that run in it.
type setting struct {
	name     string
	config   machine.Config
	conf     string // /etc/gpuherd/gpuherd.conf
	hardware *hardware
	journald string // more of [Journal]
	tests    []string
	args     []string // for the tests
	within   time.Duration
	loud     bool                               // what the tests say is shown
	long     bool                               // it runs with -long only
	bare     bool                               // gpuherd is not installed: its packages lie in the machine
	pm2      bool                               // PM2 is installed; it runs with -pm2 only
	image    bool                               // it is the container's image
	removed  bool                               // it has what make uninstall runs
	after    func(*testing.T, *machine.Machine) // what is left to do with it
}

// A hardware is the GPUs of a machine.
type hardware struct {
	scenario nvmltest.Scenario
	library  string // folder of NVML, as buildLibraries names it; empty: none
}

// inContainers are the tests that need of the kernel only what every container
// has. They run there, where processes are fast.
var inContainers = []string{
	"TestContainer", "TestUnplannedInstance", "TestNothingWaitsForTheHerd", "TestRedisOutlivesTheHerd", "TestDropInShows", "TestUnitsVerify", "TestUnitsAreMeasured", "TestUnitsAreConfined", "TestJobsAreConfined", "TestGPUsAreTold",
	"TestKilled", "TestEndIsTold", "TestMonitorKilled", "TestRedisAway", "TestBackfilled", "TestReloadUnderLoad", "TestListDuringReexec", "TestBrokenServiceFile",
	"TestConfigurationErrorsFail", "TestStartForetold", "TestStateFull", "TestEveryLineKept", "TestJournalTellsTheSame", "TestNotifyFlood",
}

// working are the tests of what workers do with their jobs, which wants more
// than one of them, and fast ones.
var working = []string{
	"TestStopLetsTheJobFinish", "TestStopHandsTheJobBack", "TestLongDrain", "TestCancelEndsTheJob", "TestJobInTheJournal",
	"TestUnfitGPU", "TestWorkersBeginAnew", "TestRestartTellsWhatIsWaitedFor",
}

// underAppArmor puts the monitor's profile in force, alone: Debian's hundred
// others would cost the boot seconds. NVML reads its scenario, which is no file
// of NVIDIA's.
const underAppArmor = `find /etc/apparmor.d -maxdepth 1 -type f -delete
ln -s /usr/share/gpuherd/apparmor/gpuherd-monitor /etc/apparmor.d/
echo '` + nvmltest.ScenarioPath + ` r,' >/etc/apparmor.d/local/gpuherd-monitor
`

// underSELinux installs our module and labels the files, of which an image has
// none labelled. The test makes SELinux enforce: before, it would keep the
// machine, whose agent and outputs are files of the host, from booting.
const underSELinux = `semodule --noreload --install=/usr/share/gpuherd/selinux/gpuherd.cil
setfiles -F -q /etc/selinux/default/contexts/files/file_contexts /usr /etc /var /root /opt /bin /sbin /lib*
chcon -h system_u:object_r:root_t:s0 /
`

// withGPUs is the configuration of a machine with GPUs, on which probes run.
const withGPUs = "[Service redis-worker]\nEnabled=no\n"

// mixed is a large machine with MIG of every kind, whose minors and NVML's
// order are not those of the bus.
func mixed() nvmltest.Scenario { return anywhereNear(nvmltest.Shuffled(nvmltest.EightA100())) }

// few is a machine with four GPUs of which one has MIG, not divided yet; again
// in different orders.
func few() nvmltest.Scenario {
	s := nvmltest.EightH100()
	s.GPUs = s.GPUs[:4]
	s.GPUs[1].MIG = nvmltest.MIGEnabled
	return anywhereNear(nvmltest.Shuffled(s))
}

func slow(s nvmltest.Scenario) nvmltest.Scenario {
	s.InitDelay = 3 * time.Second
	return s
}

// anywhereNear leaves NUMA out, which no machine here has.
func anywhereNear(s nvmltest.Scenario) nvmltest.Scenario {
	for i := range s.GPUs {
		s.GPUs[i].NUMANode = -1
	}
	return s
}

func settings() []setting {
	var all []setting
	for _, suite := range []machine.Suite{machine.Bookworm, machine.Trixie} {
		all = append(all,
			setting{
				name:     "kernel-gpus-" + string(suite),
				long:     suite == machine.Bookworm,
				config:   machine.Config{Backend: machine.UML, Suite: suite, Memory: 2 << 30},
				conf:     withGPUs,
				hardware: &hardware{few(), "whole"},
				tests:    []string{"TestOwnDevicesOnly", "TestUdevRules", "TestEventsStartARescan"},
			},
			setting{
				name: "kernel-" + string(suite),
				config: machine.Config{Backend: machine.UML, Suite: suite, Memory: 3 << 30,
					Env: map[string]string{"NUM_GPUS": "2"}, KernelArgs: []string{"gpuherd.simulate=yes"}},
				tests: []string{"TestBoot", "TestUnplannedInstance", "TestNothingWaitsForTheHerd", "TestRedisOutlivesTheHerd", "TestOutOfMemory", "TestOwnGPUOnly", "TestKilled", "TestEndIsTold", "TestUnitsVerify", "TestUnitsAreMeasured", "TestUnitsAreConfined", "TestJobsAreConfined"},
			},
			// All that the monitor does, under its profile.
			setting{
				name: "apparmor-" + string(suite),
				long: suite == machine.Bookworm,
				config: machine.Config{Backend: machine.UML, Suite: suite, Memory: 2 << 30, Packages: []string{"apparmor"},
					// Nothing of the kernel's log may be left out.
					KernelArgs: []string{"security=apparmor", "sysctl.kernel.printk_ratelimit=0"},
					Early:      underAppArmor},
				conf:     withGPUs,
				hardware: &hardware{few(), "whole"},
				tests:    []string{"TestMonitorUnderAppArmor", "TestProfileComesAndGoes", "TestUnitsAreMeasured", "TestAppArmorDenies"},
				after:    noDenials,
			},
			setting{
				name: "container-" + string(suite),
				config: machine.Config{Backend: machine.Nspawn, Suite: suite,
					Env: map[string]string{"NUM_GPUS": "3", "WORKER_ID": "box", "ENABLE_HELLO_WORLD": "true"}},
				conf:  "[GPU]\nSimulate=yes\n",
				tests: slices.Concat(inContainers, working),
			},
			// Who runs, and how many, is the operator's to change here.
			setting{
				name: "control-" + string(suite),
				config: machine.Config{Backend: machine.Nspawn, Suite: suite,
					Env: map[string]string{"NUM_GPUS": "8", "WORKER_ID": "box"}},
				conf: "[GPU]\nSimulate=yes\n",
				tests: []string{
					"TestRollingReload", "TestScale", "TestScaleOnTheScreen", "TestDeleteAndEnable", "TestSaveAndResurrect",
					"TestOverSSH", "TestWithoutRights", "TestImported",
				},
			},
			setting{
				name: "loss-" + string(suite),
				config: machine.Config{Backend: machine.Nspawn, Suite: suite,
					Env: map[string]string{"NUM_GPUS": "1", "ENABLE_REDIS_WORKER": "false"}},
				conf: "[GPU]\nSimulate=yes\n",
				// The journal is what the stream is held against.
				journald: "RateLimitIntervalSec=0\n",
				tests:    []string{"TestLoss"},
				args:     lossArgs(),
				within:   *soak,
				loud:     true,
			},
			setting{
				name: "workers-off-" + string(suite),
				config: machine.Config{Backend: machine.Nspawn, Suite: suite,
					Env: map[string]string{"NUM_GPUS": "2", "ENABLE_REDIS_WORKER": "false"}},
				conf:  "[GPU]\nSimulate=yes\n",
				tests: []string{"TestWorkersOff"},
			},
			// Nothing binds a worker to its GPU here, but all else is as on the
			// largest machines.
			setting{
				name:     "gpus-" + string(suite),
				config:   machine.Config{Backend: machine.Nspawn, Suite: suite},
				conf:     withGPUs,
				hardware: &hardware{mixed(), "whole"},
				tests:    []string{"TestWorkersKnowTheirGPU", "TestMIGComesAndGoes", "TestGPULostAndBack", "TestNVMLInTrouble", "TestUnitsLost", "TestRescanFails"},
				loud:     true,
			},
			setting{
				name:     "slow-gpus-" + string(suite),
				config:   machine.Config{Backend: machine.Nspawn, Suite: suite},
				conf:     withGPUs,
				hardware: &hardware{slow(few()), "whole"},
				tests:    []string{"TestSlowGPUs"},
			},
			setting{
				name:     "old-driver-" + string(suite),
				config:   machine.Config{Backend: machine.Nspawn, Suite: suite},
				conf:     withGPUs,
				hardware: &hardware{few(), "old"},
				tests:    []string{"TestNoNVML"},
			},
			setting{
				name:     "no-library-" + string(suite),
				config:   machine.Config{Backend: machine.Nspawn, Suite: suite},
				conf:     withGPUs,
				hardware: &hardware{few(), ""},
				tests:    []string{"TestNoNVML"},
			},
			// All that PM2 runs is to run here afterwards.
			setting{
				name: "pm2-" + string(suite),
				config: machine.Config{Backend: machine.Nspawn, Suite: suite, Packages: []string{"nodejs", "python3"},
					Env: map[string]string{"NUM_GPUS": "2"}},
				conf:  "[GPU]\nSimulate=yes\n",
				pm2:   true,
				tests: []string{"TestImportedFromPM2"},
			},
			// A fresh machine, and the package.
			setting{
				name:   "package-" + string(suite),
				config: machine.Config{Backend: machine.Nspawn, Suite: suite},
				bare:   true,
				tests:  []string{"TestPackageWithoutGPUs", "TestPackage", "TestPackageInterrupted"},
				loud:   true,
			},
			setting{
				name:    "uninstall-" + string(suite),
				config:  machine.Config{Backend: machine.Nspawn, Suite: suite, Env: map[string]string{"NUM_GPUS": "2"}},
				conf:    "[GPU]\nSimulate=yes\n",
				removed: true,
				tests:   []string{"TestUninstalled"},
			},
			setting{
				name: "image-" + string(suite),
				config: machine.Config{Backend: machine.Nspawn, Suite: suite, KernelArgs: []string{"gpuherd.simulate=yes"},
					Env: map[string]string{"NUM_GPUS": "2", "MACHINE_ID": boxName, "HEALTH_PORT": "9733", "NVIDIA_VISIBLE_DEVICES": "void"}},
				image: true,
				tests: []string{"TestImageIsWell", "TestImageEnvironment", "TestImageHealth", "TestImagePassword"},
				loud:  true,
			})
	}
	return append(all, setting{
		name: "selinux",
		long: true,
		config: machine.Config{Backend: machine.UML, Suite: machine.Trixie, Memory: 2 << 30,
			Packages:   []string{"selinux-policy-default", "selinux-utils", "policycoreutils"},
			KernelArgs: []string{"security=selinux", "enforcing=0", "sysctl.kernel.printk_ratelimit=0", "gpuherd.simulate=yes"},
			Env:        map[string]string{"NUM_GPUS": "2"},
			Early:      underSELinux},
		tests: []string{"TestUnderSELinux"},
	}, setting{
		name: "documented",
		config: machine.Config{Backend: machine.Nspawn, Suite: machine.Trixie, Hostname: "gpu-1",
			Env: map[string]string{"NUM_GPUS": "4"}},
		conf:  "[GPU]\nSimulate=yes\n",
		tests: []string{"TestDocumentedCommands"},
	})
}

// lossArgs tells TestLoss how long to take.
func lossArgs() []string {
	if *soak == 0 {
		return nil
	}
	return []string{"-loss=" + soak.String()}
}

func TestMachines(t *testing.T) {
	if _, err := os.Stat(filepath.Join(installed, "usr/bin/gpuherd")); err != nil {
		t.Fatalf("%v: run make tree first", err)
	}
	binary, libraries := buildTests(t), buildLibraries(t)
	var kernels, containers []setting
	for _, s := range settings() {
		switch {
		case s.long && !*long:
			t.Logf("left to make test-machines, as it takes minutes: %s", s.name)
		case s.pm2 && !*withPM2:
			t.Logf("left to make test-pm2, as it needs npm's network: %s", s.name)
		case s.config.Backend == machine.UML:
			kernels = append(kernels, s)
		default:
			containers = append(containers, s)
		}
	}
	// A kernel of its own wants a whole CPU: two at once take longer than one
	// after the other.
	t.Run("kernels", func(t *testing.T) {
		t.Parallel()
		for _, s := range kernels {
			t.Run(s.name, func(t *testing.T) { runIn(t, s, binary, libraries) })
		}
	})
	for _, s := range containers {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			runIn(t, s, binary, libraries)
		})
	}
}

// Every acceptance test has a machine in which it runs.
func TestEveryTestHasAMachine(t *testing.T) {
	var placed []string
	for _, s := range settings() {
		placed = append(placed, s.tests...)
	}
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var written []string
	for _, name := range files {
		if slices.Contains([]string{"machines_test.go", "installed_test.go", "packages_test.go", "image_test.go"}, name) {
			continue // these run on the host
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && strings.HasPrefix(f.Name.Name, "Test") && f.Name.Name != "TestMain" {
				written = append(written, f.Name.Name)
			}
		}
	}
	for _, name := range written {
		if !slices.Contains(placed, name) {
			t.Errorf("%s runs in no machine", name)
		}
	}
	for _, name := range placed {
		if !slices.Contains(written, name) {
			t.Errorf("%s is to run in a machine, but does not exist", name)
		}
	}
	// Go says nothing of names that there are not.
	workflow, err := os.ReadFile("../../.github/workflows/ci.yml")
	if err != nil {
		t.Fatal(err)
	}
	hosted := regexp.MustCompile(`-test\.run '\^\(([A-Za-z0-9|]+)\)\$'`).FindSubmatch(workflow)
	if hosted == nil {
		t.Fatal("the workflow runs no acceptance test")
	}
	for name := range strings.SplitSeq(string(hosted[1]), "|") {
		if !slices.Contains(written, name) {
			t.Errorf("the workflow is to run %s, which does not exist", name)
		}
	}
}

// buildTests builds the acceptance tests as a static program, which runs on
// every suite.
func buildTests(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "acceptance.test")
	cmd := exec.CommandContext(t.Context(), "go", "test", "-c", "-tags", "acceptance", "-o", binary, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cannot build the acceptance tests: %v\n%s", err, out)
	}
	return binary
}

// buildLibraries builds NVML as folders: whole, and old, without a symbol.
func buildLibraries(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, without := range map[string][]string{"whole": nil, "old": {"nvmlDeviceGetMinorNumber"}} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
		if _, err := nvmltest.Build(filepath.Join(dir, name), without...); err != nil {
			t.Fatalf("cannot build NVML: %v", err)
		}
	}
	return dir
}

// layHardware makes the tree of a machine with GPUs.
func layHardware(t *testing.T, h *hardware, program, libraries string) string {
	t.Helper()
	tree := t.TempDir()
	scenario, err := json.Marshal(h.scenario)
	if err != nil {
		t.Fatal(err)
	}
	worker := "[Unit]\nDescription=Opens what it is told on %%i\n[X-GPU]\nPer=%s\n[Service]\nType=exec\nUser=gpuherd-worker\nExecStart=" + program + " probe %%n\n"
	for path, text := range map[string]string{
		scenarioFile:                   string(scenario),
		nvmltest.ScenarioPath:          h.scenario.String(),
		servicesDir + "/probe.service": fmt.Sprintf(worker, "gpu"),
		servicesDir + "/slice.service": fmt.Sprintf(worker, "mig"),
	} {
		path = filepath.Join(tree, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	lay := func(library, path string) {
		path = filepath.Join(tree, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := copyFile(filepath.Join(libraries, library, nvmltest.Library), path, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	lay("old", filepath.Join(oldDriver, nvmltest.Library))
	if h.library != "" {
		lay(h.library, libraryPath)
	}
	return tree
}

// runIn boots one machine, runs its tests in it, and has each of them count
// here as a test of its own.
func runIn(t *testing.T, s setting, binary, libraries string) {
	const program = "/opt/acceptance.test"
	log := &safeBuffer{}
	s.config.Trees = []string{layTree(t, s, binary, program)}
	switch {
	case s.image:
		s.fromImage(t)
	case s.bare:
		s.config.Trees = append(s.config.Trees, layPackages(t))
	default:
		s.config.Trees = append([]string{installed}, s.config.Trees...)
	}
	if s.hardware != nil {
		s.config.Trees = append(s.config.Trees, layHardware(t, s.hardware, program, libraries))
		s.config.Early += program + " hardware\n"
	}
	if s.pm2 {
		s.config.Trees = append(s.config.Trees, layPM2(t))
	}
	s.config.Log = log
	ctx, cancel := context.WithTimeout(t.Context(), s.within+13*time.Minute)
	defer cancel()
	m, err := machine.Boot(ctx, s.config)
	if err != nil {
		fail(t, "%s\n%v", log, err)
		t.FailNow()
	}
	defer func() {
		if err := m.Close(); err != nil {
			fail(t, "%v", err)
		}
	}()
	t.Logf("booted in %v: %s", m.BootTime.Round(time.Millisecond), m.State)

	argv := []string{program, "-test.v", "-test.timeout=" + (s.within + 12*time.Minute).String(), "-test.run=^(" + strings.Join(s.tests, "|") + ")$"}
	argv = append(argv, s.args...)
	out := &verdicts{t: t, of: map[string]verdict{}}
	status, err := m.Run(ctx, argv, out, out)
	if err != nil {
		fail(t, "cannot run the tests: %v", err)
	}
	for _, name := range s.tests {
		v, ok := out.of[name]
		t.Run(name, func(t *testing.T) {
			switch {
			case !ok:
				fail(t, "%sit did not run to its end", out.rest.String())
			case v.word != "PASS":
				fail(t, "%s%s", v.output, v.word)
			case s.loud:
				t.Log(v.output)
			}
		})
	}
	if status != 0 && !t.Failed() {
		fail(t, "%sthe tests ended with %d", out.rest.String(), status)
	}
	if s.after != nil && !t.Failed() {
		s.after(t, m)
	}
	if t.Failed() {
		m.Report(log)
		t.Logf("%s\n%s", out.rest.String(), log)
	}
}

// noDenials fails where AppArmor has denied the monitor anything. Denials that
// TestAppArmorDenies saw show that they are told.
func noDenials(t *testing.T, m *machine.Machine) {
	var log strings.Builder
	if status, err := m.Run(t.Context(), []string{"dmesg"}, &log, &log); status != 0 || err != nil {
		t.Fatalf("dmesg ended with %d: %v\n%s", status, err, &log)
	}
	attempts := 0
	for line := range strings.Lines(log.String()) {
		switch {
		case !strings.Contains(line, `apparmor="DENIED"`):
		case strings.Contains(line, `comm="attempts.so"`):
			attempts++
		default:
			fail(t, "%s", strings.TrimSpace(line))
		}
	}
	if attempts == 0 {
		fail(t, "%s\nthe kernel tells of no denial at all", &log)
	}
}

// layTree makes the tree that is laid over the machine beside gpuherd itself.
func layTree(t *testing.T, s setting, binary, program string) string {
	t.Helper()
	tree := t.TempDir()
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{
		readmeFile: string(readme),
		// Where a machine's journal is kept in memory it would by default hold
		// less than one test prints.
		"etc/systemd/journald.conf.d/50-acceptance.conf": "[Journal]\nStorage=volatile\nRuntimeMaxUse=1G\n" + s.journald,
	}
	if !s.bare && !s.image {
		files["etc/gpuherd/gpuherd.conf"] = s.conf
		// What `systemctl enable gpuherd.target` does.
		wants := filepath.Join(tree, "etc/systemd/system/multi-user.target.wants")
		if err := os.MkdirAll(wants, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("/usr/lib/systemd/system/gpuherd.target", filepath.Join(wants, "gpuherd.target")); err != nil {
			t.Fatal(err)
		}
	}
	for path, text := range files {
		path = filepath.Join(tree, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if s.removed {
		layUninstall(t, tree)
	}
	inside := filepath.Join(tree, program)
	if err := os.MkdirAll(filepath.Dir(inside), 0o755); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(binary)
	if err == nil {
		err = os.WriteFile(inside, data, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// layUninstall lays down what make uninstall runs, and what it gives to that.
func layUninstall(t *testing.T, tree string) {
	t.Helper()
	inside := filepath.Join(tree, uninstallProgram)
	if err := os.MkdirAll(filepath.Dir(inside), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := copyFile("../uninstall", inside, 0o755); err != nil {
		t.Fatal(err)
	}
	list, err := exec.CommandContext(t.Context(), "find", installed, "-mindepth", "1", "-depth", "-printf", `%y %P\n`).Output()
	if err == nil {
		err = os.WriteFile(filepath.Join(tree, uninstallList), list, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// installPM2 has npm install PM2, once.
var installPM2 = sync.OnceValues(func() (string, error) {
	return npm.Install(context.Background(), map[string]string{"pm2": npm.PM2})
})

// layPM2 makes the tree with PM2.
func layPM2(t *testing.T) string {
	t.Helper()
	modules, err := installPM2()
	if err != nil {
		t.Fatal(err)
	}
	tree := t.TempDir()
	if err := os.CopyFS(filepath.Join(tree, pm2Dir), os.DirFS(modules)); err != nil {
		t.Fatal(err)
	}
	return tree
}

// A verdict is how one test in a machine ended.
type verdict struct{ word, output string }

// verdicts reads what a test binary prints with -test.v, line by line.
type verdicts struct {
	t    *testing.T
	mu   sync.Mutex
	line []byte
	rest strings.Builder // printed since the last verdict
	of   map[string]verdict
}

var verdictLine = regexp.MustCompile(`^--- (PASS|FAIL|SKIP): (\S+) \((.*)\)$`)

func (v *verdicts) Write(p []byte) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.line = append(v.line, p...)
	for {
		end := bytes.IndexByte(v.line, '\n')
		if end < 0 {
			return len(p), nil
		}
		v.take(string(v.line[:end]))
		v.line = v.line[end+1:]
	}
}

func (v *verdicts) take(line string) {
	m := verdictLine.FindStringSubmatch(line)
	if m == nil {
		fmt.Fprintln(&v.rest, line)
		return
	}
	v.of[m[2]] = verdict{word: m[1], output: v.rest.String()}
	v.rest.Reset()
	v.t.Logf("%s %s in %s", m[1], m[2], m[3])
}

// safeBuffer is a buffer for the machine's log, which several goroutines write.
type safeBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
