// Package fleet is the read side of what the monitors write: every host that
// Redis knows, with its state, its units and its GPUs, and the queue's figures.
//
// What the figures mean is pure and in this file; the reading is bounded in
// what it takes at a time, and may be shared by many who ask.
package fleet

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"gpuherd/monitor/readable"
	"gpuherd/monitor/relay"
	"gpuherd/monitor/state"
)

// States of a host. Redis tells them apart by what a monitor keeps up while it
// makes progress, its heartbeat, and what it says when it goes.
const (
	Alive   = "alive"   // its heart beats: what is told of it is so now
	Lost    = "lost"    // its heart stopped without a word: nobody knows what its units do
	Offline = "offline" // its monitor ended in good order
	Unread  = "unread"  // Redis gave an error for its keys
)

// States lists them all.
var States = []string{Alive, Lost, Offline, Unread}

// A Fleet is every host that was read, at one moment. Its JSON is the answer of
// /api/v1/hosts and of `gpuherd fleet --json`, so names are fixed. All times
// are by Redis' clock.
type Fleet struct {
	AtMS    int64  `json:"at_ms"`   // when it was read, unix time in ms
	Total   Total  `json:"total"`   // of Hosts
	Omitted int    `json:"omitted"` // hosts that Redis knows besides, those silent for longest
	Hosts   []Host `json:"hosts"`   // by name

	Queue      *Queue `json:"queue,omitempty"`
	QueueError string `json:"queue_error,omitempty"` // why there is no Queue
}

// A Total sums hosts. Units, GPUs and jobs are those of hosts that are alive.
type Total struct {
	Hosts   int   `json:"hosts"`
	Alive   int   `json:"alive"`
	Lost    int   `json:"lost"`
	Offline int   `json:"offline"`
	Unread  int   `json:"unread"`
	Units   Units `json:"units"`
	GPUs    GPUs  `json:"gpus"`
	Jobs    int   `json:"jobs"`
}

// A Host is what Redis knows of one. Where it is not alive, units, GPUs,
// restarts and jobs are as they were told last.
type Host struct {
	Host      string   `json:"host"`
	State     string   `json:"state"`             // Alive, Lost, Offline or Unread
	SeenMS    int64    `json:"seen_ms"`           // last heartbeat, unix time in ms
	AgoMS     int64    `json:"ago_ms"`            // how long ago that was
	Version   string   `json:"version,omitempty"` // of gpuherd; this and what follows up to Uptime only while alive
	BootID    string   `json:"boot_id,omitempty"`
	Epoch     uint64   `json:"epoch,omitempty"`  // count of the monitor's starts
	Uptime    float64  `json:"uptime,omitempty"` // of the host, seconds
	Units     Units    `json:"units"`
	Failed    []string `json:"failed,omitempty"` // names of the failed units
	Restarts  uint64   `json:"restarts"`         // of all units together
	Jobs      int      `json:"jobs"`             // units that have one in hand
	GPUs      GPUs     `json:"gpus"`
	Unhealthy []Ailing `json:"unhealthy,omitempty"` // the unhealthy GPUs
	Error     string   `json:"error,omitempty"`     // why a part could not be read
}

// Units counts units by their ActiveState; reloading and refreshing ones are
// active. States that systemd may yet invent are in Total alone.
type Units struct {
	Total        int `json:"total"`
	Active       int `json:"active"`
	Activating   int `json:"activating"`
	Deactivating int `json:"deactivating"`
	Inactive     int `json:"inactive"`
	Failed       int `json:"failed"`
}

func (u *Units) count(active string) {
	u.Total++
	switch active {
	case "active", "reloading", "refreshing":
		u.Active++
	case "activating":
		u.Activating++
	case "deactivating":
		u.Deactivating++
	case "inactive":
		u.Inactive++
	case "failed":
		u.Failed++
	}
}

func (u *Units) add(v Units) {
	u.Total += v.Total
	u.Active += v.Active
	u.Activating += v.Activating
	u.Deactivating += v.Deactivating
	u.Inactive += v.Inactive
	u.Failed += v.Failed
}

// GPUs counts GPUs by their health.
type GPUs struct {
	Total     int `json:"total"`
	Healthy   int `json:"healthy"`
	Unhealthy int `json:"unhealthy"`
	Unknown   int `json:"unknown"`
}

