package main

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

const (
	listings = 20 // of each tool, in turn
	restarts = 5  // of all workers
)

// benchHands measures what a person waits for with 64 workers, next to
// systemctl and PM2's own command line.
func benchHands(ctx context.Context, r *result, h *herd, p *pm2) error {
	inside := func(command string) func() (time.Duration, error) {
		return func() (time.Duration, error) { return h.timeCommand(ctx, command) }
	}
	pm2 := func(args ...string) func() (time.Duration, error) {
		return func() (time.Duration, error) { return p.timeCommand(ctx, args...) }
	}
	list, err := inTurn(listings, inside("gpuherd list"), inside("systemctl list-units --no-pager"), pm2("list"))
	if err != nil {
		return err
	}
	restart, err := inTurn(restarts, inside("gpuherd restart bench"), pm2("restart", "all"))
	if err != nil {
		return err
	}
	note := fmt.Sprintf("%d workers, %d times in turn", workers, listings)
	r.addTimes("gpuherd list", list[0], note)
	r.addTimes("systemctl list-units", list[1], note)
	r.addTimes("pm2 list", list[2], note)
	r.add(figure{Name: "list: ratio to systemctl", Value: medianRatio(list[0], list[1]), Goal: 1.5, Note: "median of the pairs"})
	r.add(figure{Name: "list: ratio to PM2", Value: medianRatio(list[0], list[2]), Goal: 0.25, Note: "median of the pairs"})
	note = fmt.Sprintf("%d workers, %d times in turn", workers, restarts)
	r.addTimes("gpuherd restart", restart[0], note)
	r.addTimes("pm2 restart all", restart[1], note)
	r.add(figure{Name: "restart of all: ratio to PM2", Value: medianRatio(restart[0], restart[1]), Goal: 0.25, Note: "median of the pairs"})
	return nil
}

// inTurn times each command so often, one after the other.
func inTurn(times int, commands ...func() (time.Duration, error)) ([][]time.Duration, error) {
	took := make([][]time.Duration, len(commands))
	for range times {
		for i, command := range commands {
			t, err := command()
			if err != nil {
				return nil, err
			}
			took[i] = append(took[i], t)
		}
	}
	return took, nil
}

// timeCommand times a command in the container, by the shell there: the way in
// is not what is measured.
func (h *herd) timeCommand(ctx context.Context, command string) (time.Duration, error) {
	script := fmt.Sprintf(`begin=$(date +%%s%%N); %s >/dev/null || exit; end=$(date +%%s%%N); echo $((end - begin))`, command)
	var out, errs bytes.Buffer
	status, err := h.machine.Run(ctx, []string{"/bin/sh", "-c", script}, &out, &errs)
	if err != nil {
		return 0, err
	}
	ns, err := strconv.ParseInt(strings.TrimSpace(out.String()), 10, 64)
	if status != 0 || err != nil {
		return 0, fmt.Errorf("%s ended with %d: %s", command, status, errs.String())
	}
	return time.Duration(ns), nil
}

func (p *pm2) timeCommand(ctx context.Context, args ...string) (time.Duration, error) {
	begin := time.Now()
	if out, err := p.command(ctx, append([]string{"node_modules/pm2/bin/pm2"}, args...)...).CombinedOutput(); err != nil {
		return 0, fmt.Errorf("pm2 %s: %w\n%s", args[0], err, out)
	}
	return time.Since(begin), nil
}
