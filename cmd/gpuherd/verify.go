package main

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"gpuherd/cmd/gpuherd/internal/preflight"
	"gpuherd/cmd/gpuherd/internal/terminal"
	"gpuherd/generator"
	"gpuherd/generator/config"
	"gpuherd/generator/unitfile"
	"gpuherd/units/redisclient"
)

func (a *app) verify() *cobra.Command {
	var root string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Say what is wrong with the configuration",
		Long: `Read the configuration and every service file as the generator does, and print
each problem as FILE:LINE: KEY=: what is wrong; what to write instead, all of
them at once. Beyond what the generator sees, the Redis URL is read as the
workers read it, without connecting; [Worker] Exec= and the programs of planned
services have to be there, and their User= and Group=, as far as that is known
before systemd starts them; units that another generator makes too, and files
that are not read for their names, are told. Problems go to standard output; the
exit code is 1 if any costs something, and 0 if there are none or only warnings.
Nothing is changed.

At boot and at each start of gpuherd.target, gpuherd-verify.service does this,
so that errors show in systemctl --failed.

--json prints an array, one object a problem: file, line, key, message, fix,
warning.`,
		Example: "  gpuherd verify\n  gpuherd verify --root /mnt --json",
		Args:    noArguments,
		RunE: func(*cobra.Command, []string) error {
			result, err := a.compute(root)
			if err != nil {
				return err
			}
			problems := problemsOf(root, result)
			if asJSON {
				if err := a.printJSON(append(unitfile.Problems{}, problems...)); err != nil {
					return err
				}
			} else {
				a.printProblems(problems)
				if !problems.Failed() {
					a.stdout.say("configuration is fine: %s, %s\n",
						count(len(result.Services), "service"), count(len(result.GPUs), "GPU"))
				}
			}
			if problems.Failed() {
				return errFailed
			}
			return nil
		},
	}
	rootFlag(cmd, &root)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array")
	return cmd
}

// problemsOf returns all that is wrong below root: what the generator found,
// and what it leaves to others. The problems of one file stand together, in the
// order of its lines.
func problemsOf(root string, r *generator.Result) unitfile.Problems {
	problems := slices.Concat(r.Problems, programs(root, r.Config), preflight.Problems(root, r), r.Clashes(root), generator.Strays(root)).Unique()
	first := map[string]int{}
	for i, p := range problems {
		if _, ok := first[p.File]; !ok {
			first[p.File] = i
		}
	}
	slices.SortStableFunc(problems, func(a, b *unitfile.Problem) int {
		return cmp.Or(cmp.Compare(first[a.File], first[b.File]), cmp.Compare(a.Line, b.Line))
	})
	return problems
}

// programs returns what only the programs that the generator starts would
// notice: a Redis URL with parameters that go-redis does not know, and a job's
// program that is not there. That may be meant to come later, on a share that
// is not mounted yet.
func programs(root string, c *config.Config) unitfile.Problems {
	var problems unitfile.Problems
	if client, err := redisclient.Open(c.Redis, ""); err != nil {
		problems = append(problems, problemAt(c.Origin("Redis.URL"), "URL", err.Error()))
	} else {
		_ = client.Close() // it never connected
	}
	if origin := c.Origin("Worker.Exec"); origin != config.BuiltIn {
		why, _, err := preflight.NotExecutable(root, c.Worker.Exec[0])
		if err != nil {
			why = "cannot be looked at: " + err.Error()
		}
		if why != "" {
			p := problemAt(origin, "Exec", c.Worker.Exec[0]+" "+why)
			p.Warning, p.Fix = true, "no worker starts until it can be run"
			problems = append(problems, p)
		}
	}
	return problems
}

// problemAt makes a problem of a setting with one of Config.Origins.
func problemAt(origin, key, msg string) *unitfile.Problem {
	p := &unitfile.Problem{Msg: msg}
	p.File, p.Line, p.Key = config.Place(origin, key)
	return p
}

func (a *app) printProblems(problems unitfile.Problems) {
	for _, p := range problems {
		text := terminal.Inert(p.Error())
		if p.Warning {
			a.stdout.say("%s %s\n", a.out.Paint(terminal.Busy, "warning:"), text)
			continue
		}
		a.stdout.say("%s\n", text)
	}
}

// count writes "1 service", "2 services".
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
