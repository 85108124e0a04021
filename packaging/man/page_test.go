package man

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// root is the top of the repository as seen from this package.
const root = "../.."

// read reads a file of the repository.
func read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// An entry is one tagged paragraph of a page: .TP with what follows.
type entry struct {
	section string // "SH" or "SH/SS"
	tag     string // as a reader sees it, "Count= (NUM_GPUS, WORKER_NUM_GPUS)"; the tags of .TQ follow after ", "
	text    string
}

// terms are the things that the tag names: before any remark in parentheses.
func (e entry) terms() []string {
	tag, _, _ := strings.Cut(e.tag, " (")
	return strings.Split(tag, ", ")
}

// A manual is a page, read.
type manual struct {
	name    string // "gpuherd.conf.5"
	text    string // without escapes and macros
	entries []entry
}

var (
	fonts   = regexp.MustCompile(`\\f[A-Z]`)
	escapes = strings.NewReplacer(`\-`, "-", `\&`, "", `\~`, " ", `\(aq`, "'", `\(lq`, `"`, `\(rq`, `"`, `\(em`, "—", `\(de`, "°")
	words   = regexp.MustCompile(`"([^"]*)"|(\S+)`)
)

// plain is what a reader sees of a line. Macros of two fonts join their words.
func plain(line string) string {
	macro, rest, _ := strings.Cut(line, " ")
	switch macro {
	case ".B", ".I", ".SH", ".SS":
		line = strings.ReplaceAll(rest, `"`, "")
	case ".BR", ".BI", ".IR", ".RB", ".IB", ".RI":
		line = ""
		for _, m := range words.FindAllStringSubmatch(rest, -1) {
			line += m[1] + m[2]
		}
	default:
		if strings.HasPrefix(line, ".") {
			return ""
		}
	}
	return escapes.Replace(fonts.ReplaceAllString(line, ""))
}

// open reads a page.
func open(t *testing.T, name string) manual {
	t.Helper()
	m := manual{name: name}
	var section, sub, next string
	for line := range strings.Lines(read(t, "packaging/man/"+name)) {
		line = strings.TrimRight(line, "\n")
		text := plain(line)
		macro, _, _ := strings.Cut(line, " ")
		last := len(m.entries) - 1
		switch {
		case macro == ".SH":
			section, sub = text, ""
		case macro == ".SS":
			sub = "/" + text
		case macro == ".TP", macro == ".TQ":
			next = macro
			continue
		case next == ".TP":
			m.entries = append(m.entries, entry{section: section + sub, tag: text})
		case next == ".TQ":
			m.entries[last].tag += ", " + text
		case last >= 0 && m.entries[last].section == section+sub:
			m.entries[last].text += text + "\n"
		}
		next = ""
		m.text += text + "\n"
	}
	if len(m.entries) == 0 {
		t.Fatalf("%s has no entries", name)
	}
	return m
}

// pages are the names of all pages.
func pages(t *testing.T) []string {
	t.Helper()
	found, err := filepath.Glob("*.[1-8]")
	if err != nil || len(found) < 8 {
		t.Fatalf("found only the pages %v: %v", found, err)
	}
	return found
}

// terms are what the entries of a section are about.
func (m manual) terms(section string) []string {
	var all []string
	for _, e := range m.entries {
		if e.section == section {
			all = append(all, e.terms()...)
		}
	}
	return all
}

// same wants the entries of a section to be about exactly the things that there
// are, each once.
func (m manual) same(t *testing.T, section string, want []string) {
	t.Helper()
	if len(want) == 0 {
		t.Fatalf("%s, %s: the source has nothing", m.name, section)
	}
	got := m.terms(section)
	for _, term := range want {
		if n := count(got, term); n != count(want, term) {
			t.Errorf("%s, %s: %s has %d entries", m.name, section, term, n)
		}
	}
	for _, term := range got {
		if !slices.Contains(want, term) {
			t.Errorf("%s, %s: there is no %s", m.name, section, term)
		}
	}
}

func count(all []string, term string) (n int) {
	for _, a := range all {
		if a == term {
			n++
		}
	}
	return n
}
