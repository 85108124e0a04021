//go:build acceptance

package acceptance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"gpuherd/monitor/relay"
	"gpuherd/monitor/state"
)

// store is what gpuherd keeps in Redis, read as any client would: by the
// documented keys alone.
type store struct {
	t    *testing.T
	host string
	db   *redis.Client
}

func connectRedis(t *testing.T) *store {
	t.Helper()
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	opts := &redis.Options{Addr: "127.0.0.1:6379"}
	// A container's variables.
	env := processEnvironment(t, 1)
	if name := env["MACHINE_ID"]; name != "" {
		host = name
	}
	if url := env["REDIS_URL"]; url != "" {
		if opts, err = redis.ParseURL(url); err != nil {
			t.Fatal("cannot read REDIS_URL of PID 1") // the error may repeat a password
		}
	}
	opts.ContextTimeoutEnabled, opts.DisableIdentity, opts.MaxRetries, opts.DialerRetries = true, true, -1, 1
	opts.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	db := redis.NewClient(opts)
	t.Cleanup(func() { _ = db.Close() })
	return &store{t: t, host: host, db: db}
}

// brief bounds one command: user-mode-linux is slow, but not that slow.
func brief() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), 10*time.Second)
}

func (s *store) key(name string) string { return relay.Key("gpuherd", s.host, name) }

// units returns the hash of the herd's units by unit name.
func (s *store) units() (map[string]state.Unit, error) {
	ctx, cancel := brief()
	defer cancel()
	raw, err := s.db.HGetAll(ctx, s.key("units")).Result()
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", s.key("units"), err)
	}
	units := map[string]state.Unit{}
	for name, data := range raw {
		var u state.Unit
		if err := json.Unmarshal([]byte(data), &u); err != nil {
			return nil, fmt.Errorf("%s of %s: %w", name, s.key("units"), err)
		}
		units[name] = u
	}
	return units, nil
}

// gpus returns the UUIDs of the hash of GPUs by index.
func (s *store) gpus() (map[string]string, error) {
	ctx, cancel := brief()
	defer cancel()
	raw, err := s.db.HGetAll(ctx, s.key("gpus")).Result()
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", s.key("gpus"), err)
	}
	uuids := map[string]string{}
	for index, data := range raw {
		var g state.GPU
		if err := json.Unmarshal([]byte(data), &g); err != nil {
			return nil, fmt.Errorf("%s of %s: %w", index, s.key("gpus"), err)
		}
		uuids[index] = g.UUID
	}
	return uuids, nil
}

// heartbeat is the monitor's sign of life.
type heartbeat struct {
	BootID string `json:"boot_id"`
	Epoch  uint64 `json:"epoch"`
	Seq    uint64 `json:"seq"`
}

func (s *store) heartbeat() (heartbeat, error) {
	ctx, cancel := brief()
	defer cancel()
	data, err := s.db.Get(ctx, s.key("heartbeat")).Bytes()
	if err != nil {
		return heartbeat{}, fmt.Errorf("cannot read %s: %w", s.key("heartbeat"), err)
	}
	var beat heartbeat
	if err := json.Unmarshal(data, &beat); err != nil {
		return heartbeat{}, fmt.Errorf("%s: %w", s.key("heartbeat"), err)
	}
	return beat, nil
}

// An event is one entry of the event stream.
type event struct {
	ID         string
	Epoch, Seq uint64
	BootID     string
	Type       string
	Unit       state.UnitEvent // of type "unit"
	Data       string
}

func (e event) String() string {
	if e.Type != state.TypeUnit {
		return fmt.Sprintf("\n  %d.%d %s %s", e.Epoch, e.Seq, e.Type, e.Data)
	}
	u := e.Unit
	return fmt.Sprintf("\n  %d.%d %s %s: %s/%s result=%s exit=%s/%d pid=%d restarts=%d invocation=%s resynced=%t", e.Epoch, e.Seq,
		u.Name, u.Event, u.Active, u.Sub, u.Result, u.ExitCode, u.ExitStatus, u.PID, u.Restarts, u.InvocationID, u.Resynced)
}

// mark returns the id of the newest event, from which since reads on.
func (s *store) mark() string {
	s.t.Helper()
	ctx, cancel := brief()
	defer cancel()
	last, err := s.db.XRevRangeN(ctx, s.key("events"), "+", "-", 1).Result()
	if err != nil {
		s.t.Fatalf("cannot read %s: %v", s.key("events"), err)
	}
	if len(last) == 0 {
		return "0"
	}
	return last[0].ID
}

