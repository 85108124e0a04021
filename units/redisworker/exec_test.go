package redisworker

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"gpuherd/units/queue"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lines is an Output.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func shell(script string) (*Exec, *lines) {
	var out lines
	return &Exec{Argv: []string{"/bin/sh", "-c", script}, Env: []string{"PATH=" + os.Getenv("PATH")}, Output: &out}, &out
}

func TestExecOutcomes(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		script string
		want   Outcome
		output string
	}{
		{"last line", `echo one; echo two`, Outcome{Result: []byte("two")}, "[j] one\n"},
		{"last line without end", `echo one; printf two`, Outcome{Result: []byte("two")}, "[j] one\n"},
		{"empty lines", `echo; echo one; echo; echo two; echo; echo`, Outcome{Result: []byte("two")}, "[j] \n[j] one\n[j] \n"},
		{"fd 3", `echo one; printf result >&3; echo two`, Outcome{Result: []byte("result")}, "[j] one\n[j] two\n"},
		{"no result", `:`, Outcome{}, ""},
		{"stdin", `cat`, Outcome{Result: []byte(`{"a":1}`)}, ""},
		{"stdin not read", `exec <&-; echo x`, Outcome{Result: []byte("x")}, ""},
		{"stderr", `echo oops >&2; echo x`, Outcome{Result: []byte("x"), Stderr: "oops"}, "[j] oops\n"},
		{"failure", `echo x; echo first >&2; echo oops >&2; exit 3`, Outcome{Verdict: Failed, Error: "exit status 3: oops", Stderr: "first\noops"}, ""},
		{"retry", `exit 75`, Outcome{Verdict: Failed, Error: "exit status 75 (try again)"}, ""},
		{"permanent", `echo bad >&2; exit 65`, Outcome{Verdict: Permanent, Error: "exit status 65 (permanent): bad", Stderr: "bad"}, "[j] bad\n"},
		{"signal", `kill -SEGV $$`, Outcome{Verdict: Failed, Error: "ended by signal 11 (segmentation fault)"}, ""},
		{"environment", `echo $JOB_ID $JOB_ATTEMPT/$JOB_MAX_ATTEMPTS $JOB_TRACE`, Outcome{Result: []byte("j 2/3 tr")}, ""},
		{"result on fd 3 too long", `head -c 262145 /dev/zero >&3`, Outcome{Verdict: Permanent, Error: "result is above 262144 bytes"}, ""},
		{"last line too long", `head -c 262145 /dev/zero`, Outcome{Verdict: Permanent, Error: "result is above 262144 bytes"}, "\x00"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			e, out := shell(tt.script)
			if err := e.Check(context.Background()); err != nil {
				t.Fatal(err)
			}
			got := e.Run(context.Background(), Attempt{ID: "j", Payload: []byte(`{"a":1}`), Number: 2, MaxAttempts: 3, Trace: "tr"}, func(string) {})
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("outcome (-want +got):\n%s", diff)
			}
			switch {
			case tt.output == "\x00":
				if n := strings.Count(out.String(), "\x00"); n != queue.MaxPayload+1 {
					t.Errorf("%d bytes of the long line are in the log", n)
				}
			case tt.want.Verdict == Failed: // the order of two pipes is open
			case out.String() != tt.output:
				t.Errorf("log %q, want %q", out.String(), tt.output)
			}
		})
	}
}

func TestExecProgress(t *testing.T) {
	t.Parallel()
	e, _ := shell(`echo 12.5 >&4; echo 'step 3/10' >&4; echo '{"step": 3}' >&4; echo >&4; echo '  ' >&4
printf 'a\tb\033[2J \377 \342\200\256é\r\n' >&4; echo NaN >&4
head -c 9999 /dev/zero | tr '\0' x >&4; echo >&4; printf 100 >&4; echo x`)
	var got []string
	o := e.Run(context.Background(), Attempt{ID: "j"}, func(s string) { got = append(got, s) })
	want := []string{
		"12.5", "step 3/10", `{"step": 3}`, "a b\uFFFD[2J \uFFFD \uFFFDé", "NaN",
		strings.Repeat("x", 256), "100",
	}
	if diff := cmp.Diff(want, got); diff != "" || o.Verdict != Succeeded {
		t.Errorf("outcome %+v, progress (-want +got):\n%s", o, diff)
	}
}

