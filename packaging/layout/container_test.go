package layout

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v2"

	"gpuherd/generator/config"
)

const containerDir = "packaging/container"

func readContainer(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, containerDir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// A composed is a service of a compose file, as far as it matters here.
type composed struct {
	Image       string
	Environment map[string]string
	Command     any
	CapAdd      []string `yaml:"cap_add"`
	SecurityOpt []string `yaml:"security_opt"`
	Cgroup      string
	TTY         bool `yaml:"tty"`
	Tmpfs       []string
	StopGrace   string `yaml:"stop_grace_period"`
	Secrets     []any
}

// The compose file runs the image as the commands of README.md do, and hands
// Redis' password on as a file.
func TestComposeFile(t *testing.T) {
	t.Parallel()
	var file struct {
		Services map[string]composed
		Secrets  map[string]struct{ File string }
	}
	if err := yaml.Unmarshal([]byte(readContainer(t, "compose.yaml")), &file); err != nil {
		t.Fatal(err)
	}
	ours, redis := file.Services["gpuherd"], file.Services["redis"]
	readme := readContainer(t, "README.md")
	_, docker, _ := strings.Cut(readme, "    docker run ")
	docker, _, _ = strings.Cut(docker, "\n\n")
	options := []string{"--cgroupns=" + ours.Cgroup}
	for _, name := range ours.CapAdd {
		options = append(options, "--cap-add="+name)
	}
	for _, option := range ours.SecurityOpt {
		options = append(options, "--security-opt "+option)
	}
	for _, path := range ours.Tmpfs {
		options = append(options, "--tmpfs "+path)
	}
	for _, option := range options {
		if !strings.Contains(docker, option) {
			t.Errorf("compose.yaml has %s, and README.md's command for Docker has not:\n%s", option, docker)
		}
	}
	if len(options) != 6 || !ours.TTY || ours.StopGrace != "1m" || ours.Image != "gpuherd" {
		t.Errorf("gpuherd is run as %+v", ours)
	}

	if file.Secrets["redis-password"].File == "" || len(redis.Secrets) != 1 {
		t.Errorf("Redis has the secrets %v of %v", redis.Secrets, file.Secrets)
	}
	if len(ours.Secrets) != 1 {
		t.Fatalf("gpuherd has the secrets %v", ours.Secrets)
	}
	secret, _ := ours.Secrets[0].(map[any]any)
	if secret["source"] != "redis-password" || secret["target"] != "/etc/credstore/gpuherd.redis-password" {
		t.Errorf("gpuherd has the secret %v", secret)
	}
	if url := ours.Environment["REDIS_URL"]; url == "" || strings.Contains(url, "@") {
		t.Errorf("REDIS_URL is %q, which is in what docker inspect shows", url)
	}
	known := variables()
	for name := range ours.Environment {
		if !slices.Contains(known, name) {
			t.Errorf("gpuherd knows no variable %s", name)
		}
	}
}

// variables are those of PID 1's environment that gpuherd takes.
func variables() []string {
	known := []string{"ENABLE_REDIS_WORKER", "ENABLE_HELLO_WORLD"} // of service files
	for _, s := range config.Settings() {
		known = append(known, s.Variables...)
	}
	return known
}

// What README.md names is there.
func TestContainerReadme(t *testing.T) {
	t.Parallel()
	readme := readContainer(t, "README.md")
	_, list, ok := strings.Cut(readme, "beats the files in `/etc/gpuherd`:")
	if !ok {
		t.Fatal("README.md lists no variables")
	}
	list, _, _ = strings.Cut(list, ", and the others")
	names := regexp.MustCompile(`[A-Z_]{4,}`).FindAllString(list, -1)
	if len(names) < 7 {
		t.Errorf("only %v are found", names)
	}
	known := variables()
	for _, name := range names {
		if !slices.Contains(known, name) {
			t.Errorf("gpuherd knows no variable %s", name)
		}
	}
	for _, page := range []string{"README.md", "kubernetes.md"} {
		for _, m := range regexp.MustCompile(`\]\(([^)#]+)\)`).FindAllStringSubmatch(readContainer(t, page), -1) {
			if _, err := os.Stat(filepath.Join(root, containerDir, m[1])); err != nil {
				t.Errorf("%s: %v", page, err)
			}
		}
	}
}
