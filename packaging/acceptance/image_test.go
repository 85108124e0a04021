//go:build machine

package acceptance

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"gpuherd/generator/config"
	"gpuherd/packaging/machine"
	"gpuherd/units/queue/redistest"
	"gpuherd/units/redisclient"
)

// containerDir has what the container's image is made of, seen from the top of
// the sources, which is the context of the Containerfile.
const (
	sources       = "../.."
	containerDir  = "packaging/container"
	containerfile = containerDir + "/Containerfile"
)

// An instruction is one of a Containerfile's.
type instruction struct{ name, args string }

func readContainerfile(t *testing.T) []instruction {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(sources, containerfile))
	if err != nil {
		t.Fatal(err)
	}
	var all []instruction
	text := strings.ReplaceAll(string(data), "\\\n", "")
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, args, _ := strings.Cut(line, " ")
		all = append(all, instruction{name, args})
	}
	return all
}

// next returns the arguments of the first instruction of that name, and what
// follows it.
func next(t *testing.T, all []instruction, name string) (args string, rest []instruction) {
	t.Helper()
	for i, in := range all {
		if in.name == name {
			return in.args, all[i+1:]
		}
	}
	t.Fatalf("%s has no %s", containerfile, name)
	return "", nil
}

// imageRoot makes the root file system of the image as the Containerfile does:
// mmdebstrap stands for the base, that suite, and for the installation of the
// list, the rest is its own COPY and RUN.
func imageRoot(t *testing.T, suite machine.Suite) string {
	t.Helper()
	file := readContainerfile(t)
	base, rest := next(t, file, "FROM")
	if base != "docker.io/library/debian:${DEBIAN}-slim" {
		t.Errorf("%s begins with %s: the tests have another Debian", containerfile, base)
	}
	list, rest := next(t, rest, "COPY")
	install, rest := next(t, rest, "RUN")
	if list != containerDir+"/packages /opt/gpuherd/" || !strings.Contains(install, "/opt/gpuherd/packages |") {
		t.Fatalf("%s does not install the list first: COPY %s, RUN %s", containerfile, list, install)
	}
	data, err := os.ReadFile(filepath.Join(sources, containerDir, "packages"))
	if err != nil {
		t.Fatal(err)
	}
	var packages []string
	for line := range strings.Lines(string(data)) {
		line, _, _ = strings.Cut(line, "#")
		packages = append(packages, strings.Fields(line)...)
	}
	cache, err := machine.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	tree, err := machine.EnsureTree(t.Context(), cache, suite, packages, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}

	root := filepath.Join(t.TempDir(), "root")
	tool(t, "cp", "--archive", tree, root)
	copied, rest := next(t, rest, "COPY")
	words := strings.Fields(copied)
	from, to := words[:len(words)-1], filepath.Join(root, words[len(words)-1])
	if err := os.MkdirAll(to, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, pattern := range from {
		files, err := filepath.Glob(filepath.Join(sources, pattern))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s copies %s, of which there is nothing (%v): run make package first", containerfile, pattern, err)
		}
		tool(t, "cp", append(files, to)...)
	}
	script, _ := next(t, rest, "RUN")
	const outside = `mount -t proc proc "$ROOT/proc" && exec chroot "$ROOT" sh -euc "$SCRIPT"`
	cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", outside)
	cmd.Env = append(os.Environ(), "ROOT="+root, "SCRIPT="+script)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("RUN %s: %v\n%s", script, err, out)
	}
	if id, err := os.ReadFile(filepath.Join(root, "etc/machine-id")); err != nil || len(id) > 0 {
		t.Errorf("every container would be %q (%v)", id, err)
	}
	return root
}

// boxName is the container's MACHINE_ID.
const boxName = "box-1"

