package main

import (
	"fmt"
	"io"
	"sync"
)

// An output is stdout or stderr. It remembers that a write failed, so that a
// full disk behind `gpuherd list >file` is not success.
type output struct {
	io.Writer

	mu  sync.Mutex
	err error // of the first write that failed
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n, err := o.Writer.Write(p)
	if err != nil && o.err == nil {
		o.err = err
	}
	return n, err
}

// say writes as fmt.Fprintf does; its error is remembered.
func (o *output) say(format string, args ...any) {
	_, _ = fmt.Fprintf(o, format, args...)
}

// failed returns the first error of a write.
func (o *output) failed() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}
