package sharedsetup

import (
	"context"
	"fmt"

	"github.com/coreos/go-systemd/v22/dbus"
)

// Connect connects to PID 1 on its private socket: root may, and no bus has to
// be up yet.
func Connect(ctx context.Context) (Manager, error) {
	c, err := dbus.NewSystemdConnectionContext(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot connect to systemd: %w", err)
	}
	return manager{c}, nil
}

type manager struct{ conn *dbus.Conn }

func (m manager) Close() { m.conn.Close() }

func (m manager) Reload(ctx context.Context) error { return m.conn.ReloadContext(ctx) }

func (m manager) On(ctx context.Context, unit string) (bool, error) {
	state, err := m.conn.GetUnitPropertyContext(ctx, unit, "ActiveState")
	if err != nil {
		return false, err
	}
	if s, _ := state.Value.Value().(string); s == "active" || s == "activating" {
		return true, nil
	}
	// At boot its start may still be waiting.
	jobs, err := m.conn.ListJobsContext(ctx)
	if err != nil {
		return false, err
	}
	for _, j := range jobs {
		if j.Unit == unit && (j.JobType == "start" || j.JobType == "restart") {
			return true, nil
		}
	}
	return false, nil
}

func (m manager) Start(ctx context.Context, unit string) error {
	_, err := m.conn.StartUnitContext(ctx, unit, "fail", nil)
	return err
}

func (m manager) Stop(ctx context.Context, unit string) error {
	_, err := m.conn.StopUnitContext(ctx, unit, "replace", nil)
	return err
}

func (m manager) Restart(ctx context.Context, unit string) error {
	_, err := m.conn.TryRestartUnitContext(ctx, unit, "replace", nil)
	return err
}
