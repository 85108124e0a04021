package machine

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// nspawnScript is the first process of a container's namespaces on the host:
// its mounts are seen by it alone and end with it. What the container writes
// goes to memory, and it is in cgroups of its own. Arguments: the image's tree, the machine's folder, then
// systemd-nspawn with its arguments.
const nspawnScript = `
set -e
tree=$1 folder=$2
shift 2
while read -r cgroup; do
	echo 0 >"$cgroup/cgroup.procs"
done <"$folder/cgroups"
` + private + `
mkdir -p /run/systemd
mount -t tmpfs -o mode=0755 tmpfs /run/systemd # systemd-nspawn would leave folders there
mount -t proc -o nosuid,noexec,nodev proc /proc
mkdir "$folder/layers" "$folder/root"
mount -t tmpfs -o mode=0755 tmpfs "$folder/layers"
mkdir "$folder/layers/upper" "$folder/layers/work"
mount -t overlay -o "lowerdir=$tree,upperdir=$folder/layers/upper,workdir=$folder/layers/work" overlay "$folder/root"
while read -r tree; do
	tar -C "$tree" -cf - . | tar -C "$folder/root" -xf - --no-same-owner --no-overwrite-dir --keep-directory-symlink
done <"$folder/shared/trees"
set +e
"$@" </dev/null
exit $?
`

// startNspawn boots the image's tree in a container.
func (m *Machine) startNspawn(image Image) error {
	nspawn, err := exec.LookPath("systemd-nspawn")
	if err != nil {
		return fmt.Errorf("no systemd-nspawn: %w: see packaging/machine/install-dependencies", err)
	}
	cgroups, err := newCgroups(filepath.Base(m.folder.path))
	if err != nil {
		return err
	}
	m.release = func() error { return removeCgroups(cgroups) }
	if err := os.WriteFile(filepath.Join(m.folder.path, "cgroups"), []byte(lines(cgroups)), 0o600); err != nil {
		return err
	}
	args := []string{"-c", nspawnScript, "sh", image.Tree, m.folder.path, nspawn}
	args = append(args, nspawnArguments(m.config, m.folder.path, m.Share)...)
	// It outlives the context of its boot: Close ends it.
	cmd := exec.CommandContext(context.Background(), "/bin/sh", args...)
	cmd.Env = []string{
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin",
		// cgroup v2 alone, even if the host has v1 beside it: systemd 257
		// wants nothing else, and nothing else is what gpuherd will find.
		"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1",
	}
	cmd.Stdout, cmd.Stderr = m.console, m.console
	m.process, err = startProcess(cmd, syscall.CLONE_NEWPID|syscall.CLONE_NEWNS, nil)
	return err
}

// nspawnArguments returns the arguments of systemd-nspawn.
func nspawnArguments(config Config, folder, share string) []string {
	args := []string{
		"--quiet", "--directory=" + filepath.Join(folder, "root"),
		"--register=no", "--keep-unit", "--console=read-only",
		// The host is asked for nothing: neither its network nor its files.
		"--private-network", "--resolv-conf=off", "--timezone=off", "--link-journal=no",
		"--machine=" + filepath.Base(folder), "--hostname=" + config.Hostname,
		"--bind=" + filepath.Join(folder, "shared") + ":/run/machine",
		"--bind=" + share + ":" + SharePath,
	}
	for _, variable := range config.environ() {
		args = append(args, "--setenv="+variable)
	}
	if config.Early == "" {
		args = append(args, "--boot", "--")
	} else {
		args = append(args, "--", "/bin/sh", "/run/machine/init")
	}
	return append(args, config.KernelArgs...)
}

// systemdIsPID1 tells whether the system under root was booted by systemd, as
// sd_booted(3) does.
func systemdIsPID1(root string) bool {
	info, err := os.Lstat(filepath.Join(root, "run/systemd/system"))
	return err == nil && info.IsDir()
}
