package resources

import (
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestServices(t *testing.T) {
	t.Parallel()
	group := func(dir string) map[string]string { return map[string]string{dir + "/cgroup.events": "populated 1\n"} }
	for _, tc := range []struct {
		name   string
		groups []map[string]string // by path below the root
		want   []string
	}{
		{"v2", []map[string]string{
			group(mountV2 + "/h.slice"),
			group(mountV2 + "/h.slice/w@1.service"), group(mountV2 + "/h.slice/a.service"),
			group(mountV2 + "/h.slice/a.service/payload.service"),
			group(mountV2 + "/h.slice/h-big.slice/b@0:1.2.service"),
			group(mountV2 + "/h.slice/x.scope"), group(mountV2 + "/h.slice/_memory.service"), group(mountV2 + "/other.slice/o.service"),
			{mountV2 + "/h.slice/file.service": ""},
		}, []string{"a.service", "b@0:1.2.service", "memory.service", "w@1.service"}},
		{"v1", []map[string]string{
			{mountMemory + "/h.slice/w@1.service/memory.usage_in_bytes": ""},
			{mountPIDs + "/h.slice/w@1.service/pids.current": "", mountPIDs + "/h.slice/a.service/pids.current": ""},
		}, []string{"a.service", "w@1.service"}},
		{"an empty slice", []map[string]string{group(mountV2 + "/h.slice")}, nil},
		{"no slice", nil, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			for _, files := range tc.groups {
				for file, text := range files {
					lay(t, root, filepath.Dir(file), map[string]string{filepath.Base(file): text})
				}
			}
			got, err := Services(root, "h.slice")
			if diff := cmp.Diff(tc.want, got); diff != "" || err != nil {
				t.Errorf("error %v (-want +got):\n%s", err, diff)
			}
		})
	}
}
