package machine

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
)

//go:embed guest
var guest embed.FS

// guestFile returns a file of the folder guest.
func guestFile(name string) []byte {
	data, err := guest.ReadFile("guest/" + name)
	if err != nil {
		panic(err) // embedded: can only be a misspelt name
	}
	return data
}

// packages are in every image, beside Debian's essential ones.
var packages = []string{
	"systemd", "systemd-sysv", "dbus", "udev",
	"redis-server", "redis-tools",
	"procps", "kmod", "iproute2",
	"openssh-server", "openssh-client", // another host, to whoever asks for it by ssh
}

// masked units do nothing for a machine that lives for a minute without
// network, disks or people, and would cost it seconds under UML.
var masked = []string{
	// Housekeeping.
	"apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer",
	"e2scrub_reap.service", "fstrim.timer", "logrotate.timer", "man-db.timer",
	"systemd-tmpfiles-clean.timer", "systemd-hwdb-update.service", "ldconfig.service",
	"systemd-journal-catalog-update.service", "systemd-update-done.service", "systemd-firstboot.service",
	"systemd-random-seed.service", "systemd-pstore.service", "systemd-update-utmp.service",
	"systemd-update-utmp-runlevel.service", "systemd-boot-update.service",
	// People.
	"getty.target", "getty-static.service", "getty@.service", "serial-getty@.service",
	"console-getty.service", "systemd-logind.service", "systemd-user-sessions.service",
	"ssh.service", "ssh.socket", "systemd-ask-password-console.path", "systemd-ask-password-wall.path", "systemd-hostnamed.socket",
	// Hardware, file systems and network that are not there.
	"systemd-udev-trigger.service", "systemd-udev-load-credentials.service",
	"systemd-tmpfiles-setup-dev.service", "systemd-tmpfiles-setup-dev-early.service", "run-lock.mount",
	"systemd-modules-load.service", "modprobe@.service", "systemd-remount-fs.service",
	"systemd-binfmt.service", "systemd-sysctl.service", "proc-sys-fs-binfmt_misc.automount",
	"sys-kernel-debug.mount", "sys-kernel-tracing.mount", "sys-kernel-config.mount",
	"sys-fs-fuse-connections.mount", "dev-hugepages.mount", "dev-mqueue.mount", "tmp.mount",
	"systemd-battery-check.service", "systemd-hibernate-clear.service",
	"systemd-pcrphase.service", "systemd-pcrphase-sysinit.service", "systemd-pcrmachine.service",
	"systemd-pcrextend.socket", "systemd-pcrlock.socket", "systemd-creds.socket",
	"systemd-tpm2-setup.service", "systemd-tpm2-setup-early.service",
	"systemd-timesyncd.service", "systemd-networkd.service", "systemd-resolved.service",
	"remote-fs.target",
}

// keptGenerators are those of systemd's own generators that run; each costs
// the boot, and every reload, about 0.1 s under UML. The rest look for disks,
// consoles and init scripts that are not there.
var keptGenerators = []string{"systemd-fstab-generator"}

// journald keeps the lines of any test: by default it would drop the oldest
// at a tenth of this small disk.
const journald = "[Journal]\nSystemMaxUse=1G\n"

// recipe is everything that shapes an image.
type recipe struct {
	Format       int // raised when the code that makes an image changes what it makes
	Suite        Suite
	Plain        bool `json:",omitempty"` // Debian with Packages, and no more done to it
	Architecture string
	Packages     []string
	Masked       []string
	Generators   []string // kept
	Stage        string
	Journald     string
	DiskBytes    int64
}

// newRecipe is the suite's, with more packages than every image has.
func newRecipe(suite Suite, more []string) recipe {
	return recipe{
		Format:       1,
		Suite:        suite,
		Architecture: runtime.GOARCH,
		Packages:     slices.Concat(packages, more),
		Masked:       masked,
		Generators:   keptGenerators,
		Stage:        string(guestFile("stage")),
		Journald:     journald,
		DiskBytes:    2 << 30, // sparse
	}
}

// plainRecipe makes Debian as it is, with packages.
func plainRecipe(suite Suite, packages []string) recipe {
	return recipe{Format: 1, Suite: suite, Plain: true, Architecture: runtime.GOARCH, Packages: packages}
}

// key names the image that the recipe makes.
func (r recipe) key() string {
	data, err := json.Marshal(r)
	if err != nil {
		panic(err) // no field can fail
	}
	sum := sha256.Sum256(data)
	return fmt.Sprintf("%s-%s", r.Suite, hex.EncodeToString(sum[:8]))
}
