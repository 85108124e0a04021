package machine

import (
	"bytes"
	"regexp"
	"strings"
	"sync"
)

// consoleKept is how many bytes of a console's end are kept for a report.
const consoleKept = 64 << 10

// escapes are the terminal control sequences that systemd writes to a console.
var escapes = regexp.MustCompile(`\x1b(\[[0-9;?!]*[A-Za-z]|\][^\x07\x1b]*(\x07|\x1b\\)|[()][A-Z0-9]|c)`)

// console takes what a machine prints, keeps the end of it, and notices the
// kernel's last words.
type console struct {
	mu       sync.Mutex
	kept     []byte
	line     []byte
	panicked chan struct{} // closed at a kernel panic
	panic    string        // its line
}

func newConsole() *console { return &console{panicked: make(chan struct{})} }

// Write never fails.
func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kept = append(c.kept, p...)
	if over := len(c.kept) - consoleKept; over > 0 {
		c.kept = append(c.kept[:0], c.kept[over:]...)
	}
	c.line = append(c.line, p...)
	for {
		end := bytes.IndexByte(c.line, '\n')
		if end < 0 {
			break
		}
		c.scan(string(c.line[:end]))
		c.line = c.line[end+1:]
	}
	if len(c.line) > consoleKept {
		c.line = nil
	}
	return len(p), nil
}

func (c *console) scan(line string) {
	if c.panic != "" {
		return
	}
	if at := strings.Index(line, "Kernel panic"); at >= 0 {
		c.panic = strings.TrimSpace(line[at:])
		close(c.panicked)
	}
}

// panicLine returns the kernel's last words, "" while it lives.
func (c *console) panicLine() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.panic
}

// String returns the end of what was printed, as plain lines.
func (c *console) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	text := escapes.ReplaceAllString(string(c.kept), "")
	text = strings.ReplaceAll(text, "\r", "")
	return strings.TrimSpace(text)
}