func TestExecEnvironmentIsTheWorkersButForSystemd(t *testing.T) {
	t.Parallel()
	e, _ := shell(`env | sort | grep -v ^_ | grep -v ^PWD | tr '\n' ' '`)
	e.Env = []string{"PATH=" + os.Getenv("PATH"), "CUDA_VISIBLE_DEVICES=GPU-1", "NOTIFY_SOCKET=/run/n",
		"WATCHDOG_USEC=1", "WATCHDOG_PID=1", "LISTEN_FDS=1", "LISTEN_PID=1", "LISTEN_FDNAMES=x", "CREDENTIALS_DIRECTORY=/run/credentials/x",
		"JOB_ID=other", "JOURNAL_STREAM=1:2", "SYSTEMD_EXEC_PID=1"}
	o := e.Run(context.Background(), Attempt{ID: "j", Number: 1, MaxAttempts: 3}, func(string) {})
	got := strings.Fields(string(o.Result))
	want := []string{"CUDA_VISIBLE_DEVICES=GPU-1", "JOB_ATTEMPT=1", "JOB_ID=j", "JOB_MAX_ATTEMPTS=3", "PATH=" + os.Getenv("PATH")}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
}

// alive waits until the process whose number is in file is gone, and says
// whether it still lives after a while.
func alive(t *testing.T, file string) bool {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return false
		}
	}
	syscall.Kill(pid, syscall.SIGKILL)
	return true
}

func TestExecTimeoutEndsTheGroup(t *testing.T) {
	t.Parallel()
	pid := filepath.Join(t.TempDir(), "pid")
	// The grandchild ignores SIGTERM, and the program waits for it.
	e, _ := shell(`sh -c 'trap "" TERM; echo $$ > ` + pid + `; while :; do sleep 0.05; done' & wait; wait`)
	start := time.Now()
	o := e.Run(context.Background(), Attempt{ID: "j", Timeout: 300 * time.Millisecond}, func(string) {})
	if o.Verdict != Failed || o.Error != "timed out after 300ms" || o.Leftover {
		t.Errorf("outcome %+v", o)
	}
	if d := time.Since(start); d < 300*time.Millisecond || d > 8*time.Second {
		t.Errorf("took %v", d)
	}
	if alive(t, pid) {
		t.Error("the grandchild lives")
	}
}

func TestExecStops(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		cause  error
		script string
		least  time.Duration
		most   time.Duration
	}{
		"gently":              {nil, `trap 'exit 0' TERM; echo 1 >&4; while :; do sleep 0.01; done`, 0, stopGrace},
		"gently, but it will": {nil, `trap '' TERM; echo 1 >&4; while :; do sleep 0.01; done`, stopGrace, time.Minute},
		"at once":             {ErrNow, `trap '' TERM; echo 1 >&4; while :; do sleep 0.01; done`, 0, stopGrace},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancelCause(context.Background())
			defer cancel(nil)
			e, _ := shell(tt.script)
			start := time.Now()
			o := e.Run(ctx, Attempt{ID: "j"}, func(string) { start = time.Now(); cancel(tt.cause) })
			if o.Verdict != Stopped || o.Leftover {
				t.Errorf("outcome %+v", o)
			}
			if d := time.Since(start); d < tt.least || d > tt.most {
				t.Errorf("took %v, want %v to %v", d, tt.least, tt.most)
			}
		})
	}
}

