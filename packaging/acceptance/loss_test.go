//go:build acceptance

package acceptance

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	"github.com/redis/go-redis/v9"

	"gpuherd/packaging/acceptance/loss"
)

var lossTime = flag.Duration("loss", 20*time.Second, "how long TestLoss does harm")

// looping are services that end after a while, each kind in another way, and
// start again at once.
var looping = map[string]string{
	"loop-ends@.service":   "ExecStart=/bin/sh -c 'exec sleep AWHILE'\n",
	"loop-fails@.service":  "ExecStart=/bin/sh -c 'sleep AWHILE; exit 3'\n",
	"loop-dies@.service":   "ExecStart=/bin/sh -c 'sleep AWHILE; kill -KILL $$$$'\n",
	"loop-notify@.service": "Type=notify\nNotifyAccess=all\nExecStart=/bin/sh -c 'systemd-notify --ready; exec sleep AWHILE'\n",
}

// awhile is from 0.0 to about most seconds, by the number of the process.
func awhile(most int) string {
	return fmt.Sprintf("$$(( $$$$ %%%% %d )).$$(( $$$$ %%%% 10 ))", most)
}

// 64 units loop and are started, stopped, killed and reloaded besides, while
// one thing after another is done to the monitor, to Redis, to systemd and to
// the bus. Afterwards the stream of events is held against the journal.
func TestLoss(t *testing.T) {
	const each = 16
	redis.SetLogger(silent{})
	var bus *dbus.Conn // the one after the harm, for the cleanups, too
	t.Cleanup(func() {
		if bus != nil {
			bus.Close()
		}
	})
	h := open(t)
	most := h.pace(each * len(looping))
	t.Logf("each unit runs for up to %d s at a time", most)
	units := map[string]string{}
	var names []string
	for file, text := range looping {
		text = strings.ReplaceAll(text, "AWHILE", awhile(most))
		for i := range each {
			name := strings.Replace(file, "@", fmt.Sprintf("@%d", i), 1)
			// Without dependencies a start is one job and not thirty.
			units[name] = "[Unit]\nStartLimitIntervalSec=0\nDefaultDependencies=no\n[Service]\n" + text + "ExecReload=/bin/true\nRestart=always\nRestartSec=0\nTimeoutStopSec=2\n"
			names = append(names, name)
		}
	}
	h.join(units)
	h.same()

	ctx, finish := context.WithCancel(t.Context())
	var helpers sync.WaitGroup
	defer helpers.Wait()
	defer finish()
	reader := &collector{store: h.redis, last: h.redis.mark()}
	helpers.Go(func() { reader.run(ctx) })
	rss := &memory{}
	helpers.Go(func() { rss.run(ctx) })
	for _, name := range names {
		h.do("start", name)
	}
	hands, rest := context.WithCancel(ctx)
	helpers.Go(func() { meddle(hands, names) })

	h.harm(*lossTime)

	rest()
	bus, err := dbus.NewSystemConnectionContext(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	h.conn = bus // that which it had is gone
	for _, name := range names {
		h.do("stop", name)
	}
	h.same()
	told := h.told
	eventually(t, "the reader has read all", func() error {
		if last := h.redis.mark(); reader.at() != last {
			return fmt.Errorf("it is at %s of %s", reader.at(), last)
		}
		return nil
	})
	finish()
	helpers.Wait()

	report := loss.Check(reader.told, readJournal(t))
	t.Logf("%d starts and %d ends in the journal; %d in the stream of %d events, %d epochs, %d of them backfilled, %d resynced, %d gaps; %d covered by a mark",
		report.Starts, report.Ends, report.Events, len(reader.told), report.Epochs, report.Backfilled, report.Resynced, report.Gaps, report.Explained)
	if report.Starts < len(names)*3/2 {
		t.Errorf("%d starts of %d units are no load", report.Starts, len(names))
	}
	for i, wrong := range report.Unexplained {
		if i == 20 {
			t.Errorf("… and %d more", len(report.Unexplained)-i)
			break
		}
		t.Error(wrong)
	}
	for _, name := range names {
		c := report.Units[name]
		if got := int(told(name)); got > c.Starts-1 || got < c.Starts-1-c.Lacking {
			t.Errorf("Redis counts %d restarts of %s, the journal %d starts, of which the stream lacks %d", got, name, c.Starts, c.Lacking)
		}
	}
	rss.report(t)
}

// silent keeps the client from telling that Redis is away, as it is meant to be.
type silent struct{}

func (silent) Printf(context.Context, string, ...any) {}

// pace returns how many seconds each of n units may run at most, so that
// starting them again takes systemd about a third of its time, however busy
// the host of this machine is.
func (h *herd) pace(n int) int {
	h.t.Helper()
	const starts = 10
	h.join(map[string]string{"pace.service": "[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\nExecStart=/bin/true\n"})
	began := time.Now()
	for range starts {
		h.do("start", "pace.service")
	}
	each := time.Since(began).Seconds() / starts
	return min(max(int(2*3*each*float64(n)), 4), 40)
}

// harm does one thing after another for a while.
func (h *herd) harm(total time.Duration) {
	h.t.Helper()
	sh := func(script string) func() {
		return func() {
			if out, err := exec.Command("/bin/sh", "-c", script).CombinedOutput(); err != nil {
				h.t.Errorf("%s: %v: %s", script, err, out)
			}
		}
	}
	harms := []struct {
		name string
		do   func()
	}{
		{"Redis stands still", sh("systemctl kill -s STOP redis-server; sleep 3; systemctl kill -s CONT redis-server")},
		{"Redis is killed and comes back empty", sh("systemctl kill -s KILL redis-server; systemctl stop redis-server; rm -rf /var/lib/redis/*; systemctl start redis-server")},
		{"the network of Redis is cut", sh("ip link set lo down; sleep 2; ip link set lo up")},
		{"daemon-reload", sh("systemctl daemon-reload")},
		{"daemon-reexec", sh("systemctl daemon-reexec")},
		{"the bus is restarted", sh("systemctl restart dbus.service")},
		{"the monitor is killed", sh("systemctl kill -s KILL gpuherd-monitor")},
	}
	every := min(5*time.Second, total/time.Duration(len(harms)))
	began := time.Now()
	for n := 0; n < len(harms) || time.Since(began) < total; n++ {
		round, i := n/len(harms), n%len(harms)
		if i == 0 {
			rand.Shuffle(len(harms), func(i, j int) { harms[i], harms[j] = harms[j], harms[i] })
		}
		// The process whose memory is watched lives for most of a long run.
		if harms[i].name == "the monitor is killed" && round > 0 && time.Since(began) > total/8 {
			continue
		}
		next := time.After(every)
		h.t.Logf("%v: %s", time.Since(began).Round(time.Millisecond), harms[i].name)
		harms[i].do()
		<-next
	}
}

// meddle does to units what people do, until ctx ends. It goes past the bus,
// which may be away.
func meddle(ctx context.Context, names []string) {
	verbs := []string{"start", "stop", "restart", "reload", "kill"}
	for ctx.Err() == nil {
		conn, err := dbus.NewSystemdConnectionContext(ctx)
		if err == nil {
			name := names[rand.N(len(names))]
			call, cancel := context.WithTimeout(ctx, 5*time.Second)
			switch verbs[rand.N(len(verbs))] {
			case "start":
				_, _ = conn.StartUnitContext(call, name, "replace", nil)
			case "stop":
				_, _ = conn.StopUnitContext(call, name, "replace", nil)
			case "restart":
				_, _ = conn.RestartUnitContext(call, name, "replace", nil)
			case "reload":
				_, _ = conn.ReloadUnitContext(call, name, "replace", nil)
			case "kill":
				_ = conn.KillUnitWithTarget(call, name, dbus.All, 9)
			}
			cancel()
			conn.Close()
		}
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// A collector keeps all that it ever saw of the stream, also of a Redis that
// has forgotten it.
type collector struct {
	store *store

	mu   sync.Mutex
	last string // id
	told []loss.Told
}

func (c *collector) at() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

func (c *collector) run(ctx context.Context) {
	for ctx.Err() == nil {
		call, cancel := context.WithTimeout(ctx, 5*time.Second)
		streams, err := c.store.db.XRead(call, &redis.XReadArgs{Streams: []string{c.store.key("events"), c.at()}, Count: 1000, Block: 200 * time.Millisecond}).Result()
		cancel()
		if err != nil {
			select {
			case <-ctx.Done():
			case <-time.After(10 * time.Millisecond):
			}
			continue
		}
		for _, s := range streams {
			for _, m := range s.Messages {
				c.take(m)
			}
		}
	}
}

func (c *collector) take(m redis.XMessage) {
	field := func(name string) string { v, _ := m.Values[name].(string); return v }
	number := func(name string) uint64 { n, _ := strconv.ParseUint(field(name), 10, 64); return n }
	e := loss.Told{BootID: field("boot_id"), Epoch: number("epoch"), Seq: number("seq"), Type: field("type")}
	var data struct {
		Unit, Event          string
		Invocation           string `json:"invocation_id"`
		Restarts             uint64
		Resynced, Backfilled bool
		From                 uint64 `json:"from_seq"`
		To                   uint64 `json:"to_seq"`
	}
	_ = json.Unmarshal([]byte(field("data")), &data) // a difference, where it cannot be read
	e.Unit, e.Event, e.Invocation, e.Restarts = data.Unit, data.Event, data.Invocation, data.Restarts
	e.Resynced, e.Backfilled, e.From, e.To = data.Resynced, data.Backfilled, data.From, data.To
	c.mu.Lock()
	defer c.mu.Unlock()
	c.told = append(c.told, e)
	c.last = m.ID
}

// readJournal returns the journal's record of the looping units.
func readJournal(t *testing.T) []loss.Logged {
	t.Helper()
	// journald stores what it has received before it answers this.
	if _, stderr, status := run(t, "journalctl", "--sync"); status != 0 {
		t.Fatalf("journalctl --sync ended with %d: %s", status, stderr)
	}
	cmd := exec.Command("journalctl", "--output=json", "--output-fields=UNIT,INVOCATION_ID,MESSAGE_ID", "--no-pager", "--boot", "_PID=1")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	all, err := loss.ReadJournal(out)
	if err != nil {
		t.Errorf("the journal cannot be read: %v", err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("journalctl: %v: %s", err, &stderr)
	}
	var ours []loss.Logged
	for _, l := range all {
		if strings.HasPrefix(l.Unit, "loop-") {
			ours = append(ours, l)
		}
	}
	return ours
}

// memory watches the monitor's resident memory.
type memory struct{ samples []sample }

type sample struct {
	at  time.Time
	pid int
	kB  float64
}

func (m *memory) run(ctx context.Context) {
	ticks := time.NewTicker(time.Second)
	defer ticks.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticks.C:
		}
		comms, _ := filepath.Glob("/proc/[0-9]*/comm")
		for _, path := range comms {
			if name, err := os.ReadFile(path); err != nil || string(name) != "gpuherd-monitor\n" {
				continue
			}
			var s sample
			_, _ = fmt.Sscanf(path, "/proc/%d/", &s.pid)
			status, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "status"))
			for _, l := range strings.Split(string(status), "\n") {
				if _, err := fmt.Sscanf(l, "VmRSS: %f kB", &s.kB); err == nil {
					s.at = time.Now()
					m.samples = append(m.samples, s)
				}
			}
		}
	}
}

