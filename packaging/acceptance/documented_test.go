//go:build acceptance

package acceptance

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// What is documented and does not run here.
var elsewhere = []struct{ why, pattern string }{
	{"it needs what is not in the machine: the source, a compiler, PM2, or curl (HTTP has tests of its own)", `^(make|pm2|curl) `},
	{"TLS has a test of its own, where openssl is", `^openssl |ca\.crt`},
	{"it shuts out who asks Redis afterwards, this test too", `default off`},
	{"it needs a person", `^systemctl edit `},
	{"it is what the machine was prepared with", `^systemctl enable --now gpuherd.target`},
}

var (
	// endless commands are stopped.
	endless = regexp.MustCompile(` -f\b| --watch\b|^redis-cli SUBSCRIBE`)
	// mayFail is what ends with 1 by what it finds: the machine has its faults,
	// no node, and the jobs of examples are in one state only.
	mayFail = regexp.MustCompile(`^gpuherd (doctor|import-pm2 ecosystem\.config\.js|queue (cancel|retry|show|dead (retry|purge)) .*job-)`)
	// asks is what wants an answer from a person, and says so with 2.
	asks = regexp.MustCompile(`^gpuherd queue dead purge( job-1)?$`)
)

// Every command of the README, and of every --help, is run here, in a machine
// that has what they speak of.
func TestDocumentedCommands(t *testing.T) {
	h := open(t)
	serveSSH(t)
	dir := documentedWorld(t, h)
	commands := append(readmeCommands(t), helpCommands(t, nil)...)
	// What makes services, or takes them away, comes last.
	slices.SortStableFunc(commands, func(a, b string) int {
		last := func(c string) int { return strings.Count(c, "gpuherd delete") + strings.Count(c, "--write") }
		return last(a) - last(b)
	})
	if len(commands) < 60 {
		t.Fatalf("only %d commands were found", len(commands))
	}
	ran, seen := 0, map[string]bool{}
	for _, command := range commands {
		if seen[command] { // in README and in --help
			continue
		}
		seen[command] = true
		if slices.ContainsFunc(elsewhere, func(e struct{ why, pattern string }) bool { return regexp.MustCompile(e.pattern).MatchString(command) }) {
			continue
		}
		ran++
		limit, want := "120", []int{0}
		if endless.MatchString(command) {
			limit, want = "2", []int{0, 124}
		}
		if mayFail.MatchString(command) {
			want = append(want, 1)
		}
		if asks.MatchString(command) {
			want = []int{2}
		}
		cmd := exec.CommandContext(t.Context(), "timeout", "--signal=INT", limit, "bash", "-c", strings.ReplaceAll(command, "ops@gpu1", far))
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "HOME=/root")
		began := time.Now()
		out, err := cmd.CombinedOutput()
		t.Logf("%5.1f s: %s", time.Since(began).Seconds(), command)
		if cmd.ProcessState == nil {
			t.Fatalf("cannot run %s: %v", command, err)
		}
		if status := cmd.ProcessState.ExitCode(); !slices.Contains(want, status) {
			t.Errorf("%s ended with %d:\n%s", command, status, out)
		}
	}
	h.gpuherd(0, "start", "all") // also what was imported
	// What the README says of a user of Redis has come about.
	stdout, stderr, status := run(t, "redis-cli", "CLIENT", "LIST")
	if status != 0 {
		t.Fatal(stderr)
	}
	for _, program := range []string{"redis-worker", "gpuherd-monitor"} {
		users := regexp.MustCompile(` name=`+program+` .* user=(\S+)`).FindAllStringSubmatch(stdout, -1)
		if len(users) == 0 {
			t.Errorf("no %s is connected:\n%s", program, stdout)
		}
		for _, user := range users {
			if user[1] != "gpuherd" {
				t.Errorf("a %s is connected as %s", program, user[1])
			}
		}
	}
	t.Logf("%d of %d documented commands were run", ran, len(commands))
}

