package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	sd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"

	"gpuherd/monitor/bus"
)

// callTimeout bounds every question to systemd that is no job: PID 1 answers
// in milliseconds or not at all.
const callTimeout = 25 * time.Second

// reexecution is for how long systemd may be off the bus for that. It takes
// some 100 ms.
const reexecution = 2 * time.Second

// bounded limits the questions of one verb, except on the way over ssh, where
// a person may be asked for a password.
func (a *app) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if a.remote != "" {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, callTimeout)
}

// systemd returns the connection of this run to systemd, here or on --host.
// The run ends it.
func (a *app) systemd(ctx context.Context) (*bus.Conn, error) {
	if a.link != nil {
		return a.link, nil
	}
	var err error
	if a.remote != "" {
		a.link, err = dialSSH(ctx, a.remote, a.stderr)
	} else if a.link, err = bus.Dial(ctx, a.patience()); err != nil {
		err = a.noSystemd(err)
	}
	return a.link, err
}

// patience has questions wait for a systemd that re-executes itself, where
// there is one.
func (a *app) patience() bus.Option {
	if a.remote == "" && !booted() {
		return bus.WithPatience(0)
	}
	return bus.WithPatience(reexecution)
}

// jobs is systemd for jobs and properties, on the same connection.
func (a *app) jobs(ctx context.Context) (*sd.Conn, error) {
	if a.manager != nil {
		return a.manager, nil
	}
	link, err := a.systemd(ctx)
	if err != nil {
		return nil, err
	}
	a.manager, err = sd.NewConnection(func() (*dbus.Conn, error) { return link.Bus(), nil })
	return a.manager, err
}

// listen has systemd announce jobs to this run: before 257 their end is told
// to who asked for them only when subscribed. go-systemd's Subscribe has the
// bus send every change of every property, too, which is most of the traffic
// of a restart.
func (a *app) listen(ctx context.Context) error {
	link, err := a.systemd(ctx)
	if err != nil {
		return err
	}
	if _, err := link.Subscribe(ctx); err != nil {
		return a.noSystemd(err)
	}
	return nil
}

// disconnect ends the connection to systemd, where there is one.
func (a *app) disconnect() {
	if a.link != nil {
		_ = a.link.Close() // every answer has been read
	}
	a.link, a.manager = nil, nil
}

// noSystemd says what it means that systemd could not be asked.
func (a *app) noSystemd(err error) error {
	if a.remote != "" {
		return fmt.Errorf("%s: %w", a.remote, err)
	}
	return whyNoSystemd(err, booted() || os.Getenv("DBUS_SYSTEM_BUS_ADDRESS") != "")
}

// booted is sd_booted(3).
func booted() bool {
	_, err := os.Stat("/run/systemd/system")
	return err == nil
}

// whyNoSystemd is noSystemd where booted says whether systemd should answer.
func whyNoSystemd(err error, booted bool) error {
	var e dbus.Error
	switch {
	case !booted:
		return errors.New("systemd is not PID 1 here, so there is no herd to ask; boot the machine or container with systemd as its init")
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: systemd does not answer; see systemctl status: it may be reloading, or stuck", err)
	case errors.As(err, &e) && (e.Name == "org.freedesktop.DBus.Error.ServiceUnknown" || e.Name == "org.freedesktop.DBus.Error.NameHasNoOwner"):
		return fmt.Errorf("%w; is PID 1 systemd, and did dbus.service start after it?", err)
	case errors.As(err, &e):
		return err
	}
	return fmt.Errorf("%w; is dbus.service running?", err)
}

// there names the other host, where one is asked, and hostFlag is what a
// command that is proposed needs for it.
func (a *app) there() string {
	if a.remote == "" {
		return ""
	}
	return " on " + a.remote
}

func (a *app) hostFlag() string {
	if a.remote == "" {
		return ""
	}
	return " -H " + a.remote
}
