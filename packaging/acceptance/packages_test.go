//go:build machine

package acceptance

import (
	"bytes"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"gpuherd/packaging/machine"
)

// dist is where `make package` puts its results.
const dist = "../../dist"

// builtPackage returns the one package of this machine's architecture.
func builtPackage(t *testing.T, format string) string {
	t.Helper()
	arch := runtime.GOARCH
	if format == "rpm" {
		arch = map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[arch]
	}
	found, err := filepath.Glob(filepath.Join(dist, "*"+arch+"."+format))
	if err != nil || len(found) != 1 {
		t.Fatalf("want one %s of %s in dist, have %v: run make package first", format, arch, found)
	}
	return found[0]
}

// tool runs a program, which has to succeed, and returns its standard output.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	var errs strings.Builder
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s%s", name, args, err, out, errs.String())
	}
	return string(out)
}

// inRoot runs a shell script as root of a Debian system of that suite, which is
// not booted: like a chroot of an image builder, or a container with another
// program as PID 1. $PACKAGE is the package there, nothing written to it stays,
// and the script sees $ROOT from outside where it is not to change into it.
func inRoot(t *testing.T, suite machine.Suite, format, script string, inside bool) string {
	t.Helper()
	cache, err := machine.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	image, err := machine.EnsureImage(t.Context(), cache, suite, nil, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	enter := "chroot $ROOT "
	if !inside {
		enter = ""
	}
	const outside = `
set -e
mount -t tmpfs tmpfs "$LAYERS"
mkdir "$LAYERS/upper" "$LAYERS/work" "$LAYERS/root"
export ROOT="$LAYERS/root"
mount -t overlay -o "lowerdir=$TREE,upperdir=$LAYERS/upper,workdir=$LAYERS/work" overlay "$ROOT"
mount -t proc proc "$ROOT/proc"
cp "$DEB" "$ROOT/tmp/"
export PACKAGE="/tmp/${DEB##*/}" DEBIAN_FRONTEND=noninteractive
`
	cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", outside+enter+"sh -c \"$SCRIPT\"")
	cmd.Env = append(os.Environ(), "LAYERS="+t.TempDir(), "TREE="+image.Tree, "DEB="+builtPackage(t, format), "SCRIPT=set -e\n"+script)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

// A package installs where no systemd runs, and is enabled for the first boot;
// purged there, it leaves its users alone.
func TestPackageInAChroot(t *testing.T) {
	for _, suite := range []machine.Suite{machine.Bookworm, machine.Trixie} {
		t.Run(string(suite), func(t *testing.T) {
			t.Parallel()
			out := inRoot(t, suite, "deb", `
files() { find /etc /usr /var /run -path /var/lib/dpkg -prune -o -path /var/lib/apt -prune -o -path /var/cache -prune -o -path /var/log -prune -o ! -name '*-' ! -name .pwd.lock -print | sort; }
files >/tmp/before
apt-get --yes -q install "$PACKAGE"
echo link $(readlink /etc/systemd/system/multi-user.target.wants/gpuherd.target)
echo users $(cut -d: -f1 /etc/passwd | grep gpuherd)
echo credstore $(stat -c %a /etc/credstore)
dpkg --status gpuherd | grep ^Status
apt-get --yes -q purge gpuherd
files | diff /tmp/before - && echo nothing is left
`, true)
			for _, want := range []string{
				"link /lib/systemd/system/gpuherd.target\n", "users gpuherd gpuherd-worker\n", "credstore 700\n",
				"Status: install ok installed\n", "nothing is left\n",
			} {
				if !strings.Contains(strings.ReplaceAll(out, "link /usr/lib", "link /lib"), want) {
					t.Errorf("no %q:\n%s", want, out)
				}
			}
		})
	}
}

// rpm's own tools install, check and remove the package, and run its scriptlets
// in a root with systemd's programs.
func TestRPM(t *testing.T) {
	t.Parallel()
	rpm := builtPackage(t, "rpm")
	for query, want := range map[string]string{
		"--configfiles":  "/etc/gpuherd/gpuherd.conf\n",
		"--licensefiles": "/usr/share/licenses/gpuherd/LICENSE\n/usr/share/licenses/gpuherd/copyright\n",
		"--docfiles":     "/usr/share/doc/gpuherd/CHANGELOG.md\n",
		"--recommends":   "valkey\n",
	} {
		if got := tool(t, "rpm", "-qp", query, rpm); got != want {
			t.Errorf("rpm -qp %s says %q, want %q", query, got, want)
		}
	}
	for name := range strings.Lines(tool(t, "rpm", "-qp", "--queryformat", "[%{FILEUSERNAME}:%{FILEGROUPNAME} %{FILENAMES}\n]", rpm)) {
		if !strings.HasPrefix(name, "root:root ") {
			t.Errorf("not root's: %s", name)
		}
	}
	// Of rpm's own, scriptlets with syntax errors install all the same.
	for _, kind := range []string{"POSTIN", "PREUN", "POSTUN"} {
		script := tool(t, "rpm", "-qp", "--queryformat", "%{"+kind+"}", rpm)
		tool(t, "sh", "-n", "-c", script)
	}
	out := inRoot(t, machine.Trixie, "rpm", `
rpm="rpm --root $ROOT --force-debian"
$rpm --install --nodeps "$ROOT$PACKAGE"
echo verified "$($rpm --verify --nodeps gpuherd)"
echo link $(readlink $ROOT/etc/systemd/system/multi-user.target.wants/gpuherd.target)
echo users $(cut -d: -f1 $ROOT/etc/passwd | grep gpuherd)
echo "# An operator's line." >>$ROOT/etc/gpuherd/gpuherd.conf
$rpm --upgrade --nodeps --replacepkgs "$ROOT$PACKAGE"
echo edited $(tail -1 $ROOT/etc/gpuherd/gpuherd.conf)
$rpm --erase gpuherd
echo saved $(ls $ROOT/etc/gpuherd)
echo left $(find $ROOT/usr $ROOT/etc/systemd $ROOT/run -name '*gpuherd*' ! -path '*/gpuherd-machine*')
`, false)
	for _, want := range []string{
		"verified \n", "link /usr/lib/systemd/system/gpuherd.target\n", "users gpuherd gpuherd-worker\n",
		"edited # An operator's line.\n", "saved gpuherd.conf.rpmsave\n", "left\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q:\n%s", want, out)
		}
	}
}

