package redisworker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"gpuherd/generator/gpu"
	"gpuherd/generator/service"
)

// ErrUnfit is what Run returns, wrapped, where the GPU does not work.
var ErrUnfit = errors.New("GPU is not fit")

const (
	// doubt is how many attempts in a row may fail before the GPU is looked at:
	// that many are rarely the fault of the jobs alone.
	doubt = 3
	// fitTimeout is how long a program may take to say whether the GPU works.
	fitTimeout = 50 * time.Second
)

// NodesFit returns a function for Options.Fit which opens the device nodes
// that a program needs on the GPU, or part of one, of an instance: a GPU that
// fell off the bus, or whose driver is gone, refuses that. A simulated GPU, and
// one that the inventory does not have, is fit. root is "/" but in tests.
func NodesFit(root string, in service.Instance) func(context.Context) error {
	return func(context.Context) error {
		inv, err := gpu.ReadInventory(root)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, gpu.ErrStale):
			return nil
		case err != nil:
			return err
		}
		if in.GPU >= len(inv.GPUs) {
			return nil
		}
		g := inv.GPUs[in.GPU]
		switch {
		case g.Simulated:
			return nil
		case g.Fault != "":
			return fmt.Errorf("GPU %d at %s: %s", g.Index, g.Address(), g.Fault)
		}
		for _, n := range nodes(g, in.MIG) {
			f, err := os.OpenFile(filepath.Join(root, n.path), n.flags|unix.O_CLOEXEC, 0)
			if err != nil {
				return fmt.Errorf("GPU %d at %s: %w", g.Index, g.Address(), err)
			}
			_ = f.Close() // nothing was written
		}
		return nil
	}
}

type node struct {
	path  string
	flags int
}

// nodes lists what CUDA opens: compare the generator's DeviceAllow=.
func nodes(g gpu.GPU, mig int) []node {
	if g.Node == gpu.WSLNode {
		return []node{{g.Node, os.O_RDWR}}
	}
	list := []node{
		{"/dev/nvidiactl", os.O_RDWR},
		{fmt.Sprintf("/dev/nvidia%d", g.Minor), os.O_RDWR},
		{"/dev/nvidia-uvm", os.O_RDWR},
	}
	for _, m := range g.MIG {
		if m.Index != mig {
			continue
		}
		for _, minor := range []int{m.GIMinor, m.CIMinor} {
			if minor >= 0 {
				list = append(list, node{fmt.Sprintf("/dev/nvidia-caps/nvidia-cap%d", minor), os.O_RDONLY})
			}
		}
	}
	return list
}

// ProgramFit returns a function for Options.Fit which runs the program of e, by
// whose exit status it goes. What it prints is in the log after "[fitness]".
func ProgramFit(e *Exec) func(context.Context) error {
	return func(ctx context.Context) error {
		if o := e.Run(ctx, Attempt{ID: "fitness", Timeout: fitTimeout}, func(string) {}); o.Verdict != Succeeded {
			return fmt.Errorf("%s: %s", e.Argv[0], o.Error)
		}
		return nil
	}
}

// fit says whether the GPU works, with an error that is ErrUnfit.
func (w *Worker) fit(ctx context.Context) error {
	if w.Fit == nil {
		return nil
	}
	w.say("looking whether the GPU works")
	err := do(w, func() error { return w.Fit(context.WithoutCancel(ctx)) })
	if err != nil {
		w.Notify("STATUS=" + ErrUnfit.Error() + ": " + inert(err.Error()))
		return fmt.Errorf("%w: %w", ErrUnfit, err)
	}
	return nil
}

// judge counts attempts that failed in a row, and has the GPU looked at after
// some. A job that is refused, or takes too much memory, says nothing of it.
func (w *Worker) judge(ctx context.Context, o Outcome) error {
	switch {
	case o.Verdict == Succeeded:
		w.failures = 0
	case o.Verdict == Failed && o.Reason != ReasonOOM:
		w.failures++
	}
	if w.failures < doubt {
		return nil
	}
	w.failures = 0
	err := w.fit(ctx)
	if err == nil && w.Fit != nil {
		w.Log.Info("attempts failed in a row, but the GPU is fit", "attempts", doubt)
	}
	return err
}
