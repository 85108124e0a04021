package doctor

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"gpuherd/generator/rootfs"
	"gpuherd/generator/unitfile"
)

// Journald says whether the journal outlives a boot, and what bounds it.
func Journald(root string) []Finding {
	conf := journaldConf(root)
	storage := "auto"
	if e, ok := conf.Last("Journal", "Storage"); ok && e.Value != "" {
		storage = e.Value
	}
	dir := "/var/log/journal"
	_, err := os.Stat(rootfs.Path(root, dir))
	var all []Finding
	switch {
	case storage == "none":
		return append(all, found("journal", Problem, "Storage=persistent in /etc/systemd/journald.conf.d/, then systemctl restart systemd-journald", "journald keeps nothing (Storage=none): workers have no log, and what the monitor missed cannot be read back"))
	case storage == "volatile" || err != nil && storage == "auto":
		mend := "mkdir /var/log/journal, then systemctl restart systemd-journald"
		if storage == "volatile" {
			mend = "Storage=persistent in /etc/systemd/journald.conf.d/, then systemctl restart systemd-journald"
		}
		all = append(all, found("journal", Warning, mend, "the journal is in memory: logs are lost at each boot"))
		dir = "/run/log/journal"
	default:
		all = append(all, found("journal", OK, "", "the journal outlives a boot"))
	}
	var used uint64
	_ = filepath.WalkDir(rootfs.Path(root, dir), func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // what cannot be read does not count
		}
		if info, err := d.Info(); err == nil && info.Mode().IsRegular() {
			used += uint64(info.Size())
		}
		return nil
	})
	key := map[bool]string{true: "RuntimeMaxUse", false: "SystemMaxUse"}[strings.HasPrefix(dir, "/run")]
	limit := "its default, a tenth of the file system and at most 4G"
	if e, ok := conf.Last("Journal", key); ok && e.Value != "" {
		limit = e.Value
	}
	var disk unix.Statfs_t
	if err := unix.Statfs(rootfs.Path(root, dir), &disk); err == nil && disk.Blocks > 0 {
		// journald leaves 15% free, and takes old lines away for that.
		if free := disk.Bavail * uint64(disk.Bsize); disk.Bavail*100/disk.Blocks < 15 {
			return append(all, found("journal limits", Warning, "make room there, or journalctl --vacuum-size=500M", "%s left where the journal is: journald throws old lines away early", unitfile.FormatSize(free)))
		}
	}
	return append(all, found("journal limits", OK, "", "the journal takes %s; %s= is %s", unitfile.FormatSize(used), key, limit))
}

// journaldConf is journald.conf with its drop-ins, of two of one name the
// first folder's.
func journaldConf(root string) *unitfile.File {
	dirs := []string{"/etc/systemd", "/run/systemd", "/usr/local/lib/systemd", "/usr/lib/systemd"}
	read := func(name string) *unitfile.File {
		data, err := os.ReadFile(rootfs.Path(root, name))
		if err != nil {
			return nil
		}
		f, _ := unitfile.Parse(name, data)
		return f
	}
	base := &unitfile.File{}
	for _, dir := range dirs {
		if f := read(dir + "/journald.conf"); f != nil {
			base = f
			break
		}
	}
	byName := map[string]string{}
	for _, dir := range dirs {
		files, _ := filepath.Glob(rootfs.Path(root, dir+"/journald.conf.d") + "/*.conf")
		for _, file := range files {
			name := filepath.Base(file)
			if _, ok := byName[name]; !ok {
				byName[name] = dir + "/journald.conf.d/" + name
			}
		}
	}
	var names []string
	for name := range byName {
		names = append(names, name)
	}
	slices.Sort(names)
	var dropins []*unitfile.File
	for _, name := range names {
		if f := read(byName[name]); f != nil {
			dropins = append(dropins, f)
		}
	}
	return unitfile.Merge(base, dropins...)
}
