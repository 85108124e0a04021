package man

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"gpuherd/generator/config"
	"gpuherd/units/queue/redistest"
	"gpuherd/units/redisclient"
)

// What the README and its like link to, and the pages that they name, is there.
func TestLinksLeadSomewhere(t *testing.T) {
	t.Parallel()
	link := regexp.MustCompile(`\]\(([^)#:]*)(#[a-z-]+)?\)`)
	page := regexp.MustCompile(`\b(gpuherd[a-z.-]*|redis-worker)\(([1-8])\)`)
	anchor := strings.NewReplacer(" ", "-", "`", "", ",", "")
	for _, name := range []string{"README.md", "CONTRIBUTING.md", "SECURITY.md", "units/redisworker/examples/README.md"} {
		text := read(t, name)
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat(filepath.Join(root, filepath.Dir(name), m[1])); m[1] != "" && err != nil {
				t.Errorf("%s links to %s: %v", name, m[1], err)
			}
			if m[1] != "" || m[2] == "" {
				continue
			}
			found := false
			for line := range strings.Lines(text) {
				title, isTitle := strings.CutPrefix(strings.TrimLeft(line, "#"), " ")
				found = found || isTitle && line[0] == '#' && "#"+anchor.Replace(strings.ToLower(strings.TrimSpace(title))) == m[2]
			}
			if !found {
				t.Errorf("%s has no section %s", name, m[2])
			}
		}
		for _, m := range page.FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat(m[1] + "." + m[2]); err != nil {
				t.Errorf("%s names %s: %v", name, m[0], err)
			}
		}
	}
}

// The files, folders and targets of make that the README and its like name are
// there.
func TestNamedFilesExist(t *testing.T) {
	t.Parallel()
	targets := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^([a-z][a-z0-9-]*):`).FindAllStringSubmatch(read(t, "Makefile"), -1) {
		targets[m[1]] = true
	}
	quoted := regexp.MustCompile("`([^`\n]+)`")
	path := regexp.MustCompile(`^(cmd|generator|units|monitor|packaging)/[^A-Z]*$`)
	target := regexp.MustCompile("(?m)(?:^    |`)make ([a-z][a-z0-9-]*)")
	for _, name := range []string{"README.md", "CONTRIBUTING.md", "SECURITY.md"} {
		text := read(t, name)
		for _, m := range quoted.FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat(filepath.Join(root, m[1])); path.MatchString(m[1]) && err != nil {
				t.Errorf("%s names %s: %v", name, m[1], err)
			}
		}
		for _, m := range target.FindAllStringSubmatch(text, -1) {
			if !targets[m[1]] {
				t.Errorf("%s: there is no make %s", name, m[1])
			}
		}
	}
	// What the manual names below /usr/share is laid down.
	lay := read(t, "Makefile")
	for _, name := range append(pages(t), "../../README.md") {
		for _, file := range regexp.MustCompile(`/usr/share/(gpuherd|doc/gpuherd)/[a-z./-]*[a-z]`).FindAllString(plainText(read(t, "packaging/man/"+name)), -1) {
			if !strings.Contains(lay, "$(DESTDIR)"+file) && !strings.Contains(lay, "$(DESTDIR)"+filepath.Dir(file)+" ") && !strings.Contains(lay, "$(DESTDIR)"+file+" ") {
				t.Errorf("%s names %s, which nobody lays down", name, file)
			}
		}
	}
}

func plainText(text string) string { return strings.ReplaceAll(text, `\-`, "-") }

// The README's way to TLS leads there: its commands make certificates that the
// server takes with its lines of redis.conf, and that our programs trust with
// the credential, and not without.
func TestDocumentedTLS(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Fatalf("no openssl: apt-get install openssl: %v", err)
	}
	dir := t.TempDir()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	here := strings.NewReplacer("redis1", "localhost", "/etc/redis/", dir+"/", "tls-port 6379", fmt.Sprint("tls-port ", port))
	var server []string
	commands := 0
	for line := range strings.Lines(read(t, "README.md")) {
		line, isCode := strings.CutPrefix(strings.TrimSpace(here.Replace(line)), "openssl ")
		switch {
		case isCode:
			commands++
			cmd := exec.CommandContext(t.Context(), "sh", "-c", "openssl "+line)
			cmd.Dir = dir
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("openssl %s: %v\n%s", line, err, out)
			}
		case strings.HasPrefix(line, "tls-"):
			name, value, _ := strings.Cut(line, " ")
			server = append(server, "--"+name, value)
		}
	}
	if commands != 3 || len(server) != 10 {
		t.Fatalf("found %d commands and %q", commands, server)
	}
	redistest.Start(t, append(server, "--bind", "127.0.0.1")...)
	ca, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		credentials map[string][]byte
		reason      string
	}{
		{map[string][]byte{redisclient.CredentialCA: ca}, ""},
		{nil, redisclient.Certificate},
	} {
		c, err := redisclient.Open(config.Redis{URL: fmt.Sprint("rediss://localhost:", port)}, redistest.Credentials(t, tt.credentials))
		if err != nil {
			t.Fatal(err)
		}
		err = c.Ping(t.Context()).Err()
		if trouble := redisclient.Diagnose(err); (err == nil) != (tt.reason == "") || err != nil && trouble.Reason != tt.reason {
			t.Errorf("with %d credentials: %v", len(tt.credentials), err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}
