package redistest

import (
	"context"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestServerKeepsDataOverKillAndAnswersAfterPause(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	srv := Start(t)
	c := srv.Client(t)
	if err := c.Set(ctx, "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	srv.Kill()
	if err := c.Get(ctx, "k").Err(); err == nil {
		t.Error("a killed server answers")
	}
	srv.Restart()
	if v, err := c.Get(ctx, "k").Result(); err != nil || v != "v" {
		t.Errorf("after the restart: %q, %v", v, err)
	}
	srv.Pause()
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if err := c.Get(short, "k").Err(); err == nil {
		t.Error("a stopped server answers")
	}
	srv.Resume()
	if v, err := c.Get(ctx, "k").Result(); err != nil || v != "v" {
		t.Errorf("after the pause: %q, %v", v, err)
	}
	// The options of redisclient must not make a server count errors. Asking
	// one that still reads its data, as Restart may, makes a LOADING.
	s, err := c.Info(ctx, "errorstats").Result()
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Fields(strings.TrimPrefix(s, "# Errorstats")) {
		if !strings.HasPrefix(line, "errorstat_LOADING:") {
			t.Errorf("an error on the server: %s", line)
		}
	}
}
