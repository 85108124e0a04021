package main

import (
	"strings"
	"testing"
	"time"

	sd "github.com/coreos/go-systemd/v22/dbus"

	"gpuherd/cmd/gpuherd/internal/doctor"
	"gpuherd/monitor/state"
)

func TestStuckAndFlapping(t *testing.T) {
	t.Parallel()
	now := time.Now()
	at := func(ago time.Duration) uint64 { return uint64(now.Add(-ago).UnixMicro()) }
	seen := []state.Observation{
		{Name: "redis-worker@0.service", ChangedUS: at(time.Hour), NRestarts: 40},
		{Name: "redis-worker@1.service", ChangedUS: at(time.Minute), NRestarts: 40},
		{Name: "redis-worker@2.service", ChangedUS: at(time.Second), NRestarts: 2},
		{Name: "redis-worker@3.service"},
	}
	var jobs []sd.JobStatus
	for _, o := range append(seen, state.Observation{Name: "strange.service"}) {
		jobs = append(jobs, sd.JobStatus{Unit: o.Name, JobType: "stop", Status: "running"})
	}
	f := jobsFinding(jobs, seen, now)
	if f.Verdict != doctor.Warning || !strings.HasSuffix(f.Detail, ": stop of redis-worker@0 (running for 60 min)") {
		t.Errorf("%+v", f)
	}
	if f := jobsFinding(jobs[1:], seen, now); f.Verdict != doctor.OK {
		t.Errorf("%+v", f)
	}
	f = flappingFinding(seen, now)
	if f.Verdict != doctor.Problem || !strings.HasSuffix(f.Detail, ": redis-worker@1 (40 restarts)") {
		t.Errorf("%+v", f)
	}
}
