package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// pageScript reads entries of a stream without their payloads. Returns a list
// of {entry, bytes of the payload, fields}; each value is cut at 4 KiB.
//
//	KEYS[1] the stream
//	ARGV[1] the first entry's ID, or ( and the ID before it
//	ARGV[2] how many, at most  ARGV[3] "1": of those that consumers hold
var pageScript = newScript(`
local entries = {}
if ARGV[3] == '1' then
  local held = redis.pcall('XPENDING', KEYS[1], 'workers', ARGV[1], '+', ARGV[2])
  for _, p in ipairs(held.err and {} or held) do
    entries[#entries + 1] = redis.call('XRANGE', KEYS[1], p[1], p[1])[1] or {p[1], {}}
  end
else
  entries = redis.call('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', ARGV[2])
end
for _, e in ipairs(entries) do
  local f, bytes = {}, 0
  for i = 1, #e[2], 2 do
    if e[2][i] == 'payload' then
      bytes = #e[2][i + 1]
    elseif #f < 64 then
      f[#f + 1] = string.sub(e[2][i], 1, 4096)
      f[#f + 1] = string.sub(e[2][i + 1], 1, 4096)
    end
  end
  e[2], e[3] = bytes, f
end
return entries`)

// pageSize is how many entries a script reads at a time: Redis serves nobody
// else meanwhile.
const pageSize = 64

// A page entry is what pageScript tells of one.
type pageEntry struct {
	id     string
	bytes  int64
	fields map[string]string
}

// page reads up to n entries of a stream, of those that consumers hold or of
// all. next is where to go on, "" at the end.
func (q *Queue) page(ctx context.Context, stream, after string, n int, held bool) (list []pageEntry, next string, err error) {
	if after == "" {
		after = "-"
	}
	only := "0"
	if held {
		only = "1"
	}
	r, err := pageScript.Run(ctx, q.redis, []string{stream}, after, n, only).Slice()
	if err != nil {
		return nil, "", err
	}
	for _, v := range r {
		parts, _ := v.([]any)
		a := answer{list: parts}
		e := pageEntry{a.text(), a.number(), a.fields()}
		if a.bad {
			return nil, "", fmt.Errorf("script answered %.200v", v)
		}
		list = append(list, e)
	}
	if len(list) == n {
		next = "(" + list[n-1].id
	}
	return list, next, nil
}

// A Listed is a job in a list.
type Listed struct {
	ID       string   // as it was written; what was no job may have any
	Priority Priority // of the stream where it waits or runs; 0 in other states
	Entry    string   // ID of its entry in that stream, or in Q:dead
	Bytes    int64    // of the payload, where it is there
	Record            // without the result
}

// ListOptions say what List gives.
type ListOptions struct {
	State string // one of the states; "" for all
	Limit int    // at most so many: 100
	After string // what the call before returned as next; "" to begin
}

// List returns jobs: those that run, wait and are delayed, in the order in
// which they will be run; the dead, oldest first; those that ended otherwise,
// newest first. next is for ListOptions.After, and "" at the end. Jobs that
// change their state meanwhile may be missing or there twice.
func (q *Queue) List(ctx context.Context, o ListOptions) (jobs []Listed, next string, err error) {
	if o.Limit <= 0 {
		o.Limit = 100
	}
	sources := q.sources()
	index, after := 0, ""
	if o.After != "" {
		number, rest, ok := strings.Cut(o.After, "/")
		index, err = strconv.Atoi(number)
		if !ok || err != nil || index < 0 {
			return nil, "", fmt.Errorf("cannot list jobs: %.100q is not where a list ended", o.After)
		}
		after = rest
	}
	for index < len(sources) && len(jobs) < o.Limit {
		s := sources[index]
		more := ""
		if o.State == "" || slices.Contains(s.states, o.State) {
			var page []Listed
			page, more, err = s.page(ctx, after, min(o.Limit-len(jobs), pageSize))
			if err != nil {
				return nil, "", fmt.Errorf("cannot list jobs: %w", err)
			}
			for _, j := range page {
				if slices.Contains(s.states, j.State) && (o.State == "" || o.State == j.State) {
					jobs = append(jobs, j)
				}
			}
		}
		if after = more; more == "" {
			index++
		}
	}
	if index < len(sources) {
		next = fmt.Sprintf("%d/%s", index, after)
	}
	return jobs, next, nil
}

// A source holds the jobs of some states, and gives the n of them behind a
// position. It may give others, too.
type source struct {
	states []string
	page   func(ctx context.Context, after string, n int) (jobs []Listed, next string, err error)
}

