package bus

import (
	"bufio"
	"io"

	"github.com/godbus/dbus/v5"
)

// sieveSize bounds the messages that a sieve reads itself. What systemd says of
// a unit's change has 1 to 2 KiB; one with a STATUS= of 64 KiB goes to godbus.
const sieveSize = 16 << 10

// A sieve is a stream of D-Bus messages on its way to godbus, many of them read
// by one system call. Where it is to deliver signals, it takes PropertiesChanged
// out and delivers it itself, with those properties alone that merge takes:
// godbus makes some hundred values of each, which was half of what a busy
// monitor did. All else passes as it came. Since godbus reads on only when it
// has delivered what it read, the order stays.
type sieve struct {
	io.ReadWriteCloser
	in      *bufio.Reader
	deliver func(*dbus.Signal) // nil: every message passes
	pass    int                // bytes of a message that are still to be handed on
}

func newSieve(stream io.ReadWriteCloser, deliver func(*dbus.Signal)) *sieve {
	return &sieve{ReadWriteCloser: stream, in: bufio.NewReaderSize(stream, sieveSize), deliver: deliver}
}

func (s *sieve) Read(p []byte) (int, error) {
	for s.deliver != nil && s.pass == 0 {
		first, err := s.in.Peek(1)
		if err != nil {
			return 0, err
		}
		if !startsFrame(first[0]) { // a line of the authentication before
			s.pass = s.in.Buffered()
			break
		}
		head, err := s.in.Peek(frameHead)
		if err != nil {
			return 0, err
		}
		length, ok := frameLength(head)
		if !ok || length > sieveSize {
			s.pass = max(length, frameHead)
			break
		}
		frame, err := s.in.Peek(length)
		if err != nil {
			return 0, err
		}
		if sig := change(frame); sig != nil {
			_, _ = s.in.Discard(length) // it was peeked at
			s.deliver(sig)
			continue
		}
		s.pass = length
	}
	if s.deliver == nil {
		return s.in.Read(p)
	}
	n, err := s.in.Read(p[:min(len(p), s.pass)])
	s.pass -= n
	return n, err
}
