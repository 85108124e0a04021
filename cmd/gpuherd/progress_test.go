package main

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"gpuherd/cmd/gpuherd/internal/jobs"
)

// TestStandingsAreToldOnce has units stand somewhere each second, where nobody
// watches a terminal.
func TestStandingsAreToldOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var stderr bytes.Buffer
		a := &app{stdout: &output{Writer: t.Output()}, stderr: &output{Writer: &stderr}}
		p := a.newProgress(jobs.Restart, []string{"a.service", "b.service", "c.service", "d.service", "e.service"}, false)
		defer p.close()
		for i := range 20 {
			p.standing(jobs.Standing{Unit: "a.service", Active: "activating", StatusText: "waiting"})
			// Less often than it says something else.
			p.standing(jobs.Standing{Unit: "b.service", Active: "activating", StatusText: "loading " + string(rune('a'+i))})
			// First its last job ends, which may take long.
			c := jobs.Standing{Unit: "c.service", Active: "deactivating", StatusText: "job " + string(rune('a'+i))}
			if i >= 10 {
				c = jobs.Standing{Unit: "c.service", Active: "activating"}
			}
			p.standing(c)
			// Its mend is told with the first that waits for it.
			p.standing(jobs.Standing{Unit: "d.service", Active: "activating", StatusText: "Redis at redis://x is full"})
			p.standing(jobs.Standing{Unit: "e.service", Active: "activating", StatusText: "Redis at redis://x is full"})
			time.Sleep(time.Second)
		}
		const want = `gpuherd: a is not ready yet: waiting
gpuherd: b is not ready yet: loading a
gpuherd: c is not stopped yet: job a
gpuherd: d is not ready yet: Redis at redis://x is full; it is full: raise its maxmemory or remove keys of others
gpuherd: e is not ready yet: Redis at redis://x is full
gpuherd: b is not ready yet: loading f
gpuherd: b is not ready yet: loading k
gpuherd: c is not ready yet
gpuherd: b is not ready yet: loading p
`
		if diff := cmp.Diff(want, stderr.String()); diff != "" {
			t.Errorf("stderr (-want +got):\n%s", diff)
		}
	})
}