// fromImage has a setting boot the container's image, with the environment that
// an engine gives to PID 1, and a Redis that is another container's and wants a
// password.
func (s *setting) fromImage(t *testing.T) {
	t.Helper()
	s.config.Root = imageRoot(t, s.config.Suite)
	password := rand.Text()
	srv := redistest.Start(t, "--requirepass", password, "--unixsocketperm", "777")
	if err := os.Chmod(srv.Dir, 0o711); err != nil {
		t.Fatal(err)
	}
	// A machine has no network to others; its port 6379 leads to the socket.
	s.config.Share = srv.Dir
	s.config.Env["REDIS_URL"] = "redis://:" + password + "@127.0.0.1:6379/0"
	for _, in := range readContainerfile(t) {
		if name, value, ok := strings.Cut(in.args, "="); ok && in.name == "ENV" {
			s.config.Env[name] = value
		}
	}
	// As podman and docker leave the mounts; systemd-nspawn shares them.
	s.config.Early = "mount --make-rprivate /\n"

	tree := t.TempDir()
	lay := func(path, text string, mode os.FileMode) {
		t.Helper()
		path = filepath.Join(tree, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	// Another container's Redis does not stop with this one.
	const outlives = "[Unit]\nDefaultDependencies=no\n"
	lay("etc/systemd/system/redis.socket", outlives+"[Socket]\nListenStream=127.0.0.1:6379\n", 0o644)
	lay("etc/systemd/system/redis.service", outlives+"[Service]\nExecStart=/usr/lib/systemd/systemd-socket-proxyd "+machine.SharePath+"/"+filepath.Base(srv.Socket)+"\n", 0o644)
	lay("etc/gpuherd/gpuherd.conf.d/10-job.conf", "[Worker]\nExec=/opt/job\n", 0o644)
	// As long as it takes to be seen.
	lay("opt/job", "#!/bin/sh\ncat >/dev/null\nsleep 1\necho '{\"done\": true}'\n", 0o755)
	wants := filepath.Join(tree, "etc/systemd/system/sockets.target.wants")
	if err := os.MkdirAll(wants, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../redis.socket", filepath.Join(wants, "redis.socket")); err != nil {
		t.Fatal(err)
	}
	s.config.Trees = append(s.config.Trees, tree)

	s.after = func(t *testing.T, m *machine.Machine) { halted(t, m, srv, password) }
}

// stopGrace is what the documented commands give a container to stop.
const stopGrace = time.Minute

// halted stops the machine as an engine stops a container, while a job runs:
// the job is done, and all of it is in the log that the engine has.
func halted(t *testing.T, m *machine.Machine, srv *redistest.Server, password string) {
	t.Helper()
	const id = "last-job"
	client, err := redisclient.Open(config.Redis{URL: "unix://:" + password + "@" + srv.Socket}, "")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 2*stopGrace)
	defer cancel()
	if err := client.XAdd(ctx, &redis.XAddArgs{Stream: "gpuherd:queue:{gpu}:jobs", Values: []string{"id", id, "payload", "{}"}}).Err(); err != nil {
		t.Fatal(err)
	}
	state := func() string {
		s, err := client.HGet(ctx, "gpuherd:queue:{gpu}:job:"+id, "state").Result()
		if err != nil && ctx.Err() != nil {
			t.Fatalf("%s never ran: %v", id, err)
		}
		return s
	}
	for state() != "running" {
		time.Sleep(10 * time.Millisecond)
	}
	start := time.Now()
	limit, stop := context.WithTimeout(ctx, stopGrace)
	defer stop()
	if err := m.Halt(limit); err != nil {
		t.Errorf("SIGRTMIN+3: %v", err)
	}
	t.Logf("halted in %v", time.Since(start).Round(time.Millisecond))
	if got := state(); got != "succeeded" {
		t.Errorf("the job that ran when the container was stopped is %s", got)
	}
	console := m.Console()
	for _, want := range []string{"redis-worker[", id, "gpuherd-monitor["} {
		if !strings.Contains(console, want) {
			t.Errorf("the console has no %q", want)
		}
	}
	if strings.Contains(console, password) {
		t.Error("the console has Redis' password")
	}
	if t.Failed() {
		t.Logf("console:\n%s", console)
	}
}

// The image has the configuration that the other tests take for granted.
func TestContainerfile(t *testing.T) {
	file := readContainerfile(t)
	for name, want := range map[string]string{
		"ARG":        "DEBIAN=" + string(machine.Trixie),
		"CMD":        `["/sbin/init"]`,
		"STOPSIGNAL": "SIGRTMIN+3",
		"ENV":        "NVIDIA_DRIVER_CAPABILITIES=compute,utility",
	} {
		if got, _ := next(t, file, name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	check, _ := next(t, file, "HEALTHCHECK")
	if want := fmt.Sprintf("CMD [%q, %q, %q]", "/usr/bin/gpuherd", "ping", "--timeout=8s"); !strings.HasSuffix(check, want) {
		t.Errorf("HEALTHCHECK is %s, want %s, which TestImageHealth runs", check, want)
	}
}
