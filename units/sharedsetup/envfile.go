package sharedsetup

import (
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"
)

var (
	envName  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	envPlain = regexp.MustCompile(`^[A-Za-z0-9._:/@%+,=-]+$`)
)

// quoteEnv writes a value as EnvironmentFile= reads it: in double quotes, where
// a backslash stands before " \ ` and $ only. Nothing is expanded there, % is
// nothing special. It refuses what systemd would leave out (env-util.c): other
// names than C's, control characters but tab and newline, invalid UTF-8.
func quoteEnv(name, value string) (string, error) {
	if !envName.MatchString(name) {
		return "", fmt.Errorf("%.64q is no name of a variable", name)
	}
	if !utf8.ValidString(value) {
		return "", fmt.Errorf("the value of %s is not UTF-8", name)
	}
	if envPlain.MatchString(value) {
		return value, nil
	}
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range value {
		switch {
		case r < ' ' && r != '\t' && r != '\n' || r == 0x7f:
			return "", fmt.Errorf("the value of %s has a control character", name)
		case strings.ContainsRune("\"\\`$", r):
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	b.WriteByte('"')
	return b.String(), nil
}
