package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

const usage = `usage: release [flags] version | changelog | notes
       release [flags] sbom | copyright | glibc PROGRAM...
`

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "release: %v\n", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	flags := flag.NewFlagSet("release", flag.ContinueOnError)
	flags.Usage = func() {
		_, _ = fmt.Fprint(flags.Output(), usage)
		flags.PrintDefaults()
	}
	described := flags.String("version", "", "the version, as git describe --tags --always --dirty has it")
	epoch := flags.Int64("date", 0, "time of the commit, in seconds since 1970")
	file := flags.String("changes", "CHANGELOG.md", "the changelog, in the form of Keep a Changelog")
	maintainer := flags.String("maintainer", "", "who makes the package: Name <address>")
	arch := flags.String("arch", "", "architecture of the programs, as GOARCH")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() == 0 {
		return errors.New("no verb: see release -h")
	}
	verb, programs := flags.Arg(0), flags.Args()[1:]
	at := time.Unix(*epoch, 0).UTC()
	say := func(text string, err error) error {
		if err != nil {
			return err
		}
		_, err = io.WriteString(out, text)
		return err
	}
	switch verb {
	case "version":
		return say(packageVersion(*described, at)+"\n", nil)
	case "changelog", "notes":
		data, err := os.ReadFile(*file)
		if err != nil {
			return err
		}
		sections, err := parseChangelog(string(data))
		if err != nil {
			return fmt.Errorf("%s: %w", *file, err)
		}
		if verb == "notes" {
			return say(notes(sections, strings.TrimPrefix(*described, "v")))
		}
		return say(debianChangelog(sections, packageVersion(*described, at), *maintainer, at), nil)
	case "glibc":
		return say(neededGlibc(programs))
	case "sbom", "copyright":
		built, err := readPrograms(programs)
		if err != nil {
			return err
		}
		modules, err := licensedModules(built)
		if err != nil {
			return err
		}
		if verb == "copyright" {
			return say(copyright(modules), nil)
		}
		return say(cycloneDX(built, modules, *described, *arch, at))
	}
	return fmt.Errorf("unknown verb %q: see release -h", verb)
}
