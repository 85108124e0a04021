package queue

import (
	"context"
	"sync"

	"github.com/redis/go-redis/v9"
)

// A script is a redis.Script that is hashed when it is first run: a program
// that has all of them runs few.
type script struct{ hashed func() *redis.Script }

func newScript(text string) script {
	return script{sync.OnceValue(func() *redis.Script { return redis.NewScript(text) })}
}

// Run is Script.Run.
func (s script) Run(ctx context.Context, c redis.Scripter, keys []string, args ...any) *redis.Cmd {
	return s.hashed().Run(ctx, c, keys, args...)
}