func TestExecKillsWhatIsLeftBehind(t *testing.T) {
	t.Parallel()
	pid := filepath.Join(t.TempDir(), "pid")
	e, _ := shell(`sleep 60 & echo $! > ` + pid + `; echo done`)
	start := time.Now()
	o := e.Run(context.Background(), Attempt{ID: "j"}, func(string) {})
	if string(o.Result) != "done" || o.Leftover {
		t.Errorf("outcome %+v", o)
	}
	if d := time.Since(start); d > pipeGrace {
		t.Errorf("took %v", d)
	}
	if alive(t, pid) {
		t.Error("sleep lives")
	}
}

// TestExecDoesNotWaitForEscapedProcesses: one that left the group holds all
// pipes open.
func TestExecDoesNotWaitForEscapedProcesses(t *testing.T) {
	t.Parallel()
	pid := filepath.Join(t.TempDir(), "pid")
	e, _ := shell(`setsid sh -c 'echo $$ > ` + pid + `; exec sleep 30' & while ! [ -s ` + pid + ` ]; do sleep 0.01; done; echo done`)
	start := time.Now()
	o := e.Run(context.Background(), Attempt{ID: "j"}, func(string) {})
	if string(o.Result) != "done" {
		t.Errorf("outcome %+v", o)
	}
	if d := time.Since(start); d > pipeGrace+5*time.Second {
		t.Errorf("took %v", d)
	}
	data, _ := os.ReadFile(pid)
	if n, err := strconv.Atoi(strings.TrimSpace(string(data))); err == nil {
		syscall.Kill(n, syscall.SIGKILL)
	}
}

func TestExecMuchOutput(t *testing.T) {
	t.Parallel()
	e, out := shell(`yes 0123456789abcdefghijklmnopqrstuvwxyz | head -n 300000; head -c 5000000 /dev/zero | tr '\0' x; echo; head -c 5000000 /dev/zero >&2; echo end`)
	o := e.Run(context.Background(), Attempt{ID: "j"}, func(string) {})
	if o.Verdict != Succeeded || string(o.Result) != "end" || len(o.Stderr) > stderrTail {
		t.Errorf("verdict %d, result %q, %d bytes of stderr", o.Verdict, o.Result, len(o.Stderr))
	}
	text := out.String()
	if n := strings.Count(text, "[j] 0123456789abcdefghijklmnopqrstuvwxyz\n"); n != 300000 {
		t.Errorf("%d of 300000 lines", n)
	}
	if n := strings.Count(text, "\x00"); n != 5000000 {
		t.Errorf("%d of 5000000 bytes of stderr", n)
	}
}

func TestExecLargePayload(t *testing.T) {
	t.Parallel()
	payload := bytes.Repeat([]byte("0123456789abcdef"), queue.MaxPayload/16)
	e, _ := shell(`cat >&3`)
	o := e.Run(context.Background(), Attempt{ID: "j", Payload: payload}, func(string) {})
	if o.Verdict != Succeeded || !bytes.Equal(o.Result, payload) {
		t.Errorf("verdict %d, %d bytes", o.Verdict, len(o.Result))
	}
	e, _ = shell(`echo deaf`) // reads none of it
	if o := e.Run(context.Background(), Attempt{ID: "j", Payload: payload}, func(string) {}); string(o.Result) != "deaf" {
		t.Errorf("outcome %+v", o)
	}
}

func TestExecUnable(t *testing.T) {
	t.Parallel()
	e := &Exec{Argv: []string{"/nonexistent/job"}, Output: &lines{}}
	if err := e.Check(context.Background()); err == nil {
		t.Error("Check found it")
	}
	if o := e.Run(context.Background(), Attempt{ID: "j"}, func(string) {}); o.Verdict != Unable {
		t.Errorf("outcome %+v", o)
	}
	if err := (&Exec{}).Check(context.Background()); err == nil {
		t.Error("Check wants no program")
	}
}
