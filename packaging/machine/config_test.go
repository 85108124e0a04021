package machine

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestConfigRefuses(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		config Config
		want   string
	}{
		"backend":           {Config{Backend: "qemu"}, `unknown backend "qemu"`},
		"suite":             {Config{Suite: "potato"}, `unknown suite "potato"`},
		"package":           {Config{Packages: []string{"nodejs,npm"}}, `bad package name "nodejs,npm"`},
		"memory":            {Config{Memory: 1 << 20}, "less than 256M"},
		"hostname":          {Config{Hostname: "A B"}, `bad host name "A B"`},
		"kernel word":       {Config{Env: map[string]string{"root": "x"}}, `bad environment variable "root"`},
		"dotted name":       {Config{Env: map[string]string{"A.B": "x"}}, `bad environment variable "A.B"`},
		"quote":             {Config{Env: map[string]string{"A": `x"y`}}, "environment variable A"},
		"two kernel words":  {Config{KernelArgs: []string{"a b"}}, `bad kernel argument "a b"`},
		"host with package": {Config{Backend: Host, Packages: []string{"nodejs"}}, "host backend"},
		"host with tree":    {Config{Backend: Host, Trees: []string{"/"}}, "host backend"},
		"root for a kernel": {Config{Root: "/"}, "for the backend nspawn"},
		"host with root":    {Config{Backend: Host, Root: "/"}, "host backend"},
		"host with script":  {Config{Backend: Host, Early: "true"}, "host backend"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := test.config.complete()
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v, want one with %q", err, test.want)
			}
		})
	}
}

func TestConfigDefaults(t *testing.T) {
	t.Parallel()
	given := Config{CacheDir: "/cache", Trees: []string{"/a/../b"}, Share: "/c/"}
	got, err := given.complete()
	if err != nil {
		t.Fatal(err)
	}
	got.Log = nil
	want := Config{
		Backend: UML, Suite: Bookworm, Memory: DefaultMemory, Hostname: "machine",
		BootTimeout: DefaultBootTimeout, CacheDir: "/cache", Trees: []string{"/b"}, Share: "/c",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("complete() (-want +got):\n%s", diff)
	}
	if given.Trees[0] != "/a/../b" {
		t.Errorf("the caller's trees were changed to %q", given.Trees)
	}
}