func (g *GPUs) count(health string) {
	g.Total++
	switch health {
	case state.Healthy:
		g.Healthy++
	case state.Unhealthy:
		g.Unhealthy++
	default:
		g.Unknown++
	}
}

func (g *GPUs) add(v GPUs) {
	g.Total += v.Total
	g.Healthy += v.Healthy
	g.Unhealthy += v.Unhealthy
	g.Unknown += v.Unknown
}

// An Ailing is a GPU that is unhealthy.
type Ailing struct {
	Index   int      `json:"index"`
	Reasons []string `json:"reasons"`
}

// Failing reports whether somebody should look at the host: it was lost, could
// not be read, or has failed units or unhealthy GPUs. One that went in good
// order is not failing.
func (h *Host) Failing() bool {
	switch h.State {
	case Offline:
		return false
	case Alive:
		return h.Error != "" || len(h.Failed)+len(h.Unhealthy) > 0
	}
	return true
}

// For returns how long ago the heart beat last.
func (h *Host) For() time.Duration { return time.Duration(h.AgoMS) * time.Millisecond }

// Trouble says what is wrong with the host, in one line; "" for nothing.
func (h *Host) Trouble() string {
	var all []string
	if h.Error != "" {
		all = append(all, h.Error)
	}
	if len(h.Failed) > 0 {
		names := make([]string, len(h.Failed))
		for i, name := range h.Failed {
			names[i] = strings.TrimSuffix(name, ".service")
		}
		all = append(all, strings.Join(names, ", ")+" failed")
	}
	for _, g := range h.Unhealthy {
		text := "GPU " + strconv.Itoa(g.Index) + " unhealthy"
		if len(g.Reasons) > 0 {
			text += ": " + strings.Join(g.Reasons, ", ")
		}
		all = append(all, text)
	}
	return strings.Join(all, "; ")
}

// A record is what Redis has of one host, as it was read.
type record struct {
	host  string
	seen  int64             // score in the list of hosts
	beat  string            // value of the heartbeat; "": none
	units map[string]string // by name
	gpus  map[string]string // by index
	last  lastEvent         // of the stream; read only where there is no heartbeat
	err   error             // that Redis answered for one of the keys
}

// A lastEvent is what ends a host's stream.
type lastEvent struct{ kind, data string }

// offline reports whether the monitor said that it goes.
func (e lastEvent) offline() bool {
	var h state.HostEvent
	return e.kind == state.TypeHost && json.Unmarshal([]byte(e.data), &h) == nil && h.Event == "offline"
}

// summarise makes a Host of what Redis had at now, unix time in ms. A value
// that cannot be read costs that value alone.
func summarise(r record, now int64) Host {
	h := Host{Host: r.host, SeenMS: r.seen, AgoMS: max(0, now-r.seen), State: Lost}
	unreadable := 0
	switch {
	case r.err != nil:
		h.State, h.Error = Unread, r.err.Error()
	case r.beat != "":
		h.State = Alive
		var beat relay.Heartbeat
		if json.Unmarshal([]byte(r.beat), &beat) != nil {
			unreadable++
		}
		h.Version, h.BootID, h.Epoch, h.Uptime = beat.Version, beat.BootID, beat.Epoch, beat.Uptime
	case r.last.offline():
		h.State = Offline
	}
	for name, value := range r.units {
		var u struct { // of state.Unit, of which the rest would only cost time
			Active   string `json:"active"`
			Restarts uint64 `json:"restarts"`
			Job      string `json:"job"`
		}
		if json.Unmarshal([]byte(value), &u) != nil {
			unreadable++
			continue
		}
		h.Units.count(u.Active)
		h.Restarts += u.Restarts
		if u.Job != "" {
			h.Jobs++
		}
		if u.Active == "failed" {
			h.Failed = append(h.Failed, name)
		}
	}
	slices.SortFunc(h.Failed, compareNames)
	for _, value := range r.gpus {
		var g struct { // of state.GPU
			Index   int      `json:"index"`
			Health  string   `json:"health"`
			Reasons []string `json:"reasons"`
		}
		if json.Unmarshal([]byte(value), &g) != nil {
			unreadable++
			continue
		}
		h.GPUs.count(g.Health)
		if g.Health == state.Unhealthy {
			h.Unhealthy = append(h.Unhealthy, Ailing{g.Index, append([]string{}, g.Reasons...)})
		}
	}
	slices.SortFunc(h.Unhealthy, func(a, b Ailing) int { return cmp.Compare(a.Index, b.Index) })
	if unreadable > 0 && h.Error == "" {
		h.Error = fmt.Sprintf("%d values in Redis are not as a monitor writes them", unreadable)
	}
	return h
}

