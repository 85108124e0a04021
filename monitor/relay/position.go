package relay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"gpuherd/monitor/pulse"
	"gpuherd/monitor/state"
)

// positionFile is below StateDirectory=.
const positionFile = "position.json"

// How often a position is kept: while something happens, and else.
const (
	keepEvery = 2 * time.Second
	keepIdle  = 30 * time.Second
)

// A Position is how far Redis has been told, kept over the monitor's end: the
// next monitor reads the journal from there. It counts for one boot.
type Position struct {
	BootID      string                `json:"boot_id"`
	MonotonicUS uint64                `json:"monotonic_us"` // CLOCK_MONOTONIC: what systemd had told before is in Redis
	Units       map[string]state.Seed `json:"units"`        // as Redis has them
}

// told is what Redis has confirmed.
type told struct {
	units  map[string]state.Seed
	seq    uint64 // of the last event
	monoUS uint64
}

// tells is what Redis knows once it confirms a batch.
type tells struct {
	reset  bool
	units  map[string]state.Seed
	gone   []string
	monoUS uint64 // 0: not all was taken, or the view of the herd was not current
}

// tells returns what Redis will know once it has all of p, taken at monoUS.
func (p *pending) tells(monoUS uint64) tells {
	t := tells{reset: p.reset, units: make(map[string]state.Seed, len(p.units)), monoUS: monoUS}
	for name, u := range p.units {
		if u == nil {
			t.gone = append(t.gone, name)
		} else {
			t.units[name] = state.NewSeed(*u)
		}
	}
	return t
}

// current returns the time if the view of the herd is current and all of it
// was pushed, else 0.
func (r *Relay) current() uint64 {
	if r.cfg.Monotonic == nil || !r.cfg.Alive() || !r.source.Synced() {
		return 0
	}
	return r.cfg.Monotonic()
}

// note takes what Redis has confirmed.
func (r *Relay) note(t tells) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t.reset {
		clear(r.told.units)
	}
	maps.Copy(r.told.units, t.units)
	for _, name := range t.gone {
		delete(r.told.units, name)
	}
	r.told.seq = r.acked
	r.told.monoUS = max(r.told.monoUS, t.monoUS)
}

// A Keeper keeps a Relay's Position in a folder. It is a task of its own, so
// that no write to Redis waits for the disk.
type Keeper struct {
	Relay *Relay
	Dir   string // of the service: StateDirectory=
	Log   *slog.Logger

	seq    uint64 // as kept last
	monoUS uint64
	failed bool
}

// String names the task.
func (k *Keeper) String() string { return "position keeper" }

// Run keeps the Position every keepEvery while it changes, and returns nil
// when ctx ends. Keep comes after it.
func (k *Keeper) Run(ctx context.Context) error {
	t := pulse.NewTicker(keepEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			k.keep(keepIdle)
		}
	}
}

// Keep keeps the Position as it is now.
func (k *Keeper) Keep() { k.keep(0) }

// keep keeps the Position if there were events, or the last one is older than
// idle.
func (k *Keeper) keep(idle time.Duration) {
	r := k.Relay
	r.mu.Lock()
	now := r.told
	if now.monoUS == 0 || now.seq == k.seq && now.monoUS-k.monoUS < uint64(idle.Microseconds()) {
		r.mu.Unlock()
		return
	}
	p := Position{BootID: r.cfg.BootID, MonotonicUS: now.monoUS, Units: maps.Clone(now.units)}
	r.mu.Unlock()
	if err := p.save(k.Dir); err != nil {
		if !k.failed {
			k.Log.Warn("how far Redis was told is not kept: without Redis' help a new monitor would not know what it missed", "error", err)
		}
		k.failed = true
		return
	}
	k.seq, k.monoUS, k.failed = now.seq, now.monoUS, false
}

// save replaces the file. It counts for this boot only, so it does not have to
// be on the disk when the machine loses its power.
func (p *Position) save(dir string) error {
	path := filepath.Join(dir, positionFile)
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, stateMode)
	if err != nil {
		return err
	}
	_, err = f.WriteString(encode(p))
	if err := errors.Join(err, f.Chmod(stateMode), giveTo(dir, f), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// LoadPosition returns what an earlier monitor of this boot kept in dir; nil:
// nothing. An error says why a file that is there is of no use.
func LoadPosition(dir, bootID string) (*Position, error) {
	path := filepath.Join(dir, positionFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read how far Redis was told: %w", err)
	}
	var p Position
	if err := json.Unmarshal(data, &p); err != nil {
		return nil, fmt.Errorf("cannot read how far Redis was told in %s: %w", path, err)
	}
	if p.BootID != bootID {
		return nil, nil
	}
	return &p, nil
}
