package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/redis/go-redis/v9"

	"gpuherd/monitor/relay"
	"gpuherd/units/queue"
	"gpuherd/units/redisclient"
)

// hostsAtOnce bounds a pipeline, and with it the memory that a reading takes: a
// host of 16 units is some 10 KB.
const hostsAtOnce = 64

// A Reader reads the fleet out of Redis. It changes nothing there.
type Reader struct {
	Client redis.UniversalClient
	Prefix string // of every key: "gpuherd"
}

// A List is the hosts that Redis knows, by their last heartbeats: the last one
// first.
type List struct {
	AtMS    int64 // when it was read, unix time in ms by Redis' clock
	Hosts   []Seen
	Omitted int // hosts behind the limit
}

// A Seen is a host and its last heartbeat.
type Seen struct {
	Host string
	MS   int64 // unix time in ms by Redis' clock
}

// listScript reads the list of hosts, and the clock of the node that has it: by
// that clock the heartbeats in it are.
//
//	KEYS[1] the hosts
//	ARGV    how many at most; 0: all
//
// Answers {now in ms, number of hosts, {host, score, …}}.
var listScript = redis.NewScript(`
local t = redis.call('TIME')
return {t[1] * 1000 + math.floor(t[2] / 1000), redis.call('ZCARD', KEYS[1]),
  redis.call('ZREVRANGE', KEYS[1], 0, ARGV[1] - 1, 'WITHSCORES')}`)

// List reads the names, up to limit of them; 0 is no limit. Its error is a
// *redisclient.Trouble.
func (r *Reader) List(ctx context.Context, limit int) (List, error) {
	answer, err := listScript.Run(ctx, r.Client, []string{relay.HostsKey(r.Prefix)}, limit).Slice()
	if err != nil {
		return List{}, redisclient.Diagnose(fmt.Errorf("cannot read the list of hosts: %w", err))
	}
	l, ok := parseList(answer)
	if !ok {
		return List{}, redisclient.Diagnose(fmt.Errorf("cannot read the list of hosts: script answered %.200v", answer))
	}
	return l, nil
}

// Read reads the hosts of l. Where Redis refuses the keys of some, those are
// Unread; where it gives no answer, or refuses all, that is an error, a
// *redisclient.Trouble.
func (r *Reader) Read(ctx context.Context, l List) (Fleet, error) {
	hosts := make([]Host, 0, len(l.Hosts))
	var refused error
	for from := 0; from < len(l.Hosts); from += hostsAtOnce {
		records, err := r.records(ctx, l.Hosts[from:min(from+hostsAtOnce, len(l.Hosts))])
		if err != nil {
			return Fleet{}, redisclient.Diagnose(fmt.Errorf("cannot read hosts: %w", err))
		}
		for _, of := range records {
			hosts = append(hosts, summarise(of, l.AtMS))
			if of.err != nil {
				refused = of.err
			}
		}
	}
	f := newFleet(l.AtMS, hosts, l.Omitted)
	if refused != nil && f.Total.Unread == len(hosts) {
		return Fleet{}, redisclient.Diagnose(fmt.Errorf("cannot read hosts: %w", refused))
	}
	return f, nil
}

// records reads some hosts in two round trips: what there is of each, then how
// those ended whose heart does not beat. Its error is that Redis gave no
// answer.
func (r *Reader) records(ctx context.Context, hosts []Seen) ([]record, error) {
	beats := make([]*redis.StringCmd, len(hosts))
	units, gpus := make([]*redis.MapStringStringCmd, len(hosts)), make([]*redis.MapStringStringCmd, len(hosts))
	pipe := r.Client.Pipeline()
	for i, h := range hosts {
		beats[i] = pipe.Get(ctx, relay.Key(r.Prefix, h.Host, "heartbeat"))
		units[i] = pipe.HGetAll(ctx, relay.Key(r.Prefix, h.Host, "units"))
		gpus[i] = pipe.HGetAll(ctx, relay.Key(r.Prefix, h.Host, "gpus"))
	}
	if err := exec(ctx, pipe); err != nil {
		return nil, err
	}
	records := make([]record, len(hosts))
	last := make([]*redis.XMessageSliceCmd, len(hosts))
	pipe = r.Client.Pipeline()
	for i, h := range hosts {
		of := record{host: h.Host, seen: h.MS, beat: beats[i].Val(), units: units[i].Val(), gpus: gpus[i].Val()}
		for _, cmd := range []redis.Cmder{beats[i], units[i], gpus[i]} {
			of.err = cmp.Or(of.err, refusal(cmd))
		}
		if records[i] = of; of.beat == "" && of.err == nil {
			last[i] = pipe.XRevRangeN(ctx, relay.Key(r.Prefix, h.Host, "events"), "+", "-", 1)
		}
	}
	if pipe.Len() == 0 {
		return records, nil
	}
	if err := exec(ctx, pipe); err != nil {
		return nil, err
	}
	for i, cmd := range last {
		if cmd == nil {
			continue
		}
		records[i].err = refusal(cmd)
		for _, e := range cmd.Val() {
			kind, _ := e.Values["type"].(string)
			data, _ := e.Values["data"].(string)
			records[i].last = lastEvent{kind, data}
		}
	}
	return records, nil
}