// Debian's checker has nothing to say but what an override gives reasons for.
func TestLintian(t *testing.T) {
	t.Parallel()
	lint(t, builtPackage(t, "deb"))
}

func lint(t *testing.T, deb string) {
	t.Helper()
	if out := tool(t, "lintian", "--allow-root", "--fail-on", "error,warning", deb); out != "" {
		t.Errorf("lintian says of %s:\n%s", filepath.Base(deb), out)
	}
}

// Both packages hold what `make install` lays down, with the same bytes and
// modes, and are not larger than people will download.
func TestPackagesHoldTheTree(t *testing.T) {
	t.Parallel()
	const largest = 20 << 20
	for _, format := range []string{"deb", "rpm"} {
		info, err := os.Stat(builtPackage(t, format))
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d bytes", format, info.Size())
		if info.Size() > largest {
			t.Errorf("the %s has %d bytes, want at most %d", format, info.Size(), largest)
		}
	}
	root := t.TempDir()
	tool(t, "dpkg-deb", "--extract", builtPackage(t, "deb"), root)
	inRPM := tool(t, "rpm", "-qp", "--list", builtPackage(t, "rpm"))
	err := filepath.WalkDir(installed, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		rel, err := filepath.Rel(installed, path)
		if err != nil {
			return err
		}
		packed := rel
		if strings.HasPrefix(rel, "usr/share/man/") {
			packed += ".gz"
		}
		if !strings.Contains(inRPM, "/"+strings.Replace(packed, "zsh/vendor-completions", "zsh/site-functions", 1)+"\n") {
			t.Errorf("the rpm has no %s", packed)
		}
		want, err := entry.Info()
		if err != nil {
			return err
		}
		got, err := os.Stat(filepath.Join(root, packed))
		if err != nil {
			t.Error(err)
			return nil
		}
		if got.Mode() != want.Mode() {
			t.Errorf("%s has mode %v in the deb, want %v", packed, got.Mode(), want.Mode())
		}
		if packed != rel {
			return nil
		}
		ours, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		theirs, err := os.ReadFile(filepath.Join(root, packed))
		if err != nil {
			return err
		}
		if !bytes.Equal(ours, theirs) {
			t.Errorf("%s is another file in the deb", packed)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := tool(t, "dpkg-deb", "--info", builtPackage(t, "deb"), "conffiles"); got != "/etc/gpuherd/gpuherd.conf\n" {
		t.Errorf("conffiles are %q", got)
	}
}

var twice = flag.Bool("twice", false, "build all packages twice from nothing, which takes some minutes, where one is built again otherwise")

// The same sources give the same bytes, wherever they lie.
func TestPackagesAreTheSame(t *testing.T) {
	t.Parallel()
	// At once, as somebody may be at work on them.
	one, two := copySources(t), copySources(t)
	first, again := dist, filepath.Join(two.dir, "dist")
	if *twice {
		first = filepath.Join(one.dir, "dist")
		one.build(t, true)
		two.build(t, true)
	} else {
		two.build(t, false, "ARCHES="+runtime.GOARCH, "FORMATS=rpm")
	}
	built, err := os.ReadDir(again)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range built {
		if file.Name() == "SHA256SUMS" && !*twice {
			continue // of more than was built again
		}
		want, err := os.ReadFile(filepath.Join(first, file.Name()))
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(again, file.Name()))
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d bytes", file.Name(), len(got))
		if *twice && strings.HasSuffix(file.Name(), ".deb") { // also of the other architecture
			lint(t, filepath.Join(again, file.Name()))
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s has other bytes when built again elsewhere", file.Name())
		}
	}
	if *twice {
		t.Run(other().arch, func(t *testing.T) { runForeign(t, again) })
	}
}

// A copied is a copy of the sources, and what git says of them.
type copied struct{ dir, version, epoch string }

func copySources(t *testing.T) copied {
	t.Helper()
	const root = "../.."
	dir := t.TempDir()
	tool(t, "sh", "-c", "cd "+root+" && git ls-files -z --cached --others --exclude-standard | tar --null -T - -cf - | tar -C "+dir+" -xf -")
	return copied{
		dir:     dir,
		version: strings.TrimSpace(tool(t, "git", "-C", root, "describe", "--tags", "--always", "--dirty")),
		epoch:   strings.TrimSpace(tool(t, "git", "-C", root, "log", "-1", "--format=%ct")),
	}
}

// build runs make package. Fresh is without what the toolchain has compiled
// before.
func (c copied) build(t *testing.T, fresh bool, args ...string) {
	t.Helper()
	// Not even the umask makes a difference.
	args = append([]string{"-c", `umask 077; exec make "$@"`, "sh", "-C", c.dir, "package", "VERSION=" + c.version, "SOURCE_DATE_EPOCH=" + c.epoch}, args...)
	cmd := exec.CommandContext(t.Context(), "sh", args...)
	cmd.Env = os.Environ()
	if fresh {
		cmd.Env = append(cmd.Env, "GOCACHE="+t.TempDir())
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make %v: %v\n%s", args, err, out)
	}
}

// Given a key, both packages are signed by it.
func TestPackagesAreSigned(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	gpg := func(args ...string) string {
		return tool(t, "gpg", append([]string{"--homedir", home, "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""}, args...)...)
	}
	gpg("--quick-generate-key", "Packages <packages@gpuherd.invalid>", "rsa3072", "sign", "never")
	secret, public := filepath.Join(home, "secret.asc"), filepath.Join(home, "public.asc")
	gpg("--armor", "--output", secret, "--export-secret-keys")
	gpg("--armor", "--output", public, "--export")
	t.Cleanup(func() { _ = exec.Command("gpgconf", "--homedir", home, "--kill", "all").Run() })

	// The sums of a release are signed by a script of ours.
	sums := filepath.Join(t.TempDir(), "SHA256SUMS")
	if err := os.WriteFile(sums, []byte("some sums\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	tool(t, "../release/sign", secret, sums)
	gpg("--verify", sums+".asc", sums)

	// What is signed is the same for any contents.
	tree, doc, out := t.TempDir(), t.TempDir(), t.TempDir()
	tool(t, "sh", "-c", "mkdir -p "+tree+"/usr/bin "+tree+"/etc/gpuherd && touch "+tree+"/usr/bin/gpuherd "+tree+"/etc/gpuherd/gpuherd.conf && "+
		"for f in changelog.Debian.gz changelog.gz copyright; do touch "+doc+"/$f; done")
	for _, format := range []string{"deb", "rpm"} {
		cmd := exec.CommandContext(t.Context(), "bin/tools/nfpm", "package", "--config", "packaging/nfpm/nfpm.yaml", "--packager", format, "--target", out)
		cmd.Dir = "../.."
		cmd.Env = append(os.Environ(), "PACKAGE_ARCH=amd64", "PACKAGE_VERSION=1.0.0", "PACKAGE_TREE="+tree, "PACKAGE_DOC="+doc,
			"PACKAGE_GLIBC=2.34", "PACKAGER=Packages <packages@gpuherd.invalid>", "SIGNING_KEY="+secret)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	rpms := t.TempDir()
	tool(t, "rpm", "--dbpath", rpms, "--import", public)
	if said := tool(t, "rpm", "--dbpath", rpms, "--checksig", "--verbose", filepath.Join(out, "gpuherd-1.0.0-1.x86_64.rpm")); !strings.Contains(said, "Signature") || strings.Contains(said, "NOKEY") || strings.Contains(said, "BAD") {
		t.Errorf("rpm --checksig says:\n%s", said)
	}
	// debsigs' form: a signature of the other members, in their order.
	tool(t, "sh", "-c", "cd "+out+" && ar x *.deb && cat debian-binary control.tar.* data.tar.* >signed")
	gpg("--verify", filepath.Join(out, "_gpgorigin"), filepath.Join(out, "signed"))
	if err := os.WriteFile(filepath.Join(out, "signed"), []byte("other"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := exec.Command("gpg", "--homedir", home, "--batch", "--verify", filepath.Join(out, "_gpgorigin"), filepath.Join(out, "signed")).Run(); err == nil {
		t.Error("the signature is good for other contents, too")
	}
}

// layPackages makes the tree with the packages for TestPackage and its kin.
func layPackages(t *testing.T) string {
	t.Helper()
	tree := t.TempDir()
	dir := filepath.Join(tree, "opt/packages")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	first := filepath.Join(dir, "first.deb")
	if err := copyFile(builtPackage(t, "deb"), first, 0o644); err != nil {
		t.Fatal(err)
	}
	nextVersion(t, first, filepath.Join(dir, "next.deb"))
	// Takes its time, so that there always are jobs in hand.
	job := "#!/bin/sh\ncat >/dev/null\nsleep 0.3\necho '{\"done\": true}'\n"
	if err := os.WriteFile(filepath.Join(dir, "job"), []byte(job), 0o755); err != nil {
		t.Fatal(err)
	}
	return tree
}

// nextVersion makes a later version of a package: as it is, with changes to the
// conffile and to a unit.
func nextVersion(t *testing.T, deb, next string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "next")
	tool(t, "dpkg-deb", "--raw-extract", deb, dir)
	control := filepath.Join(dir, "DEBIAN/control")
	data, err := os.ReadFile(control)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(data)) {
		if version, ok := strings.CutPrefix(line, "Version: "); ok {
			line = fmt.Sprintf("Version: 1:%s", version)
		}
		lines = append(lines, line)
	}
	if err := os.WriteFile(control, []byte(strings.Join(lines, "")), 0o644); err != nil {
		t.Fatal(err)
	}
	for path, line := range map[string]string{
		"etc/gpuherd/gpuherd.conf":                       "# A line of the next version.\n",
		"usr/lib/systemd/system/gpuherd-monitor.service": "# A line of the next version.\n",
		"usr/lib/gpuherd/services/redis-worker.service":  "Environment=NEXT_VERSION=yes\n",
	} {
		file, err := os.OpenFile(filepath.Join(dir, path), os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := file.WriteString(line); err != nil {
			t.Fatal(err)
		}
		if err := file.Close(); err != nil {
			t.Fatal(err)
		}
	}
	tool(t, "sh", "-c", "cd "+dir+" && find usr -type f -exec md5sum {} + >DEBIAN/md5sums")
	tool(t, "dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", dir, next)
}