func (q *Queue) sources() []source {
	var list []source
	for _, held := range []bool{true, false} {
		states := []string{Waiting, Delayed}
		if held {
			states = []string{Running}
		}
		for p := High; p <= Low; p++ {
			list = append(list, source{states, func(ctx context.Context, after string, n int) ([]Listed, string, error) {
				return q.listEntries(ctx, p, held, after, n)
			}})
		}
	}
	return append(list,
		source{[]string{Delayed}, q.listDelayed},
		source{[]string{Dead}, q.listDead},
		source{[]string{Succeeded, Cancelled}, q.listEnded},
	)
}

func (q *Queue) listEntries(ctx context.Context, p Priority, held bool, after string, n int) ([]Listed, string, error) {
	page, next, err := q.page(ctx, q.stream(p), after, n, held)
	if err != nil {
		return nil, "", err
	}
	ids := make([]string, len(page))
	for i, e := range page {
		ids[i] = e.fields["id"]
	}
	known, err := q.summaries(ctx, ids)
	if err != nil {
		return nil, "", err
	}
	var jobs []Listed
	for i, e := range page {
		r := known[i]
		if r.entry != "" && r.entry != (place{p, e.id}).String() {
			continue // the id's second entry
		}
		if r.State == "" {
			r.State, r.Enqueued = Waiting, entryTime(e.id)
		}
		jobs = append(jobs, Listed{ids[i], p, e.id, e.bytes, r.Record})
	}
	return jobs, next, nil
}

func (q *Queue) listDelayed(ctx context.Context, after string, n int) ([]Listed, string, error) {
	return q.listSorted(ctx, q.redis.ZRange, "delayed", after, n)
}

func (q *Queue) listEnded(ctx context.Context, after string, n int) ([]Listed, string, error) {
	return q.listSorted(ctx, q.redis.ZRevRange, "ended", after, n)
}

// listSorted gives the jobs of a zset; a position is a rank.
func (q *Queue) listSorted(ctx context.Context, ranged func(context.Context, string, int64, int64) *redis.StringSliceCmd, name, after string, n int) ([]Listed, string, error) {
	from, _ := strconv.ParseInt(after, 10, 64)
	ids, err := ranged(ctx, q.Key(name), from, from+int64(n)-1).Result()
	if err != nil {
		return nil, "", err
	}
	known, err := q.summaries(ctx, ids)
	if err != nil {
		return nil, "", err
	}
	var jobs []Listed
	for i, r := range known {
		if r.State != "" && r.entry == "" { // else it is elsewhere by now
			jobs = append(jobs, Listed{ids[i], 0, "", r.bytes, r.Record})
		}
	}
	next := ""
	if len(ids) == n {
		next = strconv.FormatInt(from+int64(n), 10)
	}
	return jobs, next, nil
}

func (q *Queue) listDead(ctx context.Context, after string, n int) ([]Listed, string, error) {
	page, next, err := q.page(ctx, q.Key("dead"), after, n, false)
	if err != nil {
		return nil, "", err
	}
	var jobs []Listed
	for _, e := range page {
		attempts, _ := strconv.Atoi(e.fields["attempts"])
		jobs = append(jobs, Listed{e.fields["id"], 0, e.id, e.bytes, Record{
			State: Dead, Attempts: attempts, Worker: e.fields["worker"], Error: e.fields["error"],
			Reason: e.fields["reason"], Stderr: e.fields["stderr"], Finished: entryTime(e.id),
		}})
	}
	return jobs, next, nil
}

// A summary is what a job's hash tells to a list.
type summary struct {
	Record
	entry string // "stream/ID"
	bytes int64  // of the payload
}

// summaries reads the hashes of jobs; of an unknown one it is empty.
func (q *Queue) summaries(ctx context.Context, ids []string) ([]summary, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	pipe := q.redis.Pipeline()
	hashes, sizes := make([]*redis.SliceCmd, len(ids)), make([]*redis.Cmd, len(ids))
	for i, id := range ids {
		if ValidID(id) != nil {
			id = "" // which has no hash
		}
		hashes[i] = pipe.HMGet(ctx, q.JobKey(id), append([]string{"entry"}, recordFields...)...)
		sizes[i] = pipe.Do(ctx, "HSTRLEN", q.JobKey(id), "payload")
	}
	var refused redis.Error
	if _, err := pipe.Exec(ctx); err != nil && !errors.As(err, &refused) {
		return nil, err
	}
	list := make([]summary, len(ids))
	for i := range ids {
		if values, err := hashes[i].Result(); err == nil {
			list[i].entry, _ = values[0].(string)
			list[i].Record, _ = record(values[1:])
			list[i].bytes, _ = sizes[i].Int64()
		}
	}
	return list, nil
}

// entryTime is when an entry was made.
func entryTime(id string) time.Time {
	text, _, _ := strings.Cut(id, "-")
	ms, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}
