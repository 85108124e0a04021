// Command gpuherd is the herd's command line: it lists, describes, starts and
// stops workers over D-Bus, shows their logs, and says why each of them exists
// and what is wrong with the configuration.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := newApp().run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}
