package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gpuherd/monitor/fleet"
	"gpuherd/monitor/state"
	"gpuherd/units/queue/redistest"
)

func someFleet() fleet.Fleet {
	return fleet.Fleet{
		AtMS: 100_000, Omitted: 7, Total: fleet.Total{Hosts: 4, Alive: 2, Lost: 1, Offline: 1},
		Hosts: []fleet.Host{
			{Host: "a", State: fleet.Alive, Uptime: 3600, Version: "1.2.3", Units: fleet.Units{Total: 3, Active: 3}, GPUs: fleet.GPUs{Total: 2, Healthy: 2}, Jobs: 1, Restarts: 4},
			{Host: "b", State: fleet.Offline, AgoMS: 61_000, Units: fleet.Units{Total: 2}},
			{Host: "c", State: fleet.Lost, AgoMS: 16_000, Units: fleet.Units{Total: 2, Active: 1, Failed: 1}, Failed: []string{"w@0.service"}},
			{Host: "d", State: fleet.Alive, Units: fleet.Units{Total: 2, Active: 1, Failed: 1}, Failed: []string{"w@1.service"},
				GPUs: fleet.GPUs{Total: 2, Unhealthy: 1}, Unhealthy: []fleet.Ailing{{Index: 1, Reasons: []string{"XID 79"}}}},
		},
		Queue: &fleet.Queue{Name: "gpu", AtMS: 9, Waiting: 4, Dead: 1},
	}
}

func TestJobsAndHosts(t *testing.T) {
	t.Parallel()
	s := server()
	gpu := 3
	s.Feed.Push(state.Delta{Reset: true, Units: []state.Unit{
		{Name: "w@3.service", GPU: &gpu, Active: "active", Job: "horse", StatusText: "job horse, attempt 1 of 3: 40%"}, {Name: "w@4.service", Active: "active", StatusText: "idle"},
	}})
	away := errors.New("Redis is away")
	get := func(path string) string {
		w := get(t, s, http.MethodGet, path, nil)
		return fmt.Sprint(w.Code, " ", strings.TrimSpace(w.Body.String()))
	}
	if got, want := get("/api/v1/jobs"), `200 {"seq":0,"jobs":[{"id":"horse","unit":"w@3.service","gpu":3,"status_text":"job horse, attempt 1 of 3: 40%"}],`+
		`"queue":{"queue":"gpu","at_ms":9,"paused":false,"waiting":4,"running":0,"delayed":0,"dead":0}}`; got != want {
		t.Errorf("jobs are\n%s, want\n%s", got, want)
	}
	var f fleet.Fleet
	if err := json.Unmarshal([]byte(strings.TrimPrefix(get("/api/v1/hosts"), "200 ")), &f); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(someFleet(), f); diff != "" {
		t.Errorf("hosts (-want +got):\n%s", diff)
	}

	s.Feed.Push(state.Delta{Reset: true})
	s.Fleet = &Fleet{
		hosts: fleet.NewShared(func(context.Context) (fleet.Fleet, error) { return fleet.Fleet{}, away }),
		queue: fleet.NewShared(func(context.Context) (fleet.Queue, error) { return fleet.Queue{}, away }),
	}
	for path, want := range map[string]string{
		"/api/v1/jobs":  `200 {"seq":0,"jobs":[],"queue_error":"Redis is away"}`,
		"/api/v1/hosts": `503 {"error":"Redis is away"}`,
	} {
		if got := get(path); got != want {
			t.Errorf("%s is %s, want %s", path, got, want)
		}
	}
}

