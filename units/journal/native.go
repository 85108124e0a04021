package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// nativePath is where journald takes entries with fields of their own.
const nativePath = "/run/systemd/journal/socket"

// A Field is one field of an entry of the journal: A to Z, 0 to 9 and _ in its
// name, anything in its value.
type Field struct {
	Name  string
	Value []byte
}

// A Native sends entries to journald by its native protocol, which takes
// fields, as a stream does not:
// https://systemd.io/JOURNAL_NATIVE_PROTOCOL. It is safe for concurrent use.
type Native struct {
	path string

	mu  sync.Mutex
	fd  int // blocking, so that an entry waits where journald is slow; −1: not connected
	buf bytes.Buffer
}

// OpenNative returns the journal's socket where journald reads stderr (see
// NewLogger), and nil without an error where it does not: what is meant for
// stderr is meant for it then.
func OpenNative() (*Native, error) {
	if os.Getenv("JOURNAL_STREAM") == "" {
		return nil, nil
	}
	return openNative(nativePath)
}

func openNative(path string) (*Native, error) {
	n := &Native{path: path, fd: -1}
	if err := n.connect(); err != nil {
		return nil, err
	}
	return n, nil
}

func (n *Native) connect() error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot make a socket: %w", err)
	}
	// The longest entry is far below that; the kernel doubles what it is told.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 256<<10)
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: n.path}); err != nil {
		_ = unix.Close(fd)
		return fmt.Errorf("cannot connect to %s: %w", n.path, err)
	}
	n.fd = fd
	return nil
}

// Send sends one entry, of at most about 200 KiB, and waits until journald has
// room for it. After an error it may be sent again.
func (n *Native) Send(fields ...Field) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.buf.Reset()
	for _, f := range fields {
		n.buf.WriteString(f.Name)
		if bytes.IndexByte(f.Value, '\n') < 0 {
			n.buf.WriteByte('=')
		} else {
			n.buf.WriteByte('\n')
			_ = binary.Write(&n.buf, binary.LittleEndian, uint64(len(f.Value))) // a Buffer takes all
		}
		n.buf.Write(f.Value)
		n.buf.WriteByte('\n')
	}
	err := n.send()
	if err != nil && !errors.Is(err, unix.EMSGSIZE) {
		// The socket is systemd's, and stays while journald is restarted; only
		// a new one is another.
		n.close()
		if err = n.connect(); err == nil {
			err = n.send()
		}
	}
	if err != nil {
		return fmt.Errorf("cannot send to the journal: %w", err)
	}
	return nil
}

func (n *Native) send() error {
	for {
		_, err := unix.Write(n.fd, n.buf.Bytes())
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// Close closes the socket.
func (n *Native) Close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.close()
}

func (n *Native) close() {
	if n.fd >= 0 {
		_ = unix.Close(n.fd)
		n.fd = -1
	}
}
