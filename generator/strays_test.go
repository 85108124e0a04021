package generator_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"gpuherd/generator"
)

// A file that was meant to be read and is not is told; copies and notes are
// meant to lie there.
func TestStrays(t *testing.T) {
	t.Parallel()
	root := machine(t, "01-two-simulated")
	for _, name := range []string{
		"etc/gpuherd/services/good.service", "etc/gpuherd/services/good.service.d/10-a.conf", "etc/gpuherd/services/redis-worker.service.d/10-a.conf",
		"etc/gpuherd/services/good.service~", "etc/gpuherd/services/good.service.dpkg-old", "etc/gpuherd/services/README", "etc/gpuherd/services/.hidden.servcie",
		"etc/gpuherd/services/good.services", "etc/gpuherd/services/redis-worker.conf", "etc/gpuherd/services/mine.timer", "run/gpuherd/services/x.SVC",
		"etc/gpuherd/services/redis-wroker.service.d/10-a.conf", "etc/gpuherd/services/nowhere.service.d/10-a.conf",
		"etc/gpuherd/services/good.service.d/20-b.config", "etc/gpuherd/services/good.service.d/30-c.service", "etc/gpuherd/services/good.service.d/40-d.conf.bak",
		"etc/gpuherd/gpuherd.conf.d/10-a.conf", "etc/gpuherd/gpuherd.conf.d/20-b.cfg", "etc/gpuherd/gpuherd.conf.d/notes",
	} {
		put(t, root, name, "")
	}
	var got []string
	for _, p := range generator.Strays(root) {
		if !p.Warning {
			t.Errorf("%v is more than a warning", p)
		}
		got = append(got, p.Error())
	}
	want := []string{
		"/etc/gpuherd/gpuherd.conf.d/20-b.cfg: is not read: its name does not end in .conf; rename it",
		"/etc/gpuherd/services/good.service.d/20-b.config: is not read: its name does not end in .conf; rename it",
		"/etc/gpuherd/services/good.service.d/30-c.service: is not read: its name does not end in .conf; rename it",
		"/etc/gpuherd/services/good.services: is not read: its name does not end in .service; rename it",
		"/etc/gpuherd/services/mine.timer: is not read: its name does not end in .service; rename it",
		"/etc/gpuherd/services/nowhere.service.d: is not read: there is no service nowhere; add /etc/gpuherd/services/nowhere.service, or take it away",
		"/etc/gpuherd/services/redis-worker.conf: is not read: its name does not end in .service; changes to a service go to NAME.service.d/redis-worker.conf",
		"/etc/gpuherd/services/redis-wroker.service.d: is not read: there is no service redis-wroker; did you mean redis-worker.service.d?",
		"/run/gpuherd/services/x.SVC: is not read: its name does not end in .service; rename it",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
