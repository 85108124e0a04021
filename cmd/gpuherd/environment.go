package main

import (
	"bytes"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"

	"gpuherd/cmd/gpuherd/internal/lazyregexp"
)

// A variable is one of a unit's environment, with its secrets taken out.
type variable struct {
	Name     string `json:"name"`
	Value    string `json:"value"`
	Redacted bool   `json:"redacted,omitempty"` // the value, or a password in it, is not shown
}

// hidden stands for what is not shown.
const hidden = "***"

// secretName matches the names of variables whose values are nobody's
// business. A list of words, not a promise: what is secret belongs into a
// credential.
var secretName = lazyregexp.New(`(?i)(PASS|PASSWD|PASSWORD|PASSPHRASE|SECRET|TOKEN|CREDENTIAL|PRIVATE|COOKIE|SESSION_?(ID|KEY)|AUTH|BEARER|SIGNATURE|DSN)|(^|[_-])(PWD|PW|KEY|KEYS|PAT|JWT)([_-]|$)|(API|ACCESS|SIGNING|ENCRYPTION)_?KEY`)

// publicNames look secret and are not: paths that systemd gives.
var publicNames = []string{"CREDENTIALS_DIRECTORY", "PWD", "OLDPWD"}

// redact takes the secrets out of one NAME=VALUE.
func redact(assignment string) variable {
	name, value, _ := strings.Cut(assignment, "=")
	v := variable{Name: name, Value: value}
	if value == "" || slices.Contains(publicNames, name) {
		return v
	}
	if secretName().MatchString(name) {
		v.Value, v.Redacted = hidden, true
		return v
	}
	if shown := redactURLs(value); shown != value {
		v.Value, v.Redacted = shown, true
	}
	return v
}

// userinfo matches what stands between :// and @, as greedily as a password
// with an @ in it needs.
var userinfo = lazyregexp.New(`([a-zA-Z][a-zA-Z0-9+.-]*://)([^/\s"'?#]*)@`)

// secretQuery matches a parameter of a URL that carries a secret.
var secretQuery = lazyregexp.New(`(?i)([?&][^=&\s]*(?:pass|secret|token|key|sig|auth)[^=&\s]*=)[^&\s]+`)

// redactURLs hides the passwords in the URLs of s; user names stay.
func redactURLs(s string) string {
	s = userinfo().ReplaceAllStringFunc(s, func(match string) string {
		parts := userinfo().FindStringSubmatch(match)
		user, _, hasPassword := strings.Cut(parts[2], ":")
		if !hasPassword {
			return match
		}
		return parts[1] + user + ":" + hidden + "@"
	})
	return secretQuery().ReplaceAllString(s, "${1}"+url.QueryEscape(hidden))
}

// redactAll redacts an environment and sorts it by name.
func redactAll(environ []string) []variable {
	variables := make([]variable, 0, len(environ))
	for _, assignment := range environ {
		if assignment != "" {
			variables = append(variables, redact(assignment))
		}
	}
	slices.SortStableFunc(variables, func(a, b variable) int { return strings.Compare(a.Name, b.Name) })
	return variables
}

// processEnviron returns the environment that a process was started with, which
// only its owner and root may read.
func processEnviron(pid uint32) ([]string, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return nil, fmt.Errorf("cannot read the environment of process %d: %w", pid, err)
	}
	var environ []string
	for assignment := range bytes.SplitSeq(bytes.TrimRight(data, "\x00"), []byte{0}) {
		environ = append(environ, string(assignment))
	}
	return environ, nil
}

var (
	// quotedAssignment is "NAME=VALUE", as Environment= may have it.
	quotedAssignment = lazyregexp.New(`"([A-Za-z_][A-Za-z0-9_-]*)=(?:[^"\\]|\\.)*"|'([A-Za-z_][A-Za-z0-9_-]*)=[^']*'`)
	// assigned is NAME=VALUE, NAME: VALUE, --name=value and "name": "value".
	assigned = lazyregexp.New(`([A-Za-z_][A-Za-z0-9_-]*)("?\s*[=:]\s*)("(?:[^"\\]|\\.)*"|'[^']*'|[^\s"',]+)`)
	// secretOption is --password VALUE.
	secretOption = lazyregexp.New(`(?i)(\s--?` + secretOptionName + `\s+)[^\s-]\S*`)
)

// redactLine takes out of a line of any text what looks like a secret by its
// name, and passwords in URLs.
func redactLine(line string) string {
	line = quotedAssignment().ReplaceAllStringFunc(line, func(match string) string {
		if name, _, _ := strings.Cut(match[1:], "="); looksSecret(name) {
			return match[:1] + name + "=" + hidden + match[:1]
		}
		return match
	})
	line = secretOption().ReplaceAllString(redactAssigned(line), "${1}"+hidden)
	return redactURLs(line)
}

func redactAssigned(s string) string {
	return assigned().ReplaceAllStringFunc(s, func(match string) string {
		parts := assigned().FindStringSubmatch(match)
		name, between, value := parts[1], parts[2], parts[3]
		switch {
		case !looksSecret(name): // Environment=TOKEN=… has another one within
			return name + between + redactAssigned(value)
		case value[0] == '"' || value[0] == '\'':
			return name + between + value[:1] + hidden + value[:1]
		}
		return name + between + hidden
	})
}

// looksSecret tells by a name; "key" is what JSON of verify calls a key of a
// file.
func looksSecret(name string) bool {
	return secretName().MatchString(name) && !slices.Contains(publicNames, name) && name != "key"
}