// Out of a real Redis, and with the mend where there is none.
func TestFleetOutOfRedis(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	s := server()
	s.Fleet = NewFleet(&fleet.Reader{Client: srv.Client(t), Prefix: "gpuherd"}, "gpu")
	if w := get(t, s, http.MethodGet, "/api/v1/hosts", nil); w.Code != 200 || !strings.Contains(w.Body.String(), `"hosts":[],"queue":{"queue":"gpu",`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	srv.Kill()
	s.Fleet = NewFleet(&fleet.Reader{Client: srv.Client(t), Prefix: "gpuherd"}, "gpu")
	for path, want := range map[string]string{
		"/api/v1/hosts": `{"error":"cannot read the list of hosts: dial unix `, "/api/v1/jobs": `"jobs":[],"queue_error":"cannot measure queue: `,
		"/": `<p class="bad">queue: cannot measure queue: dial unix `, "/fleet": `<p class="bad">cannot read the list of hosts: dial unix `,
	} {
		if w := get(t, s, http.MethodGet, path, nil); !strings.Contains(w.Body.String(), want) || w.Header().Get("Content-Type") == "" {
			t.Errorf("%s: %d %s, want %s", path, w.Code, w.Body, want)
		}
	}
}

// A Redis that does not answer keeps nobody from seeing this host.
func TestPageDoesNotWait(t *testing.T) {
	t.Parallel()
	s := server()
	answers := make(chan struct{})
	s.Fleet.queue = fleet.NewShared(func(context.Context) (fleet.Queue, error) {
		<-answers
		return fleet.Queue{}, nil
	})
	if w := get(t, s, http.MethodGet, "/", nil); !strings.Contains(w.Body.String(), "queue: Redis has not answered yet") || !strings.Contains(w.Body.String(), "redis-worker@0") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	close(answers)
	if _, err := s.Fleet.queue.Get(t.Context()); err != nil {
		t.Error(err)
	}
}

// text is a view as a reader of the page sees it.
func text(v view) []string {
	var lines []string
	cells := func(row []cell) string {
		var all []string
		for _, c := range row {
			style, _ := strings.CutSuffix(c.Style, "right")
			if style = strings.TrimSpace(style); style != "" {
				style = "!" + style
			}
			all = append(all, c.Text+style)
		}
		return strings.Join(all, " | ")
	}
	for _, l := range v.Lines {
		lines = append(lines, cells([]cell{l}))
	}
	for _, t := range v.Tables {
		lines = append(lines, "["+t.ID+"]")
		for _, row := range t.Rows {
			lines = append(lines, cells(row))
		}
	}
	return lines
}

func TestHostView(t *testing.T) {
	t.Parallel()
	s := server()
	s.Checks = []Check{{"bus", func() error { return nil }}, {"redis", func() error { return errors.New("away") }}}
	gpu, celsius, percent, memory := 1, 41, 93, uint64(1<<30)
	ago := func(d time.Duration) int64 { return time.Now().Add(-d).UnixMicro() }
	unit := state.Unit{Name: "w@1.service", GPU: &gpu, Active: "failed", Sub: "failed", Result: "exit-code", ExitCode: "exited", ExitStatus: 7, Restarts: 3, SinceMS: ago(90*time.Minute) / 1000, MemoryMaxBytes: &memory}
	busy := state.Unit{Name: "w@0.service", Active: "active", Sub: "running", StatusText: "job horse, attempt 1 of 3", Job: "horse", SinceMS: ago(50*time.Hour) / 1000, MemoryBytes: &memory}
	s.Feed.Push(state.Delta{
		Reset: true, Units: []state.Unit{unit, busy, {Name: "z.service", Active: "activating", Sub: "auto-restart"}},
		GPUs: []state.GPU{
			{Index: 0, Name: "H100", Memory: 80 << 30, Health: state.Healthy, Temperature: &celsius, Utilisation: &percent, MIG: make([]state.MIG, 2)},
			{Index: 1, Health: state.Unhealthy, Reasons: []string{"XID 79", "off the bus"}}, {Index: 2, Health: state.HealthUnknown},
		},
		Events: []state.Event{
			{Seq: 1, AtUS: ago(50 * time.Hour), Type: state.TypeHost, Data: &state.HostEvent{Event: "online", Version: "1.2.3"}},
			{Seq: 2, AtUS: ago(49 * time.Hour), Type: state.TypeGap, Data: &state.GapEvent{Count: 3, Reason: "overflow"}},
			{Seq: 3, AtUS: ago(48 * time.Hour), Type: state.TypeSnapshot, Data: &state.SnapshotEvent{Reason: "connected"}},
			{Seq: 4, AtUS: ago(47 * time.Hour), Type: state.TypeUnit, Data: &state.UnitEvent{Unit: busy, Event: state.Running}},
			{Seq: 5, AtUS: ago(46 * time.Hour), Type: state.TypeUnit, Data: &state.UnitEvent{Unit: unit, Event: state.Failed}},
			{Seq: 6, AtUS: ago(45 * time.Hour), Type: state.TypeGPU, Data: &state.GPUEvent{GPU: state.GPU{Index: 1, Reasons: []string{"XID 79"}}, Event: state.Unhealthy}},
		},
	})
	want := []string{
		"up 7s; gpuherd 1.2.3!soft", "redis: away!bad", "queue gpu: 4 waiting, 0 running, 0 delayed, 0 dead",
		"[units]",
		"w@0 | - | active/running!good | 2d2h | 0 | 1G | - | horse | job horse, attempt 1 of 3",
		"w@1 | 1 | failed/failed!bad | 1h30m | 3 | - | 1G |  | exit-code, status 7",
		"z | - | activating/auto-restart!busy | - | 0 | - | - |  | ",
		"[gpus]",
		"0 | H100 | 80G | 93% | 41 °C | 2 | healthy!good", "1 |  | 0B | - | - | 0 | unhealthy: XID 79, off the bus!bad", "2 |  | 0B | - | - | 0 | unknown!soft",
		"[events]",
		"1d21h | GPU 1 unhealthy!bad | XID 79", "1d22h | w@1 failed!bad | exit-code, status 7", "1d23h | w@0 running!good | ",
		"2d | snapshot!soft | connected", "2d1h | 3 events lost!bad | overflow", "2d2h | monitor online | 1.2.3",
	}
	if diff := cmp.Diff(want, text(s.hostView(httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestFleetView(t *testing.T) {
	t.Parallel()
	want := []string{
		"4 hosts: 2 alive, 1 lost, 1 offline; 0 units, 0 active; 0 GPUs; 0 jobs running", "queue gpu: 4 waiting, 0 running, 0 delayed, 1 dead!bad",
		"7 hosts that are silent for longest are left out!busy",
		"[hosts]",
		"c | lost 16s!bad | -!soft | 1/2!soft | 0/0!soft | 0!soft | 0!soft | -!soft | w@0 failed!soft",
		"d | alive!good | 0ms | 1/2!bad | 1/2!bad | 0 | 0 | - | w@1 failed; GPU 1 unhealthy: XID 79!bad",
		"a | alive!good | 1h | 3/3 | 2/2 | 1 | 4 | 1.2.3 | ",
		"b | offline 1m1s!soft | -!soft | 0/2!soft | 0/0!soft | 0!soft | 0!soft | -!soft | !soft",
	}
	if diff := cmp.Diff(want, text(server().fleetView(httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/fleet", nil)))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

const hostileText = `"><script>alert(1)</script>&amp;'` + "\x1b[2J\u202e"

// Whatever a name or a text holds, the page shows it as text.
func TestPagesEscape(t *testing.T) {
	t.Parallel()
	s := server()
	about := s.About()
	about.Host, about.Version = hostileText, hostileText
	s.About = func() About { return about }
	s.Checks = []Check{{hostileText, func() error { return errors.New(hostileText) }}}
	s.Feed.Push(state.Delta{
		Units:       []state.Unit{{Name: hostileText, Active: hostileText, Sub: hostileText, StatusText: hostileText, Job: hostileText}},
		GPUsChanged: true, GPUs: []state.GPU{{Name: hostileText, Health: hostileText, Reasons: []string{hostileText}}},
		Events: []state.Event{
			{Seq: 1, Type: hostileText}, {Seq: 2, Data: &state.UnitEvent{Unit: state.Unit{Name: hostileText, Result: hostileText}, Event: hostileText}},
			{Seq: 3, Data: &state.HostEvent{Event: hostileText, Version: hostileText}},
		},
	})
	f := someFleet()
	f.Hosts = []fleet.Host{{Host: hostileText, State: hostileText, Version: hostileText, Failed: []string{hostileText}, Error: hostileText}}
	f.Queue, f.QueueError = nil, hostileText
	s.Fleet.hosts = fleet.NewShared(func(context.Context) (fleet.Fleet, error) { return f, nil })
	tag := regexp.MustCompile(`<[^>]*>`)
	allowed := regexp.MustCompile(`^<(!DOCTYPE html|html lang="en"|meta [a-z0-9="\- ]+|/?(title|header|h1|h2|nav|main|section|table|thead|tr)|link rel="(icon|stylesheet)" href="(data:,|/assets/page.css)"|` +
		`script src="/assets/page.js" defer|/script|body data-view="/view/(host|fleet)" data-events="(/api/v1/events)?"|a href="(/|/fleet)"|/(a|span|div|p|td|th|tbody|body|html)|` +
		`span id="live"|div id="lines"|tbody id="[a-z]+"|(p|td|th) class="[a-z ]*")>$`)
	for _, path := range []string{"/", "/fleet"} {
		body := get(t, s, http.MethodGet, path, nil).Body.String()
		if !strings.Contains(body, "&lt;script&gt;") {
			t.Errorf("%s does not show the text: %s", path, body)
		}
		for _, found := range tag.FindAllString(body, -1) {
			if !allowed.MatchString(found) {
				t.Errorf("%s has the tag %s", path, found)
			}
		}
	}
}

// The pages need nothing from elsewhere, and nothing but what they name.
func TestPagesAreWhole(t *testing.T) {
	t.Parallel()
	s := server()
	reference := regexp.MustCompile(`(?:href|src|data-view|data-events)="([^"]+)"`)
	for _, path := range []string{"/", "/fleet"} {
		w := get(t, s, http.MethodGet, path, nil)
		if kind := w.Header().Get("Content-Type"); w.Code != 200 || kind != "text/html; charset=utf-8" {
			t.Errorf("%s: %d %s", path, w.Code, kind)
		}
		for name, want := range map[string]string{
			"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
		} {
			if got := w.Header().Get(name); got != want {
				t.Errorf("%s: %s is %q, want %q", path, name, got, want)
			}
		}
		for _, match := range reference.FindAllStringSubmatch(w.Body.String(), -1) {
			switch to := match[1]; to {
			case "data:,", "/api/v1/events":
			default:
				if got := get(t, s, http.MethodGet, to, nil); got.Code != 200 || got.Body.Len() == 0 {
					t.Errorf("%s names %s, which is %d", path, to, got.Code)
				}
			}
		}
	}
	for _, bad := range []string{"innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "http:", "https:", "DOMParser"} {
		if strings.Contains(string(pageJS), bad) {
			t.Errorf("the script has %s", bad)
		}
	}
	if strings.Contains(string(pageCSS), "url(") || strings.Contains(string(pageCSS), "@import") {
		t.Error("the style sheet loads something")
	}
	for _, style := range []string{styleGood, styleBusy, styleBad, styleSoft, "right"} {
		if !strings.Contains(string(pageCSS), "."+style+" {") {
			t.Errorf("the style sheet has no .%s", style)
		}
	}
}

// What the script is told is what the page shows.
func TestViewIsThePage(t *testing.T) {
	t.Parallel()
	s := server()
	for path, at := range map[string]string{"/": "/view/host", "/fleet": "/view/fleet"} {
		var v view
		told := get(t, s, http.MethodGet, at, nil).Body.String()
		if err := json.Unmarshal([]byte(told), &v); err != nil || strings.Contains(told, "null") {
			t.Fatalf("%v: %s", err, told)
		}
		body := get(t, s, http.MethodGet, path, nil).Body.String()
		var cells []string
		for _, m := range regexp.MustCompile(`<(?:td|p) class="([^"]*)">([^<]*)</`).FindAllStringSubmatch(body, -1) {
			cells = append(cells, m[2]+"!"+m[1])
		}
		var want []string
		for _, c := range slices.Concat(v.Lines, slices.Concat(rows(v)...)) {
			want = append(want, c.Text+"!"+c.Style)
		}
		if diff := cmp.Diff(want, cells); diff != "" {
			t.Errorf("%s (-view +page):\n%s", path, diff)
		}
	}
}

func rows(v view) (all [][]cell) {
	for _, t := range v.Tables {
		all = append(all, t.Rows...)
	}
	return all
}

func TestRecent(t *testing.T) {
	t.Parallel()
	f := NewFeed()
	seqs := func(n int) (all []uint64) {
		for _, e := range f.Recent(n) {
			all = append(all, e.Seq)
		}
		return all
	}
	if got := seqs(5); len(got) > 0 {
		t.Errorf("of none: %v", got)
	}
	for _, seq := range []uint64{1, 2, 7, 8} { // a gap between
		f.Push(change(seq, "a", "active"))
	}
	if got := seqs(5); !slices.Equal(got, []uint64{8, 7}) {
		t.Errorf("%v", got)
	}
	if got := seqs(1); !slices.Equal(got, []uint64{8}) {
		t.Errorf("%v", got)
	}
	for seq := range uint64(3 * feedEvents) {
		f.Push(change(9+seq, "a", "active"))
	}
	if got := seqs(2 * feedEvents); len(got) != feedEvents || got[0] != 8+3*feedEvents {
		t.Errorf("%d, from %d", len(got), got[0])
	}
}
