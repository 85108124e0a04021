package machine

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// defaultMirror is used where the host's apt knows no Debian mirror.
const defaultMirror = "http://deb.debian.org/debian"

// hostMirror returns the mirror that the host's apt (configured in aptDir)
// takes Debian's main archive from, at best for this very suite.
func hostMirror(aptDir string, suite Suite) string {
	var mirrors []aptSource
	lists, _ := filepath.Glob(filepath.Join(aptDir, "sources.list.d/*.list")) // the pattern is good
	for _, path := range append([]string{filepath.Join(aptDir, "sources.list")}, lists...) {
		if data, err := os.ReadFile(path); err == nil {
			mirrors = append(mirrors, parseSourcesList(string(data))...)
		}
	}
	files, _ := filepath.Glob(filepath.Join(aptDir, "sources.list.d/*.sources"))
	for _, path := range files {
		if data, err := os.ReadFile(path); err == nil {
			mirrors = append(mirrors, parseDeb822(string(data))...)
		}
	}
	debian := []string{string(suite), string(Bookworm), string(Trixie), "bullseye", "forky", "sid", "stable", "testing", "unstable"}
	for _, want := range debian {
		for _, m := range mirrors {
			if slices.Contains(m.suites, want) && slices.Contains(m.components, "main") && isPlainURL(m.uri) {
				return m.uri
			}
		}
	}
	return defaultMirror
}

func isPlainURL(uri string) bool {
	return strings.HasPrefix(uri, "http://") || strings.HasPrefix(uri, "https://")
}

// aptSource is one archive that apt reads packages from.
type aptSource struct {
	uri        string
	suites     []string
	components []string
}

// parseSourcesList reads the one-line format of sources.list(5).
func parseSourcesList(text string) []aptSource {
	var sources []aptSource
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) == 0 || words[0] != "deb" {
			continue
		}
		words = words[1:]
		if len(words) > 0 && strings.HasPrefix(words[0], "[") {
			end := slices.IndexFunc(words, func(w string) bool { return strings.HasSuffix(w, "]") })
			words = words[end+1:]
		}
		if len(words) >= 3 {
			sources = append(sources, aptSource{words[0], words[1:2], words[2:]})
		}
	}
	return sources
}

// parseDeb822 reads the stanza format of sources.list(5).
func parseDeb822(text string) []aptSource {
	var sources []aptSource
	for stanza := range strings.SplitSeq(text, "\n\n") {
		fields := map[string][]string{}
		key := ""
		for line := range strings.Lines(stanza) {
			if strings.HasPrefix(line, "#") {
				continue
			}
			if name, value, ok := strings.Cut(line, ":"); ok && !strings.HasPrefix(line, " ") && !strings.HasPrefix(line, "\t") {
				key = strings.ToLower(strings.TrimSpace(name))
				line = value
			}
			fields[key] = append(fields[key], strings.Fields(line)...)
		}
		if !slices.Contains(fields["types"], "deb") || slices.Equal(fields["enabled"], []string{"no"}) {
			continue
		}
		for _, uri := range fields["uris"] {
			sources = append(sources, aptSource{uri, fields["suites"], fields["components"]})
		}
	}
	return sources
}

// hostAptOptions returns what the host's apt is told about reaching mirrors
// (proxies, certificates), which mmdebstrap does not look at by itself.
func hostAptOptions(ctx context.Context) []string {
	out, err := exec.CommandContext(ctx, "apt-config", "dump", "--no-empty", "Acquire::http", "Acquire::https").Output()
	if err != nil {
		return nil // not a host with apt's configuration
	}
	var options []string
	for line := range strings.Lines(string(out)) {
		line = strings.TrimSuffix(strings.TrimSpace(line), ";")
		if strings.HasPrefix(line, "Acquire::http") {
			options = append(options, line)
		}
	}
	return options
}
