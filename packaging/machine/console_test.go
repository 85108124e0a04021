package machine

import (
	"strings"
	"testing"
)

func TestConsoleNoticesPanic(t *testing.T) {
	t.Parallel()
	c := newConsole()
	write := func(text string) {
		if _, err := c.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	write("[  OK  ] Reached target\r\nKernel pa")
	select {
	case <-c.panicked:
		t.Fatal("a panic before its line was there")
	default:
	}
	write("nic - not syncing: VFS: Unable to mount root fs\r\nmore\nKernel panic - again\n")
	select {
	case <-c.panicked:
	default:
		t.Fatal("the panic went unnoticed")
	}
	if got, want := c.panicLine(), "Kernel panic - not syncing: VFS: Unable to mount root fs"; got != want {
		t.Errorf("panicLine() = %q, want %q", got, want)
	}
}

func TestConsoleIsPlainText(t *testing.T) {
	t.Parallel()
	c := newConsole()
	for _, text := range []string{"\x1b[!p\x1b]104\x07\x1b[?7h", "[\x1b[0;32m  OK  \x1b[0m] Started \x1b[0;1;39mdbus\x1b[0m.\r\n"} {
		if _, err := c.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := c.String(), "[  OK  ] Started dbus."; got != want {
		t.Errorf("String() = %q, want %q", got, want)
	}
}

func TestConsoleKeepsTheEnd(t *testing.T) {
	t.Parallel()
	c := newConsole()
	for _, text := range []string{"first\n", strings.Repeat("x", 2*consoleKept), "\nlast\n"} {
		if _, err := c.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	got := c.String()
	if len(got) > consoleKept || !strings.HasSuffix(got, "x\nlast") || strings.Contains(got, "first") {
		t.Errorf("kept %d bytes, ending in %q", len(got), got[len(got)-10:])
	}
}
