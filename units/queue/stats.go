package queue

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// statsScript measures the queue. Returns {now in ms, "1" if paused, streams,
// delayed, when the next is due in ms or −1, dead, the oldest dead one's entry
// or "", ended, counts}; a stream is {waiting, held, the oldest waiting entry
// or "", {name, held, idle in ms}…}.
//
//	KEYS[1…11] as above
var statsScript = newScript(`
local time = redis.call('TIME')
local function named(list)
  local t = {}
  for i = 1, #list, 2 do t[list[i]] = list[i + 1] end
  return t
end
local function first(...)
  local r = redis.call('XRANGE', ...)
  return r[1] and r[1][1] or ''
end
local streams = {}
for i = 1, 3 do
  local length, s = redis.call('XLEN', KEYS[i]), nil
  if length == 0 and redis.call('EXISTS', KEYS[i]) == 0 then
    s = {0, 0, ''}
  else
    local group
    for _, g in ipairs(redis.call('XINFO', 'GROUPS', KEYS[i])) do
      local t = named(g)
      if t.name == 'workers' then group = t end
    end
    if not group then
      s = {length, 0, first(KEYS[i], '-', '+', 'COUNT', 1)}
    else
      s = {math.max(0, length - group.pending), group.pending,
        first(KEYS[i], '(' .. group['last-delivered-id'], '+', 'COUNT', 1)}
      for _, c in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[i], 'workers')) do
        local t = named(c)
        s[#s + 1] = {t.name, t.pending, t.idle}
      end
    end
  end
  streams[i] = s
end
local due = redis.call('ZRANGE', KEYS[6], 0, 0, 'WITHSCORES')
return {time[1] * 1000 + math.floor(time[2] / 1000), redis.call('EXISTS', KEYS[5]), streams,
  redis.call('ZCARD', KEYS[6]), tonumber(due[2] or -1), redis.call('XLEN', KEYS[4]), first(KEYS[4], '-', '+', 'COUNT', 1),
  redis.call('ZCARD', KEYS[7]), redis.call('HGETALL', KEYS[8])}`)

// Stats measure a queue at one moment. All times are by Redis' clock.
type Stats struct {
	At      time.Time
	Paused  bool
	Streams []StreamStats // High, Normal, Low
	Delayed int64
	NextDue time.Time // of the delayed; zero: there is none
	Dead    int64     // in Q:dead
	Oldest  time.Time // of those
	Ended   int64     // jobs that ended and of which the record is kept
	Workers []WorkerStats
	Total   Counts // since the queue is there
	Minute  Counts // in the last whole minute
	Hour    Counts // in this minute and the 59 before it
}

// StreamStats measure one of the three streams. A job that was handed back
// waits in the stream of High.
type StreamStats struct {
	Priority Priority
	Waiting  int64
	Running  int64
	Oldest   time.Time // when the first that waits was put in; zero: none waits
}

// WorkerStats tell of a consumer. While a worker waits for jobs, it is idle
// for no longer than Options.Block, or twice as long on standby.
type WorkerStats struct {
	Name string
	Jobs int64         // that it has
	Idle time.Duration // since it asked for one
}

// Counts say how often something happened.
type Counts struct {
	Succeeded, Dead, Cancelled int64 // jobs that ended
	Failed                     int64 // attempts
	Lost                       int64 // attempts of which the worker lost the lease
	Released                   int64 // attempts that were handed back
}

func (c *Counts) field(name string) *int64 {
	switch name {
	case Succeeded:
		return &c.Succeeded
	case Dead:
		return &c.Dead
	case Cancelled:
		return &c.Cancelled
	case Failed:
		return &c.Failed
	case Lost:
		return &c.Lost
	case "released":
		return &c.Released
	}
	return new(int64)
}

// Stats returns the figures of the queue.
func (q *Queue) Stats(ctx context.Context) (Stats, error) {
	r, err := statsScript.Run(ctx, q.redis, q.shared).Slice()
	if err != nil {
		return Stats{}, fmt.Errorf("cannot measure queue: %w", err)
	}
	a := answer{list: r}
	s := Stats{At: time.UnixMilli(a.number()), Paused: a.number() == 1}
	workers := map[string]WorkerStats{}
	for i, v := range piece[[]any](&a) {
		list, _ := v.([]any)
		of := answer{list: list}
		s.Streams = append(s.Streams, StreamStats{Priority(i + 1), of.number(), of.number(), entryTime(of.text())})
		for len(of.list) > 0 {
			c := answer{list: piece[[]any](&of)}
			name, jobs, idle := c.text(), c.number(), time.Duration(c.number())*time.Millisecond
			of.bad = of.bad || c.bad
			if w, ok := workers[name]; ok {
				jobs, idle = jobs+w.Jobs, min(idle, w.Idle)
			}
			workers[name] = WorkerStats{name, jobs, idle}
		}
		a.bad = a.bad || of.bad
	}
	s.Delayed = a.number()
	if ms := a.number(); ms >= 0 {
		s.NextDue = time.UnixMilli(ms)
	}
	s.Dead, s.Oldest, s.Ended = a.number(), entryTime(a.text()), a.number()
	s.count(a.fields())
	if a.bad {
		return Stats{}, fmt.Errorf("cannot measure queue: script answered %.200v", r)
	}
	for _, w := range workers {
		s.Workers = append(s.Workers, w)
	}
	slices.SortFunc(s.Workers, func(a, b WorkerStats) int { return strings.Compare(a.Name, b.Name) })
	return s, nil
}

// count reads Q:counts: a name, a colon and a minute since 1970, or the name
// alone for all before.
func (s *Stats) count(counts map[string]string) {
	now := s.At.Unix() / 60
	for key, value := range counts {
		name, minute, ofMinute := strings.Cut(key, ":")
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			continue
		}
		*s.Total.field(name) += n
		of, err := strconv.ParseInt(minute, 10, 64)
		if !ofMinute || err != nil {
			continue
		}
		if of == now-1 {
			*s.Minute.field(name) += n
		}
		if now-60 < of {
			*s.Hour.field(name) += n
		}
	}
}
