package redisclient

import (
	"context"
	"errors"

	"github.com/redis/go-redis/v9"
)

// reload is a hook that makes a Cluster's client ask who has which slot once a
// node gives no answer. By itself it does so when a node points elsewhere,
// which a dead one does not, and else once a minute: so long nothing would
// reach the replica that took over.
type reload struct{ client *redis.ClusterClient }

// DialHook implements redis.Hook.
func (reload) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook implements redis.Hook.
func (r reload) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		r.look(ctx, err)
		return err
	}
}

// ProcessPipelineHook implements redis.Hook.
func (r reload) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		r.look(ctx, err)
		return err
	}
}

func (r reload) look(ctx context.Context, err error) {
	var answered redis.Error
	if err != nil && !errors.As(err, &answered) {
		r.client.ReloadState(ctx)
	}
}
