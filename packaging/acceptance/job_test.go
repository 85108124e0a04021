//go:build acceptance

package acceptance

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A task is the payload of the jobs that tests enqueue.
type task struct {
	Do    string `json:"do"`              // hold, allocate, print, open, sleep, fail, try
	Mark  string `json:"mark,omitempty"`  // a file below jobDir that tells one attempt from the next
	Bytes int    `json:"bytes,omitempty"` // allocate: how much; print: length of a line
	Lines int    `json:"lines,omitempty"` // print: how many
	MS    int    `json:"ms,omitempty"`    // sleep: how long
}

func (k task) String() string {
	data, err := json.Marshal(k)
	if err != nil {
		panic(err) // strings and numbers always marshal
	}
	return string(data)
}

// An answer is the result of a job, told by the process that ran it.
type answer struct {
	GPU        string            `json:"gpu"`
	WorkerID   string            `json:"worker_id"`
	Invocation string            `json:"invocation"`       // of the unit
	Opened     map[string]string `json:"opened,omitempty"` // open: device node → error
	Tried      map[string]string `json:"tried,omitempty"`  // try: what → error
}

// runJob is the job program.
func runJob() int {
	var k task
	if err := json.NewDecoder(os.Stdin).Decode(&k); err != nil {
		fmt.Fprintf(os.Stderr, "job: cannot read the payload: %v\n", err)
		return 65
	}
	a := answer{GPU: os.Getenv("GPU_INDEX"), WorkerID: os.Getenv("WORKER_ID"), Invocation: os.Getenv("INVOCATION_ID")}
	mark := filepath.Join(jobDir, filepath.Base(k.Mark))
	switch k.Do {
	case "sleep":
		time.Sleep(time.Duration(k.MS) * time.Millisecond)
	case "fail":
		return 1
	case "hold": // the first attempt never ends by itself, the next at once
		if first(mark) {
			time.Sleep(10 * time.Minute)
		}
	case "allocate": // the first attempt takes memory, the next does not
		if first(mark) {
			if err := allocate(k.Bytes); err != nil {
				fmt.Fprintf(os.Stderr, "job: %v\n", err)
				return 65
			}
		}
	case "print":
		if err := printLines(os.Stderr, k.Lines, k.Bytes); err != nil {
			fmt.Fprintf(os.Stderr, "job: %v\n", err)
			return 75
		}
	case "open":
		a.Opened = map[string]string{}
		for _, minor := range []string{"0", "1"} {
			node := filepath.Join(jobDir, "nvidia"+minor)
			a.Opened[minor] = openError(node, os.O_RDWR)
		}
	case "try":
		a.Tried = try()
	default:
		fmt.Fprintf(os.Stderr, "job: cannot %q\n", k.Do)
		return 65
	}
	if err := json.NewEncoder(os.Stdout).Encode(a); err != nil {
		return 75
	}
	return 0
}

// first reports whether nobody has left this mark yet, and leaves it.
func first(mark string) bool {
	f, err := os.OpenFile(mark, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o666)
	if err != nil {
		return false
	}
	return f.Close() == nil
}

// allocate takes memory, page by page in the kernel, and keeps it.
func allocate(bytes int) error {
	const step = 32 << 20
	for taken := 0; taken < bytes; taken += step {
		if _, err := unix.Mmap(-1, 0, step, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_POPULATE); err != nil {
			return fmt.Errorf("cannot map memory: %w", err)
		}
	}
	return fmt.Errorf("took %d bytes and was not stopped", bytes)
}

// printLines writes numbered lines, each of the given length with its line
// feed, as fast as the reader takes them.
func printLines(w io.Writer, lines, length int) error {
	buffer := make([]byte, 0, 64<<10)
	for i := range lines {
		buffer = append(buffer, numbered(i, length)...)
		buffer = append(buffer, '\n')
		if len(buffer)+length > cap(buffer) || i == lines-1 {
			if _, err := w.Write(buffer); err != nil {
				return err
			}
			buffer = buffer[:0]
		}
	}
	return nil
}

// numbered is line i without its line feed.
func numbered(i, length int) string {
	head := fmt.Sprintf("line %07d ", i)
	fill := make([]byte, length-1-len(head))
	for j := range fill {
		fill[j] = byte('a' + (i+j)%26)
	}
	return head + string(fill)
}

func openError(path string, flags int) string {
	f, err := os.OpenFile(path, flags, 0)
	if err == nil {
		_ = f.Close()
		return ""
	}
	var number syscall.Errno
	if errors.As(err, &number) {
		return unix.ErrnoName(number)
	}
	return err.Error()
}

var jobProgram struct {
	once sync.Once
	err  error
	used bool
}

// jobs makes this test binary the job program of the workers, once for all
// tests, and restarts them so that they know.
func (h *herd) jobs() {
	h.t.Helper()
	jobProgram.once.Do(func() {
		jobProgram.used = true
		if jobProgram.err = installJobProgram(); jobProgram.err != nil {
			return
		}
		h.reload()
		for _, worker := range h.workers() {
			h.restart(worker)
		}
	})
	if jobProgram.err != nil {
		h.t.Fatalf("cannot install the job program: %v", jobProgram.err)
	}
	h.healthy()
}

func installJobProgram() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(jobDir, 0o777); err != nil {
		return err
	}
	// Jobs run as the workers' user and leave their marks here.
	if err := os.Chmod(jobDir, 0o777); err != nil {
		return err
	}
	program := filepath.Join(jobDir, "job")
	if err := copyFile(self, program, 0o755); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(jobConf), 0o755); err != nil {
		return err
	}
	return os.WriteFile(jobConf, []byte("[Worker]\nExec="+program+"\n"), 0o644)
}

func removeJobProgram() error {
	if !jobProgram.used {
		return nil
	}
	return errors.Join(os.Remove(jobConf), os.RemoveAll(jobDir))
}

// answerOf decodes the result of a finished job.
func answerOf(t *testing.T, job map[string]string) answer {
	t.Helper()
	var a answer
	if err := json.Unmarshal([]byte(job["result"]), &a); err != nil {
		t.Fatalf("result of job %v: %v", job, err)
	}
	return a
}