// documentedWorld makes what the examples speak of, and returns the folder in
// which to run them. The machine is theirs: nothing is put back.
func documentedWorld(t *testing.T, h *herd) string {
	t.Helper()
	dir := t.TempDir()
	dump := func(name string) string {
		return fmt.Sprintf(`[{"name": %q, "pm_exec_path": "/bin/sleep", "args": ["infinity"], "pm_cwd": "/", "exec_interpreter": "none", "exec_mode": "fork_mode", "status": "online", "env": {}}]`, name)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	listen := "#!/bin/sh\nexec " + self + " listen "
	files := map[string]string{
		servicesDir + "/comfyui.service": "[X-GPU]\nPer=gpu\n[Service]\nExecStart=/bin/sleep infinity\n",
		"/root/.pm2/dump.pm2":            dump("documented"),
		"/home/gpu/.pm2/dump.pm2":        dump("documented-too"),
		dir + "/ecosystem.config.js":     "module.exports = {apps: []}\n",
		dir + "/.env":                    "A=b\n",
		dir + "/python3":                 listen + "8188\n",
		dir + "/node":                    listen + "9001\n",
		dir + "/server":                  listen + "9000\n",
	}
	// The README's Redis is on another host; the machine has its own by that name.
	hosts, err := os.ReadFile("/etc/hosts")
	if err != nil {
		t.Fatal(err)
	}
	files["/etc/hosts"] = string(hosts) + "\n127.0.0.1 redis1\n"
	payload := task{Do: "sleep", MS: 1}.String()
	for _, name := range []string{"workflow.json", "big.json", "job.json"} {
		files[filepath.Join(dir, name)] = payload
	}
	for path, text := range files {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	h.reload()
	h.start(target)
	h.gpuherd(0, "start", "all")
	return dir
}

// readmeCommands are the lines of the README that are commands.
func readmeCommands(t *testing.T) []string {
	t.Helper()
	data, err := os.ReadFile(readmeFile)
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`^    (?:\$ )?((?:gpuherd|systemctl|journalctl|redis-cli|make|curl|pm2|head|echo|printf|install|touch|openssl|/usr/lib/[a-z/-]+) .*)$`)
	remark := regexp.MustCompile(` +# .*`)
	var commands []string
	for text := range strings.Lines(string(data)) {
		if m := line.FindStringSubmatch(strings.TrimRight(text, "\n")); m != nil {
			commands = append(commands, strings.TrimSpace(remark.ReplaceAllString(m[1], "")))
		}
	}
	return commands
}

// helpCommands are the examples in the help of a verb and of those below it.
func helpCommands(t *testing.T, verb []string) []string {
	t.Helper()
	stdout, stderr, status := run(t, "gpuherd", append(slices.Clone(verb), "--help")...)
	if status != 0 {
		t.Fatalf("gpuherd %s --help ended with %d: %s", strings.Join(verb, " "), status, stderr)
	}
	var commands []string
	section := ""
	for text := range strings.Lines(stdout) {
		text = strings.TrimRight(text, "\n")
		word, isBelow := strings.CutPrefix(text, "  ")
		switch {
		case !isBelow:
			section = text
		case section == "Examples:":
			commands = append(commands, word)
		case section == "Available Commands:":
			if name := strings.Fields(word)[0]; name != "help" && name != "completion" {
				commands = append(commands, helpCommands(t, append(slices.Clone(verb), name))...)
			}
		}
	}
	return commands
}

// runListen is a server for a moment, as the examples of `gpuherd run` have it.
func runListen(port string) error {
	l, err := net.Listen("tcp", "127.0.0.1:"+port)
	if err != nil {
		return err
	}
	fmt.Println("listening on", l.Addr())
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte("HTTP/1.0 200 OK\r\n\r\n"))
			_ = conn.Close()
		}
	}()
	time.Sleep(time.Second)
	return l.Close()
}
