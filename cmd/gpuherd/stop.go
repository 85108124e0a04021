package main

import (
	"github.com/spf13/cobra"

	"gpuherd/cmd/gpuherd/internal/jobs"
)

func (a *app) stop() *cobra.Command {
	return a.control(jobs.Stop, "Stop workers",
		`Stop the selected units. A worker finishes its job within the unit's
TimeoutStopSec= and hands it back after that. A stopped worker stays stopped
until it is started, or the machine boots. What runs and is not configured any
more is selected by its whole name alone, such as redis-worker@1.`)
}
