package queue

import (
	"testing"
	"time"
)

func TestBlock(t *testing.T) {
	t.Parallel()
	const most = 1500 * time.Millisecond
	q, err := New(nil, "gpuherd", "gpu", Options{Block: most})
	if err != nil {
		t.Fatal(err)
	}
	c := q.Consumer("a")
	seen := map[time.Duration]bool{}
	for range 100 {
		d := c.block()
		if d < most*3/4 || d > most {
			t.Fatalf("waits %v", d)
		}
		seen[d.Round(10*time.Millisecond)] = true
	}
	if len(seen) < 10 {
		t.Errorf("waits only %v", seen)
	}
	// A delayed job is not to be missed, and one whose time has come not waited for.
	c.due = time.Now().Add(100 * time.Millisecond)
	if d := c.block(); d > 101*time.Millisecond {
		t.Errorf("waits %v for a job due in 100ms", d)
	}
	c.due = time.Now().Add(-time.Hour)
	if d := c.block(); d != time.Millisecond {
		t.Errorf("waits %v for a job that is due", d)
	}
}
