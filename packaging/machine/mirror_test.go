package machine

import (
	"os"
	"path/filepath"
	"testing"
)

func TestHostMirror(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		files map[string]string
		suite Suite
		want  string
	}{
		"none": {suite: Trixie, want: defaultMirror},
		"list": {
			files: map[string]string{"sources.list": "# deb http://no/ trixie main\n" +
				"deb-src http://src/debian trixie main\ndeb [arch=amd64 signed-by=/k] http://near/debian bookworm main contrib\n"},
			suite: Trixie, want: "http://near/debian",
		},
		"stanzas": {
			files: map[string]string{
				"sources.list.d/debian.sources": "Types: deb deb-src\n# comment\nURIs: http://old/debian\nSuites: bookworm\n bookworm-updates\nComponents: main\n\n" +
					"Types: deb\nURIs: http://new/debian\nSuites: trixie\nComponents: main\n",
				"sources.list.d/node.sources": "Types: deb\nURIs: https://deb.nodesource.com/node_20.x\nSuites: nodistro\nComponents: main\n",
			},
			suite: Trixie, want: "http://new/debian",
		},
		"security is no main archive": {
			files: map[string]string{"sources.list": "deb http://security/debian-security bookworm-security main\n"},
			suite: Bookworm, want: defaultMirror,
		},
		"another distribution": {
			files: map[string]string{"sources.list": "deb http://archive.ubuntu.com/ubuntu noble main universe\n"},
			suite: Bookworm, want: defaultMirror,
		},
		"disabled": {
			files: map[string]string{"sources.list.d/a.sources": "Enabled: no\nTypes: deb\nURIs: http://off/debian\nSuites: trixie\nComponents: main\n"},
			suite: Trixie, want: defaultMirror,
		},
		"a list that mmdebstrap cannot take over": {
			files: map[string]string{"sources.list": "deb [trusted=yes] mirror+file:/etc/apt/mirrors trixie main\n"},
			suite: Trixie, want: defaultMirror,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if err := os.Mkdir(filepath.Join(dir, "sources.list.d"), 0o755); err != nil {
				t.Fatal(err)
			}
			for name, data := range test.files {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if got := hostMirror(dir, test.suite); got != test.want {
				t.Errorf("hostMirror() = %s, want %s", got, test.want)
			}
		})
	}
}
