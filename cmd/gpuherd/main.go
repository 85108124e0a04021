// Command gpuherd is the herd's command line: it lists, describes, starts and
// stops workers over D-Bus, shows their logs, says why each of them exists and
// what is wrong with the configuration, and works on the queue of jobs.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() { os.Exit(start(newApp())) }

// start runs the command line of this process until a signal ends it.
func start(a *app) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return a.run(ctx, os.Args[1:])
}