// exec runs a pipeline. An error that the server answers to one command is that
// command's, and not one of the whole.
func exec(ctx context.Context, pipe redis.Pipeliner) error {
	commands, err := pipe.Exec(ctx)
	if err == nil {
		return nil
	}
	for _, c := range commands {
		var told redis.Error
		if err := c.Err(); err != nil && !errors.As(err, &told) {
			return err
		}
	}
	return nil
}

// refusal returns the error that the server answered to a command, with the key
// that it is about.
func refusal(cmd redis.Cmder) error {
	err := cmd.Err()
	if err == nil || errors.Is(err, redis.Nil) {
		return nil
	}
	return redisclient.Diagnose(fmt.Errorf("%v: %w", cmd.Args()[1], err))
}

// A Queue is how many jobs are where. Times are by Redis' clock.
type Queue struct {
	Name     string `json:"queue"`
	AtMS     int64  `json:"at_ms"` // when it was read, unix time in ms
	Paused   bool   `json:"paused"`
	Waiting  int64  `json:"waiting"`
	Running  int64  `json:"running"`
	Delayed  int64  `json:"delayed"`
	Dead     int64  `json:"dead"`
	OldestMS int64  `json:"oldest_waiting_ms,omitempty"` // when the first that waits was put in; absent: none waits
}

// Queue reads the figures of the queue name. Its error is a
// *redisclient.Trouble.
func (r *Reader) Queue(ctx context.Context, name string) (Queue, error) {
	q, err := queue.New(r.Client, r.Prefix, name, queue.Options{})
	if err != nil {
		return Queue{}, redisclient.Diagnose(err)
	}
	s, err := q.Stats(ctx)
	if err != nil {
		return Queue{}, redisclient.Diagnose(err)
	}
	of := Queue{Name: name, AtMS: s.At.UnixMilli(), Paused: s.Paused, Delayed: s.Delayed, Dead: s.Dead}
	for _, stream := range s.Streams {
		of.Waiting += stream.Waiting
		of.Running += stream.Running
		if ms := stream.Oldest.UnixMilli(); !stream.Oldest.IsZero() && (of.OldestMS == 0 || ms < of.OldestMS) {
			of.OldestMS = ms
		}
	}
	return of, nil
}

// AddQueue adds to f the figures of the queue name, or why they cannot be read.
func (r *Reader) AddQueue(ctx context.Context, f *Fleet, name string) {
	q, err := r.Queue(ctx, name)
	if err != nil {
		f.QueueError = err.Error()
		return
	}
	f.Queue = &q
}

// parseList reads the answer of listScript.
func parseList(answer []any) (l List, ok bool) {
	if len(answer) != 3 {
		return List{}, false
	}
	at, isTime := answer[0].(int64)
	count, isCount := answer[1].(int64)
	pairs, isList := answer[2].([]any)
	if !isTime || !isCount || !isList || len(pairs)%2 != 0 {
		return List{}, false
	}
	l = List{AtMS: at, Hosts: make([]Seen, 0, len(pairs)/2), Omitted: int(count) - len(pairs)/2}
	for i := 0; i < len(pairs); i += 2 {
		name, isName := pairs[i].(string)
		seen, isScore := score(pairs[i+1])
		if !isName || !isScore {
			return List{}, false
		}
		l.Hosts = append(l.Hosts, Seen{name, seen})
	}
	return l, true
}

// score reads the score of a sorted set's member: an integer, written as a
// floating-point number.
func score(v any) (int64, bool) {
	text, ok := v.(string)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseFloat(text, 64)
	return int64(n), err == nil
}
