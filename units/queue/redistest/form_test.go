package redistest

import (
	"context"
	"testing"
)

// Each form takes a write from a client as the programs have it, which its
// admin reads.
func TestForms(t *testing.T) {
	t.Parallel()
	for _, form := range Forms("~gpuherd:* &gpuherd:* -@all +set +ping") {
		t.Run(form.Name, func(t *testing.T) {
			t.Parallel()
			d := form.Start(t)
			if err := d.Client(t).Set(t.Context(), "gpuherd:k", "v", 0).Err(); err != nil {
				t.Fatal(err)
			}
			admin := d.Admin(t)
			if v, err := admin.Get(t.Context(), "gpuherd:k").Result(); err != nil || v != "v" {
				t.Errorf("the admin reads %q, %v", v, err)
			}
			d.Primary("gpuherd:k").Kill()
			if form.Name == "Sentinel" || form.Name == "Cluster" {
				return // another takes its place, or not yet
			}
			d.Primary("gpuherd:k").Restart()
			if v, err := admin.Get(t.Context(), "gpuherd:k").Result(); err != nil || v != "v" {
				t.Errorf("after a restart the admin reads %q, %v", v, err)
			}
		})
	}
}

func TestSentinelFailover(t *testing.T) {
	t.Parallel()
	s := StartSentinel(t)
	s.Failover()
	c := s.Client(t)
	until(t, "the new master takes a write", func(ctx context.Context) bool { return c.Set(ctx, "k", "v", 0).Err() == nil })
}

func TestClusterMoves(t *testing.T) {
	t.Parallel()
	cl := StartCluster(t)
	c := cl.Client(t)
	if err := c.Set(t.Context(), "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	before := cl.Primary("k")
	cl.Migrate("k")
	if cl.Primary("k") == before {
		t.Error("the slot is where it was")
	}
	cl.Failover("k")
	if v, err := c.Get(t.Context(), "k").Result(); err != nil || v != "v" {
		t.Errorf("after both: %q, %v", v, err)
	}
}