// report tells the slope of the process that lived longest, which in a long
// run has to be flat.
func (m *memory) report(t *testing.T) {
	t.Helper()
	lives := map[int][]sample{}
	var longest []sample
	for _, s := range m.samples {
		lives[s.pid] = append(lives[s.pid], s)
		if len(lives[s.pid]) > len(longest) {
			longest = lives[s.pid]
		}
	}
	// What comes up at the start, as the journal that is read, is no growth.
	longest = longest[len(longest)/5:]
	if len(longest) < 3 {
		t.Errorf("the monitor's memory was seen %d times", len(longest))
		return
	}
	var n, sx, sy, sxx, sxy, most float64
	for _, s := range longest {
		x := s.at.Sub(longest[0].at).Minutes()
		n, sx, sy, sxx, sxy = n+1, sx+x, sy+s.kB, sxx+x*x, sxy+x*s.kB
		most = max(most, s.kB)
	}
	slope := (n*sxy - sx*sy) / (n*sxx - sx*sx)
	over := longest[len(longest)-1].at.Sub(longest[0].at)
	t.Logf("resident memory over %v: %.0f kB in the mean, %.0f kB at most, slope %+.1f kB a minute", over.Round(time.Second), sy/n, most, slope)
	const flat = 20 // kB a minute
	if over > 10*time.Minute && slope > flat {
		t.Errorf("it grows by %.1f kB a minute, want at most %d", slope, flat)
	}
}
