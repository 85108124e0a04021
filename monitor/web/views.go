package web

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"gpuherd/monitor/fleet"
	"gpuherd/monitor/readable"
	"gpuherd/monitor/state"
)

// How long a page waits for what Redis has to tell: that of this host must not
// depend on it, and that of the fleet asks again anyway.
const (
	queueWait = 300 * time.Millisecond
	fleetWait = 3 * time.Second
)

// recent is how many events a page shows.
const recent = 20

// hostView is the view of this host.
func (s *Server) hostView(r *http.Request) view {
	ctx, cancel := context.WithTimeout(r.Context(), queueWait)
	defer cancel()
	queue := cell{Style: styleSoft}
	switch q, err := s.Fleet.queue.Get(ctx); {
	case errors.Is(err, context.DeadlineExceeded):
		queue.Text = "queue: Redis has not answered yet"
	case err != nil:
		queue = cell{"queue: " + err.Error(), styleBad}
	default:
		queue = cell{q.String(), queueStyle(q)}
	}
	v, about := s.Feed.View(), s.About()
	lines := []cell{{Text: fmt.Sprintf("up %s; gpuherd %s", readable.Span(time.Duration(about.Uptime*float64(time.Second))), about.Version), Style: styleSoft}}
	for _, c := range s.Checks {
		if err := c.Ready(); err != nil {
			lines = append(lines, cell{c.Name + ": " + err.Error(), styleBad})
		}
	}
	now := time.Now()
	return view{
		title: about.Host, Lines: append(lines, queue),
		Tables: []table{unitTable(v.Units, now), gpuTable(v.GPUs), eventTable(s.Feed.Recent(recent), now)},
	}
}

func queueStyle(q fleet.Queue) string {
	switch {
	case q.Dead > 0:
		return styleBad
	case q.Paused:
		return styleBusy
	}
	return ""
}

func unitTable(units []state.Unit, now time.Time) table {
	t := newTable("units", "Units", []column{
		{"Unit", false}, {"GPU", true}, {"State", false}, {"For", true}, {"Restarts/boot", true}, {"Memory", true}, {"Limit", true}, {"Job", false}, {"Status", false},
	})
	for i := range units {
		u := &units[i]
		since := readable.None
		if u.SinceMS > 0 {
			since = readable.Span(now.Sub(time.UnixMilli(u.SinceMS)))
		}
		gpu := readable.None
		if u.GPU != nil {
			gpu = strconv.Itoa(*u.GPU)
		}
		t.row(
			cell{Text: short(u.Name)}, cell{Text: gpu}, cell{strings.TrimSuffix(u.Active+"/"+u.Sub, "/"), activeStyle(u.Active)}, cell{Text: since},
			cell{Text: strconv.FormatUint(u.Restarts, 10)}, cell{Text: bytesOf(u.MemoryBytes)}, cell{Text: bytesOf(u.MemoryMaxBytes)},
			cell{Text: u.Job}, cell{Text: u.Says()},
		)
	}
	return t
}

// short is a unit's name as people say it.
func short(unit string) string { return strings.TrimSuffix(unit, ".service") }

func bytesOf(n *uint64) string {
	if n == nil {
		return readable.None
	}
	return readable.Size(*n)
}

func activeStyle(active string) string {
	switch active {
	case "active":
		return styleGood
	case "failed":
		return styleBad
	case "inactive":
		return styleSoft
	}
	return styleBusy
}

func gpuTable(gpus []state.GPU) table {
	t := newTable("gpus", "GPUs", []column{
		{"GPU", true}, {"Model", false}, {"Memory", true}, {"Busy", true}, {"Temperature", true}, {"MIG devices", true}, {"Health", false},
	})
	figure := func(n *int, unit string) string {
		if n == nil {
			return readable.None
		}
		return strconv.Itoa(*n) + unit
	}
	for _, g := range gpus {
		style := styleSoft
		switch g.Health {
		case state.Healthy:
			style = styleGood
		case state.Unhealthy:
			style = styleBad
		}
		health := g.Health
		if len(g.Reasons) > 0 {
			health += ": " + strings.Join(g.Reasons, ", ")
		}
		t.row(
			cell{Text: strconv.Itoa(g.Index)}, cell{Text: g.Name}, cell{Text: readable.Size(g.Memory)}, cell{Text: figure(g.Utilisation, "%")},
			cell{Text: figure(g.Temperature, " °C")}, cell{Text: strconv.Itoa(len(g.MIG))}, cell{health, style},
		)
	}
	return t
}

