// Package lazyregexp compiles regular expressions when they are first used: a
// verb that lasts for milliseconds does not pay for those of others.
package lazyregexp

import (
	"regexp"
	"sync"
)

// New returns what compiles expr, as regexp.MustCompile does, at its first call.
func New(expr string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expr) })
}
