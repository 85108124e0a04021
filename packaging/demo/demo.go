package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/term"

	"gpuherd/monitor/state"
	"gpuherd/packaging/machine"
)

const (
	jobs   = "gpuherd:queue:{gpu}:jobs"
	job    = "gpuherd:queue:{gpu}:job:"
	worker = "redis-worker@0.service"
	// longJobs is a file in the machine: no job ends as long as it exists, so
	// that there is one to lose however slow the machine is.
	longJobs = "/var/lib/demo/long-jobs"
)

// A demo is the demonstration in a booted machine.
type demo struct{ m *machine.Machine }

// play shows everything, and fails at the first thing that did not happen.
func (d *demo) play(ctx context.Context) error {
	heading("The herd: one worker a GPU")
	if err := d.waitHerd(ctx, 0); err != nil {
		return err
	}
	if _, err := d.show(ctx, "gpuherd", "list"); err != nil {
		return err
	}

	heading("Three jobs, by plain redis-cli")
	ids := []string{"horse", "castle", "volcano"}
	for _, id := range ids {
		if _, err := d.show(ctx, "redis-cli", "XADD", jobs, "*", "id", id, "payload", `{"prompt":"a `+id+`"}`); err != nil {
			return err
		}
	}
	lost, err := d.waitRunning(ctx, ids)
	if err != nil {
		return err
	}
	if _, err := d.show(ctx, "gpuherd", "list"); err != nil {
		return err
	}

	heading("The worker of GPU 0 is killed while it has the job " + lost)
	before, err := d.unit(ctx, worker)
	if err != nil {
		return err
	}
	if _, err := d.show(ctx, "kill", "-KILL", strconv.Itoa(int(before.PID))); err != nil {
		return err
	}
	if _, err := d.run(ctx, "rm", longJobs); err != nil {
		return err
	}
	if err := d.waitHerd(ctx, before.Restarts+1); err != nil {
		return err
	}
	after, err := d.unit(ctx, worker)
	if err != nil {
		return err
	}
	if after.PID == before.PID || after.InvocationID == before.InvocationID {
		return fmt.Errorf("%s was not replaced: %+v, before %+v", worker, after, before)
	}
	if _, err := d.show(ctx, "gpuherd", "list"); err != nil {
		return err
	}

	heading("The results: all three, the lost one at its second attempt")
	for _, id := range ids {
		attempts := "1"
		if id == lost {
			attempts = "2"
		}
		if err := d.result(ctx, id, attempts); err != nil {
			return err
		}
	}

	heading("What Redis tells the fleet, in order: stream gpuherd:{gpubox}:events")
	if err := d.events(ctx, before, after); err != nil {
		return err
	}

	heading("What the journal says of the restart")
	return d.journal(ctx)
}

func heading(text string) {
	line := "── " + text
	if term.IsTerminal(int(os.Stdout.Fd())) && os.Getenv("NO_COLOR") == "" {
		line = "\033[1m" + line + "\033[0m"
	}
	fmt.Printf("\n%s\n", line)
}

// run runs a command in the machine and returns its output.
func (d *demo) run(ctx context.Context, argv ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	status, err := d.m.Run(ctx, argv, &stdout, &stderr)
	if err != nil {
		return "", err
	}
	if status != 0 {
		return "", fmt.Errorf("%s ended with %d: %s%s", strings.Join(argv, " "), status, stdout.String(), stderr.String())
	}
	return stdout.String(), nil
}

// show is run for a user's eyes: as typed into a shell, and its output.
func (d *demo) show(ctx context.Context, argv ...string) (string, error) {
	words := make([]string, len(argv))
	for i, word := range argv {
		words[i] = word
		if strings.ContainsAny(word, " {}*\"") {
			words[i] = "'" + word + "'"
		}
	}
	fmt.Println("$ " + strings.Join(words, " "))
	out, err := d.run(ctx, argv...)
	fmt.Print(out)
	return out, err
}

// eventually waits for a condition in the machine.
func eventually(ctx context.Context, what string, check func() error) error {
	for deadline := time.Now().Add(time.Minute); ; {
		err := check()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			return fmt.Errorf("waited in vain until %s: %w", what, err)
		}
		// Each look starts a process, which is slow in there.
		time.Sleep(200 * time.Millisecond)
	}
}

// unit reads one unit as systemd has it.
func (d *demo) unit(ctx context.Context, name string) (state.Unit, error) {
	units, err := d.herd(ctx)
	if err != nil {
		return state.Unit{}, err
	}
	for _, u := range units {
		if u.Name == name {
			return u, nil
		}
	}
	return state.Unit{}, fmt.Errorf("no %s in the herd: %+v", name, units)
}

func (d *demo) herd(ctx context.Context) ([]state.Unit, error) {
	out, err := d.run(ctx, "gpuherd", "list", "--json")
	if err != nil {
		return nil, err
	}
	var units []state.Unit
	if err := json.Unmarshal([]byte(out), &units); err != nil {
		return nil, fmt.Errorf("cannot read gpuherd list: %w: %s", err, out)
	}
	return units, nil
}

// waitHerd waits until both workers run, that of GPU 0 after so many restarts.
func (d *demo) waitHerd(ctx context.Context, restarts uint64) error {
	return eventually(ctx, "both workers run", func() error {
		units, err := d.herd(ctx)
		if err != nil {
			return err
		}
		running := 0
		for _, u := range units {
			if u.Service == "redis-worker" && u.Active == "active" && u.Sub == "running" && (u.Name != worker || u.Restarts == restarts) {
				running++
			}
		}
		if running != 2 {
			return fmt.Errorf("the herd is %+v", units)
		}
		return nil
	})
}

