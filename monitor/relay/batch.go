package relay

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"gpuherd/monitor/state"
)

// A batch is one call of batchScript. It stays the same until Redis has
// confirmed it.
type batch struct {
	number uint64
	ops    []any
	events []state.Event
	last   uint64 // seq of the last event in it; 0: none
	tells  tells
}

// A Heartbeat is the value of the heartbeat key.
type Heartbeat struct {
	BootID  string  `json:"boot_id"`
	Epoch   uint64  `json:"epoch"`
	Seq     uint64  `json:"seq"`
	Version string  `json:"version"`
	Uptime  float64 `json:"uptime"` // of the host, seconds
}

// flush writes all that waits. beat asks for a heartbeat, which goes along
// with the first batch. Where nothing proves life, a batch without one still
// finds out whether Redis takes what is written, and has what it confirmed.
func (r *Relay) flush(ctx context.Context, beat bool) error {
	for {
		if r.flight == nil {
			if r.snapshot != "" && r.source.Synced() && r.drained() {
				reason := r.snapshot
				r.snapshot = ""
				r.source.Snapshot(reason)
				// Not all hosts of a fleet at once.
				r.reassert.Reset(r.cfg.Reassert*3/4 + rand.N(r.cfg.Reassert/2+1))
				beat = true
			}
			ops, events, tells := r.take()
			if len(ops) == 0 && !beat {
				return nil
			}
			r.flight = r.assemble(ops)
			r.flight.events, r.flight.tells = events, tells
			if n := len(events); n > 0 {
				r.flight.last = events[n-1].Seq
			}
		}
		var extra []any
		if beat && r.cfg.Alive() {
			extra = r.heartbeat()
		}
		if err := r.send(ctx, extra); err != nil {
			return err
		}
		if extra != nil {
			if err := r.enlist(ctx); err != nil {
				return err
			}
		}
		beat = false
	}
}

// drained reports whether no event waits: a snapshot comes after what led to
// it.
func (r *Relay) drained() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pending.len() == 0
}

// take removes up to one batch from what waits, as operations. Units and GPUs
// go with the last of the events: who finds a unit in Redis finds all that led
// there in the stream.
func (r *Relay) take() (ops []any, events []state.Event, t tells) {
	now := r.current()
	r.mu.Lock()
	defer r.mu.Unlock()
	p := &r.pending
	if p.empty() {
		return nil, nil, tells{monoUS: now}
	}
	n := min(len(p.events), batchEvents)
	events = append(events, p.events[:n]...)
	clear(p.events[:n])
	p.events = p.events[n:]
	if len(p.events) > 0 {
		return r.eventOps(nil, events), events, tells{}
	}
	p.events = nil // so that a long outage's array does not stay
	t = p.tells(now)

	if p.reset {
		ops = append(ops, "R")
		p.reset = false
	}
	for name, u := range p.units {
		if u == nil {
			ops = append(ops, "D", name)
		} else {
			ops = append(ops, "U", name, encode(u))
		}
	}
	clear(p.units)
	if p.gpusSet {
		ops = append(ops, "C")
		for _, g := range p.gpus {
			ops = append(ops, "G", strconv.Itoa(g.Index), encode(g))
		}
		p.gpusSet = false
	}
	ops = r.eventOps(ops, events)
	for _, h := range p.hints {
		_, msg := r.encode(h)
		ops = append(ops, "P", msg)
	}
	clear(p.hints)
	return ops, events, t
}

// eventOps appends the operations of events.
func (r *Relay) eventOps(ops []any, events []state.Event) []any {
	for _, e := range events {
		data, msg := r.encode(e)
		ops = append(ops, "E", strconv.FormatUint(e.Seq, 10), strconv.FormatInt(e.AtUS, 10), e.Type, data, msg)
	}
	return ops
}

// assemble numbers a batch. The caller sends it next.
func (r *Relay) assemble(ops []any) *batch {
	r.batch++
	return &batch{number: r.batch, ops: ops}
}

// send sends the batch in flight, with extra operations that need no repeating.
func (r *Relay) send(ctx context.Context, extra []any) error {
	b := r.flight
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	args := make([]any, 0, 5+len(b.ops)+len(extra))
	args = append(args, r.cfg.BootID, r.epoch, b.number, r.channel, streamLength)
	args = append(append(args, b.ops...), extra...)
	began := time.Now()
	answer, err := batchScript.Run(ctx, r.client, r.keys, args...).StringSlice()
	if err != nil {
		return r.diagnose(fmt.Errorf("cannot write to Redis: %w", err))
	}
	if r.cfg.Observe != nil {
		r.cfg.Observe(time.Since(began).Seconds())
	}
	if err := fenced(answer); err != nil {
		return err
	}
	if answer[0] == "lost" {
		return r.recover(answer)
	}
	r.batches.Add(1)
	r.written.Add(uint64(len(b.events)))
	r.acked = max(r.acked, b.last)
	r.note(b.tells)
	r.flight = nil
	return nil
}

// recover begins anew with a server that forgot what it had confirmed: it was
// restarted empty, or a replica took over that lagged. What it lacks becomes a
// gap, what was in flight is queued again, and a snapshot follows.
func (r *Relay) recover(answer []string) error {
	var has uint64
	if len(answer) > 1 {
		has, _ = strconv.ParseUint(answer[1], 10, 64)
	}
	r.mu.Lock()
	r.pending.requeue(r.flight.events, has, r.acked, time.Now().UnixMicro())
	r.mu.Unlock()
	lost := r.acked - min(has, r.acked)
	r.acked = max(r.acked, has) // what was in flight may be there
	r.flight = nil
	r.claimed = false
	r.snapshot = gapLost
	return fmt.Errorf("%w: %d events", errLost, lost)
}

// heartbeat returns the operation that sets the heartbeat.
func (r *Relay) heartbeat() []any {
	return []any{"H", encode(Heartbeat{
		BootID: r.cfg.BootID, Epoch: r.epoch, Seq: r.source.Seq(), Version: r.cfg.Version,
		Uptime: r.cfg.Uptime().Truncate(time.Millisecond).Seconds(),
	}), heartbeatTTL.Milliseconds()}
}

// enlist notes the heartbeat's time in the list of hosts. That key is of all
// hosts, so it may live on another node of a Cluster.
func (r *Relay) enlist(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := enlistScript.Run(ctx, r.client, []string{r.hosts}, r.cfg.Host).Err(); err != nil {
		return r.diagnose(fmt.Errorf("cannot write to Redis: %w", err))
	}
	return nil
}

// encode returns an event's data, and its message for the channel: the fields
// of the stream as one JSON object, with data as it is and not quoted again.
func (r *Relay) encode(e state.Event) (data, msg string) {
	data = encode(e.Data)
	return data, fmt.Sprintf(`{"boot_id":%q,"epoch":%d,"seq":%d,"at_us":%d,"type":%q,"data":%s}`,
		r.cfg.BootID, r.epoch, e.Seq, e.AtUS, e.Type, data)
}

// encode returns the JSON of one of our own types, which always have one.
func encode(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("relay: no JSON of %T: %v", v, err))
	}
	return string(data)
}
