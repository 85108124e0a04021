package machine

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCgroupFolders(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		cgroups, mounts string
		want            []string
	}{
		"v2": {
			cgroups: "0::/user.slice/session.scope\n",
			mounts:  "31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n",
			want:    []string{"/sys/fs/cgroup/user.slice/session.scope"},
		},
		"hybrid": {
			cgroups: "9:name=systemd:/init.scope\n4:memory:/init.scope\n0::/init.scope\n",
			mounts: "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n" +
				"40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n" +
				"41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
			want: []string{"/sys/fs/cgroup/systemd/init.scope", "/sys/fs/cgroup/unified/init.scope"},
		},
		"in a container": {
			cgroups: "0::/docker/abc/sub\n",
			mounts:  "41 31 0:38 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
			want:    []string{"/sys/fs/cgroup/sub"},
		},
		"not mounted": {cgroups: "0::/elsewhere\n", mounts: "41 31 0:38 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(test.want, cgroupFolders(test.cgroups, test.mounts)); diff != "" {
				t.Errorf("cgroupFolders() (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRemoveCgroups(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "machine")
	if err := os.MkdirAll(filepath.Join(dir, "payload/system.slice/a.service"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := removeCgroups([]string{dir, dir + "-gone"}); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s is still there: %v", dir, err)
	}
}