// waitRunning waits until the worker of GPU 0 has one of the jobs, and says
// which.
func (d *demo) waitRunning(ctx context.Context, ids []string) (held string, err error) {
	err = eventually(ctx, "the worker of GPU 0 has a job", func() error {
		for _, id := range ids {
			out, err := d.run(ctx, "redis-cli", "HMGET", job+id, "state", "worker")
			if err != nil {
				return err
			}
			if out == "running\ngpubox/redis-worker@0\n" {
				held = id
				return nil
			}
		}
		return fmt.Errorf("it has none of %v", ids)
	})
	return held, err
}

// result waits for the end of a job, shows it, and checks the answer.
func (d *demo) result(ctx context.Context, id, attempts string) error {
	argv := []string{"redis-cli", "HMGET", job + id, "state", "attempts", "worker", "result"}
	err := eventually(ctx, "job "+id+" is done", func() error {
		out, err := d.run(ctx, argv...)
		if err == nil && !strings.HasPrefix(out, "succeeded\n") {
			err = fmt.Errorf("it is %q", out)
		}
		return err
	})
	if err != nil {
		return err
	}
	out, err := d.show(ctx, argv...)
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != 4 || lines[1] != attempts || !strings.Contains(lines[3], "a "+id) || !strings.Contains(lines[3], "GPU-") {
		return fmt.Errorf("job %s: want attempt %s and an answer with its prompt and a GPU, have %q", id, attempts, lines)
	}
	return nil
}

// events shows what the stream tells of the crash, and checks its order.
func (d *demo) events(ctx context.Context, before, after state.Unit) error {
	var told []state.UnitEvent
	err := eventually(ctx, "redis tells of the restart", func() error {
		out, err := d.run(ctx, "redis-cli", "--json", "XRANGE", "gpuherd:{gpubox}:events", "-", "+")
		if err != nil {
			return err
		}
		if told, err = crash(out, before); err != nil {
			return err
		}
		if len(told) == 0 || told[len(told)-1].PID != after.PID || told[len(told)-1].Event != state.Running {
			return fmt.Errorf("it tells %+v", told)
		}
		return nil
	})
	if err != nil {
		return err
	}
	var text bytes.Buffer
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "SEQ\tUNIT\tEVENT\tRESULT\tPID\tRESTARTS")
	var phases []string
	for _, u := range told {
		_, _ = fmt.Fprintf(table, "%d\t%s\t%s\t%s\t%d\t%d\n", u.Seq, u.Name, u.Event, u.Result, u.PID, u.Restarts)
		phases = append(phases, u.Event)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Print(text.String())
	want := []string{state.Failed, state.Starting, state.Running}
	if last := told[len(told)-1]; !slices.Equal(phases, want) || told[0].Result != "signal" || last.Restarts != before.Restarts+1 {
		return fmt.Errorf("want the events %v and one more restart after %d", want, before.Restarts)
	}
	return nil
}

// crash reads, out of the whole stream, what is told of a unit from the end of
// its invocation before on.
func crash(stream string, before state.Unit) ([]state.UnitEvent, error) {
	var entries [][]json.RawMessage
	if err := json.Unmarshal([]byte(stream), &entries); err != nil {
		return nil, fmt.Errorf("cannot read the stream: %w: %s", err, stream)
	}
	var told []state.UnitEvent
	for _, entry := range entries {
		var fields []string
		if len(entry) != 2 || json.Unmarshal(entry[1], &fields) != nil {
			return nil, fmt.Errorf("cannot read the stream's entry %s", entry)
		}
		values := map[string]string{}
		for i := 0; i+1 < len(fields); i += 2 {
			values[fields[i]] = fields[i+1]
		}
		if values["type"] != state.TypeUnit {
			continue
		}
		var u state.UnitEvent
		if err := json.Unmarshal([]byte(values["data"]), &u); err != nil {
			return nil, fmt.Errorf("cannot read the event %q: %w", values["data"], err)
		}
		begun := len(told) > 0 || u.InvocationID == before.InvocationID && u.Event == state.Failed
		if u.Name == before.Name && begun {
			told = append(told, u)
		}
	}
	return told, nil
}

// journal shows systemd's own lines of the restart.
func (d *demo) journal(ctx context.Context) error {
	wanted := []string{"code=killed, status=9/KILL", "Failed with result 'signal'", "restart counter is at 1", "Started " + worker}
	var shown []string
	err := eventually(ctx, "the journal tells of the restart", func() error {
		out, err := d.run(ctx, "journalctl", "--no-pager", "--quiet", "--output=short-monotonic", "--unit="+worker)
		if err != nil {
			return err
		}
		shown = shown[:0]
		for _, line := range strings.Split(out, "\n") {
			ours := strings.Contains(line, " systemd[1]: ") || strings.Contains(line, " redis-worker[")
			if ours && (len(shown) > 0 || strings.Contains(line, wanted[0])) {
				shown = append(shown, line)
			}
		}
		for _, want := range wanted {
			if !strings.Contains(out, want) {
				return fmt.Errorf("it does not say %q:\n%s", want, out)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	fmt.Println("$ journalctl --unit=" + worker)
	fmt.Println(strings.Join(shown, "\n"))
	return nil
}
