package main

import (
	"github.com/spf13/cobra"

	"gpuherd/cmd/gpuherd/internal/jobs"
)

func (a *app) start() *cobra.Command {
	return a.control(jobs.Start, "Start workers",
		`Start the selected units. One that is up already stays as it is.`)
}
