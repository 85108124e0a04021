package fleet

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	beat   = `{"boot_id":"b","epoch":3,"seq":9,"version":"1.2.3","uptime":90.5}`
	worker = `{"unit":"redis-worker@0.service","service":"redis-worker","instance":"0","gpu":0,"active":"active","sub":"running","restarts":2,"job":"horse"}`
	broken = `{"unit":"redis-worker@10.service","active":"failed","sub":"failed","restarts":5}`
)

func TestSummarise(t *testing.T) {
	t.Parallel()
	const now, seen = 100_000, 40_000
	for _, tt := range []struct {
		name    string
		record  record
		want    Host
		failing bool
		trouble string
	}{
		{"alive", record{
			beat:  beat,
			units: map[string]string{"redis-worker@0.service": worker, "a.service": `{"active":"reloading"}`, "b.service": `{"active":"inactive"}`},
			gpus:  map[string]string{"0": `{"index":0,"health":"healthy"}`, "1": `{"index":1,"health":"unknown","reasons":["simulated"]}`},
		}, Host{
			State: Alive, Version: "1.2.3", BootID: "b", Epoch: 3, Uptime: 90.5, Restarts: 2, Jobs: 1,
			Units: Units{Total: 3, Active: 2, Inactive: 1}, GPUs: GPUs{Total: 2, Healthy: 1, Unknown: 1},
		}, false, ""},
		{"in trouble", record{
			beat: beat,
			units: map[string]string{
				"redis-worker@10.service": broken, "redis-worker@9.service": broken, "c.service": `{"active":"activating"}`,
				"d.service": `{"active":"deactivating"}`, "e.service": `{"active":"invented"}`,
			},
			gpus: map[string]string{"10": `{"index":10,"health":"unhealthy"}`, "2": `{"index":2,"health":"unhealthy","reasons":["XID 79","off the bus"]}`},
		}, Host{
			State: Alive, Version: "1.2.3", BootID: "b", Epoch: 3, Uptime: 90.5, Restarts: 10,
			Units: Units{Total: 5, Activating: 1, Deactivating: 1, Failed: 2}, Failed: []string{"redis-worker@9.service", "redis-worker@10.service"},
			GPUs: GPUs{Total: 2, Unhealthy: 2}, Unhealthy: []Ailing{{2, []string{"XID 79", "off the bus"}}, {10, []string{}}},
		}, true, "redis-worker@9, redis-worker@10 failed; GPU 2 unhealthy: XID 79, off the bus; GPU 10 unhealthy"},
		{"lost", record{units: map[string]string{"redis-worker@0.service": worker}, last: lastEvent{"unit", worker}},
			Host{State: Lost, Units: Units{Total: 1, Active: 1}, Restarts: 2, Jobs: 1}, true, ""},
		{"lost after it came", record{last: lastEvent{"host", `{"event":"online"}`}}, Host{State: Lost}, true, ""},
		{"a unit that says offline", record{last: lastEvent{"unit", `{"event":"offline"}`}}, Host{State: Lost}, true, ""},
		{"offline", record{units: map[string]string{"redis-worker@10.service": broken}, last: lastEvent{"host", `{"event":"offline","version":"1"}`}},
			Host{State: Offline, Units: Units{Total: 1, Failed: 1}, Failed: []string{"redis-worker@10.service"}, Restarts: 5}, false, "redis-worker@10 failed"},
		{"unread", record{beat: beat, err: errors.New("WRONGTYPE")}, Host{State: Unread, Error: "WRONGTYPE"}, true, "WRONGTYPE"},
		{"not as it is written", record{beat: "[", units: map[string]string{"a": "{", "b": `{"active":7}`, "c": `{"active":"active"}`}, gpus: map[string]string{"0": ""}},
			Host{State: Alive, Units: Units{Total: 1, Active: 1}, Error: "4 values in Redis are not as a monitor writes them"}, true, "4 values in Redis are not as a monitor writes them"},
	} {
		tt.record.host, tt.record.seen = "gpu1", seen
		tt.want.Host, tt.want.SeenMS, tt.want.AgoMS = "gpu1", seen, now-seen
		got := summarise(tt.record, now)
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
		if got.Failing() != tt.failing || got.Trouble() != tt.trouble {
			t.Errorf("%s: failing %v, %q", tt.name, got.Failing(), got.Trouble())
		}
	}
	if got := summarise(record{seen: now + 5}, now); got.AgoMS != 0 {
		t.Errorf("seen %d ms ago", got.AgoMS)
	}
}

