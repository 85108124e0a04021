package main

import (
	"fmt"
	"regexp"
	"strings"
	"time"
)

// A section is what one version changed.
type section struct {
	version string // "": not released yet
	date    time.Time
	text    string // as it is in the file
	groups  []group
}

// A group is the changes of one kind: Added, Fixed, …
type group struct {
	name    string
	changes []string // one line each
}

var heading = regexp.MustCompile(`^## \[?([^\]\s]+)\]?(?: - (\d{4}-\d{2}-\d{2}))?$`)

// parseChangelog reads the form of Keep a Changelog, the newest version first.
func parseChangelog(text string) ([]section, error) {
	var sections []section
	for number, line := range strings.Split(text, "\n") {
		if strings.HasPrefix(line, "## ") {
			m := heading.FindStringSubmatch(line)
			if m == nil {
				return nil, fmt.Errorf("line %d: want ## VERSION - YYYY-MM-DD, or ## Unreleased: %q", number+1, line)
			}
			s := section{version: m[1]}
			if m[1] == "Unreleased" {
				s.version = ""
			} else {
				date, err := time.Parse(time.DateOnly, m[2])
				if err != nil {
					return nil, fmt.Errorf("line %d: version %s has no date", number+1, m[1])
				}
				s.date = date
			}
			sections = append(sections, s)
			continue
		}
		if len(sections) == 0 {
			continue
		}
		s := &sections[len(sections)-1]
		s.text += line + "\n"
		switch name, isGroup := strings.CutPrefix(line, "### "); {
		case isGroup:
			s.groups = append(s.groups, group{name: name})
		case strings.TrimSpace(line) == "":
		case strings.HasPrefix(line, "- "):
			if len(s.groups) == 0 {
				s.groups = append(s.groups, group{})
			}
			g := &s.groups[len(s.groups)-1]
			g.changes = append(g.changes, line[2:])
		default:
			if len(s.groups) == 0 || len(s.groups[len(s.groups)-1].changes) == 0 {
				continue // prose before the list
			}
			g := &s.groups[len(s.groups)-1]
			g.changes[len(g.changes)-1] += " " + strings.TrimSpace(line)
		}
	}
	if len(sections) == 0 {
		return nil, fmt.Errorf("no version in it")
	}
	return sections, nil
}

// notes is the text of one released version.
func notes(sections []section, version string) (string, error) {
	for _, s := range sections {
		if s.version != "" && s.version == version {
			return strings.TrimSpace(s.text) + "\n", nil
		}
	}
	return "", fmt.Errorf("the changelog has no section for version %q", version)
}

// debianChangelog is deb-changelog(5) of all versions. What is not released is
// said of the version that is built.
func debianChangelog(sections []section, version, maintainer string, at time.Time) string {
	var b strings.Builder
	for _, s := range sections {
		if s.version == "" {
			if len(s.groups) == 0 {
				continue
			}
			s.version, s.date = version, at
		}
		s.version = strings.ReplaceAll(s.version, "-", "~")
		fmt.Fprintf(&b, "gpuherd (%s-1) stable; urgency=medium\n", s.version)
		for _, g := range s.groups {
			if g.name != "" {
				fmt.Fprintf(&b, "\n  [ %s ]\n", g.name)
			} else {
				b.WriteString("\n")
			}
			for _, change := range g.changes {
				b.WriteString(wrap(strings.ReplaceAll(change, "`", ""), "  * ", "    ", 79))
			}
		}
		fmt.Fprintf(&b, "\n -- %s  %s\n\n", maintainer, s.date.Format(time.RFC1123Z))
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// wrap fills lines of at most so many letters.
func wrap(text, first, next string, width int) string {
	var b strings.Builder
	line := first
	for i, word := range strings.Fields(text) {
		switch {
		case i == 0:
			line += word
		case len([]rune(line))+1+len([]rune(word)) > width:
			b.WriteString(line + "\n")
			line = next + word
		default:
			line += " " + word
		}
	}
	return b.String() + line + "\n"
}
