package gpuhealth

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"reflect"
	"slices"
	"strings"

	"gpuherd/generator/gpu"
	"gpuherd/monitor/state"
)

// unwatched returns why nothing new is heard of GPUs, or the empty string.
func (w *Watch) unwatched() string {
	switch {
	case w.released:
		return "released, since /" + ReleasePath + " exists"
	case w.reader != nil && w.reader.stuck() >= w.HangAfter:
		return "NVML does not answer"
	}
	return w.closed
}

// tell tells how the GPUs are, and asks for a rescan where the inventory does
// not know that one is lost, or is back.
func (w *Watch) tell() {
	if w.file.last.inv == nil && w.told == nil {
		return // no inventory yet
	}
	unwatched := w.unwatched()
	gpus := make([]state.GPU, 0, len(w.inventory))
	for _, g := range w.inventory {
		out, r := describe(g), w.of(g.PCI)
		out.Health, out.Reasons = r.verdict(g, unwatched)
		lost, known := r.lost()
		if known && !lost && unwatched == "" {
			out.Temperature, out.Utilisation = r.sample.Temperature, r.sample.Utilisation
		}
		if known && unwatched == "" {
			w.compare(g, lost)
		}
		gpus = append(gpus, out)
	}
	if reflect.DeepEqual(gpus, w.told) {
		return
	}
	w.logChanges(gpus, unwatched)
	w.told = gpus
	w.Set(gpus)
}

// compare asks for a rescan, once, where the inventory does not say of a GPU
// whether it is lost.
func (w *Watch) compare(g gpu.GPU, lost bool) {
	if lost == (g.Fault != "") {
		delete(w.asked, g.PCI)
		return
	}
	if before, asked := w.asked[g.PCI]; asked && before == lost {
		return
	}
	w.asked[g.PCI] = lost
	w.Log.Info("asking for a rescan", "gpu", g.Index, "pci", g.PCI, "lost", lost)
	if err := RequestRescan(w.Root); err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.Log.Warn(err.Error())
	}
}

// logChanges logs which GPUs are otherwise well or ill than before. That none
// is heard of is one line for all of them.
func (w *Watch) logChanges(gpus []state.GPU, unwatched string) {
	if unwatched == "" {
		delete(w.said, "unwatched")
	} else if len(hardware(w.inventory)) > 0 && !w.released {
		w.once("unwatched", slog.LevelWarn, "it is not known how the GPUs are", "reason", unwatched)
	}
	for _, g := range gpus {
		var before state.GPU
		if i := slices.IndexFunc(w.told, func(o state.GPU) bool { return o.PCI == g.PCI }); i >= 0 {
			before = w.told[i]
		}
		if before.Health == g.Health && slices.Equal(before.Reasons, g.Reasons) {
			continue
		}
		args := []any{"gpu", g.Index, "pci", g.PCI, "reason", strings.Join(g.Reasons, "; ")}
		switch {
		case g.Health == state.Unhealthy:
			w.Log.Error("GPU is unhealthy", args...)
		case g.Health == state.Healthy && before.Health == state.Unhealthy:
			w.Log.Info("GPU is healthy again", args[:4]...)
		case g.Health == state.HealthUnknown && unwatched == "" && len(g.Reasons) > 0:
			w.Log.Warn("it is not known how the GPU is", args...)
		}
	}
}

// once logs what is not the same as the last of its kind.
func (w *Watch) once(kind string, level slog.Level, msg string, args ...any) {
	if line := fmt.Sprint(args...); w.said[kind] != line {
		w.said[kind] = line
		w.Log.Log(context.Background(), level, msg, args...)
	}
}
