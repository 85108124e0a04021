package main

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// TestEverythingHasHelp holds every command and flag, also those to come, to
// telling what it does, with an example of ours.
func TestEverythingHasHelp(t *testing.T) {
	t.Parallel()
	root := newApp().root()
	root.InitDefaultHelpFlag()
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		path := cmd.CommandPath()
		if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%s: Short %q wants a text without a full stop", path, cmd.Short)
		}
		if cmd.Long == "" || cmd.Long == cmd.Short {
			t.Errorf("%s: no Long", path)
		}
		if cmd.Example == "" {
			t.Errorf("%s: no Example", path)
		}
		for line := range strings.Lines(cmd.Example) {
			if !strings.HasPrefix(line, "  "+root.Name()+" ") {
				t.Errorf("%s: example %q is no gpuherd command", path, line)
			}
		}
		for line := range strings.Lines(cmd.Long) {
			if len([]rune(line)) > 81 {
				t.Errorf("%s: line of Long is wider than 80: %q", path, line)
			}
		}
		cmd.InitDefaultHelpFlag()
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" {
				t.Errorf("%s: flag --%s has no help", path, f.Name)
			}
		})
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(root)
}

// TestExamplesParse runs the flag and argument checks of every example.
func TestExamplesParse(t *testing.T) {
	t.Parallel()
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		for line := range strings.Lines(cmd.Example) {
			words := strings.Fields(strings.ReplaceAll(strings.TrimSpace(line), "'1 hour ago'", "-1h"))
			sub, rest, err := newApp().root().Find(words[1:])
			if err != nil {
				t.Errorf("%q: %v", line, err)
				continue
			}
			if err := sub.ParseFlags(rest); err != nil {
				t.Errorf("%q: %v", line, err)
				continue
			}
			if err := sub.ValidateArgs(sub.Flags().Args()); err != nil {
				t.Errorf("%q: %v", line, err)
			}
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(newApp().root())
}
