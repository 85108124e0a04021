// Command gpuherd-setup prepares a machine for its workers. It is what
// shared-setup.service runs, as root, once a boot; see gpuherd-setup(8).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"

	"gpuherd/generator/config"
	"gpuherd/generator/gpu/nvml"
	"gpuherd/generator/version"
	"gpuherd/units/journal"
	"gpuherd/units/sharedsetup"
)

const usage = `Usage: gpuherd-setup [--rescan] [--root DIR]

Asks NVML about the GPUs, writes /run/gpuherd (inventory, environment of each
device, Redis credential), makes the shared folders and runs the executables in
/etc/gpuherd/setup.d once a boot. Where the GPUs are not those that systemd's
units were made for, it reloads systemd and starts and stops the difference.
Running it again changes nothing that is right.

  --rescan    only look at the GPUs again, and follow what changed
  --root DIR  work on DIR/{etc,run,usr,var,proc,sys} instead of /, without NVML,
              NVIDIA's programs and systemd
  --version   print the version
  --help      print this

Exit status: 0 done, 1 something could not be written, 2 wrong arguments.
`

func main() {
	os.Exit(run(os.Args[1:]))
}

func run(args []string) int {
	flags := flag.NewFlagSet("gpuherd-setup", flag.ContinueOnError)
	flags.Usage = func() { fmt.Fprint(os.Stderr, usage) }
	root := flags.String("root", "/", "")
	rescan := flags.Bool("rescan", false, "")
	showVersion := flags.Bool("version", false, "")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return 2
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "gpuherd-setup: unexpected argument %q\n%s", flags.Arg(0), usage)
		return 2
	}
	if *showVersion {
		fmt.Println(version.String())
		return 0
	}

	log := journal.NewLogger(os.Stderr)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// It decides for others, so it reads what the generator read: PID 1's
	// environment, not its own.
	src, err := config.HostSource(*root)
	if err != nil {
		log.Error(err.Error())
	}
	s := &sharedsetup.Setup{
		Root:    *root,
		Environ: src.Environ,
		Log:     log,
		Output:  os.Stderr,
		Status: func(text string) {
			_, _ = daemon.SdNotify(false, "STATUS="+text)
		},
		Rescan: *rescan,
	}
	if *root == "/" {
		s.NVML = func() (*nvml.Answer, error) { return nvml.Read("") }
		s.Tool = sharedsetup.RunTool
		// sd_booted(3).
		if _, err := os.Stat("/run/systemd/system"); err == nil {
			s.Systemd = sharedsetup.Connect
		}
	}
	if err := s.Run(ctx); err != nil {
		log.Error(err.Error())
		return 1
	}
	return 0
}
