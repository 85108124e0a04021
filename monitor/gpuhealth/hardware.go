package gpuhealth

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"gpuherd/generator/plan"
	"gpuherd/monitor/pulse"
)

// Every is how often a Hardware looks.
const Every = 2 * time.Second

// A Hardware watches what the kernel shows of GPUs and asks for a rescan where
// that changes: for containers, which have no udev, and for MIG devices, which
// come and go without an event. Where the inventory then still tells otherwise
// it asks again, a few times.
//
// It asks as well where systemd reloaded and lost the herd: on a host so busy
// that the generator ran out of time it has written nothing, workers go on but
// are not restarted, and nothing else would have systemd reload again.
type Hardware struct {
	Root      string // of the file system: "/"
	Container bool   // the machine is one
	Every     time.Duration
	Request   func() error // asks for a rescan; nil: RequestRescan
	Log       *slog.Logger

	inventory file
	lister    lister
	last      []string        // shown last; nil: nothing yet
	planned   bool            // the generator has written units
	missing   int             // looks since they were there
	asked     int             // times since the last change
	pending   bool            // a request is due
	next      time.Time       // when to ask again at the earliest
	said      map[string]bool // errors, so that each is logged once
}

const (
	// askAgain is how long a rescan has to bring the inventory up to date;
	// each further one has twice the time.
	askAgain = time.Minute
	// askMost is how often it is asked for one change: a GPU that never
	// answers is not worth a rescan for ever.
	askMost = 6
	// lostAfter is at how many looks in a row the units must be missing: they
	// are, for a moment, while systemd runs its generators.
	lostAfter = 2
)

// String names the task.
func (h *Hardware) String() string { return "GPU hardware" }

// Run watches until ctx ends, and returns nil then.
func (h *Hardware) Run(ctx context.Context) error {
	every := h.Every
	if every <= 0 {
		every = Every
	}
	t := pulse.NewTicker(every)
	defer t.Stop()
	for {
		h.look(time.Now())
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

func (h *Hardware) look(now time.Time) {
	inv, _, err := h.inventory.read(h.Root)
	if err != nil {
		return // setup has not run yet, and a rescan has nothing to compare with
	}
	h.lister.root = h.Root
	shown, errs := h.lister.list()
	for _, err := range errs {
		h.complain("cannot list GPUs", err)
	}
	differences := differ(shown, inv, h.Container)
	lost := h.lost()
	if lost {
		differences = append(differences, "the generator has written no units")
	}
	first := h.last == nil
	came, went := without(shown, h.last), without(h.last, shown)
	h.last = slices.Concat([]string{}, shown) // never nil
	switch {
	case first:
		if len(differences) > 0 {
			h.Log.Info("the GPUs are not those of the inventory, asking for a rescan", "differences", strings.Join(differences, "; "))
			h.pending = true
		}
	case len(came)+len(went) > 0:
		h.Log.Info("the GPUs have changed, asking for a rescan", "came", strings.Join(came, ", "), "went", strings.Join(went, ", "))
		h.asked, h.pending = 0, true
	case lost && h.missing == lostAfter:
		h.Log.Warn("systemd has reloaded, and the generator has written none of the units that were there; asking for a rescan")
		h.asked, h.pending = 0, true
	case len(differences) == 0:
		h.asked, h.next = 0, now.Add(askAgain)
	case now.Before(h.next):
	case h.asked < askMost:
		h.Log.Info("the GPUs are still not those of the inventory, asking for a rescan", "differences", strings.Join(differences, "; "))
		h.pending = true
	case h.asked == askMost:
		h.Log.Info("the GPUs are not those of the inventory, and rescans did not change that: gpuherd explain says why", "differences", strings.Join(differences, "; "))
		h.asked++
	}
	if h.pending {
		h.ask(now)
	}
}

// lost reports whether the generator wrote units before, and none at systemd's
// last reload.
func (h *Hardware) lost() bool {
	_, err := os.Stat(filepath.Join(h.Root, plan.GeneratorDir, plan.Target+".wants"))
	switch {
	case err == nil:
		h.planned, h.missing = true, 0
	case h.planned && errors.Is(err, fs.ErrNotExist):
		h.missing++
	}
	return h.missing >= lostAfter
}

func (h *Hardware) ask(now time.Time) {
	request := h.Request
	if request == nil {
		request = func() error { return RequestRescan(h.Root) }
	}
	if err := request(); err != nil {
		h.complain("the GPUs have changed, but no rescan can be asked for", err)
		return // and tries again at the next look
	}
	h.pending = false
	h.next = now.Add(askAgain << h.asked)
	h.asked++
}

// complain logs an error once.
func (h *Hardware) complain(message string, err error) {
	if h.said[err.Error()] {
		return
	}
	if h.said == nil {
		h.said = map[string]bool{}
	}
	h.said[err.Error()] = true
	h.Log.Warn(message, "error", err)
}

// without returns the words of the sorted list a that the sorted list b lacks.
func without(a, b []string) []string {
	var rest []string
	for _, word := range a {
		if _, ok := slices.BinarySearch(b, word); !ok {
			rest = append(rest, word)
		}
	}
	return rest
}
