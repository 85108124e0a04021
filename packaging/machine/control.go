package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// pollEvery is how often the host looks into the control folder. The agent's
// own pace is in guest/agent.
const pollEvery = 10 * time.Millisecond

// control is the host's end of the folder through which guest/agent is told
// what to run.
type control struct {
	dir  string
	mu   sync.Mutex
	last int // number of the last command
}

// ready tells whether the agent has said so in file (up or booted), and what.
func (c *control) ready(file string) (words []string, ok bool) {
	data, err := os.ReadFile(filepath.Join(c.dir, file))
	if err != nil {
		return nil, false
	}
	return strings.Fields(string(data)), true
}

// submit hands a command to the agent and returns its number.
func (c *control) submit(argv []string) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	name := filepath.Join(c.dir, strconv.Itoa(c.last+1)+".command")
	if err := os.WriteFile(name+".new", []byte(script(argv)), 0o600); err != nil {
		return 0, fmt.Errorf("cannot hand over command: %w", err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		return 0, fmt.Errorf("cannot hand over command: %w", err)
	}
	c.last++
	return c.last, nil
}

// script is the shell script that becomes argv.
func script(argv []string) string {
	words := make([]string, len(argv))
	for i, arg := range argv {
		words[i] = "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
	}
	return "cd /\nexec " + strings.Join(words, " ") + "\n"
}

// run has the agent run argv, copies its output as it comes, and returns its
// exit status. When ctx ends the command is killed; gone is closed when the
// machine has ended.
func (c *control) run(ctx context.Context, argv []string, stdout, stderr io.Writer, gone <-chan struct{}) (int, error) {
	n, err := c.submit(argv)
	if err != nil {
		return -1, err
	}
	path := func(ext string) string { return filepath.Join(c.dir, strconv.Itoa(n)+ext) }
	out, errs := &tail{path: path(".out"), to: stdout}, &tail{path: path(".err"), to: stderr}
	defer out.close()
	defer errs.close()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		// The status is looked for before the output is read: what is there
		// when it appears is all that there will be.
		status, ended, err := readStatus(path(".exit"))
		if err := errors.Join(err, out.copy(), errs.copy()); err != nil {
			return -1, err
		}
		if ended {
			return status, nil
		}
		select {
		case <-gone:
			return -1, errors.Join(errMachineEnded, out.copy(), errs.copy())
		case <-ctx.Done():
			err := os.WriteFile(path(".cancel"), nil, 0o600)
			return -1, errors.Join(context.Cause(ctx), err)
		case <-tick.C:
		}
	}
}

var errMachineEnded = errors.New("the machine ended while a command ran in it")

func readStatus(path string) (status int, ended bool, err error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("cannot read exit status: %w", err)
	}
	status, err = strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return 0, false, fmt.Errorf("cannot read exit status: %w", err)
	}
	return status, true, nil
}

// tail copies a growing file.
type tail struct {
	path string
	to   io.Writer
	file *os.File
}

// copy copies what has come since the last call.
func (t *tail) copy() error {
	if t.file == nil {
		file, err := os.Open(t.path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot read output: %w", err)
		}
		t.file = file
	}
	to := t.to
	if to == nil {
		to = io.Discard
	}
	if _, err := io.Copy(to, t.file); err != nil {
		return fmt.Errorf("cannot copy output: %w", err)
	}
	return nil
}

func (t *tail) close() {
	if t.file != nil {
		_ = t.file.Close()
	}
}
