package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// manualEntries are the tagged paragraphs of gpuherd(1), as a reader sees them:
// the tag, and what follows. Further tags of the same paragraph are entries of
// their own.
func manualEntries(t *testing.T) (tags, texts []string) {
	t.Helper()
	data, err := os.ReadFile("../../packaging/man/gpuherd.1")
	if err != nil {
		t.Fatal(err)
	}
	text := regexp.MustCompile(`\\f[A-Z]`).ReplaceAllString(strings.ReplaceAll(string(data), `\-`, "-"), "")
	macro := regexp.MustCompile(`^\.[BIR]+ `)
	isTag := false
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		switch {
		case line == ".TP", line == ".TQ":
			isTag = true
			continue
		case isTag:
			tags = append(tags, strings.ReplaceAll(macro.ReplaceAllString(line, ""), `"`, ""))
			texts = append(texts, "")
		case strings.HasPrefix(line, ".SH"):
			tags, texts = append(tags, line), append(texts, "")
		case len(texts) > 0:
			texts[len(texts)-1] += line + "\n"
		}
		isTag = false
	}
	return tags, texts
}

// gpuherd(1) has each verb with each of its flags, and no other.
func TestManualHasTheVerbs(t *testing.T) {
	t.Parallel()
	tags, texts := manualEntries(t)
	option := regexp.MustCompile(`--[a-z][a-z0-9-]*`)
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
		_, path, _ := strings.Cut(cmd.CommandPath(), " ")
		if path == "" || path == "completion" || strings.HasPrefix(path, "completion ") {
			return
		}
		// "start, stop, restart selection...": one paragraph for several verbs.
		at := slices.IndexFunc(tags, func(tag string) bool {
			verbs, _, _ := strings.Cut(tag, "[")
			for verb := range strings.SplitSeq(verbs, ",") {
				if verb = strings.Join(strings.Fields(verb), " "); verb == path || strings.HasPrefix(verb, path+" ") {
					return cmd.Runnable() && (!cmd.HasSubCommands() || verb == path) || verb == path
				}
			}
			return false
		})
		switch {
		case at < 0 && cmd.HasSubCommands():
			return // a group, whose verbs are there
		case at < 0:
			t.Errorf("gpuherd(1) has no %s", path)
			return
		}
		tag, text := tags[at], texts[at]
		if path == "run" {
			tag, text = wrapper(t, tags, texts)
		}
		var known []string
		cmd.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
			known = append(known, "--"+f.Name)
			if f.Name == "help" || f.Hidden {
				return
			}
			short := f.Shorthand != "" && regexp.MustCompile(`(^|[\s\[{|])-`+f.Shorthand+`\b`).MatchString(tag)
			if !short && !slices.Contains(option.FindAllString(tag+" "+text, -1), "--"+f.Name) {
				t.Errorf("gpuherd(1), %s: no --%s", path, f.Name)
			}
		})
		cmd.InheritedFlags().VisitAll(func(f *pflag.Flag) { known = append(known, "--"+f.Name) })
		cmd.PersistentFlags().VisitAll(func(f *pflag.Flag) { known = append(known, "--"+f.Name) })
		for _, name := range option.FindAllString(tag, -1) {
			if !slices.Contains(known, name) {
				t.Errorf("gpuherd(1): there is no %s of %s", name, path)
			}
		}
	}
	walk(newApp().root())
}

// wrapper returns the tags and texts about `gpuherd run`.
func wrapper(t *testing.T, tags, texts []string) (tag, text string) {
	t.Helper()
	from := slices.Index(tags, ".SH THE WRAPPER")
	if from < 0 {
		t.Fatal("gpuherd(1) has no section THE WRAPPER")
	}
	for i := from + 1; i < len(tags) && !strings.HasPrefix(tags[i], ".SH"); i++ {
		tag += tags[i] + "\n"
		text += texts[i]
	}
	return tag, text
}
