// Package redaction takes secrets out of text: those that it was told, and
// those that their names or the shape of a URL give away.
package redaction

import (
	"bytes"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
)

// Hidden stands for what is not shown.
const Hidden = "***"

// least is how long a secret is at least that is looked for by itself: a
// shorter one would be found in every second word.
const least = 4

// A Redactor takes secrets out.
type Redactor struct {
	known   []string // longest first
	replace *strings.Replacer
	line    func(string) string
}

// New returns a Redactor that gives each line to line, too.
func New(line func(string) string) *Redactor {
	return &Redactor{line: line, replace: strings.NewReplacer()}
}

// Learn makes known the secrets in the text of a file of secrets: all of it,
// each line, each value of NAME=VALUE and the password in a URL.
func (r *Redactor) Learn(text string) {
	r.learn(text)
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "#") || strings.HasPrefix(line, ";") {
			continue
		}
		r.learn(line)
		if _, value, ok := strings.Cut(line, "="); ok {
			value = strings.TrimSpace(value)
			r.learn(value)
			r.learn(strings.Trim(value, `"'`))
			r.learnURL(strings.Trim(value, `"'`))
		}
		r.learnURL(line)
	}
	slices.SortFunc(r.known, func(a, b string) int { return len(b) - len(a) })
	r.known = slices.Compact(r.known)
	var pairs []string
	for _, secret := range r.known {
		pairs = append(pairs, secret, Hidden)
	}
	r.replace = strings.NewReplacer(pairs...)
}

func (r *Redactor) learnURL(s string) {
	if u, err := url.Parse(s); err == nil && u.User != nil {
		if password, ok := u.User.Password(); ok {
			r.learn(password)
		}
	}
}

// learn takes a secret in the forms in which it may stand somewhere.
func (r *Redactor) learn(secret string) {
	secret = strings.TrimSpace(secret)
	if len(secret) < least {
		return
	}
	forms := []string{secret, url.QueryEscape(secret), url.PathEscape(secret), strings.ReplaceAll(secret, "%", "%%")}
	if quoted, err := json.Marshal(secret); err == nil {
		forms = append(forms, strings.Trim(string(quoted), `"`))
	}
	for _, form := range forms {
		if !slices.Contains(r.known, form) {
			r.known = append(r.known, form)
		}
	}
}

// Text returns text without secrets.
func (r *Redactor) Text(text []byte) []byte {
	var out bytes.Buffer
	for line := range strings.Lines(r.replace.Replace(string(text))) {
		out.WriteString(r.line(line))
	}
	return out.Bytes()
}
