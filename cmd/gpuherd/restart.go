package main

import (
	"github.com/spf13/cobra"

	"gpuherd/cmd/gpuherd/internal/jobs"
)

func (a *app) restart() *cobra.Command {
	return a.control(jobs.Restart, "Restart workers",
		`Stop and start the selected units, all at once; one that is not up is started.`)
}
