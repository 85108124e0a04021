package main

import (
	"fmt"
	"strings"
)

const ours = `This is gpuherd: the workers of GPU machines under systemd.

Copyright 2026 The gpuherd authors

Licensed under the Apache License, Version 2.0. On Debian systems its text is
in /usr/share/common-licenses/Apache-2.0, elsewhere in
/usr/share/licenses/gpuherd/LICENSE.

The programs are linked with the Go modules below, each under the terms that
follow its name.
`

// copyright tells under which terms the programs and all that is linked into
// them come. Modules with the same terms, word for word, share them.
func copyright(modules []module) string {
	type terms struct{ names, text string }
	var all []*terms
	byText := map[string]*terms{}
	for _, m := range modules {
		text := strings.TrimSpace(m.text)
		if m.licence == "Apache-2.0" {
			// Policy 12.5: what Debian has in common-licenses is named, not repeated.
			text = "Licensed under the Apache License, Version 2.0, see above."
			if m.notice != "" {
				text += "\n\n" + strings.TrimSpace(m.notice)
			} else if holder := copyrightLine(m.text); holder != "" {
				text += "\n" + holder
			}
		}
		t, ok := byText[text]
		if !ok {
			t = &terms{text: text}
			byText[text] = t
			all = append(all, t)
			// The standard library comes under the terms of the Go project's
			// modules.
			if strings.HasPrefix(m.path, "golang.org/x/") {
				t.names = "the Go standard library\n"
			}
		}
		t.names += m.String() + "\n"
	}
	var b strings.Builder
	b.WriteString(ours)
	for _, t := range all {
		fmt.Fprintf(&b, "\n%s\n\n%s\n%s\n", strings.Repeat("-", 78), t.names, t.text)
	}
	return b.String()
}

// copyrightLine is the line of a licence that names its holder, if one does.
func copyrightLine(text string) string {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "Copyright ") && !strings.ContainsAny(line, "[{") && strings.ContainsAny(line, "0123456789") {
			return line
		}
	}
	return ""
}
