package run

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// JournalSocket is where journald takes streams.
const JournalSocket = "/run/systemd/journal/stdout"

// Priorities are the names of syslog(3) in the order of their numbers.
var Priorities = []string{"emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"}

// OpenStream opens a stream to journald, as sd_journal_stream_fd(3) does: what
// the program writes to it goes there without passing through this process.
// Lines that begin with <N> keep their own priority.
func OpenStream(ctx context.Context, socket, identifier string, priority int) (*os.File, error) {
	dialer := net.Dialer{Timeout: 5 * time.Second}
	conn, err := dialer.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("cannot reach journald: %w", err)
	}
	defer conn.Close() //nolint:errcheck // the file is a duplicate
	identifier = strings.ReplaceAll(identifier, "\n", " ")
	// Identifier, unit (journald knows it better), priority, prefixes, and
	// nothing forwarded beyond what journald does of itself.
	if _, err := fmt.Fprintf(conn, "%s\n\n%d\n1\n0\n0\n0\n", identifier, priority); err != nil {
		return nil, fmt.Errorf("cannot open a stream to journald: %w", err)
	}
	f, err := conn.(*net.UnixConn).File()
	if err != nil {
		return nil, fmt.Errorf("cannot open a stream to journald: %w", err)
	}
	// The program expects that writing waits.
	if err := unix.SetNonblock(int(f.Fd()), false); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot open a stream to journald: %w", err), f.Close())
	}
	return f, nil
}
