package bustest

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A User is a real systemd of the installed version, as `systemd --user` with
// a bus of its own: in a mount namespace and a control group of its own, so
// that neither another systemd as PID 1 nor its absence matters. Everything
// ends with the test.
type User struct {
	Address string // of the bus
	Private string // socket of the manager itself

	tb      testing.TB
	runtime string
	units   string // folder of the units
	log     *lockedBuffer
}

// userScript prepares the namespace. $1 is the runtime folder, $2 the units',
// $3 the control group's name. systemd refuses to be a user's manager where
// /run/systemd/system is missing, and must share no control group with
// another.
// In a chroot / is no mount point, and cannot be made private.
const userScript = `
mount --make-rprivate / 2>/dev/null || ! grep -q '^[^ ]* [^ ]* [^ ]* [^ ]* / ' /proc/self/mountinfo || exit 3
mkdir -p /run/systemd && mount -t tmpfs tmpfs /run/systemd && mkdir -p /run/systemd/system || exit 3
for d in /sys/fs/cgroup/systemd /sys/fs/cgroup/unified /sys/fs/cgroup; do
  if [ -e "$d/cgroup.procs" ]; then mkdir "$d/$3" && echo 0 > "$d/$3/cgroup.procs"; fi
done
export XDG_RUNTIME_DIR="$1" HOME="$1" XDG_CONFIG_HOME="$1" DBUS_SESSION_BUS_ADDRESS="unix:path=$1/bus" SYSTEMD_UNIT_PATH="$2"
for s in /usr/lib/systemd/systemd /lib/systemd/systemd; do
  if [ -x "$s" ]; then exec "$s" --user; fi
done
exit 4
`

// userUnits make the manager's own bus. It joins a bus only where these two
// names run.
var userUnits = map[string]string{
	"dbus.socket": "[Unit]\nDefaultDependencies=no\n[Socket]\nListenStream=%t/bus\n",
	"dbus.service": "[Unit]\nDefaultDependencies=no\nRequires=dbus.socket\nAfter=dbus.socket\n" +
		"[Service]\nType=notify\nExecStart=/usr/bin/dbus-daemon --session --address=systemd: --nofork --nopidfile --systemd-activation\n",
	"default.target": "[Unit]\nWants=dbus.service\n",
	"basic.target":   "[Unit]\n",
}

// StartUser starts a manager with the units given by file name. It wants
// root. Every service in wants is wanted by gpuherd.target.
func StartUser(tb testing.TB, units map[string]string, wants ...string) *User {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Skip("a namespace for systemd wants root")
	}
	for _, program := range []string{"unshare", "dbus-daemon", "systemctl"} {
		if _, err := exec.LookPath(program); err != nil {
			tb.Fatalf("no %s: apt-get install util-linux dbus-daemon systemd", program)
		}
	}
	dir, err := os.MkdirTemp("", "user") // tb.TempDir's path may be too long for a socket
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	u := &User{tb: tb, runtime: filepath.Join(dir, "run"), log: &lockedBuffer{}}
	u.Address = "unix:path=" + u.runtime + "/bus"
	u.Private = u.runtime + "/systemd/private"
	u.units = filepath.Join(dir, "units")
	target := "[Unit]\nWants=" + strings.Join(wants, " ") + "\n"
	for _, m := range []map[string]string{userUnits, {"gpuherd.target": target}, units} {
		for name, text := range m {
			u.write(filepath.Join(u.units, name), text)
		}
	}
	if err := os.MkdirAll(u.runtime, 0o700); err != nil {
		tb.Fatal(err)
	}
	group := "gpuherd-test-" + filepath.Base(dir)
	cmd := exec.Command("unshare", "--mount", "--propagation", "unchanged", "--fork", "--kill-child", "sh", "-c", userScript, "sh", u.runtime, u.units, group)
	cmd.Stdout, cmd.Stderr = u.log, u.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = cmd.Process.Kill() // and its child with it
		_ = cmd.Wait()
		if tb.Failed() {
			tb.Logf("systemd --user said:\n%s", u.log)
		}
		for _, top := range []string{"systemd", "unified", ""} {
			removeGroup(filepath.Join("/sys/fs/cgroup", top, group))
		}
	})
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		out, err := u.try("is-active", "dbus.service")
		if err == nil {
			break
		}
		if time.Now().After(end) {
			tb.Fatalf("systemd --user did not come up: %s %v", out, err)
		}
	}
	return u
}

// Add adds a unit that gpuherd.target wants; systemd sees it when it reloads.
func (u *User) Add(name, text string) {
	u.tb.Helper()
	u.write(filepath.Join(u.units, name), text)
	u.write(filepath.Join(u.units, "gpuherd.target.d", name+".conf"), "[Unit]\nWants="+name+"\n")
}

func (u *User) write(path, text string) {
	u.tb.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		u.tb.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		u.tb.Fatal(err)
	}
}

// Systemctl runs systemctl on the manager.
func (u *User) Systemctl(args ...string) string {
	u.tb.Helper()
	out, err := u.try(args...)
	if err != nil {
		u.tb.Fatalf("systemctl %q: %v: %s", args, err, out)
	}
	return out
}

func (u *User) try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "systemctl", append([]string{"--user"}, args...)...)
	cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+u.runtime, "DBUS_SESSION_BUS_ADDRESS="+u.Address)
	out, err := cmd.CombinedOutput()
	return string(bytes.TrimSpace(out)), err
}

// removeGroup ends all processes of a control group and removes it.
func removeGroup(dir string) {
	for range 100 {
		var dirs []string
		_ = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		if len(dirs) == 0 {
			return
		}
		for i := len(dirs) - 1; i >= 0; i-- {
			procs, _ := os.ReadFile(filepath.Join(dirs[i], "cgroup.procs"))
			for _, p := range strings.Fields(string(procs)) {
				if pid, err := strconv.Atoi(p); err == nil && pid > 1 {
					_ = syscall.Kill(pid, syscall.SIGKILL)
				}
			}
			_ = syscall.Rmdir(dirs[i])
		}
		time.Sleep(10 * time.Millisecond)
	}
}
