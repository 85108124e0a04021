package queue

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/redis/go-redis/v9"

	"gpuherd/units/redisclient"
)

// block returns how long to wait for an entry. It is not the same each time:
// consumers that began to wait together would all ask again together, and a job
// that comes then is held up by them.
func (c *Consumer) block() time.Duration {
	block := c.q.opts.Block
	if c.fixed {
		block /= 2
	}
	block -= rand.N(block/4 + 1)
	if !c.due.IsZero() {
		block = max(min(block, time.Until(c.due)), 0).Truncate(time.Millisecond) + time.Millisecond
	}
	return block
}

// breath returns how long to do nothing after a wait that brought nothing.
func (c *Consumer) breath() time.Duration { return rand.N(c.q.opts.Block/100 + 1) }

// pause lets others go first. Redis ends waits that are over only when it is
// awake, and mostly it is the next job that wakes it: the end of all those waits
// goes out with the job, and were they all to ask again at once, the one who
// has the job would have to wait for them before it can begin.
func (c *Consumer) pause(ctx context.Context) {
	t := time.NewTimer(c.breath())
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// connection returns what to wait with. Redis tells the ID of a connection to
// itself alone, so it has to be one that nobody else has until free is called.
func (c *Consumer) connection(ctx context.Context) (conn redis.Cmdable, free func(), err error) {
	client, ok := c.q.redis.(*redis.Client)
	if !ok {
		c.fixed = true // in a Cluster each node counts its own
	}
	if c.fixed {
		return c.q.redis, func() {}, nil
	}
	own := client.Conn()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	id, err := own.ClientID(ctx).Result()
	if err != nil {
		_ = own.Close()
		if redisclient.Diagnose(err).Reason != redisclient.Forbidden {
			return nil, nil, err
		}
		c.fixed = true
		return c.q.redis, func() {}, nil
	}
	c.waits.Store(id)
	return own, func() {
		c.waits.Store(0)
		_ = own.Close() // which gives it back to the others
	}, nil
}

// Wake ends the wait of a Claim that is under way elsewhere; a job that comes at
// that moment is claimed. It may be too early for that, so it is to be called
// until Claim has returned. In a Cluster, and where the user may not ask CLIENT
// ID and UNBLOCK, it does nothing: there waits are half as long.
func (c *Consumer) Wake(ctx context.Context) error {
	c.woken.Store(true)
	id := c.waits.Load()
	if id == 0 {
		return nil
	}
	return c.q.redis.ClientUnblock(ctx, id).Err()
}

// wait blocks until an entry comes, or until the consumer is called from
// standby. The three streams were empty a moment ago: should two get one in
// between, Redis gives both, and the later is put back.
func (c *Consumer) wait(ctx context.Context) error {
	conn, free, err := c.connection(ctx)
	if err != nil {
		return err
	}
	defer free()
	if c.standsBy() {
		return c.standBy(ctx, conn)
	}
	block := c.block()
	// The block is Redis' to keep; some more tells that it is away.
	ctx, cancel := context.WithTimeout(ctx, block+2*time.Second)
	defer cancel()
	streams, err := conn.XReadGroup(ctx, &redis.XReadGroupArgs{
		Group: Group, Consumer: c.name, Count: 1, Block: block,
		Streams: append(c.q.shared[:3:3], ">", ">", ">"),
	}).Result()
	if errors.Is(err, redis.Nil) {
		if !c.woken.Swap(false) && (c.due.IsZero() || time.Now().Before(c.due)) {
			c.pause(ctx)
		}
		return nil
	}
	if err != nil {
		return err
	}
	for _, s := range streams {
		for _, m := range s.Messages {
			e := &entry{id: m.ID, deliveries: 1, fields: make(map[string]string, len(m.Values))}
			for i, key := range c.q.shared[:3] {
				if key == s.Stream {
					e.stream = Priority(i + 1)
				}
			}
			var bytes int64
			for name, value := range m.Values {
				v, _ := value.(string)
				e.fields[name] = v
				bytes += int64(len(name) + len(v))
			}
			if bytes > maxEntry || len(e.fields) > maxFields {
				e.bytes = bytes
			}
			if len(c.read) == 0 {
				c.read = append(c.read, e)
				continue
			}
			if err := putBackScript.Run(ctx, c.q.redis, c.q.shared, e.args(c.name)...).Err(); err != nil {
				return err
			}
		}
	}
	return nil
}