// newFleet sorts and sums hosts.
func newFleet(now int64, hosts []Host, omitted int) Fleet {
	slices.SortFunc(hosts, func(a, b Host) int { return compareNames(a.Host, b.Host) })
	return Fleet{AtMS: now, Omitted: omitted, Hosts: hosts, Total: sum(hosts)}
}

// Only returns the fleet with those of its hosts that keep keeps.
func (f Fleet) Only(keep func(*Host) bool) Fleet {
	hosts := []Host{}
	for i := range f.Hosts {
		if keep(&f.Hosts[i]) {
			hosts = append(hosts, f.Hosts[i])
		}
	}
	f.Hosts, f.Total = hosts, sum(hosts)
	return f
}

func sum(hosts []Host) Total {
	t := Total{Hosts: len(hosts)}
	for i := range hosts {
		h := &hosts[i]
		switch h.State {
		case Alive:
			t.Alive++
			t.Units.add(h.Units)
			t.GPUs.add(h.GPUs)
			t.Jobs += h.Jobs
		case Lost:
			t.Lost++
		case Offline:
			t.Offline++
		case Unread:
			t.Unread++
		}
	}
	return t
}

// String says it in one line: "3 hosts: 2 alive, 1 lost; 24 units, 23 active, 1
// failed; 16 GPUs, 1 unhealthy; 5 jobs running".
func (t Total) String() string {
	text := fmt.Sprintf("%s: %d alive", many(t.Hosts, "host"), t.Alive)
	for _, other := range []struct {
		n    int
		what string
	}{{t.Lost, Lost}, {t.Offline, Offline}, {t.Unread, Unread}} {
		if other.n > 0 {
			text += fmt.Sprintf(", %d %s", other.n, other.what)
		}
	}
	text += fmt.Sprintf("; %s, %d active", many(t.Units.Total, "unit"), t.Units.Active)
	if t.Units.Failed > 0 {
		text += fmt.Sprintf(", %d failed", t.Units.Failed)
	}
	text += "; " + many(t.GPUs.Total, "GPU")
	if t.GPUs.Unhealthy > 0 {
		text += fmt.Sprintf(", %d unhealthy", t.GPUs.Unhealthy)
	}
	return text + "; " + many(t.Jobs, "job") + " running"
}

// String says it in one line: "queue gpu: 12 waiting, the first for 5m7s, 3
// running, 0 delayed, 1 dead".
func (q Queue) String() string {
	text := fmt.Sprintf("queue %s: %d waiting", q.Name, q.Waiting)
	if q.OldestMS > 0 {
		text += ", the first for " + readable.Span(time.Duration(q.AtMS-q.OldestMS)*time.Millisecond)
	}
	text += fmt.Sprintf(", %d running, %d delayed, %d dead", q.Running, q.Delayed, q.Dead)
	if q.Paused {
		text += "; paused"
	}
	return text
}

func many(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return strconv.Itoa(n) + " " + what
}

// compareNames orders names as people do: gpu2 before gpu10.
func compareNames(a, b string) int {
	x, y := a, b
	for x != "" && y != "" {
		n, m := digits(x), digits(y)
		if n > 0 && m > 0 {
			p, q := strings.TrimLeft(x[:n], "0"), strings.TrimLeft(y[:m], "0")
			if c := cmp.Or(cmp.Compare(len(p), len(q)), cmp.Compare(p, q)); c != 0 {
				return c
			}
			x, y = x[n:], y[m:]
			continue
		}
		if x[0] != y[0] {
			return cmp.Compare(x[0], y[0])
		}
		x, y = x[1:], y[1:]
	}
	return cmp.Or(cmp.Compare(len(x), len(y)), cmp.Compare(a, b))
}

// digits returns how many digits s begins with.
func digits(s string) int {
	n := 0
	for n < len(s) && '0' <= s[n] && s[n] <= '9' {
		n++
	}
	return n
}
