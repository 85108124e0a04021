package main

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"gpuherd/units/queue"
)

// terminal returns both ends of a new terminal.
func terminal(t *testing.T) (keyboard, tty *os.File) {
	t.Helper()
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { keyboard.Close() })
	if err := unix.IoctlSetPointerInt(int(keyboard.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(keyboard.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tty.Close() })
	return keyboard, tty
}

// TestTerminal: from a terminal, with no systemd and no configuration, Ctrl-C
// lets the job finish, and the second one does not.
func TestTerminal(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		presses int
		want    queue.Record
	}{
		"once":  {1, queue.Record{State: queue.Succeeded, Attempts: 1, Result: "done"}},
		"twice": {2, queue.Record{State: queue.Waiting}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			f.add("job-1")
			keyboard, tty := terminal(t)
			log := &worker{f: f}
			// The terminal's signal would reach the job, too, were it in the
			// worker's process group.
			cmd := exec.Command(os.Args[0], "--redis", f.srv.URL(), "--queue", "gpu", "--exec",
				`/bin/sh -c 'trap "" TERM; echo $$ >> "$DIR"/runs; while ! [ -e "$DIR"/go ]; do sleep 0.01; done; echo done'`)
			cmd.Env = append(os.Environ(), beMain+"=1", "NOTIFY_SOCKET=", "JOURNAL_STREAM=", "REDIS_URL=", "DIR="+f.dir)
			cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, log, log
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			f.until("a run", func() bool { return f.runs("runs") == 1 })
			for i := range tt.presses {
				if _, err := keyboard.WriteString("\x03"); err != nil {
					t.Fatal(err)
				}
				f.until("it is heard", func() bool { return log.tells([]string{"the job may go on", "stopping at once"}[i]) })
			}
			if tt.presses == 1 {
				if err := os.WriteFile(f.dir+"/go", nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			select {
			case err := <-ended:
				if err != nil {
					t.Errorf("%v\n%s", err, log.logged())
				}
			case <-f.ctx.Done():
				cmd.Process.Kill()
				t.Fatalf("it does not end:\n%s", log.logged())
			}
			got, _, err := f.queue.Get(f.ctx, "job-1")
			if err != nil {
				t.Fatal(err)
			}
			tt.want.Worker = got.Worker // it has the process ID in its name
			f.want("job-1", tt.want)
			// Nobody comes after it by that name.
			if names, err := f.redis.XInfoConsumers(f.ctx, f.queue.Key("jobs"), queue.Group).Result(); err != nil || len(names) != 0 {
				t.Errorf("consumers %v, %v", names, err)
			}
		})
	}
}