// What a host that is not alive told last counts for nothing.
func TestTotal(t *testing.T) {
	t.Parallel()
	units, gpus := Units{9, 1, 2, 3, 1, 1}, GPUs{6, 1, 2, 3}
	f := newFleet(7, []Host{
		{Host: "gpu10", State: Alive, Units: units, GPUs: gpus, Jobs: 2}, {Host: "gpu9", State: Alive, Units: units, GPUs: gpus, Jobs: 1},
		{Host: "c", State: Lost, Units: units, GPUs: gpus, Jobs: 7}, {Host: "a", State: Offline, Units: units}, {Host: "b", State: Unread},
	}, 4)
	want := Total{Hosts: 5, Alive: 2, Lost: 1, Offline: 1, Unread: 1, Units: Units{18, 2, 4, 6, 2, 2}, GPUs: GPUs{12, 2, 4, 6}, Jobs: 3}
	if diff := cmp.Diff(want, f.Total); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	names := func(f Fleet) (all string) {
		for _, h := range f.Hosts {
			all += h.Host + " "
		}
		return all
	}
	if got := names(f); got != "a b c gpu9 gpu10 " || f.AtMS != 7 || f.Omitted != 4 {
		t.Errorf("hosts are %s at %d, %d omitted", got, f.AtMS, f.Omitted)
	}
	failing := f.Only((*Host).Failing)
	if got := names(failing); got != "b c " || failing.Total.Hosts != 2 || failing.Total.Units.Total != 0 {
		t.Errorf("failing are %s, %+v", got, failing.Total)
	}
}

func TestInWords(t *testing.T) {
	t.Parallel()
	for want, v := range map[string]fmt.Stringer{
		"0 hosts: 0 alive; 0 units, 0 active; 0 GPUs; 0 jobs running": Total{},
		"4 hosts: 1 alive, 1 lost, 1 offline, 1 unread; 1 unit, 0 active, 1 failed; 1 GPU, 1 unhealthy; 1 job running": Total{
			Hosts: 4, Alive: 1, Lost: 1, Offline: 1, Unread: 1, Units: Units{Total: 1, Failed: 1}, GPUs: GPUs{Total: 1, Unhealthy: 1}, Jobs: 1,
		},
		"queue gpu: 0 waiting, 0 running, 0 delayed, 0 dead":                             Queue{Name: "gpu", AtMS: 5},
		"queue gpu: 2 waiting, the first for 5m7s, 3 running, 4 delayed, 1 dead; paused": Queue{Name: "gpu", AtMS: 400_000, OldestMS: 93_000, Waiting: 2, Running: 3, Delayed: 4, Dead: 1, Paused: true},
	} {
		if got := v.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestCompareNames(t *testing.T) {
	t.Parallel()
	want := []string{"", "a", "a-2", "a-10", "a01", "a1", "a1b", "a2", "a10", "a10b2", "a10b11", "a99999999999999999999998", "a99999999999999999999999", "b"}
	got := slices.Clone(want)
	slices.Reverse(got)
	slices.SortFunc(got, compareNames)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestParseList(t *testing.T) {
	t.Parallel()
	got, ok := parseList([]any{int64(9), int64(3), []any{"b", "1732471234567", "a", "1.5e3"}})
	if want := (List{AtMS: 9, Hosts: []Seen{{"b", 1732471234567}, {"a", 1500}}, Omitted: 1}); !ok || !cmp.Equal(want, got) {
		t.Errorf("%+v, %v", got, ok)
	}
	for _, answer := range [][]any{
		nil, {int64(1), int64(2)}, {"1", int64(2), []any{}}, {int64(1), "2", []any{}}, {int64(1), int64(2), "x"},
		{int64(1), int64(2), []any{"a"}}, {int64(1), int64(2), []any{"a", "soon"}}, {int64(1), int64(2), []any{"a", 5}}, {int64(1), int64(2), []any{7, "5"}},
	} {
		if got, ok := parseList(answer); ok {
			t.Errorf("%v was read as %+v", answer, got)
		}
	}
}

// Whatever Redis holds, a host can be made of it.
func FuzzSummarise(f *testing.F) {
	f.Add(beat, worker, `{"index":0,"health":"unhealthy","reasons":["XID 79"]}`, "host", `{"event":"offline"}`)
	f.Add("", "{", `null`, "unit", `[]`)
	f.Fuzz(func(t *testing.T, beat, unit, gpu, kind, data string) {
		h := summarise(record{host: "h", beat: beat, units: map[string]string{"u": unit}, gpus: map[string]string{"0": gpu}, last: lastEvent{kind, data}}, 1)
		if !slices.Contains(States, h.State) || (h.State == Alive) != (beat != "") {
			t.Errorf("state %q", h.State)
		}
		if h.Units.Total+h.GPUs.Total < 2 && !strings.Contains(h.Error, "not as a monitor writes") {
			t.Errorf("%+v lacks something and has no error", h)
		}
	})
}