// since returns the events after mark, in the order of the stream.
func (s *store) since(mark string) ([]event, error) {
	ctx, cancel := brief()
	defer cancel()
	entries, err := s.db.XRange(ctx, s.key("events"), "("+mark, "+").Result()
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", s.key("events"), err)
	}
	var events []event
	for _, entry := range entries {
		e := event{ID: entry.ID}
		field := func(name string) string { v, _ := entry.Values[name].(string); return v }
		e.BootID, e.Type, e.Data = field("boot_id"), field("type"), field("data")
		var errEpoch, errSeq error
		e.Epoch, errEpoch = strconv.ParseUint(field("epoch"), 10, 64)
		e.Seq, errSeq = strconv.ParseUint(field("seq"), 10, 64)
		if err := errors.Join(errEpoch, errSeq); err != nil {
			return nil, fmt.Errorf("event %s: %w", entry.ID, err)
		}
		if e.Type == state.TypeUnit {
			if err := json.Unmarshal([]byte(e.Data), &e.Unit); err != nil {
				return nil, fmt.Errorf("event %s: %w", entry.ID, err)
			}
		}
		events = append(events, e)
	}
	return events, nil
}

func (s *store) mustSince(mark string) []event {
	s.t.Helper()
	events, err := s.since(mark)
	if err != nil {
		s.t.Fatal(err)
	}
	return events
}

// without leaves out the events of one phase.
func without(events []event, phase string) []event {
	return slices.DeleteFunc(slices.Clone(events), func(e event) bool { return e.Unit.Event == phase })
}

// of keeps the events of one unit.
func of(events []event, unit string) []event {
	return slices.DeleteFunc(slices.Clone(events), func(e event) bool { return e.Unit.Name != unit })
}

// wantInOrder fails where events are not of one boot, of rising epochs and,
// within an epoch, of sequence numbers that rise by one: in order, each once,
// none missing.
func wantInOrder(t *testing.T, events []event) {
	t.Helper()
	for i := 1; i < len(events); i++ {
		a, b := events[i-1], events[i]
		if b.BootID != a.BootID || b.Epoch < a.Epoch || b.Epoch == a.Epoch && b.Seq != a.Seq+1 {
			t.Errorf("out of order:%v%v", a, b)
		}
	}
}

// wantPhases fails unless the unit went through just these phases, in this
// order, each told once.
func wantPhases(t *testing.T, events []event, unit string, want ...string) {
	t.Helper()
	var got []string
	for _, e := range of(events, unit) {
		got = append(got, e.Unit.Event)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s went through other phases (-want +got):\n%s%v", unit, diff, of(events, unit))
	}
}

// Queue keys: the default queue is named gpu.
const (
	jobsKey = "gpuherd:queue:{gpu}:jobs"
	jobKey  = "gpuherd:queue:{gpu}:job:"
)

// enqueue does what one redis-cli XADD does.
func (s *store) enqueue(id, payload string) {
	s.t.Helper()
	if err := s.add(id, payload); err != nil {
		s.t.Fatal(err)
	}
}

func (s *store) add(id, payload string) error {
	ctx, cancel := brief()
	defer cancel()
	err := s.db.XAdd(ctx, &redis.XAddArgs{Stream: jobsKey, Values: []string{"id", id, "payload", payload}}).Err()
	if err != nil {
		return fmt.Errorf("cannot enqueue %s: %w", id, err)
	}
	return nil
}

// load keeps so many jobs in the queue until ctx ends, then waits for the last
// of them, and counts in done. A job that does not succeed is an error.
func (s *store) load(ctx context.Context, prefix string, ahead int, done *atomic.Int64) error {
	var waiting []string
	for n := 0; ctx.Err() == nil || len(waiting) > 0; {
		if ctx.Err() == nil && len(waiting) < ahead {
			id := fmt.Sprintf("%s-%d", prefix, n)
			n++
			if err := s.add(id, task{Do: "sleep", MS: 50}.String()); err != nil {
				return err
			}
			waiting = append(waiting, id)
			continue
		}
		for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
			job, err := s.jobState(waiting[0])
			if err != nil {
				return err
			}
			if job["state"] == "succeeded" {
				break
			}
			if job["state"] == "dead" || job["state"] == "cancelled" || time.Now().After(deadline) {
				return fmt.Errorf("job %s is %v", waiting[0], job)
			}
		}
		waiting = waiting[1:]
		done.Add(1)
	}
	return nil
}

// jobState returns the hash of one job; it is empty while nobody claimed it.
func (s *store) jobState(id string) (map[string]string, error) {
	ctx, cancel := brief()
	defer cancel()
	return s.db.HGetAll(ctx, jobKey+id).Result()
}

// waitJob waits until a job is in a state, and returns its hash.
func (s *store) waitJob(id, want string) map[string]string {
	s.t.Helper()
	var job map[string]string
	eventually(s.t, "job "+id+" is "+want, func() error {
		var err error
		if job, err = s.jobState(id); err != nil {
			return err
		}
		if job["state"] != want {
			return fmt.Errorf("it is %v", job)
		}
		return nil
	})
	return job
}