func eventTable(events []state.Event, now time.Time) table {
	t := newTable("events", "Latest events", []column{{"Ago", true}, {"What", false}, {"", false}})
	for _, e := range events {
		what, about := told(e)
		t.row(cell{Text: readable.Span(now.Sub(time.UnixMicro(e.AtUS)))}, what, cell{Text: about})
	}
	return t
}

// told says an event in words.
func told(e state.Event) (what cell, about string) {
	switch d := e.Data.(type) {
	case *state.UnitEvent:
		what = cell{Text: short(d.Name) + " " + d.Event}
		switch d.Event {
		case state.Failed:
			return cell{what.Text, styleBad}, d.Ending()
		case state.Running:
			what.Style = styleGood
		}
		return what, ""
	case *state.GPUEvent:
		what = cell{Text: "GPU " + strconv.Itoa(d.Index) + " " + d.Event}
		if d.Event == state.Unhealthy {
			what.Style = styleBad
		}
		return what, strings.Join(d.Reasons, ", ")
	case *state.SnapshotEvent:
		return cell{"snapshot", styleSoft}, d.Reason
	case *state.HostEvent:
		return cell{Text: "monitor " + d.Event}, d.Version
	case *state.GapEvent:
		return cell{fmt.Sprintf("%d events lost", d.Count), styleBad}, d.Reason
	}
	return cell{Text: e.Type}, ""
}

// fleetView is the view of all hosts. Those that somebody should look at come
// first.
func (s *Server) fleetView(r *http.Request) view {
	ctx, cancel := context.WithTimeout(r.Context(), fleetWait)
	defer cancel()
	f, err := s.Fleet.hosts.Get(ctx)
	v := view{title: "fleet"}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		v.Lines = []cell{{"Redis has not answered yet", styleBusy}}
	case err != nil:
		v.Lines = []cell{{err.Error(), styleBad}}
	default:
		v.Lines = fleetLines(f)
	}
	v.Tables = []table{hostTable(f.Hosts)}
	return v
}

func fleetLines(f fleet.Fleet) []cell {
	lines := []cell{{Text: f.Total.String()}}
	if f.Queue != nil {
		lines = append(lines, cell{f.Queue.String(), queueStyle(*f.Queue)})
	} else {
		lines = append(lines, cell{"queue: " + f.QueueError, styleBad})
	}
	if f.Omitted > 0 {
		lines = append(lines, cell{fmt.Sprintf("%d hosts that are silent for longest are left out", f.Omitted), styleBusy})
	}
	return lines
}

func hostTable(hosts []fleet.Host) table {
	t := newTable("hosts", "Hosts", []column{
		{"Host", false}, {"State", false}, {"Up", true}, {"Units", true}, {"GPUs", true}, {"Jobs", true}, {"Restarts/boot", true}, {"Version", false}, {"Trouble", false},
	})
	hosts = slices.Clone(hosts) // others look at them, too
	slices.SortStableFunc(hosts, func(a, b fleet.Host) int { return cmp.Compare(rank(&a), rank(&b)) })
	for i := range hosts {
		h := &hosts[i]
		state, up := cell{h.State, styleGood}, readable.Span(time.Duration(h.Uptime*float64(time.Second)))
		figures, bad := "", styleBad
		if h.State != fleet.Alive {
			state, up = cell{h.State + " " + readable.Span(h.For()), styleBad}, readable.None
			figures, bad = styleSoft, styleSoft // nobody knows whether they still hold
		}
		if h.State == fleet.Offline {
			state.Style = styleSoft
		}
		where := func(wrong bool) string {
			if wrong {
				return bad
			}
			return figures
		}
		t.row(
			cell{Text: h.Host}, state, cell{up, figures},
			cell{fmt.Sprintf("%d/%d", h.Units.Active, h.Units.Total), where(h.Units.Failed > 0)},
			cell{fmt.Sprintf("%d/%d", h.GPUs.Total-h.GPUs.Unhealthy, h.GPUs.Total), where(h.GPUs.Unhealthy > 0)},
			cell{strconv.Itoa(h.Jobs), figures}, cell{strconv.FormatUint(h.Restarts, 10), figures},
			cell{cmp.Or(h.Version, readable.None), figures}, cell{h.Trouble(), where(h.Failing())},
		)
	}
	return t
}

// rank puts hosts that were lost or have trouble before those that are well,
// and those before what went in good order.
func rank(h *fleet.Host) int {
	switch {
	case h.Failing():
		return 0
	case h.State == fleet.Alive:
		return 1
	}
	return 2
}
